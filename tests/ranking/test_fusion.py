"""What fusion promises whatever the channels propose."""

import random
from collections.abc import Mapping

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from persona.ranking.channels import Candidates
from persona.ranking.fusion import Ranked
from persona.ranking.fusion import fuse as fuse_among

CHANNELS = ("similar_users", "content", "engagement", "intents", "similar_conversations", "another")
SCORES = st.floats(min_value=1e-6, max_value=1e6, allow_nan=False)
PROPOSALS = st.dictionaries(
    st.sampled_from(CHANNELS), st.dictionaries(st.sampled_from([f"c_{n}" for n in range(8)]), SCORES, max_size=8), max_size=6
)
WEIGHTS = st.fixed_dictionaries({channel: st.floats(min_value=0.01, max_value=1) for channel in CHANNELS})


def candidates(scores: dict[str, float], evidence: str | None = None) -> Candidates:
    campaigns, column = list(scores), np.array(list(scores.values()), np.float64)
    return Candidates(campaigns, column, lambda place: {evidence: scores[campaigns[place]]} if evidence else {})


def fuse(proposals: Mapping[str, Candidates], weights: Mapping[str, float]) -> Ranked:
    """Among all that are proposed."""
    names = sorted({campaign for proposed in proposals.values() for campaign in proposed.campaigns})
    return fuse_among(proposals, weights, {name: number for number, name in enumerate(names)})


def fused(proposals: dict[str, dict[str, float]], weights: dict[str, float]) -> dict[str, float]:
    return {item.campaign_id: item.score for item in fuse({n: candidates(s) for n, s in proposals.items()}, weights)}


def test_nothing_proposed_is_nothing_ranked() -> None:
    assert not fuse({}, {"content": 1.0})
    assert not fuse({"content": candidates({})}, {"content": 1.0})


def test_each_channel_counts_by_its_weight_and_is_scaled_by_its_best() -> None:
    ranked = fused({"content": {"a": 0.5, "b": 0.25}, "engagement": {"b": 900.0}}, {"content": 3.0, "engagement": 1.0})
    assert ranked == {"a": 0.75, "b": 0.625}
    assert list(ranked) == ["a", "b"]


def test_a_channel_without_proposals_or_weight_marks_nobody_down() -> None:
    alone = {"content": {"a": 2.0, "b": 1.0}}
    weights = {"content": 0.1, "similar_users": 0.9}
    assert fused({**alone, "similar_users": {}}, weights) == {"a": 1.0, "b": 0.5}
    assert fused({**alone, "unheard_of": {"z": 9.0}}, weights) == {"a": 1.0, "b": 0.5}


def test_ties_are_broken_by_campaign_id() -> None:
    assert list(fused({"content": {"c": 1.0, "a": 1.0, "b": 1.0}}, {"content": 1.0})) == ["a", "b", "c"]


def test_evidence_names_channel_and_share_strongest_first() -> None:
    proposals = {
        "engagement": candidates({"a": 4.0}, "conversions"),
        "content": candidates({"a": 0.5, "b": 1.0}, "similarity"),
    }
    first, second = fuse(proposals, {"content": 0.6, "engagement": 0.4})
    assert (first.campaign_id, second.campaign_id) == ("a", "b")
    assert first.evidence == [
        {"channel": "engagement", "score": 1.0, "contribution": 0.4, "conversions": 4.0},
        {"channel": "content", "score": 0.5, "contribution": 0.3, "similarity": 0.5},
    ]


def test_what_is_best_in_every_channel_scores_1_and_no_more() -> None:
    assert fused({channel: {"a": 1.0} for channel in CHANNELS}, dict.fromkeys(CHANNELS, 1.0)) == {"a": 1.0}


@given(PROPOSALS, WEIGHTS)
def test_scores_lie_between_0_and_1_and_everything_proposed_is_ranked_once(
    proposals: dict[str, dict[str, float]], weights: dict[str, float]
) -> None:
    ranked = fuse({name: candidates(scores) for name, scores in proposals.items()}, weights)
    assert all(0 <= item.score <= 1 for item in ranked)
    assert [item.score for item in ranked] == sorted((item.score for item in ranked), reverse=True)
    assert sorted(item.campaign_id for item in ranked) == sorted({key for scores in proposals.values() for key in scores})


@given(PROPOSALS, WEIGHTS, st.randoms(use_true_random=False))
def test_the_order_of_channels_and_candidates_does_not_matter(
    proposals: dict[str, dict[str, float]], weights: dict[str, float], shuffler: random.Random
) -> None:
    shuffled = {}
    for name in shuffler.sample(sorted(proposals), k=len(proposals)):
        scores = list(proposals[name].items())
        shuffler.shuffle(scores)
        shuffled[name] = candidates(dict(scores))
    assert list(fuse(shuffled, weights)) == list(fuse({name: candidates(each) for name, each in proposals.items()}, weights))


@given(PROPOSALS.filter(lambda proposals: any(proposals.values())), WEIGHTS, st.data())
def test_a_better_score_in_a_channel_never_lowers_a_campaign(
    proposals: dict[str, dict[str, float]], weights: dict[str, float], data: st.DataObject
) -> None:
    channel = data.draw(st.sampled_from([name for name, scores in proposals.items() if scores]))
    campaign = data.draw(st.sampled_from(sorted(proposals[channel])))
    better = proposals[channel][campaign] * data.draw(st.floats(min_value=1, max_value=100))
    before = fused(proposals, weights)
    after = fused({**proposals, channel: {**proposals[channel], campaign: better}}, weights)
    assert after[campaign] >= before[campaign]
    assert list(after).index(campaign) <= list(before).index(campaign)


def test_what_has_no_number_is_not_ranked_and_still_may_be_the_best_of_its_channel() -> None:
    proposed = {"content": candidates({"gone": 2.0, "a": 1.0}), "engagement": candidates({"b": 1.0})}
    ranked = fuse_among(proposed, {"content": 0.5, "engagement": 0.5}, {"a": 0, "b": 1})
    assert [(item.campaign_id, item.score) for item in ranked] == [("b", 0.5), ("a", 0.25)]
    one = ranked.of("a")
    assert one == ranked[1] and one.parts[0].score == 0.5
    assert ranked.of("gone") is None
