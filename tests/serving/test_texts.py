"""`POST /recommendations`: what is offered for texts, and what is left while a store is down."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.serving.conftest import Fakes
from tests.serving.test_faults import sources
from tests.serving.test_intents import asked  # noqa: F401

REFUND = {"texts": ["refund please"]}


@pytest.fixture
def running(asked: TestClient, fakes: Fakes) -> TestClient:  # noqa: F811
    """The running service; a campaign answers the intent of `REFUND`."""
    fakes.mongodb.all_campaigns[3].intents = ["refund"]
    fakes.mongodb.catalog_version += 1
    return asked


def offer(running: TestClient, **question: Any) -> dict[str, Any]:
    response = running.post("/recommendations", json={**REFUND, **question})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def test_texts_are_answered_like_a_person_of_whom_nothing_else_is_known(running: TestClient, fakes: Fakes) -> None:
    answer = offer(running, texts=["refund please", "is there a Campaign 2?"])
    assert (answer["user_id"], answer["known_user"], answer["retrieval_source"], answer["degraded"]) == (
        None,
        True,
        "computed",
        [],
    )
    evidence = {item["campaign_id"]: {part["channel"]: part for part in item["evidence"]} for item in answer["recommendations"]}
    assert evidence["c_4"]["intents"]["intent"] == "refund"
    assert evidence["c_2"]["mentions"] == {**evidence["c_2"]["mentions"], "messages": 1}
    assert {"similar_users", "similar_conversations", "engagement"} <= sources(answer)
    assert not fakes.redis.kept


def test_k_channel_exclude_and_explain_mean_what_they_mean_for_a_person(running: TestClient) -> None:
    assert len(offer(running, k=2)["recommendations"]) == len(offer(running, top_k=2)["recommendations"]) == 2
    assert "c_4" not in [item["campaign_id"] for item in offer(running, exclude=["c_4"])["recommendations"]]
    assert all("evidence" not in item for item in offer(running, explain=False)["recommendations"])
    assert offer(running, channel="EMAIL")["recommendations"]


@pytest.mark.parametrize("body", [{}, {"texts": []}, {"texts": [""]}, {**REFUND, "k": 0}, {**REFUND, "exclude": "c_1"}, [], "x"])
def test_what_does_not_fit_the_contract_is_refused(running: TestClient, body: object) -> None:
    response = running.post("/recommendations", json=body)
    assert (response.status_code, response.headers["content-type"]) == (422, "application/problem+json")


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("milvus", {"intents", "engagement"}),
        ("neo4j", {"intents", "similar_conversations", "engagement"}),
        ("mongodb", {"intents", "similar_users", "similar_conversations", "engagement"}),
    ],
)
def test_a_store_that_is_down_costs_its_channels_and_what_was_learned_before_goes_on_to_serve(
    running: TestClient, fakes: Fakes, name: str, left: set[str]
) -> None:
    assert offer(running)["degraded"] == []
    getattr(fakes, name).down = True
    answer = offer(running)
    assert (answer["degraded"], sources(answer)) == ([name], left)


def test_who_cannot_read_still_sees_what_is_named(running: TestClient, fakes: Fakes) -> None:
    assert running.get("/recommendations/u_9").status_code == 200  # the catalog is known, no text was ever read
    fakes.mongodb.down = True
    answer = offer(running, texts=["is there a Campaign 2?"])
    assert (answer["degraded"], sources(answer)) == (["mongodb"], {"mentions", "engagement"})


def test_another_model_than_the_vectors_come_from_is_said(running: TestClient, fakes: Fakes) -> None:
    assert fakes.mongodb.classifier
    fakes.mongodb.classifier = ("v1", "another model", fakes.mongodb.classifier[2])
    response = running.post("/recommendations", json=REFUND)
    assert (response.status_code, response.json()["type"]) == (503, "urn:persona:problem:embedding_mismatch")
