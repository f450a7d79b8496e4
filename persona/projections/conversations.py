"""A user's history cut into conversations, each with a vector and what it named or led to; and the user's profile. Pure."""

import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import accumulate
from typing import Any, NamedTuple, cast

import numpy as np

from persona.projections.engagements import EVENT_WEIGHTS, MENTION_WEIGHT
from persona.schemas import Conversation, Event, Opening, UserProfile, Vector

SILENCE = timedelta(minutes=30)
"""Messages without a conversation id that are less than this apart belong together."""
ATTRIBUTION = timedelta(days=1)
"""An event without a conversation id belongs to the conversation that ended at most this long before it."""
OPENING_CHARACTERS = 500
"""What is said later tells nothing more of what a conversation is about."""
PROFILE_PARTS = 200
PROFILE_HALF_LIFE = timedelta(days=14)


class Tie(NamedTuple):
    """Something that ties a person to a campaign."""

    campaign_id: str
    event: Event | None
    """None: the person's words name the campaign."""
    at: datetime

    @property
    def strength(self) -> float:
        """In [-1, 1]; negative: refused."""
        return MENTION_WEIGHT if self.event is None else EVENT_WEIGHTS[self.event]


@dataclass
class _Thread:
    first: Mapping[str, Any]
    messages: list[Mapping[str, Any]]
    ties: list[Tie]
    """What the messages name, then what happened."""

    @property
    def ended_at(self) -> datetime:
        return cast(datetime, self.messages[-1]["timestamp"])

    def opening(self) -> list[Mapping[str, Any]]:
        """The messages that begin within the first characters."""
        begins = accumulate((message["characters"] + 1 for message in self.messages), initial=0)
        return [message for message, begin in zip(self.messages, begins, strict=False) if begin < OPENING_CHARACTERS]

    @property
    def outcomes(self) -> dict[str, float]:
        """The strongest event of a campaign counts, the later of equals."""
        found: dict[str, float] = {}
        for tie in self.ties:
            if abs(tie.strength) >= abs(found.get(tie.campaign_id, 0.0)):
                found[tie.campaign_id] = tie.strength
        return found


def in_one(messages: Sequence[str]) -> str:
    """What stands for what someone says in several messages: its vector is nearer to what they mean than the mean of theirs."""
    first, *others = messages
    return " ".join(messages)[:OPENING_CHARACTERS] if others and len(first) + 1 < OPENING_CHARACTERS else first


def openings_of(user_id: str, history: Sequence[Mapping[str, Any]]) -> list[Opening]:
    """How the user's conversations open, where that takes more than one message; `history` as below, with what was said."""
    openings = []
    for thread in _threads(history):
        messages = thread.opening()
        if len(messages) > 1:
            words = in_one([message["message"] for message in messages])
            openings.append(Opening(conversation_id(user_id, thread.first["_id"]), user_id, _said(messages), words))
    return openings


def conversations_of(
    user_id: str,
    history: Sequence[Mapping[str, Any]],
    vectors: Mapping[str, Vector],
    named: Mapping[str, Sequence[str]],
    openings: Mapping[str, tuple[str, Vector]],
) -> list[Conversation]:
    """The user's conversations; `history` is everything of the user, by time then id; `vectors` maps text hash to vector.

    `named` maps text hash to the ids of the campaigns that the text names; texts that name none may be absent. `openings` maps
    conversation id to what was said when its opening was encoded, and the vector. A conversation that opens otherwise by now has
    the mean of its opening's messages, each by its length.

    Messages that share a conversation id are one conversation, the others are cut at silences. The id is a hash of the user and the
    first message, so that a late message that joins two conversations leaves one of the two ids.
    """
    threads = _threads(history)
    _attribute(threads, history, named)
    return [
        Conversation(
            conversation_id=conversation_id(user_id, thread.first["_id"]),
            user_id=user_id,
            vector=_vector_of(user_id, thread, vectors, openings),
            messages=len(thread.messages),
            started_at_ms=_ms(thread.first["timestamp"]),
            ended_at_ms=_ms(thread.ended_at),
            outcomes=thread.outcomes,
        )
        for thread in threads
    ]


def conversation_ids_of(user_id: str, history: Sequence[Mapping[str, Any]]) -> list[str]:
    """The ids of the conversations that `conversations_of` makes of this history."""
    return [conversation_id(user_id, thread.first["_id"]) for thread in _threads(history)]


def profile_of(
    user_id: str, history: Sequence[Mapping[str, Any]], vectors: Mapping[str, Vector], openings: Mapping[str, tuple[str, Vector]]
) -> UserProfile | None:
    """The mean of how the user's conversations open and of each message after that, by length and by how lately (half-life 14 days).

    Of the newest 200 of these; None without a message. Age counts from the user's own newest message, so that a profile depends on
    nobody else's records.
    """
    said = [part for thread in _threads(history) for part in _parts_of(user_id, thread, vectors, openings)]
    newest = sorted(said, key=lambda part: part.ended_at)[-PROFILE_PARTS:]
    if not newest:
        return None
    now = newest[-1].ended_at
    weights = np.array([0.5 ** ((now - part.ended_at) / PROFILE_HALF_LIFE) * part.characters for part in newest])
    return UserProfile(
        user_id=user_id,
        vector=_unit(weights @ np.stack([part.vector for part in newest])),
        messages=sum(part.messages for part in newest),
        last_at_ms=_ms(now),
    )


@dataclass(frozen=True, slots=True)
class _Part:
    """Of a conversation: how it opens, or a message after that."""

    ended_at: datetime
    characters: int
    messages: int
    vector: Vector


def _parts_of(
    user_id: str, thread: _Thread, vectors: Mapping[str, Vector], openings: Mapping[str, tuple[str, Vector]]
) -> Iterator[_Part]:
    opening = thread.opening()
    length = min(sum(map(_length, opening)), OPENING_CHARACTERS)
    yield _Part(opening[-1]["timestamp"], length, len(opening), _vector_of(user_id, thread, vectors, openings))
    for message in thread.messages[len(opening) :]:
        yield _Part(message["timestamp"], _length(message), 1, vectors[message["text_hash"]])


def _vector_of(
    user_id: str, thread: _Thread, vectors: Mapping[str, Vector], openings: Mapping[str, tuple[str, Vector]]
) -> Vector:
    messages = thread.opening()
    said, vector = openings.get(conversation_id(user_id, thread.first["_id"]), ("", None))
    if vector is not None and said == _said(messages):
        return vector
    lengths = np.array([_length(message) for message in messages], dtype=np.float32)
    return _unit(lengths @ np.stack([vectors[message["text_hash"]] for message in messages]))


def _threads(history: Sequence[Mapping[str, Any]]) -> list[_Thread]:
    named: dict[str, _Thread] = {}
    threads: list[_Thread] = []
    unnamed: _Thread | None = None
    for record in history:
        if "text_hash" not in record:
            continue
        key = record.get("conversation_id")
        thread = unnamed if key is None else named.get(key)
        if thread is None or (key is None and record["timestamp"] - thread.ended_at >= SILENCE):
            thread = _Thread(first=record, messages=[], ties=[])
            threads.append(thread)
        thread.messages.append(record)
        if key is None:
            unnamed = thread
        else:
            named[key] = thread
    return threads


def _attribute(threads: Sequence[_Thread], history: Sequence[Mapping[str, Any]], names: Mapping[str, Sequence[str]]) -> None:
    """Give each conversation what its messages name, and each record about a campaign that belongs to it."""
    for each in threads:
        for message in each.messages:
            each.ties += [Tie(campaign, None, message["timestamp"]) for campaign in names.get(message["text_hash"], ())]
    named = {thread.first["conversation_id"]: thread for thread in threads if "conversation_id" in thread.first}
    starts, latest = _latest_by_start(threads)
    for record in history:
        if "campaign_id" not in record:
            continue
        at = record["timestamp"]
        thread = named.get(record.get("conversation_id", ""))
        if thread is None:
            thread = latest[bisect_right(starts, at)]
            if thread is not None and at - thread.ended_at > ATTRIBUTION:
                thread = None
        if thread is not None:
            thread.ties.append(Tie(record["campaign_id"], Event(record["event"]), at))


def _latest_by_start(threads: Sequence[_Thread]) -> tuple[list[datetime], list[_Thread | None]]:
    """Starts in order, and for each number of threads begun the one of them that ended last."""
    by_start = sorted(threads, key=lambda thread: thread.first["timestamp"])
    latest: list[_Thread | None] = [None]
    for thread in by_start:
        before = latest[-1]
        latest.append(thread if before is None or thread.ended_at >= before.ended_at else before)
    return [thread.first["timestamp"] for thread in by_start], latest


def conversation_id(user_id: str, first_message_id: str) -> str:
    """Of the user's conversation that begins with this message."""
    return hashlib.blake2b(f"{user_id}\x00{first_message_id}".encode(), digest_size=16).hexdigest()


def said_in(text_hashes: Iterable[str]) -> str:
    """Equal for equal messages in the same order."""
    return hashlib.blake2b("".join(text_hashes).encode(), digest_size=16).hexdigest()


def _said(messages: Sequence[Mapping[str, Any]]) -> str:
    return said_in(message["text_hash"] for message in messages)


def _length(message: Mapping[str, Any]) -> int:
    return min(max(int(message["characters"]), 1), OPENING_CHARACTERS)


def _unit(vector: np.ndarray[Any, Any]) -> Vector:
    norm = float(np.linalg.norm(vector))
    # messages that cancel each other out exactly leave no direction: any fixed unit vector is finite and not zero
    unit = vector / norm if norm > 1e-9 else np.eye(1, len(vector))[0]
    return unit.astype(np.float32)


def _ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)
