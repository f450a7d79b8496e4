"""`persona serve` as processes: that it drains, replaces who dies, counts for all, and leaves nothing behind. No store is there."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families

from persona.errors import PersonaError
from persona.local.processes import free_port
from persona.settings import Settings
from serving.run import serve
from tests.platforms import STORE_URLS
from tests.serving.conftest import eventually

LONG = 120
"""For whole Python processes to start, on a machine that does other things too."""


class Service:
    """A running `persona serve`."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int) -> None:
        self.process = process
        self.port = port

    @property
    def workers(self) -> list[psutil.Process]:
        """The processes that answer, where there are several."""
        return [child for child in psutil.Process(self.process.pid).children() if _answers(child)]

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)

    def get(self, path: str) -> str:
        connection = self.connection()
        connection.request("GET", path)
        try:
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    def answers(self) -> bool:
        with suppress(OSError, http.client.HTTPException):
            return "ok" in self.get("/livez")
        return False

    def listens(self) -> bool:
        with socket.socket() as caller:
            return caller.connect_ex(("127.0.0.1", self.port)) == 0


def _answers(process: psutil.Process) -> bool:
    with suppress(psutil.Error):  # it ended this moment
        return "spawn_main" in " ".join(process.cmdline())
    return False


@contextmanager
def service(folder: Path, *, workers: int) -> Iterator[Service]:
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if name not in STORE_URLS}
    environment |= {"PERSONA_HOME": str(folder / "home"), "PYTHONPATH": str(Path(__file__).parents[2]), "TMPDIR": str(folder)}
    command = [sys.executable, "-m", "persona_cli.main", "serve", "--workers", str(workers), "--port", str(port)]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, cwd=folder, env=environment, stderr=log) as process:
        running = Service(process, port)
        try:
            eventually(running.answers, within=LONG)
            yield running
        finally:
            with suppress(psutil.Error):
                for child in psutil.Process(process.pid).children(recursive=True):
                    child.kill()
            process.kill()


@contextmanager
def load(running: Service) -> Iterator[list[str]]:
    """People who ask again and again over connections that they keep; yields what went wrong for whom had been answered before."""
    wrong: list[str] = []
    ended = threading.Event()

    def ask() -> None:
        connection, known = running.connection(), False
        while not ended.is_set():
            try:
                connection.request("GET", "/livez")
                answer = connection.getresponse()
                answer.read()
            except ConnectionRefusedError:
                return
            except (OSError, http.client.HTTPException) as error:
                if known:
                    wrong.append(repr(error))
                return
            known = answer.getheader("connection") != "close"

    askers = [threading.Thread(target=ask) for _ in range(8)]
    for asker in askers:
        asker.start()
    try:
        yield wrong
    finally:
        ended.set()
        for asker in askers:
            asker.join()


@pytest.mark.parametrize("workers", [1, 2])
def test_told_to_stop_it_answers_what_is_under_way_and_releases_the_port(tmp_path: Path, workers: int) -> None:
    with service(tmp_path, workers=workers) as running, load(running) as wrong:
        body = b'{"texts": ["hello"]}'
        head = b"POST /intents HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        with socket.create_connection(("127.0.0.1", running.port), timeout=60) as half, half.makefile("rb") as answer:
            half.sendall(head + body[:5])
            time.sleep(0.2)  # it is read; what follows is not there yet
            running.process.send_signal(signal.SIGTERM)
            eventually(lambda: not running.listens(), within=20)
            half.sendall(body[5:])
            reply = answer.read()
        assert reply.startswith(b"HTTP/1.1 503 ") and reply.endswith(b"}") and b"connection: close" in reply.lower()
        running.process.wait(30)
        with socket.create_server(("127.0.0.1", running.port)):
            pass
    assert wrong == []
    assert not list(tmp_path.glob("persona-*")), "what the workers shared is left"


def test_a_worker_that_dies_is_replaced_and_what_it_counted_stays(tmp_path: Path) -> None:
    def counted() -> int:
        samples = (sample for family in text_string_to_metric_families(running.get("/metrics")) for sample in family.samples)
        name = "persona_http_request_duration_seconds_count"
        return sum(int(sample.value) for sample in samples if sample.name == name and sample.labels["route"] == "none")

    with service(tmp_path, workers=2) as running:
        eventually(lambda: len(running.workers) == 2)
        for _ in range(20):
            running.get("/nowhere")
        assert counted() == 20, "whichever worker is asked, it tells of all"
        shared = next(tmp_path.glob("persona-*"))
        victim, other = running.workers
        victim.kill()
        eventually(lambda: len(pids := {worker.pid for worker in running.workers}) == 2 and victim.pid not in pids, within=LONG)
        eventually(lambda: running.answers() and counted() == 20, within=LONG)
        assert other.is_running()
        assert not list(shared.glob(f"gauge_live*_{victim.pid}.db")), "the state of one that is gone is told"
        assert running.process.poll() is None


@pytest.mark.slow
def test_workers_end_when_what_keeps_them_is_killed(tmp_path: Path) -> None:
    with service(tmp_path, workers=2) as running:
        eventually(lambda: len(running.workers) == 2)
        workers = running.workers
        running.process.kill()
        running.process.wait()
        eventually(lambda: not running.listens(), within=30)
        assert psutil.wait_procs(workers, timeout=30)[1] == []


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(PersonaError, match="cannot listen on port"):
        serve(Settings(home=tmp_path, _env_file=None), port=taken.getsockname()[1])
    structlog.reset_defaults()
