"""The service as a process of its own, for the time of a measurement. Its stores are started elsewhere."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import httpx

from persona.local.processes import free_port
from persona.settings import Settings

START_SECONDS = 60


@contextmanager
def service(settings: Settings, **environment: str) -> Iterator[str]:
    """`persona serve` with the home's stores, ready; yields its address."""
    port = free_port()
    logs = settings.home / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    with (logs / "benchmark-service.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "persona_cli.main", "serve"],
            env=os.environ | {"PERSONA_API_PORT": str(port)} | environment,
            stdout=log,
            stderr=log,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _await_ready(process, url)
            yield url
        finally:
            process.terminate()
            process.wait(START_SECONDS)


def _await_ready(process: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(httpx.TransportError):
            if httpx.get(f"{url}/readyz").status_code == 200:
                return
        time.sleep(0.1)
    raise SystemExit("the service did not become ready: see benchmark-service.log in the home's logs")
