"""What another policy would have earned, from what this one showed and with what probability: off-policy estimates. Pure.

A policy here chooses an action in a slot (a position on a page); it may depend on nothing else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from persona.errors import InvalidInput

Floats = NDArray[np.float64]
Probabilities = Mapping[tuple[str, str], float]
"""(slot, action) to the probability of the action in the slot; absent: never."""


@dataclass(frozen=True)
class Impressions:
    """What a policy showed: in each slot an action, with what probability, and what it earned. All of one length."""

    slots: Sequence[str]
    actions: Sequence[str]
    rewards: Floats
    propensities: Floats

    def __post_init__(self) -> None:
        """Raise `InvalidInput` for a propensity outside (0, 1], a negative reward, or no impression at all."""
        if not len(self.actions):
            raise InvalidInput("a log without an impression says nothing")
        if not ((self.propensities > 0) & (self.propensities <= 1)).all():
            raise InvalidInput("a propensity is the probability with which something was shown: above 0, and at most 1")
        if not (self.rewards >= 0).all():
            raise InvalidInput("a reward may not be negative")


class Estimate(NamedTuple):
    """The value of a policy in reward per impression, with an interval, and how many impressions the estimate is worth."""

    value: float
    low: float
    high: float
    effective: float
    """Kish's effective sample size: (sum of weights)² / sum of squared weights."""


def frequencies(log: Impressions) -> Probabilities:
    """How often a policy chose each action in each slot: the policy itself, as far as a log shows it."""
    shown: dict[tuple[str, str], int] = {}
    for key in zip(log.slots, log.actions, strict=True):
        shown[key] = shown.get(key, 0) + 1
    in_slot: dict[str, int] = {}
    for (slot, _), n in shown.items():
        in_slot[slot] = in_slot.get(slot, 0) + n
    return {key: n / in_slot[key[0]] for key, n in shown.items()}


def deterministic(ranking: Sequence[str], slots: Sequence[str]) -> Probabilities:
    """The policy that shows the ranking as it is: its first action in the first slot, and so on.

    With it, `snips` on a uniform log is the replay of the ranking (Li et al. 2011): the mean reward where both agree.
    """
    return dict.fromkeys(zip(slots, ranking, strict=False), 1.0)


def weights_of(log: Impressions, target: Probabilities) -> Floats:
    """How much more often the target policy would have done each thing that was done: its probability over the logging one's."""
    chosen = zip(log.slots, log.actions, strict=True)
    return np.array([target.get(key, 0.0) for key in chosen]) / log.propensities


def on_policy(log: Impressions, *, confidence: float = 0.95) -> Estimate:
    """What the logging policy itself earned."""
    return ips(np.ones(len(log.rewards)), log.rewards, confidence=confidence)


def ips(weights: Floats, rewards: Floats, *, confidence: float = 0.95) -> Estimate:
    """Inverse propensity scoring (Horvitz & Thompson 1952): the mean of weight x reward; unbiased, of high variance.

    Raises `InvalidInput` where the target policy would have done nothing of what was done.
    """
    _shared(weights)
    terms = weights * rewards
    value = float(terms.mean())
    return _estimate(value, terms - value, weights, confidence)


def snips(weights: Floats, rewards: Floats, *, confidence: float = 0.95) -> Estimate:
    """Self-normalised inverse propensity scoring (Swaminathan & Joachims 2015): the weighted mean reward; of low variance.

    Raises `InvalidInput` where the target policy would have done nothing of what was done.
    """
    total = _shared(weights)
    value = float(weights @ rewards) / total
    return _estimate(value, weights * (rewards - value) * len(weights) / total, weights, confidence)


def _shared(weights: Floats) -> float:
    total = float(weights.sum())
    if not total:
        raise InvalidInput(
            "the target policy shares no action with the log: nothing can be said of it",
            hint="Are its actions and slots named as in the log?",
        )
    return total


def _estimate(value: float, deviations: Floats, weights: Floats, confidence: float) -> Estimate:
    """A normal interval of the value's logarithm, by the delta method.

    Rewards are rare and weights large, so that the estimate is skewed to the right: the plain normal interval and the percentile
    bootstrap were seen to cover less. Where nothing was earned, the rule of three on the effective sample, for rewards up to one.
    """
    effective = float(weights.sum() ** 2 / (weights**2).sum())
    if value <= 0:
        return Estimate(0.0, 0.0, -float(np.log((1 - confidence) / 2)) / effective, effective)
    error = float(np.sqrt((deviations**2).sum())) / len(deviations)
    factor = float(np.exp(NormalDist().inv_cdf((1 + confidence) / 2) * error / value))
    return Estimate(value, value / factor, value * factor, effective)
