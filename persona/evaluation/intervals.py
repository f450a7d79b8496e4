"""How sure a mean is: bootstrap intervals over queries, whole users at a time where one has several. Pure."""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

DRAWS = 2_000
CONFIDENCE = 0.95
CELLS = 4_000_000
"""As many counts are held in memory at once."""


class Interval(NamedTuple):
    """A mean and the interval that covers the true one in 95 of 100 samples, or as often as was asked."""

    mean: float
    low: float
    high: float


def bootstrap(
    values: Sequence[float] | NDArray[np.float64],
    units: Sequence[Hashable] | None = None,
    *,
    draws: int = DRAWS,
    confidence: float = CONFIDENCE,
    seed: int = 7,
) -> Interval:
    """Percentile bootstrap of the mean (Efron 1979); for paired differences, `values` are the differences query by query.

    With `units`, one for each value, whole units are drawn: queries of one user are not independent. The same seed, the same interval.
    Raises `ValueError` without a value.
    """
    figures = np.asarray(values, dtype=np.float64)
    if not len(figures):
        raise ValueError("there is nothing to take the mean of")
    sums, sizes = _by_unit(figures, units)
    rng = np.random.default_rng(seed)
    at_once = max(1, CELLS // len(sums))
    means = np.concatenate([_drawn_means(rng, sums, sizes, min(at_once, draws - done)) for done in range(0, draws, at_once)])
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(figures.mean()), float(low), float(high))


def _by_unit(values: NDArray[np.float64], units: Sequence[Hashable] | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if units is None:
        return values, np.ones(len(values))
    numbers: dict[Hashable, int] = {}
    unit = np.array([numbers.setdefault(name, len(numbers)) for name in units])
    sums: NDArray[np.float64] = np.bincount(unit, weights=values).astype(np.float64)
    return sums, np.bincount(unit).astype(np.float64)


def _drawn_means(
    rng: np.random.Generator, sums: NDArray[np.float64], sizes: NDArray[np.float64], draws: int
) -> NDArray[np.float64]:
    drawn = rng.integers(len(sums), size=(draws, len(sums)))
    means: NDArray[np.float64] = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    return means
