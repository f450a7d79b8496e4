"""What every test may ask for: a local stack, PostgreSQL, ports, empty truths, pipelines. Fixtures of one store stand beside its tests."""

import socket
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from persona.local.group import Group
from persona.local.stack import start_stores, stop_stores
from persona.pipeline.draining import Pipeline
from persona.settings import Settings
from persona.stores.cache import open_cache
from persona.stores.documents import Documents, open_documents
from persona.stores.warehouse import open_warehouse
from tests.servers.production import PostgreSQL
from tests.servers.running import Running, production_servers

LONGEST = ("test_crash.py", "test_scrub.py", "test_redial.py", "test_end_to_end.py", "test_outages.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with long tests first, the longest of all before: whoever runs several at a time is not left waiting for the last."""
    long = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path.name not in LONGEST, item.path not in long))


def pytest_addoption(parser: pytest.Parser) -> None:
    """On which servers."""
    parser.addoption(
        "--servers",
        choices=("local", "installed", "all"),
        default="local",
        help="local: those of the wheels; installed: those of production, as far as they are on this machine; all: every one of them",
    )


@pytest.fixture(scope="session")
def production(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running | None]:
    """The servers of production, where they are asked for."""
    asked = request.config.getoption("--servers")
    if asked == "local":
        yield None
        return
    with production_servers(tmp_path_factory.mktemp("servers")) as running:
        request.config.stash[MISSING] = list(running.missing.values())
        assert asked == "installed" or not running.missing, running.missing
        yield running


MISSING = pytest.StashKey[list[str]]()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Which servers of production were not there, so that local ones stood in for them."""
    for reason in config.stash.get(MISSING, []):
        terminalreporter.write_line(f"SKIPPED SERVER {reason}", yellow=True)


@pytest.fixture(scope="session")
def stack_settings(production: Running | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings of a throw-away home whose stores run; a store whose URL is set in the environment is used in its place."""
    home = tmp_path_factory.mktemp("home")
    settings = production.settings(home) if production else Settings(home=home, _env_file=None)
    start_stores(settings)
    try:
        yield settings
    finally:
        stop_stores(settings)


@pytest.fixture(scope="session")
def stores_group(production: Running | None, stack_settings: Settings) -> Group:
    """The processes of the stores, under their supervisor."""
    return production.group if production else Group(stack_settings.home / "run" / "stores")


@pytest.fixture(scope="session")
def postgresql(production: Running | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a PostgreSQL server, without a database's name."""
    if production and "postgresql" in production.addresses:
        yield production.addresses["postgresql"]
        return
    with production_servers(tmp_path_factory.mktemp("postgresql"), [PostgreSQL]) as running:
        if running.missing:
            pytest.skip(running.missing["warehouse"])
        yield running.addresses["postgresql"]


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
