"""Questions of many requests, asked as one: what comes in while a batch is under way is the next batch. It knows no store."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from persona.errors import StoreUnavailable

Q = TypeVar("Q")
A = TypeVar("A")


class Batches(Generic[Q, A]):
    """Asks `ask_all` one batch at a time. Nobody waits for company: all that one turn of the event loop brings goes out at its end."""

    def __init__(self, ask_all: Callable[[Sequence[Q]], Awaitable[Sequence[A]]]) -> None:
        self._ask_all = ask_all
        self._waiting: list[tuple[Q, asyncio.Future[A]]] = []
        self._under_way: asyncio.Task[None] | None = None

    async def ask(self, question: Q) -> A:
        """The answer to this question. Raises `StoreUnavailable`.

        So it does to who came while a batch failed: a store that does not answer is waited for once.
        """
        answer: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, answer))
        if self._under_way is None:
            self._under_way = asyncio.create_task(self._ask_waiting())
        return await answer

    async def _ask_waiting(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                await self._ask_batch(batch)
        finally:
            self._under_way = None

    async def _ask_batch(self, batch: list[tuple[Q, asyncio.Future[A]]]) -> None:
        try:
            answers = await self._ask_all([question for question, _ in batch])
        except StoreUnavailable as error:
            batch += self._waiting
            self._waiting = []
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
        else:
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():  # whoever asked may have gone
                    future.set_result(answer)
