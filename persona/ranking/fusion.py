"""From several channels' candidates to one ranking. Pure."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from persona.ranking.channels import Candidate


@dataclass(frozen=True, slots=True)
class Fused:
    """A campaign with its fused score in [0, 1] and each channel's part in it, strongest first."""

    campaign_id: str
    score: float
    evidence: list[dict[str, Any]]


def fuse(proposals: Mapping[str, Sequence[Candidate]], weights: Mapping[str, float]) -> list[Fused]:
    """Weigh the channels' scores, each scaled by the channel's best, and rank; ties by campaign id.

    Only channels that proposed something count towards the total weight: a person without words is not marked down for it.
    """
    total = sum(weights.get(channel, 0.0) for channel, candidates in proposals.items() if candidates)
    parts: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for channel, candidates in proposals.items():
        weight = weights.get(channel, 0.0)
        best = max((candidate.score for candidate in candidates), default=0.0)
        if weight <= 0 or best <= 0:
            continue
        for candidate in candidates:
            share = weight / total * candidate.score / best
            parts[candidate.campaign_id].append(
                {
                    "channel": channel,
                    "score": round(candidate.score / best, 6),
                    "contribution": round(share, 6),
                    **candidate.evidence,
                }
            )
    fused = [
        Fused(
            campaign,
            min(round(sum(part["contribution"] for part in evidence), 6), 1.0),  # rounded parts may add up to a little more
            sorted(evidence, key=lambda part: (-part["contribution"], part["channel"])),
        )
        for campaign, evidence in parts.items()
    ]
    return sorted(fused, key=lambda item: (-item.score, item.campaign_id))
