"""What every store is promised to know, give out and forget of one person, and of that person alone, whatever their id is made of."""

from dataclasses import replace

import pytest

from persona.errors import LeaseLost
from persona.schemas import ExpressedIntent, Mention
from persona.stores.cache import Cache
from persona.stores.graph import Graph
from persona.stores.vectors import VectorStore
from persona.stores.warehouse import Warehouse
from tests.kept_answers import Kept
from tests.stores.conftest import NAUGHTY_IDS
from tests.stores.test_graph import NOW, engagement
from tests.stores.test_vectors import conversations, profiles
from tests.stores.test_warehouse import buckets_of, fact

SOME = [*NAUGHTY_IDS[:6], "u_1", "u_10", "U_1"]


def test_the_warehouse_counts_the_days_anew(warehouse: Warehouse) -> None:
    facts = [replace(fact(n, user=SOME[n % len(SOME)]), value=n / 10) for n in range(900)]
    warehouse.insert_facts(facts)
    warehouse.refresh_users(SOME)
    for person in (SOME[0], "u_1"):
        theirs = [one for one in facts if one.user_id == person]
        everything = warehouse.everything_of(person)
        assert [row["message_id"] for row in everything["engagements"]] == [
            one.message_id for one in sorted(theirs, key=lambda one: (one.at_ms, one.message_id))
        ]
        assert everything["user_engagement"][0]["events"] == len(theirs) == warehouse.count_of(person) - 1
        warehouse.remove_user(person)
        warehouse.remove_user(person)
        assert warehouse.count_of(person) == 0
        facts = [one for one in facts if one.user_id != person]
    assert warehouse.fact_count() == len(facts) and warehouse.count_of("u_10") == 101
    for bucket, expected in zip(warehouse.day_buckets(), buckets_of(facts), strict=True):
        assert replace(bucket, value=0) == replace(expected, value=0) and bucket.value == pytest.approx(expected.value)
    warehouse.remove_user("nobody")
    warehouse.fenced(8).remove_user("nobody")
    with pytest.raises(LeaseLost):
        warehouse.fenced(7).remove_user("u_10")


def test_the_graph_forgets_a_person_and_what_ties_them(graph: Graph) -> None:
    graph.upsert_engagements([engagement(person, f"c_{n}") for person in SOME for n in range(3)])
    graph.replace_expressed(SOME, [ExpressedIntent(person, "cancel", 1, NOW, "m") for person in SOME])
    graph.replace_mentioned({person: [Mention("c_1", 1, NOW, "m")] for person in SOME})
    for left, person in enumerate(SOME[:3], 1):
        assert graph.count_of(person) == 6
        graph.remove_user(person)
        graph.remove_user(person)
        assert graph.count_of(person) == 0 and graph.mentions_of(person) == []
        assert graph.count("User") == len(SOME) - left and graph.count("ENGAGED") == 3 * (len(SOME) - left)
    assert (graph.count("Campaign"), graph.count("Intent")) == (3, 1)


def test_milvus_forgets_profile_and_conversations(vectors: VectorStore) -> None:
    vectors.upsert_users(profiles(SOME))
    vectors.upsert_conversations(conversations(SOME * 3))
    for left, person in enumerate(SOME[:3], 1):
        everything = vectors.everything_of(person)
        assert [row["user_id"] for row in everything["users"]] == [person] and len(everything["users"][0]["vector"]) > 8
        assert {row["user_id"] for row in everything["conversations"]} == {person} and vectors.count_of(person) == 4
        vectors.remove_user(person)
        vectors.remove_user(person)
        assert vectors.count_of(person) == 0
        assert (vectors.count("users"), vectors.count("conversations")) == (len(SOME) - left, 3 * (len(SOME) - left))
    assert vectors.at("v404").count_of("u_1") == 0


def test_the_cache_forgets_the_person_and_keeps_out_what_is_being_computed(cache: Cache, kept: Kept) -> None:
    for person in SOME:
        kept.put(person, "g", "q", b"answer")
    _, version = kept.read("u_1", "g", "late")
    assert cache.keeps("u_1") and not cache.keeps("nobody")
    cache.forget("u_1")
    assert not any(cache.keeps(person) for person in SOME), "others' answers count them in"
    assert not kept.write("u_1", "g", "late", b"answer", version=version, ttl=60)
    assert not cache.keeps("u_1")
