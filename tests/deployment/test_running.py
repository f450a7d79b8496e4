"""What our containers run, run without them: in the compose file's order and with its environment alone, judged by its health checks."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import httpx
import orjson
import psutil
import pytest

from persona import synthetic
from persona.local.stack import start_stores, stop_stores
from persona.settings import Settings
from tests.deployment.composed import API_KEY, ONCE, ROOT, Service, command_of, environment_of, ours
from tests.deployment.servers import Mongo, replace
from tests.platforms import RUNS, unused_port
from tests.worlds import eventually, put_drop

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

START_SECONDS = 900
"""Of a service, on a machine that does other things too."""
GRACE_SECONDS = 10
"""What Docker leaves a container to end, where the file does not say."""
PORTS = ("4000", "3000", "8000")
LOOPBACK = "127.0.0.1"


class Machine:
    """The containers' machine: their addresses are loopback ports, their folders lie in one of ours."""

    def __init__(self, folder: Path, stores: dict[str, str], login: dict[str, str]) -> None:
        self.folder = folder
        self.home, self.drops, self.catalog = folder / "home", folder / "drops", folder / "catalog"
        for mounted in (self.home, self.drops, self.catalog):
            mounted.mkdir()
        self.ports = {port: str(unused_port()) for port in PORTS}
        workspace = folder / "workspace.yaml"
        self.words = {
            "/var/lib/persona": str(self.home), "/srv/drops": str(self.drops), "/srv/catalog": str(self.catalog),
            "deploy/workspace.yaml": str(workspace), "0.0.0.0": LOOPBACK, **stores, **self.ports,
        }  # fmt: skip
        workspace.write_text(
            replace((ROOT / "deploy" / "workspace.yaml").read_text(), {"host: code": f"host: {LOOPBACK}", **self.ports})
        )
        self.login = login
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def run(self, name: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        """A service that does one thing, to its end."""
        service = ours()[name]
        return subprocess.run(
            [*self.command(command_of(service)), *arguments], env=self.environment(service), cwd=self.folder,
            capture_output=True, check=False, timeout=START_SECONDS,
        )  # fmt: skip

    def start(self, name: str) -> None:
        """A service that stays."""
        service = ours()[name]
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                self.command(command_of(service)), env=self.environment(service), cwd=self.folder,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def is_well(self, name: str) -> bool:
        """What its health check says."""
        service = ours()[name]
        [how, *test] = service["healthcheck"]["test"]
        assert how == "CMD"
        checked = subprocess.run(
            self.command(test), env=self.environment(service), cwd=self.folder, capture_output=True, check=False, timeout=60
        )
        return checked.returncode == 0

    def command(self, words: list[str]) -> list[str]:
        """The words of a command, with the programs of this environment."""
        program, *arguments = words
        return [str(Path(sys.executable).parent / program), *(replace(word, self.words) for word in arguments)]

    def environment(self, service: Service) -> dict[str, str]:
        """Everything that its processes are told."""
        given = {name: replace(value, self.words) for name, value in environment_of(service).items()}
        outside = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(self.home)}
        return outside | given | (self.login if "NEO4J_URI" in given else {})

    def log(self, name: str) -> str:
        """The end of what it has written."""
        return (self.folder / f"{name}.log").read_text(errors="replace")[-3000:]

    def end(self) -> None:
        """Nothing is left of any of them."""
        roots = [psutil.Process(process.pid) for process in self.processes.values() if process.poll() is None]
        for process in [*(child for root in roots for child in root.children(recursive=True)), *roots]:
            process.kill()
        for each in self.processes.values():
            each.wait(30)

    # -- asking ---------------------------------------------------------------------------------------------------------

    def ask(self, method: str, path: str, *, key: str | None = API_KEY, **more: Any) -> httpx.Response:
        """The API."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx.request(method, f"http://{LOOPBACK}:{self.ports['8000']}{path}", headers=headers, timeout=30, **more)

    def runs(self) -> list[tuple[str, str]]:
        """Job and status of each run, as the webserver tells them."""
        answer = httpx.post(f"http://{LOOPBACK}:{self.ports['3000']}/graphql", json={"query": RUNS}, timeout=30)
        return [(run["jobName"], run["status"]) for run in answer.json()["data"]["runsOrError"]["results"]]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory, mongo: Mongo, databases: str, redis_port: int) -> Iterator[Machine]:
    """A machine on which all of it runs."""
    folder = tmp_path_factory.mktemp("machine")
    elsewhere = {"mongodb_uri": mongo.address(), "redis_url": f"redis://{LOOPBACK}:{redis_port}"}
    local = Settings(home=folder / "local", _env_file=None, **elsewhere)  # in the places of Milvus and Neo4j
    start_stores(local)
    addresses = local.addresses
    stores = {
        "mongodb:27017": f"{LOOPBACK}:{mongo.port}", "redis:6379": f"{LOOPBACK}:{redis_port}",
        "postgres:5432": databases.rpartition("@")[2],
        "milvus:19530": addresses.milvus.rpartition("/")[2], "neo4j:7687": addresses.neo4j.rpartition("/")[2],
    }  # fmt: skip
    machine = Machine(folder, stores, {"NEO4J_USER": addresses.neo4j_user, "NEO4J_PASSWORD": addresses.neo4j_password})
    synthetic.write(synthetic.generate(messages=60), machine.drops, machine.catalog)
    with ExitStack() as stack:
        stack.callback(stop_stores, local)
        stack.callback(machine.end)
        # a container's first process ignores no signal; what a shell has put in the background ignores this one, and Dagster ends by it
        stack.callback(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, signal.default_int_handler))
        waiting = {name: set(service.get("depends_on", {})) & set(ours()) for name, service in ours().items()}
        for name in TopologicalSorter(waiting).static_order():
            if name in {"mongodb-init", "pipeline"}:  # one has run, the other is for people
                continue
            if name in ONCE:
                done = machine.run(name)
                assert done.returncode == 0, (name, done.stderr.decode()[-3000:])
                continue
            assert not machine.is_well(name), name
            machine.start(name)
            try:
                eventually(lambda name=name: machine.is_well(name), seconds=START_SECONDS, what=f"the health of {name}")
            except AssertionError:
                raise AssertionError(f"{name} is not well: {machine.log(name)}") from None
        yield machine


def test_migrate_leaves_what_dagster_needs(machine: Machine) -> None:
    assert (machine.home / "dagster" / "dagster.yaml").read_text() == (ROOT / "dagster.yaml").read_text()
    again = machine.run("migrate", "--json")
    assert again.returncode == 0 and orjson.loads(again.stdout) == {"dagster_home": str(machine.home / "dagster")}


def test_a_drop_becomes_an_answer(machine: Machine) -> None:
    """From the mounted folder by the daemon's sensor, in a run of the code location, over all stores, to the API."""
    put_drop(
        machine.drops,
        "visit.jsonl",
        [{"user_id": "zoe", "message": "I want to save for a flat", "timestamp": "2026-11-20T10:00:00Z"}],
    )
    answer = eventually(
        lambda: (found := machine.ask("GET", "/recommendations/zoe").json())["known_user"] and found["generation"] and found,
        seconds=START_SECONDS,
        what="an answer for somebody who is known, by a model",
    )
    assert answer["recommendations"] and answer["degraded"] == []
    assert machine.ask("GET", "/health").json()["status"] == "ok"
    assert {("drops_job", "SUCCESS"), ("ranking_job", "SUCCESS")} <= set(machine.runs())


def test_what_comes_in_over_http_is_taken_in_by_the_code_location(machine: Machine) -> None:
    said = {"user_id": "olga", "message": "Do you have travel insurance?", "timestamp": "2026-11-20T11:00:00Z"}
    handed_in = machine.ask("POST", "/conversations", json=said)
    assert handed_in.status_code == 202
    eventually(lambda: not any((machine.home / "inbox").glob("*.json*")), seconds=START_SECONDS, what="an empty inbox")
    held = machine.ask("GET", "/users/olga/export").json()
    assert "Do you have travel insurance?" in str(held)


def test_nobody_is_answered_without_a_key(machine: Machine) -> None:
    assert machine.ask("GET", "/recommendations/zoe", key=None).status_code == 401
    assert machine.ask("GET", "/recommendations/zoe", key="another").status_code == 401
    assert machine.ask("GET", "/readyz", key=None).status_code == 200


def test_commands_are_run_in_a_container_of_their_own(machine: Machine) -> None:
    done = machine.run("pipeline", "materialize", "--json")
    assert done.returncode == 0 and orjson.loads(done.stdout)["status"] == "success", done.stderr.decode()[-3000:]
    doctor = machine.run("pipeline", "doctor", "--json")
    assert doctor.returncode == 0, doctor.stdout.decode()
    made = orjson.loads(machine.run("pipeline", "keys", "new", "shop", "--scope", "read", "--json").stdout)
    assert made["setting"]["PERSONA_API_KEYS"].startswith("shop:read:")


def test_nothing_is_written_but_where_there_is_a_volume(machine: Machine) -> None:
    written = {path.name for path in machine.folder.iterdir()} - {f"{name}.log" for name in machine.processes}
    assert written == {"home", "drops", "catalog", "workspace.yaml", "local"}


def test_they_end_in_time_when_they_are_told_to(machine: Machine) -> None:
    for name, process in machine.processes.items():
        process.terminate()
        grace = ours()[name].get("stop_grace_period", f"{GRACE_SECONDS}s")
        process.wait(float(grace.removesuffix("s")))
        assert not machine.is_well(name) or name == "daemon", name  # its heartbeat is a minute old before it counts as gone
