"""The local stores' promises, on the real servers: they start from nothing, keep their data, recover, leave nothing behind."""

import json
import stat
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from socketserver import BaseRequestHandler, TCPServer
from threading import Thread
from typing import Any

import psutil
import pytest
import redis
from neo4j import GraphDatabase
from pymilvus import MilvusClient
from pymongo import MongoClient
from pymongo.errors import OperationFailure

from persona.errors import PersonaError
from persona.local.processes import marked
from persona.local.stack import start_stores, stop_stores, stores_status, wipe_stores
from persona.settings import Settings, StoreAddresses

STORES = {"mongodb", "milvus", "neo4j", "redis"}


class Stranger(TCPServer):
    """Another program's server, which hangs up on whoever calls."""

    allow_reuse_address = True


def settings_in(home: Path, **urls: str) -> Settings:
    """Settings with these URLs alone, whatever the environment says."""
    unset = dict.fromkeys(("mongodb_uri", "milvus_uri", "milvus_host", "neo4j_uri", "redis_url"))
    fields: dict[str, Any] = {"_env_file": None, "home": home, **unset, **urls}
    return Settings(**fields)


def processes(home: Path) -> list[psutil.Process]:
    return marked(home / "run" / "stores")


def write_everywhere(addresses: StoreAddresses) -> None:
    mongo: MongoClient[dict[str, Any]] = MongoClient(addresses.mongodb)
    with mongo:
        mongo.persona.kept.replace_one({"_id": 1}, {"_id": 1, "word": "kept"}, upsert=True)
    with GraphDatabase.driver(addresses.neo4j, auth=(addresses.neo4j_user, addresses.neo4j_password)) as driver:
        driver.execute_query("MERGE (:Kept {word: 'kept'})", database_="neo4j")
    with redis.Redis.from_url(addresses.redis) as cache:
        cache.set("kept", "kept")
    milvus = MilvusClient(uri=addresses.milvus)
    if not milvus.has_collection("kept"):
        milvus.create_collection("kept", dimension=4)
    milvus.upsert("kept", [{"id": 1, "vector": [1.0, 0.0, 0.0, 0.0]}])
    milvus.close()


def assert_kept(addresses: StoreAddresses) -> None:
    mongo: MongoClient[dict[str, Any]] = MongoClient(addresses.mongodb)
    with mongo:
        assert mongo.persona.kept.find_one() == {"_id": 1, "word": "kept"}
        with mongo.start_session() as session, session.start_transaction():
            mongo.persona.kept.find_one({}, session=session)
    with GraphDatabase.driver(addresses.neo4j, auth=(addresses.neo4j_user, addresses.neo4j_password)) as driver:
        assert driver.execute_query("MATCH (k:Kept) RETURN k.word AS word", database_="neo4j").records[0]["word"] == "kept"
    milvus = MilvusClient(uri=addresses.milvus)
    milvus.load_collection("kept")
    assert [row["id"] for row in milvus.query("kept", filter="id == 1")] == [1]
    milvus.close()


def eventually(happens: Callable[[], bool], *, seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home whose stores are up at the start of the module; a test may kill what it likes and start it again."""
    home = tmp_path_factory.mktemp("home")
    settings = settings_in(home)
    ready: list[str] = []
    start_stores(settings, progress=ready.append)
    assert set(ready) == STORES
    yield home
    stop_stores(settings)
    assert processes(home) == []


@pytest.fixture
def settings(home: Path) -> Settings:
    settings = settings_in(home)
    start_stores(settings)
    return settings


def test_all_four_answer_through_the_official_drivers(settings: Settings) -> None:
    write_everywhere(settings.addresses)
    assert_kept(settings.addresses)
    assert {name: status.state for name, status in stores_status(settings).items()} == dict.fromkeys(STORES, "running")


def test_starting_again_or_at_the_same_time_changes_nothing(settings: Settings, home: Path) -> None:
    before = {process.pid for process in processes(home)}
    with ThreadPoolExecutor() as pool:
        for started in [pool.submit(start_stores, settings_in(home)) for _ in range(3)]:
            started.result()
    assert {process.pid for process in processes(home)} == before


def test_nobody_else_can_reach_or_read_the_stores(settings: Settings, home: Path) -> None:
    secrets = [kept["password"] for kept in json.loads((home / "stores" / "kept.json").read_text()).values()]
    for process in processes(home):
        line = " ".join(process.cmdline())
        assert not any(secret in line for secret in secrets)
        for connection in process.net_connections("inet"):
            assert connection.laddr.ip.removeprefix("::ffff:") == "127.0.0.1"
    assert stat.S_IMODE((home / "stores").stat().st_mode) == 0o700
    for path in (settings.addresses_file, home / "run/stores/specs.json", home / "stores/redis/redis.conf"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not any(secret in str(stores_status(settings)) for secret in secrets)
    wrong = settings.addresses.mongodb.replace(secrets[0], "wrong")
    intruder: MongoClient[dict[str, Any]] = MongoClient(wrong)
    with intruder as stranger, pytest.raises(OperationFailure, match="Authentication failed"):
        stranger.persona.kept.find_one()
    without = settings.addresses.redis.replace(":" + secrets[-1], "")
    with redis.Redis.from_url(without) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.get("kept")


def test_a_killed_server_is_started_again(settings: Settings) -> None:
    pid = stores_status(settings)["redis"].pid
    assert pid is not None
    psutil.Process(pid).kill()
    eventually(lambda: stores_status(settings)["redis"].pid not in (pid, None))
    eventually(lambda: stores_status(settings)["redis"].state == "running")
    assert stores_status(settings)["redis"].restarts >= 1
    assert stores_status(settings)["redis"].exit_code == -9
    with redis.Redis.from_url(settings.addresses.redis) as cache:
        assert cache.ping()


def test_all_is_kept_when_everything_is_killed(settings: Settings, home: Path) -> None:
    write_everywhere(settings.addresses)
    for process in processes(home):
        process.kill()
    eventually(lambda: {status.state for status in stores_status(settings).values()} == {"stopped"})
    start_stores(settings)
    assert_kept(settings.addresses)


def test_survivors_of_a_killed_supervisor_are_replaced(settings: Settings, home: Path) -> None:
    before = processes(home)
    next(process for process in before if "persona.local.supervisor" in process.cmdline()).kill()
    eventually(lambda: {status.state for status in stores_status(settings).values()} == {"unsupervised"})
    start_stores(settings)
    assert not {process.pid for process in before} & {process.pid for process in processes(home)}
    assert {status.state for status in stores_status(settings).values()} == {"running"}


def test_a_store_moves_when_a_stranger_has_its_port(settings: Settings, home: Path) -> None:
    write_everywhere(settings.addresses)
    stop_stores(settings)
    assert processes(home) == []
    kept = json.loads((home / "stores" / "kept.json").read_text())
    with Stranger(("127.0.0.1", kept["mongodb"]["port"]), BaseRequestHandler) as stranger:
        Thread(target=stranger.serve_forever, daemon=True).start()
        start_stores(settings)
        stranger.shutdown()
        moved = settings_in(home)
        assert str(kept["mongodb"]["port"]) not in moved.addresses.mongodb
        assert_kept(moved.addresses)


def test_a_server_that_cannot_start_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, milvus_uri="http://set", neo4j_uri="bolt://set", redis_url="redis://set")
    data = tmp_path / "stores" / "mongodb"
    data.mkdir(parents=True)
    (data / "storage.bson").write_text("not what mongod wrote")
    with pytest.raises(PersonaError, match=r"(?s)mongodb could not start.*storage engine metadata") as failure:
        start_stores(settings)
    assert str(tmp_path / "logs" / "mongodb.log") in failure.value.hint
    assert processes(tmp_path) == []


def test_only_servers_without_a_url_are_started_and_wiping_removes_their_data(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, mongodb_uri="mongodb://set", milvus_uri="http://set", neo4j_uri="bolt://set")
    statuses = start_stores(settings)
    assert {name for name, status in statuses.items() if status.state == "running"} == {"redis"}
    assert settings.addresses.mongodb == "mongodb://set"
    replaced = settings.home / "stores" / "mongodb.ready"  # as a scrub leaves it that was killed
    replaced.mkdir()
    wipe_stores(settings)
    assert not replaced.exists()
    assert processes(tmp_path) == []
    assert not settings.addresses_file.exists()
    assert not (tmp_path / "stores" / "redis").exists()
