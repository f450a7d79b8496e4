"""The platform as it is meant to be used: `persona up`, a file in a folder, an answer over HTTP, `persona down`."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import orjson
import psutil
import pytest

from tests.platforms import Platform, platform_in
from tests.servers.running import Running
from tests.worlds import eventually, put_drop

pytestmark = pytest.mark.slow

DRAINING = {
    "catalogs", "raw_conversations", "embeddings", "intents", "milvus_collection", "neo4j_graph", "engagement_metrics",
}  # fmt: skip


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory, production: Running | None) -> Iterator[Platform]:
    """A platform on its first day."""
    with platform_in(tmp_path_factory.mktemp("platform")) as platform:
        if production:
            platform.environment |= production.environment() | {"PERSONA_DAGSTER_STORAGE_URL": production.addresses["dagster"]}
            platform.persona("generate", "--messages", "300")  # nobody is given samples on servers of their own
        yield platform


@pytest.fixture(scope="module")
def first_answer(platform: Platform) -> Any:
    """What `persona up` prints where there was nothing."""
    return platform.persona("up")


def test_up_ends_with_a_recommendation(platform: Platform, first_answer: Any) -> None:
    assert set(first_answer) == {"dagster", "api", "recommendation"}
    assert first_answer["recommendation"]["known_user"] and first_answer["recommendation"]["recommendations"]
    assert platform.get("/health")["status"] == "ok"
    status = platform.persona("status")
    assert {service["state"] for service in status["services"].values()} == {"running"}
    assert status["services"]["dagster"]["url"] == first_answer["dagster"]


def test_it_listens_on_this_machine_alone(platform: Platform, first_answer: Any) -> None:
    listening = [
        connection.laddr
        for process in platform.processes()
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    ports = {str(address.port) for address in listening}
    assert ports >= {platform.environment["PERSONA_API_PORT"], platform.environment["PERSONA_DAGSTER_PORT"]}
    assert {address.ip for address in listening} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def test_a_file_in_the_folder_changes_an_answer_with_nobody_touching_anything(platform: Platform, first_answer: Any) -> None:
    before = platform.get("/recommendations/anna")
    assert not before["known_user"]
    runs = {run for run, _, _ in platform.runs()}
    now = datetime.now(UTC).isoformat()
    words = ["I want to save for my own flat, what interest do you pay?", "Which savings plan suits somebody of thirty?"]
    put_drop(
        platform.settings.drops,
        "seed.jsonl",
        [{"user_id": user, "message": message, "timestamp": now} for user in ("anna", "bert") for message in words],
    )
    after = eventually(lambda: known(platform, "anna"), seconds=180, what="a changed recommendation")
    assert [offer["campaign_id"] for offer in after["recommendations"]] != [
        offer["campaign_id"] for offer in before["recommendations"]
    ]
    catalog = {entry["campaign_id"] for entry in orjson.loads((platform.settings.catalog / "campaigns.json").read_bytes())}
    assert {offer["campaign_id"] for offer in after["recommendations"]} <= catalog
    assert known(platform, "bert")["recommendations"]

    mine = eventually(lambda: ended(platform, runs), seconds=180, what="the end of the run")
    assert {(status, job) for _, status, job in mine} == {("SUCCESS", "drops_job")}
    checks = {
        f"{asset}: {check['name']}": (check["executionForLatestMaterialization"] or {}).get("status")
        for asset, node in platform.assets().items()
        for check in node["assetChecksOrError"]["checks"]
        if asset in DRAINING
    }
    assert len(checks) == 16 and set(checks.values()) == {"SUCCEEDED"}, checks


def test_what_is_ranked_is_brought_up_to_date_and_nothing_is_stale(platform: Platform, first_answer: Any) -> None:
    platform.persona("materialize")
    eventually(lambda: not stale(platform), seconds=30, what="a fresh graph")


def test_up_again_is_harmless(platform: Platform, first_answer: Any) -> None:
    pids = {process.pid for process in platform.processes()}
    runs = platform.runs()
    again = platform.persona("up")
    assert (again["dagster"], again["api"]) == (first_answer["dagster"], first_answer["api"])
    assert {process.pid for process in platform.processes()} >= pids
    assert platform.runs() == runs
    assert not stale(platform)


def test_down_leaves_no_process(platform: Platform, first_answer: Any, production: Running | None) -> None:
    assert platform.persona("down") == {"stopped": True, "wiped": False}
    assert platform.processes() == []
    stopped = platform.persona("status")
    assert {service["state"] for service in stopped["services"].values()} == {"stopped"}
    platform.persona("down", "--wipe")
    claimed = (platform.settings.home / "drops").exists()
    assert claimed == (production is not None)  # they belong to the ledger: where that is on a server of one's own, they stay
    assert (platform.settings.drops / "seed.jsonl").exists()


def known(platform: Platform, user: str) -> Any:
    answer = platform.get(f"/recommendations/{user}")
    return answer if answer["known_user"] else None


def ended(platform: Platform, before: set[str]) -> list[tuple[str, str, str]]:
    mine = [run for run in platform.runs() if run[0] not in before and run[2] == "drops_job"]
    return mine if all(status in ("SUCCESS", "FAILURE", "CANCELED") for _, status, _ in mine) else []


def stale(platform: Platform) -> list[str]:
    return [asset for asset, node in platform.assets().items() if node["isExecutable"] and node["staleStatus"] != "FRESH"]
