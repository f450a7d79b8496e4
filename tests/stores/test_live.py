"""What Redis is promised to do with what came in: count at once, go when it is applied, leave nothing of the erased."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from persona.stores.cache import Cache
from persona.stores.live import Learned, LearnedOpening, LearnedText
from tests.kept_answers import Kept
from tests.stores.conftest import NAUGHTY_IDS

AT = datetime(2026, 1, 1, 12, 0, 0, 250_000, tzinfo=UTC)
LEARNED = Learned(
    {"h": LearnedText("m@1/3", "buy", np.array([1, 0, 0], np.float32)), "i": LearnedText("m@1/3", None, np.ones(3, np.float32))},
    {"k": LearnedOpening("m@1/3", "said", np.array([0, 1, 0], np.float32))},
)


@pytest.fixture(autouse=True)
def empty(cache: Cache) -> Iterator[None]:
    cache.live.clear()
    yield
    cache.live.clear()


def record(user: str, number: int, **fields: Any) -> dict[str, Any]:
    return {"_id": f"m_{number}", "user_id": user, "timestamp": AT + timedelta(seconds=number), "event": "click", **fields}


def ids(cache: Cache, user: str) -> list[str]:
    return sorted(found["_id"] for found in cache.live.of(user).records)


def test_what_is_put_is_read_by_its_person_and_drops_their_answers(cache: Cache, kept: Kept) -> None:
    for user in ("u", "v"):
        _, version = kept.read(user, "g", "q")
        kept.write(user, "g", "q", b"old", version=version, ttl=60)
    _, before = kept.read("u", "g", "q")
    cache.live.put([record("u", 1, message="ä", value=0.5)], drop="d")
    [found] = cache.live.of("u").records
    assert found == {**record("u", 1, message="ä", value=0.5), "drop": "d"}
    assert kept.read("u", "g", "q")[0] is None and kept.read("v", "g", "q")[0] == b"old"
    assert not kept.write("u", "g", "q", b"stale", version=before, ttl=60)
    assert cache.live.of("v").records == ()


def test_any_id_has_records_of_its_own(cache: Cache) -> None:
    cache.live.put([{**record(user, 1), "_id": user} for user in NAUGHTY_IDS], drop="d")
    assert [ids(cache, user) for user in NAUGHTY_IDS] == [[user] for user in NAUGHTY_IDS]


def test_a_drop_that_is_applied_takes_its_records_and_no_others(cache: Cache) -> None:
    cache.live.put([record("u", 1), record("v", 2)], drop="d")
    cache.live.put([record("u", 3)], drop="e")
    cache.live.applied(["d", "unknown"])
    assert (ids(cache, "u"), ids(cache, "v")) == (["m_3"], [])
    cache.live.applied(["d", "e"])
    assert not cache.live.has("u")


def test_the_first_of_an_id_counts_and_goes_with_its_drop(cache: Cache) -> None:
    for drop, event in (("d", "click"), ("e", "dismiss")):
        cache.live.put([record("u", 1, event=event)], drop=drop)
    assert [found["event"] for found in cache.live.of("u").records] == ["click"]
    cache.live.applied(["e"])
    assert ids(cache, "u") == ["m_1"]
    cache.live.applied(["d"])
    assert ids(cache, "u") == []


def test_what_is_learned_comes_back_and_goes_with_the_records(cache: Cache, kept: Kept) -> None:
    assert not cache.live.learn("u", LEARNED), "nobody has come in"
    cache.live.put([record("u", 1)], drop="d")
    _, before = kept.read("u", "g", "q")
    assert cache.live.learn("u", LEARNED)
    assert not kept.write("u", "g", "q", b"without it", version=before, ttl=60)
    found = cache.live.of("u").learned
    assert {key: (text.model, text.intent, text.vector.tolist()) for key, text in found.texts.items()} == {
        key: (text.model, text.intent, text.vector.tolist()) for key, text in LEARNED.texts.items()
    }
    assert found.openings["k"].said == "said" and found.openings["k"].vector.tolist() == [0, 1, 0]
    cache.live.applied(["d"])
    assert not cache.live.has("u") and not cache.keeps("u")


def test_nothing_is_left_of_who_is_forgotten(cache: Cache) -> None:
    cache.live.put([record("u", 1), record("v", 2)], drop="d")
    cache.live.learn("u", LEARNED)
    assert cache.keeps("u")
    cache.forget("u")
    assert not cache.keeps("u") and not cache.live.learn("u", LEARNED)
    assert ids(cache, "v") == ["m_2"]
    cache.live.applied(["d"])
    assert not cache.live.has("v")


def test_a_server_that_lost_everything_is_not_whole(cache: Cache) -> None:
    cache.live.set_whole()
    assert cache.live.is_whole()
    cache.live.clear()
    assert not cache.live.is_whole()
