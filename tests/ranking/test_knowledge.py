"""What is found of campaigns in memory, against the plainest way to find it."""

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from persona.ranking.knowledge import CampaignWords, Knowledge, Related
from persona.ranking.model import fit
from persona.schemas import Campaign, DayBucket, Relation

NAMES = [f"c_{number}" for number in range(8)]
WEIGHTS = st.floats(min_value=0.001, max_value=1).map(lambda weight: round(weight, 3))
RELATIONS = st.dictionaries(st.sampled_from(NAMES), st.dictionaries(st.sampled_from(NAMES), WEIGHTS, min_size=1), max_size=6)
HISTORIES = st.dictionaries(st.sampled_from([*NAMES, "unheard of"]), WEIGHTS)


@given(RELATIONS, HISTORIES, st.integers(min_value=1, max_value=9))
def test_votes_are_what_adding_up_by_hand_gives(
    relations: dict[str, dict[str, float]], history: dict[str, float], limit: int
) -> None:
    pulls: dict[str, dict[str, float]] = defaultdict(dict)
    for past, weight in history.items():
        for other, relation in relations.get(past, {}).items():
            pulls[other][past] = weight * relation
    related = Related(
        (f"run of {past}", [Relation(past, other, weight, len(other) + n) for n, (other, weight) in enumerate(others.items())])
        for past, others in relations.items()
    )
    votes = related.related_campaigns(history, limit=limit)
    scores = {vote.campaign_id: vote.score for vote in related.related_campaigns(history, limit=99)}
    assert scores == pytest.approx({campaign: sum(of_past.values()) for campaign, of_past in pulls.items()})
    assert [vote.campaign_id for vote in votes] == sorted(scores, key=lambda campaign: (-scores[campaign], campaign))[:limit]
    for vote in votes:
        of_past = pulls[vote.campaign_id]
        assert vote.because == min(of_past, key=lambda past: (-of_past[past], past))
        assert (vote.weight, vote.run_id) == (relations[vote.because][vote.campaign_id], f"run of {vote.because}")
        assert vote.support == len(vote.campaign_id) + list(relations[vote.because]).index(vote.campaign_id)


def test_words_are_compared_by_direction_alone() -> None:
    words = CampaignWords({"far": np.array([0, 9], np.float32), "near": np.array([0.1, 0], np.float32)})
    vector = np.array([4, 3], np.float32)
    assert words.similar_campaigns(vector, limit=9) == [("near", pytest.approx(0.8)), ("far", pytest.approx(0.6))]
    assert [campaign for campaign, _ in words.similar_campaigns(vector, limit=1)] == ["near"]


def test_a_vector_of_another_model_is_like_nothing() -> None:
    words = CampaignWords({"a": np.array([0, 1], np.float32)})
    assert words.similar_campaigns(np.ones(3, np.float32), limit=9) == []
    assert CampaignWords({}).similar_campaigns(np.ones(3, np.float32), limit=9) == []


def test_how_campaigns_stand_depends_on_the_channel_where_anything_happened_on_it() -> None:
    model = fit([DayBucket("2026-01-01", "a", "email", "conversion", 5, 0.0)], facts=5, fingerprint="f")
    knowledge = Knowledge({name: Campaign(campaign_id=name) for name in ("a", "b")}, model)
    assert knowledge.standing("email").conversions == [5, 0]
    assert knowledge.standing("sms") is knowledge.standing(None)
