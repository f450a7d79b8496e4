"""`POST /intents`: the contract, what is refused, and what is answered while MongoDB is down."""

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from persona.language.classifier import IntentClassifier
from serving import services
from serving.app import create_app
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
    "body", [{}, {"texts": []}, {"texts": [""]}, {"texts": ["x"], "k": 0}, {"texts": "x"}, {"texts": ["x" * 100_001]}]
)
def test_what_does_not_fit_the_contract_is_refused(asked: TestClient, body: object) -> None:
    response = asked.post("/intents", json=body)
    assert (response.status_code, response.headers["content-type"]) == (422, "application/problem+json")


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
