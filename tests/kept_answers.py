"""Kept answers, for tests without an event loop."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from persona.stores.kept_answers import KeptAnswers, Question, open_kept_answers

R = TypeVar("R")


class Kept:
    """Those of one server."""

    def __init__(self, url: str) -> None:
        self._url = url

    def read(self, user: str, scope: str, field: str) -> tuple[bytes | None, str]:
        """The answer, and the version to write another under."""
        [found] = self._asked(lambda answers: answers.look_up([Question(user, scope, field)]))
        return found.answer, found.version

    def write(self, user: str, scope: str, field: str, payload: bytes, *, version: str, ttl: float = 60) -> bool:
        """Whether it was kept."""
        question = Question(user, scope, field)
        return self._asked(lambda answers: answers.keep(question, payload, version=version, ttl=ttl))

    def put(self, user: str, scope: str, field: str, payload: bytes, ttl: float = 60) -> bool:
        """Whether it was kept, computed just now."""
        _, version = self.read(user, scope, field)
        return self.write(user, scope, field, payload, version=version, ttl=ttl)

    def _asked(self, work: Callable[[KeptAnswers], Awaitable[R]]) -> R:
        async def ask() -> R:
            async with open_kept_answers(self._url) as answers:
                return await work(answers)

        return asyncio.run(ask())
