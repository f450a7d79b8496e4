"""Cached answers for an event loop: many questions in one round trip, no threads. What is kept, and how, is `cache`'s."""

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from persona.stores._redis import translated
from persona.stores.cache import READ, Found, Question, as_asked, as_found


class CacheReader:
    """Looks answers up. Each reader takes its turns to compute for itself: one that asks again still has them."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._read = client.register_script(READ)
        self._name = secrets.token_hex(8)

    async def read(self, questions: Sequence[Question]) -> list[Found]:
        """What is known of each answer, all of one moment. Raises `StoreUnavailable` or `StoreRefused`."""
        keys, arguments = as_asked(questions, asker=self._name)
        with translated():
            return as_found(await self._read(keys=keys, args=arguments))


@asynccontextmanager
async def open_cache_reader(url: str, *, timeout_seconds: float = 10) -> AsyncIterator[CacheReader]:
    """Hand a reader out, close its connections. It connects, and raises, when it is first used; how long it waits is the caller's."""
    client = redis.asyncio.Redis.from_url(
        url,
        socket_connect_timeout=timeout_seconds,
        # Once more, at once, for a connection that the server has closed meanwhile; never after a timeout.
        retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
    )
    try:
        yield CacheReader(client)
    finally:
        await client.aclose()
