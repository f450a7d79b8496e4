"""Answers that may be served again for a while, and counters, in Redis. What they are and how long they hold is decided elsewhere.

Each person has one hash of answers and one version. An answer computed before an eviction is never stored after it: the version
is read first, and a script stores the answer only while the version is still the same.
"""

import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import redis
import stamina
from redis.backoff import NoBackoff
from redis.retry import Retry

from persona.stores._chunks import chunks
from persona.stores._redis import ANSWERS_KEY, VERSION_KEY, VERSION_SECONDS, evict, hashed, translated
from persona.stores.live import LiveRecords

EPOCH_KEY = "persona:cache:epoch"
COUNT_KEY = "persona:count:{bucket}"
ANSWERS_PATTERN = "persona:answers:*"

# A version that is missing (never made, expired, or dropped by a server short of memory) is made anew, so that no two answers are
# ever computed under "none".
READ_WITH_VERSION = """
local epoch = redis.call('GET', KEYS[1])
if not epoch then epoch = ARGV[1] redis.call('SET', KEYS[1], epoch) end
local version = redis.call('GET', KEYS[2])
if not version then version = ARGV[1] redis.call('SET', KEYS[2], version, 'EX', ARGV[2]) end
return {redis.call('HGET', KEYS[3], ARGV[3]), epoch .. ':' .. version}
"""

# The hash expires as a whole: a write may bring its end forward, never put it off, so that no answer outlives its own time.
WRITE_IF_UNCHANGED = """
local version = (redis.call('GET', KEYS[1]) or '') .. ':' .. (redis.call('GET', KEYS[2]) or '')
if version ~= ARGV[1] then return 0 end
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

USERS_PER_CALL = 1_000
KEYS_PER_SCAN = 1_000


class Cache:
    """Cached answers, by person."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self.live = LiveRecords(client)
        """What came in and is not in every store yet."""
        self._read_with_version = client.register_script(READ_WITH_VERSION)
        self._write_if_unchanged = client.register_script(WRITE_IF_UNCHANGED)
        self._count = client.register_script(COUNT)

    def read(self, user_id: str, scope: str, field: str) -> tuple[bytes | None, str]:
        """The answer to the canonical query `field` under `scope` (generation and catalog version), and the person's version.

        The version is opaque: hand it to `write` with the answer computed after this call.
        """
        with translated():
            payload, version = self._read_with_version(
                keys=_keys(user_id), args=[secrets.token_hex(8), VERSION_SECONDS, _field(scope, field)]
            )
        return payload, version.decode()

    def write(self, user_id: str, scope: str, field: str, payload: bytes, *, version: str, ttl: float) -> bool:
        """Keep `payload` for at most `ttl` seconds; False, and nothing kept, where `version` is no longer the person's."""
        milliseconds = int(ttl * 1000)
        if milliseconds < 1:
            return False
        with translated():
            written = self._write_if_unchanged(keys=_keys(user_id), args=[version, _field(scope, field), payload, milliseconds])
        return bool(written)

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


def _keys(user_id: str) -> list[str]:
    user = hashed(user_id)
    return [EPOCH_KEY, VERSION_KEY.format(user=user), ANSWERS_KEY.format(user=user)]


def _field(scope: str, field: str) -> str:
    return f"{scope}\n{field}"
