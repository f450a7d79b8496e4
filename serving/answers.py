"""The cached path to an answer: cache, else compute and keep. What an answer is made of is `persona.ranking`'s."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from datetime import UTC, datetime
from functools import partial
from typing import Literal, ParamSpec, TypeVar

import orjson

from persona.errors import StoreUnavailable
from persona.ranking.recommender import Degraded, Query, Recommender
from persona.ranking.tracing import Trail
from persona.schemas import Answer
from persona.stores.cache import Cache, epoch_of
from serving import telemetry
from serving.guard import THREADS, Guard
from serving.snapshots import Current, Snapshots

P = ParamSpec("P")
R = TypeVar("R")
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
            answer, _ = await self._computed(user_id, query, current)
            telemetry.answered("computed", answer.degraded)
            return _json(answer, "computed", explain=explain)
        # whoever has other rules, as after a restart with other settings, has other answers
        field = orjson.dumps([query.k, query.channel, explain, self._recommender.rules]).decode()
        version = None
        try:
            current, cached, version = await self._read(user_id, field)
            telemetry.cache_read("miss" if cached is None else "hit")
            if cached is not None:
                telemetry.answered("cache")
                return cached
        except StoreUnavailable:
            telemetry.cache_read("failed")
            current = await self._snapshots.catch_up()
        answer, until = await self._computed(user_id, query, current)
        if version is None or not await self._kept(user_id, field, answer, current, until, version=version, explain=explain):
            answer.degraded = sorted({*answer.degraded, self._cache.name})
        telemetry.answered("computed", answer.degraded)
        return _json(answer, "computed", explain=explain)

    async def why(self, user_id: str, campaign_id: str, query: Query) -> bytes:
        """Why this person is offered this campaign or why not, as JSON. Answers that were kept and may say otherwise are dropped.

        Raises `NotFound` for an unknown campaign, `StoreUnavailable` when there is nothing to answer from.
        """
        current = await self._snapshots.catch_up()
        found = await self._in_thread(self._recommender.why, user_id, campaign_id, query, current.snapshot, self._trail)
        with suppress(StoreUnavailable):  # then nothing that was kept can be served either
            await self._cache.ask(lambda cache: cache.evict([user_id]))
        return orjson.dumps(found.model_dump(), option=JSON)

    def close(self) -> None:
        """Let the threads end."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _read(self, user_id: str, field: str) -> tuple[Current, bytes | None, str]:
        """The snapshot to answer from, the answer that was kept under it, and the person's version.

        What is kept under an outdated snapshot, or one that may be, is not looked at: whoever changes the catalog moves the epoch,
        which is read with it.
        """
        asked = self._snapshots.current or await self._snapshots.catch_up()
        cached, version = await self._cached(user_id, asked, field)
        current = await self._snapshots.catch_up(epoch_of(version))
        if current.snapshot.may_be_outdated:
            cached = None
        elif current.scope != asked.scope:
            cached, version = await self._cached(user_id, current, field)
        return current, cached, version

    async def _cached(self, user_id: str, current: Current, field: str) -> tuple[bytes | None, str]:
        return await self._cache.ask(lambda cache: cache.read(user_id, current.scope, field))

    async def _computed(self, user_id: str, query: Query, current: Current) -> tuple[Answer, datetime | None]:
        return await self._in_thread(self._compute, user_id, query, current)

    async def _in_thread(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """What `work` returns, from a thread that knows which request it works for."""
        asked = partial(copy_context().run, work, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._threads, asked)

    def _compute(self, user_id: str, query: Query, current: Current) -> tuple[Answer, datetime | None]:
        """The answer, and when it ends to hold with nothing new come in: a campaign starts or ends, or a cap lets one go."""
        ranking = self._recommender.ranking_for(user_id, query, current.snapshot, Degraded())
        ends = current.next_change(ranking.request.at), ranking.next_release()
        return ranking.answer(query.k), min((end for end in ends if end is not None), default=None)

    async def _kept(
        self,
        user_id: str,
        field: str,
        answer: Answer,
        current: Current,
        until: datetime | None,
        *,
        version: str,
        explain: bool,
    ) -> bool:
        """Keep the answer, unless it is degraded or the person's version has moved since; False where the cache is down."""
        if answer.degraded:
            return True
        payload = _json(answer, "cache", explain=explain)
        ttl = self._ttl if until is None else min(self._ttl, (until - datetime.now(UTC)).total_seconds())
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
