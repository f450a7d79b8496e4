"""Variety in a ranking: a limit on each category, and maximal marginal relevance. Pure; what may be offered at all is policy's.

The order never depends on how many are asked for, so the first five of ten are the five. Scores are left as they are.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from persona.ranking.fusion import Fused
from persona.schemas import Campaign

RERANKED = 100
"""Marginal relevance orders so many of the best; the rest follow by score. Nobody reads further with variety in mind."""


Numbered = Iterator[tuple[int, Fused]]
"""Campaigns with their places by score alone."""


@dataclass(frozen=True, slots=True)
class Diversity:
    """How much variety is wanted; by default none but what relevance brings."""

    category_limit: int | None = None
    """So many of a category before all others; None: any number."""
    relevance: float = 1.0
    """Lambda of marginal relevance, in [0, 1]: 1 ranks by score alone, 0 by difference alone."""


class Placed(NamedTuple):
    """A campaign in its place."""

    fused: Fused
    moved_down: int
    """Places lower than its score alone would have put it; 0 where it kept its place or rose."""


def placed(ranked: Iterable[Fused], campaigns: Mapping[str, Campaign], wanted: Diversity) -> Iterator[Placed]:
    """The ranking, best score first, in the order in which it is offered; taken from `ranked` no further than needed."""
    numbered: Numbered = enumerate(ranked)
    if wanted.relevance < 1:
        numbered = _by_marginal_relevance(numbered, campaigns, wanted.relevance)
    if wanted.category_limit is not None:
        numbered = _within_limit(numbered, campaigns, wanted.category_limit)
    for place, (before, fused) in enumerate(numbered):
        yield Placed(fused, max(place - before, 0))


def _within_limit(ranked: Numbered, campaigns: Mapping[str, Campaign], limit: int) -> Numbered:
    """At most `limit` of each category, then all others in their order: with nothing else left, a full category is better than none."""
    taken: Counter[str] = Counter()
    others: list[tuple[int, Fused]] = []
    for item in ranked:
        categories = set(campaigns[item[1].campaign_id].categories)
        if any(taken[category] >= limit for category in categories):
            others.append(item)
        else:
            taken.update(categories)
            yield item
    yield from others


def _by_marginal_relevance(ranked: Numbered, campaigns: Mapping[str, Campaign], relevance: float) -> Numbered:
    """Each time the one that is relevant and unlike what stands above it (Carbonell & Goldstein 1998).

    Relevance is the score as a share of the best one's, likeness the Jaccard index of the campaigns' categories and intents.
    """
    head = list(islice(ranked, RERANKED))
    scores = np.array([fused.score for _, fused in head])
    if not len(scores) or scores[0] <= 0:
        return chain(head, ranked)
    alike = likeness([campaigns[fused.campaign_id] for _, fused in head])
    return chain((head[place] for place in _marginal(relevance * scores / scores[0], (1 - relevance) * alike)), ranked)


def _marginal(gains: NDArray[np.float64], losses: NDArray[np.float64]) -> Iterator[int]:
    """Greedily the greatest gain less the greatest loss against what was taken; ties to the earlier. Shapes (n,) and (n, n)."""
    worst = np.zeros(len(gains))
    left = np.ones(len(gains), dtype=bool)
    for _ in gains:
        best = int(np.argmax(np.where(left, gains - worst, -np.inf)))
        left[best] = False
        worst = np.maximum(worst, losses[best])
        yield best


def likeness(campaigns: Sequence[Campaign]) -> NDArray[np.float64]:
    """How alike each two campaigns are, shape (n, n): the Jaccard index of their categories and intents; 0 where one has none."""
    features = [_features(campaign) for campaign in campaigns]
    index = {feature: column for column, feature in enumerate(dict.fromkeys(chain.from_iterable(features)))}
    has = np.zeros((len(features), len(index)))
    for row, found in enumerate(features):
        has[row, [index[feature] for feature in found]] = 1
    shared: NDArray[np.float64] = has @ has.T
    sizes = has.sum(axis=1)
    either = sizes[:, None] + sizes[None, :] - shared
    alike: NDArray[np.float64] = shared / np.maximum(either, 1)
    return alike


def _features(campaign: Campaign) -> list[tuple[str, str]]:
    return sorted({("category", name) for name in campaign.categories} | {("intent", name) for name in campaign.intents})
