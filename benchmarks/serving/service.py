"""The service as a process of its own, for the time of a measurement. Its stores are started elsewhere."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import httpx
import psutil

from persona.local.processes import free_port
from persona.settings import Settings

START_SECONDS = 300
CALM = 0.1
"""Of a core: what a service takes that nobody asks anything."""
PERSONA_SERVE = ("persona_cli.main", "serve")


@dataclass(frozen=True, slots=True)
class Service:
    """A running one."""

    url: str
    process: subprocess.Popen[bytes]

    @property
    def cpu_seconds(self) -> float:
        """Of its processes, so far."""
        times = [each.cpu_times() for each in self._processes()]
        return sum(each.user + each.system for each in times)

    def kill_after(self, seconds: float) -> None:
        """Kill it, with all its processes, from the background."""
        processes = self._processes()
        threading.Timer(seconds, lambda: [each.send_signal(signal.SIGKILL) for each in processes]).start()

    def _processes(self) -> list[psutil.Process]:
        first = psutil.Process(self.process.pid)
        return [first, *first.children(recursive=True)]


@contextmanager
def service(settings: Settings, *, command: Sequence[str] = PERSONA_SERVE, **environment: str) -> Iterator[Service]:
    """`persona serve`, or another module's `command`, with the home's stores, ready."""
    port = free_port()
    logs = settings.home / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    with (logs / f"benchmark-{port}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            env=os.environ | {"PERSONA_API_PORT": str(port)} | environment,
            stdout=log,
            stderr=log,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _await_ready(process, url)
            running = Service(url, process)
            _await_calm(running)
            yield running
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
    raise SystemExit("the service did not become ready: see the last benchmark-*.log in the home's logs")


def _await_calm(running: Service) -> None:
    """Until it has loaded what it loads in the background, the language model above all."""
    deadline, before = time.monotonic() + START_SECONDS, running.cpu_seconds
    while time.monotonic() < deadline:
        time.sleep(1)
        now = running.cpu_seconds
        if now - before < CALM:
            return
        before = now
    raise SystemExit("the service did not come to rest: see the last benchmark-*.log in the home's logs")
