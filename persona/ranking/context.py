"""What is known of the person who is asked about, as the channels and the policy see it. Shapes only."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from persona.schemas import Customer, Engagement, ExpressedIntent, Mention, Vector


@dataclass(frozen=True, slots=True)
class Decision:
    """Something the person did that policy respects."""

    event: str
    campaign_id: str | None
    channel: str
    at: datetime


Decisions = Mapping[str | None, Sequence[Decision]]
"""Decisions by campaign; under None those that concern more than one."""


@dataclass(frozen=True, slots=True)
class CameIn:
    """A record of the person's that the truth may not have yet."""

    record: Mapping[str, Any]
    """Fields of `Records.history_of`, and its `drop`."""
    intent: str | None
    """That was given, or that its words show."""
    names: Collection[str]
    """Campaigns that its words name."""


@dataclass(frozen=True, slots=True)
class Context:
    """A person, or a few texts of nobody in particular."""

    user_id: str | None
    vector: Vector | None = None
    intents: Mapping[str, ExpressedIntent] = field(default_factory=dict)
    mentioned: Mapping[str, Mention] = field(default_factory=dict)
    """Campaigns that the messages name."""
    history: Sequence[Engagement] = ()
    customer: Customer | None = None
    decisions: Decisions = field(default_factory=dict)
    came_in: Sequence[CameIn] = ()

    @property
    def known(self) -> bool:
        """Whether this person ever said or did anything."""
        return self.vector is not None or any((self.history, self.intents, self.mentioned, self.decisions))
