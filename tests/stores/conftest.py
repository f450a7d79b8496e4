"""The stores under test, each open and empty; the strings that no store may stumble over."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from persona.settings import Settings
from persona.stores.cache import Cache, open_cache
from persona.stores.graph import Graph, open_graph
from persona.stores.vectors import VectorStore, open_vectors
from persona.stores.warehouse import Warehouse, open_warehouse
from tests.kept_answers import Kept
from tests.servers.running import postgresql_database

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
    return postgresql_database(request.getfixturevalue("postgresql"))


@pytest.fixture
def warehouse(warehouse_url: str) -> Iterator[Warehouse]:
    """The warehouse, empty."""
    with open_warehouse(warehouse_url) as store:
        yield store
