"""What Milvus is promised to do for us, on the server that the settings name."""

import hashlib
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from persona.errors import EmbeddingMismatch, StoreUnavailable
from persona.schemas import Conversation, UserProfile, Vectors
from persona.settings import Settings
from persona.stores.vectors import EXACT_UP_TO, VectorStore, open_vectors
from tests.stores.conftest import DIMENSION, NAUGHTY_IDS

PAST_ONE_QUERY = 17_000  # a Milvus query stops silently at 16,383 rows


def directions(n: int, seed: int = 0) -> Vectors:
    drawn = np.random.default_rng(seed).standard_normal((n, DIMENSION)).astype(np.float32)
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    return drawn


def profiles(user_ids: list[str], seed: int = 0) -> list[UserProfile]:
    return [UserProfile(user, vector, 3, 1_000) for user, vector in zip(user_ids, directions(len(user_ids), seed), strict=True)]


def hex_id(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def conversations(owners: list[str], seed: int = 0) -> list[Conversation]:
    return [
        Conversation(hex_id(f"{owner}/{n}"), owner, vector, 2, 1_000 + n, 2_000 + n, {f"c_{n}": 0.5, 'it\'s "1"': -0.25})
        for n, (owner, vector) in enumerate(zip(owners, directions(len(owners), seed), strict=True))
    ]


def test_writing_twice_is_writing_once(vectors: VectorStore) -> None:
    people, talks = profiles([f"u_{n}" for n in range(50)]), conversations([f"u_{n % 5}" for n in range(50)])
    for _ in range(2):
        assert vectors.upsert_users(people) == 50
        assert vectors.upsert_conversations(talks) == 50
        assert vectors.upsert_campaigns({"c_1": people[0].vector}) == 1
    assert [vectors.count(name) for name in ("users", "conversations", "campaigns")] == [50, 50, 1]


def test_the_last_of_two_profiles_in_one_call_wins(vectors: VectorStore) -> None:
    first, last = profiles(["same", "other"])
    assert vectors.upsert_users([first, UserProfile("same", last.vector, 9, 9)]) == 1
    vectors.await_visible()
    stored = vectors.user_vector("same")
    assert stored is not None and np.allclose(stored, last.vector)
    assert vectors.count("users") == 1


def test_any_id_comes_back_unchanged_and_meets_only_itself(vectors: VectorStore) -> None:
    people = profiles(NAUGHTY_IDS)
    vectors.upsert_users(people)
    vectors.await_visible()
    assert vectors.present_users([*NAUGHTY_IDS, "nobody"]) == set(NAUGHTY_IDS)
    for person in people:
        assert vectors.similar_users(person.vector, limit=1)[0][0] == person.user_id
        others = [user for user, _ in vectors.similar_users(person.vector, limit=100, exclude=person.user_id)]
        assert sorted(others) == sorted(set(NAUGHTY_IDS) - {person.user_id})
    vectors.upsert_campaigns({person.user_id: person.vector for person in people})
    assert vectors.count("campaigns") == len(NAUGHTY_IDS)
    vectors.delete_users(NAUGHTY_IDS[:3])
    assert vectors.present_users(NAUGHTY_IDS) == set(NAUGHTY_IDS[3:])
    vectors.delete_campaigns(NAUGHTY_IDS)
    assert vectors.count("campaigns") == 0


def test_similarity_is_the_cosine(vectors: VectorStore) -> None:
    people = profiles([f"u_{n}" for n in range(500)])
    vectors.upsert_users(people)
    vectors.await_visible()
    query = directions(1, seed=7)[0]
    cosines = {person.user_id: float(person.vector @ query) for person in people}
    nearest = sorted(cosines, key=cosines.__getitem__, reverse=True)[:20]
    found = vectors.similar_users(query, limit=20)
    assert [user for user, _ in found] == nearest
    assert [score for _, score in found] == pytest.approx([cosines[user] for user in nearest], abs=1e-5)


def test_similar_conversations_are_other_peoples_and_say_what_they_led_to(vectors: VectorStore) -> None:
    talks = conversations(["me"] * 10 + ["you"] * 10)
    vectors.upsert_conversations(talks)
    vectors.await_visible()
    found = vectors.similar_conversations(talks[12].vector, limit=100, exclude_user="me")
    assert len(found) == 10
    assert found[0].similarity == pytest.approx(1, abs=1e-5)
    assert found[0].outcomes == talks[12].outcomes
    ends = {row["id"]: row["ended_at_ms"] for row in vectors.everything_of("you")["conversations"]}
    assert ends[talks[12].conversation_id] == talks[12].ended_at_ms
    assert len(vectors.similar_conversations(talks[12].vector, limit=100)) == 20


@pytest.mark.parametrize("own", [1, 19, 20, 21, 60])
def test_however_many_conversations_somebody_has_the_nearest_of_others_are_found(vectors: VectorStore, own: int) -> None:
    talks = conversations(["me"] * own + ["you"] * 30)
    mine, theirs = talks[:own], talks[own:]
    near = directions(1)[0]
    vectors.upsert_conversations([replace(talk, vector=near, outcomes={"mine": 1.0}) for talk in mine] + theirs)
    cosines = sorted((float(talk.vector @ near) for talk in theirs), reverse=True)
    vectors.await_visible()
    found = vectors.similar_conversations(near, limit=10, exclude_user="me")
    assert [one.similarity for one in found] == pytest.approx(cosines[:10], abs=1e-5)
    assert not any("mine" in one.outcomes for one in found)
    assert len(vectors.similar_conversations(near, limit=100, exclude_user="me")) == 30


def test_warming_needs_neither_rows_nor_collections(vectors: VectorStore) -> None:
    vectors.warm()
    vectors.upsert_users(profiles(["u"]))
    vectors.warm()
    vectors.at("nowhere").warm()
    assert vectors.at("nowhere").user_vector("u") is None


def test_conversations_that_vanished_can_be_found_and_removed(vectors: VectorStore) -> None:
    talks = conversations(["a", "b", *NAUGHTY_IDS])
    vectors.upsert_conversations(talks)
    assert vectors.conversation_ids_of(["a", "nobody"]) == {talks[0].conversation_id}
    assert vectors.conversation_ids_of(NAUGHTY_IDS) == {talk.conversation_id for talk in talks[2:]}
    vectors.delete_conversations([talks[0].conversation_id, hex_id("never there")])
    assert vectors.conversation_ids_of(["a"]) == set()
    assert vectors.count("conversations") == len(talks) - 1


def test_a_conversation_id_that_is_not_hex_never_reaches_a_filter(vectors: VectorStore) -> None:
    with pytest.raises(ValueError, match="hex"):
        vectors.delete_conversations(['"] or id != "'])


def test_a_conversation_about_thousands_of_campaigns_keeps_the_strongest(vectors: VectorStore) -> None:
    outcomes = {f"{'campaign ' * 20}{n}": n / 5_000 for n in range(5_000)}
    vectors.upsert_conversations([Conversation(hex_id("long"), "u", directions(1)[0], 1, 0, 0, outcomes)])
    vectors.await_visible()
    kept = vectors.similar_conversations(directions(1)[0], limit=1)[0].outcomes
    strongest = sorted(outcomes, key=outcomes.__getitem__, reverse=True)[: len(kept)]
    assert 100 < len(kept) < 5_000 and set(kept) == set(strongest)


def test_nothing_is_lost_past_one_query(vectors: VectorStore) -> None:
    owners = ["one person"] * PAST_ONE_QUERY
    talks = conversations(owners)
    assert vectors.upsert_conversations(talks) == PAST_ONE_QUERY
    every = {talk.conversation_id for talk in talks}
    assert vectors.count("conversations") == PAST_ONE_QUERY
    assert vectors.conversation_ids_of(["one person"]) == every
    vectors.await_visible()
    assert len(vectors.similar_conversations(talks[0].vector, limit=16_384)) == 16_384
    vectors.delete_conversations(every)
    assert vectors.count("conversations") == 0


def test_an_unknown_person_has_no_vector_and_an_empty_store_no_neighbours(vectors: VectorStore) -> None:
    assert vectors.user_vector("nobody") is None
    assert vectors.similar_users(directions(1)[0], limit=5, exclude="nobody") == []
    assert vectors.conversation_ids_of([]) == set()
    assert vectors.upsert_users([]) == 0


def test_versions_stand_side_by_side_and_another_dimension_is_refused(stack_settings: Settings) -> None:
    address, version = stack_settings.addresses, f"t{uuid.uuid4().hex[:12]}"
    with open_vectors(address.milvus, token=address.milvus_token, version=version) as old:
        new = old.at(f"{version}_next")
        assert old.count("users") == 0
        assert old.user_vector("u") is None
        old.prepare(DIMENSION)
        new.prepare(8)
        old.upsert_users(profiles(["u"]))
        assert (old.count("users"), new.count("users")) == (1, 0)
        new.drop()
        old.ping()
        with pytest.raises(EmbeddingMismatch):
            old.prepare(8)
        old.drop()


def test_preparing_at_once_from_many_places_makes_the_collections_once(stack_settings: Settings) -> None:
    address, version = stack_settings.addresses, f"t{uuid.uuid4().hex[:12]}"
    opened = partial(open_vectors, address.milvus, token=address.milvus_token, version=version)

    def count(_: int) -> int:
        with opened() as store:
            store.prepare(DIMENSION)
            return store.count("users")

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(count, range(4))) == [0] * 4
    with opened() as store:
        store.drop()


@pytest.mark.parametrize(("rows", "types"), [(0, {"FLAT"}), (EXACT_UP_TO, {"FLAT"}), (EXACT_UP_TO + 1, {"HNSW", "AUTOINDEX"})])
def test_collections_get_the_index_that_fits_their_size(stack_settings: Settings, rows: int, types: set[str]) -> None:
    address, version = stack_settings.addresses, f"t{uuid.uuid4().hex[:12]}"
    with open_vectors(address.milvus, token=address.milvus_token, version=version) as store:
        assert store.index() is None
        store.prepare(DIMENSION, rows=rows)
        try:
            assert store.index() in types
            people = profiles([f"u_{n}" for n in range(3_000)])
            store.upsert_users(people)
            store.await_visible()
            found = [store.similar_users(person.vector, limit=100) for person in people[:20]]
            assert [(len(near), near[0][0]) for near in found] == [(100, person.user_id) for person in people[:20]]
        finally:
            store.drop()


def test_a_server_that_is_down_or_mute_is_told_in_time(closed_port: int, mute_port: int) -> None:
    for port in (closed_port, mute_port):
        began = time.monotonic()
        with (
            pytest.raises(StoreUnavailable),
            open_vectors(f"http://127.0.0.1:{port}", version="v", timeout_seconds=1),
        ):
            pass
        assert time.monotonic() - began < 4
