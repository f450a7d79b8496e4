"""An interval covers what it says it covers."""

import numpy as np
import pytest

from persona.evaluation.intervals import bootstrap


def test_it_covers_the_true_mean() -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(200):
        values = (rng.random(300) < 0.1) * rng.random(300)  # mostly zero, as differences of metrics are
        interval = bootstrap(values, draws=300)
        covered += interval.low <= 0.05 <= interval.high
        assert interval.low <= interval.mean <= interval.high
    assert covered >= 180


def test_queries_of_one_user_are_not_taken_for_independent() -> None:
    rng = np.random.default_rng(4)
    covered = {"users": 0, "queries": 0}
    for _ in range(100):
        own = rng.normal(size=60)
        values = np.repeat(own, 10)  # ten queries of each user, all alike
        users = np.repeat(np.arange(60), 10).tolist()
        for name, units in (("users", users), ("queries", None)):
            interval = bootstrap(values, units, draws=200)
            covered[name] += interval.low <= 0 <= interval.high
    assert covered["users"] >= 88 > covered["queries"]


def test_the_same_seed_gives_the_same_interval_and_equals_have_none() -> None:
    values = np.random.default_rng(5).random(50)
    assert bootstrap(values) == bootstrap(values) != bootstrap(values, seed=8)
    assert bootstrap([0.25] * 20) == (0.25, 0.25, 0.25)
    with pytest.raises(ValueError, match="nothing"):
        bootstrap([])
