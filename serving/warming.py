"""Computes people's answers before they ask, by the same code and into the same cache. Who they are is the caller's matter."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal

import orjson

from persona.errors import StoreUnavailable
from persona.settings import Settings
from serving.answers import Answers
from serving.guard import THREADS
from serving.routes.queries import RecommendationQuery
from serving.services import open_services
from serving.stores import openers

Outcome = Literal["computed", "kept", "degraded"]
"""Of one person: computed and kept now; kept already; or made without a store, and so not kept."""


async def warm(settings: Settings, users: Sequence[str], *, done: Callable[[int], None]) -> Counter[Outcome]:
    """Have an answer ready for each of these people, to the question without parameters; `done` hears how many have theirs.

    It can be repeated: what is kept stays as it is. Raises `StoreUnavailable` without Redis, or without what answers are made of.
    """
    patient = settings.model_copy(update={"deadline_seconds": settings.store_timeout_seconds})  # nobody waits for these answers
    async with open_services(patient, openers(patient)) as services:
        *_, cache = services.guards
        await cache.ask(lambda store: store.ping())
        if services.snapshots.current is None:
            raise StoreUnavailable("mongodb", "the campaigns could not be loaded")
        outcomes, left = Counter[Outcome](), iter(users)

        async def warm_some() -> None:
            for user_id in left:
                outcomes[await _outcome(services.answers, user_id)] += 1
                done(outcomes.total())

        await asyncio.gather(*(warm_some() for _ in range(THREADS)))
        return outcomes


async def _outcome(answers: Answers, user_id: str) -> Outcome:
    answer = orjson.loads(await answers.for_user(user_id, RecommendationQuery().wanted))
    if answer["degraded"]:
        return "degraded"
    return "kept" if answer["retrieval_source"] == "cache" else "computed"
