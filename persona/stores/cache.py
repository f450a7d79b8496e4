"""What makes kept answers outdated, and counters, in Redis. The answers themselves are in `kept_answers`.

Each person has one hash of answers and one version, which an eviction moves.
"""

import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import redis
import stamina
from redis.backoff import NoBackoff
from redis.retry import Retry

from persona.stores._chunks import chunks
from persona.stores._redis import ANSWERS_KEY, COUNT_KEY, EPOCH_KEY, VERSION_KEY, client_of, evict, hashed, translated
from persona.stores.live import LiveRecords

ANSWERS_PATTERN = "persona:answers:*"

# Counted and given its end in one step: a counter that no window ends would shut a caller out for good.
COUNT = """
local count = redis.call('INCR', KEYS[1])
if count == 1 then redis.call('EXPIRE', KEYS[1], ARGV[1]) end
return count
"""

USERS_PER_CALL = 1_000
KEYS_PER_SCAN = 1_000


class Cache:
    """Cached answers, by person: gone when it is said that they are outdated."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self.live = LiveRecords(client)
        """What came in and is not in every store yet."""
        self._count = client.register_script(COUNT)

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


@contextmanager
def open_cache(url: str, *, timeout_seconds: float = 10, at_once: bool = True) -> Iterator[Cache]:
    """Connect within `timeout_seconds`, hand the cache out, close. Raises `StoreUnavailable` or `StoreRefused`.

    With `at_once` false it connects, and raises, when it is first used: for those who can do without.
    """
    client = client_of(
        redis.Redis,
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
