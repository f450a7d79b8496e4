"""A whole platform whose Dagster keeps its history in PostgreSQL: runs side by side, and runs, servers and daemons that are killed."""

import os
import signal
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import psutil
import psycopg
import pymongo
import pytest
from sqlalchemy.engine import make_url

from persona import synthetic
from persona_assets.runs import PROCESS_TAG
from tests.platforms import Platform, platform_in
from tests.servers.running import postgresql_database
from tests.worlds import NEWEST, eventually, ledger

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

RUNS = "{runsOrError{... on Runs{results{runId jobName status parentRunId startTime endTime stepKeysToExecute tags{key value}}}}}"
LAUNCH = """
mutation($job: String!) {launchRun(executionParams: {
  selector: {repositoryLocationName: "persona_assets", repositoryName: "__repository__", jobName: $job}
}) {... on LaunchRunSuccess {run {runId}} ... on PythonError {message}}}
"""
POOLS = "{instance{concurrencyLimits{concurrencyKey limit activeSlotCount pendingStepCount}}}"
ENDED = {"SUCCESS", "FAILURE", "CANCELED"}
PASSWORD = "hunter2"


@pytest.fixture(scope="module")
def database(postgresql: str) -> str:
    """The address of an empty database, with a password, which the server that the tests start does not ask for."""
    url = make_url(postgresql_database(postgresql))
    return url.set(password=url.password or PASSWORD).render_as_string(hide_password=False)


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory, database: str) -> Iterator[Platform]:
    """A platform that is up, with catalogs and drops that have been applied and a model."""
    with platform_in(tmp_path_factory.mktemp("platform")) as platform:
        platform.environment["PERSONA_DAGSTER_STORAGE_URL"] = database
        platform.persona("up")
        at_rest(platform)
        yield platform


def test_history_is_in_the_database_and_its_password_nowhere(platform: Platform, database: str) -> None:
    with psycopg.connect(database) as connection:
        [stored] = connection.execute("SELECT count(*) FROM runs WHERE status = 'SUCCESS'").fetchone() or [0]
    assert stored == len([run for run in runs(platform) if run["status"] == "SUCCESS"]) >= 2
    home = platform.settings.home
    assert not list((home / "dagster").rglob("*.db"))
    assert platform.persona("status")["dagster_storage"] == make_url(database).render_as_string(hide_password=True)
    secret = make_url(database).password or ""
    told = [path.read_text(errors="replace") for path in home.glob("[!s]*/**/*") if path.is_file()]
    told += [" ".join(process.cmdline()) for process in platform.processes()]
    assert len(told) > 20
    assert not [text for text in told if secret in text]
    with psycopg.connect(database) as connection:
        for table in ("runs", "run_tags", "event_logs", "job_ticks", "snapshots"):
            found = connection.execute(f"SELECT {table}::text FROM {table}").fetchall()
            assert found and not [row for row in found if secret in str(row)], table


def test_runs_that_are_asked_for_at_once_execute_one_after_the_other(platform: Platform) -> None:
    arrives(platform, seed=1)
    asked = [launch(platform, job) for job in ("drops_job", "ranking_job", "drops_job")]
    at_rest(platform)
    done = {run["runId"]: run for run in runs(platform)}
    assert [done[run]["status"] for run in asked] == ["SUCCESS"] * 3
    spans = sorted((run["startTime"], run["endTime"]) for run in done.values())
    assert all(end <= begin for (_, end), (begin, _) in pairwise(spans)), spans
    assert applied(platform, seed=1)


def test_a_killed_run_ends_as_failed_and_the_sensor_asks_for_the_next(platform: Platform) -> None:
    arrives(platform, seed=2)
    killed = eventually(lambda: writing(platform, "embeddings"), seconds=120, what="a run that writes embeddings")
    os.kill(process_of(platform, killed), signal.SIGKILL)
    eventually(lambda: status(platform, killed) == "FAILURE", seconds=30, what="the failure of the killed run")
    at_rest(platform)
    assert applied(platform, seed=2)
    assert not [run for run in runs(platform) if run["parentRunId"] == killed], "Dagster asked as well"


def test_a_killed_run_that_no_sensor_asks_for_is_repeated_once(platform: Platform) -> None:
    killed = launch(platform, "ranking_job")
    os.kill(eventually(lambda: process_of(platform, killed), seconds=120, what="the run's process"), signal.SIGKILL)
    at_rest(platform, after=lambda: [run for run in runs(platform) if run["parentRunId"] == killed])
    [again] = [run for run in runs(platform) if run["parentRunId"] == killed]
    assert (status(platform, killed), again["status"]) == ("FAILURE", "SUCCESS")


def test_a_run_that_dies_with_the_code_server_is_closed_and_what_is_queued_waits_for_the_server(platform: Platform) -> None:
    arrives(platform, seed=3)
    killed = eventually(lambda: writing(platform, "embeddings"), seconds=120, what="a run that writes embeddings")
    queued = launch(platform, "ranking_job")
    mine = process_of(platform, killed)
    os.kill(platform.persona("status")["services"]["dagster_code"]["pid"], signal.SIGKILL)
    eventually(lambda: not psutil.pid_exists(mine), seconds=30, what="the end of the run's process")
    at_rest(platform)
    assert (status(platform, killed), status(platform, queued)) == ("FAILURE", "SUCCESS")
    assert applied(platform, seed=3)


def test_a_killed_daemon_leaves_neither_the_run_under_way_nor_the_queue_behind(platform: Platform) -> None:
    arrives(platform, seed=4)
    running = eventually(lambda: writing(platform, "embeddings"), seconds=120, what="a run that writes embeddings")
    queued = [launch(platform, job) for job in ("ranking_job", "drops_job")]
    daemon = platform.persona("status")["services"]["dagster_daemon"]["pid"]
    os.kill(daemon, signal.SIGKILL)
    assert [status(platform, run) for run in queued] == ["QUEUED"] * 2
    at_rest(platform)
    assert [status(platform, run) for run in (running, *queued)] == ["SUCCESS"] * 3
    assert applied(platform, seed=4)
    assert platform.persona("status")["services"]["dagster_daemon"]["pid"] != daemon


def test_what_is_queued_outlives_a_stop_of_everything(platform: Platform) -> None:
    arrives(platform, seed=5)
    eventually(lambda: writing(platform, "embeddings"), seconds=120, what="a run that writes embeddings")
    queued = launch(platform, "ranking_job")
    assert platform.kill_everything() > 8
    platform.persona("up")
    at_rest(platform)
    assert status(platform, queued) == "SUCCESS"
    assert applied(platform, seed=5)


# -- asking -----------------------------------------------------------------------------------------------------------------


def arrives(platform: Platform, *, seed: int) -> None:
    """A drop of people of its own."""
    world = synthetic.generate(messages=150, seed=seed, users=80, end=NEWEST)
    synthetic.write(world, platform.settings.drops, platform.folder / "unused")


def applied(platform: Platform, *, seed: int) -> bool:
    """Whether the drop is in every store, and not held."""
    entries = [entry for name, entry in ledger(platform.settings).items() if name.startswith(f"synthetic-{seed}-")]
    return bool(entries) and all(entry["state"] == "accepted" and not entry["pending"] for entry in entries)


def runs(platform: Platform) -> list[dict[str, Any]]:
    """Newest first."""
    found: list[dict[str, Any]] = platform.ask_dagster(RUNS)["runsOrError"]["results"]
    return found


def launch(platform: Platform, job: str) -> str:
    """Ask for a run as the UI does; return its id."""
    run_id: str = platform.ask_dagster(LAUNCH, job=job)["launchRun"]["run"]["runId"]
    return run_id


def status(platform: Platform, run_id: str) -> str:
    return next(str(run["status"]) for run in runs(platform) if run["runId"] == run_id)


def process_of(platform: Platform, run_id: str) -> int:
    """The pid that the run has said; 0 before it has."""
    tags = next({tag["key"]: tag["value"] for tag in run["tags"]} for run in runs(platform) if run["runId"] == run_id)
    named, _, process = tags.get(PROCESS_TAG, "").partition(":")
    return int(process.split(":")[1]) if named == run_id else 0


def writing(platform: Platform, asset: str) -> str | None:
    """The run that holds the lease for this asset."""
    settings = platform.settings
    with pymongo.MongoClient(settings.addresses.mongodb) as client:
        held = client[settings.mongodb_database]["leases"].find_one({"holder.purpose": asset})
    return str(held["holder"]["run_id"]) if held else None


def at_rest(platform: Platform, after: Any = lambda: True) -> None:
    """Wait until every run has ended and every drop is applied; then nobody holds the lease, and no pool is taken."""

    def rests() -> bool:
        waiting = [name for name, entry in ledger(platform.settings).items() if entry["state"] != "held" and entry["pending"]]
        return bool(after()) and not waiting and {run["status"] for run in runs(platform)} <= ENDED

    eventually(rests, seconds=300, what=f"rest after {[(run['jobName'], run['status']) for run in runs(platform)]}")
    pools = platform.ask_dagster(POOLS)["instance"]["concurrencyLimits"]
    assert {(pool["limit"], pool["activeSlotCount"], pool["pendingStepCount"]) for pool in pools} == {(1, 0, 0)}
    settings = platform.settings
    with pymongo.MongoClient(settings.addresses.mongodb) as client:
        assert not client[settings.mongodb_database]["leases"].find_one({"holder": {"$ne": None}})
