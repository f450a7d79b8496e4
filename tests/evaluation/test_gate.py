"""The gate's decision, case by case; it is pure, so no server is needed."""

from dataclasses import replace

import pytest

from persona.evaluation.gate import Difference, Jump, Limits, judge, jumps, losses
from persona.ranking.model import Judgement

LIMITS = Limits(margin=0.02, jump=0.2)
EQUAL = Difference("the newest window", "in force", "ndcg@5", 0.0, 0.0, 0.0)


def judgement(conversions: dict[str, float], top_places: dict[str, float] | None = None) -> Judgement:
    return Judgement(start_ms=0, end_ms=1, conversions=conversions, top_places=top_places or {})


@pytest.mark.parametrize(
    ("mean", "reach", "published"),
    [
        (0.05, 0.02, True),
        (0.0, 0.05, True),  # few queries, and nothing to hold against it
        (-0.03, 0.04, True),  # it may well be chance
        (-0.015, 0.001, True),  # certain, and allowed
        (-0.02, 0.001, True),
        (-0.0201, 0.001, False),
        (-0.03, 0.029, False),
        (-0.3, 0.1, False),
    ],
)
def test_a_model_is_refused_that_loses_more_than_the_margin_and_not_by_chance(mean: float, reach: float, published: bool) -> None:
    worse = replace(EQUAL, against="decayed popularity", mean=mean, low=mean - reach, high=mean + reach)
    verdict = judge("f", "g_1", [EQUAL, worse], [], LIMITS)
    assert (verdict.fingerprint, verdict.in_force, verdict.publish) == ("f", "g_1", published)
    assert ("decayed popularity" in verdict.reason) == (not published)
    assert (verdict.value > verdict.limit) == (not published)


def test_the_worst_loss_is_named() -> None:
    means = (("a", -0.03), ("b", -0.1), ("c", 0.1), ("d", -0.01))
    some = [replace(EQUAL, metric=metric, mean=mean, low=mean - 0.005, high=mean + 0.005) for metric, mean in means]
    some.append(replace(EQUAL, metric="e", mean=-0.2, low=-0.5, high=0.1))
    assert [found.metric for found in losses(some, LIMITS)] == ["b", "a"]
    assert "by b in the newest window: -0.100 (-0.105 to -0.095)" in judge("f", None, some, [], LIMITS).reason


def test_without_a_comparison_the_prior_is_published_and_said_to_be() -> None:
    verdict = judge("f", None, [], [], LIMITS)
    assert verdict.publish and "prior" in verdict.reason


def test_a_campaign_that_rises_too_fast_holds_the_model_however_well_it_does() -> None:
    rises = jumps(judgement({"c_1": 0.5, "c_2": 0.3}), [judgement({"c_1": 0.1, "c_2": 0.15})], LIMITS)
    assert rises == [Jump("c_1", "conversions", 0.1, 0.5)]
    verdict = judge("f", "g_1", [replace(EQUAL, low=0.3)], rises, LIMITS)
    assert not verdict.publish and "c_1 went from 10% to 50% of all conversions" in verdict.reason
    assert (verdict.value, verdict.limit) == (0.4, 0.2)


def test_top_places_count_and_every_earlier_window_does() -> None:
    newest = judgement({"c_1": 0.5}, {"c_3": 0.9})
    before = [judgement({"c_1": 0.4}, {"c_3": 0.8}), judgement({"c_1": 0.45}, {"c_3": 0.1})]
    assert jumps(newest, before[:1], LIMITS) == []
    assert [(jump.campaign_id, jump.what, jump.before) for jump in jumps(newest, before, LIMITS)] == [
        ("c_3", "first places", 0.1)
    ]


def test_of_nothing_no_share_can_have_grown() -> None:
    assert jumps(judgement({"c_1": 1.0}), [judgement({})], LIMITS) == []
    assert jumps(judgement({}), [judgement({"c_1": 1.0})], LIMITS) == []
