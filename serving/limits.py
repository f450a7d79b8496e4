"""How often a key may ask: counted in Redis for all workers, in this process's memory while Redis is down."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from limits import parse
from limits.storage import MemoryStorage

from persona.errors import StoreUnavailable, TooManyRequests
from persona.stores.cache import Cache
from persona.stores.kept_answers import Counted
from serving.auth import Caller
from serving.guard import Guard


class Limits:
    """One rate for every key, in windows by the clock: so many requests in each minute, say, then none until the next begins."""

    def __init__(self, rate: str | None, cache: Guard[Cache], *, clock: Callable[[], float] = time.time) -> None:
        self._limit = parse(rate) if rate else None
        self._cache = cache
        self._clock = clock
        self._memory = MemoryStorage()
        self.seconds = self._limit.get_expiry() if self._limit else 0
        """How long a window is, and so how long its counter is needed."""

    def bucket(self, caller: Caller, now: float) -> str | None:
        """The counter of this caller's requests in the window of `now` (seconds since 1970); None where nothing is limited."""
        return f"{caller.name}:{int(now) // self.seconds}" if self._limit else None

    def judge(self, caller: Caller, count: int) -> None:
        """Raise `TooManyRequests` where this many requests in a window, the present one included, are more than the rate allows."""
        if self._limit and count > self._limit.amount:
            left = self.seconds - int(self._clock()) % self.seconds
            raise TooManyRequests(f"the key {caller.name} may ask {self._limit}", retry_after=left)

    async def admit(self, caller: Caller) -> None:
        """Count one request and judge it. Raises `TooManyRequests`."""
        if (bucket := self.bucket(caller, self._clock())) is None:
            return
        try:
            count = await self._cache.ask(lambda cache: cache.count(bucket, self.seconds))
        except StoreUnavailable:
            count = self._memory.incr(bucket, self.seconds)
        self.judge(caller, count)


@dataclass(frozen=True, slots=True)
class Admission:
    """A question of a caller's that is counted on the way, by the lookup of its answer, and not by `Limits.admit`."""

    limits: Limits
    caller: Caller

    @property
    def counted(self) -> Counted | None:
        """What the lookup counts; None where nothing is limited."""
        bucket = self.limits.bucket(self.caller, time.time())
        return Counted(bucket, self.limits.seconds) if bucket else None

    def judge(self, count: int) -> None:
        """Raise `TooManyRequests` where the lookup counted more than are allowed."""
        self.limits.judge(self.caller, count)

    async def admit(self) -> None:
        """Count and judge by itself, as the lookup failed. Raises `TooManyRequests`."""
        await self.limits.admit(self.caller)
