"""How good one ranking is, and how evenly many of them treat the campaigns. Pure.

Before either metric of accuracy, what the user has already taken is struck out of the ranking and of the truth: `struck_out`.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import numpy as np


def struck_out(
    ranking: Sequence[str], relevant: Collection[str], taken: Collection[str] = ()
) -> tuple[list[str], frozenset[str]]:
    """The ranking (each campaign once, at its best place) and the truth without what the user has already taken."""
    gone = set(taken)
    return [campaign for campaign in dict.fromkeys(ranking) if campaign not in gone], frozenset(relevant) - gone


def ndcg(ranking: Sequence[str], relevant: Collection[str], k: int) -> float:
    """Normalised discounted cumulative gain of the first k (Järvelin & Kekäläinen 2002): binary gains, in [0, 1].

    The ideal is min(k, relevant) campaigns at the top; an empty ranking scores zero. Raises `ValueError` without anything relevant.
    """
    ideal = _discounted(range(min(k, _size(relevant))))
    return _discounted(place for place, campaign in enumerate(ranking[:k]) if campaign in relevant) / ideal


def recall(ranking: Sequence[str], relevant: Collection[str], k: int) -> float:
    """The share of min(k, relevant) campaigns that are among the first k, in [0, 1]. Raises `ValueError` without anything relevant."""
    return sum(campaign in relevant for campaign in ranking[:k]) / min(k, _size(relevant))


METRICS: Mapping[str, Callable[[Sequence[str], Collection[str]], float]] = {
    "ndcg@5": lambda ranking, relevant: ndcg(ranking, relevant, 5),
    "recall@20": lambda ranking, relevant: recall(ranking, relevant, 20),
    "ndcg@100": lambda ranking, relevant: ndcg(ranking, relevant, 100),
}
"""What accuracy is reported by."""
DEPTH = 100
"""As deep as any of them looks."""
TOP = 5
"""Places that people see: what coverage and concentration are taken of."""


def coverage(rankings: Sequence[Sequence[str]], catalogue: Collection[str], k: int = TOP) -> float:
    """The share of the catalogue that is among the first k of some ranking, in [0, 1]; 0 for an empty catalogue."""
    shown = {campaign for ranking in rankings for campaign in ranking[:k]}
    return len(shown & set(catalogue)) / len(catalogue) if catalogue else 0.0


def gini(rankings: Sequence[Sequence[str]], catalogue: Collection[str], k: int = TOP) -> float:
    """Gini coefficient of how often each campaign of the catalogue is among the first k: 0 all alike, towards 1 a single one."""
    shown = Counter(campaign for ranking in rankings for campaign in ranking[:k])
    counts = np.sort([float(shown[campaign]) for campaign in catalogue])
    if not counts.sum():
        return 0.0
    places = np.arange(1, len(counts) + 1)
    return float((2 * places - len(counts) - 1) @ counts / (len(counts) * counts.sum()))


def _discounted(places: Iterable[int]) -> float:
    return sum(1 / math.log2(place + 2) for place in places)


def _size(relevant: Collection[str]) -> int:
    if not relevant:
        raise ValueError("nothing is relevant: such a query says nothing about a ranking")
    return len(relevant)
