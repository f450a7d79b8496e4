"""The cached path to an answer: cache, else compute and keep. What an answer is made of is `persona.ranking`'s."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Literal

import orjson

from persona.errors import StoreUnavailable
from persona.ranking.recommender import Query, Recommender
from persona.schemas import Answer
from persona.stores.cache import Cache
from serving.guard import THREADS, Guard
from serving.snapshots import Current, Snapshots

JSON = orjson.OPT_UTC_Z | orjson.OPT_SERIALIZE_NUMPY
WITHOUT_EVIDENCE = {"recommendations": {"__all__": {"evidence"}}}


class Answers:
    """Answers as the bytes that leave."""

    def __init__(self, recommender: Recommender, cache: Guard[Cache], snapshots: Snapshots, *, ttl_seconds: float) -> None:
        self._recommender = recommender
        self._cache = cache
        self._snapshots = snapshots
        self._ttl = ttl_seconds
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="answers")

    async def for_user(self, user_id: str, query: Query, *, explain: bool) -> bytes:
        """What to offer this person, as JSON; from the cache where the same was asked a short while ago.

        Raises `StoreUnavailable` when there is nothing to answer from.
        """
        current = self._snapshots.current
        if current is None:
            raise StoreUnavailable("mongodb", "the campaigns have not been loaded yet")
        if query.exclude:
            return _json(await self._computed(user_id, query, current), "computed", explain=explain)
        field = orjson.dumps([query.k, query.channel, explain]).decode()
        version = None
        try:
            cached, version = await self._cache.ask(lambda cache: cache.read(user_id, current.scope, field))
            if cached is not None:
                return cached
        except StoreUnavailable:
            pass
        answer = await self._computed(user_id, query, current)
        if version is None or not await self._kept(user_id, field, answer, current, version=version, explain=explain):
            answer.degraded = sorted({*answer.degraded, self._cache.name})
        return _json(answer, "computed", explain=explain)

    def close(self) -> None:
        """Let the threads end."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _computed(self, user_id: str, query: Query, current: Current) -> Answer:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._recommender.for_user, user_id, query, current.snapshot)

    async def _kept(self, user_id: str, field: str, answer: Answer, current: Current, *, version: str, explain: bool) -> bool:
        """Keep the answer, unless it is degraded or the person's version has moved since; False where the cache is down."""
        if answer.degraded:
            return True
        payload = _json(answer, "cache", explain=explain)
        change = current.seconds_to_change(datetime.now(UTC))
        ttl = self._ttl if change is None else min(self._ttl, change)
        try:
            await self._cache.ask(
                lambda cache: cache.write(user_id, current.scope, field, payload, version=version, ttl=ttl)
            )  # fmt: skip
        except StoreUnavailable:
            return False
        return True


def _json(answer: Answer, source: Literal["computed", "cache"], *, explain: bool) -> bytes:
    answered = answer.model_copy(update={"retrieval_source": source})
    return orjson.dumps(answered.model_dump(exclude=None if explain else WITHOUT_EVIDENCE), option=JSON)
