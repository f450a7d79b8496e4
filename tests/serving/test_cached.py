"""What the cached path is promised: one round trip for many, one computation for many, never another answer than the long way's."""

import asyncio
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi.testclient import TestClient

from persona.errors import StoreUnavailable
from serving.app import create_app
from serving.batches import Batches
from serving.flights import Flights
from serving.routes.cached import wanted_in
from tests.serving.conftest import SETTINGS, Fakes

# -- batches and flights ----------------------------------------------------------------------------------------------


class Store:
    """Answers a batch when it is let, and keeps what it was asked."""

    def __init__(self) -> None:
        self.batches = list[list[int]]()
        self.answers = asyncio.Event()
        self.fault: StoreUnavailable | None = None

    async def ask_all(self, questions: Sequence[int]) -> list[int]:
        self.batches.append(list(questions))
        await self.answers.wait()
        if self.fault:
            raise self.fault
        return [-question for question in questions]

    async def asked(self, *, batches: int) -> None:
        """Return when it has been asked so many."""
        while len(self.batches) < batches:
            await asyncio.sleep(0)


def test_questions_of_one_moment_and_those_that_come_meanwhile_are_a_batch_each() -> None:
    async def ask() -> tuple[list[int], list[list[int]]]:
        store = Store()
        asking = Batches(store.ask_all)
        first = [asyncio.create_task(asking.ask(number)) for number in range(3)]
        await store.asked(batches=1)
        meanwhile = [asyncio.create_task(asking.ask(number)) for number in range(3, 7)]
        await asyncio.sleep(0)
        store.answers.set()
        return [*await asyncio.gather(*first, *meanwhile), await asking.ask(7)], store.batches

    answers, batches = asyncio.run(ask())
    assert answers == [0, -1, -2, -3, -4, -5, -6, -7]
    assert batches == [[0, 1, 2], [3, 4, 5, 6], [7]]


def test_who_waits_behind_a_batch_that_fails_does_not_wait_for_another_and_the_next_is_asked_again() -> None:
    async def ask() -> tuple[list[object], int, list[list[int]]]:
        store = Store()
        store.fault = StoreUnavailable("redis", "down")
        asking = Batches(store.ask_all)
        first = asyncio.create_task(asking.ask(0))
        await store.asked(batches=1)
        behind = [asyncio.create_task(asking.ask(number)) for number in (1, 2)]
        await asyncio.sleep(0)
        store.answers.set()
        failed = await asyncio.gather(first, *behind, return_exceptions=True)
        store.fault = None
        return list(failed), await asking.ask(3), store.batches

    failed, answered, batches = asyncio.run(ask())
    assert all(isinstance(error, StoreUnavailable) for error in failed)
    assert (answered, batches) == (-3, [[0], [3]])


def test_one_who_leaves_costs_the_others_of_the_batch_nothing() -> None:
    async def ask() -> int:
        store = Store()
        asking = Batches(store.ask_all)
        leaving, staying = asyncio.create_task(asking.ask(1)), asyncio.create_task(asking.ask(2))
        await store.asked(batches=1)
        leaving.cancel()
        await asyncio.sleep(0)
        store.answers.set()
        return await staying

    assert asyncio.run(ask()) == -2


def test_work_for_the_same_is_done_once_and_goes_on_when_its_first_caller_leaves() -> None:
    begun = list[str]()

    async def ask() -> list[str]:
        go_on = asyncio.Event()

        async def work() -> str:
            begun.append("work")
            await go_on.wait()
            return "done"

        flights = Flights[str]()
        leaving, *staying = [asyncio.create_task(flights.join("key", work)) for _ in range(5)]
        while not begun:
            await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.sleep(0)
        go_on.set()
        found = await asyncio.gather(*staying)
        return [*found, await flights.join("key", work)]

    assert asyncio.run(ask()) == ["done"] * 5
    assert begun == ["work"] * 2


# -- the short way and the long way -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    [
        "",
        "k=3",
        "top=3",
        "top_k=3&k=2",
        "k=2&k=3",
        "explain=false",
        "channel=EMAIL",
        "channel=%20email",
        "what=ever",
        "k=3&explain=0",
    ],
)
def test_the_short_way_answers_what_the_long_way_answers(client: TestClient, query: str) -> None:
    assert wanted_in(query.encode()) is not None
    short = client.get(f"/recommendations/u_1?{query}").json()
    long = client.get(f"/recommendations/-?user_id=u_1&{query}").json()
    assert long == {**short, "retrieval_source": "cache"}


@pytest.mark.parametrize("query", ["k=0", "k=1001", "k=two", "k=", "explain=perhaps", "channel=", "channel=%00", "user_id=%00"])
def test_what_is_invalid_is_told_by_the_framework(client: TestClient, query: str) -> None:
    response = client.get(f"/recommendations/u_1?{query}")
    assert (response.status_code, response.headers["content-type"]) == (422, "application/problem+json")
    assert [error["field"] for error in response.json()["errors"]] == [query.partition("=")[0]]


def test_a_kept_answer_costs_one_question_and_no_store_but_redis(client: TestClient, fakes: Fakes) -> None:
    before = client.get("/recommendations/u_1").json()
    asked, looks = len(fakes.redis.batches), fakes.mongodb.looks
    for store in (fakes.mongodb, fakes.milvus, fakes.neo4j):
        store.down = True
    assert client.get("/recommendations/u_1").json() == {**before, "retrieval_source": "cache"}
    assert (fakes.redis.batches[asked:], fakes.mongodb.looks) == ([1], looks)


# -- a stampede -------------------------------------------------------------------------------------------------------


def counted(fakes: Fakes) -> list[str]:
    """Who had an answer computed; each takes a while."""
    computed, lock = list[str](), threading.Lock()

    def meanwhile() -> None:
        time.sleep(0.05)
        with lock:
            computed.append("answer")

    fakes.neo4j.meanwhile = meanwhile
    return computed


def test_a_stampede_on_a_cold_key_computes_once(client: TestClient, fakes: Fakes) -> None:
    computed = counted(fakes)
    with ThreadPoolExecutor(16) as people:
        answers = list(people.map(lambda _: client.get("/recommendations/u_1").json(), range(64)))
    assert computed == ["answer"]
    assert all({**answer, "retrieval_source": "cache"} == {**answers[0], "retrieval_source": "cache"} for answer in answers)


def test_who_asks_after_an_eviction_does_not_join_what_was_begun_before_it(client: TestClient, fakes: Fakes) -> None:
    computed, begun, go_on = counted(fakes), threading.Event(), threading.Event()

    def hold_the_first() -> None:
        if not begun.is_set():
            begun.set()
            assert go_on.wait(10)
        computed.append("answer")

    fakes.neo4j.meanwhile = hold_the_first
    with ThreadPoolExecutor(1) as people:
        early = people.submit(client.get, "/recommendations/u_1")
        assert begun.wait(10)
        fakes.redis.evict(["u_1"])
        fakes.neo4j.favourite = "c_4"
        late = client.get("/recommendations/u_1").json()
        go_on.set()
        assert early.result().status_code == 200
    by_others = [
        item["campaign_id"]
        for item in late["recommendations"]
        if "similar_users" in {part["channel"] for part in item["evidence"]}
    ]
    assert by_others == ["c_4"]
    assert len(computed) == 2
    assert client.get("/recommendations/u_1").json() == {**late, "retrieval_source": "cache"}


def test_what_another_process_computes_is_waited_for(client: TestClient, fakes: Fakes) -> None:
    ours = client.get("/recommendations/u_1").json()
    [(key, payload)] = fakes.redis.kept.items()
    computed = counted(fakes)
    fakes.redis.kept.clear()
    fakes.redis.at_it.add("u_1")
    with ThreadPoolExecutor(4) as people:
        asked = len(fakes.redis.batches)
        waiting = [people.submit(client.get, "/recommendations/u_1") for _ in range(4)]
        while len(fakes.redis.batches) < asked + 8:
            time.sleep(0.01)
        fakes.redis.kept[key] = payload
        answers = [one.result().json() for one in waiting]
    assert answers == [{**ours, "retrieval_source": "cache"}] * 4
    assert not computed


def test_who_has_waited_long_enough_for_another_process_computes(client: TestClient, fakes: Fakes) -> None:
    fakes.redis.at_it.add("u_1")
    assert client.get("/recommendations/u_1").json()["retrieval_source"] == "computed"


def test_whose_turn_ends_in_a_degraded_answer_passes_it_on(client: TestClient, fakes: Fakes) -> None:
    fakes.milvus.down = True
    assert client.get("/recommendations/u_1").json()["degraded"] == ["milvus"]
    assert fakes.redis.passed == ["u_1"]


# -- limits -----------------------------------------------------------------------------------------------------------


def test_a_question_counts_once_kept_or_not_and_too_many_are_refused_though_the_answer_is_kept(fakes: Fakes) -> None:
    settings = SETTINGS.model_copy(update={"rate_limit": "3/hour"})
    with TestClient(create_app(settings, stores=fakes.openers())) as client:
        asked = [client.get("/recommendations/u_1") for _ in range(4)]
        assert [response.status_code for response in asked] == [200, 200, 200, 429]
        assert sum(fakes.redis.counted.values()) == 4
        assert client.get("/recommendations/u_2").status_code == 429
        assert fakes.redis.passed == ["u_2"], "whoever may ask would wait for an answer that nobody computes"
        fakes.redis.down = True
        asked = [client.get("/recommendations/u_1") for _ in range(4)]
        assert [response.status_code for response in asked] == [200, 200, 200, 429]
