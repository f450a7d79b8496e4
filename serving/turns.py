"""What takes seconds, one after the other, in a thread of its own; so many may wait, more are refused at once. What is asked is theirs."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

from persona.errors import Busy
from serving.cores import run_on_any

R = TypeVar("R")
IN_LINE = 4
"""Questions under way and waiting: whoever came fifth would wait for longer than a client does."""


class Turns:
    """A line of callers. Nobody else waits for them: not those who want an answer in milliseconds, nor other lines."""

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name, initializer=run_on_any)
        self._free = threading.Semaphore(IN_LINE)

    async def take(self, work: Callable[[], R]) -> R:
        """What `work` returns, when those before have been answered. Raises `Busy` where the line is full."""
        if not self._free.acquire(blocking=False):
            raise Busy(f"{IN_LINE} questions of this kind are under way or wait already", hint="Ask again later.")
        future = self._thread.submit(copy_context().run, work)
        future.add_done_callback(lambda _: self._free.release())  # also where the caller has gone meanwhile
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Let the thread end."""
        self._thread.shutdown(wait=False, cancel_futures=True)
