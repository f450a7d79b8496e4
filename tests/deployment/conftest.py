"""The stores of the compose file that can be had here, as its one-shots leave them."""

from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest

from tests.deployment.servers import Mongo, make_databases, redis_running


@pytest.fixture(scope="session")
def mongo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mongo]:
    """MongoDB when `mongodb-init` has ended."""
    mongo = Mongo(tmp_path_factory.mktemp("mongodb"))
    mongo.make_root()
    with mongo.started():
        assert mongo.init() == 0
        yield mongo


@pytest.fixture(scope="session")
def databases(postgresql: str) -> Iterator[str]:
    """A superuser's address of PostgreSQL after its first start."""
    make_databases(postgresql)
    yield postgresql
    with closing(psycopg.connect(f"{postgresql}/postgres", autocommit=True)) as connection:
        for name in ("warehouse", "dagster"):
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
            connection.execute(f"DROP ROLE {name}")


@pytest.fixture(scope="session")
def redis_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Redis."""
    with redis_running(tmp_path_factory.mktemp("redis")) as port:
        yield port
