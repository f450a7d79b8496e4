"""The service over real servers: whole answers, and servers that are stopped, continued and killed while people ask."""

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from statistics import median
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient

from persona.local.stack import stores_status
from persona.ranking.model import fit
from persona.ranking.publication import roll_back
from persona.schemas import (
    Campaign,
    Conversation,
    DayBucket,
    Engagement,
    ExpressedIntent,
    Mention,
    UserProfile,
)
from persona.settings import Settings, StoreName
from persona.stores.documents.embeddings import text_hash
from persona.stores.opening import graph_of
from persona_cli.pipeline import open_pipeline
from serving import stores
from serving.app import create_app
from serving.guard import FAILURES_TO_OPEN
from serving.warming import warm
from tests.serving.conftest import eventually
from tests.worlds import whole_answer

DIMENSION = 16
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
NOW_MS = round(NOW.timestamp() * 1000)
USERS = [f"u_{number}" for number in range(8)]
CAMPAIGNS = [Campaign(campaign_id=f"c_{number}", name=f"Campaign {number}", intents=["buy"]) for number in range(6)]
DIRECTIONS = np.eye(DIMENSION, dtype=np.float32) * 0.5 + 0.5
DIRECTIONS /= np.linalg.norm(DIRECTIONS, axis=1, keepdims=True)
MODEL = fit(
    [
        DayBucket(day="2026-01-01", campaign_id=campaign.campaign_id, channel="email", event="click", n=3, value=0.0)
        for campaign in CAMPAIGNS
    ],
    facts=18,
    fingerprint="f",
)


@pytest.fixture(scope="module")
def settings(stack_settings: Settings) -> Iterator[Settings]:
    """Settings of stores that hold a few people and campaigns, in a database and collections of their own."""
    settings = stack_settings.model_copy(
        update={
            "mongodb_database": f"serving_{uuid.uuid4().hex[:8]}",
            "deadline_seconds": 0.3,
        }  # twice the usual, for a busy machine
    )
    opened = stores.openers(settings)
    with opened.documents() as documents:
        documents.embeddings.agree_on("test", DIMENSION)
        version = f"v{random.randrange(10**6, 10**7)}"  # collections of our own on a server that others use too
        documents.database["state"].insert_one({"_id": "collections", "in_use": version, "to_fill": version})
        documents.catalog.put_campaigns(CAMPAIGNS)
        texts = [text_hash(campaign.text) for campaign in CAMPAIGNS]
        documents.embeddings.put(texts, DIRECTIONS[: len(texts)], model="test")
        documents.records.insert([record(user, number) for number, user in enumerate(USERS)])
        documents.generations.publish("g_test", MODEL.model_dump())
        with opened.vectors() as server, opened.graph() as graph, opened.cache() as cache:
            vectors = server.at(version)
            graph.clear()
            cache.clear()
            vectors.prepare(DIMENSION)
            seed(vectors, graph)
            yield settings
            graph.clear()
            cache.clear()
            vectors.drop()
            documents.client.drop_database(settings.mongodb_database)


def record(user_id: str, number: int) -> dict[str, Any]:
    return {
        "_id": f"m_{number}", "user_id": user_id, "timestamp": NOW, "event": "click", "campaign_id": f"c_{number % 6}",
        "channel": "email", "drop": "d", "line": number, "digest": str(number),
    }  # fmt: skip


def seed(vectors: Any, graph: Any) -> None:
    vectors.upsert_users([UserProfile(user, DIRECTIONS[number], 3, NOW_MS) for number, user in enumerate(USERS)])
    vectors.upsert_conversations(
        [
            Conversation(f"{number:032x}", user, DIRECTIONS[number], 3, NOW_MS, NOW_MS, {f"c_{number % 6}": 1.0})
            for number, user in enumerate(USERS)
        ]
    )
    graph.upsert_campaigns(CAMPAIGNS)
    graph.replace_engagements(
        USERS,
        [
            Engagement(user, f"c_{number % 6}", 0.5, 0.0, {"click": 1}, NOW_MS, NOW_MS, f"m_{number}")
            for number, user in enumerate(USERS)
        ],
    )
    graph.replace_expressed(USERS, [ExpressedIntent(user, "buy", 2, NOW_MS, "m_1") for user in USERS])
    graph.replace_mentioned({user: [Mention("c_1", 2, NOW_MS, "m_1")] for user in USERS})


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    """The running service, whole."""
    with TestClient(create_app(settings)) as running:
        eventually(lambda: running.get("/health").json()["status"] == "ok", within=20)
        yield running


@contextmanager
def stopped(settings: Settings, name: StoreName) -> Iterator[None]:
    """The server neither answers nor refuses, as long as the block lasts."""
    pid = stores_status(settings)[name].pid
    if pid is None:
        pytest.skip(f"{name} is not a server of ours")
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_every_channel_has_its_part_in_the_answer_and_the_cache_repeats_it(client: TestClient) -> None:
    answer = whole_answer(lambda: client.get("/recommendations/u_1?k=6"))
    assert answer["known_user"]
    assert (answer["generation"], answer["as_of"]) == ("g_test", "2026-01-01T12:00:00Z")
    found = {part["channel"] for item in answer["recommendations"] for part in item["evidence"]}
    assert found == {"similar_users", "similar_conversations", "mentions", "intents", "content", "engagement"}
    [(campaign, part)] = [
        (item["campaign_id"], part)
        for item in answer["recommendations"]
        for part in item["evidence"]
        if part["channel"] == "mentions"
    ]
    assert (campaign, part["message_id"], part["messages"]) == ("c_1", "m_1", 2)
    eventually(lambda: client.get("/recommendations/u_1?k=6").json() == {**answer, "retrieval_source": "cache"})


@pytest.mark.parametrize("name", ["mongodb", "milvus", "neo4j", "redis"])
def test_a_stopped_server_degrades_the_answer_in_time_and_comes_back(
    client: TestClient, settings: Settings, name: StoreName
) -> None:
    question = "/recommendations/u_2?exclude=c_0" if name != "redis" else "/recommendations/u_2"
    whole_answer(lambda: client.get(question))
    with stopped(settings, name):
        took, degraded = list[float](), list[list[str]]()
        for _ in range(10):
            started = time.monotonic()
            answer = client.get(question).json()
            took.append(time.monotonic() - started)
            degraded.append(answer["degraded"])
            assert answer["recommendations"]
        assert all(name in found for found in degraded) and [name] in degraded
        assert max(took) < 2
        assert median(took[FAILURES_TO_OPEN:]) < 2 * settings.deadline_seconds, "people wait for a store that is known to hang"
        started = time.monotonic()
        health = client.get("/health").json()
        assert time.monotonic() - started < 2
        assert (health["status"], health["stores"][name]["status"]) == ("degraded", "down")
    whole_answer(lambda: client.get(question))
    eventually(lambda: client.get("/health").json()["status"] == "ok", within=20)


def test_a_killed_cache_costs_nobody_an_answer(client: TestClient, settings: Settings) -> None:
    pid = stores_status(settings)["redis"].pid
    if pid is None:
        pytest.skip("redis is not a server of ours")
    os.kill(pid, signal.SIGKILL)
    for _ in range(20):
        response = client.get("/recommendations/u_3")
        assert response.status_code == 200
        assert response.json()["degraded"] in ([], ["redis"])
        time.sleep(0.02)
    eventually(lambda: client.get("/recommendations/u_3").json()["retrieval_source"] == "cache", within=20)


def test_without_a_cache_answers_say_so(settings: Settings) -> None:
    nowhere = settings.model_copy(update={"addresses": settings.addresses.model_copy(update={"redis": "redis://127.0.0.1:1"})})
    with TestClient(create_app(nowhere)) as client:
        answer = client.get("/recommendations/u_1").json()
        assert (answer["degraded"], answer["retrieval_source"]) == (["redis"], "computed")
        assert client.get("/health").json()["status"] == "degraded"


def test_warmed_answers_are_served_from_the_cache_and_warming_again_changes_nothing(
    client: TestClient, settings: Settings
) -> None:
    with stores.openers(settings).documents() as documents, stores.openers(settings).cache() as cache:
        cache.clear()
        active = documents.records.newest_users(100)
        assert sorted(active) == USERS
        told = list[int]()
        for outcome in ("computed", "kept"):
            assert asyncio.run(warm(settings, active, done=told.append)) == {outcome: len(USERS)}
        assert told == [*range(1, len(USERS) + 1)] * 2
        assert {client.get(f"/recommendations/{user}").json()["retrieval_source"] for user in USERS} == {"cache"}


def test_what_is_published_while_it_runs_is_served(client: TestClient, settings: Settings) -> None:
    with stores.openers(settings).documents() as documents:
        documents.generations.publish("g_newer", MODEL.model_dump())
        eventually(lambda: client.get("/recommendations/u_1").json()["generation"] == "g_newer")
        documents.generations.publish("g_test", MODEL.model_dump())


def test_a_rollback_brings_the_former_answers_back_exactly_cached_or_not(client: TestClient, settings: Settings) -> None:
    def answers(generation: str) -> list[Any]:
        """Everyone's, once they are from this generation and from the cache."""

        def all_cached() -> bool:
            found[:] = [client.get(f"/recommendations/{user}?k=6").json() for user in USERS]
            return {(answer["generation"], answer["retrieval_source"]) for answer in found} == {(generation, "cache")}

        found: list[Any] = []
        eventually(all_cached, within=20)
        return found

    with open_pipeline(settings) as pipeline, graph_of(settings) as graph:
        pipeline.documents.generations.publish("g_test", MODEL.model_dump())
        former = answers("g_test")
        other = MODEL.model_copy(update={"fingerprint": "other", "weights": {**MODEL.weights, "engagement": 1.0, "content": 0.0}})
        pipeline.documents.generations.publish("g_other", other.model_dump())
        assert [answer["recommendations"] for answer in answers("g_other")] != [answer["recommendations"] for answer in former]
        assert roll_back(pipeline, graph, run_id="r").generation == "g_test"
        assert answers("g_test") == former


def test_vectors_rebuilt_while_it_runs_are_served(client: TestClient, settings: Settings) -> None:
    def channels() -> set[str]:
        answer = whole_answer(lambda: client.get("/recommendations/u_5?k=6"))
        return {part["channel"] for item in answer["recommendations"] for part in item["evidence"]}

    opened = stores.openers(settings)
    with opened.documents() as documents, opened.vectors() as vectors:
        assert "content" in channels()
        documents.embeddings.begin_new_collections()
        rebuilt = vectors.at(documents.embeddings.collections_to_fill())
        rebuilt.prepare(DIMENSION)
        before = documents.embeddings.use_filled_collections()
        assert before is not None
        eventually(lambda: "content" not in channels())
        documents.database["state"].update_one({"_id": "collections"}, {"$set": {"in_use": before, "to_fill": before}})
        eventually(lambda: "content" in channels())
        rebuilt.drop()


def test_a_service_that_starts_while_a_server_hangs_serves_without_it(settings: Settings) -> None:
    question = "/recommendations/u_1?exclude=c_0"
    with stopped(settings, "neo4j"), TestClient(create_app(settings)) as client:
        eventually(lambda: client.get(question).json()["degraded"] == ["neo4j"])
        os.kill(stores_status(settings)["neo4j"].pid or 0, signal.SIGCONT)
        whole_answer(lambda: client.get(question))


def test_the_process_logs_json_and_ends_when_told_though_a_server_hangs(settings: Settings) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    addresses = settings.addresses
    environment = {
        "MONGODB_URI": addresses.mongodb, "MONGODB_DATABASE": settings.mongodb_database, "MILVUS_URI": addresses.milvus,
        "NEO4J_URI": addresses.neo4j, "NEO4J_USER": addresses.neo4j_user, "NEO4J_PASSWORD": addresses.neo4j_password,
        "REDIS_URL": addresses.redis, "WAREHOUSE_URL": addresses.warehouse,
    }  # fmt: skip
    code = f"from persona.settings import Settings; from serving.run import serve; serve(Settings(_env_file=None), port={port})"
    service = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, **environment}, stderr=subprocess.PIPE)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as http:
            eventually(lambda: _answers(http), within=30)
            assert http.get("/recommendations/-", params={"user_id": "team/anna"}).json()["user_id"] == "team/anna"
            assert "server" not in http.get("/livez").headers
            with stopped(settings, "neo4j"):
                eventually(lambda: http.get("/recommendations/u_4?exclude=c_0").json()["degraded"] == ["neo4j"])
                service.terminate()
                _, log = service.communicate(timeout=10)
        assert service.returncode in (0, -signal.SIGTERM)
        lines = [json.loads(line) for line in log.splitlines() if line.startswith(b"{")]
        assert {line["event"] for line in lines} >= {"store connected", "snapshot loaded", "request"}
        assert b"team/anna" not in log and b"u_4" not in log
    finally:
        service.kill()
        service.wait(10)


def _answers(http: httpx.Client) -> bool:
    try:
        return http.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False
