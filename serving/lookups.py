"""Kept answers, looked up for all requests of a moment in one round trip. What is done about what is not kept is `answers`'."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import TypeVar

from persona.stores.cache import Cache
from persona.stores.kept_answers import Found, KeptAnswers, Question
from serving.batches import Batches
from serving.guard import Guard

R = TypeVar("R")


class Lookups:
    """The cache, asked from the event loop, under its guard: no threads. Every verb raises `StoreUnavailable`."""

    def __init__(self, cache: Guard[Cache], open_answers: Callable[[], AbstractAsyncContextManager[KeptAnswers]]) -> None:
        self._cache = cache
        self._open_answers = open_answers
        self._answers: KeptAnswers | None = None
        self._opened = AsyncExitStack()
        self._batches = Batches(self._look_all_up)

    async def look_up(self, question: Question) -> Found:
        """What is known of the answer."""
        return await self._batches.ask(question)

    async def keep(self, question: Question, payload: bytes, *, version: str, ttl: float) -> bool:
        """See `KeptAnswers.keep`."""
        return await self._ask(lambda answers: answers.keep(question, payload, version=version, ttl=ttl))

    async def pass_turn(self, question: Question) -> None:
        """See `KeptAnswers.pass_turn`."""
        await self._ask(lambda answers: answers.pass_turn(question))

    async def close(self) -> None:
        """Close the connections."""
        await self._opened.aclose()

    async def _look_all_up(self, questions: Sequence[Question]) -> list[Found]:
        return await self._ask(lambda answers: answers.look_up(questions))

    async def _ask(self, verb: Callable[[KeptAnswers], Awaitable[R]]) -> R:
        return await self._cache.wait_for(lambda: self._asked(verb))

    async def _asked(self, verb: Callable[[KeptAnswers], Awaitable[R]]) -> R:
        if self._answers is None:  # where the server is may be known only now
            self._answers = await self._opened.enter_async_context(self._open_answers())
        return await verb(self._answers)
