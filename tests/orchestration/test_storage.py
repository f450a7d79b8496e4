"""Where Dagster's history lies: SQLite unless a PostgreSQL is named, and what is said where that one is not to be had."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import psycopg
import pytest
from dagster._core.storage.runs import SqliteRunStorage
from dagster_postgres import PostgresRunStorage
from pydantic import ValidationError
from sqlalchemy.engine import make_url

from persona.errors import PersonaError
from persona.settings import Settings
from persona_assets import definitions
from persona_assets.execution import prepare_instance
from persona_assets.pools import POOLS
from persona_assets.storage import postgresql_url, reach
from tests.servers.running import postgresql_database

PASSWORD = "hunter2@/%"
"""In every address here; the server that the tests start asks for none."""
GUEST = "tester_guest"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home that the environment names, with nothing in it."""
    for name in ("PERSONA_DAGSTER_STORAGE_URL", "DAGSTER_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PERSONA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home" / "dagster"))  # so that it is put back afterwards
    monkeypatch.setenv("PERSONA_STORE_TIMEOUT_SECONDS", "2")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.fixture
def database(postgresql: str) -> str:
    """The address of an empty database, with a password in it."""
    return with_password(postgresql_database(postgresql))


def with_password(url: str, **parts: str) -> str:
    given = make_url(url)
    return given.set(**{"password": given.password or PASSWORD, **parts}).render_as_string(hide_password=False)


@pytest.fixture
def instance(request: pytest.FixtureRequest, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """Dagster's instance as it is prepared, on SQLite or on PostgreSQL."""
    if request.param == "postgresql":
        monkeypatch.setenv("PERSONA_DAGSTER_STORAGE_URL", request.getfixturevalue("database"))
    with prepare_instance(Settings()) as instance:
        yield instance


both = pytest.mark.parametrize("instance", ["sqlite", "postgresql"], indirect=True)


def test_history_is_in_sqlite_unless_a_database_is_named(home: Path) -> None:
    with prepare_instance(Settings()) as instance:
        assert isinstance(instance.run_storage, SqliteRunStorage)
        instance.create_run_for_job(definitions.defs.resolve_job_def("audit"))
    assert (home / "dagster" / "history" / "runs.db").is_file() and (home / "dagster" / "schedules" / "schedules.db").is_file()
    assert Settings().dagster_storage == reach(Settings()) == f"sqlite:///{home / 'dagster'}"


def test_history_is_in_the_named_database_and_in_no_file(home: Path, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSONA_DAGSTER_STORAGE_URL", database)
    with prepare_instance(Settings()) as instance:
        assert isinstance(instance.run_storage, PostgresRunStorage)
        run = instance.create_run_for_job(definitions.defs.resolve_job_def("audit"))
    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT run_id FROM runs").fetchall() == [(run.run_id,)]
    assert not list(home.rglob("*.db"))


def test_the_webserver_s_connections_outlive_their_first_question(
    home: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERSONA_DAGSTER_STORAGE_URL", database)
    with prepare_instance(Settings()) as instance:
        instance.optimize_for_webserver(statement_timeout=5_000, pool_recycle=3_600, max_overflow=1)
        assert [instance.get_runs(limit=1) for _ in range(3)] == [[], [], []]


@both
def test_every_pool_has_its_limit_before_anything_is_queued_and_keeps_one_that_was_set(instance: dg.DagsterInstance) -> None:
    assert limits(instance) == dict.fromkeys(POOLS, 1)
    instance.event_log_storage.set_concurrency_slots("neo4j", 3)
    with prepare_instance(Settings()) as again:
        assert limits(again) == {**dict.fromkeys(POOLS, 1), "neo4j": 3}


def limits(instance: dg.DagsterInstance) -> dict[str, int]:
    return {pool.name: pool.limit for pool in instance.event_log_storage.get_pool_limits()}


@both
def test_the_configuration_is_read_as_it_is_meant(instance: dg.DagsterInstance) -> None:
    concurrency = instance.get_concurrency_config()
    assert concurrency.pool_config.pool_granularity is not None and concurrency.pool_config.pool_granularity.value == "run"
    assert concurrency.run_queue_config is not None and concurrency.run_queue_config.max_concurrent_runs == 4
    assert instance.run_monitoring_enabled and instance.run_retries_enabled
    assert instance.run_retries_max_retries == 1 and not instance.run_retries_retry_on_asset_or_op_failure


# -- the password -----------------------------------------------------------------------------------------------------------


def test_the_password_is_in_no_file_and_not_in_what_dagster_tells_of_itself(
    home: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERSONA_DAGSTER_STORAGE_URL", database)
    with prepare_instance(Settings()) as instance:
        told = f"{instance.info_dict()}{instance.get_ref()}{Settings()!r}{Settings().dagster_storage}"
    written = "".join(path.read_text(errors="replace") for path in home.rglob("*") if path.is_file())
    assert "persona_assets.storage" in told and "base_dir" in written
    for secret in (make_url(database).password, database):
        assert secret and secret not in told + written
    assert make_url(postgresql_url(Settings()) or "").password == make_url(database).password


# -- what is amiss ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:hunter2@/dagster", "postgresql://me:hunter2@host", "postgresql://me:hunter2@host:port/dagster",
        "postgresql+psycopg://me:hunter2@host/dagster", "mysql://me:hunter2@host/dagster", "hunter2",
    ],
)  # fmt: skip
def test_a_url_that_is_none_says_what_is_expected_and_no_password(url: str) -> None:
    with pytest.raises(ValidationError) as error:
        Settings(_env_file=None, dagster_storage_url=url)
    assert "postgresql://user:password@host:port/database is expected" in str(error.value)
    assert "hunter2" not in str(error.value)


def refused(url: str, monkeypatch: pytest.MonkeyPatch) -> PersonaError:
    monkeypatch.setenv("PERSONA_DAGSTER_STORAGE_URL", url)
    with pytest.raises(PersonaError) as error:
        prepare_instance(Settings())
    assert "PERSONA_DAGSTER_STORAGE_URL" in error.value.hint
    assert ":***@" in error.value.message and str(make_url(url).password) not in str(error.value)
    return error.value


def test_a_server_that_does_not_answer_is_named(home: Path, closed_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    error = refused(f"postgresql://tester:hunter2@127.0.0.1:{closed_port}/dagster", monkeypatch)
    assert "Connection refused" in error.message and "Start the server" in error.hint


def test_a_server_that_says_nothing_is_given_up(home: Path, mute_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "timeout" in refused(f"postgresql://tester:hunter2@127.0.0.1:{mute_port}/dagster", monkeypatch).message


def test_a_database_that_does_not_exist_is_named(home: Path, postgresql: str, monkeypatch: pytest.MonkeyPatch) -> None:
    error = refused(with_password(f"{postgresql}/nothing_here"), monkeypatch)
    assert 'database "nothing_here" does not exist' in error.message and "create the database" in error.hint


def test_a_user_who_may_make_no_tables_is_told_so(
    home: Path, postgresql: str, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with psycopg.connect(f"{postgresql}/postgres", autocommit=True) as connection:
        connection.execute(f"DROP ROLE IF EXISTS {GUEST}")
        connection.execute(f"CREATE ROLE {GUEST} LOGIN PASSWORD '{PASSWORD}'")
    error = refused(with_password(database, username=GUEST, password=PASSWORD), monkeypatch)
    assert "permission denied for schema public" in error.message and "as its owner" in error.hint


# -- by hand ------------------------------------------------------------------------------------------------------------------


@both
def test_dagster_s_own_migration_finds_the_history(instance: dg.DagsterInstance) -> None:
    command = [sys.executable, "-m", "dagster", "instance", "migrate"]
    done = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert PASSWORD not in done.stdout + done.stderr
