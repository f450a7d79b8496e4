"""Everything a route may ask for, opened once for the life of the process and closed with it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Annotated, Any

from fastapi import Depends, Request

from persona.language.lazy import LazyEncoder
from persona.ranking.people import People
from persona.ranking.recommender import Recommender, Rules
from persona.ranking.tracing import Trail
from persona.settings import Settings
from serving.answers import Answers
from serving.audit import Audit
from serving.guard import Guard
from serving.ingestion import Ingestion
from serving.intents import Intents
from serving.learning import Learner
from serving.limits import Limits
from serving.live import LiveAnswers
from serving.lookups import Lookups
from serving.overlay import Overlay
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
    limits: Limits
    audit: Audit
    ingestion: Ingestion


@asynccontextmanager
async def open_services(settings: Settings, openers: StoreOpeners) -> AsyncIterator[Services]:
    """Open the stores, load the first snapshot, hand the services out, close. A store that is down is waited for later."""
    deadline = settings.deadline_seconds
    documents = Guard("mongodb", openers.documents, deadline=deadline)
    vectors = Guard("milvus", openers.vectors, deadline=deadline)
    graph = Guard("neo4j", openers.graph, deadline=deadline)
    warehouse = Guard("warehouse", openers.warehouse, deadline=deadline)
    cache = Guard("redis", openers.cache, deadline=deadline)
    guards = (documents, vectors, graph, warehouse, cache)
    snapshots = Snapshots(documents, patience=settings.store_timeout_seconds)
    profiles = vectors.part(lambda store: store.at(snapshots.current.collections) if snapshots.current else store)
    engagements = graph.part(lambda store: store)
    records = documents.part(lambda store: store.records)
    encoder, patience = LazyEncoder(settings), settings.store_timeout_seconds
    intents = Intents(documents, encoder, threshold=settings.intent_threshold, patience=patience)
    overlay = Overlay(settings, documents, cache)
    learner = Learner(documents, overlay, encoder, intents, threshold=settings.intent_threshold, patience=patience)
    live = LiveAnswers(documents, overlay, learner)
    recommender = Recommender(
        vectors=profiles,
        graph=engagements,
        truth=documents.part(lambda store: store),
        rules=Rules.of(settings),
        live=live,
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
    lookups = Lookups(cache, openers.answers)
    of_nothing_new = replace(recommender, live=LiveAnswers(documents, overlay, learner, shared=False))
    answers = Answers(recommender, of_nothing_new, trail, cache, lookups, snapshots, ttl_seconds=settings.redis_ttl_seconds)
    ingestion = Ingestion(documents, live, settings.inbox)
    texts = TextAnswers(recommender, intents, snapshots, deadline=deadline)
    keepers = [asyncio.create_task(keeper.keep()) for keeper in (*guards, snapshots, overlay)]
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(START_SECONDS):
                await asyncio.gather(*(guard.attempted.wait() for guard in guards), snapshots.attempted.wait())
        limits = Limits(settings.rate_limit, cache)
        await learner.prepare()
        audit = Audit(settings.home)
        yield Services(settings, guards, snapshots, answers, people, audiences, intents, texts, limits, audit, ingestion)
    finally:
        await ingestion.close()
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)
        answers.close()
        learner.close()
        intents.close()
        audiences.close()
        await lookups.close()
        await asyncio.gather(*(guard.close() for guard in guards))


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


ServicesDep = Annotated[Services, Depends(_services)]
