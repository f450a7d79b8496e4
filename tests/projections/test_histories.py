"""What is computed of all histories at once is what is computed of each alone."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from persona.evaluation.replay import engagements_of
from persona.projections.conversations import conversations_of, openings_of, profile_of
from persona.projections.engagements import EVENT_NAMES
from persona.projections.histories import EPOCH, EVER, MS, Histories
from tests.tables import table_of

BEGIN = datetime(2026, 5, 1, tzinfo=UTC)
TEXTS = [f"t{number}" for number in range(6)]
VECTORS = {
    text: (row / np.linalg.norm(row)).astype(np.float32)
    for text, row in zip(TEXTS, np.random.default_rng(1).normal(size=(6, 8)), strict=True)
}
NAMED = {"t1": ("c_1", "c_2"), "t2": ("c_9",), "t3": ("c_2",)}


@st.composite
def records(draw: st.DrawFn) -> dict[str, Any]:
    minutes = draw(st.one_of(st.integers(0, 100), st.integers(0, 4_000)))
    record: dict[str, Any] = {
        "_id": draw(st.uuids()).hex,
        "user_id": draw(st.sampled_from(["u_1", "u_2", "u_3"])),
        "timestamp": BEGIN + timedelta(minutes=minutes),
        "event": draw(st.sampled_from(EVENT_NAMES)),
        "channel": "web",
    }
    if text := draw(st.sampled_from([None, *TEXTS])):
        record |= {"text_hash": text, "message": text, "characters": draw(st.sampled_from([0, 3, 100, 300, 600]))}
    optional = {"campaign_id": [None, "c_1", "c_2", "c_3"], "conversation_id": [None, "k_1", "k_2"]}
    drawn = {field: draw(st.sampled_from(values)) for field, values in optional.items()}
    return record | {field: value for field, value in drawn.items() if value}


@settings(deadline=None, max_examples=100)
@given(st.lists(records(), max_size=30, unique_by=lambda record: record["_id"]), st.integers(1, 4_001), st.integers(0, 3))
def test_all_at_once_is_each_alone(rows: list[dict[str, Any]], until: int, encoded: int) -> None:
    cut = BEGIN + timedelta(minutes=until)
    before = sorted(
        (row for row in rows if row["timestamp"] < cut), key=lambda row: (row["user_id"], row["timestamp"], row["_id"])
    )
    own = {user: [row for row in before if row["user_id"] == user] for user in sorted({row["user_id"] for row in before})}
    opened = [opening for user, history in own.items() for opening in openings_of(user, history)]
    openings = {opening.conversation_id: (opening.said, VECTORS["t0"]) for opening in opened[:encoded]}
    told = [talk for user, history in own.items() for talk in conversations_of(user, history, VECTORS, NAMED, openings)]
    profiles = [found for user, history in own.items() if (found := profile_of(user, history, VECTORS, openings))]
    ties = {(tie.user_id, tie.campaign_id): tie for history in own.values() for tie in engagements_of(history)}

    histories = Histories(table_of(rows), NAMED)
    vectors = np.array([VECTORS[text] for text in histories.texts.all], np.float32).reshape(-1, 8)
    talks = histories.talks_before((cut - EPOCH) // MS)
    known = histories.ties_before((cut - EPOCH) // MS, talks)
    users, campaigns = histories.users.all, histories.campaigns.all
    spans = zip(talks.user.tolist(), talks.started_ms.tolist(), talks.ended_ms.tolist(), strict=True)
    assert [(users[user], began, ended) for user, began, ended in spans] == [
        (talk.user_id, talk.started_at_ms, talk.ended_at_ms) for talk in told
    ]
    of_talks = histories.talk_vectors(talks, vectors, openings)
    assert of_talks.shape == (len(told), 8) and all(
        np.allclose(ours, talk.vector, atol=1e-5) for ours, talk in zip(of_talks, told, strict=True)
    )
    people = histories.profiles(talks, of_talks, vectors)
    assert [users[user] for user in np.unique(talks.user)] == [profile.user_id for profile in profiles]
    assert all(np.allclose(ours, profile.vector, atol=1e-5) for ours, profile in zip(people, profiles, strict=True))
    outcomes: list[dict[str, float]] = [{} for _ in told]
    for talk, campaign, strength in zip(*known.outcomes(), strict=True):
        outcomes[talk][campaigns[campaign]] = strength
    assert outcomes == [talk.outcomes for talk in told]
    pairs = known.pairs(len(campaigns))
    columns = zip(pairs.user.tolist(), pairs.campaign.tolist(), pairs.weight.tolist(), pairs.last_at_ms.tolist(), strict=True)
    assert {(users[user], campaigns[campaign]): (weight, at_ms) for user, campaign, weight, at_ms in columns} == {
        pair: (tie.weight, tie.last_at_ms) for pair, tie in ties.items()
    }


def test_of_nothing_there_is_nothing() -> None:
    histories = Histories(table_of([]), {})
    talks = histories.talks_before(EVER)
    assert len(talks.rows) == len(histories.ties_before(EVER, talks).user) == 0
