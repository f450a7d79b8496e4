"""What many ask for at the same time is made once, in this process. What is made, and for whom it holds, is the callers' matter."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

R = TypeVar("R")


class Flights(Generic[R]):
    """Work under way, by what it is for."""

    def __init__(self) -> None:
        self._under_way: dict[Hashable, asyncio.Task[R]] = {}

    async def join(self, key: Hashable, work: Callable[[], Coroutine[Any, Any, R]]) -> R:
        """What the `work` under way for `key` returns or raises; it is begun if there is none, and goes on when its callers leave."""
        task = self._under_way.get(key)
        if task is None:
            task = asyncio.create_task(work())
            self._under_way[key] = task
            task.add_done_callback(lambda _: self._under_way.pop(key))
        return await asyncio.shield(task)
