"""What the supervisor promises for any process: readiness, restarts that are seen, and an end that includes every descendant."""

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from persona.errors import PersonaError
from persona.local.processes import ProcessSpec, free_port, marked
from persona.local.stack import service_port, services_status, start_services, stop_services
from persona.settings import Settings

STAYS = "import time; time.sleep(600)"
WITH_DETACHED_CHILD = (
    f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {STAYS!r}], start_new_session=True); time.sleep(600)"
)


def eventually(happens: Callable[[], bool], *, seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    settings = Settings(home=tmp_path / "home")
    yield settings
    stop_services(settings)
    assert processes(settings) == []


def processes(settings: Settings) -> list[psutil.Process]:
    return marked(settings.home / "run" / "services")


def service(settings: Settings, name: str, code: str, ready: str | None = None) -> ProcessSpec:
    return ProcessSpec(
        name, (sys.executable, "-u", "-c", code), settings.home / name, settings.home / "logs" / f"{name}.log", ready=ready
    )


def web(settings: Settings, port: int) -> ProcessSpec:
    code = f"import http.server as h; h.HTTPServer(('127.0.0.1', {port}), h.SimpleHTTPRequestHandler).serve_forever()"
    return service(settings, "web", code, ready=f"http://127.0.0.1:{port}/")


def test_a_service_is_ready_once_its_url_answers_and_keeps_its_port(settings: Settings) -> None:
    port = service_port(settings, "web", free_port())
    first = start_services(settings, [web(settings, port)])["web"]
    assert (first.state, first.url) == ("running", f"http://127.0.0.1:{port}/")
    assert free_port(port) > port
    assert service_port(settings, "web", port) == port
    assert start_services(settings, [web(settings, port)])["web"].pid == first.pid


def test_stopping_ends_descendants_that_left_the_session(settings: Settings) -> None:
    start_services(settings, [service(settings, "daemon", WITH_DETACHED_CHILD)])
    eventually(lambda: len(processes(settings)) == 3)
    stop_services(settings)
    assert processes(settings) == []
    assert services_status(settings)["daemon"].state == "stopped"


def test_stopping_finds_the_descendants_of_a_killed_supervisor(settings: Settings) -> None:
    start_services(settings, [service(settings, "daemon", WITH_DETACHED_CHILD)])
    eventually(lambda: len(processes(settings)) == 3)
    for process in processes(settings):
        if STAYS not in process.cmdline():
            process.kill()
    eventually(lambda: len(processes(settings)) == 1)
    stop_services(settings)
    assert processes(settings) == []


def test_a_service_that_keeps_dying_is_reported_with_its_last_words(settings: Settings) -> None:
    broken = service(settings, "broken", "raise SystemExit('no such wheel')", ready=f"tcp://127.0.0.1:{free_port()}")
    specs = [service(settings, "steady", STAYS), broken]
    with pytest.raises(PersonaError, match=r"(?s)broken could not start.*no such wheel"):
        start_services(settings, specs)
    assert processes(settings) == []


def test_a_later_death_shows_in_the_status(settings: Settings) -> None:
    start_services(settings, [service(settings, "brief", "import time; time.sleep(2); raise SystemExit(7)")])
    eventually(lambda: services_status(settings)["brief"].restarts >= 1)
    assert services_status(settings)["brief"].exit_code == 7


def test_a_stranger_with_a_recorded_pid_is_never_ended(settings: Settings) -> None:
    start_services(settings, [service(settings, "steady", STAYS)])
    stop_services(settings)
    with psutil.Popen([sys.executable, "-c", STAYS]) as stranger:
        state = settings.home / "run" / "services" / "state.json"
        state.write_text(state.read_text().replace('"pid": null', f'"pid": {stranger.pid}'))
        stop_services(settings)
        assert stranger.is_running() and stranger.status() != psutil.STATUS_ZOMBIE
        stranger.kill()


def test_everything_ends_when_the_home_is_deleted(settings: Settings) -> None:
    start_services(settings, [service(settings, "steady", STAYS)])
    shutil.rmtree(settings.home)
    eventually(lambda: processes(settings) == [])


def test_no_port_is_given_twice() -> None:
    given = [free_port() for _ in range(300)]
    assert len(set(given)) == len(given)
