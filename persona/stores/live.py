"""What came in over HTTP and is not in every store yet, in Redis, by person. What it means for an answer is decided elsewhere.

Each person has one hash of records by message id, and one of what was learned from their words since. A record knows its drop, and a
drop whom it concerns, so that a drop that every store has applied is taken out without reading anything else. All of it is also in
the drops themselves: a server that loses it is filled again.
"""

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import orjson
import redis

from persona.schemas import Vector
from persona.stores._chunks import chunks
from persona.stores._redis import ANSWERS_KEY, VERSION_KEY, VERSION_SECONDS, evict, hashed, translated

RECORDS_KEY = "persona:live:records:{user}"
LEARNED_KEY = "persona:live:learned:{user}"
DROP_KEY = "persona:live:drop:{drop}"
WHOLE_KEY = "persona:live:whole"
EVERYTHING = "persona:live:*"
LIVE_SECONDS = 7 * 86_400
"""Long after every drop that is not held has been applied; what is left by then is of drops that the pipeline never sees again."""
AT_ONCE = 1_000

# What is learned of somebody who was erased meanwhile, or whose records are in the stores by now, is not kept.
LEARN = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
for at = 4, #ARGV, 2 do redis.call('HSET', KEYS[2], ARGV[at], ARGV[at + 1]) end
redis.call('EXPIRE', KEYS[2], ARGV[1])
redis.call('SET', KEYS[3], ARGV[2], 'EX', ARGV[3])
redis.call('UNLINK', KEYS[4])
return 1
"""


class LearnedText(NamedTuple):
    """A message's vector and the intent that it shows, by a model."""

    model: str
    """The vector space's name."""
    intent: str | None
    vector: Vector


class LearnedOpening(NamedTuple):
    """How a conversation opens, see `schemas.Opening`."""

    model: str
    said: str
    vector: Vector


@dataclass(frozen=True)
class Learned:
    """What has been computed of a person's words, by text hash and by conversation id."""

    texts: Mapping[str, LearnedText] = field(default_factory=dict)
    openings: Mapping[str, LearnedOpening] = field(default_factory=dict)

    def __or__(self, later: "Learned") -> "Learned":
        return Learned({**self.texts, **later.texts}, {**self.openings, **later.openings})


@dataclass(frozen=True)
class Live:
    """What came in of a person."""

    records: Sequence[Mapping[str, Any]] = ()
    """Fields of `Records.history_of`, with `message`."""
    learned: Learned = field(default_factory=Learned)


class LiveRecords:
    """Put when a record has come in, removed when every store has it."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._learn = client.register_script(LEARN)

    def put(self, records: Sequence[Mapping[str, Any]], *, drop: str) -> None:
        """Let these records of a drop count from now on, the first of an id, and drop the answers of those whose they are."""
        users = {record["user_id"]: hashed(record["user_id"]) for record in records}
        with translated():
            putting = self._client.pipeline(transaction=True)
            for record in records:
                content = orjson.dumps({**record, "drop": drop}, option=orjson.OPT_UTC_Z)
                putting.hsetnx(RECORDS_KEY.format(user=users[record["user_id"]]), record["_id"], content)
            for user in users.values():
                putting.expire(RECORDS_KEY.format(user=user), LIVE_SECONDS)
            if users:
                putting.sadd(DROP_KEY.format(drop=drop), *users.values())
                putting.expire(DROP_KEY.format(drop=drop), LIVE_SECONDS)
            evict(putting, users.values())
            putting.execute()

    def learn(self, user_id: str, learned: Learned) -> bool:
        """Keep what was learned, and drop the person's answers; False, and nothing kept, where no record of theirs is here."""
        user = hashed(user_id)
        content: list[str | bytes] = []
        for key, text in learned.texts.items():
            content += [f"text:{key}", _packed([text.model, text.intent], text.vector)]
        for key, opening in learned.openings.items():
            content += [f"opening:{key}", _packed([opening.model, opening.said], opening.vector)]
        keys = [key.format(user=user) for key in (RECORDS_KEY, LEARNED_KEY, VERSION_KEY, ANSWERS_KEY)]
        with translated():
            return bool(self._learn(keys=keys, args=[LIVE_SECONDS, secrets.token_hex(8), VERSION_SECONDS, *content]))

    def of(self, user_id: str) -> Live:
        """What came in of this person."""
        user = hashed(user_id)
        with translated():
            reading = self._client.pipeline(transaction=False)
            reading.hvals(RECORDS_KEY.format(user=user))
            reading.hgetall(LEARNED_KEY.format(user=user))
            records, learned = reading.execute()
        return Live([_record(content) for content in records], _learned(learned)) if records else Live()

    def applied(self, drops: Iterable[str]) -> None:
        """Take out the records of these drops: every store has them."""
        for part in chunks(sorted(set(drops)), AT_ONCE):
            with translated():
                reading = self._client.pipeline(transaction=False)
                for drop in part:
                    reading.smembers(DROP_KEY.format(drop=drop))
                users = sorted({user.decode() for found in reading.execute() for user in found})
                for some in chunks(users, AT_ONCE):
                    self._take_out(some, frozenset(part))
                self._client.unlink(*(DROP_KEY.format(drop=drop) for drop in part))

    def has(self, user_id: str) -> bool:
        """Whether anything of this person is here."""
        user = hashed(user_id)
        with translated():
            return bool(self._client.exists(RECORDS_KEY.format(user=user), LEARNED_KEY.format(user=user)))

    def forget(self, user_id: str) -> None:
        """Remove every trace of this person."""
        user = hashed(user_id)
        with translated():
            drops = {_record(content)["drop"] for content in self._client.hvals(RECORDS_KEY.format(user=user))}
            removing = self._client.pipeline(transaction=True)
            removing.unlink(RECORDS_KEY.format(user=user), LEARNED_KEY.format(user=user))
            for drop in drops:
                removing.srem(DROP_KEY.format(drop=drop), user)
            removing.execute()

    def clear(self) -> None:
        """Remove everything: whoever keeps it whole fills it again."""
        with translated():
            for part in chunks(list(self._client.scan_iter(EVERYTHING, count=AT_ONCE)), AT_ONCE):
                self._client.unlink(*part)

    def is_whole(self) -> bool:
        """Whether nothing was lost since `set_whole`: a server that lost its memory knows nothing of that either."""
        with translated():
            return bool(self._client.exists(WHOLE_KEY))

    def set_whole(self) -> None:
        """Everything that is in no store yet has been put."""
        with translated():
            self._client.set(WHOLE_KEY, 1)

    def _take_out(self, users: Sequence[str], drops: frozenset[str]) -> None:
        reading = self._client.pipeline(transaction=False)
        for user in users:
            reading.hvals(RECORDS_KEY.format(user=user))
        removing = self._client.pipeline(transaction=True)
        for user, found in zip(users, reading.execute(), strict=True):
            records = [_record(content) for content in found]
            theirs = [record["_id"] for record in records if record["drop"] in drops]
            if theirs:
                removing.hdel(RECORDS_KEY.format(user=user), *theirs)
            if len(theirs) == len(records):
                removing.unlink(LEARNED_KEY.format(user=user))
        removing.execute()


def _record(content: bytes | str) -> dict[str, Any]:
    record: dict[str, Any] = orjson.loads(content)
    return {**record, "timestamp": datetime.fromisoformat(record["timestamp"])}


def _learned(content: Mapping[bytes, bytes]) -> Learned:
    texts: dict[str, LearnedText] = {}
    openings: dict[str, LearnedOpening] = {}
    for key, packed in content.items():
        what, _, name = key.decode().partition(":")
        header, _, vector = packed.partition(b"\n")
        model, about = orjson.loads(header)
        if what == "text":
            texts[name] = LearnedText(model, about, np.frombuffer(vector, dtype=np.float32))
        else:
            openings[name] = LearnedOpening(model, about, np.frombuffer(vector, dtype=np.float32))
    return Learned(texts, openings)


def _packed(about: list[str | None], vector: Vector) -> bytes:
    return orjson.dumps(about) + b"\n" + np.ascontiguousarray(vector, dtype=np.float32).tobytes()
