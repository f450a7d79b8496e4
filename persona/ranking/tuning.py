"""Weights of the channels tuned on earlier questions whose answers are known, and shrunk towards a prior. Pure.

Which questions there are, and what the channels proposed for them, is decided by whoever asks; a model is not judged here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np

from persona.ranking.channels import NONE, Candidates
from persona.ranking.fusion import DIGITS
from persona.ranking.knowledge import NOWHERE

ENOUGH_QUERIES = 50
"""With fewer the prior is kept: what would be learned is noise."""
PRIOR_QUERIES = 100
"""The prior counts like this many queries."""
CERTAIN = 1.96
"""Standard errors that a gain has to be above zero."""
TRIALS = 60
"""Mixtures tried in each round."""
SPREADS = (2.0, 1.0, 0.5, 0.25)
"""Per round, the standard deviation of the logarithm by which the best weights so far are varied."""
TOP, SHORT, LONG = 5, 20, 100
"""Cut-offs of NDCG@5, Recall@20 and NDCG@100."""

Weights = np.ndarray[tuple[int], np.dtype[np.float64]]
Mixtures = np.ndarray[tuple[int, int], np.dtype[np.float64]]


@dataclass(frozen=True, slots=True)
class TuningQuery:
    """What every channel proposed to somebody at a moment, and what they wanted then."""

    proposals: Mapping[str, Candidates]
    relevant: frozenset[str]
    """What the person took afterwards."""
    taken: frozenset[str]
    """What the person had taken before: struck out of the ranking and of the truth."""


@dataclass(frozen=True, slots=True)
class Tuned:
    """Weights to serve with, and what they rest on."""

    weights: dict[str, float]
    """Their sum is the prior's."""
    queries: int
    """How many queries they were tuned on; 0: they are the prior."""
    gain: float
    """By how much weights learned from either half of the queries improve the objective on the other over the prior, in [0, 1]."""


def tune(queries: Sequence[TuningQuery], *, prior: Mapping[str, float], seed: int) -> Tuned:
    """Find the weights under which `fuse` ranks best, and shrink them towards `prior` where queries are few.

    The objective is the mean over queries of NDCG@5, Recall@20 (over min(20, relevant)) and NDCG@100, averaged. The search is
    random and narrows around the best (a fixed number of trials, the same for the same `seed`); n queries count n against the
    prior's 100. Channels outside the prior, with weight 0 in it, or without a proposal in any query keep the prior's weight.

    What is found is believed only where weights found in the same way on either half of the queries do better on the other half than
    the prior, with all of the gain's 95 % interval above zero. Otherwise, and with fewer than 50 queries that have an answer, the
    prior comes back. Queries of one person are to stand together, so that the halves share few people.
    """
    asked = [query for query in queries if query.relevant - query.taken]
    proposing = {channel for query in asked for channel, found in query.proposals.items() if len(found)}
    channels = sorted(channel for channel, weight in prior.items() if weight > 0 and channel in proposing)
    unchanged = Tuned(dict(prior), 0, 0.0)
    if len(asked) < ENOUGH_QUERIES or len(channels) < 2:
        return unchanged
    tables = [_Table.of(query, channels) for query in asked]
    start = np.array([prior[channel] for channel in channels])
    half = len(tables) // 2
    halves = (tables[:half], tables[half:])
    gains = np.concatenate([_gains(other, start, _learned(mine, start, seed)) for mine, other in (halves, halves[::-1])])
    gain, error = float(gains.mean()), float(gains.std() / np.sqrt(len(gains)))
    if gain <= CERTAIN * error:
        return unchanged
    weights = _learned(tables, start, seed)
    return Tuned({**prior, **dict(zip(channels, weights.tolist(), strict=True))}, len(asked), gain)


@dataclass(frozen=True, slots=True)
class _Table:
    """One query as arrays: its candidates by campaign id, as `fuse` breaks ties."""

    scores: np.ndarray[tuple[int, int], np.dtype[np.float64]]
    """Of shape (channels, candidates), each channel scaled by its best."""
    relevant: np.ndarray[tuple[int], np.dtype[np.intp]]
    """Columns of the candidates that are relevant."""
    wanted: int
    """How many campaigns are relevant, proposed or not."""

    @classmethod
    def of(cls, query: TuningQuery, channels: Sequence[str]) -> "_Table":
        proposals = [query.proposals.get(channel, NONE) for channel in channels]
        proposed = set[str]().union(*(found.campaigns for found in proposals))
        column = {campaign: index for index, campaign in enumerate(sorted(proposed - query.taken))}
        scores = np.zeros((len(channels), len(column)))
        for row, found in zip(scores, proposals, strict=True):
            best = found.scores.max(initial=0.0)
            columns = np.fromiter(map(column.get, found.campaigns, repeat(NOWHERE)), np.intp, len(found))
            left = (columns != NOWHERE) & (best > 0)
            row[columns[left]] = found.scores[left] / best
        wanted = query.relevant - query.taken
        return cls(scores, np.array([column[campaign] for campaign in sorted(wanted & set(column))], dtype=np.intp), len(wanted))

    def quality(self, mixtures: Mixtures) -> Weights:
        """The objective on this query for each mixture, shape (mixtures,)."""
        fused = np.round(mixtures @ self.scores, DIGITS)
        nowhere = np.full(len(mixtures), np.inf)
        places = np.stack([_places(fused, int(column)) for column in self.relevant] or [nowhere], axis=1)
        gains = 1 / np.log2(places + 1)
        recall = np.sum(places <= SHORT, axis=1) / min(SHORT, self.wanted)
        parts = [np.sum(gains * (places <= cut), axis=1) / _ideal(min(cut, self.wanted)) for cut in (TOP, LONG)]
        return np.asarray((parts[0] + recall + parts[1]) / 3)


def _places(fused: Mixtures, column: int) -> Weights:
    """The rank, from 1, of a candidate under each mixture; of equals the one further left is ahead."""
    own = fused[:, column : column + 1]
    return np.asarray(1.0 + np.sum(fused > own, axis=1) + np.sum(fused[:, :column] == own, axis=1))


def _ideal(hits: int) -> float:
    return float(np.sum(1 / np.log2(np.arange(2, hits + 2))))


def _objective(tables: Sequence[_Table], mixtures: Mixtures) -> Weights:
    unit = mixtures / mixtures.sum(axis=1, keepdims=True)
    total = np.zeros(len(mixtures))
    for table in tables:
        total += table.quality(unit)
    return total / len(tables)


def _gains(tables: Sequence[_Table], before: Weights, after: Weights) -> Weights:
    """By how much each query is answered better."""
    mixtures = np.stack([before, after]) / before.sum()
    return np.array([after - before for before, after in (table.quality(mixtures) for table in tables)])


def _learned(tables: Sequence[_Table], start: Weights, seed: int) -> Weights:
    best = _search(tables, start / start.sum(), np.random.default_rng(seed))
    trust = len(tables) / (len(tables) + PRIOR_QUERIES)
    return np.asarray(trust * best * start.sum() + (1 - trust) * start)


def _search(tables: Sequence[_Table], start: Weights, random: np.random.Generator) -> Weights:
    best = start
    for spread in SPREADS:
        varied = best * np.exp(spread * random.standard_normal((TRIALS, len(best))))
        mixtures = np.vstack([best, varied / varied.sum(axis=1, keepdims=True)])
        best = mixtures[int(np.argmax(_objective(tables, mixtures)))]
    return best
