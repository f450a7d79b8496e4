"""What the cache is promised to do, above all never to serve what an eviction has made wrong."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from persona.errors import StoreRefused, StoreUnavailable
from persona.settings import Settings
from persona.stores.cache import Cache, open_cache
from persona.stores.kept_answers import epoch_of
from tests.kept_answers import Kept
from tests.stores.conftest import NAUGHTY_IDS


def test_what_is_written_is_read_by_its_user_scope_and_field_alone(cache: Cache, kept: Kept) -> None:
    for _ in range(2):
        assert kept.put("u", "g1:7", "k=5", b"\x00bytes\xff")
    assert kept.read("u", "g1:7", "k=5")[0] == b"\x00bytes\xff"
    assert kept.read("u", "g1:7", "k=6")[0] is None
    assert kept.read("u", "g2:7", "k=5")[0] is None
    assert kept.read("v", "g1:7", "k=5")[0] is None


def test_any_id_has_answers_of_its_own(cache: Cache, kept: Kept) -> None:
    for user in NAUGHTY_IDS:
        assert kept.put(user, "g", "q", user.encode())
    assert [kept.read(user, "g", "q")[0] for user in NAUGHTY_IDS] == [user.encode() for user in NAUGHTY_IDS]


def test_an_eviction_removes_a_persons_answers_and_no_others(cache: Cache, kept: Kept) -> None:
    for user in ("u", "v"):
        for scope in ("g1", "g2"):
            kept.put(user, scope, "q", b"answer")
    cache.evict(["u", "nobody", *NAUGHTY_IDS])
    assert [kept.read("u", scope, "q")[0] for scope in ("g1", "g2")] == [None, None]
    assert [kept.read("v", scope, "q")[0] for scope in ("g1", "g2")] == [b"answer", b"answer"]
    assert kept.put("u", "g1", "q", b"new")
    cache.evict([])


@pytest.mark.parametrize("evicted_before", [0, 1, 3])
def test_an_answer_computed_before_an_eviction_is_not_kept_after_it(cache: Cache, kept: Kept, evicted_before: int) -> None:
    for _ in range(evicted_before):
        cache.evict(["u"])
    _, version = kept.read("u", "g", "q")
    cache.evict(["u"])
    assert not kept.write("u", "g", "q", b"stale", version=version, ttl=60)
    assert kept.read("u", "g", "q")[0] is None


def test_an_answer_computed_before_a_clear_is_not_kept_after_it(cache: Cache, kept: Kept) -> None:
    kept.put("v", "g", "q", b"old")
    _, version = kept.read("u", "g", "q")
    cache.clear()
    assert kept.read("v", "g", "q")[0] is None
    assert not kept.write("u", "g", "q", b"stale", version=version, ttl=60)


def test_a_server_that_lost_its_memory_takes_no_answer_computed_before(
    cache: Cache, kept: Kept, stack_settings: Settings
) -> None:
    _, version = kept.read("u", "g", "q")
    cache.evict(["u"])
    with redis.Redis.from_url(stack_settings.addresses.redis) as client:
        client.flushdb()
    assert not kept.write("u", "g", "q", b"stale", version=version, ttl=60)
    assert kept.put("u", "g", "q", b"fresh")


def test_under_many_writers_nothing_older_than_the_last_eviction_is_left(cache: Cache, kept: Kept) -> None:
    truth = {"now": 0}

    def serve() -> None:
        for _ in range(100):
            _, version = kept.read("u", "g", "q")
            kept.write("u", "g", "q", str(truth["now"]).encode(), version=version, ttl=60)

    with ThreadPoolExecutor(4) as pool:
        serving = [pool.submit(serve) for _ in range(4)]
        while not all(served.done() for served in serving):
            truth["now"] += 1
            cache.evict(["u"])
            answer, _ = kept.read("u", "g", "q")
            assert answer is None or int(answer) >= truth["now"]


def test_no_answer_outlives_its_own_time(cache: Cache, kept: Kept) -> None:
    assert kept.put("u", "g", "short", b"1", ttl=0.2)
    assert kept.put("u", "g", "long", b"2", ttl=60)
    assert kept.read("u", "g", "short")[0] == b"1"
    time.sleep(0.3)
    assert kept.read("u", "g", "short")[0] is None
    assert kept.put("u", "g", "long", b"2", ttl=60)
    assert kept.put("u", "g", "short", b"1", ttl=0.2)
    time.sleep(0.3)
    assert kept.read("u", "g", "short")[0] is None
    assert not kept.put("u", "g", "no time at all", b"3", ttl=0)


def test_thousands_are_evicted_at_once(cache: Cache, kept: Kept) -> None:
    users = [f"u_{n}" for n in range(5_000)]
    kept.put(users[-1], "g", "q", b"answer")
    cache.evict(users)
    assert kept.read(users[-1], "g", "q")[0] is None


def test_no_persons_id_stands_in_a_key(cache: Cache, kept: Kept, stack_settings: Settings) -> None:
    kept.put("ada@example.org", "g", "q", b"answer")
    cache.evict(["ada@example.org"])
    kept.put("ada@example.org", "g", "q", b"answer")
    with redis.Redis.from_url(stack_settings.addresses.redis) as client:
        assert not [key for key in client.scan_iter() if b"ada@" in key]


def test_a_server_that_is_down_or_mute_is_told_in_time(closed_port: int, mute_port: int) -> None:
    for port in (closed_port, mute_port):
        began = time.monotonic()
        with pytest.raises(StoreUnavailable), open_cache(f"redis://127.0.0.1:{port}", timeout_seconds=0.5):
            pass
        assert time.monotonic() - began < 2


def test_a_server_without_memory_left_is_a_refusal_with_a_hint(cache: Cache, stack_settings: Settings) -> None:
    with redis.Redis.from_url(stack_settings.addresses.redis) as client:
        before = client.config_get("maxmemory*")
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", 1)
        try:
            with pytest.raises(StoreRefused) as refused:
                cache.evict(["u"])
        finally:
            client.config_set("maxmemory", before["maxmemory"])
            client.config_set("maxmemory-policy", before["maxmemory-policy"])
    assert refused.value.hint


def test_an_announcement_moves_the_epoch_that_everyone_reads_and_keeps_what_is_kept(cache: Cache, kept: Kept) -> None:
    kept.put("u", "g", "q", b"answer")
    before = {epoch_of(kept.read(user, "g", "q")[1]) for user in ("u", "v")}
    _, computing = kept.read("v", "g", "q")
    cache.announce()
    after = {epoch_of(kept.read(user, "g", "q")[1]) for user in ("u", "v")}
    assert len(before) == len(after) == 1 and before != after
    assert kept.read("u", "g", "q")[0] == b"answer"
    assert not kept.write("v", "g", "q", b"stale", version=computing, ttl=60)
    cache.evict(["u"])
    assert {epoch_of(kept.read("u", "g", "q")[1])} == after


def test_a_counter_counts_for_everyone_until_its_end(cache: Cache, stack_settings: Settings) -> None:
    with open_cache(stack_settings.addresses.redis) as another:
        assert [cache.count("shop:1", 1), another.count("shop:1", 1), cache.count("shop:2", 60)] == [1, 2, 1]
    time.sleep(1.1)
    assert cache.count("shop:1", 1) == 1
    with redis.Redis.from_url(stack_settings.addresses.redis) as client:
        assert all(client.ttl(key) >= 0 for key in client.scan_iter("persona:count:*")), "one that nothing ends"
