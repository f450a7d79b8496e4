"""Learning from given intents: at moments that no drop chooses, so that any order of drops ends in the same labels."""

from collections.abc import Callable
from typing import Any

import pytest

from persona.errors import LeaseLost
from persona.language.classifier import IntentClassifier
from persona.pipeline import learning, sinks
from persona.pipeline.draining import Batch
from persona.pipeline.labelling import LESSONS_TO_EXIST, classifier_to_ask, forget_lessons, labeller_of
from persona.pipeline.rebuilding import rebuild
from tests.kept_answers import Kept
from tests.pipeline.conftest import ENCODER, START, World

THINGS = ["card", "phone", "letter", "parcel", "key", "watch"]


def said(number: int, message: str, **fields: Any) -> dict[str, Any]:
    return {
        "user_id": f"u_{number % 3}",
        "message": message,
        "timestamp": START + 60 * number,
        "message_id": f"m_{number}",
        **fields,
    }


GIVEN = [said(number, f"where is my {thing} now", intent="lost") for number, thing in enumerate(THINGS)]
ASKS = [said(20, "where is my ring now"), said(22, "book a trip")]


def labels(world: World) -> dict[str, Any]:
    stored = world.pipeline.documents.database["labels"].find({}, {"intent": 1, "version": 1})
    return {label["_id"]: (label["intent"], label["version"]) for label in stored}


def learned(world: World) -> bool:
    return learning.learn_given_intents(world.pipeline, world.graph, run_id="r")


def test_a_drop_teaches_nothing_and_a_ranking_run_what_was_given(new_world: Callable[[], World]) -> None:
    world = new_world()
    world.put([*GIVEN, *ASKS])
    world.drain()
    assert labels(world) == {}
    assert learned(world)
    assert [(tie.intent, tie.count) for tie in world.graph.intents_of("u_2")] == [("lost", 3)]  # two given, one understood
    assert sum(intent == "lost" for intent, _ in labels(world).values()) == len(GIVEN) + 1
    world.agrees_with_the_truth()
    before = labels(world)
    assert not learned(world)
    world.put([said(30, "where is my coat now", intent="lost")])
    world.drain()
    assert before.items() <= labels(world).items()


@pytest.mark.parametrize("cuts", [(3,), (2, 5)])
def test_any_order_of_drops_and_moments_of_learning_ends_in_the_same_labels(
    new_world: Callable[[], World], cuts: tuple[int, ...]
) -> None:
    records = [*GIVEN, *ASKS]
    at_once = new_world()
    at_once.load_catalogs(["intents.json"])
    at_once.put(records)
    at_once.drain()
    learned(at_once)
    piecemeal = new_world()
    backwards = records[::-1]
    for start, end in zip([0, *cuts], [*cuts, len(records)], strict=True):
        piecemeal.put(backwards[start:end])
        piecemeal.drain()
        learned(piecemeal)
    piecemeal.load_catalogs(["intents.json"])
    piecemeal.drain()
    rebuild("intents", piecemeal.pipeline, piecemeal.stores, ENCODER, run_id="r")
    assert piecemeal.pipeline.documents.classifiers.lessons() == at_once.pipeline.documents.classifiers.lessons()
    assert labels(piecemeal) == labels(at_once)


def test_an_intent_no_catalog_knows_is_learned_only_from_several_messages(new_world: Callable[[], World]) -> None:
    world = new_world()
    world.load_catalogs(["intents.json"])
    world.put([*GIVEN[: LESSONS_TO_EXIST - 1], said(50, "my money please", intent="refund")])
    world.drain()
    assert learned(world)
    assert set(world.pipeline.documents.classifiers.lessons().values()) == {"refund"}
    assert classifier_to_ask(world.pipeline.documents, ENCODER).intents == ("billing", "refund", "travel")


def test_one_that_ended_half_way_is_finished_by_the_next_drain(
    new_world: Callable[[], World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = new_world()
    world.put([*GIVEN, *ASKS])
    world.drain()

    def crashing(batch: Batch, threshold: float) -> None:
        raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(sinks, "label", crashing)
        with pytest.raises(RuntimeError, match="power cut"):
            learned(world)
    world.drain()
    assert [tie.count for tie in world.graph.intents_of("u_2")] == [3]
    world.agrees_with_the_truth()


def test_answers_made_of_the_labels_before_are_not_given_any_more(new_world: Callable[[], World]) -> None:
    world = new_world()
    world.put([*GIVEN, *ASKS])
    world.drain()
    cache = world.pipeline.cache
    _, version = Kept(world.pipeline.settings.addresses.redis).read("u_2", "g", "q")
    assert Kept(world.pipeline.settings.addresses.redis).write("u_2", "g", "q", b"{}", version=version, ttl=60)
    assert learned(world)
    assert not cache.keeps("u_2")


def test_what_is_forgotten_is_not_learned_from_any_more(new_world: Callable[[], World]) -> None:
    world = new_world()
    world.put([*GIVEN, *ASKS])
    world.drain()
    learned(world)
    documents = world.pipeline.documents
    [first, *others] = sorted(documents.classifiers.lessons())
    before = documents.classifiers.version()
    with world.pipeline.lease("e", "erasure") as lease:
        forget_lessons(documents, lease, [first])
    after = documents.classifiers.version()
    assert after is not None and after != before
    assert sorted(documents.classifiers.lessons()) == others
    assert documents.database["classifier"].distinct("version") == [after]
    assert len(IntentClassifier.from_arrays(documents.classifiers.arrays(after) or {}).examples) == len(others)


def test_where_no_classifier_is_left_or_labels_are_of_another_it_is_learned_again(new_world: Callable[[], World]) -> None:
    world = new_world()
    world.put([*GIVEN, *ASKS])
    world.drain()
    learned(world)
    documents = world.pipeline.documents
    named = documents.classifiers.version()
    documents.database["classifier"].delete_many({})
    learned(world)
    assert documents.classifiers.version() == named is not None
    with world.pipeline.lease("e", "erasure") as lease:
        forget_lessons(documents, lease, sorted(documents.classifiers.lessons())[:1])
    assert learned(world)
    assert len({version for _, version in labels(world).values()}) == 1
    assert not learned(world)
    world.agrees_with_the_truth()


def test_who_only_asks_keeps_nothing(new_world: Callable[[], World]) -> None:
    world = new_world()
    world.load_catalogs(["intents.json"])
    world.drain("embeddings")
    documents = world.pipeline.documents
    assert classifier_to_ask(documents, ENCODER).intents == ("billing", "refund", "travel")
    assert documents.classifiers.version() is None


def test_who_has_lost_the_lease_keeps_nothing(new_world: Callable[[], World]) -> None:
    world = new_world()
    world.load_catalogs(["intents.json"])
    world.drain("embeddings")
    documents = world.pipeline.documents
    with world.pipeline.lease("slow", "intents") as lost:
        documents.leases.release(lost.token)
        with world.pipeline.lease("next", "erasure"), pytest.raises(LeaseLost):
            labeller_of(documents, lost, threshold=0.4)
    assert documents.classifiers.version() is None


def test_a_classifier_of_any_size_comes_back_from_the_store_as_it_was(
    new_world: Callable[[], World], monkeypatch: pytest.MonkeyPatch
) -> None:
    from persona.stores.documents import classifiers

    monkeypatch.setattr(classifiers, "PART_BYTES", 100)
    world = new_world()
    world.load_catalogs(["intents.json"])
    world.drain("embeddings")
    documents = world.pipeline.documents

    def kept() -> tuple[str, dict[str, Any]]:
        with world.pipeline.lease("r", "intents") as lease:
            assert labeller_of(documents, lease, threshold=0.4)
        named = documents.classifiers.version()
        assert named is not None
        return named, {name: array.tolist() for name, array in (documents.classifiers.arrays(named) or {}).items()}

    fitted = {name: array.tolist() for name, array in classifier_to_ask(documents, ENCODER).arrays().items()}
    named, stored = kept()
    assert stored == fitted
    documents.database["classifier"].delete_one({})  # a part is lost, or was never written
    assert documents.classifiers.arrays(named) is None
    assert kept() == (named, fitted)
