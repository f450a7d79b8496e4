"""The routes that name people: their contracts, what is not there, and what they cost others."""

import threading
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

import pytest
from fastapi.testclient import TestClient

from persona.settings import Settings
from serving import guard
from serving.app import create_app
from serving.turns import IN_LINE
from tests.serving.conftest import Fakes


def test_an_audience_agrees_with_each_members_own_answer(client: TestClient) -> None:
    response = client.get("/campaigns/c_2/audience", params={"k": 2, "channel": "email"})
    assert response.status_code == 200
    assert list(response.json()) == ["campaign_id", "audience", "generation", "degraded"]
    members = response.json()["audience"]
    assert [member["rank"] for member in members] == [1, 2]
    assert members[0]["user_id"] == "u_1"
    for member in members:
        why = client.get(f"/recommendations/{member['user_id']}/why?campaign_id=c_2&channel=email").json()
        assert member["score"] == why["ranking_score"]


def test_similar_people_are_named_with_how_near_they_are(client: TestClient) -> None:
    assert client.get("/users/u_1/similar?k=3").json() == {
        "user_id": "u_1", "similar": [{"user_id": "u_2", "rank": 1, "similarity": 0.9}],
    }  # fmt: skip
    assert client.get("/users/u_2/similar").json() == {"user_id": "u_2", "similar": []}


def test_ids_that_do_not_fit_a_path(client: TestClient) -> None:
    assert client.get("/campaigns/-/audience", params={"campaign_id": "c_2"}).json()["campaign_id"] == "c_2"
    assert client.get("/users/-/similar", params={"user_id": "u_1"}).json()["user_id"] == "u_1"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("campaigns/c_99/audience", 404),
        ("campaigns/-/audience", 422),
        ("campaigns/c_1/audience?k=101", 422),
        ("users/nobody/similar", 404),
        ("users/u_1/similar?k=0", 422),
    ],
)
def test_who_or_what_is_not_there_is_a_problem(client: TestClient, path: str, status: int) -> None:
    response = client.get(path)
    assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json")


def test_a_store_that_is_down_is_named(client: TestClient, fakes: Fakes) -> None:
    fakes.neo4j.down = True
    audience = client.get("/campaigns/c_2/audience").json()
    assert audience["degraded"] == ["neo4j"]
    assert [member["user_id"] for member in audience["audience"]] == ["u_2"]
    fakes.milvus.down = True
    assert client.get("/users/u_1/similar").status_code == 503
    assert client.get("/campaigns/c_2/audience").status_code == 503


def test_who_waits_for_an_audience_keeps_nobody_from_an_answer(
    client: TestClient, fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = client.get("/recommendations/u_2").json()["recommendations"]
    slow = threading.Event()
    monkeypatch.setattr(fakes.neo4j, "interested_in", lambda campaign_id, *, limit: slow.wait(60) and ["u_1"])
    with ThreadPoolExecutor(IN_LINE + 1) as others:
        waiting = [others.submit(client.get, "/campaigns/c_2/audience") for _ in range(IN_LINE + 1)]
        try:
            [refused] = wait(waiting, 30, FIRST_COMPLETED).done
            assert client.get("/recommendations/u_2?exclude=c_9").json()["recommendations"] == whole
        finally:
            slow.set()
    problem = refused.result()
    assert (problem.status_code, problem.json()["type"], problem.headers["retry-after"]) == (
        503,
        "urn:persona:problem:busy",
        "30",
    )
    assert [answer.result().status_code for answer in waiting if answer is not refused] == [200] * IN_LINE


def test_a_campaign_that_takes_long_to_look_up_does_not_cost_others_the_store(
    fakes: Fakes, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = threading.Event()
    monkeypatch.setattr(fakes.neo4j, "interested_in", lambda campaign_id, *, limit: slow.wait(60) and [])
    impatient = settings.model_copy(update={"store_timeout_seconds": 0.01})
    with TestClient(create_app(impatient, stores=fakes.openers())) as client:
        for _ in range(guard.FAILURES_TO_OPEN + 1):
            assert client.get("/campaigns/c_2/audience").json()["degraded"] == ["neo4j"]
        assert client.get("/recommendations/u_1").json()["degraded"] == []
        slow.set()
