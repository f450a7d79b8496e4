"""Which campaigns go together: EASE, learned from what conversations and people engaged with. What a history points to: `knowledge`.

Pure. Where events come from and where relations are kept is decided elsewhere.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from itertools import repeat
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from persona.projections.engagements import EVENT_NAMES
from persona.projections.histories import MS, NEGATIVE, NEVER, NONE, WEIGHTS, Ties
from persona.schemas import Event, Relation

if TYPE_CHECKING:
    from scipy.sparse import csr_array

LARGEST = 20_000
"""Campaigns up to which relations are learned: what is inverted is a square matrix of them, 3 GB at this size, in minutes."""
COMPARED_UP_TO = 2_000
"""Campaigns up to which the regularisation is chosen by comparison: each that is tried costs two inversions."""
STRONGEST = 100
"""Relations kept of each campaign."""
MOST_OF_ONE = 1_000
"""Entries in the rows of one person that count, the strongest: a robot that clicks on everything would cost as much as all others."""
MULTIPLES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""Of the mean diagonal of the Gram matrix: the regularisations that are compared."""
LEAST_REGULARISATION = 1.0
"""Of one person who converted: two or three people do not make a strong relation."""
BLOCK = 1_000_000
"""Pairs of campaigns of one person, added up over people, that are multiplied at once: what bounds the memory."""
DIGITS = 6
DAY = timedelta(days=1)
NOT_THEIRS = frozenset({Event.IMPRESSION})
"""What we did, not the person: learning from it would be learning from our own choices."""
NOT_ENGAGING = np.isin(EVENT_NAMES, [event.value for event in NOT_THEIRS])
"""The same, by the events' numbers."""

Matrix = NDArray[np.float64]


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


@dataclass(frozen=True, slots=True)
class Rows:
    """What relations are learned from: rows of campaigns, those of a person together, person by person; nobody has none."""

    cells: "csr_array"
    """Shape (rows, campaigns): how strongly a conversation, or a person, is tied to each, in (0, 1]."""
    person: NDArray[np.int64]
    """Whose each row is, counted from zero."""
    campaigns: Sequence[str]
    """In their order."""


def rows_of(ties: Ties, campaigns: Sequence[str], *, now_ms: int, half_life_days: float) -> Rows:
    """A row for each conversation of a person, and one for all that they did; those with nothing in them are left out.

    All that a conversation named or led to counts alike, of all that was done the strongest event of a campaign; either is halved with
    every `half_life_days` between the newest and `now_ms`. Impressions do not count, and nothing does that the person refused and did
    not engage with since. Of a person with very many entries the strongest count. `campaigns` are named by their number.
    """
    from scipy.sparse import csr_array  # half a second to import: who only answers needs no matrix

    size = max(len(campaigns), 1)
    done = ties.event != NONE
    negative, theirs = done & NEGATIVE[ties.event], ~(done & NOT_ENGAGING[ties.event])
    counting = np.flatnonzero(theirs & ~negative & ~_refused(ties, size, done & theirs, negative))
    inside = counting[ties.talk[counting] != NONE]
    apart = counting[done[counting]]
    talks = int(ties.talk.max(initial=NONE)) + 1  # what a person did stands after their conversations
    row = np.concatenate((ties.talk[inside], talks + ties.user[apart]))
    rows = np.concatenate((inside, apart))
    weights = np.concatenate((np.ones(len(inside)), WEIGHTS[ties.event[apart]]))
    keys, cell = np.unique(row * size + ties.campaign[rows], return_inverse=True)
    strongest, newest = np.zeros(len(keys)), np.zeros(len(keys), np.int64)
    np.maximum.at(strongest, cell, weights)
    np.maximum.at(newest, cell, ties.at_ms[rows])
    owner = np.zeros(len(keys), np.int64)
    owner[cell] = ties.user[rows]
    weight = strongest * 0.5 ** (np.maximum(now_ms - newest, 0) / (DAY // MS) / half_life_days)
    row_of, campaign = np.divmod(keys, size)
    order = np.lexsort((campaign, row_of, owner))
    order = order[weight[order] > 0]
    owner, row_of, campaign, weight = owner[order], row_of[order], campaign[order], weight[order]
    kept = _strongest_entries(owner, row_of, campaign, weight)
    owner, row_of, campaign, weight = owner[kept], row_of[kept], campaign[kept], weight[kept]
    begins = np.flatnonzero(np.concatenate(([True], np.diff(row_of) != 0)))[: len(row_of)]
    person = np.unique(owner[begins], return_inverse=True)[1]
    known = np.unique(ties.campaign[theirs])  # a campaign that nobody did anything with yet is none
    columns = (weight, np.searchsorted(known, campaign), np.append(begins, len(weight)))
    names = [campaigns[number] for number in known.tolist()]
    return Rows(csr_array(columns, shape=(len(begins), len(names))), person, names)


def _refused(ties: Ties, size: int, done: NDArray[np.bool_], negative: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which ties are to campaigns that the person refused and did not engage with since; to name one is not to engage with it."""
    keys, pair = np.unique(ties.user * size + ties.campaign, return_inverse=True)
    refused, engaged = np.full(len(keys), NEVER), np.full(len(keys), NEVER)
    np.maximum.at(refused, pair[negative], ties.at_ms[negative])
    np.maximum.at(engaged, pair[done & ~negative], ties.at_ms[done & ~negative])
    found: NDArray[np.bool_] = ((refused != NEVER) & (engaged <= refused))[pair]
    return found


def _strongest_entries(
    owner: NDArray[np.int64], row: NDArray[np.int64], campaign: NDArray[np.int64], weight: Matrix
) -> NDArray[np.int64]:
    """Which entries count of people who have too many of them."""
    _, place, counts = np.unique(owner, return_inverse=True, return_counts=True)
    if counts.max(initial=0) <= MOST_OF_ONE:
        return np.arange(len(owner))
    order = np.lexsort((row, campaign, weight, place))
    return np.sort(order[np.arange(len(order)) >= np.cumsum(counts)[place[order]] - MOST_OF_ONE])


def learn(rows: Rows) -> Learned:
    """Learn how campaigns go together; above `LARGEST` of them nothing is learned, and the summary says so."""
    names = rows.campaigns
    if len(names) > LARGEST:
        reason = f"{len(names):,} campaigns are more than the {LARGEST:,} for which related campaigns are learned"
        return Learned([], RelationsSummary(campaigns=len(names), left_out=reason))
    together = co_engagement(rows, parts=2 if len(names) <= COMPARED_UP_TO else 1)
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


# -- from people to a matrix ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CoEngagement:
    """What is to be known of all people together, whatever their number."""

    grams: Sequence[Matrix]
    """XᵀX of each part of the people, shape (campaigns, campaigns); X has all rows of all people."""
    support: NDArray[np.int32]
    """How many people have both in their rows, of the same shape; the diagonal is zero."""
    people: int


def co_engagement(rows: Rows, *, parts: int = 1) -> CoEngagement:
    """Add people up in so many parts, turn by turn."""
    size = len(rows.campaigns)
    grams = [np.zeros((size, size)) for _ in range(parts)]
    support = np.zeros((size, size), dtype=np.int32)
    for cells, person in _blocks(rows):
        for part, gram in enumerate(grams):
            of_part = cells[person % parts == part]
            _add(gram, of_part.T @ of_part)
        people = _people(cells, person)
        _add(support, people.T @ people)
    np.fill_diagonal(support, 0)
    return CoEngagement(grams, support, int(rows.person.max(initial=-1)) + 1)


def _blocks(rows: Rows) -> Iterator[tuple["csr_array", NDArray[np.int64]]]:
    """Rows of whole people, so many that their products fit in memory."""
    cost = np.cumsum(np.diff(rows.cells.indptr).astype(np.int64) ** 2)
    begin = 0
    while begin < len(rows.person):
        spent = int(cost[begin - 1]) if begin else 0
        last = min(int(np.searchsorted(cost, spent + BLOCK)), len(cost) - 1)
        end = int(np.searchsorted(rows.person, rows.person[last], side="right"))
        yield rows.cells[begin:end], rows.person[begin:end]
        begin = end


def _people(cells: "csr_array", person: NDArray[np.int64]) -> "csr_array":
    """Which campaigns are in any row of each person, shape (people, campaigns)."""
    from scipy.sparse import csr_array

    size = cells.shape[1]
    of_person = np.repeat(person - person[0], np.diff(cells.indptr))
    ties = np.unique(of_person * size + cells.indices)
    return csr_array((np.ones(len(ties), np.int32), divmod(ties, size)), shape=(int(person[-1] - person[0]) + 1, size))


def _add(total: NDArray[np.float64] | NDArray[np.int32], more: "csr_array") -> None:
    cells = more.tocoo()
    total[cells.row, cells.col] += cells.data  # each place once, so that nothing is lost


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

    In multiples of the mean diagonal, as engagement grows with people; with one part alone, the mean diagonal itself. The multiples
    are tried from the mean diagonal on, downhill: too little and too much tell worse the further they are from what is right.
    """
    scale = float(np.mean([np.trace(gram) / len(gram) for gram in grams]))
    if len(grams) == 1:
        return max(scale, LEAST_REGULARISATION)
    tried = sorted({max(multiple * scale, LEAST_REGULARISATION) for multiple in MULTIPLES})

    @cache
    def error(place: int) -> float:
        return sum(_error(ease(a.copy(), tried[place]), b) for a, b in (grams, grams[::-1]))

    best = bisect_left(tried, max(scale, LEAST_REGULARISATION))
    while best + 1 < len(tried) and error(best + 1) < error(best):
        best += 1
    while best > 0 and error(best - 1) <= error(best):
        best -= 1
    return tried[best]


def _error(weights: Matrix, gram: Matrix) -> float:
    """||X - XB||² of people who are known by their Gram matrix alone."""
    rest = np.eye(len(weights)) - weights
    return float(np.sum(rest * (gram @ rest)))


def _strongest(campaigns: Sequence[str], weights: Matrix, support: NDArray[np.int32]) -> Iterator[Relation]:
    for number, campaign in enumerate(campaigns):
        of_this = np.round(weights[number], DIGITS)
        supported = np.flatnonzero((of_this > 0) & (support[number] > 0))
        best = supported[np.argsort(-of_this[supported], kind="stable")][:STRONGEST]
        names = map(campaigns.__getitem__, best.tolist())
        yield from map(Relation, repeat(campaign), names, of_this[best].tolist(), support[number, best].tolist())
