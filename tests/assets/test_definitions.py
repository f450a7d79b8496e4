"""What is in the table of contents: everything that is promised, complete, and free to import."""

import subprocess
import sys
from datetime import timedelta

import dagster as dg
import pytest

from persona.pipeline.stages import CODE_VERSIONS, DRAINING_ASSETS
from persona_assets.definitions import defs
from persona_assets.pools import POOLS

EXTERNAL = {"drop_folder", "recommendation_api"}
MATERIALISED = {
    "catalogs", "raw_conversations", "embeddings", "intents", "milvus_collection", "neo4j_graph", "engagement_metrics",
    "lessons", "ranking_model", "ranking_evaluation", "generation",
}  # fmt: skip
BLOCKING = {
    "raw_conversations": {"ids_are_present_and_unique", "every_record_is_accounted_for"},
    "embeddings": {"vectors_are_sound"},
    "intents": {"every_text_is_labelled"},
    "milvus_collection": {"vectors_agree_with_the_truth"},
    "neo4j_graph": {"engagements_agree_with_the_truth", "every_relationship_has_both_ends"},
    "engagement_metrics": {"facts_agree_with_the_truth", "buckets_equal_facts"},
    "ranking_model": {"figures_are_sound"},
}
IMPORT_WITHOUT_TORCH = """
import sys, warnings
from dagster._utils.warnings import BetaWarning, PreviewWarning, SupersessionWarning
for category in (DeprecationWarning, BetaWarning, PreviewWarning, SupersessionWarning):
    warnings.filterwarnings("error", category=category, module="persona")
for category in (BetaWarning, PreviewWarning, SupersessionWarning):
    warnings.filterwarnings("error", category=category)
import persona_assets.definitions
print(*sorted(name for name in ("torch", "sentence_transformers", "transformers", "fastapi") if name in sys.modules))
"""

graph = defs.resolve_asset_graph()


def node(asset: str) -> "dg.AssetSpec":
    return next(spec for spec in defs.resolve_all_asset_specs() if spec.key == dg.AssetKey(asset))


def test_the_definitions_load() -> None:
    dg.Definitions.validate_loadable(defs)


def test_the_assets_are_the_promised_ones() -> None:
    assert {key.to_user_string() for key in graph.get_all_asset_keys()} == MATERIALISED | EXTERNAL
    assert {key.to_user_string() for key in graph.materializable_asset_keys} == MATERIALISED
    assert {stage for stage in CODE_VERSIONS if stage != "cache"} == MATERIALISED


@pytest.mark.parametrize("asset", sorted(MATERIALISED | EXTERNAL))
def test_an_asset_says_what_it_is_and_whose(asset: str) -> None:
    spec = node(asset)
    assert spec.group_name in {"intake", "language", "projections", "ranking", "serving"}
    assert spec.owners and spec.kinds
    assert spec.description and len(spec.description) > 20


@pytest.mark.parametrize("asset", sorted(MATERIALISED))
def test_an_asset_is_checked_and_its_code_has_a_version(asset: str) -> None:
    assert node(asset).code_version == CODE_VERSIONS[asset]
    checks = {key.name for key in graph.asset_check_keys if key.asset_key == dg.AssetKey(asset)}
    assert checks
    blocking = {key.name for key in graph.asset_check_keys if key.asset_key == dg.AssetKey(asset) and graph.get(key).blocking}
    assert blocking == BLOCKING.get(asset, set())


def test_an_asset_is_in_the_pool_of_the_store_that_it_writes_to() -> None:
    pools = {key.to_user_string(): graph.get(key).pools for key in graph.materializable_asset_keys}
    assert {pool: {asset for asset, mine in pools.items() if mine == {pool}} for pool in POOLS} == {
        "mongodb": {
            "catalogs", "raw_conversations", "embeddings", "intents", "ranking_model", "ranking_evaluation",
        },
        "milvus": {"milvus_collection"},
        "neo4j": {"neo4j_graph", "lessons", "generation"},
        "warehouse": {"engagement_metrics"},
    }  # fmt: skip


def test_a_drops_run_that_crashed_is_asked_for_by_the_sensor_alone() -> None:
    assert {job: defs.resolve_job_def(job).run_tags.get("dagster/max_retries") for job in ("drops_job", "ranking_job", "audit")} == {
        "drops_job": "0", "ranking_job": None, "audit": None,
    }  # fmt: skip


def test_data_flows_in_one_way() -> None:
    depends = {asset: {dep.asset_key.to_user_string() for dep in node(asset).deps} - {"drop_folder"} for asset in MATERIALISED}
    assert depends == {
        "catalogs": set(),
        "raw_conversations": set(),
        "embeddings": {"raw_conversations", "catalogs"},
        "intents": {"embeddings"},
        "milvus_collection": {"intents"},
        "neo4j_graph": {"intents"},
        "engagement_metrics": {"intents"},
        "lessons": {"neo4j_graph"},
        "ranking_model": {"milvus_collection", "neo4j_graph", "engagement_metrics", "lessons"},
        "ranking_evaluation": {"ranking_model"},
        "generation": {"ranking_evaluation"},
    }
    assert {dep.asset_key.to_user_string() for dep in node("recommendation_api").deps} == {"generation"}


def test_sensors_and_schedules_run_by_default() -> None:
    assert {sensor.name: sensor.default_status for sensor in defs.sensors or ()} == {
        "drops_sensor": dg.DefaultSensorStatus.RUNNING,
        "ranking_sensor": dg.DefaultSensorStatus.RUNNING,
    }
    schedules = {schedule.name: schedule for schedule in defs.schedules or () if isinstance(schedule, dg.ScheduleDefinition)}
    assert set(schedules) == {"ranking_daily", "audit_daily"}
    assert {schedule.default_status for schedule in schedules.values()} == {dg.DefaultScheduleStatus.RUNNING}


@pytest.mark.parametrize(
    ("job", "assets"),
    [("drops_job", set(DRAINING_ASSETS)), ("ranking_job", {"lessons", "ranking_model", "ranking_evaluation", "generation"})],
)
def test_a_job_materialises_its_part_with_its_checks(job: str, assets: set[str]) -> None:
    layer = defs.resolve_job_def(job).asset_layer
    assert {key.to_user_string() for key in layer.executable_asset_keys} == assets
    selected = {key for key in graph.asset_check_keys if key.asset_key.to_user_string() in assets}
    assert set(layer.asset_graph.asset_check_keys) >= selected


def test_a_model_gets_stale_after_two_days() -> None:
    policy = node("ranking_model").freshness_policy
    assert policy == dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=48), warn_window=timedelta(hours=26))


def test_importing_the_definitions_is_cheap_and_uses_nothing_that_will_go_away() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORT_WITHOUT_TORCH], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""
