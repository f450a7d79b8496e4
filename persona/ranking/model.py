"""The ranking model: weights of the channels and how well each campaign does. Fitted from day buckets; pure."""

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from persona.projections.engagements import EVENT_NAMES, EVENT_WEIGHTS
from persona.projections.histories import EVENTS, WEIGHTS
from persona.ranking.days import EPOCH, Days
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
REFUSALS = np.isin(EVENT_NAMES, [event.value for event in NEGATIVE])
"""The same, by the events' numbers."""
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
    days = Days.of(buckets)
    newest = int(days.day.max()) if len(days.day) else 0
    decayed = days.n * 0.5 ** ((newest - days.day) / half_life_days)
    of_channels = ((channel, days.channel == number) for number, channel in enumerate(days.channels))
    return RankingModel(
        weights=dict(PRIOR_WEIGHTS),
        half_life_days=half_life_days,
        newest_day=(EPOCH + timedelta(days=newest)).isoformat() if len(days.day) else None,
        facts=facts,
        fingerprint=fingerprint,
        figures={
            channel: _figures(days, decayed, which)
            for channel, which in ((ANY_CHANNEL, np.ones(len(decayed), np.bool_)), *of_channels)
            if which.any()
        },
    )


def _figures(days: Days, decayed: NDArray[np.float64], which: NDArray[np.bool_]) -> dict[str, Figures]:
    event = days.event[which]
    campaign, weight, refusal = days.campaign[which], WEIGHTS[event], REFUSALS[event]

    def total(worth: NDArray[np.float64] | NDArray[np.int64]) -> NDArray[np.float64]:
        return np.bincount(campaign, worth, len(days.campaigns)).astype(np.float64)

    favourable, refusals = total(decayed[which] * weight * ~refusal), total(decayed[which] * refusal)
    approval = (favourable + PRIOR_APPROVALS) / (favourable + refusals + PRIOR_APPROVALS + PRIOR_REFUSALS)
    conversions = total(days.n[which] * (event == EVENTS[Event.CONVERSION]))
    return {
        days.campaigns[number]: Figures(
            strength=float(favourable[number]), approval=float(approval[number]), conversions=int(conversions[number])
        )
        for number in np.unique(campaign).tolist()
    }
