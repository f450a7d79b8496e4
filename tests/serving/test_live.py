"""From a request to every store, on real servers: it counts at once in every worker, the pipeline takes over, nothing accepted is lost."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from persona.intake.drops import take_in_all
from persona.ranking.model import fit
from persona.schemas import DayBucket
from persona.settings import Settings
from serving import services
from serving.app import create_app
from tests.pipeline.conftest import CAMPAIGNS, ENCODER, START, World, history
from tests.pipeline.conftest import new_world as new_world
from tests.serving.conftest import eventually

STAGES = ("embeddings", "intents", "milvus_collection", "neo4j_graph", "engagement_metrics")
NEW = "someone/new"
LATER = START + 4 * 86_400
CAME_IN = [
    {"user_id": "u_1", "event": "conversion", "campaign_id": "c_0", "channel": "email", "timestamp": LATER},
    {"user_id": "u_1", "message": "please travel 3, offer c 2?", "channel": "chat", "timestamp": LATER + 10},
    {"user_id": "u_1", "message": "about billing 99, the new one", "channel": "chat", "timestamp": LATER + 20},
]
EVENTS = 2_000


def addressed(world: World) -> Settings:
    """Settings that name every store of this world."""
    settings, addresses = world.pipeline.settings, world.pipeline.settings.addresses
    return Settings(
        _env_file=None, home=settings.home, drops=settings.drops, catalog=settings.catalog, settle_seconds=0,
        intent_threshold=settings.intent_threshold, mongodb_uri=SecretStr(addresses.mongodb),
        mongodb_database=world.pipeline.documents.database.name, milvus_uri=addresses.milvus, neo4j_uri=addresses.neo4j,
        neo4j_user=addresses.neo4j_user, neo4j_password=SecretStr(addresses.neo4j_password),
        redis_url=SecretStr(addresses.redis), sqlite_path=settings.home / "warehouse.sqlite",
    )  # fmt: skip


@pytest.fixture
def world(new_world: Callable[[], World]) -> Iterator[World]:
    """A few people with a history in every store, and a model that ranks."""
    made = new_world()
    made.pipeline.cache.live.clear()
    made.load_catalogs()
    made.put(history())
    made.drain()
    days = [DayBucket("2023-11-15", campaign, "email", "click", number + 1, 0.0) for number, campaign in enumerate(CAMPAIGNS)]
    made.pipeline.documents.generations.publish("g_1", fit(days, facts=10, fingerprint="f").model_dump())
    yield made
    made.pipeline.cache.live.clear()
    made.pipeline.cache.clear()


@pytest.fixture
def workers(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[TestClient]]:
    """Two services over the same stores."""
    monkeypatch.setattr(services, "LazyEncoder", lambda settings: ENCODER)
    # whole answers are compared, however busy the machine is
    patient = addressed(world).model_copy(update={"deadline_seconds": 10})
    with ExitStack() as stack:
        running = [stack.enter_context(TestClient(create_app(patient))) for _ in range(2)]
        for client in running:
            eventually(lambda client=client: client.get("/health").json()["status"] == "ok", within=60)  # type: ignore[misc]
        yield running


def ranked(client: TestClient, user: str) -> list[tuple[str, float]]:
    """Campaigns and scores, of an answer that is whole."""
    answer: dict[str, Any] = {}

    def whole() -> bool:
        answer.update(client.get("/recommendations/-", params={"user_id": user, "k": 10}).json())
        return not answer["degraded"]

    eventually(whole, within=60)
    return [(item["campaign_id"], item["ranking_score"]) for item in answer["recommendations"]]


def same(found: list[tuple[str, float]], expected: list[tuple[str, float]]) -> bool:
    return [campaign for campaign, _ in found] == [campaign for campaign, _ in expected] and [
        score for _, score in found
    ] == pytest.approx([score for _, score in expected], abs=1e-6)


def post(client: TestClient, records: Any) -> dict[str, Any]:
    response = client.post("/events", json=records)
    assert response.status_code == 202, response.text
    document: dict[str, Any] = response.json()
    return document


def test_it_counts_at_once_in_every_worker_and_the_pipeline_takes_over_without_a_flicker(
    world: World, workers: list[TestClient]
) -> None:
    one, other = workers
    live = world.pipeline.cache.live
    before = [ranked(client, "u_1") for client in workers]
    assert "c_0" in dict(before[0]) and before[0] == before[1]
    taken = post(one, CAME_IN)
    assert [("c_0" in dict(ranked(client, "u_1"))) for client in (other, one)] == [False, False]
    eventually(lambda: len(live.of("u_1").learned.texts) == 2 and bool(live.of("u_1").learned.openings), within=60)
    at_once = ranked(one, "u_1")
    assert same(ranked(other, "u_1"), at_once) and at_once != before[0]

    [entry] = take_in_all(world.pipeline, run_id="r").entries
    assert (entry.id, entry.counts.accepted) == (taken["drop"], 3)
    for stage in STAGES:
        world.drain(stage)
        world.pipeline.cache.evict(["u_1"])
        assert all(same(ranked(client, "u_1"), at_once) for client in workers), f"another answer after {stage}"
    assert not live.has("u_1")
    assert list((world.pipeline.settings.home / "inbox").iterdir()) == []
    world.agrees_with_the_truth()


def test_what_redis_has_lost_is_put_back_from_the_drops(world: World, workers: list[TestClient]) -> None:
    live = world.pipeline.cache.live
    post(workers[0], CAME_IN[:1])
    take_in_all(world.pipeline, run_id="r")  # of these one half is in a drop that waits, the other in the inbox
    post(workers[0], {**CAME_IN[0], "user_id": "u_2"})
    live.clear()
    eventually(lambda: live.has("u_1") and live.has("u_2"), within=60)
    world.pipeline.cache.evict(["u_1", "u_2"])
    assert all("c_0" not in dict(ranked(client, user)) for client in workers for user in ("u_1", "u_2"))
    world.drain()
    assert not live.has("u_1") and live.has("u_2")


def test_who_only_just_came_in_is_handed_out_and_erased_whole(world: World, workers: list[TestClient]) -> None:
    one, other = workers
    home = world.pipeline.settings.home
    post(one, [{"user_id": NEW, "message": "offer c 1, please"}, {"user_id": "u_2", "message": "hello"}])
    document = one.get("/users/-/export", params={"user_id": NEW}).json()
    assert [len(document[part]) for part in ("records", "waiting", "live")] == [0, 1, 1]
    erased = other.delete("/users/-", params={"user_id": NEW})
    assert erased.status_code == 200 and not any(erased.json()["left"].values()), erased.text
    assert not world.pipeline.cache.keeps(NEW)
    assert not any(NEW.encode() in path.read_bytes() for part in ("inbox", "drops") for path in (home / part).iterdir())
    assert not one.get("/recommendations/-", params={"user_id": NEW}).json()["known_user"]
    take_in_all(world.pipeline, run_id="r")
    assert world.pipeline.documents.records.count_of_user(NEW) == 0
    post(one, {"user_id": NEW, "event": "click", "campaign_id": "c_1"})
    assert other.get("/recommendations/-", params={"user_id": NEW}).json()["known_user"]


def test_the_same_request_twice_is_one_drop_and_leaves_nothing_behind(world: World, workers: list[TestClient]) -> None:
    first = post(workers[0], CAME_IN[:1])
    take_in_all(world.pipeline, run_id="r")
    world.drain()
    assert post(workers[1], CAME_IN[:1]) == first
    assert take_in_all(world.pipeline, run_id="r").entries == []
    world.drain()
    assert not world.pipeline.cache.live.has("u_1")


@pytest.mark.slow
def test_no_record_that_was_accepted_is_lost_when_the_server_is_killed(world: World) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = addressed(world)
    names = ("mongodb_uri", "milvus_uri", "neo4j_uri", "neo4j_user", "neo4j_password", "redis_url", "mongodb_database")
    values = {name: getattr(settings, name) for name in names}
    secrets = {name: value.get_secret_value() if isinstance(value, SecretStr) else str(value) for name, value in values.items()}
    environment = {name.upper(): value for name, value in secrets.items()} | {"PERSONA_HOME": str(settings.home)}
    code = f"from persona.settings import Settings; from serving.run import serve; serve(Settings(_env_file=None), port={port})"

    def started() -> "subprocess.Popen[bytes]":
        return subprocess.Popen([sys.executable, "-c", code], env={**os.environ, **environment}, stderr=subprocess.DEVNULL)

    service, accepted = started(), list[str]()
    deadline = time.monotonic() + 240

    def send(number: int) -> None:
        event = {"user_id": f"v_{number % 50}", "event": "click", "campaign_id": "c_1", "message_id": f"e_{number}"}
        while time.monotonic() < deadline:
            try:
                if http.post("/events", json=event).status_code == 202:
                    accepted.append(event["message_id"])
                    return
            except httpx.TransportError:
                time.sleep(0.05)

    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=5) as http, ThreadPoolExecutor(8) as threads:
            sent = [threads.submit(send, number) for number in range(EVENTS)]
            eventually(lambda: len(accepted) > EVENTS // 2, within=120)
            os.kill(service.pid, signal.SIGKILL)
            service.wait(10)
            service = started()
            for each in sent:
                each.result()
    finally:
        service.kill()
        service.wait(10)
    assert len(accepted) == EVENTS
    take_in_all(world.pipeline, run_id="r")
    world.drain()
    stored = {record["_id"] for record in world.pipeline.documents.database["records"].find({}, {"_id": 1})}
    assert not set(accepted) - stored
    assert {user: sum(e.counts["click"] for e in world.graph.history_of(user)) for user in ("v_0", "v_49")} == {
        "v_0": EVENTS // 50, "v_49": EVENTS // 50,
    }  # fmt: skip
