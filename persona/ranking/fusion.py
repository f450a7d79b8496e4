"""From several channels' candidates to one ranking. Pure."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, NamedTuple

from persona.ranking.channels import Candidate

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


def fuse(proposals: Mapping[str, Sequence[Candidate]], weights: Mapping[str, float]) -> list[Fused]:
    """Weigh the channels' scores, each scaled by the channel's best, and rank; ties by campaign id.

    Only channels that proposed something count towards the total weight: a person without words is not marked down for it.
    """
    scores: dict[str, float] = defaultdict(float)
    parts: dict[str, list[Part]] = defaultdict(list)
    for channel, share, best, candidates in _counting(proposals, weights):
        for candidate in candidates:
            score = candidate.score / best
            scores[candidate.campaign_id] += share * score
            parts[candidate.campaign_id].append(Part(share * score, channel, score, candidate.evidence))
    return [Fused(campaign, score, parts[campaign]) for campaign, score in _ranked(scores)]


def fused_order(proposals: Mapping[str, Sequence[Candidate]], weights: Mapping[str, float]) -> list[str]:
    """The campaign ids as `fuse` ranks them, in half its time: for who ranks for thousands and shows nobody why."""
    scores: dict[str, float] = defaultdict(float)
    for _, share, best, candidates in _counting(proposals, weights):
        for candidate in candidates:
            scores[candidate.campaign_id] += share * (candidate.score / best)
    return [campaign for campaign, _ in _ranked(scores)]


def _counting(
    proposals: Mapping[str, Sequence[Candidate]], weights: Mapping[str, float]
) -> Iterator[tuple[str, float, float, Sequence[Candidate]]]:
    """The channels that count, each with its share of the weight, its best score and its candidates."""
    in_order = sorted(proposals.items())  # one order of adding up, whatever order they come in
    total = sum(weights.get(channel, 0.0) for channel, candidates in in_order if candidates)
    for channel, candidates in in_order:
        weight = weights.get(channel, 0.0)
        best = max((candidate.score for candidate in candidates), default=0.0)
        if weight > 0 and best > 0:
            yield channel, weight / total, best, candidates


def _ranked(scores: Mapping[str, float]) -> list[tuple[str, float]]:
    rounded = {campaign: min(round(scores[campaign], DIGITS), 1.0) for campaign in sorted(scores)}
    return sorted(rounded.items(), key=itemgetter(1), reverse=True)  # stable: ties stay by campaign id
