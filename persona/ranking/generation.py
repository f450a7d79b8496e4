"""Whether a fitted model goes into service: a pure decision, and the id of what is published."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from pydantic import BaseModel

from persona.ranking.model import RankingModel


@dataclass(frozen=True, slots=True)
class Decision:
    """Publish or not, and why, in words."""

    publish: bool
    reason: str


class Verdict(BaseModel):
    """Whether a candidate may take the place of the generation in force, as the evaluation found."""

    fingerprint: str
    """Of the candidate."""
    in_force: str | None
    """The generation that it was compared with."""
    publish: bool
    reason: str
    value: float = 0.0
    """The figure that decided, beside the limit that it should keep."""
    limit: float = 0.0
    held: bool = False
    """Nothing may serve it before a person has looked at it, not even where nothing else serves."""


def decide(
    candidate: RankingModel,
    in_force: tuple[str, RankingModel] | None,
    verdict: Verdict | None,
    *,
    withdrawn: Collection[str] = (),
) -> Decision:
    """Publish a candidate that was fitted on other data than the generation in force, if the evaluation does not speak against it.

    Not one whose fingerprint is among the `withdrawn`: a person rolled it back.
    """
    name, serving = in_force or (None, None)
    if serving is not None and candidate.fingerprint == serving.fingerprint:
        return Decision(False, "nothing has changed since the generation in force was fitted")
    if candidate.fingerprint in withdrawn:
        return Decision(False, "it was rolled back; `persona generations publish` puts it in force again")
    if verdict is None or (verdict.fingerprint, verdict.in_force) != (candidate.fingerprint, name):
        return Decision(False, "the candidate has not been compared with the generation in force: ranking_evaluation does that")
    return Decision(verdict.publish, verdict.reason)


def generation_id(at: datetime) -> str:
    """`g_` and the UTC time."""
    return f"g_{at:%Y%m%dT%H%M%S}{at.microsecond // 1000:03d}Z"
