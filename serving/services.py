"""Everything a route may ask for, opened once for the life of the process and closed with it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request

from persona.language.lazy import LazyEncoder
from persona.ranking.people import People
from persona.ranking.recommender import Recommender, Rules
from persona.ranking.tracing import Trail
from persona.settings import Settings
from serving.answers import Answers
from serving.guard import Guard
from serving.intents import Intents
from serving.snapshots import Snapshots
from serving.stores import StoreOpeners
from serving.texts import TextAnswers
from serving.turns import Turns

START_SECONDS = 5.0
"""How long the start waits for stores that neither open nor refuse; they are then waited for in the background."""


@dataclass(frozen=True)
class Services:
    """The open stores and what stands on them."""

    settings: Settings
    guards: tuple[Guard[Any], ...]
    """MongoDB, Milvus, Neo4j, the warehouse and Redis, in this order."""
    snapshots: Snapshots
    answers: Answers
    people: People
    audiences: Turns
    """Of those who ask `people` for one."""
    intents: Intents
    texts: TextAnswers


@asynccontextmanager
async def open_services(settings: Settings, openers: StoreOpeners) -> AsyncIterator[Services]:
    """Open the stores, load the first snapshot, hand the services out, close. A store that is down is waited for later."""
    documents = Guard("mongodb", openers.documents)
    vectors = Guard("milvus", openers.vectors)
    graph = Guard("neo4j", openers.graph)
    warehouse = Guard("warehouse", openers.warehouse)
    cache = Guard("redis", openers.cache)
    guards = (documents, vectors, graph, warehouse, cache)
    snapshots = Snapshots(documents, patience=settings.store_timeout_seconds)
    profiles = vectors.part(lambda store: store.at(snapshots.current.collections) if snapshots.current else store)
    engagements = graph.part(lambda store: store)
    records = documents.part(lambda store: store.records)
    recommender = Recommender(
        vectors=profiles,
        graph=engagements,
        records=records,
        customers=documents.part(lambda store: store.catalog),
        rules=Rules.of(settings),
    )
    trail = Trail(records, documents.part(lambda store: store.ledger))
    people = People(
        recommender,
        profiles,
        graph.part(lambda store: store, patience=settings.store_timeout_seconds),  # everyone who is tied to a campaign is sorted
        documents.part(lambda store: store.embeddings),
        records,
    )
    audiences = Turns("audiences")
    answers = Answers(recommender, trail, cache, snapshots, ttl_seconds=settings.redis_ttl_seconds)
    intents = Intents(
        documents, LazyEncoder(settings), threshold=settings.intent_threshold, patience=settings.store_timeout_seconds
    )
    texts = TextAnswers(recommender, intents, snapshots)
    keepers = [asyncio.create_task(keeper.keep()) for keeper in (*guards, snapshots)]
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(START_SECONDS):
                await asyncio.gather(*(guard.attempted.wait() for guard in guards), snapshots.attempted.wait())
        yield Services(settings, guards, snapshots, answers, people, audiences, intents, texts)
    finally:
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)
        answers.close()
        intents.close()
        audiences.close()
        await asyncio.gather(*(guard.close() for guard in guards))


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


ServicesDep = Annotated[Services, Depends(_services)]
