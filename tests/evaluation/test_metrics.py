"""The metrics against values worked out by hand, and what holds for any ranking."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persona.evaluation.metrics import METRICS, coverage, gini, ndcg, recall, struck_out

CAMPAIGNS = [f"c_{n}" for n in range(12)]
RANKINGS = st.lists(st.sampled_from(CAMPAIGNS), unique=True)
TRUTHS = st.sets(st.sampled_from(CAMPAIGNS), min_size=1)


def test_ndcg_by_hand() -> None:
    # gains at places 1 and 3: 1/log2(2) + 1/log2(4) = 1.5; ideal of two: 1/log2(2) + 1/log2(3)
    assert ndcg(["a", "x", "b"], {"a", "b"}, 5) == pytest.approx(1.5 / (1 + 1 / math.log2(3)))
    # four relevant, but only two places: the ideal is of two
    assert ndcg(["a", "b"], {"a", "b", "c", "d"}, 2) == 1.0
    assert ndcg(["x", "a"], {"a"}, 1) == 0.0


def test_recall_by_hand() -> None:
    assert recall(["a", "x", "b", "y"], {"a", "b", "c"}, 3) == pytest.approx(2 / 3)
    assert recall(["a", "b"], {"a", "b", "c", "d"}, 2) == 1.0  # of two places no more than two can be right


def test_what_is_taken_is_struck_out_of_ranking_and_truth() -> None:
    ranking, relevant = struck_out(["t", "a", "t2", "b", "a"], {"a", "t"}, {"t", "t2"})
    assert (ranking, relevant) == (["a", "b"], {"a"})
    assert ndcg(ranking, relevant, 1) == 1.0


@pytest.mark.parametrize("metric", METRICS)
def test_an_empty_answer_scores_zero_and_a_query_without_truth_is_none(metric: str) -> None:
    assert METRICS[metric]([], {"a"}) == 0.0
    with pytest.raises(ValueError, match="nothing is relevant"):
        METRICS[metric](["a"], set())


@given(RANKINGS, TRUTHS)
def test_a_score_is_a_share_and_the_ideal_ranking_has_all_of_it(ranking: list[str], relevant: set[str]) -> None:
    ideal = [*sorted(relevant), *(campaign for campaign in ranking if campaign not in relevant)]
    for metric in METRICS.values():
        assert 0 <= metric(ranking, relevant) <= 1
        assert metric(ideal, relevant) == pytest.approx(1.0)


@given(RANKINGS, TRUTHS)
def test_moving_something_relevant_up_never_costs(ranking: list[str], relevant: set[str]) -> None:
    for place in range(1, len(ranking)):
        if ranking[place] in relevant:
            better = [*ranking[: place - 1], ranking[place], ranking[place - 1], *ranking[place + 1 :]]
            for metric in METRICS.values():
                assert metric(better, relevant) >= metric(ranking, relevant) - 1e-12


def test_coverage_and_concentration_by_hand() -> None:
    rankings = [["a", "b"], ["a", "c"]]
    assert coverage(rankings, ["a", "b", "c", "d"], 2) == 0.75
    assert coverage(rankings, ["a", "b", "c", "d"], 1) == 0.25
    assert gini(rankings, ["a"], 1) == 0.0
    assert gini([["a"], ["b"]], ["a", "b"], 1) == 0.0  # all alike
    assert gini([["a"], ["a"]], ["a", "b", "c", "d"], 1) == 0.75  # one has everything: (n - 1) / n
    assert gini([], ["a", "b"]) == 0.0 and coverage([], []) == 0.0
