"""What a run promises: everything that waits is applied once, whatever came before, and what went wrong is said and mended."""

import base64
import hashlib
import json
import random
import re
from contextlib import closing
from typing import Any

import dagster as dg
import pymongo
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest
from pymilvus import MilvusClient
from sqlalchemy import create_engine, text

from persona.pipeline import rebuilding
from persona.pipeline.stages import DRAINING_ASSETS
from persona_assets.automation import drops_sensor
from persona_assets.definitions import build_definitions
from persona_assets.execution import QUIET
from tests.assets.conftest import ASSETS, World, failed_checks
from tests.worlds import clear, content, differences, everything, generated, ledger, put_drop, said

CHECKS = 20


def rows(world: World, query: str) -> list[Any]:
    engine = create_engine(world.settings.addresses.warehouse)
    try:
        with engine.begin() as connection:
            result = connection.execute(text(query))
            return list(result) if result.returns_rows else []
    finally:
        engine.dispose()


def collection(world: World, name: str) -> Any:
    client: Any = pymongo.MongoClient(world.settings.addresses.mongodb)
    return client[world.settings.mongodb_database][name]


def stale(world: World) -> dict[str, str]:
    """What the UI would show of every asset that can be materialised."""
    graph = build_definitions().resolve_asset_graph()
    resolver = CachingStaleStatusResolver(world.instance, graph, LoadingContextForTest(world.instance))
    return {asset: resolver.get_status(dg.AssetKey(asset)).value for asset in ASSETS}


def tick(world: World) -> Any:
    with world.pipeline() as pipeline:
        result = drops_sensor(dg.build_sensor_context(instance=world.instance), pipeline=pipeline)
    for event in result.asset_events:
        world.instance.report_runless_asset_event(event)
    return result


def test_a_run_applies_everything_a_second_changes_nothing_and_a_third_what_is_new(world: World) -> None:
    generated(world.settings, drops=2)
    done = world.succeed()
    assert len(done.checks) == CHECKS
    assert failed_checks(done) == []
    held, before, versions = content(world.settings), everything(world.settings), world.data_versions()
    records = len(held["mongodb:records"])
    assert world.metadata("raw_conversations")["dagster/row_count"] == records
    assert records == sum(entry["counts"]["accepted"] for entry in ledger(world.settings).values() if entry["kind"] == "drop")
    assert not [entry["name"] for entry in ledger(world.settings).values() if entry["pending"]]
    assert world.metadata("ranking_model")["related_campaigns_left_out"] == "no"
    assert held["milvus:users"] and held["neo4j:relationships"] and held["warehouse:engagement_by_day"]
    assert not rows(world, "SELECT * FROM anomalies")

    again = world.succeed()
    assert differences(before, everything(world.settings)) == {}
    assert world.data_versions() == versions
    assert failed_checks(again) == []
    assert rows(world, f"SELECT count(*), sum(records) FROM pipeline_runs WHERE run_id = '{again.run_id}'") == [(11, 0)]

    put_drop(world.settings.drops, "later.jsonl", [said("u_new", "a quiet word about savings", campaign_id="c_101")])
    world.succeed()
    assert {asset for asset, version in world.data_versions().items() if version != versions[asset]} == {*ASSETS} - {
        "catalogs",
        "lessons",
    }


def test_a_bad_drop_is_held_and_its_neighbours_come_in(world: World) -> None:
    put_drop(world.settings.drops, "1-good.jsonl", [said("u_1", "hello", minutes=n) for n in range(4)])
    put_drop(world.settings.drops, "2-bad.jsonl", ["{", "nonsense", '{"user_id": true}', json.dumps(said("u_2", "lost"))])
    (world.settings.drops / "3-cut.json").write_text('[{"user_id": "u_3"')
    put_drop(world.settings.drops, "4-good.jsonl", [said("u_4", "hello")])
    done = world.succeed()
    assert failed_checks(done) == ["few_records_are_rejected", "nothing_is_held"]
    states = {name: (entry["state"], entry.get("reason")) for name, entry in ledger(world.settings).items()}
    assert states == {
        "1-good.jsonl": ("accepted", None),
        "2-bad.jsonl": ("held", "invalid_json"),
        "3-cut.json": ("held", "invalid_json"),
        "4-good.jsonl": ("accepted", None),
    }
    assert {row["user_id"] for row in collection(world, "records").find()} == {"u_1", "u_4"}
    assert "mend the file" in ledger(world.settings)["2-bad.jsonl"]["detail"]
    put_drop(world.settings.drops, "5-good.jsonl", ["{", *(said("u_4", "hello again", minutes=n) for n in range(99))])
    done = world.succeed("raw_conversations")
    shown = world.metadata("raw_conversations")
    assert (shown["held"], shown["held_in_all"], shown["quarantined"], shown["quarantined_in_all"]) == (0, 2, 1, 4)
    assert failed_checks(done) == ["nothing_is_held"]  # whichever run held it
    assert [tuple(row) for row in rows(world, "SELECT asset, check_name, severity FROM anomalies")] == [
        ("raw_conversations", "few_records_are_rejected", "WARN")
    ]


def test_an_unusual_volume_is_noticed(world: World) -> None:
    for number in range(6):
        put_drop(world.settings.drops, f"{number}.jsonl", [said(f"u_{number}", f"hello {n}", minutes=n) for n in range(20)])
        world.succeed("raw_conversations")
    put_drop(world.settings.drops, "flood.jsonl", [said(f"u_{n % 50}", f"flood {n}", minutes=n) for n in range(2_000)])
    done = world.succeed("raw_conversations")
    assert failed_checks(done) == ["volume_is_usual"]
    anomaly = rows(world, "SELECT run_id, check_name, value, threshold FROM anomalies")
    assert [(row.run_id, row.check_name) for row in anomaly] == [(done.run_id, "volume_is_usual")]
    assert anomaly[0].value > anomaly[0].threshold > 0


# -- blocking checks --------------------------------------------------------------------------------------------------------


def lose_a_vector(world: World) -> None:
    collection(world, "embeddings").delete_one({"_id": collection(world, "records").find_one()["text_hash"]})


def lose_a_conversation(world: World) -> None:
    addresses = world.settings.addresses
    with closing(MilvusClient(addresses.milvus, token=addresses.milvus_token, dedicated=True)) as client:
        name = next(name for name in client.list_collections() if "conversations" in name)
        some = client.query(name, filter='id != ""', output_fields=["id"], limit=1, consistency_level="Strong")
        client.delete(name, ids=[some[0]["id"]])


def lose_a_fact(world: World) -> None:
    rows(world, "DELETE FROM engagements WHERE message_id = (SELECT min(message_id) FROM engagements)")


@pytest.mark.parametrize(
    ("asset", "sabotage", "check", "spared"),
    [
        ("embeddings", lose_a_vector, "vectors_are_sound", {"intents", "milvus_collection", "neo4j_graph", "engagement_metrics"}),
        (
            "milvus_collection",
            lose_a_conversation,
            "vectors_agree_with_the_truth",
            {"ranking_model", "ranking_evaluation", "generation"},
        ),
        ("engagement_metrics", lose_a_fact, "facts_agree_with_the_truth", {"ranking_model", "ranking_evaluation", "generation"}),
    ],
)
def test_a_failing_blocking_check_stops_what_is_downstream(
    world: World, asset: str, sabotage: Any, check: str, spared: set[str]
) -> None:
    put_drop(world.settings.drops, "d.jsonl", [said("u_1", "savings please", campaign_id="c_1"), said("u_2", "a loan")])
    world.succeed(*ASSETS[: ASSETS.index(asset) + 1])
    sabotage(world)
    done = world.run(asset, *spared)
    assert not done.success
    assert check in failed_checks(done)
    assert done.error and "blocking check failed" in done.error and check in done.error
    assert not {row.stage for row in rows(world, f"SELECT stage FROM pipeline_runs WHERE run_id = '{done.run_id}'")} & spared


def test_the_audit_agrees_until_something_is_lost(world: World) -> None:
    generated(world.settings)
    world.succeed()

    def audit() -> dg.ExecuteInProcessResult:
        return (
            build_definitions()
            .resolve_job_def("audit")
            .execute_in_process(instance=world.instance, raise_on_error=False, run_config=QUIET)
        )

    assert audit().success
    lose_a_fact(world)
    failed = audit()
    assert not failed.success
    found = rows(world, "SELECT run_id, asset, check_name, severity, value, threshold FROM anomalies ORDER BY anomaly_id")
    assert {(row.asset, row.check_name, row.severity, row.run_id) for row in found} == {
        ("engagement_metrics", "audit", "ERROR", failed.run_id)
    }
    assert (found[0].value, found[0].threshold) == (found[0].threshold - 1, found[0].value + 1)


# -- any order ---------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("seed", [3, 5])
def test_assets_materialised_alone_in_any_order_end_like_all_at_once(world: World, seed: int) -> None:
    """Drops and catalogs arrive meanwhile, people among them who spoke before; what waits is applied when it can be."""
    order = random.Random(seed)
    folders = (world.settings.drops, world.settings.catalog)
    files = generated(world.settings, messages=24, drops=3)
    later = [(path, path.read_bytes()) for path in [*files[1:], *sorted(world.settings.catalog.iterdir())]]
    later.append((folders[0] / "again.jsonl", json.dumps(said("u_001", "nobody said this before")).encode()))
    for path, _ in later:
        path.unlink(missing_ok=True)
    order.shuffle(later)

    steps: list[str] = []
    for _ in range(80):
        if later and order.random() < 0.4:
            path, body = later.pop()
            path.write_bytes(body)
        asset = order.choice(ASSETS)
        steps.append(asset)
        done = world.run(asset)
        assert done.success, (steps, done.error, failed_checks(done))
        with world.pipeline() as pipeline:
            if not later and not pipeline.documents.ledger.waiting(ASSETS) and tick_is_quiet(world):
                break
    world.succeed()
    alone = content(world.settings)
    start_over(world)
    world.succeed()
    assert differences(content(world.settings), alone) == {}, steps


def tick_is_quiet(world: World) -> bool:
    with world.pipeline() as pipeline:
        return not drops_sensor(dg.build_sensor_context(instance=world.instance), pipeline=pipeline).run_requests


def start_over(world: World) -> None:
    """Forget everything but the files."""
    clear(world.settings)


# -- a store that is down ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("store", "variable", "url"),
    [
        ("milvus", "MILVUS_URI", "http://127.0.0.1:1"),
        ("neo4j", "NEO4J_URI", "bolt://127.0.0.1:1"),
    ],
)
def test_a_store_that_is_down_is_named_and_the_next_run_mends_it(
    world: World, monkeypatch: pytest.MonkeyPatch, store: str, variable: str, url: str
) -> None:
    generated(world.settings)
    monkeypatch.setenv("PERSONA_STORE_TIMEOUT_SECONDS", "2")
    with monkeypatch.context() as broken:
        broken.setenv(variable, url)
        done = world.run()
    assert not done.success
    assert done.error and store in done.error.lower() and "persona doctor" in done.error
    assert failed_checks(world.succeed()) == []
    assert not [entry["name"] for entry in ledger(world.settings).values() if entry["pending"]]


def test_a_cache_that_is_down_fails_no_run(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    generated(world.settings)
    with monkeypatch.context() as broken:
        broken.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
        world.succeed()
    world.succeed()
    assert not [name for name, entry in ledger(world.settings).items() if entry["pending"]]


# -- another model ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_another_model_is_refused_until_embeddings_are_rebuilt(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    put_drop(world.settings.drops, "1.jsonl", [said("u_1", "savings please", campaign_id="c_1"), said("u_2", "a loan")])
    world.succeed()
    monkeypatch.setenv("EMBEDDING_MODEL", "another")
    monkeypatch.setenv("EMBEDDING_DIM", "24")
    put_drop(world.settings.drops, "2.jsonl", [said("u_3", "a card")])
    refused = world.run()
    assert not refused.success
    assert refused.error and "persona rebuild embeddings" in refused.error and "another" in refused.error
    world.rebuild("embeddings")
    assert failed_checks(world.succeed()) == []
    held = content(world.settings)
    assert len(held["milvus:users"]) == 3
    start_over(world)
    world.succeed()
    assert differences(content(world.settings), held) == {}


@pytest.mark.slow
@pytest.mark.parametrize("asset", sorted(rebuilding.REBUILDABLE))
def test_rebuilt_equals_grown(world: World, asset: str) -> None:
    generated(world.settings, drops=2)
    world.succeed()
    grown = content(world.settings)
    world.rebuild(asset)
    world.succeed()
    assert differences(grown, content(world.settings)) == {}


# -- the Launchpad ------------------------------------------------------------------------------------------------------------


def test_named_drops_can_be_applied_again(world: World) -> None:
    files = generated(world.settings, drops=2)
    world.succeed()
    before = content(world.settings)
    drop = hashlib.sha256(files[0].read_bytes()).hexdigest()
    draining = [asset for asset in ASSETS if asset in DRAINING_ASSETS and asset != "catalogs"]
    job = build_definitions().resolve_implicit_global_asset_job_def()

    def launch(drops: list[str], *, reapply: bool) -> dg.ExecuteInProcessResult:
        config = {asset: {"config": {"drops": drops, "reapply": reapply}} for asset in draining}
        return job.execute_in_process(
            instance=world.instance,
            raise_on_error=False,
            asset_selection=[dg.AssetKey(asset) for asset in draining],
            run_config={**QUIET, "ops": config},
        )

    done = launch([drop], reapply=True)
    assert done.success
    for asset in draining:
        (event,) = done.asset_materializations_for_node(asset)[-1:]
        assert event.metadata["drops"].value == 1, asset
    assert differences(before, content(world.settings)) == {}
    assert launch([drop], reapply=False).success
    unknown = launch(["0" * 64], reapply=True)
    assert not unknown.success
    assert differences(before, content(world.settings)) == {}


# -- what the UI shows --------------------------------------------------------------------------------------------------------


def test_plots_are_small_pictures(world: World) -> None:
    generated(world.settings, messages=60)
    world.succeed()
    for asset, key in (("engagement_metrics", "events_by_day"), ("ranking_model", "top_campaigns")):
        markdown = world.metadata(asset)[key]
        found = re.fullmatch(r"!\[[a-z ]+\]\(data:image/png;base64,([A-Za-z0-9+/=]+)\)", markdown)
        assert found and len(markdown) < 100_000
        assert base64.b64decode(found[1]).startswith(b"\x89PNG")


def test_metadata_names_drops_and_nobody(world: World) -> None:
    put_drop(world.settings.drops, "d.jsonl", [said("somebody@example.org", "my secret wish", campaign_id="c_1"), "{"])
    world.succeed()
    logged = "\n".join(entry.to_json() for run in world.instance.get_runs() for entry in world.instance.all_logs(run.run_id))
    assert "d.jsonl" in logged
    for word in ("somebody@example.org", "secret wish"):
        assert word not in logged


def test_what_is_stale_is_what_has_not_seen_the_folder(world: World) -> None:
    generated(world.settings)
    tick(world)
    world.succeed()
    tick(world)
    assert set(stale(world).values()) == {"FRESH"}
    world.succeed()
    tick(world)
    assert set(stale(world).values()) == {"FRESH"}
    put_drop(world.settings.drops, "later.jsonl", [said("u_new", "hello again")])
    tick(world)
    assert {asset for asset, status in stale(world).items() if status == "STALE"} == {*ASSETS} - {"catalogs"}
    world.succeed()
    tick(world)
    assert set(stale(world).values()) == {"FRESH"}
