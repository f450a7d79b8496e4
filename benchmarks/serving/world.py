"""Fills the five stores with a world of `people`, in bulk, and starts them for the time of a measurement. Nothing is measured here."""

import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.serving.people import Crowd, People, now, user_id
from persona.language.encoder import load_encoder
from persona.local.stack import start_stores, stop_stores, wipe_stores
from persona.pipeline import sinks
from persona.pipeline.draining import Pipeline
from persona.pipeline.stages import CODE_VERSIONS, DROP_SINKS
from persona.projections.conversations import conversations_of, profile_of
from persona.projections.engagements import EVENT_WEIGHTS, expressed_intents, fact_of, mentions_of
from persona.ranking.publication import fit_candidate, publish_by_hand
from persona.schemas import Engagement, Event
from persona.settings import Settings
from persona.stores.documents import Documents
from persona.stores.documents.ledger import Counts
from persona.stores.opening import Stores, open_stores

RUN = "world"
MARKER = "world.json"


@dataclass(frozen=True, slots=True)
class World:
    """Running stores that hold one."""

    settings: Settings
    users: int
    seed: int
    engagements: int

    def sample(self, count: int, *, seed: int) -> list[str]:
        """So many different people, drawn by seed."""
        drawn = np.random.default_rng([self.seed, seed]).permutation(self.users)[:count]
        return [user_id(int(number)) for number in drawn]


@contextmanager
def world(folder: Path, *, users: int, seed: int, console: Console) -> Iterator[World]:
    """The stores of the world with so many users, started; built where the folder does not hold it yet.

    The settings are in the environment too, as processes that are started read them there.
    """
    home = folder.absolute() / f"{users}-{seed}"
    os.environ |= {
        "PERSONA_HOME": str(home),
        "PERSONA_DROPS": str(home / "watched"),
        "PERSONA_CATALOG": str(home / "catalog"),
        "PERSONA_SETTLE_SECONDS": "0",
    }
    settings = Settings()
    marker = home / MARKER
    if not marker.exists():
        wipe_stores(settings)
        shutil.rmtree(home, ignore_errors=True)
    settings.drops.mkdir(parents=True, exist_ok=True)
    start_stores(settings)
    try:
        if not marker.exists():
            people = People(users=users, seed=seed, end=now(), encoder=load_encoder(settings))
            build(settings, people, console)
            marker.write_text(json.dumps({"users": users, "seed": seed, "engagements": people.engagements}))
        yield World(settings, users, seed, json.loads(marker.read_text())["engagements"])
    finally:
        stop_stores(settings)


def build(settings: Settings, people: People, console: Console) -> None:
    """Write what the pipeline would have made of these people's records, and publish a model that is fitted to them."""

    @contextmanager
    def told(what: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        console.print(f"{what}: {time.perf_counter() - began:.0f} s")

    with open_stores(settings) as stores:
        pipeline = Pipeline(settings, stores.documents, stores.warehouse, stores.cache)
        with told("the truth"):
            write_truth(stores.documents, people)
            enter(pipeline, people.drop, stores.documents.records.count())
        with told("intents and mentions"):
            pipeline.drain("intents", partial(sinks.label, threshold=settings.intent_threshold), run_id=RUN)
        with told("projections"):
            write_projections(stores, people)
            mark(pipeline, people.drop, ("milvus_collection", "neo4j_graph", "engagement_metrics", "cache"))
        with told("a generation"):
            fit_candidate(pipeline, stores.warehouse, run_id=RUN)
            publish_by_hand(pipeline, stores.graph, None, run_id=RUN)


def write_truth(documents: Documents, people: People) -> None:
    """Catalogs, records, and the vectors of texts."""
    documents.catalog.put_campaigns(people.campaigns)
    documents.catalog.put_intents(people.intents)
    documents.catalog.put_customers(list(people.customers()))
    encoder = people.encoder
    documents.embeddings.agree_on(encoder.fingerprint, encoder.dimension)
    put_vectors = partial(documents.embeddings.put, model=encoder.fingerprint)
    put_vectors(list(people.catalog_vectors), np.stack(list(people.catalog_vectors.values())))
    records = documents.database["records"]
    records.drop_indexes()  # made anew in one go, they take a fraction of the time
    line = 0
    for crowd in people.crowds():
        written = [{**record, "line": line + number} for number, record in enumerate(crowd.records, 1)]
        line += len(written)
        records.insert_many(written, ordered=False)
        put_vectors(list(crowd.vectors), np.stack(list(crowd.vectors.values())))
    documents.records.ensure_indexes()


def enter(pipeline: Pipeline, drop: str, records: int) -> None:
    """Let the ledger know the drop that all records came with; its texts have their vectors already."""
    ledger = pipeline.documents.ledger
    ledger.claim_all([(drop, "world.jsonl", records)], run_id=RUN)
    counts = Counts(read=records, accepted=records)
    with pipeline.lease(RUN, "world") as lease:
        lease.transaction(lambda session: ledger.accept(drop, counts=counts, sinks=DROP_SINKS, run_id=RUN, session=session))
    mark(pipeline, drop, ("embeddings",))


def mark(pipeline: Pipeline, drop: str, applied_by: Sequence[str]) -> None:
    """These stages have applied the drop."""
    with pipeline.lease(RUN, "world") as lease:
        for sink in applied_by:
            lease.transaction(
                lambda session, sink=sink: pipeline.documents.ledger.mark(  # type: ignore[misc]
                    sink, [drop], run_id=RUN, token=lease.token, code_version=CODE_VERSIONS[sink], session=session
                )
            )


def write_projections(stores: Stores, people: People) -> None:
    """Milvus, the graph and the warehouse at the same time, some people after the other."""
    stores.vectors.prepare(people.encoder.dimension, rows=people.users)
    sinks.index_campaigns(stores.documents, stores.vectors)
    stores.graph.upsert_campaigns(people.campaigns)
    with ThreadPoolExecutor(3) as threads:
        for crowd in people.crowds():
            for done in [threads.submit(write, stores, crowd) for write in (write_vectors, write_graph, write_facts)]:
                done.result()


def write_vectors(stores: Stores, crowd: Crowd) -> None:
    """Profiles and conversations."""
    named = stores.documents.embeddings.mentions(crowd.vectors)
    histories = {user: [_with_length(record) for record in history] for user, history in crowd.histories.items()}
    profiles = (profile_of(user, history, crowd.vectors, {}) for user, history in histories.items())
    stores.vectors.upsert_users([profile for profile in profiles if profile])
    stores.vectors.upsert_conversations(
        [each for user, history in histories.items() for each in conversations_of(user, history, crowd.vectors, named, {})]
    )


def _with_length(record: dict[str, Any]) -> dict[str, Any]:
    return {**record, "characters": len(record["message"])} if "message" in record else record


def write_graph(stores: Stores, crowd: Crowd) -> None:
    """Who engaged with, named and expressed what."""
    embeddings, graph = stores.documents.embeddings, stores.graph
    history = list(crowd.records)
    graph.upsert_users(crowd.histories)
    graph.replace_engagements(crowd.histories, list(engagements_of(history)))
    graph.replace_mentioned(mentions_of(crowd.histories, history, embeddings.mentions(crowd.vectors)))
    graph.replace_expressed(crowd.histories, expressed_intents(history, embeddings.labels(crowd.vectors)))


def engagements_of(records: Iterable[dict[str, Any]]) -> Iterator[Engagement]:
    """One of each record about a campaign: in this world no two are about the same pair."""
    for record in records:
        if "campaign_id" in record:
            at_ms = round(record["timestamp"].timestamp() * 1000)
            yield Engagement(
                user_id=record["user_id"],
                campaign_id=record["campaign_id"],
                weight=EVENT_WEIGHTS[Event(record["event"])],
                value=0.0,
                counts={record["event"]: 1},
                first_at_ms=at_ms,
                last_at_ms=at_ms,
                last_message_id=record["_id"],
            )


def write_facts(stores: Stores, crowd: Crowd) -> None:
    """What can be counted, and everybody's totals."""
    stores.warehouse.insert_facts([fact_of(record) for record in crowd.records if "campaign_id" in record])
    stores.warehouse.refresh_users(crowd.histories)
