"""How a history is cut into conversations, what each led to, and what a profile is made of."""

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persona.projections.conversations import (
    OPENING_CHARACTERS,
    PROFILE_PARTS,
    conversation_ids_of,
    conversations_of,
    in_one,
    openings_of,
    profile_of,
)
from persona.projections.engagements import EVENT_WEIGHTS, MENTION_WEIGHT
from persona.schemas import Conversation, Event, Vector

START = datetime(2025, 6, 1, tzinfo=UTC)
NUMBERS = itertools.count()
X, Y = np.array([1, 0], np.float32), np.array([0, 1], np.float32)
VECTORS: dict[str, Vector] = {"x": X, "y": Y, "-x": -X, "xy": np.array([0.6, 0.8], np.float32)}

NAMED = {"xy": ("c_1", "c_2")}
"""What the texts name."""


def said(minute: float, text: str = "x", **fields: Any) -> dict[str, Any]:
    return happened(minute, **{"text_hash": text, "characters": 1, "message": text, "event": "message", **fields})


def happened(minute: float, **fields: Any) -> dict[str, Any]:
    return {"_id": f"m{next(NUMBERS):06}", "timestamp": START + timedelta(minutes=minute), **fields}


def ordered(history: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(history, key=lambda record: (record["timestamp"], record["_id"]))


def conversations(*history: dict[str, Any]) -> list[Conversation]:
    return conversations_of("u", ordered(history), VECTORS, NAMED, {})


@pytest.mark.parametrize(("gap", "number"), [(0, 1), (29, 1), (29.99, 1), (30, 2), (31, 2), (10_000, 2)])
def test_silence_of_half_an_hour_ends_a_conversation(gap: float, number: int) -> None:
    found = conversations(said(0), said(5), said(5 + gap, "y"))
    assert len(found) == number
    assert sum(conversation.messages for conversation in found) == 3
    if number == 1:
        assert found[0].ended_at_ms - found[0].started_at_ms == round((5 + gap) * 60_000)
        assert np.allclose(found[0].vector, np.array([2, 1]) / np.sqrt(5), atol=1e-6)


def test_a_given_id_holds_across_silence_and_keeps_others_apart() -> None:
    found = conversations(
        said(0, conversation_id="a"),
        said(1),
        said(2, conversation_id="b"),
        said(3, conversation_id="a"),
        said(600, conversation_id="a"),
    )
    assert [conversation.messages for conversation in found] == [3, 1, 1]
    assert len({conversation.conversation_id for conversation in found}) == 3


def test_conversations_of_two_people_never_share_an_id() -> None:
    history = [said(0, conversation_id="a")]
    ids = [conversations_of(user, history, VECTORS, {}, {})[0].conversation_id for user in ("u", "v")]
    assert len(set(ids)) == 2 and all(len(key) == 32 and int(key, 16) >= 0 for key in ids)


def test_a_late_message_that_joins_two_conversations_leaves_one_of_the_two_ids() -> None:
    first, second, late = said(0), said(50), said(25)
    apart, joined = conversations(first, second), conversations(first, late, second)
    assert len(apart) == 2 and [conversation.messages for conversation in joined] == [3]
    assert joined[0].conversation_id == apart[0].conversation_id


def test_events_and_records_without_text_make_no_conversation() -> None:
    assert conversations(happened(0, event="click", campaign_id="c"), happened(1, event="message", intent="i")) == []
    assert profile_of("u", [happened(0, event="click", campaign_id="c")], VECTORS, {}) is None


def outcomes(*history: dict[str, Any]) -> list[dict[str, float]]:
    return [dict(conversation.outcomes) for conversation in conversations(*history)]


def test_an_event_belongs_to_the_conversation_before_it() -> None:
    click = EVENT_WEIGHTS[Event.CLICK]
    assert outcomes(said(0), said(100), happened(101, event="click", campaign_id="c")) == [{}, {"c": click}]
    assert outcomes(said(0), happened(50, event="click", campaign_id="c"), said(100)) == [{"c": click}, {}]
    assert outcomes(happened(0, event="click", campaign_id="c"), said(1)) == [{}]
    assert outcomes(said(0), happened(24 * 60, event="click", campaign_id="c")) == [{"c": click}]
    assert outcomes(said(0), happened(24 * 60 + 1, event="click", campaign_id="c")) == [{}]


def test_an_event_with_a_conversation_id_belongs_to_that_conversation_whenever_it_happens() -> None:
    click = EVENT_WEIGHTS[Event.CLICK]
    days_later = happened(5_000, event="click", campaign_id="c", conversation_id="a")
    assert outcomes(said(0, conversation_id="a"), said(4_999), days_later) == [{"c": click}, {}]
    assert outcomes(said(0), happened(1, event="click", campaign_id="c", conversation_id="never seen")) == [{"c": click}]


def test_a_message_that_names_a_campaign_is_an_outcome_and_the_strongest_event_counts() -> None:
    weights = EVENT_WEIGHTS
    assert outcomes(said(0, campaign_id="c")) == [{"c": weights[Event.MESSAGE]}]
    assert outcomes(
        said(0, campaign_id="c"),
        happened(1, event="conversion", campaign_id="c"),
        happened(2, event="impression", campaign_id="c"),
    ) == [{"c": 1.0}]
    assert outcomes(said(0), happened(1, event="conversion", campaign_id="c"), happened(2, event="dismiss", campaign_id="c")) == [
        {"c": -1.0}
    ]


def test_what_was_named_is_an_outcome_unless_it_was_refused() -> None:
    assert outcomes(said(0, "xy"), said(100, "x")) == [{"c_1": MENTION_WEIGHT, "c_2": MENTION_WEIGHT}, {}]
    for event, strength in (("impression", MENTION_WEIGHT), ("conversion", 1.0), ("dismiss", -1.0)):
        found = outcomes(said(0, "xy"), happened(1, event=event, campaign_id="c_1"))
        assert found == [{"c_1": strength, "c_2": MENTION_WEIGHT}]
    assert outcomes(happened(0, event="dismiss", campaign_id="c_1"), said(1, "xy"))[0]["c_1"] == MENTION_WEIGHT


def test_a_profile_leans_to_what_was_said_last() -> None:
    profile = profile_of("u", [said(0, "x"), said(14 * 24 * 60, "y")], VECTORS, {})
    assert profile is not None
    assert np.allclose(profile.vector, np.array([0.5, 1]) / np.sqrt(1.25), atol=1e-6)
    assert (profile.messages, profile.last_at_ms) == (2, round((START + timedelta(days=14)).timestamp() * 1000))


def test_a_profile_is_made_of_the_newest_messages_alone() -> None:
    old = [said(minute, "x", characters=OPENING_CHARACTERS) for minute in range(50)]
    new = [said(100 + minute, "y", characters=OPENING_CHARACTERS) for minute in range(PROFILE_PARTS)]
    profile = profile_of("u", [*old, *new], VECTORS, {})
    assert profile is not None and profile.messages == PROFILE_PARTS
    assert np.allclose(profile.vector, Y)


def test_age_counts_from_the_persons_own_newest_message() -> None:
    recent = [said(0, "x"), said(600, "y")]
    ancient = [{**record, "timestamp": record["timestamp"].replace(year=1998)} for record in recent]
    now, then = profile_of("u", recent, VECTORS, {}), profile_of("u", ancient, VECTORS, {})
    assert now is not None and then is not None
    assert np.array_equal(now.vector, then.vector)


def test_centuries_between_two_messages_underflow_nothing() -> None:
    first = {**said(0, "x"), "timestamp": datetime(1, 1, 1, tzinfo=UTC)}
    profile = profile_of("u", [first, said(0, "y")], VECTORS, {})
    assert profile is not None and np.allclose(profile.vector, Y)
    assert [len(conversation.vector) for conversation in conversations(first, said(0, "y"))] == [2, 2]


def test_messages_that_cancel_each_other_out_still_give_a_unit_vector() -> None:
    history = [said(0, "x"), said(0, "-x")]
    profile = profile_of("u", history, VECTORS, {})
    assert profile is not None
    for vector in (profile.vector, conversations(*history)[0].vector):
        assert np.isfinite(vector).all() and np.isclose(np.linalg.norm(vector), 1)
        assert vector.dtype == np.float32


# -- how a conversation opens ------------------------------------------------------------------------------------------------


def test_a_conversation_of_several_messages_has_the_vector_of_how_it_opens() -> None:
    history = [said(0, "x"), said(1, "y"), said(100, "x")]
    [opening] = openings_of("u", history)
    assert (opening.user_id, opening.words) == ("u", "x y")
    stored = {opening.conversation_id: (opening.said, VECTORS["xy"])}
    first, second = conversations_of("u", history, VECTORS, {}, stored)
    assert first.conversation_id == opening.conversation_id
    assert (first.vector.tolist(), second.vector.tolist()) == (VECTORS["xy"].tolist(), X.tolist())


def test_an_opening_is_of_no_use_once_other_messages_open_the_conversation() -> None:
    history = [said(0, "x"), said(2, "x"), said(1, "y"), said(3, "y")]
    [opening] = openings_of("u", history[:2])
    stored = {opening.conversation_id: (opening.said, Y)}
    for grown in (history[:3], [history[0], history[3]]):
        [found] = conversations_of("u", ordered(grown), VECTORS, {}, stored)
        [without] = conversations_of("u", ordered(grown), VECTORS, {}, {})
        assert np.array_equal(found.vector, without.vector) and not np.allclose(found.vector, Y)
        [now] = openings_of("u", ordered(grown))
        assert (now.conversation_id, now.said == opening.said) == (opening.conversation_id, False)


def test_what_is_said_after_the_opening_changes_the_profile_alone() -> None:
    long = [said(0, "x"), said(1, "x", characters=OPENING_CHARACTERS), said(2, "y", characters=OPENING_CHARACTERS)]
    assert [opening.said for opening in openings_of("u", long)] == [opening.said for opening in openings_of("u", long[:2])]
    assert np.allclose(conversations(*long)[0].vector, X)
    profile = profile_of("u", long, VECTORS, {})
    assert profile is not None and np.allclose(profile.vector, np.array([1, 1]) / np.sqrt(2), atol=1e-3)


def test_a_first_message_that_is_long_stands_for_itself() -> None:
    assert openings_of("u", [said(0, "x", characters=OPENING_CHARACTERS), said(1, "y")]) == []
    assert in_one(["x" * OPENING_CHARACTERS, "y"]) == "x" * OPENING_CHARACTERS
    assert in_one(["x" * 600]) == "x" * 600 and len(in_one(["x", "y" * 600])) == OPENING_CHARACTERS


def test_without_an_opening_longer_messages_count_more() -> None:
    [found] = conversations(said(0, "x", characters=100), said(1, "y", characters=50))
    assert np.allclose(found.vector, np.array([2, 1]) / np.sqrt(5), atol=1e-6)


records = st.lists(
    st.fixed_dictionaries(
        {
            "minute": st.integers(0, 200),
            "text": st.sampled_from([None, "x", "y", "-x", "xy"]),
            "event": st.sampled_from([event.value for event in Event]),
        },
        optional={"conversation_id": st.sampled_from("ab"), "campaign_id": st.sampled_from("cd")},
    ),
    max_size=12,
)


@settings(max_examples=200, deadline=None)
@given(drawn=records, shuffle=st.randoms(use_true_random=False))
def test_the_order_of_arrival_does_not_matter_and_no_message_is_lost(drawn: list[dict[str, Any]], shuffle: Any) -> None:
    history = [
        happened(fields["minute"], **{key: value for key, value in fields.items() if key not in ("minute", "text")})
        | ({"text_hash": fields["text"], "characters": len(fields["text"])} if fields["text"] else {})
        for fields in drawn
    ]
    arrived = list(history)
    shuffle.shuffle(arrived)
    before, after = conversations(*history), conversations(*arrived)
    assert [_plain(conversation) for conversation in before] == [_plain(conversation) for conversation in after]
    assert conversation_ids_of("u", ordered(history)) == [conversation.conversation_id for conversation in before]
    assert len({conversation.conversation_id for conversation in before}) == len(before)
    assert sum(conversation.messages for conversation in before) == sum("text_hash" in record for record in history)
    for conversation in before:
        assert np.isclose(np.linalg.norm(conversation.vector), 1, atol=1e-5)
        assert conversation.started_at_ms <= conversation.ended_at_ms
        assert all(-1 <= strength <= 1 for strength in conversation.outcomes.values())
    profiles = [profile_of("u", ordered(records), VECTORS, {}) for records in (history, arrived)]
    assert (profiles[0] is None) == (not before)
    if profiles[0] is not None and profiles[1] is not None:
        assert np.array_equal(profiles[0].vector, profiles[1].vector)


def _plain(conversation: Conversation) -> tuple[Any, ...]:
    return (
        conversation.conversation_id, conversation.messages, conversation.started_at_ms, conversation.ended_at_ms,
        dict(conversation.outcomes), conversation.vector.tobytes(),
    )  # fmt: skip
