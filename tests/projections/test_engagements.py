"""How records fold into ties between people, campaigns and intents."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from persona.projections.engagements import EVENT_NAMES, EVENT_WEIGHTS, engagement_of, expressed_intents, fact_of, mentions_of
from persona.schemas import Event, ExpressedIntent, Fact, Mention

START = datetime(2025, 6, 1, tzinfo=UTC)
START_MS = round(START.timestamp() * 1000)
HOUR_MS = 3_600_000


def pair(*events: tuple[str, int], value: float = 0.0) -> dict[str, Any]:
    """A folded pair of these (event, hour), as the truth folds it."""
    negative = [START + timedelta(hours=hour) for event, hour in events if event in ("dismiss", "unsubscribe")]
    positive = [START + timedelta(hours=hour) for event, hour in events if event not in ("dismiss", "unsubscribe")]
    return {
        "_id": {"user_id": "u", "campaign_id": "c"},
        **{name: sum(event == name for event, _ in events) for name in EVENT_NAMES},
        "value": value,
        "first_at": min(positive + negative),
        "last": {"at": max(positive + negative), "message_id": "m"},
        "last_negative_at": max(negative, default=None),
        "last_positive_at": max(positive, default=None),
    }


@pytest.mark.parametrize("event", list(Event))
def test_every_event_has_a_weight_between_minus_one_and_one(event: Event) -> None:
    assert -1 <= EVENT_WEIGHTS[event] <= 1
    assert engagement_of(pair((event.value, 0))).weight == EVENT_WEIGHTS[event]


def test_the_strongest_event_counts() -> None:
    folded = engagement_of(pair(("conversion", 0), ("impression", 5), ("impression", 6), value=2))
    assert folded.weight == 1.0
    assert folded.counts == {"conversion": 1, "impression": 2}
    assert (folded.first_at_ms, folded.last_at_ms, folded.value) == (START_MS, START_MS + 6 * HOUR_MS, 2.0)
    assert folded.last_message_id == "m"


@pytest.mark.parametrize("no", ["dismiss", "unsubscribe"])
def test_what_came_last_decides_between_yes_and_no(no: str) -> None:
    assert engagement_of(pair(("conversion", 0), (no, 1))).weight == -1.0
    assert engagement_of(pair((no, 0), ("conversion", 1))).weight == 1.0
    assert engagement_of(pair((no, 0), ("impression", 1))).weight == EVENT_WEIGHTS[Event.IMPRESSION]
    assert engagement_of(pair((no, 1), ("conversion", 1))).weight == -1.0


def record(number: int, **fields: Any) -> dict[str, Any]:
    return {"_id": f"m{number}", "user_id": "u", "timestamp": START + timedelta(hours=number), **fields}


def test_a_given_intent_wins_over_an_inferred_one() -> None:
    inferred = {"t1": "refund", "t2": "travel"}
    history = [
        record(0, text_hash="t1"),
        record(1, text_hash="t2", intent="refund"),
        record(2, text_hash="unknown"),
        record(3, intent="travel"),
        record(4),
        record(5, text_hash="t1", user_id="v"),
    ]
    found = {(intent.user_id, intent.intent): intent for intent in expressed_intents(history, inferred)}
    assert found == {
        ("u", "refund"): ExpressedIntent("u", "refund", 2, START_MS + HOUR_MS, "m1"),
        ("u", "travel"): ExpressedIntent("u", "travel", 1, START_MS + 3 * HOUR_MS, "m3"),
        ("v", "refund"): ExpressedIntent("v", "refund", 1, START_MS + 5 * HOUR_MS, "m5"),
    }


def test_each_message_that_names_a_campaign_counts_once() -> None:
    named = {"t1": ("c_1", "c_2"), "t2": ("c_1",)}
    history = [
        record(0, text_hash="t1"),
        record(1, text_hash="t1"),
        record(2, text_hash="t2"),
        record(3, text_hash="unknown"),
        record(4, campaign_id="c_3"),
        record(5, text_hash="t2", user_id="v"),
    ]
    assert mentions_of(["u", "v", "w"], history, named) == {
        "u": [Mention("c_1", 3, START_MS + 2 * HOUR_MS, "m2"), Mention("c_2", 2, START_MS + HOUR_MS, "m1")],
        "v": [Mention("c_1", 1, START_MS + 5 * HOUR_MS, "m5")],
        "w": [],
    }


def test_a_fact_says_what_was_given_and_nothing_inferred() -> None:
    given = record(1, drop="d", campaign_id="c", event="click", channel="email")
    assert fact_of(given) == Fact("m1", "d", "u", "c", "click", "email", None, None, START_MS + HOUR_MS)
    assert fact_of({**given, "intent": "i", "value": 2.5, "text_hash": "t"}).intent == "i"
