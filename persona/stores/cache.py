"""Answers that may be served again for a while, and counters, in Redis. What they are and how long they hold is decided elsewhere.

Each person has one hash of answers and one version. An answer computed before an eviction is never stored after it: the version
is read first, and a script stores the answer only while the version is still the same. Whoever finds no answer is told in the same
round trip whether it is their turn to compute it, or somebody else is at it. Many questions at once, from an event loop, are in
`cache_reader`.
"""

import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import redis
import stamina
from redis.backoff import NoBackoff
from redis.retry import Retry

from persona.stores._chunks import chunks
from persona.stores._redis import ANSWERS_KEY, VERSION_KEY, VERSION_SECONDS, evict, hashed, translated
from persona.stores.live import RECORDS_KEY, LiveRecords

EPOCH_KEY = "persona:cache:epoch"
COUNT_KEY = "persona:count:{bucket}"
ANSWERS_PATTERN = "persona:answers:*"
COMPUTING_KEY = "persona:computing:{user}:{field}"

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
  if not answer and asker ~= '' then
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

# Counted and given its end in one step: a counter that no window ends would shut a caller out for good.
COUNT = """
local count = redis.call('INCR', KEYS[1])
if count == 1 then redis.call('EXPIRE', KEYS[1], ARGV[1]) end
return count
"""

COMPUTING_SECONDS = 1.0
"""For how long others leave an answer to who took their turn and may have died since: longer than an answer takes."""
USERS_PER_CALL = 1_000
KEYS_PER_SCAN = 1_000


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
    """The person's, opaque: hand it to `Cache.write` with the answer computed after this was found."""
    turn: bool
    """Whether there is none and it is the asker's to compute it. If not, someone else has been at it, for `COMPUTING_SECONDS` at most."""
    counted: int
    """How many the bucket holds with this question; 0 where nothing is counted."""
    live: bool
    """Whether there is no answer and something came in that not every store has (see `LiveRecords`)."""


class Cache:
    """Cached answers, by person."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self.live = LiveRecords(client)
        """What came in and is not in every store yet."""
        self._read = client.register_script(READ)
        self._write_if_unchanged = client.register_script(WRITE_IF_UNCHANGED)
        self._count = client.register_script(COUNT)

    def read(self, user_id: str, scope: str, field: str) -> tuple[bytes | None, str]:
        """The answer to the canonical query `field` under `scope` (generation and catalog version), and the person's version.

        The version is opaque: hand it to `write` with the answer computed after this call.
        """
        keys, arguments = as_asked([Question(user_id, scope, field)], asker="")
        with translated():
            [found] = as_found(self._read(keys=keys, args=arguments))
        return found.answer, found.version

    def write(self, user_id: str, scope: str, field: str, payload: bytes, *, version: str, ttl: float) -> bool:
        """Keep `payload` for at most `ttl` seconds; False, and nothing kept, where `version` is no longer the person's."""
        milliseconds = int(ttl * 1000)
        if milliseconds < 1:
            return False
        keys = [EPOCH_KEY, *_keys(hashed(user_id), named := _field(scope, field))]
        with translated():
            written = self._write_if_unchanged(keys=keys, args=[version, named, payload, milliseconds])
        return bool(written)

    def pass_turn(self, user_id: str, scope: str, field: str) -> None:
        """Let whoever asks next compute the answer: the one whose turn it was has none that may be kept."""
        *_, computing = _keys(hashed(user_id), _field(scope, field))
        with translated():
            self._client.unlink(computing)

    def evict(self, user_ids: Iterable[str]) -> None:
        """Remove these people's answers, and keep out any that is being computed now."""
        for part in chunks(sorted(set(map(hashed, user_ids))), USERS_PER_CALL):
            with translated():
                for attempt in stamina.retry_context(on=redis.ConnectionError, attempts=3, wait_initial=0.05, wait_jitter=0.05):
                    with attempt:
                        evicting = self._client.pipeline(transaction=True)
                        evict(evicting, part)
                        evicting.execute()

    def clear(self) -> None:
        """Remove everyone's answers, and keep out any that is being computed now."""
        self.announce()
        with translated():
            for part in chunks(list(self._client.scan_iter(ANSWERS_PATTERN, count=KEYS_PER_SCAN)), KEYS_PER_SCAN):
                self._client.unlink(*part)

    def announce(self) -> None:
        """Let everyone who reads from now on know that something has changed that answers rest on: the epoch is another."""
        with translated():
            self._client.set(EPOCH_KEY, secrets.token_hex(8))

    def count(self, bucket: str, seconds: int) -> int:
        """Count one more in `bucket`, which ends `seconds` after the first; how many that makes."""
        with translated():
            return int(self._count(keys=[COUNT_KEY.format(bucket=bucket)], args=[seconds]))

    def keeps(self, user_id: str) -> bool:
        """Whether an answer for this person is kept, or anything that came in of late."""
        with translated():
            return bool(self._client.exists(ANSWERS_KEY.format(user=hashed(user_id)))) or self.live.has(user_id)

    def forget(self, user_id: str) -> None:
        """Remove every trace of this person: their answers and version, and everyone else's answers, in which they may count."""
        self.live.forget(user_id)
        self.clear()
        user = hashed(user_id)
        with translated():
            self._client.unlink(VERSION_KEY.format(user=user), ANSWERS_KEY.format(user=user))

    def ping(self) -> None:
        """Return when the server answers; raise `StoreUnavailable` or `StoreRefused`."""
        with translated():
            self._client.ping()


def epoch_of(version: str) -> str:
    """The part of a person's version that is everyone's: it moves with `announce` and `clear`."""
    return version.partition(":")[0]


@contextmanager
def open_cache(url: str, *, timeout_seconds: float = 10, at_once: bool = True) -> Iterator[Cache]:
    """Connect within `timeout_seconds`, hand the cache out, close. Raises `StoreUnavailable` or `StoreRefused`.

    With `at_once` false it connects, and raises, when it is first used: for those who can do without.
    """
    client = redis.Redis.from_url(
        url,
        socket_timeout=timeout_seconds,
        socket_connect_timeout=timeout_seconds,
        # Once more, at once, for a pooled connection that the server has closed meanwhile; never after a timeout.
        retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
    )
    try:
        cache = Cache(client)
        if at_once:
            cache.ping()
        yield cache
    finally:
        client.close()


def as_asked(questions: Iterable[Question], *, asker: str) -> tuple[list[str], list[str | int]]:
    """Keys and arguments of `READ`. Without an `asker` nobody's turn is taken."""
    keys = [EPOCH_KEY]
    arguments: list[str | int] = [secrets.token_hex(8), VERSION_SECONDS, asker, int(COMPUTING_SECONDS * 1000)]
    for user_id, scope, field, counted in questions:
        user, named = hashed(user_id), _field(scope, field)
        keys += _keys(user, named)
        keys += RECORDS_KEY.format(user=user), COUNT_KEY.format(bucket=counted.bucket) if counted else ""
        arguments += named, counted.seconds if counted else 0
    return keys, arguments


def as_found(reply: Iterable[tuple[bytes | None, bytes, int, int, int]]) -> list[Found]:
    """What `READ` returned, question by question."""
    return [Found(answer, version.decode(), bool(turn), count, bool(live)) for answer, version, turn, count, live in reply]


def _keys(user: str, named: str) -> tuple[str, str, str]:
    return VERSION_KEY.format(user=user), ANSWERS_KEY.format(user=user), COMPUTING_KEY.format(user=user, field=named)


def _field(scope: str, field: str) -> str:
    return f"{scope}\n{field}"
