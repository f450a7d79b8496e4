"""The stores under test, each open and empty; the strings and the listening port that no store may stumble over."""

import os
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from persona.settings import Settings
from persona.stores.cache import Cache, open_cache
from persona.stores.graph import Graph, open_graph
from persona.stores.vectors import VectorStore, open_vectors
from persona.stores.warehouse import Warehouse, open_warehouse
from tests.kept_answers import Kept

DIMENSION = 32

NAUGHTY_IDS = [
    'o\'brien "the" `user`',
    "x' OR '1'='1'; DROP TABLE engagements; --",
    "'}) DETACH DELETE n //",
    '" or id != "',
    '"] or id not in ["',
    "{user_id} $rows :ids %s %(x)s",
    "\\",
    "a\\'b\\\"c",
    "zero\u200bwidth\u200d\ufeff",
    "\u202eright-to-left",
    "e\u0301 is not \u00e9",
    "\u00e9 is not e\u0301",
    "line\nbreak\ttab\x01",
    "null",
    "NaN",
    "0",
    "007",
    "7",
    "CASE",
    "case",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467",
    "\U0001f600" * 256,
    "x" * 256,
    "\u4f60\u597d",
    "__proto__",
]


@pytest.fixture
def vectors(stack_settings: Settings) -> Iterator[VectorStore]:
    """An empty version of the collections, of `DIMENSION`."""
    addresses = stack_settings.addresses
    with open_vectors(addresses.milvus, token=addresses.milvus_token, version=f"t{uuid.uuid4().hex[:12]}") as store:
        store.prepare(DIMENSION)
        yield store
        store.drop()


@pytest.fixture
def graph(stack_settings: Settings) -> Iterator[Graph]:
    """The graph, empty."""
    addresses = stack_settings.addresses
    with open_graph(
        addresses.neo4j,
        user=addresses.neo4j_user,
        password=addresses.neo4j_password,
        database=stack_settings.neo4j_database,
    ) as store:
        store.clear()
        yield store
        store.clear()


@pytest.fixture
def cache(stack_settings: Settings) -> Iterator[Cache]:
    """The cache, empty."""
    with open_cache(stack_settings.addresses.redis) as store:
        store.clear()
        yield store
        store.clear()


@pytest.fixture
def kept(cache: Cache, stack_settings: Settings) -> Kept:
    """The answers in it."""
    return Kept(stack_settings.addresses.redis)


@pytest.fixture(params=["sqlite", "postgresql"])
def warehouse_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database, in a folder that does not exist yet where it is a file."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'not' / 'yet' / 'warehouse.sqlite'}"
    server: str = request.getfixturevalue("postgresql")
    name = f"t{uuid.uuid4().hex[:12]}"
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} ENCODING 'UTF8' TEMPLATE template0")
    return f"{server}/{name}"


@pytest.fixture
def warehouse(warehouse_url: str) -> Iterator[Warehouse]:
    """The warehouse, empty."""
    with open_warehouse(warehouse_url) as store:
        yield store


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a PostgreSQL server, without a database's name."""
    if given := os.environ.get("TEST_POSTGRESQL_URL"):
        yield given.rstrip("/")
        return
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    programs = installed[-1] if installed else Path(shutil.which("postgres") or "").parent
    if not (programs / "initdb").exists():
        pytest.skip("no PostgreSQL server is installed here")
    # The server refuses to run as root.
    user = "postgres" if os.geteuid() == 0 else None
    home = tmp_path_factory.mktemp("postgresql")
    data = home / "data"
    if user:
        for folder in (home, *home.parents):
            if folder.owner() == "root" and folder.name.startswith(("pytest-", "popen-")):
                folder.chmod(0o755)
        shutil.chown(home, user)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    subprocess.run(
        [programs / "initdb", "-D", data, "-U", "tester", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"],
        check=True,
        stdout=subprocess.DEVNULL,
        user=user,
    )
    server = subprocess.Popen(
        [programs / "postgres", "-D", data, "-p", str(port), "-c", "listen_addresses=127.0.0.1", "-k", data, "-F"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        user=user,
    )
    try:
        ready = [str(programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
        deadline = time.monotonic() + 30
        while subprocess.run(ready, check=False).returncode:
            assert server.poll() is None and time.monotonic() < deadline, "PostgreSQL did not start"
            time.sleep(0.1)
        yield f"postgresql://tester@127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture
def closed_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest.fixture
def mute_port() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]
