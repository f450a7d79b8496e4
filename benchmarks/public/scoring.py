"""Metrics of ranked lists and intervals of their differences. Where the lists come from is not known here."""

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

METRICS = ("NDCG@5", "Recall@20", "NDCG@100")
DEPTH = 100
DRAWS = 2_000

_GAIN = 1 / np.log2(np.arange(2, DEPTH + 2))
_IDEAL = np.concatenate([[0.0], np.cumsum(_GAIN)])


def measure(ranked: Ints, relevant: Bools) -> Floats:
    """`METRICS` of each query, shape (queries, 3): binary gains, the ideal of min(k, relevant), recall over min(20, relevant).

    `ranked`, shape (queries, DEPTH), has numbers of campaigns, best first, -1 where there is none; `relevant` is of shape
    (queries, campaigns), with one at least in each row.
    """
    hit = np.take_along_axis(relevant, np.maximum(ranked, 0), axis=1) & (ranked >= 0)
    count = relevant.sum(axis=1)
    return np.stack(
        [
            hit[:, :5] @ _GAIN[:5] / _IDEAL[np.minimum(count, 5)],
            hit[:, :20].sum(axis=1) / np.minimum(count, 20),
            hit @ _GAIN / _IDEAL[np.minimum(count, DEPTH)],
        ],
        axis=1,
    )


def advantage(ours: Floats, theirs: Floats, users: Ints) -> Floats:
    """Mean of ours minus theirs and its 95 % bootstrap interval, shape (3, metrics): mean, low, high.

    Paired by query; whole users are drawn, as the queries of one are not independent. `users`: a number a query.
    """
    _, person = np.unique(users, return_inverse=True)
    queries = np.bincount(person).astype(np.float64)
    gains = np.stack([np.bincount(person, weights=gain) for gain in (ours - theirs).T], axis=1)
    drawn = np.random.default_rng(0).multinomial(len(queries), np.full(len(queries), 1 / len(queries)), size=DRAWS)
    means = (drawn @ gains) / (drawn @ queries)[:, None]
    return np.stack([(ours - theirs).mean(axis=0), *np.percentile(means, [2.5, 97.5], axis=0)])
