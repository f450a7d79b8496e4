"""Whether a model may take the place of the one in force: a pure decision on measured figures."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from persona.ranking.generation import Verdict


@dataclass(frozen=True, slots=True)
class Limits:
    """What a model may lose, and how fast one campaign may rise."""

    margin: float = 0.02
    """A metric may be lower by as much."""
    jump: float = 0.2
    """A campaign's share of what people do may grow by as much from one model to the next."""
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

    @property
    def loss(self) -> float:
        """How much worse the candidate is, where chance does not explain it: where all of the interval is below zero. Else 0."""
        return -self.mean if self.high < 0 else 0.0


def losses(differences: Sequence[Difference], limits: Limits) -> list[Difference]:
    """Where the candidate loses more than the margin, and not by chance; the worst first.

    Either alone would not do. With a hundred queries an interval is wider than the margin: who refuses wherever one reaches below
    it, or wherever a mean among a dozen falls below it, refuses most models that are as good in truth, and the one in force would
    never be replaced. With thousands the smallest of losses is certain, and what is smaller than the margin is allowed. To correct
    the intervals for their number (Bonferroni) would let more pass that is worse, as the metrics go together. How often each rule
    errs, all comparisons taken together, is in docs/evaluation.md.
    """
    return sorted((found for found in differences if found.loss > limits.margin), key=lambda found: -found.loss)


@dataclass(frozen=True, slots=True)
class Shares:
    """Each campaign's share of the same thing at two times; empty where there was too little of it."""

    what: str
    before: Mapping[str, float]
    after: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Jump:
    """A campaign whose share of something grew."""

    campaign_id: str
    what: str
    before: float
    after: float

    @property
    def growth(self) -> float:
        """In shares of one."""
        return self.after - self.before


def jumps(shares: Iterable[Shares], limits: Limits) -> list[Jump]:
    """Campaigns whose share of anything grew by more than the limit, the fastest first; of nothing no share can have grown.

    One campaign that suddenly converts for everyone is more likely a fault, or someone's wish, than the taste of people.
    """
    found = [
        Jump(campaign, of.what, of.before.get(campaign, 0.0), share)
        for of in shares
        if of.before
        for campaign, share in of.after.items()
        if share - of.before.get(campaign, 0.0) > limits.jump
    ]
    return sorted(found, key=lambda jump: (-jump.growth, jump.campaign_id))


def judge(
    fingerprint: str,
    in_force: str | None,
    differences: Sequence[Difference],
    rises: Sequence[Jump],
    limits: Limits,
) -> Verdict:
    """Publish where nothing is lost beyond the margin, chance aside, and no campaign rose too fast; else say what speaks against it.

    Without any difference there was too little to judge on, and nothing was tuned: it is published.
    """
    if rises:
        jump = rises[0]
        reason = (
            f"held for a person to look at: {jump.campaign_id} went from {jump.before:.0%} to {jump.after:.0%} of {jump.what}"
        )
        return Verdict(
            fingerprint=fingerprint,
            in_force=in_force,
            publish=False,
            reason=reason,
            value=jump.growth,
            limit=limits.jump,
            held=True,
        )
    if lost := losses(differences, limits):
        worst = lost[0]
        reason = (
            f"loses more than {limits.margin:g} to {worst.against} by {worst.metric} in {worst.window}: "
            f"{worst.mean:+.3f} ({worst.low:+.3f} to {worst.high:+.3f})"
        )
        return Verdict(
            fingerprint=fingerprint, in_force=in_force, publish=False, reason=reason, value=worst.loss, limit=limits.margin
        )
    if differences:
        reason = f"loses more than {limits.margin:g} to nothing that it was compared with"
    else:
        reason = "too few queries to tune and to judge on"
    value = max((found.loss for found in differences), default=0.0)
    return Verdict(fingerprint=fingerprint, in_force=in_force, publish=True, reason=reason, value=value, limit=limits.margin)
