"""Whether a model may take the place of the one in force: a pure decision on measured figures."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from persona.ranking.generation import Verdict
from persona.ranking.model import Judgement


@dataclass(frozen=True, slots=True)
class Limits:
    """What a model may lose, and how fast one campaign may rise."""

    margin: float = 0.02
    """A metric may be lower by as much, at the lower end of the interval."""
    jump: float = 0.2
    """A campaign's share of conversions or of first places may grow by as much from one window to another."""
    queries: int = 100
    """With fewer there is nothing to tune or to judge on."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How much better the candidate is than something else by one metric in one window; negative: worse."""

    window: str
    against: str
    metric: str
    mean: float
    low: float
    high: float


def losses(differences: Sequence[Difference], limits: Limits) -> list[Difference]:
    """The differences that may be more than the margin to the candidate's disadvantage, the worst first."""
    return sorted((found for found in differences if found.low < -limits.margin), key=lambda found: found.low)


@dataclass(frozen=True, slots=True)
class Jump:
    """A campaign whose share of something grew from one window to another."""

    campaign_id: str
    what: str
    before: float
    after: float

    @property
    def growth(self) -> float:
        """In shares of one."""
        return self.after - self.before


def jumps(newest: Judgement, earlier: Sequence[Judgement], limits: Limits) -> list[Jump]:
    """Campaigns that rose by more than the limit since any of the earlier windows, the fastest first.

    One campaign that suddenly converts for everyone is more likely a fault, or someone's wish, than the taste of people.
    """
    found = [
        Jump(campaign, what, before.get(campaign, 0.0), share)
        for window in earlier
        for what, before, after in _comparable(window, newest)
        for campaign, share in after.items()
        if share - before.get(campaign, 0.0) > limits.jump
    ]
    return sorted(found, key=lambda jump: (-jump.growth, jump.campaign_id))


def _comparable(before: Judgement, after: Judgement) -> Iterator[tuple[str, Mapping[str, float], Mapping[str, float]]]:
    """Shares of the same thing; of nothing no share can have grown."""
    for what, earlier, later in (
        ("conversions", before.conversions, after.conversions),
        ("first places", before.top_places, after.top_places),
    ):
        if earlier and later:
            yield what, earlier, later


def judge(
    fingerprint: str,
    in_force: str | None,
    differences: Sequence[Difference],
    rises: Sequence[Jump],
    limits: Limits,
) -> Verdict:
    """Publish where nothing is lost beyond the margin and no campaign rose too fast; else say what speaks against it.

    Without any difference there was too little to judge on, and the model has the prior's weights: it is published.
    """
    if rises:
        jump = rises[0]
        reason = (
            f"held for a person to look at: {jump.campaign_id} went from {jump.before:.0%} to {jump.after:.0%} of all {jump.what}"
        )
        return Verdict(
            fingerprint=fingerprint, in_force=in_force, publish=False, reason=reason, value=jump.growth, limit=limits.jump
        )
    if lost := losses(differences, limits):
        worst = lost[0]
        reason = (
            f"may lose more than {limits.margin:g} to {worst.against} by {worst.metric} in {worst.window}: "
            f"{worst.mean:+.3f} ({worst.low:+.3f} to {worst.high:+.3f})"
        )
        return Verdict(
            fingerprint=fingerprint, in_force=in_force, publish=False, reason=reason, value=-worst.low, limit=limits.margin
        )
    reason = (
        "loses to nothing that it was compared with" if differences else "too few queries to judge on: the prior's weights serve"
    )
    value = max((-found.low for found in differences), default=0.0)
    return Verdict(fingerprint=fingerprint, in_force=in_force, publish=True, reason=reason, value=value, limit=limits.margin)
