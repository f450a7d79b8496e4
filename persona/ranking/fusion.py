"""From several channels' candidates to one ranking. Pure."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    in_order = sorted(proposals.items())  # one order of adding up, whatever order they come in
    total = sum(weights.get(channel, 0.0) for channel, candidates in in_order if candidates)
    parts: dict[str, list[Part]] = defaultdict(list)
    for channel, candidates in in_order:
        weight = weights.get(channel, 0.0)
        best = max((candidate.score for candidate in candidates), default=0.0)
        if weight <= 0 or best <= 0:
            continue
        for candidate in candidates:
            score = candidate.score / best
            parts[candidate.campaign_id].append(Part(weight / total * score, channel, score, candidate.evidence))
    scores = {campaign: min(round(sum(part.contribution for part in found), DIGITS), 1.0) for campaign, found in parts.items()}
    ranked = sorted(scores, key=lambda campaign: (-scores[campaign], campaign))
    return [Fused(campaign, scores[campaign], parts[campaign]) for campaign in ranked]
