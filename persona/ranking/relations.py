"""Which campaigns go together: EASE, learned from what conversations and people engaged with. What a history points to: `knowledge`.

Pure. Where events come from and where relations are kept is decided elsewhere.
"""

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from heapq import nlargest
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from persona.projections.conversations import Tie, ties_of
from persona.projections.engagements import EVENT_WEIGHTS
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
NEGATIVE = frozenset(event for event, weight in EVENT_WEIGHTS.items() if weight < 0)

Matrix = NDArray[np.float64]
Row = Mapping[str, float]
"""Campaign id to how strongly a conversation, or a person, is tied to it, in (0, 1]."""


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


def rows_of(
    history: Sequence[Mapping[str, Any]], named: Mapping[str, Sequence[str]], *, now: datetime, half_life_days: float
) -> list[Row]:
    """A row for each of a person's conversations, and one for all that they did; those with nothing in them are left out.

    `history` and `named` are as for `conversations_of`. All that a conversation named or led to counts alike, of all that was done
    the strongest event of a campaign; either is halved with every `half_life_days` between the newest and `now`. Impressions do
    not count, and nothing does that the person refused and did not engage with since.
    """
    conversations, apart = ties_of(history, named)
    everything = list(chain(*conversations, apart))
    refused = _refused(everything)

    def row(ties: Iterable[Tie], *, alike: bool) -> Row:
        weights: dict[str, float] = {}
        newest: dict[str, datetime] = {}
        for campaign, event, at in ties:
            if event in NOT_THEIRS or event in NEGATIVE or campaign in refused:
                continue
            weight = 1.0 if alike or event is None else EVENT_WEIGHTS[event]
            weights[campaign] = max(weight, weights.get(campaign, 0.0))
            newest[campaign] = max(at, newest.get(campaign, at))
        return {
            campaign: weight * 0.5 ** (max((now - newest[campaign]) / DAY, 0.0) / half_life_days)
            for campaign, weight in weights.items()
        }

    done = [tie for tie in everything if tie.event is not None]
    found = [row(ties, alike=True) for ties in conversations] + [row(done, alike=False)]
    return [each for each in found if each]


def _refused(ties: Iterable[Tie]) -> set[str]:
    """The campaigns that were refused and not engaged with since; to name one is not to engage with it."""
    refusals: dict[str, datetime] = {}
    engagements: dict[str, datetime] = {}
    for campaign, event, at in ties:
        if event is not None and event not in NOT_THEIRS:
            times = refusals if event in NEGATIVE else engagements
            times[campaign] = max(at, times.get(campaign, at))
    return {campaign for campaign, at in refusals.items() if campaign not in engagements or engagements[campaign] <= at}


def learn(people: Iterable[Sequence[Row]], campaigns: Iterable[str]) -> Learned:
    """Learn how `campaigns` go together from the rows of people, person by person; other campaigns in them do not count.

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


# -- from people to a matrix ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CoEngagement:
    """What is to be known of all people together, whatever their number."""

    grams: Sequence[Matrix]
    """XᵀX of each part of the people, shape (campaigns, campaigns); X has all rows of all people."""
    support: NDArray[np.int32]
    """How many people have both in their rows, of the same shape; the diagonal is zero."""
    people: int


@dataclass(frozen=True, slots=True)
class _Block:
    """Rows of whole people."""

    rows: "csr_array"
    person: NDArray[np.int64]
    """Whose each row is, counted over all blocks."""


def co_engagement(people: Iterable[Sequence[Row]], campaigns: Sequence[str], *, parts: int = 1) -> CoEngagement:
    """Add people up in so many parts, turn by turn."""
    size = len(campaigns)
    grams = [np.zeros((size, size)) for _ in range(parts)]
    support = np.zeros((size, size), dtype=np.int32)
    seen = 0
    for block in _blocks(people, {campaign: number for number, campaign in enumerate(campaigns)}):
        for part, gram in enumerate(grams):
            rows = block.rows[block.person % parts == part]
            _add(gram, rows.T @ rows)
        people_of_block = _people(block)
        _add(support, people_of_block.T @ people_of_block)
        seen = int(block.person[-1]) + 1
    np.fill_diagonal(support, 0)
    return CoEngagement(grams, support, seen)


def _blocks(people: Iterable[Sequence[Row]], numbers: Mapping[str, int]) -> Iterator[_Block]:
    """The rows of X in blocks whose products fit in memory; who has nothing in their rows is no one."""
    from scipy.sparse import csr_array  # half a second to import: who only answers needs no matrix

    weights: list[float] = []
    columns: list[int] = []
    ends, person = [0], array("q")
    seen, cost = 0, 0

    def block() -> _Block:
        return _Block(csr_array((weights, columns, ends), shape=(len(ends) - 1, len(numbers))), np.array(person))

    for rows in people:
        theirs = [
            [(weight, numbers[campaign]) for campaign, weight in row.items() if weight > 0 and campaign in numbers]
            for row in rows
        ]
        for row in _strongest_entries(theirs) if sum(map(len, theirs)) > MOST_OF_ONE else theirs:
            if row:
                weights += [weight for weight, _ in row]
                columns += [column for _, column in row]
                ends.append(len(columns))
                person.append(seen)
                cost += len(row) ** 2
        if len(person) and person[-1] == seen:
            seen += 1
        if cost >= BLOCK:
            yield block()
            weights, columns, ends, person, cost = [], [], [0], array("q"), 0
    if len(person):
        yield block()


def _strongest_entries(rows: Sequence[Sequence[tuple[float, int]]]) -> list[list[tuple[float, int]]]:
    kept: list[list[tuple[float, int]]] = [[] for _ in rows]
    for weight, column, number in nlargest(MOST_OF_ONE, ((*entry, number) for number, row in enumerate(rows) for entry in row)):
        kept[number].append((weight, column))
    return kept


def _people(block: _Block) -> "csr_array":
    """Which campaigns are in any row of each person, shape (people, campaigns)."""
    from scipy.sparse import csr_array

    size = block.rows.shape[1]
    of_person = np.repeat(block.person - block.person[0], np.diff(block.rows.indptr))
    ties = np.unique(of_person * size + block.rows.indices)
    people = int(block.person[-1] - block.person[0]) + 1
    return csr_array((np.ones(len(ties), np.int32), divmod(ties, size)), shape=(people, size))


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
        supported = np.flatnonzero((of_this > 0) & (support[number] > 0))
        best = supported[np.argsort(-of_this[supported], kind="stable")][:STRONGEST]
        for other in best:
            yield Relation(campaign, campaigns[other], float(of_this[other]), int(support[number, other]))
