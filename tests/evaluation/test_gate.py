"""The gate's decision, case by case; it is pure, so no server is needed."""

from dataclasses import replace

import pytest

from persona.evaluation.gate import Difference, Jump, Limits, Shares, judge, jumps, losses

LIMITS = Limits(margin=0.02, jump=0.2)
EQUAL = Difference("the newest window", "in force", "ndcg@5", 0.0, 0.0, 0.0)


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


def test_without_a_comparison_it_is_published_and_said_why() -> None:
    verdict = judge("f", None, [], [], LIMITS)
    assert verdict.publish and "too few" in verdict.reason


def test_a_campaign_that_rises_too_fast_holds_the_model_however_well_it_does() -> None:
    rises = jumps([Shares("all conversions", {"c_1": 0.1, "c_2": 0.15}, {"c_1": 0.5, "c_2": 0.3})], LIMITS)
    assert rises == [Jump("c_1", "all conversions", 0.1, 0.5)]
    verdict = judge("f", "g_1", [replace(EQUAL, low=0.3)], rises, LIMITS)
    assert not verdict.publish and verdict.held and "c_1 went from 10% to 50% of all conversions" in verdict.reason
    assert (verdict.value, verdict.limit) == (0.4, 0.2)


def test_whatever_is_compared_counts() -> None:
    before = [Shares("conversions", {"c_1": 0.4}, {"c_1": 0.5}), Shares("first places", {"c_3": 0.1}, {"c_3": 0.9})]
    assert jumps(before[:1], LIMITS) == []
    assert [(jump.campaign_id, jump.what, jump.before) for jump in jumps(before, LIMITS)] == [("c_3", "first places", 0.1)]


def test_of_nothing_no_share_can_have_grown() -> None:
    assert jumps([Shares("any", {}, {"c_1": 1.0}), Shares("any", {"c_1": 1.0}, {})], LIMITS) == []
