"""Runs the service with uvicorn until it is told to stop. What is served is in `app`."""

import ipaddress
import sys

import orjson
import structlog
import uvicorn

from persona.errors import InvalidInput
from persona.settings import Settings
from serving.app import create_app
from serving.protocol import Http

GRACE_SECONDS = 10


def serve(settings: Settings, *, host: str | None = None, port: int | None = None) -> None:
    """Serve on `host` and `port` (default: the settings') until SIGINT or SIGTERM; requests under way are finished first.

    Raises `InvalidInput` for a host that others can reach, where there are no keys that would keep them out.
    """
    host = host or settings.api_host
    if not settings.keys and not _is_loopback(host):
        raise InvalidInput(
            f"without API keys the service listens on loopback only, and {host} can be reached by others",
            hint="`persona keys new` makes one for PERSONA_API_KEYS; or use 127.0.0.1.",
        )
    _log_json(settings.log_level)
    uvicorn.run(
        create_app(settings),
        host=host,
        port=settings.api_port if port is None else port,
        loop="uvloop",
        http=Http,
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _log_json(level: str) -> None:
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(serializer=lambda event, **_: orjson.dumps(event, default=str).decode()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
