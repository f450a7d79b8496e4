"""When the sensors ask for a run and when they leave it; that they give a run up only when its process is gone."""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dagster as dg
import psutil
import pytest
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin

from persona.intake import inbox
from persona.stores.warehouse import open_warehouse
from persona_assets import automation, runs
from persona_assets.automation import drops_sensor, ranking_sensor
from persona_assets.runs import PROCESS_TAG, close_orphaned_runs, tag_with_process
from tests.assets.conftest import World, lease_held
from tests.worlds import generated, put_drop, said


def ask(world: World, sensor: dg.SensorDefinition = drops_sensor) -> str:
    """ "run", or why not."""
    with world.pipeline() as pipeline:
        context = dg.build_sensor_context(instance=world.instance, resources={"pipeline": pipeline})
        result: Any = sensor(context)
    if isinstance(result, dg.RunRequest):
        return "run"
    if isinstance(result, dg.SkipReason):
        return result.skip_message or ""
    for event in result.asset_events:
        world.instance.report_runless_asset_event(event)
    return "run" if result.run_requests else result.skip_reason.skip_message


@contextmanager
def queued(world: World, job: Any, status: dg.DagsterRunStatus = dg.DagsterRunStatus.NOT_STARTED) -> Iterator[str]:
    """A run of the job that has come so far, and no further."""
    repository = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("persona_assets"), "__repository__")
    run = world.instance.create_run_for_job(job_def=job, status=status, remote_job_origin=RemoteJobOrigin(repository, job.name))
    yield run.run_id
    world.instance.delete_run(run.run_id)


def resolved(job: str) -> Any:
    from persona_assets.definitions import defs

    return defs.resolve_job_def(job)


def test_nothing_to_do(world: World) -> None:
    assert ask(world) == "Everything is applied."


def test_a_settled_file_asks_until_it_is_applied(world: World) -> None:
    put_drop(world.settings.drops, "d.jsonl", [said("u_1", "hello")])
    assert ask(world) == "run"
    assert ask(world) == "run"
    world.succeed()
    assert ask(world) == "Everything is applied."


def test_what_came_in_over_http_asks_at_once_and_leaves_the_inbox(world: World) -> None:
    line = json.dumps(said("u_1", "hello")).encode() + b"\n"
    inbox.keep(line, world.settings.inbox)
    assert ask(world) == "run"
    world.succeed()
    assert ask(world) == "Everything is applied."
    assert inbox.arrivals_in(world.settings.inbox) == []


def test_a_file_that_is_still_written_is_left_alone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    put_drop(world.settings.drops, "d.jsonl", [said("u_1", "hello")])
    put_drop(world.settings.drops, "half.jsonl.part", [said("u_2", "hello")])
    with monkeypatch.context() as patient:
        patient.setenv("PERSONA_SETTLE_SECONDS", "3600")
        assert ask(world) == "Everything is applied."
    world.succeed()
    assert ask(world) == "Everything is applied."


def test_it_waits_while_another_writes(world: World) -> None:
    put_drop(world.settings.drops, "d.jsonl", [said("u_1", "hello")])
    with world.pipeline() as pipeline, lease_held(pipeline):
        assert ask(world) == "A run is under way."
        assert ask(world, ranking_sensor) in ("A run is under way.", "The model is recent enough.")
    assert ask(world) == "run"


def test_it_does_not_wait_for_a_rebuild_which_lets_drops_in_between(world: World) -> None:
    put_drop(world.settings.drops, "d.jsonl", [said("u_1", "hello")])
    with world.pipeline() as pipeline, pipeline.lease("rebuild-1", "rebuild neo4j_graph"):
        assert ask(world) == "run"


def test_it_waits_for_a_run_that_is_about_to_begin(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    put_drop(world.settings.drops, "d.jsonl", [said("u_1", "hello")])
    with queued(world, resolved("drops_job")):
        assert ask(world) == "A run is under way."
        monkeypatch.setattr(runs, "LAUNCHED_WITHIN", -runs.LAUNCHED_WITHIN)
        assert ask(world) == "run"


def test_it_waits_for_a_run_in_the_queue_however_long(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    put_drop(world.settings.drops, "d.jsonl", [said("u_1", "hello")])
    monkeypatch.setattr(runs, "LAUNCHED_WITHIN", -runs.LAUNCHED_WITHIN)
    with queued(world, resolved("drops_job"), dg.DagsterRunStatus.QUEUED):
        assert ask(world) == "A run is under way."
    assert ask(world) == "run"


def test_it_waits_for_a_run_that_is_between_two_assets(world: World) -> None:
    put_drop(world.settings.drops, "d.jsonl", [said("u_1", "hello")])
    with queued(world, resolved("drops_job"), dg.DagsterRunStatus.STARTED) as run:
        tag_with_process(world.instance, run)
        assert ask(world) == "A run is under way."
    assert ask(world) == "run"


def test_after_failures_it_asks_ever_more_rarely_and_at_once_after_a_success(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_drop(world.settings.drops, "d.jsonl", [said("u_1", "hello")])
    job, waits = resolved("drops_job"), []
    for _ in range(3):
        run = world.instance.create_run_for_job(job_def=job, status=dg.DagsterRunStatus.STARTED)
        world.instance.report_run_failed(run)
        waits.append(runs.seconds_to_wait(world.instance, "drops_job"))
    assert [round(wait, -1) for wait in waits] == [10, 20, 40]
    assert ask(world).startswith("The latest run failed; the next is asked for in")
    later = time.time() + 41
    monkeypatch.setattr(runs.time, "time", lambda: later)
    assert ask(world) == "run"


def test_a_file_that_may_not_be_read_asks_for_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    put_drop(world.settings.drops, "d.jsonl", [said("u_1", "hello")])
    monkeypatch.setattr(automation.os, "access", lambda path, mode: False)
    assert ask(world) == "Everything is applied."


def test_what_waits_for_an_asset_asks(world: World) -> None:
    put_drop(world.settings.drops, "d.jsonl", [said("u_1", "hello")])
    world.succeed("raw_conversations", "embeddings")
    assert ask(world) == "run"
    world.succeed()
    assert ask(world) == "Everything is applied."


def test_a_new_catalog_asks(world: World) -> None:
    file = world.settings.catalog / "campaigns.json"
    file.write_text(json.dumps([{"campaign_id": "c_1", "name": "Savings"}]))
    assert ask(world) == "run"
    world.succeed()
    assert ask(world) == "Everything is applied."
    file.write_text(json.dumps([{"campaign_id": "c_1", "name": "Savings, renewed"}]))
    assert ask(world) == "run"


def test_a_refused_catalog_asks_once(world: World) -> None:
    (world.settings.catalog / "campaigns.json").write_text('[{"campaign_id": ""}]')
    assert ask(world) == "run"
    world.succeed()
    assert ask(world) == "Everything is applied."


def test_the_same_content_under_another_name_is_looked_at_once(world: World) -> None:
    put_drop(world.settings.drops, "d.jsonl", [said("u_1", "hello")])
    world.succeed()
    put_drop(world.settings.drops, "copy.jsonl", [said("u_1", "hello")])
    assert ask(world) == "run"
    before = world.data_versions()
    world.succeed()
    assert world.data_versions() == before
    assert ask(world) == "Everything is applied."


def test_runs_whose_process_is_gone_are_closed(world: World) -> None:
    job, started = resolved("drops_job"), dg.DagsterRunStatus.STARTED
    with psutil.Popen(["sleep", "0"]) as ended:
        gone = f"{socket.gethostname()}:{ended.pid}:{ended.create_time():.2f}"
    with queued(world, job, started) as dead, queued(world, job, started) as alive, queued(world, job, started) as elsewhere:
        executes(world, dead, gone)
        tag_with_process(world.instance, alive)
        executes(world, elsewhere, f"another-host:{os.getpid()}:1.00")
        with queued(world, job, started) as untagged, queued(world, job) as launched:
            assert close_orphaned_runs(world.instance) == [dead]
            assert status(world, dead) is dg.DagsterRunStatus.FAILURE
            assert {status(world, run) for run in (alive, elsewhere, untagged)} == {started}
            assert set(close_orphaned_runs(world.instance, nothing_runs=True)) == {untagged, launched}
    assert ask(world) == "Everything is applied."


def test_what_is_queued_waits_for_the_next_daemon(world: World) -> None:
    with queued(world, resolved("drops_job"), dg.DagsterRunStatus.QUEUED):
        assert close_orphaned_runs(world.instance, nothing_runs=True) == []


def test_a_run_that_repeats_a_crashed_one_is_not_taken_for_it(world: World) -> None:
    put_drop(world.settings.drops, "d.jsonl", [said("u_1", "hello")])
    with psutil.Popen(["sleep", "0"]) as ended:
        gone = f"{socket.gethostname()}:{ended.pid}:{ended.create_time():.2f}"
    with queued(world, resolved("drops_job"), dg.DagsterRunStatus.STARTED) as again:  # Dagster gives it the other's tags
        world.instance.add_run_tags(again, {PROCESS_TAG: f"another-run:{gone}"})
        assert close_orphaned_runs(world.instance) == []
        assert ask(world) == "A run is under way."


def test_runs_of_a_code_server_that_was_replaced_are_closed(world: World) -> None:
    with queued(world, resolved("drops_job"), dg.DagsterRunStatus.STARTED) as run:
        executes(world, run, "the-container-before:7:1.00")
        world.instance.add_run_tags(run, {runs.CODE_SERVER_TAG: '{"host": "code", "port": 4000}'})
        assert close_orphaned_runs(world.instance) == [run]


def test_a_pid_that_was_given_away_is_not_taken_for_the_process(world: World) -> None:
    with queued(world, resolved("drops_job"), dg.DagsterRunStatus.STARTED) as run:
        executes(world, run, f"{socket.gethostname()}:{os.getpid()}:{time.time() - 10**6:.2f}")
        assert close_orphaned_runs(world.instance) == [run]


def executes(world: World, run_id: str, process: str) -> None:
    """Let the run say that this process executes it."""
    world.instance.add_run_tags(run_id, {PROCESS_TAG: f"{run_id}:{process}"})


def status(world: World, run_id: str) -> dg.DagsterRunStatus:
    run = world.instance.get_run_by_id(run_id)
    assert run is not None
    return run.status


def test_a_model_is_asked_for_when_there_is_none_and_when_the_facts_grew_by_a_fifth(world: World) -> None:
    assert ask(world, ranking_sensor) == "The model is recent enough."  # nothing to fit on
    put_drop(world.settings.drops, "1.jsonl", [said("u_1", f"hello {n}", minutes=n, campaign_id="c_1") for n in range(10)])
    world.succeed("raw_conversations")
    assert ask(world, ranking_sensor) == "Drops are being applied."
    world.succeed("embeddings", "intents", "milvus_collection", "neo4j_graph", "engagement_metrics")
    assert ask(world, ranking_sensor) == "run"
    with queued(world, resolved("ranking_job")):
        assert ask(world, ranking_sensor) == "A run is under way."
    world.succeed()
    assert ask(world, ranking_sensor) == "The model is recent enough."
    put_drop(world.settings.drops, "2.jsonl", [said("u_2", "one more", campaign_id="c_1")])
    world.succeed(*automation.DRAINING_ASSETS)
    assert ask(world, ranking_sensor) == "The model is recent enough."
    put_drop(world.settings.drops, "3.jsonl", [said("u_3", "and one more", campaign_id="c_1")])
    world.succeed(*automation.DRAINING_ASSETS)
    assert ask(world, ranking_sensor) == "run"
    with open_warehouse(world.settings.addresses.warehouse) as warehouse:
        assert warehouse.fact_count() == 12


def test_the_sensor_tells_dagster_the_state_of_the_folder_when_it_has_moved(world: World) -> None:
    def told() -> int:
        return len(world.instance.fetch_materializations(dg.AssetKey("drop_folder"), limit=50).records)

    generated(world.settings)
    ask(world)
    assert told() == 1
    ask(world)
    assert told() == 1
    world.succeed()
    seen = told()
    ask(world)
    ask(world)
    assert told() == seen
