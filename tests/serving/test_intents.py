"""`POST /intents`: the contract, what is refused, and what is answered while MongoDB is down."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

import pytest
from fastapi.testclient import TestClient

from persona.language.classifier import IntentClassifier
from persona.schemas import Vectors
from serving import services
from serving.app import create_app
from serving.turns import IN_LINE
from tests.serving.conftest import SETTINGS, Fakes
from tests.worlds import HashingEncoder

ENCODER = HashingEncoder()
NONSENSE = "they were all quite blue under heavy rain last tuesday evening"
EXAMPLES = {"refund": ["i want my money back", "refund please"], "travel": ["a trip to the sea", "book me a flight"]}


@pytest.fixture
def asked(fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """The running service with a stored classifier and an encoder of a few lines."""
    fitted = IntentClassifier.fit({intent: ENCODER.encode(texts) for intent, texts in EXAMPLES.items()})
    fakes.mongodb.classifier = ("v1", ENCODER.fingerprint, fitted.arrays())
    monkeypatch.setattr(services, "LazyEncoder", lambda settings: ENCODER)
    with TestClient(create_app(SETTINGS, stores=fakes.openers())) as running:
        yield running


def test_texts_get_intents_with_probabilities_or_none(asked: TestClient) -> None:
    answer = asked.post("/intents", json={"texts": ["my money back please", NONSENSE], "k": 1}).json()
    assert answer["intent"] == "refund"
    assert [found["intent"] for found in answer["intents"]] == ["refund"]
    assert 0.4 < answer["intents"][0]["probability"] <= 1
    assert [shown["intent"] for shown in answer["texts"]] == ["refund", None]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"texts": []},
        {"texts": [""]},
        {"texts": ["x"], "k": 0},
        {"texts": "x"},
        {"texts": ["x" * 100_001]},
        {"texts": ["x"] * 1_001},
    ],
)
def test_what_does_not_fit_the_contract_is_refused(asked: TestClient, body: object) -> None:
    response = asked.post("/intents", json=body)
    assert (response.status_code, response.headers["content-type"]) == (422, "application/problem+json")


def test_texts_that_are_too_much_together_are_refused_with_how_much_there_may_be(asked: TestClient) -> None:
    response = asked.post("/intents", json={"texts": ["x" * 60_000, "y" * 60_000]})
    assert response.status_code == 422
    [error] = response.json()["errors"]
    assert error["field"] == "texts" and "120,000 characters" in error["reason"] and "100,000" in error["reason"]


def test_who_comes_when_too_many_wait_is_told_to_come_back(asked: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    slow, encode = threading.Event(), ENCODER.encode

    def encoding(texts: Sequence[str]) -> Vectors:
        assert slow.wait(60)
        return encode(texts)

    monkeypatch.setattr(ENCODER, "encode", encoding)
    with ThreadPoolExecutor(IN_LINE + 1) as others:
        waiting = [others.submit(asked.post, "/intents", json={"texts": ["refund please"]}) for _ in range(IN_LINE + 1)]
        try:
            [refused] = wait(waiting, 30, FIRST_COMPLETED).done
        finally:
            slow.set()
    assert (refused.result().status_code, refused.result().json()["type"]) == (503, "urn:persona:problem:busy")
    assert [answer.result().json()["intent"] for answer in waiting if answer is not refused] == ["refund"] * IN_LINE


def test_another_model_than_the_vectors_come_from_is_said_with_what_to_do(asked: TestClient, fakes: Fakes) -> None:
    assert fakes.mongodb.classifier
    fakes.mongodb.classifier = ("v1", "another model", fakes.mongodb.classifier[2])
    response = asked.post("/intents", json={"texts": ["refund please"]})
    assert (response.status_code, response.json()["type"]) == (503, "urn:persona:problem:embedding_mismatch")
    assert "the stored vectors are another model" in response.json()["detail"] and "EMBEDDING_MODEL" in response.json()["detail"]


def test_without_any_classifier_everything_shows_none(asked: TestClient, fakes: Fakes) -> None:
    fakes.mongodb.classifier = None
    assert asked.post("/intents", json={"texts": ["refund please"]}).json() == {
        "intent": None, "intents": [], "texts": [{"intent": None, "intents": []}],
    }  # fmt: skip


def test_a_new_classifier_answers_at_once_and_the_held_one_while_mongodb_is_down(asked: TestClient, fakes: Fakes) -> None:
    assert asked.post("/intents", json={"texts": ["refund please"]}).json()["intent"] == "refund"
    other = IntentClassifier.fit({"money": ENCODER.encode(["refund please"])})
    fakes.mongodb.classifier = ("v2", ENCODER.fingerprint, other.arrays())
    assert asked.post("/intents", json={"texts": ["refund please"]}).json()["intent"] == "money"
    fakes.mongodb.down = True
    assert asked.post("/intents", json={"texts": ["refund please"]}).json()["intent"] == "money"


def test_where_mongodb_was_never_there_nothing_can_be_said(asked: TestClient, fakes: Fakes) -> None:
    fakes.mongodb.down = True
    assert asked.post("/intents", json={"texts": ["refund please"]}).status_code == 503
