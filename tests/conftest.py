"""What every test may ask for: a local stack, PostgreSQL, ports, empty truths, pipelines. Fixtures of one store stand beside its tests."""

import socket
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from persona.local.stack import start_stores, stop_stores
from persona.pipeline.draining import Pipeline
from persona.settings import Settings
from persona.stores.cache import open_cache
from persona.stores.documents import Documents, open_documents
from persona.stores.warehouse import open_warehouse
from tests.servers import postgresql_server

LONGEST = ("test_crash.py", "test_scrub.py", "test_redial.py", "test_end_to_end.py", "test_outages.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with long tests first, the longest of all before: whoever runs several at a time is not left waiting for the last."""
    long = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path.name not in LONGEST, item.path not in long))


@pytest.fixture(scope="session")
def stack_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings of a throw-away home whose stores run; a store whose URL is set in the environment is used in its place."""
    settings = Settings(home=tmp_path_factory.mktemp("home"), _env_file=None)
    start_stores(settings)
    try:
        yield settings
    finally:
        stop_stores(settings)


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a PostgreSQL server, without a database's name."""
    with postgresql_server(tmp_path_factory.mktemp("postgresql")) as server:
        yield server


@pytest.fixture
def new_documents(stack_settings: Settings) -> Iterator[Callable[[], Documents]]:
    """Makes empty truths, each in a database of its own."""
    with ExitStack() as stack:

        def make() -> Documents:
            name = f"t{uuid.uuid4().hex[:12]}"
            documents = stack.enter_context(open_documents(stack_settings.addresses.mongodb, name, timeout_seconds=10))
            stack.callback(documents.client.drop_database, name)
            return documents

        yield make


@pytest.fixture
def documents(new_documents: Callable[[], Documents]) -> Documents:
    """The truth, empty."""
    return new_documents()


@pytest.fixture
def new_pipeline(
    stack_settings: Settings, new_documents: Callable[[], Documents], tmp_path: Path
) -> Iterator[Callable[[], Pipeline]]:
    """Makes pipelines, each with a truth, a warehouse, folders and a home of its own; files settle at once."""
    with ExitStack() as stack:

        def make() -> Pipeline:
            home = tmp_path / uuid.uuid4().hex[:12]
            (home / "watched").mkdir(parents=True)
            (home / "catalog").mkdir()
            folders = {"home": home, "drops": home / "watched", "catalog": home / "catalog"}
            settings = stack_settings.model_copy(update={**folders, "settle_seconds": 0, "lease_wait_seconds": 0})
            return Pipeline(
                settings,
                new_documents(),
                stack.enter_context(open_warehouse(f"sqlite:///{home / 'warehouse.sqlite'}")),
                stack.enter_context(open_cache(stack_settings.addresses.redis)),
            )

        yield make


@pytest.fixture
def pipeline(new_pipeline: Callable[[], Pipeline]) -> Pipeline:
    """A pipeline over empty stores."""
    return new_pipeline()


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
