"""What the replay shows is what was known by then: nothing of the future, of nobody."""

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from persona.evaluation.replay import Replay, engagements_of, queries_in
from persona.evaluation.splits import Window
from persona.projections.conversations import profile_of
from persona.ranking.model import fit
from persona.schemas import Event
from tests.evaluation.logs import did, log_of, ms

RECORDS = st.lists(
    st.builds(
        did,
        st.sampled_from(["u_1", "u_2", "u_3", "u_4"]),
        st.integers(min_value=0, max_value=300),
        st.sampled_from([event.value for event in Event]),
        st.sampled_from([None, "c_1", "c_2", "c_3"]),
        st.sampled_from([None, "a loan", "a house by the sea", "savings for a house"]),
    ),
    min_size=1,
    max_size=40,
    unique_by=lambda record: record["_id"],
)
CUT = 150


def seen(records: list[dict[str, Any]], cut: int) -> Any:
    """Everything a channel can ask, asked."""
    log = log_of(records)
    replay = Replay(log, ms(cut))
    probe = np.ones(48, dtype=np.float32) / np.sqrt(48, dtype=np.float32)
    users = sorted({record["user_id"] for record in records})
    known = {user: 1.0 for user in users if user in log.users.numbers}
    return (
        sorted((user, round(nearness, 5)) for user, nearness in replay.similar_users(probe, limit=99, exclude=None)),
        sorted(
            (round(found.similarity, 5), str(sorted(found.outcomes.items())))
            for found in replay.similar_conversations(probe, limit=99, exclude_user="u_1")
        ),
        replay.campaigns_of(known, now_ms=ms(cut), half_life_days=7, limit=99),
        replay.related(30.0).related_campaigns({"c_1": 1.0, "c_2": 0.5}, limit=99),
        fit(log.day_buckets(ms(cut)), facts=0, fingerprint="").figures,
    )


@settings(deadline=None, max_examples=60)
@given(RECORDS)
def test_nothing_after_the_cut_is_seen(records: list[dict[str, Any]]) -> None:
    before = [record for record in records if record["timestamp"].timestamp() * 1000 < ms(CUT)]
    everyone = [did(user, -1, "message") for user in ("u_1", "u_2", "u_3", "u_4")]  # so that both logs know the same people
    assert seen(records + everyone, CUT) == seen(before + everyone, CUT)


@settings(deadline=None, max_examples=60)
@given(RECORDS)
def test_a_query_knows_what_the_user_did_before_it_and_its_truth_is_what_came_then(records: list[dict[str, Any]]) -> None:
    log = log_of(records)
    window = Window(ms(CUT), ms(301))
    for query in queries_in(log, window, limit=99):
        own = [record for record in records if record["user_id"] == query.user_id]
        earlier = [record for record in own if record["timestamp"].timestamp() * 1000 < query.at_ms]
        later = {record.get("campaign_id") for record in own if record not in earlier}
        assert window.start_ms <= query.at_ms < window.end_ms
        assert query.relevant and query.relevant <= later and not query.relevant & query.taken
        assert all(tie.last_at_ms < query.at_ms for tie in query.context.history)
        assert query.taken <= {record.get("campaign_id") for record in earlier}
        said = [record["message"] for record in earlier if "message" in record]
        assert set(query.context.mentioned) == ({"c_1", "c_2"} if "a house by the sea" in said else set())
        assert sum(found.count for found in query.context.intents.values()) == said.count("savings for a house")
        assert (query.context.vector is None) == (not any("text_hash" in record for record in earlier))
        assert query.warm == any(record["timestamp"].timestamp() * 1000 < window.start_ms for record in own)
        probe = log_of([record for record in records if record in earlier or record["user_id"] != query.user_id])
        if earlier:  # the same person, had they stopped there
            begin = int(probe.begins[probe.users.numbers[query.user_id]])
            history = list(probe.records(range(begin, begin + len(earlier))))
            profile = profile_of(query.user_id, history, probe.vectors, {})
            if profile:
                assert query.context.vector is not None
                np.testing.assert_allclose(profile.vector, query.context.vector, atol=1e-6)


def test_a_query_is_asked_for_each_sitting_before_the_first_campaign_is_named() -> None:
    records = [
        did("u_1", 0, "conversion", "c_old"),
        did("u_1", 100, "message", None, "a house"),
        did("u_1", 101, "impression", "c_1"),
        did("u_1", 102, "message", None, "what a find"),
        did("u_1", 103, "conversion", "c_1"),
        did("u_1", 104, "conversion", "c_old"),  # taken before: struck out
        did("u_1", 200, "click", "c_2"),
        did("u_2", 150, "impression", "c_1"),  # nothing came of it: no query
        did("u_3", 160, "reply", "c_3"),
    ]
    log = log_of(records)
    found = queries_in(log, Window(ms(100), ms(300)), limit=99)
    assert [(query.user_id, query.at_ms, set(query.relevant), set(query.taken), query.warm) for query in found] == [
        ("u_1", ms(101), {"c_1"}, {"c_old"}, True),
        ("u_1", ms(200), {"c_2"}, {"c_1", "c_old"}, True),
        ("u_3", ms(160), {"c_3"}, set(), False),
    ]
    assert found[0].words == "a house"  # not what was said after the offer
    assert queries_in(log, Window(ms(100), ms(300)), limit=1)[0].user_id in {"u_1", "u_3"}


def test_ties_are_folded_as_the_truth_folds_them() -> None:
    history = [
        did("u_1", 0, "click", "c_1"),
        did("u_1", 5, "dismiss", "c_1"),
        did("u_1", 1, "dismiss", "c_2"),
        did("u_1", 2, "conversion", "c_2"),
    ]
    ties = {tie.campaign_id: tie for tie in engagements_of(sorted(history, key=lambda record: record["timestamp"]))}
    assert (ties["c_1"].weight, ties["c_2"].weight) == (-1.0, 1.0)
    assert ties["c_1"].counts == {"click": 1, "dismiss": 1}
    assert (ties["c_2"].first_at_ms, ties["c_2"].last_at_ms) == (ms(1), ms(2))
