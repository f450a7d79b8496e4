"""Whether a fitted model goes into service: a pure decision, and the id of what is published."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from persona.ranking.model import RankingModel


@dataclass(frozen=True, slots=True)
class Decision:
    """Publish or not, and why, in words."""

    publish: bool
    reason: str


def decide(candidate: RankingModel, in_force: RankingModel | None, *, withdrawn: Collection[str] = ()) -> Decision:
    """Publish the first model, and any that was fitted on other data than the one in force.

    Not one whose fingerprint is among the `withdrawn`: a person rolled it back.
    """
    if in_force is None:
        return Decision(True, "the first model: it serves from priors until there is something to compare it with")
    if candidate.fingerprint == in_force.fingerprint:
        return Decision(False, "nothing has changed since the generation in force was fitted")
    if candidate.fingerprint in withdrawn:
        return Decision(False, "it was rolled back; `persona generations publish` puts it in force again")
    return Decision(True, "fitted on newer data")


def generation_id(at: datetime) -> str:
    """`g_` and the UTC time."""
    return f"g_{at:%Y%m%dT%H%M%S}{at.microsecond // 1000:03d}Z"
