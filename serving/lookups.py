"""Kept answers, looked up for all requests of a moment in one round trip. What is done about what is not kept is `answers`'."""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack

from persona.stores.cache import Cache, Found, Question
from persona.stores.cache_reader import CacheReader
from serving.batches import Batches
from serving.guard import Guard


class Lookups:
    """The cache, asked from the event loop, under its guard."""

    def __init__(self, cache: Guard[Cache], open_reader: Callable[[], AbstractAsyncContextManager[CacheReader]]) -> None:
        self._cache = cache
        self._open_reader = open_reader
        self._reader: CacheReader | None = None
        self._opened = AsyncExitStack()
        self._batches = Batches(self._look_all_up)

    async def look_up(self, question: Question) -> Found:
        """What is known of the answer. Raises `StoreUnavailable`."""
        return await self._batches.ask(question)

    async def close(self) -> None:
        """Close the reader's connections."""
        await self._opened.aclose()

    async def _look_all_up(self, questions: Sequence[Question]) -> list[Found]:
        return await self._cache.wait_for(lambda: self._ask(questions))

    async def _ask(self, questions: Sequence[Question]) -> list[Found]:
        if self._reader is None:  # where the server is may be known only now
            self._reader = await self._opened.enter_async_context(self._open_reader())
        return await self._reader.read(questions)
