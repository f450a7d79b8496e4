"""What MongoDB holds of one person, read as one for those who rank by it at once. What is made of it is in `live`."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from persona.projections.conversations import OPENING_CHARACTERS
from persona.schemas import Vector
from persona.stores.documents import Documents

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Truth:
    """A person's records, and what is known of the texts that they sent."""

    history: Sequence[Record] = ()
    """Fields of `Records.history_of`, by time then id."""
    model: str | None = None
    """The space of the vectors; None while there are none."""
    vectors: Mapping[str, Vector] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    named: Mapping[str, Sequence[str]] = field(default_factory=dict)
    openings: Mapping[str, tuple[str, Vector]] = field(default_factory=dict)


def truth_of(documents: Documents, user_id: str, *, texts: Collection[str] | None) -> Truth:
    """What is held of this person, and of these texts (by hash) too; without `texts`, nothing of what they said."""
    history = documents.records.history_of(user_id)
    if texts is None:
        return Truth(history)
    model = documents.embeddings.model()
    texts = {*texts, *(record["text_hash"] for record in history if "text_hash" in record)}
    return Truth(
        history,
        model[0] if model else None,
        documents.embeddings.get(texts),
        documents.embeddings.labels(texts),
        documents.embeddings.mentions(texts),
        documents.conversations.openings([user_id]),
    )


def said_by(documents: Documents, user_id: str) -> list[dict[str, Any]]:
    """How each of this person's messages begins, by time then id: what conversations open with."""
    return list(documents.records.messages_of([user_id], characters=OPENING_CHARACTERS))
