"""From drops to every store, on real servers: however the same records arrive, the stores hold the same in the end."""

import itertools
import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from persona.intake.catalogs import load_folder
from persona.pipeline import sinks
from tests.pipeline.conftest import CATALOGS, START, USERS, World, history, parts
from tests.worlds import HashingEncoder


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


def test_all_at_once(undisturbed: dict[str, Any]) -> None:
    assert undisturbed["facts"] > 20 and undisturbed["nodes"][0] == len(USERS)
    assert len(undisturbed["conversations"]) == len(undisturbed["outcomes"]) > 10 > len(undisturbed["openings"]) > 3
    assert {name for user in USERS for name in undisturbed["expressed"][user]}
    assert sum(len(undisturbed["mentioned"][user]) for user in USERS) > 5
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
    _crash(world, monkeypatch, "embeddings", world.pipeline.documents.embeddings, "put", on_call=2)
    for stage, store, verb, on_call in (
        ("embeddings", world.pipeline.documents.conversations, "put", 1),
        ("intents", world.pipeline.documents.embeddings, "put_labels", 2),
        ("milvus_collection", world.vectors, "upsert_users", 2),
        ("neo4j_graph", world.graph, "replace_expressed", 2),
        ("engagement_metrics", world.pipeline.warehouse, "insert_facts", 2),
    ):
        _crash(world, monkeypatch, stage, store, verb, on_call=on_call)
        world.drain(stage)
    world.load_catalogs(["campaigns.json"])
    world.put(third)
    world.drain()
    world.agrees_with_the_truth()
    assert world.contents() == undisturbed
    world.drain(reapply=True)
    world.agrees_with_the_truth()
    assert world.contents() == undisturbed


def _crash(world: World, monkeypatch: pytest.MonkeyPatch, stage: str, store: Any, verb: str, *, on_call: int) -> None:
    write, calls = getattr(type(store), verb), itertools.count(1)

    def crashing(*arguments: Any, **options: Any) -> Any:
        if next(calls) == on_call:
            raise RuntimeError("power cut")
        return write(*arguments, **options)

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
    same = ("profiles", "conversations", "openings", "outcomes", "campaigns", "engagements", "mentioned", "facts", "days")
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
    assert encoded == ["same words", "same words same words", "other words", encoded[-1]]
    assert sorted(encoded[-1].split()) == ["other", "same", "words", "words"]
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
    path.write_text(json.dumps([{"intent": "money", "examples": ["about refund"]}, {"intent": "refund", "examples": ["else"]}]))
    load_folder(world.pipeline, run_id="r")
    world.drain()
    assert [expressed.intent for expressed in world.graph.intents_of("u_0")] == ["money"]
