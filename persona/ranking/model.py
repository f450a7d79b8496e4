"""The ranking model: weights of the channels and how well each campaign does. Fitted from day buckets; pure."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta

from pydantic import BaseModel

from persona.projections.engagements import EVENT_WEIGHTS
from persona.ranking.relations import RelationsSummary
from persona.schemas import DayBucket, Event

PRIOR_WEIGHTS: dict[str, float] = {
    "similar_conversations": 0.36,
    "similar_users": 0.04,
    "related": 0.19,
    "mentions": 0.02,
    "intents": 0.25,
    "content": 0.07,
    "engagement": 0.07,
}
"""How much each channel counts before there is data to tune on: what did best on conversations with new people, and, for the
channels that need no words, on events whose popularity drifts."""
HALF_LIFE_DAYS = 7.0
"""How fast popularity fades before there is data to learn it from."""
TASTE_HALF_LIVES, LEAST_TASTE_DAYS = 4.0, 30.0
"""What people engaged with tells of them for so many times as long as a campaign does well, and never less than a month."""
PRIOR_APPROVALS, PRIOR_REFUSALS = 2.0, 1.0
"""Beta prior of a campaign's approval: three imagined answers, two of them favourable."""
PRIOR_STRENGTH = EVENT_WEIGHTS[Event.IMPRESSION]
"""Every campaign is imagined to have been seen once more than it was, so that a new one has a place."""
NEGATIVE = frozenset({Event.DISMISS, Event.UNSUBSCRIBE})
ANY_CHANNEL = ""


class Figures(BaseModel):
    """How a campaign does: decayed sums, in events."""

    strength: float
    """Decayed positive engagement, weighted by event."""
    approval: float
    """Posterior mean share of favourable answers, in (0, 1)."""
    conversions: int
    """Plain count."""

    @property
    def engagement(self) -> float:
        """What the engagement channel ranks by."""
        return (self.strength + PRIOR_STRENGTH) * self.approval


UNSEEN = Figures(strength=0.0, approval=PRIOR_APPROVALS / (PRIOR_APPROVALS + PRIOR_REFUSALS), conversions=0)
"""How a campaign does that nobody has seen."""


class Judgement(BaseModel):
    """The window on which a model was judged, as it was then: what the next model is compared with."""

    start_ms: int
    end_ms: int
    engaged: dict[str, float]
    """Campaign to its share of what people engaged with for the first time; empty where that was too little to compare."""


class RankingModel(BaseModel):
    """What a generation holds."""

    weights: dict[str, float]
    tuned_on: int = 0
    """Queries that the weights were tuned on; 0: they are the prior."""
    half_life_days: float
    judged_on: Judgement | None = None
    """None before the evaluation."""
    newest_day: str | None
    facts: int
    fingerprint: str
    """Of everything the model was fitted on: the same data, the same model."""
    figures: dict[str, dict[str, Figures]]
    """By channel (empty: any), then campaign."""
    relations: RelationsSummary = RelationsSummary()
    """What was learned of which campaigns go together; the relations themselves are kept apart, by the fingerprint."""

    @property
    def as_of(self) -> datetime:
        """The end of the newest day, UTC; the epoch where there is none."""
        day = date.fromisoformat(self.newest_day) + timedelta(days=1) if self.newest_day else date(1970, 1, 1)
        return datetime(day.year, day.month, day.day, tzinfo=UTC)

    @property
    def taste_half_life_days(self) -> float:
        """How fast what people engaged with ceases to tell what they like."""
        return max(TASTE_HALF_LIVES * self.half_life_days, LEAST_TASTE_DAYS)

    @property
    def overall(self) -> Mapping[str, Figures]:
        """The campaigns' figures over all channels."""
        return self.figures.get(ANY_CHANNEL, {})

    def figures_on(self, channel: str | None) -> Mapping[str, Figures]:
        """The campaigns' figures on a channel; over all channels where none is asked for or nothing happened on it."""
        return self.figures.get(channel or ANY_CHANNEL) or self.overall

    @property
    def strength(self) -> float:
        """Decayed positive engagement with all campaigns together."""
        return sum(figures.strength for figures in self.overall.values())

    def shares(self) -> dict[str, float]:
        """Each campaign's share of all that people do lately: what ranks them for those of whom nothing is known."""
        total = self.strength
        return {campaign: figures.strength / total for campaign, figures in self.overall.items()} if total else {}

    def strength_of(self, campaign_id: str) -> float:
        """Decayed positive engagement over all channels; 0 for a campaign the model does not know."""
        known = self.overall.get(campaign_id)
        return known.strength if known else 0.0


def fit(buckets: Iterable[DayBucket], *, facts: int, fingerprint: str, half_life_days: float = HALF_LIFE_DAYS) -> RankingModel:
    """Fit the campaigns' figures from day buckets, decayed relative to the newest day among them; the weights are the prior."""
    rows = list(buckets)
    newest = max((date.fromisoformat(row.day) for row in rows), default=None)
    grouped: dict[str, dict[str, list[tuple[DayBucket, float]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        age = (newest - date.fromisoformat(row.day)).days if newest else 0
        decayed = row.n * 0.5 ** (age / half_life_days)
        grouped[ANY_CHANNEL][row.campaign_id].append((row, decayed))
        grouped[row.channel][row.campaign_id].append((row, decayed))
    return RankingModel(
        weights=dict(PRIOR_WEIGHTS),
        half_life_days=half_life_days,
        newest_day=newest.isoformat() if newest else None,
        facts=facts,
        fingerprint=fingerprint,
        figures={
            channel: {campaign: _figures(cells) for campaign, cells in sorted(campaigns.items())}
            for channel, campaigns in sorted(grouped.items())
        },
    )


def _figures(cells: list[tuple[DayBucket, float]]) -> Figures:
    favourable = sum(EVENT_WEIGHTS[Event(row.event)] * n for row, n in cells if Event(row.event) not in NEGATIVE)
    refusals = sum(n for row, n in cells if Event(row.event) in NEGATIVE)
    approval = (favourable + PRIOR_APPROVALS) / (favourable + refusals + PRIOR_APPROVALS + PRIOR_REFUSALS)
    conversions = sum(row.n for row, _ in cells if row.event == Event.CONVERSION)
    return Figures(strength=favourable, approval=approval, conversions=conversions)
