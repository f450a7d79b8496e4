"""What is promised to who asks several stores at once: none waits for another, and all together for no longer than they may."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from persona.errors import StoreUnavailable
from persona.ranking.asking import begin
from serving.guard import FAILURES_TO_OPEN, Guard, one_deadline
from tests.serving.conftest import FakeStore

LONG = 60.0


@pytest.fixture
def patient(guard: Guard[FakeStore]) -> None:
    """A store alone may take a minute, also after a failure."""
    guard.deadline = LONG


@pytest.fixture
def store() -> Iterator[FakeStore]:
    store = FakeStore("milvus")
    yield store
    store.thawed.set()


@pytest.fixture
def guard(store: FakeStore) -> Guard[FakeStore]:
    """Of a store that was reached; nobody asks whether it is back."""
    guard = Guard("milvus", store.opened, deadline=0.15)

    async def until_reached() -> None:
        keeper = asyncio.create_task(guard.keep())
        await guard.attempted.wait()
        keeper.cancel()

    asyncio.run(until_reached())
    return guard


def seconds_waited(asking: Callable[[], object]) -> float:
    """As the refusal says: how long the answer had been waited for."""
    with pytest.raises(StoreUnavailable, match="no answer within") as refused:
        asking()
    return float(refused.value.message.rpartition("within ")[2].removesuffix(" s"))


def test_what_is_begun_together_runs_together(guard: Guard[FakeStore], patient: None) -> None:
    meeting = threading.Barrier(2)
    waiting = [guard.begin(lambda store, number=number: (meeting.wait(LONG), number)[1]) for number in range(2)]  # type: ignore[misc]
    assert [wait() for wait in waiting] == [0, 1]


def test_a_store_that_is_not_there_is_known_when_its_answer_is_wanted(store: FakeStore) -> None:
    wait = Guard("milvus", store.opened, deadline=0.15).begin(FakeStore.answer)
    with pytest.raises(StoreUnavailable, match="not connected yet"):
        wait()
    assert store.asked == 0


def test_all_that_is_begun_ends_with_one_deadline(guard: Guard[FakeStore], store: FakeStore, patient: None) -> None:
    store.thawed.clear()
    with one_deadline(0.2):
        waiting = [guard.begin(FakeStore.answer) for _ in range(3)]
        first, *_, last = (seconds_waited(wait) for wait in waiting)
        assert 0 < last < first < 0.2, "who begins later has more time"
        assert seconds_waited(guard.begin(FakeStore.answer)) <= 0
    store.thawed.set()
    guard.call(FakeStore.answer)


def test_one_deadline_gives_no_store_more_than_its_own(guard: Guard[FakeStore], store: FakeStore) -> None:
    guard.deadline = 0.01
    store.thawed.clear()
    with one_deadline(LONG):
        assert seconds_waited(guard.begin(FakeStore.answer)) == 0.01
        assert seconds_waited(guard.begin(FakeStore.answer, patience=0.02)) == 0.02


def test_what_had_too_little_time_left_says_nothing_of_the_store(
    guard: Guard[FakeStore], store: FakeStore, patient: None
) -> None:
    store.thawed.clear()
    with one_deadline(0.01):
        for _ in range(FAILURES_TO_OPEN + 1):
            seconds_waited(guard.begin(FakeStore.answer))
    store.thawed.set()
    guard.call(FakeStore.answer)


def test_who_had_the_time_and_no_answer_opens_the_breaker_for_those_who_wait(guard: Guard[FakeStore], store: FakeStore) -> None:
    guard.deadline = LONG
    store.thawed.clear()
    waiting = guard.begin(FakeStore.answer)
    guard.deadline = 0.01
    for _ in range(FAILURES_TO_OPEN):
        seconds_waited(guard.begin(FakeStore.answer))
    with pytest.raises(StoreUnavailable):
        waiting()
    asked = store.asked
    with pytest.raises(StoreUnavailable):
        guard.call(FakeStore.answer)
    assert store.asked == asked


def test_a_deadline_is_of_one_block_and_of_one_thread(guard: Guard[FakeStore], patient: None) -> None:
    met = threading.Event()
    with one_deadline(0.01), ThreadPoolExecutor(1) as other:
        begun_elsewhere = other.submit(guard.begin, lambda _: met.wait(LONG)).result()
        seconds_waited(guard.begin(lambda _: met.wait(LONG)))
    begun_afterwards = guard.begin(lambda _: met.wait(LONG))
    met.set()
    assert begun_elsewhere() and begun_afterwards()


def test_verbs_of_a_part_are_begun_and_any_other_is_asked_when_its_answer_is_wanted(guard: Guard[FakeStore]) -> None:
    asked = threading.Event()

    class Part:
        def double(self, number: int, *, plus: int = 0) -> int:
            asked.set()
            return 2 * number + plus

    wait = begin(guard.part(lambda store: Part()).double, 20, plus=2)
    assert asked.wait(LONG)
    assert wait() == 42
    asked.clear()
    wait = begin(Part().double, 20, plus=2)
    assert not asked.is_set()
    assert wait() == 42


def test_who_is_cancelled_as_the_answer_comes_ends(guard: Guard[FakeStore], patient: None) -> None:
    """What runs for ever is ended by being cancelled, and the service waits for that."""
    met, answered = threading.Event(), threading.Event()

    async def ask_for_ever() -> None:
        while True:
            await guard.ask(lambda _: met.wait(LONG) and answered.set())

    async def cancelled_while_an_answer_waits_to_be_read() -> None:
        asking = asyncio.create_task(ask_for_ever())
        await asyncio.sleep(0.05)
        met.set()
        assert answered.wait(LONG)  # the event loop stands still meanwhile
        time.sleep(0.05)
        asking.cancel()
        await asyncio.wait([asking], timeout=2)
        ended = asking.cancelled()
        asking.cancel()
        assert ended, "it goes on asking"

    asyncio.run(cancelled_while_an_answer_waits_to_be_read())
