"""Stores that refuse to write: the run says what to do, what is served stays whole, and once it is mended the next run ends equal."""

import random
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pymongo
import pytest
from pymongo.errors import PyMongoError

from persona import synthetic
from persona.local.stack import start_stores, stop_stores
from persona.settings import Settings
from tests.cli.conftest import Answer, Command, command_in
from tests.worlds import NEWEST, clear, content, differences, eventually, generated, ledger, put_drop, said

pytestmark = pytest.mark.slow

DISKS = {"drops": "64m", "warehouse": "8m", "stores/mongodb": "640m", "stores/milvus": "96m"}
"""What lies on a disk of its own, small enough to be filled, and roomy enough for what the servers begin with."""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings of a throw-away home that runs, each of its folders on a small disk."""
    home = tmp_path_factory.mktemp("home")
    with ExitStack() as mounted:
        for name, size in DISKS.items():
            mounted.enter_context(small_disk(home / name, size))
        settings = Settings(home=home, sqlite_path=home / "warehouse" / "warehouse.sqlite", _env_file=None)
        mounted.callback(stop_stores, settings)
        start_stores(settings)
        yield settings


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    folder.mkdir(parents=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"no small disk may be mounted here: {done.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def persona(stack: Settings, tmp_path: Path) -> Iterator[Command]:
    """The command on those stores, with a small world applied; it is not let wait long for what does not come."""
    command = command_in(tmp_path, stack)
    command.environment |= {
        "SQLITE_PATH": str(stack.sqlite_path), "PERSONA_STORE_TIMEOUT_SECONDS": "3", "PERSONA_LEASE_SECONDS": "3",
    }  # fmt: skip
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "drops").symlink_to(stack.claimed_drops)
    clear(command.settings)
    generated(command.settings)
    assert command("materialize", "--json").code == 0
    yield command
    clear(command.settings)
    for copy in stack.claimed_drops.iterdir():
        copy.unlink()


@contextmanager
def filled(folder: Path) -> Iterator[None]:
    """The folder's disk to the last byte, and what its server gives back is taken at once."""
    ballast = folder / "ballast"

    def fill() -> None:
        for size in (1 << 20, 1 << 12, 1):
            with suppress(OSError):
                while True:
                    file.write(bytes(size))

    with open(ballast, "wb", buffering=0) as file:
        fill()
        try:
            with again_and_again(fill):
                yield
        finally:
            ballast.unlink()


@contextmanager
def again_and_again(act: Callable[[], object]) -> Iterator[None]:
    """Ten times a second, beside what happens in the block."""
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(0.1):
            act()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def checkpoints(uri: str) -> Iterator[None]:
    """MongoDB's, at once and not within a minute: until then a small drop has room in the journal, whose file is there already."""
    with pymongo.MongoClient(uri, timeoutMS=1_000) as client:

        def checkpoint() -> None:
            with suppress(PyMongoError):
                client.admin.command("fsync")

        with again_and_again(checkpoint):
            yield


def another_drop(persona: Command) -> None:
    world = synthetic.generate(messages=400, seed=8, users=20, end=NEWEST)
    synthetic.write(world, persona.settings.drops, persona.folder / "unused")


def failed(persona: Command, *, saying: str, hint: str, otherwise: str = "\n") -> None:
    """Materialise: it fails, and says what is amiss and what to do."""
    done = persona("materialize", "--json")
    assert done.code == 1, done.out
    error = done.json["error"]
    sentence = error if isinstance(error, str) else f"{error['message']} {error['hint']}"
    assert saying.lower() in sentence.lower() and (hint in sentence or otherwise in sentence), sentence
    assert "Error" not in sentence and "see the run" not in sentence, sentence


def served(persona: Command) -> list[Any]:
    done = persona("recommend", "u_001", "u_002", "u_003", "--json")
    assert done.code == 0, done.out
    assert all(answer["known_user"] and answer["recommendations"] and not answer["degraded"] for answer in done.lines)
    return [(answer["generation"], answer["recommendations"]) for answer in done.lines]


def ends_equal(persona: Command) -> None:
    """The next run, and what it leaves behind compared with a run to which nothing has happened."""
    done: Answer = eventually(lambda: ended_well(persona), seconds=90, what="a good run")
    assert done.json["status"] == "success"
    assert not [name for name, entry in ledger(persona.settings).items() if entry["pending"] or entry["state"] == "claimed"]
    mended = content(persona.settings)
    clear(persona.settings)
    assert persona("materialize", "--json").code == 0
    assert differences(content(persona.settings), mended) == {}


def ended_well(persona: Command) -> Answer | None:
    done = persona("materialize", "--json")
    return done if done.code == 0 else None


def test_no_room_for_a_claimed_copy(persona: Command, stack: Settings) -> None:
    before = served(persona)
    another_drop(persona)
    with filled(stack.claimed_drops):
        failed(persona, saying="cannot copy a drop", hint="Make room")
        assert served(persona) == before
    ends_equal(persona)


def test_no_room_for_the_warehouse(persona: Command, stack: Settings) -> None:
    before = served(persona)
    another_drop(persona)
    assert stack.sqlite_path
    with filled(stack.sqlite_path.parent):
        failed(persona, saying="the warehouse's disk is full", hint="Free space on its volume")
        assert served(persona) == before
    ends_equal(persona)


def test_no_room_for_mongodb(persona: Command, stack: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pymongo.client_session_shared._WITH_TRANSACTION_RETRY_TIME_LIMIT", 5)  # two minutes otherwise
    before = served(persona)
    noise = random.Random(1)
    put_drop(persona.settings.drops, "big.jsonl", (said("u_001", noise.randbytes(15_000).hex(), minutes=n) for n in range(400)))
    with filled(stack.home / "stores" / "mongodb"), checkpoints(stack.addresses.mongodb):
        # the server itself says so where it survives the discovery
        failed(persona, saying="MongoDB", hint="Free space on its volume", otherwise="persona doctor")
    eventually(lambda: served(persona) == before, seconds=60, what="the return of MongoDB")
    ends_equal(persona)


def test_no_room_for_milvus(persona: Command, stack: Settings) -> None:
    (generation, _), *_ = served(persona)
    another_drop(persona)
    with filled(stack.home / "stores" / "milvus"):
        failed(persona, saying="milvus refused", hint="where that is full, free space")
        assert {now for now, _ in served(persona)} == {generation}
        waiting = {sink for entry in ledger(persona.settings).values() for sink in entry["pending"]}
        assert "milvus_collection" in waiting
    ends_equal(persona)


def test_mongodb_refuses_writes(persona: Command, stack: Settings, writer: Callable[[], str]) -> None:
    before = served(persona)
    another_drop(persona)
    persona.environment["MONGODB_URI"] = writer()
    with pymongo.MongoClient(stack.addresses.mongodb) as root:
        root.admin.command("setUserWriteBlockMode", **{"global": True})
        try:
            failed(persona, saying="MongoDB refused", hint="setUserWriteBlockMode")
            assert served(persona) == before
        finally:
            root.admin.command("setUserWriteBlockMode", **{"global": False})
    assert ended_well(persona)
    persona.environment["MONGODB_URI"] = stack.addresses.mongodb
    ends_equal(persona)


@pytest.fixture
def writer(persona: Command, stack: Settings) -> Iterator[Callable[[], str]]:
    """Makes the address for a user who may only read and write: an administrator is not kept from writing."""
    name, address = "writer", urlsplit(stack.addresses.mongodb)
    with pymongo.MongoClient(stack.addresses.mongodb) as root:

        def make() -> str:
            role = {"role": "readWrite", "db": persona.settings.mongodb_database}
            root.admin.command("createUser", name, pwd=name, roles=[role])
            return f"mongodb://{name}:{name}@{address.hostname}:{address.port}/?{address.query}"

        yield make
        root.admin.command("dropUser", name)
