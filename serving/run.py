"""Runs the service with uvicorn until it is told to stop. What is served is in `app`."""

import ipaddress
import os
import socket
from contextlib import ExitStack
from tempfile import TemporaryDirectory

import uvicorn
from uvicorn.config import STARTUP_FAILURE

from persona.errors import InvalidInput, PersonaError
from persona.settings import Settings
from serving import telemetry, traces
from serving.logs import log_json
from serving.protocol import Http
from serving.workers import Workers

APPLICATION = "serving.app:application"
GRACE_SECONDS = 10
BACKLOG = 2048


def serve(settings: Settings, *, host: str | None = None, port: int | None = None, workers: int | None = None) -> None:
    """Serve on `host` and `port` with so many processes (default: the settings') until SIGINT or SIGTERM.

    Requests under way are finished first. The application reads its settings from the environment, in each process. Raises
    `InvalidInput` for a host that others can reach, where there are no keys that would keep them out; `PersonaError` where the port
    is taken, or what the settings ask for is not installed.
    """
    host, port = host or settings.api_host, settings.api_port if port is None else port
    if not settings.keys and not _is_loopback(host):
        raise InvalidInput(
            f"without API keys the service listens on loopback only, and {host} can be reached by others",
            hint="`persona keys new` makes one for PERSONA_API_KEYS; or use 127.0.0.1.",
        )
    traces.require(settings)
    log_json(settings.log_level)
    config = uvicorn.Config(
        APPLICATION,
        factory=True,
        workers=workers or settings.api_workers,
        loop="uvloop",
        http=Http,
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    with ExitStack() as stack:
        bound = stack.enter_context(_bound(host, port))
        if config.workers == 1:
            uvicorn.Server(config).run([bound])
        else:
            # the library that counts looks for it when it is imported, which is in the workers
            os.environ[telemetry.SHARED_FOLDER] = stack.enter_context(TemporaryDirectory(prefix="persona-figures-"))
            supervisor = Workers(config, [bound])
            supervisor.run()
            if any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes):
                raise PersonaError("the service could not start", hint="Its log says why.")


def _bound(host: str, port: int) -> socket.socket:
    """A socket that nobody can connect to before the service is ready to answer: listening is the servers' to begin."""
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise PersonaError(
            f"cannot listen on port {port} of {host}: {error.strerror}", hint="Set PERSONA_API_PORT, or --port, to a free one."
        ) from None
    return bound


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
