"""The records that cross a boundary: what a drop's line must be, what catalogs hold, what a store is handed, what an answer is.

Shapes and their validation only; what is computed from them lives in the packages that compute it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

Vector = NDArray[np.float32]
"""One embedding: shape (dimension,), L2-normalised unless said otherwise."""
Vectors = NDArray[np.float32]
"""Several embeddings: shape (n, dimension)."""


class Event(StrEnum):
    """What happened between a person and us."""

    MESSAGE = "message"
    IMPRESSION = "impression"
    OPEN = "open"
    CLICK = "click"
    REPLY = "reply"
    CONVERSION = "conversion"
    UNSUBSCRIBE = "unsubscribe"
    DISMISS = "dismiss"


class Reason(StrEnum):
    """Why a line is in quarantine or a drop is held."""

    INVALID_JSON = "invalid_json"
    INVALID_ENCODING = "invalid_encoding"
    TOO_DEEP = "too_deep"
    TOO_LARGE = "too_large"
    NOT_AN_OBJECT = "not_an_object"
    MISSING_FIELD = "missing_field"
    INVALID_FIELD = "invalid_field"
    TIME_IN_FUTURE = "time_in_future"
    ID_CONFLICT = "id_conflict"
    UNSUPPORTED_FILE = "unsupported_file"
    TRUNCATED_GZIP = "truncated_gzip"
    GZIP_RATIO = "gzip_ratio"
    EMPTY_FILE = "empty_file"
    CRASHED_RUN = "crashed_run"


# -- catalogs ---------------------------------------------------------------------------------------------------------

Id = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=256, pattern=r"^[^\x00]*[^\x00\s][^\x00]*$")
]


def _utc(time: datetime) -> datetime:
    try:
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except OverflowError:
        raise ValueError("outside the years 1 to 9999") from None


UtcTime = Annotated[datetime, AfterValidator(_utc)]
"""A time with or without zone; none means UTC."""


ChannelName = Annotated[str, StringConstraints(strip_whitespace=True, to_lower=True, min_length=1)]
"""Channels are compared in lower case, as records keep them."""


class FrequencyCap(BaseModel):
    """At most `count` impressions to one person within `days`."""

    count: int = Field(ge=1, le=1_000_000)
    days: float = Field(gt=0, le=365)


class Campaign(BaseModel):
    """Something that can be offered."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    campaign_id: Id
    name: str = ""
    description: str = ""
    intents: list[str] = Field(default_factory=list)
    channels: list[ChannelName] = Field(default_factory=list, description="Empty: any channel.")
    categories: list[str] = Field(default_factory=list)
    starts_at: UtcTime | None = None
    ends_at: UtcTime | None = None
    status: Literal["draft", "active", "paused", "ended"] = "active"
    frequency_cap: FrequencyCap | None = None
    requires_consent: bool = False

    @property
    def text(self) -> str:
        """What is embedded to stand for the campaign; empty when all we know is its id."""
        named = self.name if self.name != self.campaign_id else ""
        return ". ".join(part for part in (named, self.description) if part)


class IntentDefinition(BaseModel):
    """An intent of the catalog, with the sentences that show it."""

    intent: Id
    description: str = ""
    examples: list[str] = Field(default_factory=list)


class Customer(BaseModel):
    """What the team knows of a person apart from conversations."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    user_id: Id
    segments: list[str] = Field(default_factory=list)
    consent: bool | dict[ChannelName, bool] = False
    suppressed: bool = False

    def consents_to(self, channel: str) -> bool:
        """Whether the person agreed to be addressed on `channel`."""
        return self.consent if isinstance(self.consent, bool) else self.consent.get(channel, False)


# -- what the projections hand to the stores ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Engagement:
    """Everything between one person and one campaign, folded from their records."""

    user_id: str
    campaign_id: str
    weight: float
    """How strongly the person is tied to the campaign, in [-1, 1]; negative after a dismiss or an unsubscribe."""
    value: float
    counts: Mapping[str, int]
    """Number of records by event name; events that never happened are absent."""
    first_at_ms: int
    last_at_ms: int
    last_message_id: str


@dataclass(frozen=True, slots=True)
class ExpressedIntent:
    """How often and when last a person expressed an intent, given or inferred."""

    user_id: str
    intent: str
    count: int
    last_at_ms: int
    last_message_id: str


@dataclass(frozen=True, slots=True)
class Mention:
    """How often and when last a person's messages named a campaign."""

    campaign_id: str
    count: int
    """Messages that name it."""
    last_at_ms: int
    last_message_id: str


class Ties(NamedTuple):
    """What ties one person, each newest first."""

    engaged: list[Engagement]
    expressed: list[ExpressedIntent]
    mentioned: list[Mention]


@dataclass(frozen=True, slots=True)
class UserProfile:
    """A person's recency-weighted mean vector over their newest messages."""

    user_id: str
    vector: Vector
    messages: int
    last_at_ms: int


@dataclass(frozen=True, slots=True)
class Opening:
    """The words with which a conversation of several messages opens."""

    conversation_id: str
    user_id: str
    said: str
    """Names the messages that it is made of, in their order."""
    words: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """One conversation: its mean vector, and the campaigns it named or led to."""

    conversation_id: str
    user_id: str
    vector: Vector
    messages: int
    started_at_ms: int
    ended_at_ms: int
    outcomes: Mapping[str, float] = field(default_factory=dict)
    """Campaign id to the strength, in [-1, 1], of what followed."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One record that names a campaign, as the warehouse keeps it."""

    message_id: str
    drop: str
    user_id: str
    campaign_id: str
    event: str
    channel: str
    intent: str | None
    value: float | None
    at_ms: int


@dataclass(frozen=True, slots=True)
class Relation:
    """That people who engage with one campaign engage with another, learned by a model."""

    campaign_id: str
    related_id: str
    weight: float
    """Positive: what engagement with the first adds to the expected engagement with the second."""
    support: int
    """How many people engaged with both."""


# -- what retrieval brings back -----------------------------------------------------------------------------------------


class SimilarConversation(NamedTuple):
    """A conversation near the query, with what it led to. Never shown: another person's."""

    similarity: float
    outcomes: Mapping[str, float]


class NeighbourVote(NamedTuple):
    """How a group of similar people engaged with one campaign."""

    campaign_id: str
    score: float
    """Sum over neighbours of similarity x engagement weight x recency decay."""
    users: int


class RelatedVote(NamedTuple):
    """How strongly a history points to one campaign."""

    campaign_id: str
    score: float
    """Sum over the history of its weight x the relation's."""
    because: str
    """The campaign of the history that adds most."""
    support: int
    """How many people engaged with that one and this."""
    weight: float
    """Of the relation between the two."""
    run_id: str
    """The run that learned it; empty where it was learned for a comparison."""


@dataclass(frozen=True, slots=True)
class DayBucket:
    """How often an event happened with a campaign on a channel in one UTC day."""

    day: str
    """ISO date."""
    campaign_id: str
    channel: str
    event: str
    n: int
    value: float


# -- the answer ---------------------------------------------------------------------------------------------------------


class Recommendation(BaseModel):
    """One offer, with why."""

    campaign_id: str
    ranking_score: float = Field(ge=0, le=1)
    reason: str
    rank: int
    evidence: list[dict[str, Any]] = Field(default_factory=list, description="Absent where no explanation is asked for.")


class Answer(BaseModel):
    """What to offer someone now. The first three keys are what existing clients read."""

    user_id: str | None
    retrieval_source: Literal["computed", "cache"] = "computed"
    recommendations: list[Recommendation]
    generation: str | None
    as_of: datetime | None
    known_user: bool
    degraded: list[str] = Field(default_factory=list)
    holdout: bool = False
    """Whether the person is held out: offered what does well with everyone, for comparison."""


class Why(BaseModel):
    """Why a person is offered one campaign, or why not."""

    user_id: str
    campaign_id: str
    offered: bool
    rank: int | None
    """In the whole ranking, however many are asked for; None where it is not offered."""
    ranking_score: float | None
    """As in the answer; None where no channel proposes it."""
    rule: str | None
    """The code of what keeps it out; None where it is offered."""
    reason: str
    evidence: list[dict[str, Any]]
    """As in the answer, each part with its `sources`: message_id, drop, line, run_id, at; no line and no run of what none has taken in."""
    history: list[dict[str, Any]]
    """What passed between the two: `event`, and the fields of a source."""
    generation: str | None
    as_of: datetime | None
    known_user: bool
    degraded: list[str] = Field(default_factory=list)
    holdout: bool = False


class Member(BaseModel):
    """One person of an audience."""

    user_id: str
    rank: int
    score: float
    """The campaign's ranking score in the person's own answer."""


class Audience(BaseModel):
    """Whom to show a campaign, best first."""

    campaign_id: str
    audience: list[Member]
    generation: str | None
    degraded: list[str] = Field(default_factory=list)


class SimilarPerson(BaseModel):
    """Someone with similar conversations."""

    user_id: str
    rank: int
    similarity: float
    """Cosine of the two profiles."""


class SimilarPeople(BaseModel):
    """Who is similar to a person, nearest first."""

    user_id: str
    similar: list[SimilarPerson]
