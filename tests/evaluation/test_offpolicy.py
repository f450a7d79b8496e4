"""Estimates cover the truth where it is known, and agree with what a policy really earned where it was tried."""

import os
from pathlib import Path

import numpy as np
import pytest

from persona.errors import InvalidInput
from persona.evaluation.offpolicy import (
    Estimate,
    Impressions,
    deterministic,
    frequencies,
    ips,
    on_policy,
    snips,
    weights_of,
)

DATA = Path(os.environ.get("PERSONA_TEST_DATA", "../shared/data")) / "open_bandit"
COLUMNS = ["item_id", "position", "click", "propensity_score"]


def log(actions: list[str], rewards: list[float], propensities: list[float], slots: list[str] | None = None) -> Impressions:
    return Impressions(slots or ["1"] * len(actions), actions, np.array(rewards), np.array(propensities))


def test_by_hand() -> None:
    logged = log(["a", "a", "b", "b"], [1, 0, 1, 1], [0.5] * 4)
    weights = weights_of(logged, {("1", "a"): 0.25, ("1", "b"): 0.75})
    assert weights.tolist() == [0.5, 0.5, 1.5, 1.5]
    assert ips(weights, logged.rewards).value == pytest.approx((0.5 + 1.5 + 1.5) / 4)
    assert snips(weights, logged.rewards).value == pytest.approx((0.5 + 1.5 + 1.5) / 4)
    assert ips(weights, logged.rewards).effective == pytest.approx(16 / 5)
    assert on_policy(logged).value == 0.75


def test_the_replay_of_a_ranking_is_the_mean_reward_where_both_agree() -> None:
    logged = log(["a", "b", "a", "b"], [1, 0, 0, 1], [0.5] * 4, ["1", "1", "2", "2"])
    weights = weights_of(logged, deterministic(["a", "b"], ["1", "2"]))
    assert snips(weights, logged.rewards).value == 1.0
    for estimate in (ips, snips):
        with pytest.raises(InvalidInput, match="shares no action"):
            estimate(weights_of(logged, deterministic(["z"], ["1"])), logged.rewards)


def test_a_policy_is_its_frequencies_in_each_slot() -> None:
    logged = log(["a", "a", "b", "a"], [0] * 4, [0.5] * 4, ["1", "1", "1", "2"])
    assert frequencies(logged) == {("1", "a"): 2 / 3, ("1", "b"): 1 / 3, ("2", "a"): 1.0}


@pytest.mark.parametrize(
    ("rewards", "propensities"), [([1.0], [0.0]), ([1.0], [1.5]), ([-1.0], [0.5]), ([], []), ([0.0], [np.nan])]
)
def test_a_log_that_makes_no_sense_is_refused(rewards: list[float], propensities: list[float]) -> None:
    with pytest.raises(InvalidInput):
        log(["a"] * len(rewards), rewards, propensities)


def test_where_nothing_was_earned_the_interval_still_says_how_much_it_could_be() -> None:
    estimate = on_policy(log(["a"] * 100, [0] * 100, [1.0] * 100))
    assert estimate.value == estimate.low == 0 and estimate.high == pytest.approx(0.0369, abs=1e-4)


@pytest.mark.parametrize(("impressions", "arms", "click_rate"), [(10_000, 34, 0.005), (2_000, 10, 0.05)])
def test_the_interval_covers_the_truth_of_a_simulation(impressions: int, arms: int, click_rate: float) -> None:
    """Two hundred logs of a uniform policy; the target prefers what is clicked."""
    rng = np.random.default_rng(11)
    clicked = rng.beta(2, 2 / click_rate - 2, size=arms)
    target = clicked / clicked.sum()
    truth = target @ clicked
    covered = {"ips": 0, "snips": 0}
    for _ in range(200):
        shown = rng.integers(arms, size=impressions)
        rewards = (rng.random(impressions) < clicked[shown]).astype(float)
        weights = target[shown] * arms
        for name, estimate in (("ips", ips(weights, rewards)), ("snips", snips(weights, rewards))):
            covered[name] += estimate.low <= truth <= estimate.high
    assert min(covered.values()) >= 180, covered


def test_the_interval_covers_the_truth_where_the_log_is_not_uniform_and_the_target_shows_one_thing() -> None:
    rng = np.random.default_rng(12)
    clicked, logging = np.array([0.02, 0.05, 0.1, 0.01]), np.array([0.4, 0.3, 0.1, 0.2])
    covered = {"ips": 0, "snips": 0}
    for _ in range(200):
        shown = rng.choice(4, size=3_000, p=logging)
        rewards = (rng.random(3_000) < clicked[shown]).astype(float)
        logged = log([str(arm) for arm in shown], rewards.tolist(), logging[shown].tolist())
        weights = weights_of(logged, deterministic(["2"], ["1"]))
        for name, estimate in (("ips", ips(weights, rewards)), ("snips", snips(weights, rewards))):
            covered[name] += estimate.low <= 0.1 <= estimate.high
    assert min(covered.values()) >= 180, covered


@pytest.mark.skipif(not DATA.is_dir(), reason=f"the logs are not at {DATA}: set PERSONA_TEST_DATA")
@pytest.mark.parametrize("campaign", ["men", "women"])
def test_thompson_sampling_earns_what_the_uniform_log_foretells(campaign: str) -> None:
    uniform, thompson = read(f"random_{campaign}"), read(f"bts_{campaign}")
    own = on_policy(thompson)
    weights = weights_of(uniform, frequencies(thompson))
    for estimate in (ips(weights, uniform.rewards), snips(weights, uniform.rewards)):
        assert overlap(estimate, own), (estimate, own)
        assert estimate.effective < len(uniform.actions)


def read(name: str) -> Impressions:
    import pandas as pd

    rows = pd.read_csv(DATA / f"{name}.csv.gz", usecols=COLUMNS, dtype={"item_id": str, "position": str, "click": float})
    return Impressions(
        rows["position"].tolist(), rows["item_id"].tolist(), rows["click"].to_numpy(), rows["propensity_score"].to_numpy()
    )


def overlap(one: Estimate, other: Estimate) -> bool:
    return one.low <= other.high and other.low <= one.high
