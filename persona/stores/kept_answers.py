"""Answers that may be served again for a while, in Redis, for an event loop. What they are and how long they hold is decided elsewhere.

An answer computed before an eviction is never stored after it: the person's version is read first, and a script stores the answer
only while the version is still the same. Whoever finds no answer is told in the same round trip whether it is their turn to compute
it, or somebody else is at it. What evicts is in `cache`.
"""

import secrets
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from persona.stores._redis import ANSWERS_KEY, COUNT_KEY, EPOCH_KEY, VERSION_KEY, VERSION_SECONDS, client_of, hashed, translated
from persona.stores.live import RECORDS_KEY

COMPUTING_KEY = "persona:computing:{user}:{field}"
COMPUTING_SECONDS = 1.0
"""For how long others leave an answer to who took their turn and may have died since: longer than an answer takes."""

# For each question: count, then the version, the answer, and where there is none whose turn it is to compute it, and whether
# something came in of the person that not every store has. A version that is
# missing (never made, expired, or dropped by a server short of memory) is made anew, so that no two answers are ever computed under
# "none". Under another version than the mark's it is somebody else's turn: what the former one computes will not be kept.
READ = """
local fresh, version_seconds, asker, computing_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local epoch = redis.call('GET', KEYS[1])
if not epoch then epoch = fresh redis.call('SET', KEYS[1], epoch) end
local found = {}
for number = 1, (#KEYS - 1) / 5 do
  local version_key, answers_key, computing_key, live_key, count_key = unpack(KEYS, number * 5 - 3, number * 5 + 1)
  local field, count_seconds = ARGV[number * 2 + 3], ARGV[number * 2 + 4]
  local count = 0
  if count_seconds ~= '0' then
    count = redis.call('INCR', count_key)
    if count == 1 then redis.call('EXPIRE', count_key, count_seconds) end
  end
  local version = redis.call('GET', version_key)
  if not version then version = fresh redis.call('SET', version_key, version, 'EX', version_seconds) end
  version = epoch .. ':' .. version
  local answer, turn = redis.call('HGET', answers_key, field), 0
  if not answer then
    local mine, mark = version .. ' ' .. asker, redis.call('GET', computing_key)
    if mark == mine then turn = 1
    elseif not mark or string.sub(mark, 1, #version) ~= version then
      redis.call('SET', computing_key, mine, 'PX', computing_ms)
      turn = 1
    end
  end
  local live = 0
  if not answer then live = redis.call('EXISTS', live_key) end
  found[number] = {answer, version, turn, count, live}
end
return found
"""

# The hash expires as a whole: a write may bring its end forward, never put it off, so that no answer outlives its own time.
WRITE_IF_UNCHANGED = """
local version = (redis.call('GET', KEYS[1]) or '') .. ':' .. (redis.call('GET', KEYS[2]) or '')
if version ~= ARGV[1] then return 0 end
redis.call('UNLINK', KEYS[4])
redis.call('HSET', KEYS[3], ARGV[2], ARGV[3])
local left = redis.call('PTTL', KEYS[3])
if left < 0 or tonumber(ARGV[4]) < left then redis.call('PEXPIRE', KEYS[3], ARGV[4]) end
return 1
"""


class Counted(NamedTuple):
    """What a question counts towards: a bucket, which is emptied so many seconds after its first question."""

    bucket: str
    seconds: int


class Question(NamedTuple):
    """The answer that is looked for: a person's, to the canonical query `field` under `scope` (what it must have been computed under)."""

    user_id: str
    scope: str
    field: str
    counted: Counted | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """What is known of an answer."""

    answer: bytes | None
    version: str
    """The person's, opaque: hand it to `KeptAnswers.keep` with the answer computed after this was found."""
    turn: bool
    """Whether there is none and it is the asker's to compute it. If not, someone else has been at it, for `COMPUTING_SECONDS` at most."""
    counted: int
    """How many the bucket holds with this question; 0 where nothing is counted."""
    live: bool
    """Whether there is no answer and something came in that not every store has (see `LiveRecords`)."""


class KeptAnswers:
    """Cached answers. Each instance takes its turns to compute for itself: one that asks again still has them.

    Every verb raises `StoreUnavailable` or `StoreRefused`.
    """

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._client = client
        self._read = client.register_script(READ)
        self._write_if_unchanged = client.register_script(WRITE_IF_UNCHANGED)
        self._name = secrets.token_hex(8)
        self._lookups = count()

    async def look_up(self, questions: Sequence[Question]) -> list[Found]:
        """What is known of each answer, all of one moment."""
        keys, arguments = _asked(questions, asker=self._name, fresh=f"{self._name}{next(self._lookups):016x}")
        with translated():
            return _found(await self._read(keys=keys, args=arguments))

    async def keep(self, question: Question, payload: bytes, *, version: str, ttl: float) -> bool:
        """Keep `payload` for at most `ttl` seconds; False, and nothing kept, where `version` is no longer the person's."""
        milliseconds = int(ttl * 1000)
        if milliseconds < 1:
            return False
        keys = [EPOCH_KEY, *_keys(hashed(question.user_id), named := _field(question.scope, question.field))]
        with translated():
            written = await self._write_if_unchanged(keys=keys, args=[version, named, payload, milliseconds])
        return bool(written)

    async def pass_turn(self, question: Question) -> None:
        """Let whoever asks next compute the answer: the one whose turn it was has none that may be kept."""
        *_, computing = _keys(hashed(question.user_id), _field(question.scope, question.field))
        with translated():
            await self._client.unlink(computing)


@asynccontextmanager
async def open_kept_answers(url: str, *, timeout_seconds: float = 10) -> AsyncIterator[KeptAnswers]:
    """Hand them out, close the connections. It connects, and raises, when first used; how long it waits is the caller's.

    Raises `StoreRefused` where the address cannot be used.
    """
    client = client_of(
        redis.asyncio.Redis,
        url,
        socket_connect_timeout=timeout_seconds,
        # Once more, at once, for a connection that the server has closed meanwhile; never after a timeout.
        retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
    )
    try:
        yield KeptAnswers(client)
    finally:
        await client.aclose()


def epoch_of(version: str) -> str:
    """The part of a person's version that is everyone's: it moves with `announce` and `clear`."""
    return version.partition(":")[0]


def _asked(questions: Iterable[Question], *, asker: str, fresh: str) -> tuple[list[str], list[str | int]]:
    """Keys and arguments of `READ`; `fresh` has never been a version."""
    keys = [EPOCH_KEY]
    arguments: list[str | int] = [fresh, VERSION_SECONDS, asker, int(COMPUTING_SECONDS * 1000)]
    for user_id, scope, field, counted in questions:
        user, named = hashed(user_id), _field(scope, field)
        keys += _keys(user, named)
        # a name of ours where nothing is counted too: a user of the server may be let near these alone
        keys += RECORDS_KEY.format(user=user), COUNT_KEY.format(bucket=counted.bucket if counted else "")
        arguments += named, counted.seconds if counted else 0
    return keys, arguments


def _found(reply: Iterable[tuple[bytes | None, bytes, int, int, int]]) -> list[Found]:
    """What `READ` returned, question by question."""
    return [Found(answer, version.decode(), bool(turn), count, bool(live)) for answer, version, turn, count, live in reply]


def _keys(user: str, named: str) -> tuple[str, str, str]:
    return VERSION_KEY.format(user=user), ANSWERS_KEY.format(user=user), COMPUTING_KEY.format(user=user, field=named)


def _field(scope: str, field: str) -> str:
    return f"{scope}\n{field}"
