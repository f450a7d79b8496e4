"""Which campaigns go together: EASE, learned from who engaged with what, and what it predicts from a history.

Pure. Where events come from and where relations are kept is decided elsewhere.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import nlargest
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from persona.projections.engagements import EVENT_WEIGHTS
from persona.schemas import Event, RelatedVote, Relation

if TYPE_CHECKING:
    from scipy.sparse import csr_array

LARGEST = 20_000
"""Campaigns up to which relations are learned: what is inverted is a square matrix of them, 3 GB at this size, in minutes."""
COMPARED_UP_TO = 2_000
"""Campaigns up to which the regularisation is chosen by comparison: each that is tried costs two inversions."""
STRONGEST = 100
"""Relations kept of each campaign."""
MIN_SUPPORT = 2
"""People who must have engaged with both: a relation shows no single person's history."""
HALF_LIFE_DAYS = 180.0
"""What was engaged with so long before the newest day counts half."""
MOST_OF_ONE = 1_000
"""Campaigns of one person that count, the strongest: a robot that clicks on everything would cost as much as all others."""
MULTIPLES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""Of the mean diagonal of the Gram matrix: the regularisations that are compared."""
LEAST_REGULARISATION = 1.0
"""Of one person who converted: two or three people do not make a strong relation."""
BLOCK = 1_000_000
"""Pairs of campaigns of one person, added up over people, that are multiplied at once: what bounds the memory."""
DIGITS = 6
MS_PER_DAY = 86_400_000
NOT_THEIRS = frozenset({Event.IMPRESSION})
"""What we did, not the person: learning from it would be learning from our own choices."""
NEGATIVE = frozenset(event for event, weight in EVENT_WEIGHTS.items() if weight < 0)

Matrix = NDArray[np.float64]
Taste = Mapping[str, float]
"""Campaign id to how strongly one person is tied to it, in (0, 1]."""


class RelationsSummary(BaseModel):
    """What relations were learned from, and how many."""

    people: int = 0
    """Who engaged with any campaign."""
    campaigns: int = 0
    relations: int = 0
    regularisation: float = 0.0
    left_out: str | None = None
    """Why none were learned, in words."""


@dataclass(frozen=True, slots=True)
class Learned:
    """The strongest relations of each campaign, by campaign, strongest first."""

    relations: Sequence[Relation]
    summary: RelationsSummary


def tastes(
    events: Iterable[tuple[str, str, str, int]], *, now_ms: int, half_life_days: float = HALF_LIFE_DAYS
) -> Iterator[Taste]:
    """What each person is tied to, from (user id, campaign id, event, UTC epoch ms), everything of one person in a row.

    The strongest event counts, halved with every `half_life_days` between the newest and `now_ms`; impressions do not count, and
    nothing does that a dismiss or an unsubscribe came after.
    """
    for _, theirs in groupby(events, key=itemgetter(0)):
        weights: dict[str, float] = {}
        newest: dict[str, int] = {}
        refused: dict[str, int] = {}
        for _, campaign, name, at_ms in theirs:
            event = Event(name)
            if event in NEGATIVE:
                refused[campaign] = max(at_ms, refused.get(campaign, at_ms))
            elif event not in NOT_THEIRS:
                weights[campaign] = max(EVENT_WEIGHTS[event], weights.get(campaign, 0.0))
                newest[campaign] = max(at_ms, newest.get(campaign, at_ms))
        yield {
            campaign: weight * 0.5 ** (max(now_ms - newest[campaign], 0) / MS_PER_DAY / half_life_days)
            for campaign, weight in weights.items()
            if campaign not in refused or refused[campaign] < newest[campaign]
        }


def learn(people: Iterable[Taste], campaigns: Iterable[str]) -> Learned:
    """Learn how `campaigns` go together; what `people` engaged with besides them does not count.

    `people` is read once, in bounded memory; above `LARGEST` campaigns it is not read, and the summary says so.
    """
    names = sorted(set(campaigns))
    if len(names) > LARGEST:
        reason = f"{len(names):,} campaigns are more than the {LARGEST:,} for which related campaigns are learned"
        return Learned([], RelationsSummary(campaigns=len(names), left_out=reason))
    together = co_engagement(people, names, parts=2 if len(names) <= COMPARED_UP_TO else 1)
    if not together.support.any():
        return Learned([], RelationsSummary(people=together.people, campaigns=len(names)))
    regularisation = _regularisation(together.grams)
    weights = ease(sum(together.grams[1:], start=together.grams[0]), regularisation)
    relations = list(_strongest(names, weights, together.support))
    return Learned(
        relations,
        RelationsSummary(
            people=together.people, campaigns=len(names), relations=len(relations), regularisation=round(regularisation, DIGITS)
        ),
    )


def related_votes(relations: Mapping[str, Sequence[Relation]], history: Mapping[str, float], *, limit: int) -> list[RelatedVote]:
    """What a history points to, best first: `relations` by their first campaign, `history` campaign id to weight.

    What the graph answers, computed from relations in memory.
    """
    found: dict[str, list[tuple[float, Relation]]] = {}
    for campaign, weight in history.items():
        for relation in relations.get(campaign, ()):
            found.setdefault(relation.related_id, []).append((weight * relation.weight, relation))
    votes = []
    for campaign, parts in found.items():
        _, most = min(parts, key=lambda part: (-part[0], part[1].campaign_id))
        score = sum(pull for pull, _ in parts)
        votes.append(RelatedVote(campaign, score, most.campaign_id, most.support, most.weight, run_id=""))
    return sorted(votes, key=lambda vote: (-vote.score, vote.campaign_id))[:limit]


# -- from people to a matrix ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CoEngagement:
    """What is to be known of all people together, whatever their number."""

    grams: Sequence[Matrix]
    """XᵀX of each part of the people, shape (campaigns, campaigns); X has a row a person."""
    support: NDArray[np.int32]
    """How many people engaged with both, of the same shape; the diagonal is zero."""
    people: int


def co_engagement(people: Iterable[Taste], campaigns: Sequence[str], *, parts: int = 1) -> CoEngagement:
    """Add people up in so many parts, turn by turn."""
    size = len(campaigns)
    grams = [np.zeros((size, size)) for _ in range(parts)]
    support = np.zeros((size, size), dtype=np.int32)
    seen = 0
    for rows in _blocks(people, {campaign: number for number, campaign in enumerate(campaigns)}):
        for part, gram in enumerate(grams):
            _add_gram(gram, rows[(part - seen) % parts :: parts])
        _add_gram(support, (rows > 0).astype(np.int32))
        seen += rows.shape[0]
    np.fill_diagonal(support, 0)
    return CoEngagement(grams, support, seen)


def _blocks(people: Iterable[Taste], numbers: Mapping[str, int]) -> "Iterator[csr_array]":
    """The rows of X in blocks whose products fit in memory; who engaged with nothing has none."""
    from scipy.sparse import csr_array  # half a second to import: who only answers needs no matrix

    weights: list[float] = []
    columns: list[int] = []
    ends = [0]
    cost = 0

    def block() -> "csr_array":
        return csr_array((weights, columns, ends), shape=(len(ends) - 1, len(numbers)))

    for taste in people:
        theirs = [(weight, numbers[campaign]) for campaign, weight in taste.items() if weight > 0 and campaign in numbers]
        if not theirs:
            continue
        if len(theirs) > MOST_OF_ONE:
            theirs = nlargest(MOST_OF_ONE, theirs)
        weights += [weight for weight, _ in theirs]
        columns += [column for _, column in theirs]
        ends.append(len(columns))
        cost += len(theirs) ** 2
        if cost >= BLOCK:
            yield block()
            weights, columns, ends, cost = [], [], [0], 0
    if len(ends) > 1:
        yield block()


def _add_gram(total: NDArray[np.float64] | NDArray[np.int32], rows: "csr_array") -> None:
    product = (rows.T @ rows).tocoo()
    total[product.row, product.col] += product.data  # each place once, so that nothing is lost


# -- from a matrix to relations ---------------------------------------------------------------------------------------------


def ease(gram: Matrix, regularisation: float) -> Matrix:
    """The weights B, shape (campaigns, campaigns), diagonal zero, that minimise ||X - XB||² + regularisation x ||B||².

    H. Steck, Embarrassingly Shallow Autoencoders for Sparse Data, WWW 2019: with P the inverse of the regularised Gram matrix,
    B[i, j] = -P[i, j] / P[j, j]. `gram` is overwritten: there may be no room for another.
    """
    from scipy.linalg import lapack

    gram[np.diag_indices_from(gram)] += regularisation
    factor, fault = lapack.dpotrf(gram.T, lower=1, overwrite_a=1)
    inverse, other = lapack.dpotri(factor, lower=1, overwrite_c=1)
    if fault or other:
        raise np.linalg.LinAlgError("the regularised Gram matrix is not positive definite")
    weights: Matrix = inverse.T
    for row in range(len(weights)):  # only one triangle was computed
        weights[row + 1 :, row] = weights[row, row + 1 :]
    weights /= -np.diag(weights).copy()
    np.fill_diagonal(weights, 0.0)
    return weights


def _regularisation(grams: Sequence[Matrix]) -> float:
    """What, with weights learned from one half of the people, tells best what the other half engaged with.

    In multiples of the mean diagonal, as engagement grows with people; with one part alone, the mean diagonal itself.
    """
    scale = float(np.mean([np.trace(gram) / len(gram) for gram in grams]))
    if len(grams) == 1:
        return max(scale, LEAST_REGULARISATION)
    tried = sorted({max(multiple * scale, LEAST_REGULARISATION) for multiple in MULTIPLES})
    return min(tried, key=lambda each: sum(_error(ease(a.copy(), each), b) for a, b in (grams, grams[::-1])))


def _error(weights: Matrix, gram: Matrix) -> float:
    """||X - XB||² of people who are known by their Gram matrix alone."""
    rest = np.eye(len(weights)) - weights
    return float(np.sum(rest * (gram @ rest)))


def _strongest(campaigns: Sequence[str], weights: Matrix, support: NDArray[np.int32]) -> Iterator[Relation]:
    for number, campaign in enumerate(campaigns):
        of_this = np.round(weights[number], DIGITS)
        supported = np.flatnonzero((of_this > 0) & (support[number] >= MIN_SUPPORT))
        best = supported[np.argsort(-of_this[supported], kind="stable")][:STRONGEST]
        for other in best:
            yield Relation(campaign, campaigns[other], float(of_this[other]), int(support[number, other]))
