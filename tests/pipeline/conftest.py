"""What the pipeline's tests share: a small world of a few people, from drops to every store."""

import json
import random
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from persona.intake.catalogs import load_folder
from persona.intake.drops import take_in_all
from persona.pipeline import audit, sinks
from persona.pipeline.draining import Pipeline
from persona.projections.conversations import conversation_ids_of
from persona.schemas import Engagement
from persona.settings import Settings
from persona.stores.graph import Graph, open_graph
from persona.stores.opening import Stores
from persona.stores.vectors import VectorStore, open_vectors
from tests.worlds import HashingEncoder, addressed, campaign_vectors

ENCODER = HashingEncoder(dimension=16)
USERS = [f"u_{number}" for number in range(5)]
CAMPAIGNS = [f"c_{number}" for number in range(4)]
INTENTS = ["refund", "travel", "billing"]
START = 1_700_000_000
CATALOGS = {
    "campaigns.json": [
        {"campaign_id": key, "name": f"Offer {key}", "intents": [INTENTS[number % 3]]} for number, key in enumerate(CAMPAIGNS)
    ],
    "intents.json": [{"intent": name, "examples": [f"about {name}", f"{name} please"]} for name in INTENTS],
}


def history(seed: int = 3, messages: int = 60) -> list[dict[str, Any]]:
    """Records of a few people over some days, with every kind of event, with ids and without."""
    dice = random.Random(seed)
    records = []
    for number in range(messages):
        record: dict[str, Any] = {"user_id": dice.choice(USERS), "timestamp": START + dice.randrange(0, 3 * 86_400, 600)}
        event = dice.choice(["message"] * 4 + ["impression", "click", "conversion", "dismiss", "reply"])
        if event == "message" or dice.random() < 0.2:
            record["message"] = f"{dice.choice(['about', 'please', 'hello'])} {dice.choice(INTENTS)} {number % 17}"
            record["message"] += f", offer c {number % 3}?" * (number % 4 == 0)
        if event != "message":
            record |= {"event": event, "campaign_id": dice.choice(CAMPAIGNS), "value": dice.randrange(8) / 4}
        elif dice.random() < 0.3:
            record["campaign_id"] = dice.choice(CAMPAIGNS)
        if dice.random() < 0.5:
            record["conversation_id"] = dice.choice(["k_1", "k_2"])
        if dice.random() < 0.1:
            record["intent"] = "given"
        records.append({**record, "channel": dice.choice(["email", "chat"]), "message_id": f"m_{number}"})
    return records


@dataclass(frozen=True)
class World:
    """A pipeline with all its sinks."""

    pipeline: Pipeline
    milvus: VectorStore
    graph: Graph

    @property
    def vectors(self) -> VectorStore:
        """On the collections in use."""
        return self.milvus.at(self.pipeline.documents.embeddings.collections_in_use())

    @property
    def stores(self) -> Stores:
        pipeline = self.pipeline
        return Stores(pipeline.documents, self.vectors, self.graph, pipeline.warehouse, pipeline.cache)

    def put(self, records: Iterable[dict[str, Any]]) -> list[str]:
        """Take one drop in; return its id."""
        file = self.pipeline.settings.drops / f"{uuid.uuid4().hex}.jsonl"
        file.write_text("".join(f"{json.dumps(record)}\n" for record in records))
        return [entry.id for entry in take_in_all(self.pipeline, run_id="r").entries]

    def load_catalogs(self, names: Iterable[str] = CATALOGS) -> None:
        for name in names:
            (self.pipeline.settings.catalog / name).write_text(json.dumps(CATALOGS[name]))
        load_folder(self.pipeline, run_id="r")

    def drain(self, *stages: str, **options: Any) -> None:
        """Drain these stages, or all of them."""
        apply = {
            "embeddings": lambda batch: sinks.embed(batch, ENCODER),
            "intents": lambda batch: sinks.label(batch, threshold=self.pipeline.settings.intent_threshold),
            "milvus_collection": lambda batch: sinks.index_vectors(batch, self.vectors),
            "neo4j_graph": lambda batch: sinks.link(batch, self.graph),
            "engagement_metrics": lambda batch: sinks.count(batch, self.pipeline.warehouse),
        }
        for stage in stages or apply:
            self.pipeline.drain(stage, apply[stage], run_id="r", **options)

    def contents(self) -> dict[str, Any]:
        """What the stores hold, as their readers see it."""
        anywhere = ENCODER.encode(["anything"])[0]
        nearest = self.vectors.similar_conversations(anywhere, limit=1_000)
        profiles = {user: self.vectors.user_vector(user) for user in USERS}
        return {
            "profiles": {user: None if vector is None else np.round(vector, 5).tolist() for user, vector in profiles.items()},
            "conversations": sorted(
                (row["id"], row["ended_at_ms"]) for user in USERS for row in self.vectors.everything_of(user)["conversations"]
            ),
            "openings": self.pipeline.documents.conversations.said(USERS),
            "outcomes": sorted((round(near.similarity, 5), sorted(near.outcomes.items())) for near in nearest),
            "campaigns": campaign_vectors(self.pipeline.settings, self.pipeline.documents.embeddings.collections_in_use()),
            "engagements": {user: sorted(map(_plain, self.graph.history_of(user))) for user in USERS},
            "votes": {user: self.graph.campaigns_of({user: 1.0}, now_ms=0, half_life_days=30, limit=1_000) for user in USERS},
            "expressed": {user: sorted(map(repr, self.graph.intents_of(user))) for user in USERS},
            "mentioned": {user: sorted(map(repr, self.graph.mentions_of(user))) for user in USERS},
            "addressed": addressed(self.pipeline.settings),
            "nodes": [self.graph.count(what) for what in ("User", "Campaign", "Intent", "ENGAGED")],
            "facts": self.pipeline.warehouse.fact_count(),
            "days": self.pipeline.warehouse.day_buckets(),
        }

    def agrees_with_the_truth(self) -> None:
        """The audit finds nothing, and the conversations are those of the whole histories."""
        documents, warehouse = self.pipeline.documents, self.pipeline.warehouse
        for comparison in audit.compare_stores(documents, self.vectors, self.graph, warehouse):
            assert comparison.agrees, comparison
        drops = [entry.id for entry in documents.ledger.all_of("drop", states=["accepted"])]
        assert warehouse.bucket_mismatches(drops, limit=5) == []
        expected = [key for user in USERS for key in conversation_ids_of(user, list(documents.records.histories([user])))]
        assert sorted(self.vectors.conversation_ids_of(USERS)) == sorted(expected)
        assert documents.ledger.waiting(["embeddings", "intents", "milvus_collection", "neo4j_graph", "engagement_metrics"]) == 0


def _plain(engagement: Engagement) -> tuple[Any, ...]:
    return (
        engagement.campaign_id, engagement.weight, engagement.value, sorted(engagement.counts.items()), engagement.first_at_ms,
        engagement.last_at_ms, engagement.last_message_id,
    )  # fmt: skip


@pytest.fixture
def new_world(stack_settings: Settings, new_pipeline: Callable[[], Pipeline]) -> Iterator[Callable[[], World]]:
    """Makes worlds of empty stores, one after the other: the graph is shared and is emptied for the next."""
    addresses, made = stack_settings.addresses, []
    with (
        open_vectors(addresses.milvus, token=addresses.milvus_token, version="none") as vectors,
        open_graph(
            addresses.neo4j,
            user=addresses.neo4j_user,
            password=addresses.neo4j_password,
            database=stack_settings.neo4j_database,
        ) as graph,
    ):

        def make() -> World:
            graph.clear()
            pipeline = new_pipeline()
            pipeline = replace(pipeline, settings=pipeline.settings.model_copy(update={"intent_threshold": 0.3}))
            version = f"v{uuid.uuid4().int % 10**12}"  # collections of our own on a shared server
            pipeline.documents.database["state"].insert_one({"_id": "collections", "in_use": version, "to_fill": version})
            made.append(World(pipeline, vectors, graph))
            return made[-1]

        yield make
        graph.clear()
        for world in made:
            for version in world.pipeline.documents.embeddings.collections_named():
                vectors.at(version).drop()


def parts(records: Sequence[dict[str, Any]], number: int) -> list[list[dict[str, Any]]]:
    return [list(records[start::number]) for start in range(number)]
