"""The way to an answer: kept, else computed once for all who ask, and kept. What an answer is made of is `persona.ranking`'s."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from typing import Any, Literal, ParamSpec, TypeVar

import orjson

from persona.errors import StoreUnavailable, TooManyRequests
from persona.ranking.recommender import Degraded, Query, Recommender
from persona.ranking.tracing import Trail
from persona.schemas import Answer
from persona.stores.cache import Cache
from persona.stores.kept_answers import Counted, Found, Question, epoch_of
from serving import telemetry
from serving.flights import Flights
from serving.guard import THREADS, Guard, one_deadline
from serving.limits import Admission
from serving.lookups import Lookups
from serving.snapshots import Current, Snapshots

P = ParamSpec("P")
R = TypeVar("R")
JSON = orjson.OPT_UTC_Z | orjson.OPT_SERIALIZE_NUMPY
ALL_STORES = 1.5
"""So many times the deadline of one is that of all the stores together: one that hangs is waited for once, and leaves the others time."""
WITHOUT_EVIDENCE = {"recommendations": {"__all__": {"evidence"}}}
LOOK_AGAIN_SECONDS = 0.01


@dataclass(frozen=True)
class Wanted:
    """What is asked about someone, whoever it is."""

    query: Query
    explain: bool

    @cached_property
    def field(self) -> str:
        """The same for all who want the same."""
        return orjson.dumps([self.query.k, self.query.channel, self.explain]).decode()


class Answers:
    """Answers as the bytes that leave."""

    def __init__(
        self,
        recommender: Recommender,
        of_nothing_new: Recommender,
        trail: Trail,
        cache: Guard[Cache],
        lookups: Lookups,
        snapshots: Snapshots,
        *,
        ttl_seconds: float,
    ) -> None:
        """`of_nothing_new` answers for somebody of whom nothing came in that not every store has: it need not ask for it."""
        self._recommender = recommender
        self._of_nothing_new = of_nothing_new
        self._trail = trail
        self._cache = cache
        self._lookups = lookups
        self._snapshots = snapshots
        self._ttl = ttl_seconds
        # whoever has other rules, as after a restart with other settings, has other answers
        self._rules = orjson.dumps(recommender.rules).decode()
        self._flights = Flights[bytes]()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="answers")

    async def for_user(self, user_id: str, wanted: Wanted, admission: Admission | None = None) -> bytes:
        """What to offer this person, as JSON; from the cache where the same was asked a short while ago.

        Where many ask at once for what is not kept, it is computed once: here by `Flights`, and while another process is at it, that one
        is waited for. With an `admission` the question is counted by the lookup itself. Raises what `Admission.judge` raises, and
        `StoreUnavailable` when there is nothing to answer from.
        """
        if wanted.query.exclude:
            return await self._computed_alone(user_id, wanted)
        try:
            current, found = await self._look_up(user_id, wanted, admission)
        except StoreUnavailable:
            telemetry.cache_read("failed")
            if admission is not None:
                await admission.admit()
            return await self._computed_alone(user_id, wanted, self._cache.name)
        if found.answer is not None:
            telemetry.cache_read("hit")
            telemetry.answered("cache")
            return found.answer
        telemetry.cache_read("miss")
        same = user_id, wanted.field, current.scope, found.version
        return await self._flights.join(same, lambda: self._computed_once(user_id, wanted, current, found))

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

    # -- looking up -------------------------------------------------------------------------------------------------------

    async def _look_up(self, user_id: str, wanted: Wanted, admission: Admission | None = None) -> tuple[Current, Found]:
        """The snapshot to answer from, and what is known of the answer under it.

        What is kept under an outdated snapshot, or one that may be, is not looked at: whoever changes the catalog moves the epoch,
        which is read with it.
        """
        asked = self._snapshots.current or await self._snapshots.catch_up()
        question = self._question(user_id, wanted, asked, admission.counted if admission else None)
        found = await self._lookups.look_up(question)
        if admission is not None:
            try:
                admission.judge(found.counted)
            except TooManyRequests:
                await self._pass_turn(question, found)
                raise
        current = await self._snapshots.catch_up(epoch_of(found.version))
        if current.snapshot.may_be_outdated:
            found = replace(found, answer=None)
        elif current.scope != asked.scope:
            found = await self._lookups.look_up(self._question(user_id, wanted, current))
        return current, found

    async def _look_again(self, user_id: str, wanted: Wanted) -> tuple[Current, Found]:
        """What is known of an answer that another process computes, as soon as there is one, or it is our turn, or time is up."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._cache.deadline
        while True:
            await asyncio.sleep(LOOK_AGAIN_SECONDS)
            current, found = await self._look_up(user_id, wanted)
            if found.answer is not None or _ours(current, found) or loop.time() > until:
                return current, found

    def _question(self, user_id: str, wanted: Wanted, current: Current, counted: Counted | None = None) -> Question:
        return Question(user_id, self._scope(current), wanted.field, counted)

    def _scope(self, current: Current) -> str:
        return f"{current.scope} {self._rules}"

    # -- computing --------------------------------------------------------------------------------------------------------

    async def _computed_alone(self, user_id: str, wanted: Wanted, *missing: str) -> bytes:
        """For this one question; `missing` is what it has to do without."""
        current = await self._snapshots.catch_up()
        answer, _ = await self._computed(user_id, wanted, current)
        answer.degraded = sorted({*answer.degraded, *missing})
        telemetry.answered("computed", answer.degraded)
        return _json(document_of(answer, explain=wanted.explain), "computed")

    async def _computed_once(self, user_id: str, wanted: Wanted, current: Current, found: Found) -> bytes:
        """For everyone who asks meanwhile; by another process, where one is at it and gets done."""
        if not _ours(current, found):
            with suppress(StoreUnavailable):  # then nobody is waited for
                current, found = await self._look_again(user_id, wanted)
        if found.answer is not None:
            telemetry.answered("cache")
            return found.answer
        answer, until = await self._computed(user_id, wanted, current, live=found.live)
        question, document = self._question(user_id, wanted, current), document_of(answer, explain=wanted.explain)
        if answer.degraded:
            await self._pass_turn(question, found)
        elif not await self._kept(question, _json(document, "cache"), until, version=found.version):
            document["degraded"] = [self._cache.name]
        telemetry.answered("computed", document["degraded"])
        return _json(document, "computed")

    async def _computed(
        self, user_id: str, wanted: Wanted, current: Current, *, live: bool = True
    ) -> tuple[Answer, datetime | None]:
        recommender = self._recommender if live else self._of_nothing_new
        return await self._in_thread(self._compute, recommender, user_id, wanted.query, current)

    async def _in_thread(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """What `work` returns, from a thread that knows which request it works for."""
        asked = partial(copy_context().run, work, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._threads, asked)

    def _compute(self, recommender: Recommender, user_id: str, query: Query, current: Current) -> tuple[Answer, datetime | None]:
        """The answer, and when it ends to hold with nothing new come in: a campaign starts or ends, or a cap lets one go."""
        with one_deadline(ALL_STORES * self._cache.deadline):
            ranking = recommender.ranking_for(user_id, query, current.snapshot, Degraded())
        ends = current.next_change(ranking.request.at), ranking.next_release()
        return ranking.answer(query.k), min((end for end in ends if end is not None), default=None)

    # -- keeping ----------------------------------------------------------------------------------------------------------

    async def _kept(self, question: Question, payload: bytes, until: datetime | None, *, version: str) -> bool:
        """Keep the answer, unless the person's version has moved since; False where the cache is down."""
        ttl = self._ttl if until is None else min(self._ttl, (until - datetime.now(UTC)).total_seconds())
        try:
            await self._lookups.keep(question, payload, version=version, ttl=ttl)
        except StoreUnavailable:
            return False
        return True

    async def _pass_turn(self, question: Question, found: Found) -> None:
        """Nothing will be kept, of a degraded answer or for who asks too often: whoever waits for it had better compute one."""
        if found.turn:
            with suppress(StoreUnavailable):
                await self._lookups.pass_turn(question)


def _ours(current: Current, found: Found) -> bool:
    """Whether there is nobody to wait for: an answer that rests on what may be outdated is not kept by anyone."""
    return found.turn or current.snapshot.may_be_outdated


def document_of(answer: Answer, *, explain: bool) -> dict[str, Any]:
    """What an answer tells, for `orjson`."""
    return answer.model_dump(exclude=None if explain else WITHOUT_EVIDENCE)


def _json(document: dict[str, Any], source: Literal["computed", "cache"]) -> bytes:
    return orjson.dumps(document | {"retrieval_source": source}, option=JSON)
