"""From drops to every store, on real servers: however the same records arrive, the stores hold the same in the end."""

import json
import random
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
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
from persona.stores.vectors import VectorStore, open_vectors
from tests.worlds import HashingEncoder

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
        if event != "message":
            record |= {"event": event, "campaign_id": dice.choice(CAMPAIGNS), "value": dice.randrange(8) / 4}
        elif dice.random() < 0.3:
            record["campaign_id"] = dice.choice(CAMPAIGNS)
        if dice.random() < 0.2:
            record["conversation_id"] = dice.choice(["k_1", "k_2"])
        if dice.random() < 0.1:
            record["intent"] = "given"
        records.append({**record, "channel": dice.choice(["email", "chat"]), "message_id": f"m_{number}"})
    return records


@dataclass(frozen=True)
class World:
    """A pipeline with all its sinks."""

    pipeline: Pipeline
    vectors: VectorStore
    graph: Graph

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
            "intents": lambda batch: sinks.label(batch, threshold=0.3),
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
            "conversations": sorted(self.vectors.conversation_ids_of(USERS)),
            "outcomes": sorted((round(near.similarity, 5), near.ended_at_ms, sorted(near.outcomes.items())) for near in nearest),
            "campaigns": [(key, round(cosine, 5)) for key, cosine in sorted(self.vectors.similar_campaigns(anywhere, limit=100))],
            "engagements": {user: sorted(map(_plain, self.graph.history_of(user))) for user in USERS},
            "expressed": {user: sorted(map(repr, self.graph.intents_of(user))) for user in USERS},
            "addressed": self.graph.campaigns_for_intents(INTENTS),
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
    addresses, opened = stack_settings.addresses, []
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
            pipeline, version = new_pipeline(), f"v{uuid.uuid4().int % 10**12}"  # collections of our own on a shared server
            pipeline.documents.database["state"].insert_one({"_id": "collections", "in_use": version, "to_fill": version})
            opened.append(vectors.at(version))
            return World(pipeline, opened[-1], graph)

        yield make
        graph.clear()
        for version in opened:
            version.drop()


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    """Filled in by the first world that takes everything in at once."""
    return {}


@pytest.fixture
def undisturbed(new_world: Callable[[], World], expected: dict[str, Any]) -> dict[str, Any]:
    """What the stores hold when everything arrives at once."""
    if not expected:
        world = new_world()
        world.load_catalogs()
        world.put(history())
        world.drain()
        world.agrees_with_the_truth()
        expected |= world.contents()
    return expected


def parts(records: Sequence[dict[str, Any]], number: int) -> list[list[dict[str, Any]]]:
    return [list(records[start::number]) for start in range(number)]


def test_all_at_once(undisturbed: dict[str, Any]) -> None:
    assert undisturbed["facts"] > 20 and undisturbed["nodes"][0] == len(USERS)
    assert len(undisturbed["conversations"]) == len(undisturbed["outcomes"]) > 10
    assert {name for user in USERS for name in undisturbed["expressed"][user]}
    assert undisturbed["addressed"]["refund"] == ["c_0", "c_3"]


def test_drop_by_drop_backwards_with_the_catalogs_last(new_world: Callable[[], World], undisturbed: dict[str, Any]) -> None:
    world = new_world()
    for part in parts(history()[::-1], 3):
        world.put(part)
        world.drain()
    world.load_catalogs()
    world.drain()
    world.agrees_with_the_truth()
    assert world.contents() == undisturbed


def test_in_any_order_with_repeats_crashes_and_everything_twice(
    new_world: Callable[[], World], undisturbed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = new_world()
    records = history()
    random.Random(5).shuffle(records)
    first, second, third = parts(records, 3)
    world.put(first)
    world.load_catalogs(["intents.json"])
    world.drain("embeddings", "intents", "engagement_metrics")
    world.put(second + first[:5])
    monkeypatch.setattr(sinks, "USERS", 1)
    monkeypatch.setattr(sinks, "FACTS", 4)
    monkeypatch.setattr(sinks, "TEXTS", 3)
    for stage, store, verb in (
        ("embeddings", world.pipeline.documents.embeddings, "put"),
        ("intents", world.pipeline.documents.embeddings, "put_labels"),
        ("milvus_collection", world.vectors, "upsert_users"),
        ("neo4j_graph", world.graph, "replace_expressed"),
        ("engagement_metrics", world.pipeline.warehouse, "insert_facts"),
    ):
        _crash_on_second_call(world, monkeypatch, stage, store, verb)
        world.drain(stage)
    world.load_catalogs(["campaigns.json"])
    world.put(third)
    world.drain()
    world.agrees_with_the_truth()
    assert world.contents() == undisturbed
    world.drain(reapply=True)
    world.agrees_with_the_truth()
    assert world.contents() == undisturbed


def _crash_on_second_call(world: World, monkeypatch: pytest.MonkeyPatch, stage: str, store: Any, verb: str) -> None:
    write, calls = getattr(type(store), verb), iter([True])

    def crashing(*arguments: Any, **options: Any) -> Any:
        if next(calls, False):
            return write(*arguments, **options)
        raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(type(store), verb, crashing)
        with pytest.raises(RuntimeError, match="power cut"):
            world.drain(stage)


def test_what_comes_in_between_two_stages_waits_for_its_own_turn(
    new_world: Callable[[], World], undisturbed: dict[str, Any]
) -> None:
    world = new_world()
    first, second = parts(history(), 2)
    (world.pipeline.settings.catalog / "some.json").write_text(json.dumps(CATALOGS["campaigns.json"][:2]))
    world.load_catalogs(["intents.json"])
    world.put(first)
    world.drain("embeddings")
    world.put(second)
    (world.pipeline.settings.catalog / "more.json").write_text('[{"intent": "given", "examples": ["never embedded so far"]}]')
    world.load_catalogs(["campaigns.json"])
    world.drain("intents", "milvus_collection", "neo4j_graph", "engagement_metrics")
    world.drain()
    world.agrees_with_the_truth()
    found = world.contents()
    same = ("profiles", "conversations", "outcomes", "campaigns", "engagements", "facts", "days")
    assert {name: found[name] for name in same} == {name: undisturbed[name] for name in same}


def test_late_messages_leave_no_remains_of_the_conversations_they_join(new_world: Callable[[], World]) -> None:
    world = new_world()

    def said(minute: int) -> dict[str, Any]:
        return {"user_id": "u_0", "message": f"minute {minute}", "timestamp": START + 60 * minute, "message_id": f"at {minute}"}

    world.put([said(0), said(50)])
    world.drain()
    apart = world.vectors.conversation_ids_of(["u_0"])
    world.put([said(25)])
    world.drain()
    joined = world.vectors.conversation_ids_of(["u_0"])
    world.put([said(-10)])
    world.drain()
    begun_earlier = world.vectors.conversation_ids_of(["u_0"])
    assert (len(apart), len(joined), len(begun_earlier)) == (2, 1, 1)
    assert joined < apart and not begun_earlier & apart
    assert world.vectors.count("conversations") == 1
    world.agrees_with_the_truth()


def test_equal_texts_are_embedded_once_and_people_without_words_have_no_vector(
    new_world: Callable[[], World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = new_world()
    encoded: list[str] = []
    encode = HashingEncoder.encode

    def counting(self: HashingEncoder, texts: Iterable[str]) -> Any:
        encoded.extend(texts)
        return encode(self, texts)

    monkeypatch.setattr(HashingEncoder, "encode", counting)
    said = {"message": "same words", "timestamp": START}
    world.put([{"user_id": "u_0", **said}, {"user_id": "u_1", **said}, {"user_id": "u_0", **said, "timestamp": START + 1}])
    world.put([{"user_id": "u_2", "event": "click", "campaign_id": "c_0", "timestamp": START}])
    world.drain()
    world.put([{"user_id": "u_3", **said}, {"user_id": "u_3", **said, "message": "other words"}])
    world.drain()
    assert encoded == ["same words", "other words"]
    assert [user for user in USERS if world.vectors.user_vector(user) is not None] == ["u_0", "u_1", "u_3"]
    assert world.graph.missing_users(["u_0", "u_1", "u_2", "u_3"]) == []
    world.agrees_with_the_truth()


def test_a_new_catalog_of_intents_labels_everything_anew(new_world: Callable[[], World]) -> None:
    world = new_world()
    world.put([{"user_id": "u_0", "message": "about refund", "timestamp": START}])
    world.drain()
    assert world.graph.intents_of("u_0") == []
    world.load_catalogs(["intents.json"])
    world.drain()
    assert [expressed.intent for expressed in world.graph.intents_of("u_0")] == ["refund"]
    path: Path = world.pipeline.settings.catalog / "intents.json"
    path.write_text(json.dumps([{"intent": "money", "examples": ["about refund"]}]))
    load_folder(world.pipeline, run_id="r")
    world.drain()
    assert [expressed.intent for expressed in world.graph.intents_of("u_0")] == ["money"]
