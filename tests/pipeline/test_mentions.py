"""From a name in a message to the graph, the vectors and an answer, on real servers; whenever the name becomes known."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from persona.intake.catalogs import load_folder
from persona.pipeline import draining, sinks
from persona.privacy.erasure import erase, is_complete
from persona.privacy.holdings import export
from persona.projections.engagements import MENTION_WEIGHT
from persona.ranking.recommender import Query, Recommender, load_snapshot
from persona.schemas import Mention
from tests.pipeline.conftest import ENCODER, START, World

GOLD = "do you still have the Gold Card?"


def said(user: str, number: int, message: str = GOLD, **fields: Any) -> dict[str, Any]:
    return {"user_id": user, "message": message, "timestamp": START + 600 * number, "message_id": f"m_{user}_{number}", **fields}


def offer(world: World, **names: str) -> None:
    """Put these campaigns, by id, into the catalog."""
    entries = [{"campaign_id": campaign, "name": name} for campaign, name in names.items()]
    (world.pipeline.settings.catalog / f"{len(list(world.pipeline.settings.catalog.iterdir()))}.json").write_text(
        json.dumps(entries)
    )
    load_folder(world.pipeline, run_id="r")


def outcomes(world: World) -> list[dict[str, float]]:
    return [dict(near.outcomes) for near in world.vectors.similar_conversations(ENCODER.encode([GOLD])[0], limit=100)]


def mentioned(world: World, user: str) -> dict[str, int]:
    return {mention.campaign_id: mention.count for mention in world.graph.mentions_of(user)}


def test_a_name_becomes_history_outcome_and_evidence(new_world: Callable[[], World]) -> None:
    world = new_world()
    offer(world, c_gold="Gold Card", c_blue="Blue Card")
    world.put([said("u_0", 0), said("u_0", 1, "yes, the Gold Card"), said("u_1", 0, "hello"), said("u_2", 0)])
    world.drain()
    assert world.graph.mentions_of("u_0") == [Mention("c_gold", 2, (START + 600) * 1000, "m_u_0_1")]
    assert mentioned(world, "u_1") == {} and mentioned(world, "u_2") == {"c_gold": 1}
    assert sorted(map(str, outcomes(world))) == sorted(map(str, [{}, *[{"c_gold": MENTION_WEIGHT}] * 2]))
    world.agrees_with_the_truth()
    documents = world.pipeline.documents
    recommender = Recommender(world.vectors, world.graph, documents)
    snapshot = load_snapshot(documents)
    answers = {user: recommender.for_user(user, Query(), snapshot) for user in ("u_0", "u_1")}
    evidence = {
        user: [
            (item.campaign_id, part) for item in answer.recommendations for part in item.evidence if part["channel"] == "mentions"
        ]
        for user, answer in answers.items()
    }
    [(campaign, part)] = evidence["u_0"]
    assert (campaign, part["message_id"], part["messages"], evidence["u_1"]) == ("c_gold", "m_u_0_1", 2, [])
    for_texts = recommender.for_texts(["a blue card, or the Blue Card?"], ENCODER.encode(["a"])[0], [], Query(), snapshot)
    blue = next(item for item in for_texts.recommendations if item.campaign_id == "c_blue")
    assert "mentions" in {part["channel"] for part in blue.evidence}
    assert load_snapshot(documents, before=snapshot).finder is snapshot.finder


def test_a_new_name_is_found_in_what_was_said_before_and_an_old_one_is_forgotten(new_world: Callable[[], World]) -> None:
    world = new_world()
    world.put([said("u_0", 0)])
    world.put([said("u_1", 0, "hello")])
    world.drain()
    assert mentioned(world, "u_0") == {} and outcomes(world) == [{}, {}]
    offer(world, c_gold="Gold Card")
    world.drain()
    assert mentioned(world, "u_0") == {"c_gold": 1} and {"c_gold": MENTION_WEIGHT} in outcomes(world)
    world.agrees_with_the_truth()
    offer(world, c_gold="Golden Card", c_other="Gold Card")
    world.drain()
    assert mentioned(world, "u_0") == {"c_other": 1} and {"c_other": MENTION_WEIGHT} in outcomes(world)
    world.agrees_with_the_truth()


def test_only_drops_in_which_another_name_is_found_are_applied_again(
    new_world: Callable[[], World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = new_world()
    world.put([said("u_0", 0)])
    world.put([said("u_1", 0, "hello")])
    world.put([said("u_2", 0)])
    world.drain()
    indexed: list[str] = []
    index = sinks.index_users
    monkeypatch.setattr(
        sinks, "index_users", lambda documents, vectors, users: (indexed.extend(users), index(documents, vectors, users))[1]
    )
    offer(world, c_gold="Gold Card")
    world.drain()
    assert sorted(indexed) == ["u_0", "u_2"]
    offer(world, c_blue="Blue Card")
    world.drain()
    assert sorted(indexed) == ["u_0", "u_2"]


def test_one_that_died_half_way_leaves_nobody_with_what_was_found_before(
    new_world: Callable[[], World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = new_world()
    for number in range(3):  # the same text in each, so that what is stored for one is stored for all
        world.put([said(f"u_{number}", 0), said(f"u_{number}", 1, f"the Blue Card, {number}")])
    world.drain()
    offer(world, c_gold="Gold Card", c_blue="Blue Card")
    monkeypatch.setattr(sinks, "TEXTS", 1)
    put, calls = type(world.pipeline.documents.embeddings).put_mentions, iter(range(2))

    def dying(*arguments: Any, **options: Any) -> None:
        if next(calls, None) is None:
            raise RuntimeError("power cut")
        put(*arguments, **options)

    world.drain("embeddings")
    with monkeypatch.context() as patch:
        patch.setattr(type(world.pipeline.documents.embeddings), "put_mentions", dying)
        with pytest.raises(RuntimeError, match="power cut"):
            world.drain("intents")
    world.drain("milvus_collection", "neo4j_graph")  # not what a run would do
    world.drain()
    assert [mentioned(world, f"u_{number}") for number in range(3)] == [{"c_gold": 1, "c_blue": 1}] * 3
    world.agrees_with_the_truth()


def test_stores_from_before_mentions_were_looked_for_are_brought_up_by_the_first_run(
    new_world: Callable[[], World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = new_world()
    offer(world, c_gold="Gold Card")
    with monkeypatch.context() as patch:
        older = dict.fromkeys(draining.CODE_VERSIONS, "1")
        patch.setattr(draining, "CODE_VERSIONS", older)
        patch.setattr(sinks, "_find_mentions", lambda batch: None)
        world.put([said("u_0", 0)])
        world.drain()
    assert mentioned(world, "u_0") == {} and outcomes(world) == [{}]
    world.drain()
    assert mentioned(world, "u_0") == {"c_gold": 1} and outcomes(world) == [{"c_gold": MENTION_WEIGHT}]
    world.agrees_with_the_truth()


def test_with_the_person_goes_what_they_mentioned_and_what_others_said_alike_stays(new_world: Callable[[], World]) -> None:
    world = new_world()
    offer(world, c_gold="Gold Card", c_blue="Blue Card")
    world.put([said("u_0", 0), said("u_0", 1, "or the Blue Card"), said("u_1", 0)])
    world.drain()
    settings, documents = world.pipeline.settings, world.pipeline.documents
    held = export("u_0", settings, world.stores)
    assert {tie["campaign_id"] for tie in held["neo4j"]["mentioned"]} == {"c_gold", "c_blue"}
    assert [record["mentioned_campaigns"] for record in held["records"]] == [["c_gold"], ["c_blue"]]
    assert is_complete(erase("u_0", settings, world.stores, run_id="e"))
    assert mentioned(world, "u_0") == {} and mentioned(world, "u_1") == {"c_gold": 1}
    assert [found["campaign_ids"] for found in documents.database["mentions"].find()] == [["c_gold"]]
    assert outcomes(world) == [{"c_gold": MENTION_WEIGHT}]
    world.agrees_with_the_truth()
