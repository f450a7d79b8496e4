"""What looking up many answers at once is promised to do, above all that one of many who find none is told to compute it."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TypeVar

import pytest
import redis

from persona.errors import StoreRefused, StoreUnavailable
from persona.settings import Settings
from persona.stores.cache import Cache
from persona.stores.kept_answers import COMPUTING_SECONDS, Counted, Found, KeptAnswers, Question, epoch_of, open_kept_answers
from tests.kept_answers import Kept
from tests.stores.conftest import NAUGHTY_IDS

R = TypeVar("R")


@pytest.fixture
def url(cache: Cache, stack_settings: Settings) -> str:
    """Of an empty cache."""
    return stack_settings.addresses.redis


def asked(url: str, work: Callable[[KeptAnswers], Awaitable[R]]) -> R:
    """What `work` returns of a reader."""

    async def ask() -> R:
        async with open_kept_answers(url) as reader:
            return await work(reader)

    return asyncio.run(ask())


@asynccontextmanager
async def two(url: str) -> AsyncIterator[tuple[KeptAnswers, KeptAnswers]]:
    async with open_kept_answers(url) as one, open_kept_answers(url) as other:
        yield one, other


async def turn(reader: KeptAnswers, user: str, field: str = "q") -> bool:
    [found] = await reader.look_up([Question(user, "g", field)])
    return found.turn


def test_each_question_of_a_batch_has_its_own_answer(cache: Cache, kept: Kept, url: str) -> None:
    for user in NAUGHTY_IDS:
        _, version = kept.read(user, "g", "q")
        assert kept.write(user, "g", "q", b"\x00" + user.encode(), version=version, ttl=60)
    questions = [Question(user, scope, "q") for user in NAUGHTY_IDS for scope in ("g", "h")]
    found = asked(url, lambda reader: reader.look_up(questions))
    assert [one.answer for one in found] == [answer for user in NAUGHTY_IDS for answer in (b"\x00" + user.encode(), None)]
    assert [one.version for one in found] == [kept.read(user, "g", "q")[1] for user in NAUGHTY_IDS for _ in range(2)]
    assert len({epoch_of(one.version) for one in found}) == 1
    assert asked(url, lambda reader: reader.look_up([])) == []


def test_a_version_that_was_found_is_one_to_write_under_until_an_eviction(cache: Cache, kept: Kept, url: str) -> None:
    [found] = asked(url, lambda reader: reader.look_up([Question("u", "g", "q")]))
    assert kept.write("u", "g", "q", b"answer", version=found.version, ttl=60)
    cache.evict(["u"])
    assert not kept.write("u", "g", "q", b"stale", version=found.version, ttl=60)


def test_one_of_many_who_find_nothing_has_the_turn_and_keeps_it_when_it_asks_again(url: str) -> None:
    async def ask() -> list[bool]:
        async with two(url) as (one, other):
            return [
                await turn(one, "u"), await turn(other, "u"), await turn(one, "u"), await turn(other, "v"),
                await turn(other, "u", "another question"),
            ]  # fmt: skip

    assert asyncio.run(ask()) == [True, False, True, True, True]


@pytest.mark.parametrize("ends", ["kept", "passed", "evicted", "cleared"])
def test_a_turn_ends_with_the_answer_or_with_what_makes_it_worthless(cache: Cache, kept: Kept, url: str, ends: str) -> None:
    async def ask() -> tuple[bool, Found]:
        async with two(url) as (one, other):
            [mine] = await one.look_up([Question("u", "g", "q")])
            waits = not await turn(other, "u")
            match ends:
                case "kept":
                    await one.keep(Question("u", "g", "q"), b"answer", version=mine.version, ttl=60)
                case "passed":
                    await one.pass_turn(Question("u", "g", "q"))
                case "evicted":
                    cache.evict(["u"])
                case "cleared":
                    cache.clear()
            [found] = await other.look_up([Question("u", "g", "q")])
            return waits, found

    waits, found = asyncio.run(ask())
    assert waits
    assert (found.answer, found.turn) == ((b"answer", False) if ends == "kept" else (None, True))


def test_a_turn_is_not_waited_for_for_ever(url: str) -> None:
    async def ask() -> list[bool]:
        async with two(url) as (one, other):
            turns = [await turn(one, "u")]
            await asyncio.sleep(COMPUTING_SECONDS + 0.1)
            return [*turns, await turn(other, "u")]

    assert asyncio.run(ask()) == [True, True]


def test_who_finds_no_answer_hears_whether_something_came_in(cache: Cache, kept: Kept, url: str) -> None:
    def live(*users: str) -> list[bool]:
        return [found.live for found in asked(url, lambda reader: reader.look_up([Question(user, "g", "q") for user in users]))]

    record = {"_id": "m", "user_id": "u", "timestamp": datetime(2026, 1, 1, tzinfo=UTC), "event": "click", "channel": "web"}
    cache.live.put([record], drop="d")
    assert live("u", "v") == [True, False]
    _, version = kept.read("u", "g", "q")
    assert kept.write("u", "g", "q", b"answer", version=version, ttl=60)
    assert live("u") == [False]
    cache.live.applied(["d"])
    assert live("u", "v") == [False, False]


def test_what_a_question_counts_is_counted_with_it_and_forgotten_in_time(url: str, stack_settings: Settings) -> None:
    bucket = Counted(f"test:{time.monotonic()}", 100)
    questions = [Question("u", "g", "q", bucket), Question("v", "g", "q"), Question("v", "g", "q", bucket)]

    async def ask(reader: KeptAnswers) -> list[Found]:
        return [*await reader.look_up(questions), *await reader.look_up(questions[:1])]

    assert [found.counted for found in asked(url, ask)] == [1, 0, 2, 3]
    with redis.Redis.from_url(stack_settings.addresses.redis) as client:
        [key] = client.scan_iter(f"*{bucket.bucket}*")
        assert 0 < client.ttl(key) <= 100
        client.unlink(key)


def test_a_connection_that_the_server_closed_is_opened_again(url: str) -> None:
    async def ask(reader: KeptAnswers) -> int:
        await reader.look_up([Question("u", "g", "q")])
        with redis.Redis.from_url(url) as client:
            client.client_kill_filter(_type="normal", skipme=True)
            client.script_flush()
        return len(await reader.look_up([Question("u", "g", "q")]))

    assert asked(url, ask) == 1


def test_a_server_that_is_down_or_refuses_is_told(url: str, closed_port: int) -> None:
    with pytest.raises(StoreUnavailable):
        asked(f"redis://127.0.0.1:{closed_port}", lambda reader: reader.look_up([Question("u", "g", "q")]))
    with pytest.raises(StoreRefused):
        asked(
            f"redis://nobody:knows@{url.removeprefix('redis://').rpartition('@')[2]}",
            lambda reader: reader.look_up([Question("u", "g", "q")]),
        )
