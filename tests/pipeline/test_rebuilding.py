"""What a rebuild promises: the stores hold what they would have grown to, whatever arrives meanwhile, and answer all the time."""

import json
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from persona.errors import Busy, LeaseLost
from persona.intake.catalogs import load_folder
from persona.pipeline import rebuilding, sinks
from persona.pipeline.audit import compare_stores
from persona.pipeline.draining import Batch
from persona.pipeline.labelling import Labeller
from persona.pipeline.rebuilding import REBUILDABLE, Rebuilt, rebuild
from persona.ranking.publication import fit_candidate, publish_by_hand
from persona.ranking.recommender import Query, Recommender, load_snapshot
from persona.schemas import Answer, Campaign, Engagement, ExpressedIntent, Fact, Mention, Relation, UserProfile
from persona.stores.documents import Documents
from persona.stores.documents.embeddings import Embeddings
from persona.stores.documents.ledger import Ledger
from tests.kept_answers import Kept
from tests.pipeline.conftest import ENCODER, USERS, World, history, parts
from tests.worlds import HashingEncoder, related

pytestmark = pytest.mark.slow

IN_TURNS = [asset for asset in REBUILDABLE if asset != "embeddings"]


@pytest.fixture(autouse=True)
def many_short_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """One person a turn, no waiting."""
    monkeypatch.setattr(sinks, "USERS", 1)
    monkeypatch.setattr(sinks, "TEXTS", 10)
    monkeypatch.setattr(sinks, "READERS_LEAVE_SECONDS", 0.0)
    monkeypatch.setattr(rebuilding, "TURN_SECONDS", 0.0)
    monkeypatch.setattr(rebuilding, "PAUSE_SECONDS", 0.0)


@pytest.fixture
def in_each_pause(monkeypatch: pytest.MonkeyPatch) -> Callable[[Iterator[Callable[[], Any]]], None]:
    """Let the next of these things happen whenever the rebuild gives the lease back."""

    def arrange(happenings: Iterator[Callable[[], Any]]) -> None:
        def pause(seconds: float) -> None:
            next(happenings, lambda: None)()

        monkeypatch.setattr(rebuilding, "time", type("Clock", (), {"sleep": pause, "monotonic": time.monotonic}))

    return arrange


def grown(world: World, records: list[dict[str, Any]]) -> World:
    """With the catalogs and these records applied."""
    world.load_catalogs()
    world.put(records)
    world.drain()
    return world


def compute_anew(world: World, asset: str, run_id: str = "rebuild-1", **options: Any) -> Rebuilt:
    done = rebuild(asset, world.pipeline, world.stores, options.pop("encoder", ENCODER), run_id=run_id, **options)
    if asset == "embeddings":
        world.drain()
    return done


def nothing_is_left_over(world: World) -> None:
    documents = world.pipeline.documents
    assert documents.embeddings.collections_named() == [documents.embeddings.collections_in_use()]
    assert not world.pipeline.warehouse.has_beside()
    assert [asset for asset in REBUILDABLE if documents.rebuilds.run_of(asset)] == []
    assert documents.leases.holder() is None


def put_amiss(world: World, asset: str) -> None:
    """What no drop would ever put right: people and ties that the truth does not know, and others that say what it does not."""
    profile = UserProfile("stranger", ENCODER.encode(["anything"])[0], 1, 0)
    world.vectors.upsert_users([profile, replace(profile, user_id=USERS[0])])
    tie = Engagement("stranger", "c_gone", 1.0, 0.0, {"click": 1}, 0, 0, "m")
    world.graph.upsert_campaigns([Campaign(campaign_id="c_gone", intents=["forgotten"])])
    amiss = [tie, replace(tie, user_id=USERS[0]), replace(tie, user_id=USERS[1], campaign_id="c_0")]
    world.graph.replace_engagements([], amiss, touched={(each.user_id, each.campaign_id) for each in amiss})
    expressed = [*world.graph.intents_of(USERS[0]), ExpressedIntent(USERS[0], "forgotten", 1, 0, "m")]
    world.graph.replace_expressed(USERS[:1], expressed)
    world.graph.replace_mentioned({USERS[0]: [Mention("c_3", 9, 0, "m")], USERS[1]: []})
    fact = Fact("strange", "d", "stranger", "c_0", "click", "email", None, 1.0, 0)
    world.pipeline.warehouse.insert_facts([fact])
    world.pipeline.warehouse.refresh_users(["stranger"])
    if asset == "intents":
        embeddings = world.pipeline.documents.embeddings
        wrong = {key: ("forgotten", 1.0) for key, _ in embeddings.scan()}
        embeddings.put_labels({**wrong, "f" * 32: ("forgotten", 1.0)}, version=embeddings.label_version() or "")
        embeddings.put_mentions({**dict.fromkeys(wrong, ("c_3",)), "f" * 32: ("c_3",)})


def put_right(asset: str) -> list[str]:
    """What of `World.contents` an asset is to hold."""
    return {
        "embeddings": ["profiles", "expressed", "mentioned"],
        "intents": ["engagements", "votes", "expressed", "mentioned", "addressed", "nodes"],
        "milvus_collection": ["profiles", "conversations", "outcomes", "campaigns"],
        "neo4j_graph": ["engagements", "votes", "mentioned", "addressed", "nodes"],
        "engagement_metrics": ["facts", "days"],
    }[asset]


@pytest.mark.parametrize("asset", REBUILDABLE)
def test_rebuilt_equals_grown_while_drops_arrive(
    asset: str, new_world: Callable[[], World], in_each_pause: Callable[[Iterator[Callable[[], Any]]], None]
) -> None:
    undisturbed = grown(new_world(), history()).contents()
    first, second, third, fourth = parts(history(), 4)
    world = grown(new_world(), first)
    arriving = iter(
        [
            lambda: (world.put(second), world.drain()),
            lambda: world.put(third),  # comes in, and is on its way when the rebuild ends
            lambda: world.drain("embeddings", "intents"),
        ]
    )
    in_each_pause(arriving)
    done = compute_anew(world, asset)
    for drop_of_a_rebuild_without_pauses in arriving:
        drop_of_a_rebuild_without_pauses()
    world.put(fourth)
    world.drain()
    world.agrees_with_the_truth()
    assert world.contents() == undisturbed
    assert done.removed == 0
    nothing_is_left_over(world)


@pytest.mark.parametrize("asset", IN_TURNS)
def test_what_was_amiss_is_put_right(asset: str, new_world: Callable[[], World]) -> None:
    world = grown(new_world(), history())
    right = world.contents()
    put_amiss(world, asset)
    done = compute_anew(world, asset)
    found = world.contents()
    assert {name: found[name] for name in put_right(asset)} == {name: right[name] for name in put_right(asset)}
    assert (done.asset, done.users, done.records > 0) == (asset, len(USERS), True)
    assert done.removed == {"intents": 5, "neo4j_graph": 3}.get(
        asset, 0
    )  # the stranger, the campaign, the intent; a label, a mention
    if asset == "intents":
        assert world.pipeline.documents.database["labels"].count_documents({"intent": "forgotten"}) == 0
    nothing_is_left_over(world)


def test_relations_in_force_are_in_the_graph_again_and_no_others(new_world: Callable[[], World]) -> None:
    world = grown(new_world(), history())
    documents, graph = world.pipeline.documents, world.graph
    fit_candidate(world.pipeline, world.pipeline.warehouse, run_id="learning")
    generation = publish_by_hand(world.pipeline, graph, None, run_id="r").generation
    right = related(world.pipeline.settings, generation)
    assert right
    graph.clear()
    graph.replace_relations({"c_0": [Relation("c_0", "c_1", 1.0, 9)]}, generation="g_of_a_truth_that_is_gone", run_id="r")
    assert [each.what for each in compare_stores(documents, world.vectors, graph, world.pipeline.warehouse) if not each.agrees] == [
        "users", "engaged pairs", "related campaigns", "mentioned campaigns",
    ]  # fmt: skip
    compute_anew(world, "neo4j_graph")
    assert related(world.pipeline.settings, generation) == right
    assert graph.count_relations("g_of_a_truth_that_is_gone") == 0
    world.agrees_with_the_truth()


@contextmanager
def asked_all_the_time(world: World, *, expected: Callable[[str, Answer], None]) -> Iterator[list[float]]:
    """Ask for everybody, again and again, by what serving would know: which collections are in use, a moment ago."""
    documents, ended, faults, asked = world.pipeline.documents, threading.Event(), [], [0]

    def ask() -> None:
        try:
            snapshot, looked, vectors = load_snapshot(documents), time.monotonic(), world.vectors
            while not ended.is_set():
                if time.monotonic() - looked > 0.3:
                    snapshot, looked, vectors = load_snapshot(documents), time.monotonic(), world.vectors
                for user in USERS:
                    recommender = Recommender(vectors, world.graph, documents)
                    expected(user, recommender.for_user(user, Query(k=4), snapshot))
                    asked[0] += 1
        except BaseException as error:
            faults.append(error)
            asked[0] = math.inf  # whoever waits for more answers is to hear of it

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield asked
    finally:
        ended.set()
        asking.join()
    assert faults == []


@pytest.mark.parametrize("asset", REBUILDABLE)
def test_answers_are_the_same_from_beginning_to_end(
    asset: str, new_world: Callable[[], World], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sinks, "READERS_LEAVE_SECONDS", 1.0)
    monkeypatch.setattr(rebuilding, "PAUSE_SECONDS", 0.05)
    world = grown(new_world(), history())
    first: dict[str, list[tuple[str, float]]] = {}
    answered: dict[str, bool] = {}

    def the_same(user: str, answer: Answer) -> None:
        offered = [(item.campaign_id, round(item.ranking_score, 6)) for item in answer.recommendations]
        assert (answer.degraded, answer.known_user) == ([], True)
        assert answered.setdefault(user, bool(offered)) == bool(offered)
        if asset != "embeddings":  # whose labels are inferred anew, text by text
            assert first.setdefault(user, offered) == offered

    with asked_all_the_time(world, expected=the_same) as asked:
        while asked[0] < len(USERS):
            time.sleep(0.01)
        before = asked[0]
        compute_anew(world, asset)
        ended = asked[0]
        while asked[0] < ended + 2 * len(USERS):
            time.sleep(0.01)
    assert ended > before
    assert sum(answered.values()) > len(USERS) / 2  # the others took or refused all there is
    nothing_is_left_over(world)


@pytest.mark.parametrize(("asset", "steps"), [("embeddings", 0), *((asset, 2) for asset in IN_TURNS)])
def test_one_that_died_is_begun_afresh(
    asset: str, steps: int, new_world: Callable[[], World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = grown(new_world(), history())
    right = world.contents()
    done = iter(range(steps))

    def dying(*arguments: Any, **options: Any) -> Any:
        if next(done, None) is None:
            raise RuntimeError("power cut")
        return compute(*arguments, **options)

    verb = {
        "embeddings": (type(world.pipeline.documents.embeddings), "agree_on"),
        "intents": (Labeller, "put_labels"),
        "milvus_collection": (sinks, "index_users"),
        "neo4j_graph": (sinks, "link_users"),
        "engagement_metrics": (sinks, "count_users"),
    }[asset]
    compute: Any = getattr(*verb)
    with monkeypatch.context() as patch:
        patch.setattr(*verb, dying)
        with pytest.raises(RuntimeError, match="power cut"):
            compute_anew(world, asset)
    world.put([{**record, "message_id": f"again {record['message_id']}"} for record in history(messages=3)])
    compute_anew(world, asset, "rebuild-2")
    world.drain()
    world.agrees_with_the_truth()
    assert world.contents()["nodes"] == right["nodes"]
    nothing_is_left_over(world)


@pytest.mark.parametrize("asset", IN_TURNS)
def test_of_two_the_later_goes_on_and_the_earlier_notices(
    asset: str, new_world: Callable[[], World], in_each_pause: Callable[[Iterator[Callable[[], Any]]], None]
) -> None:
    world = grown(new_world(), history())
    right = world.contents()
    in_each_pause(iter([lambda: compute_anew(world, asset, "rebuild-2")]))
    with pytest.raises(LeaseLost, match="another run"):
        compute_anew(world, asset)
    assert world.contents() == right
    nothing_is_left_over(world)
    statuses = {run: world.pipeline.warehouse.stages(run)[0].status for run in ("rebuild-1", "rebuild-2")}
    assert statuses == {"rebuild-1": "failed", "rebuild-2": "success"}


def test_one_that_slept_past_its_lease_swaps_nothing(new_world: Callable[[], World], monkeypatch: pytest.MonkeyPatch) -> None:
    world = grown(new_world(), history())
    in_use = world.pipeline.documents.embeddings.collections_in_use()
    compute = sinks.index_users

    def overtaken(*arguments: Any, **options: Any) -> int:
        world.pipeline.documents.database["leases"].update_one({}, {"$inc": {"token": 1}})
        return compute(*arguments, **options)

    before = world.milvus.versions()
    monkeypatch.setattr(sinks, "index_users", overtaken)
    with pytest.raises(LeaseLost):
        compute_anew(world, "milvus_collection")
    assert world.pipeline.documents.embeddings.collections_in_use() == in_use
    # what it was filling may hold who has been erased meanwhile
    assert world.pipeline.documents.embeddings.collections_named() == [in_use]
    assert world.milvus.versions() == before


def overtake(world: World, owner: type, verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let another take the lease when this method is called."""
    call = getattr(owner, verb)

    def overtaken(*arguments: Any, **options: Any) -> Any:
        world.pipeline.documents.database["leases"].update_one({}, {"$inc": {"token": 1}})
        return call(*arguments, **options)

    monkeypatch.setattr(owner, verb, overtaken)


def test_one_that_slept_before_its_end_leaves_labels_and_the_rebuild_to_who_has_taken_over(
    new_world: Callable[[], World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = grown(new_world(), history())
    put_amiss(world, "intents")
    documents = world.pipeline.documents
    overtake(world, Embeddings, "outdated_labels", monkeypatch)
    with pytest.raises(LeaseLost):
        compute_anew(world, "intents")
    assert documents.database["labels"].count_documents({"_id": "f" * 32}) == 1
    assert documents.rebuilds.run_of("intents") == "rebuild-1"


def test_a_drain_that_slept_before_its_end_neither_swaps_collections_nor_says_what_labels_are(
    new_world: Callable[[], World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = grown(new_world(), history())
    embeddings = world.pipeline.documents.embeddings
    in_use, labels = embeddings.collections_in_use(), embeddings.label_version()
    (world.pipeline.settings.catalog / "intents.json").write_text(json.dumps([{"intent": "other", "examples": ["quite other"]}]))
    load_folder(world.pipeline, run_id="r")
    world.drain("embeddings")
    with monkeypatch.context() as patch:
        overtake(world, Ledger, "reopen", patch)
        with pytest.raises(LeaseLost):
            world.drain("intents")
    assert embeddings.label_version() == labels
    world.pipeline.documents.database["leases"].delete_many({})
    rebuild("embeddings", world.pipeline, world.stores, ENCODER, run_id="r")
    world.drain("embeddings", "intents")
    with monkeypatch.context() as patch:
        overtake(world, Batch, "leaves_pending", patch)
        with pytest.raises(LeaseLost):
            world.drain("milvus_collection")
    assert embeddings.collections_in_use() == in_use != embeddings.collections_to_fill()


@pytest.mark.parametrize("asset", ["milvus_collection", "engagement_metrics"])
def test_however_many_are_touched_meanwhile_no_turn_is_long(
    asset: str,
    new_world: Callable[[], World],
    in_each_pause: Callable[[Iterator[Callable[[], Any]]], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    undisturbed = grown(new_world(), history()).contents()
    first, second, third = parts(history(), 3)
    world, turns = grown(new_world(), first), Counter[int]()
    monkeypatch.setattr(rebuilding, "FEW", 1)
    verb = {"milvus_collection": "index_users", "engagement_metrics": "count_users"}[asset]
    compute = getattr(sinks, verb)

    def counted(documents: Documents, store: Any, users: list[str]) -> int:
        holder = documents.leases.holder()
        assert holder is not None
        if holder.purpose.startswith(rebuilding.PURPOSE):
            turns[holder.token] += len(users)
        written: int = compute(documents, store, users)
        return written

    monkeypatch.setattr(sinks, verb, counted)
    nothing = [lambda: None] * (len(USERS) - 1)
    in_each_pause(
        iter([*nothing, lambda: (world.put(second), world.drain()), *nothing, lambda: (world.put(third), world.drain())])
    )
    compute_anew(world, asset)
    assert max(turns.values()) == 1 and sum(turns.values()) > 2 * len(USERS)
    world.drain()
    world.agrees_with_the_truth()
    assert world.contents() == undisturbed


def test_another_model_must_make_a_vector_before_the_old_ones_are_given_up(new_world: Callable[[], World]) -> None:
    world = grown(new_world(), history())
    right = world.contents()

    class Broken(HashingEncoder):
        def encode(self, texts: Any) -> Any:
            return super().encode(texts) * np.nan

    with pytest.raises(Exception, match="finite"):
        rebuild("embeddings", world.pipeline, world.stores, Broken(dimension=16), run_id="r")
    world.drain()
    assert world.contents() == right


def test_vectors_are_not_rebuilt_while_another_model_makes_them(new_world: Callable[[], World]) -> None:
    world = grown(new_world(), history())
    rebuild("embeddings", world.pipeline, world.stores, ENCODER, run_id="r")
    with pytest.raises(Busy, match="another model"):
        compute_anew(world, "milvus_collection")
    world.drain()
    compute_anew(world, "milvus_collection")
    world.agrees_with_the_truth()
    nothing_is_left_over(world)


def test_nobody_is_rebuilt_from_an_empty_truth(new_world: Callable[[], World]) -> None:
    world = new_world()
    for asset in IN_TURNS:
        assert compute_anew(world, asset).users == 0
    assert world.graph.count("ADDRESSES") == 0
    nothing_is_left_over(world)


def test_cached_answers_go_when_it_is_done(new_world: Callable[[], World]) -> None:
    world = grown(new_world(), history())
    _, version = Kept(world.pipeline.settings.addresses.redis).read(USERS[0], "s", "q")
    compute_anew(world, "neo4j_graph")
    assert not Kept(world.pipeline.settings.addresses.redis).write(USERS[0], "s", "q", b"stale", version=version, ttl=60)
