"""From several channels' candidates to one ranking. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, NamedTuple, overload

import numpy as np

from persona.ranking.channels import Candidates
from persona.ranking.knowledge import NOWHERE, Floats, Ints

DIGITS = 6


class Part(NamedTuple):
    """What one channel adds to a campaign's score."""

    contribution: float
    channel: str
    score: float
    """Of the campaign within the channel, in (0, 1]."""
    evidence: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Fused:
    """A campaign with its fused score in [0, 1] and what it is made of."""

    campaign_id: str
    score: float
    parts: Sequence[Part]

    @property
    def evidence(self) -> list[dict[str, Any]]:
        """Each channel's part in the score, strongest first; made only for what is shown, thousands are ranked."""
        return [
            {
                "channel": part.channel,
                "score": round(part.score, DIGITS),
                "contribution": round(part.contribution, DIGITS),
                **part.evidence,
            }
            for part in sorted(self.parts, key=lambda part: (-part.contribution, part.channel))
        ]


class _Share(NamedTuple):
    """What one channel has to say, by the campaigns' numbers."""

    channel: str
    weight: float
    scores: Floats
    """Of its candidates, scaled by the best."""
    candidates: Candidates
    place_of: Ints
    """Number of a campaign to its place among the candidates."""


class Ranked(Sequence[Fused]):
    """A ranking, best first; what a campaign's score is made of is put together when it is asked for."""

    def __init__(self, names: Sequence[str], order: Sequence[int], scores: Sequence[float], shares: Sequence[_Share]) -> None:
        """`order` has the campaigns' numbers among the `names`, `scores` goes with it."""
        self.campaigns = [names[number] for number in order]
        """Their ids, in order."""
        self._order = order
        self._scores = scores
        self._shares = shares

    def __len__(self) -> int:
        """How many campaigns are ranked."""
        return len(self._order)

    @overload
    def __getitem__(self, place: int) -> Fused: ...
    @overload
    def __getitem__(self, place: slice) -> list[Fused]: ...
    def __getitem__(self, place: int | slice) -> Fused | list[Fused]:
        """What stands at a place, or at those of a slice."""
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(len(self)))]
        return Fused(self.campaigns[place], self._scores[place], list(self._parts(self._order[place])))

    def of(self, campaign_id: str) -> Fused | None:
        """The same of one campaign; None where no channel proposes it."""
        return self[self.campaigns.index(campaign_id)] if campaign_id in self.campaigns else None

    def _parts(self, number: int) -> Iterator[Part]:
        for share in self._shares:
            place = int(share.place_of[number])
            if place != NOWHERE:
                score = float(share.scores[place])
                yield Part(share.weight * score, share.channel, score, share.candidates.evidence_of(place))


def fuse(proposals: Mapping[str, Candidates], weights: Mapping[str, float], number_of: Mapping[str, int]) -> Ranked:
    """Weigh the channels' scores, each scaled by the channel's best, and rank; ties by campaign id.

    Only channels that proposed something count towards the total weight: a person without words is not marked down for it. Campaigns are
    ranked that have a number (see `Knowledge.number_of`); a channel's best may be another.
    """
    total = np.zeros(len(number_of) + 1)  # the last is for all that have none
    proposed = np.zeros(len(total), np.bool_)
    shares: list[_Share] = []
    for channel, weight, best in _counting(proposals, weights):
        candidates = proposals[channel]
        numbers: Ints = np.fromiter(map(number_of.get, candidates.campaigns, repeat(NOWHERE)), np.intp, len(candidates))
        scores = candidates.scores / best
        total[numbers] += weight * scores
        proposed[numbers] = True
        place_of = np.full(len(total), NOWHERE)
        place_of[numbers] = np.arange(len(numbers))
        shares.append(_Share(channel, weight, scores, candidates, place_of))
    numbers = np.flatnonzero(proposed[:-1])
    rounded = _rounded(total[numbers])
    order = np.argsort(-rounded, kind="stable")  # ties stay by campaign id
    return Ranked(list(number_of), numbers[order].tolist(), rounded[order].tolist(), shares)


def _counting(proposals: Mapping[str, Candidates], weights: Mapping[str, float]) -> Iterator[tuple[str, float, float]]:
    """The channels that count, each with its share of the weight and its best score, in one order whatever order they come in."""
    best = {channel: float(candidates.scores.max()) for channel, candidates in sorted(proposals.items()) if len(candidates)}
    total = sum(weights.get(channel, 0.0) for channel in best)
    for channel, highest in best.items():
        weight = weights.get(channel, 0.0)
        if weight > 0 and highest > 0:
            yield channel, weight / total, highest


def _rounded(scores: Floats) -> Floats:
    return np.minimum(np.round(scores, DIGITS), 1.0)
