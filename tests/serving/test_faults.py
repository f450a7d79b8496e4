"""What is lost when a store is down, refuses or hangs, and that it comes back without a restart."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi.testclient import TestClient

from persona.errors import StoreRefused
from persona.settings import Settings
from serving.app import create_app
from serving.guard import FAILURES_TO_OPEN
from tests.serving.conftest import SETTINGS, Fakes, FakeStore, eventually


@pytest.fixture
def deadline() -> float:
    """The service's own, twice over for a busy machine."""
    return 0.3


def sources(answer: dict[str, Any]) -> set[str]:
    return {part["channel"] for item in answer["recommendations"] for part in item["evidence"]}


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("milvus", {"engagement"}),
        ("neo4j", {"similar_conversations", "content", "engagement"}),
        ("mongodb", {"similar_users", "similar_conversations", "content", "engagement"}),
    ],
)
def test_a_store_that_is_down_costs_its_channel_and_nothing_else(
    client: TestClient, fakes: Fakes, name: str, left: set[str]
) -> None:
    getattr(fakes, name).down = True
    for _ in range(3):
        response = client.get("/recommendations/u_1")
        assert response.status_code == 200
        assert response.json()["degraded"] == [name]
        assert sources(response.json()) == left
    assert not fakes.redis.kept, "a degraded answer was cached"
    getattr(fakes, name).down = False
    eventually(lambda: client.get("/recommendations/u_1").json()["degraded"] == [])


@pytest.mark.parametrize("fault", [StoreRefused("its disk is full"), ValueError("a driver's surprise")])
def test_a_store_that_refuses_costs_what_one_that_is_down_costs(client: TestClient, fakes: Fakes, fault: Exception) -> None:
    fakes.milvus.fault = fault
    response = client.get("/recommendations/u_1")
    assert (response.status_code, response.json()["degraded"]) == (200, ["milvus"])


def test_a_cache_that_is_down_costs_only_speed(client: TestClient, fakes: Fakes) -> None:
    well = client.get("/recommendations/u_1").json()
    fakes.redis.down = True
    for _ in range(3):
        answer = client.get("/recommendations/u_1").json()
        assert answer == {**well, "degraded": ["redis"]}
    fakes.redis.down = False
    eventually(lambda: client.get("/recommendations/u_1").json()["retrieval_source"] == "cache")


@pytest.mark.parametrize("name", ["mongodb", "milvus", "neo4j", "redis"])
def test_a_store_that_hangs_is_waited_for_once_and_comes_back(client: TestClient, fakes: Fakes, name: str) -> None:
    store: FakeStore = getattr(fakes, name)
    store.thawed.clear()
    started = time.monotonic()
    assert client.get("/recommendations/u_2").json()["degraded"] == [name]
    assert time.monotonic() - started < 2
    client.get("/recommendations/u_2")
    asked = store.asked
    for _ in range(10):
        assert client.get("/recommendations/u_2").json()["degraded"] == [name]
    assert store.asked < asked + 10, "people wait for a store that is known to hang"
    store.thawed.set()
    eventually(lambda: client.get("/recommendations/u_2").json()["degraded"] == [])


def test_a_store_that_hung_for_long_comes_back_too(client: TestClient, fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KEEP_SECONDS", "PING_SECONDS", "CONNECT_SECONDS"):
        monkeypatch.setattr(f"serving.guard.{name}", 0.05)
    fakes.neo4j.thawed.clear()
    eventually(lambda: "still hangs" in (client.get("/health").json()["stores"]["neo4j"]["error"] or ""), within=20)
    fakes.neo4j.thawed.set()
    eventually(lambda: client.get("/recommendations/u_1").json()["degraded"] == [])


def test_whoever_waits_for_a_store_is_let_go_when_it_is_known_to_hang(fakes: Fakes, settings: Settings) -> None:
    with TestClient(create_app(settings.model_copy(update={"deadline_seconds": 60}), stores=fakes.openers())) as client:
        fakes.milvus.thawed.clear()
        with ThreadPoolExecutor() as pool:
            waiting = pool.submit(client.get, "/recommendations/u_1")
            eventually(lambda: fakes.milvus.asked > 1)  # beside what opened it
            for _ in range(FAILURES_TO_OPEN):
                client.get("/health")
            assert waiting.result(10).json()["degraded"] == ["milvus"]


def test_a_client_that_gets_no_answer_is_left_for_a_new_one(
    client: TestClient, fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.guard.CONNECT_SECONDS", 0.5)
    opened = fakes.neo4j.opened_times
    fakes.neo4j.thawed.clear()
    eventually(lambda: client.get("/recommendations/u_1").json()["degraded"] == ["neo4j"] and fakes.neo4j.opened_times > opened)
    fakes.neo4j.cut_off()  # as where a connection was lost on the way: whoever waits on it waits for ever
    eventually(lambda: client.get("/recommendations/u_1").json()["degraded"] == [])


def test_who_unsubscribed_is_left_alone_whatever_is_down(client: TestClient, fakes: Fakes) -> None:
    fakes.mongodb.gone = {"u_1": {(None, "unknown")}, "u_3": {("c_1", "email")}}
    fakes.mongodb.stored += 2  # came in late: nothing is newer than before
    looks = fakes.mongodb.looks
    eventually(lambda: fakes.mongodb.looks > looks + 1)
    for store in fakes.all:
        store.down = True
        assert client.get("/recommendations/u_2").json()["recommendations"]
    assert client.get("/recommendations/u_1").json()["recommendations"] == []
    assert "c_1" not in {item["campaign_id"] for item in client.get("/recommendations/u_3").json()["recommendations"]}


def test_engagement_is_left_when_every_store_is_gone(client: TestClient, fakes: Fakes) -> None:
    for store in fakes.all:
        store.down = True
    answer = client.get("/recommendations/u_1").json()
    assert answer["degraded"] == ["milvus", "mongodb", "neo4j", "redis"]
    assert sources(answer) == {"engagement"}


def test_with_nothing_to_answer_from_it_is_a_problem(fakes: Fakes) -> None:
    for store in fakes.all:
        store.down = True
    with TestClient(create_app(SETTINGS, stores=fakes.openers())) as client:
        response = client.get("/recommendations/u_1")
        assert response.status_code == 503
        assert response.headers["content-type"] == "application/problem+json"
        assert response.headers["retry-after"] == "1"
        assert client.get("/readyz").status_code == 503
        assert client.get("/livez").status_code == 200
        health = client.get("/health").json()
        assert health["status"] == "down"
        assert health["stores"]["neo4j"]["error"] == "neo4j is unavailable: told to be down"
        for store in fakes.all:
            store.down = False
        eventually(lambda: client.get("/readyz").status_code == 200)
        eventually(lambda: client.get("/recommendations/u_1").json()["degraded"] == [])


def test_health_names_the_store_and_its_error(client: TestClient, fakes: Fakes) -> None:
    well = client.get("/health")
    assert well.status_code == 200
    assert list(well.json()) == ["status", "stores", "generation", "data_age_s"]
    assert well.json()["status"] == "ok"
    assert list(well.json()["stores"]) == ["mongodb", "milvus", "neo4j", "warehouse", "redis"]
    assert well.json()["generation"] == "g_1"
    assert well.json()["data_age_s"] > 0
    for store in well.json()["stores"].values():
        assert store["status"] == "ok" and store["latency_ms"] >= 0 and store["error"] is None
    fakes.warehouse.down = True
    ill = client.get("/health")
    assert (ill.status_code, ill.json()["status"]) == (200, "degraded")
    assert ill.json()["stores"]["warehouse"] == {
        "status": "down", "latency_ms": None, "error": "warehouse is unavailable: told to be down",
    }  # fmt: skip
    for store in fakes.all:
        store.down = True
    assert (client.get("/health").status_code, client.get("/health").json()["status"]) == (503, "down")


def test_health_answers_within_two_seconds_whatever_hangs(client: TestClient, fakes: Fakes) -> None:
    for store in fakes.all:
        store.thawed.clear()
    for _ in range(3):
        started = time.monotonic()
        assert client.get("/health").json()["status"] == "down"
        assert time.monotonic() - started < 2
