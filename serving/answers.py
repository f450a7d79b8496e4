"""The cached path to an answer: cache, else compute and keep. What an answer is made of is `persona.ranking`'s."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Literal

import orjson

from persona.errors import StoreUnavailable
from persona.ranking.recommender import Query, Recommender
from persona.ranking.tracing import Trail
from persona.schemas import Answer
from persona.stores.cache import Cache, epoch_of
from serving.guard import THREADS, Guard
from serving.snapshots import Current, Snapshots

JSON = orjson.OPT_UTC_Z | orjson.OPT_SERIALIZE_NUMPY
WITHOUT_EVIDENCE = {"recommendations": {"__all__": {"evidence"}}}


class Answers:
    """Answers as the bytes that leave."""

    def __init__(
        self, recommender: Recommender, trail: Trail, cache: Guard[Cache], snapshots: Snapshots, *, ttl_seconds: float
    ) -> None:
        self._recommender = recommender
        self._trail = trail
        self._cache = cache
        self._snapshots = snapshots
        self._ttl = ttl_seconds
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="answers")

    async def for_user(self, user_id: str, query: Query, *, explain: bool) -> bytes:
        """What to offer this person, as JSON; from the cache where the same was asked a short while ago.

        Raises `StoreUnavailable` when there is nothing to answer from.
        """
        if query.exclude:
            current = await self._snapshots.catch_up()
            return _json(await self._computed(user_id, query, current), "computed", explain=explain)
        # whoever has other rules, as after a restart with other settings, has other answers
        field = orjson.dumps([query.k, query.channel, explain, self._recommender.rules]).decode()
        version = None
        try:
            current, cached, version = await self._read(user_id, field)
            if cached is not None:
                return cached
        except StoreUnavailable:
            current = await self._snapshots.catch_up()
        answer = await self._computed(user_id, query, current)
        if version is None or not await self._kept(user_id, field, answer, current, version=version, explain=explain):
            answer.degraded = sorted({*answer.degraded, self._cache.name})
        return _json(answer, "computed", explain=explain)

    async def why(self, user_id: str, campaign_id: str, query: Query) -> bytes:
        """Why this person is offered this campaign or why not, as JSON.

        Raises `NotFound` for an unknown campaign, `StoreUnavailable` when there is nothing to answer from.
        """
        current = await self._snapshots.catch_up()
        loop, ask = asyncio.get_running_loop(), self._recommender.why
        found = await loop.run_in_executor(self._threads, ask, user_id, campaign_id, query, current.snapshot, self._trail)
        return orjson.dumps(found.model_dump(), option=JSON)

    def close(self) -> None:
        """Let the threads end."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _read(self, user_id: str, field: str) -> tuple[Current, bytes | None, str]:
        """The snapshot to answer from, the answer that was kept under it, and the person's version.

        What is kept under an outdated snapshot is not looked at: whoever changes the catalog moves the epoch, which is read with it.
        """
        asked = self._snapshots.current or await self._snapshots.catch_up()
        cached, version = await self._cached(user_id, asked, field)
        current = await self._snapshots.catch_up(epoch_of(version))
        if current.scope != asked.scope:
            cached, version = await self._cached(user_id, current, field)
        return current, cached, version

    async def _cached(self, user_id: str, current: Current, field: str) -> tuple[bytes | None, str]:
        return await self._cache.ask(lambda cache: cache.read(user_id, current.scope, field))

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
