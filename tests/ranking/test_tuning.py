"""What tuning promises: it finds what helps, believes little data little, and never makes its own queries worse."""

import math
import random
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persona.ranking.channels import Candidates
from persona.ranking.fusion import fuse
from persona.ranking.tuning import ENOUGH_QUERIES, Tuned, TuningQuery, tune

PRIOR = {"knows": 0.2, "guesses": 0.6, "silent": 0.15, "barred": 0.0, "unused": 0.05}
CAMPAIGNS = [f"c_{number:02}" for number in range(40)]
NUMBERS = {campaign: number for number, campaign in enumerate(CAMPAIGNS)}


def candidates(scores: Mapping[str, float]) -> Candidates:
    return Candidates(list(scores), np.array(list(scores.values()), np.float64), lambda place: {})


def asked(count: int, *, seed: int = 1, taken: bool = False) -> list[TuningQuery]:
    """Queries that one channel answers well, most of the time, and another at random."""
    rng = random.Random(seed)
    queries = []
    for _ in range(count):
        relevant = rng.sample(CAMPAIGNS, 2)
        sees = set(relevant) if rng.random() < 0.7 else set()
        knows = candidates({campaign: 5 * (campaign in sees) + rng.random() for campaign in CAMPAIGNS})
        guesses = candidates({campaign: 100 * rng.random() for campaign in rng.sample(CAMPAIGNS, 20)})
        before = frozenset(rng.sample(sorted(set(CAMPAIGNS) - set(relevant)), 3)) if taken else frozenset()
        proposals = {"knows": knows, "guesses": guesses, "silent": candidates({}), "barred": knows}
        queries.append(TuningQuery(proposals, frozenset(relevant), before))
    return queries


def turned_round(found: Candidates) -> Candidates:
    return candidates(dict(zip(reversed(found.campaigns), found.scores[::-1].tolist(), strict=True)))


def noise(seed: int, count: int) -> list[TuningQuery]:
    """Queries that no channel knows anything of."""
    rng = random.Random(seed)
    return [
        TuningQuery(
            {name: candidates({campaign: rng.random() + 0.01 for campaign in rng.sample(CAMPAIGNS, 9)}) for name in PRIOR},
            frozenset(rng.sample(CAMPAIGNS, 3)),
            frozenset(rng.sample(CAMPAIGNS, 2)),
        )
        for _ in range(count)
    ]


def quality(query: TuningQuery, weights: Mapping[str, float]) -> float:
    """The objective, from the ranking that serving would make."""
    ranked = [campaign for campaign in fuse(query.proposals, weights, NUMBERS).campaigns if campaign not in query.taken]
    wanted = query.relevant - query.taken

    def ndcg(k: int) -> float:
        gained = sum(1 / math.log2(rank + 1) for rank, campaign in enumerate(ranked[:k], 1) if campaign in wanted)
        return gained / sum(1 / math.log2(rank + 1) for rank in range(1, min(k, len(wanted)) + 1))

    return (ndcg(5) + sum(campaign in wanted for campaign in ranked[:20]) / min(20, len(wanted)) + ndcg(100)) / 3


def mean_quality(queries: Sequence[TuningQuery], weights: Mapping[str, float]) -> float:
    return sum(quality(query, weights) for query in queries) / len(queries)


def test_what_helps_gains_weight_and_later_queries_gain_by_it() -> None:
    tuned = tune(asked(300), prior=PRIOR, seed=3)
    assert tuned.weights["knows"] > 2 * PRIOR["knows"]
    assert tuned.weights["guesses"] < PRIOR["guesses"]
    assert tuned.queries == 300
    later = asked(200, seed=2)
    assert mean_quality(later, tuned.weights) > mean_quality(later, PRIOR) + 0.1


def test_the_gain_is_one_that_queries_which_were_not_learned_from_have_too() -> None:
    tuned = tune(asked(160, taken=True), prior=PRIOR, seed=3)
    alike = tune(asked(80, taken=True), prior=PRIOR, seed=3)  # as many as either half
    later = asked(300, seed=2, taken=True)
    assert tuned.gain > 0.05
    assert tuned.gain == pytest.approx(mean_quality(later, alike.weights) - mean_quality(later, PRIOR), abs=0.04)


def test_what_only_the_queries_that_were_learned_from_show_is_not_believed() -> None:
    """Of noise some mixture is always the best."""
    believed = sum(tune(noise(seed, 120), prior=PRIOR, seed=seed).queries > 0 for seed in range(12))
    assert believed <= 2


def test_channels_that_never_proposed_anything_keep_their_weight_and_the_sum_stays() -> None:
    weights = tune(asked(100), prior=PRIOR, seed=3).weights
    assert {name: weights[name] for name in ("silent", "barred", "unused")} == {"silent": 0.15, "barred": 0.0, "unused": 0.05}
    assert sum(weights.values()) == pytest.approx(sum(PRIOR.values()))
    assert list(weights) == list(PRIOR)


def test_little_data_moves_the_weights_little_and_too_little_not_at_all() -> None:
    few, many = (tune(asked(count), prior=PRIOR, seed=3).weights["knows"] for count in (ENOUGH_QUERIES, 1000))
    assert PRIOR["knows"] < few < many
    assert few < PRIOR["knows"] + 0.6 * ENOUGH_QUERIES / (ENOUGH_QUERIES + 100) + 1e-9
    assert tune(asked(ENOUGH_QUERIES - 1), prior=PRIOR, seed=3) == Tuned(PRIOR, 0, 0.0)
    assert tune([], prior=PRIOR, seed=3) == Tuned(PRIOR, 0, 0.0)


def test_queries_without_an_answer_do_not_count() -> None:
    unanswered = [TuningQuery(query.proposals, query.relevant, query.relevant) for query in asked(400)]
    assert tune(unanswered + asked(ENOUGH_QUERIES - 1), prior=PRIOR, seed=3).queries == 0
    assert tune(unanswered + asked(ENOUGH_QUERIES), prior=PRIOR, seed=3).queries == ENOUGH_QUERIES


def test_with_nothing_to_choose_between_the_prior_stays() -> None:
    queries = [TuningQuery({"knows": query.proposals["knows"]}, query.relevant, query.taken) for query in asked(100)]
    assert tune(queries, prior=PRIOR, seed=3) == Tuned(PRIOR, 0, 0.0)
    hopeless = [TuningQuery(query.proposals, frozenset({"unheard_of"}), query.taken) for query in asked(100)]
    assert tune(hopeless, prior=PRIOR, seed=3) == Tuned(PRIOR, 0, 0.0)


def test_the_same_seed_gives_the_same_weights_whatever_order_candidates_come_in() -> None:
    queries = asked(60)
    turned = [
        TuningQuery({name: turned_round(found) for name, found in reversed(query.proposals.items())}, query.relevant, query.taken)
        for query in queries
    ]
    assert tune(queries, prior=PRIOR, seed=5) == tune(queries, prior=PRIOR, seed=5) == tune(turned, prior=PRIOR, seed=5)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_noise_never_makes_the_queries_worse_nor_a_weight_negative(seed: int) -> None:
    tuned = tune(noise(seed, ENOUGH_QUERIES + 5), prior=PRIOR, seed=seed)
    assert tuned.gain >= 0
    assert all(weight >= 0 for weight in tuned.weights.values())
    assert sum(tuned.weights.values()) == pytest.approx(sum(PRIOR.values()))
