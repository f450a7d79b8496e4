"""One writer at a time, on a real MongoDB: what slept is locked out, what died is replaced, what lives is waited for."""

import dataclasses
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import psutil
import pytest
from pymongo.client_session import ClientSession
from pymongo.errors import OperationFailure

from persona.errors import Busy, LeaseLost, StoreUnavailable
from persona.pipeline import lease as leasing
from persona.pipeline.lease import Lease, lease
from persona.stores.documents import Documents


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leasing, "POLL_SECONDS", 0.02)


def held(documents: Documents, run_id: str = "r1", *, seconds: float = 30, wait: float = 0) -> AbstractContextManager[Lease]:
    return lease(documents, run_id=run_id, purpose="embeddings", seconds=seconds, wait_seconds=wait)


def note(documents: Documents, what: str) -> Callable[[ClientSession], Any]:
    return lambda session: documents.database["notes"].insert_one({"what": what}, session=session)


def notes(documents: Documents) -> list[str]:
    return [found["what"] for found in documents.database["notes"].find()]


def test_a_second_run_is_told_who_is_writing(documents: Documents) -> None:
    with held(documents, "r1"):
        with pytest.raises(Busy, match=r"run r1 \(embeddings, process \d+ on ") as raised, held(documents, "r2"):
            pytest.fail("two writers")
        assert raised.value.exit_code == 4
        holder = documents.leases.holder()
        assert holder is not None and (holder.run_id, holder.host) == ("r1", socket.gethostname())
    assert documents.leases.holder() is None
    with held(documents, "r2"):
        pass


def test_the_lease_is_free_again_after_a_failure_and_of_no_use_afterwards(documents: Documents) -> None:
    with pytest.raises(ZeroDivisionError), held(documents) as mine:
        raise ZeroDivisionError
    with pytest.raises(LeaseLost):
        mine.check()
    assert not documents.leases.renew(mine.token, seconds=9)
    with held(documents):
        pass


def test_of_many_threads_one_writes_at_a_time_and_each_has_its_turn_with_a_higher_token(documents: Documents) -> None:
    inside, most, tokens = 0, 0, []

    def work(number: int) -> None:
        nonlocal inside, most
        with held(documents, f"r{number}", wait=20) as mine:
            inside += 1
            most = max(most, inside)
            tokens.append(mine.token)
            time.sleep(0.03)
            inside -= 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert len(tokens) == 5 and tokens == sorted(set(tokens))


def test_who_waits_gets_the_lease_when_it_is_given_back(documents: Documents) -> None:
    got = threading.Event()

    def wait() -> None:
        with held(documents, "r2", wait=20):
            got.set()

    with held(documents, "r1"):
        waiting = threading.Thread(target=wait)
        waiting.start()
        assert not got.wait(0.3)
    assert got.wait(10)
    waiting.join()


def test_the_heartbeat_keeps_a_lease_longer_than_its_time(documents: Documents) -> None:
    with held(documents, seconds=0.6) as mine:
        time.sleep(1.5)
        mine.check()
        with pytest.raises(Busy), held(documents, "r2"):
            pytest.fail("two writers")


def test_transactions_in_a_row_keep_the_lease_where_no_heartbeat_gets_through(
    documents: Documents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leasing, "_renew", lambda *asleep: None)
    with held(documents, seconds=1) as mine:
        for number in range(8):
            mine.transaction(note(documents, f"{number}"))
            time.sleep(0.3)
        mine.check()
    assert len(notes(documents)) == 8


def test_who_slept_past_the_lease_can_write_no_more(documents: Documents, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leasing, "_renew", lambda *asleep: None)
    with held(documents, "sleeper", seconds=0.3) as sleeper:
        sleeper.transaction(note(documents, "in time"))
        time.sleep(0.4)
        with pytest.raises(LeaseLost):
            sleeper.check()
        with pytest.raises(LeaseLost):
            sleeper.transaction(note(documents, "too late"))
        with held(documents, "next") as following:
            assert following.token > sleeper.token
            with pytest.raises(LeaseLost):
                sleeper.transaction(note(documents, "too late"))
            following.transaction(note(documents, "the next one's"))
            documents.leases.release(sleeper.token)
            following.check()
    assert notes(documents) == ["in time", "the next one's"]


def test_a_heartbeat_that_comes_too_late_revives_nothing(documents: Documents) -> None:
    token = acquired(documents, _holder(psutil.Process()), seconds=0.1)
    time.sleep(0.2)
    assert not documents.leases.renew(token, seconds=30)
    assert documents.leases.holder() is None


def test_a_heartbeat_that_does_not_get_through_is_tried_again(documents: Documents, monkeypatch: pytest.MonkeyPatch) -> None:
    renew, failures = documents.leases.renew, iter([True])

    def shaky(token: int, *, seconds: float) -> bool:
        if next(failures, False):
            raise StoreUnavailable("mongodb", "a hiccup")
        return renew(token, seconds=seconds)

    monkeypatch.setattr(documents.leases, "renew", shaky)
    with held(documents, seconds=0.9) as mine:
        time.sleep(1.2)
        mine.check()


def test_what_fails_inside_a_transaction_leaves_nothing(documents: Documents) -> None:
    def failing(session: ClientSession) -> None:
        note(documents, "half")(session)
        raise ZeroDivisionError

    with held(documents) as mine, pytest.raises(ZeroDivisionError):
        mine.transaction(failing)
    assert notes(documents) == []


def acquired(documents: Documents, holder: dict[str, Any], *, seconds: float) -> int:
    with documents.session() as session:
        token = documents.leases.acquire(holder, seconds=seconds, session=session.session_id)
    assert token is not None
    return token


def test_what_a_dead_holder_left_open_keeps_nobody_waiting(documents: Documents, process: subprocess.Popen[bytes]) -> None:
    with documents.session() as session:
        token = documents.leases.acquire(_holder(psutil.Process(process.pid)), seconds=60, session=session.session_id)
        assert token is not None
        session.start_transaction()
        assert documents.leases.fence(token, seconds=60, session=session)
        note(documents, "half")(session)
        process.kill()
        process.wait()
        begun = time.monotonic()
        with held(documents) as mine:
            mine.transaction(note(documents, "the next one's"))
        assert time.monotonic() - begun < 10
        with pytest.raises(OperationFailure):
            session.commit_transaction()
    assert notes(documents) == ["the next one's"]


def test_tokens_go_on_rising_when_mongodb_is_set_up_anew(new_documents: Callable[[], Documents]) -> None:
    with held(new_documents()) as before, held(new_documents()) as after:
        assert after.token >= before.token > 10**12


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as running:
        yield running
        running.kill()


def _holder(process: psutil.Process, **changed: Any) -> dict[str, Any]:
    holder = {"run_id": "old", "purpose": "intents", "host": socket.gethostname(), "pid": process.pid}
    return {**holder, "process_started": process.create_time(), **changed}


def test_a_dead_process_is_replaced_at_once_and_a_living_one_is_not(
    documents: Documents, process: subprocess.Popen[bytes]
) -> None:
    before = acquired(documents, _holder(psutil.Process(process.pid)), seconds=60)
    with pytest.raises(Busy, match="run old"), held(documents):
        pytest.fail("two writers")
    process.kill()
    process.wait()
    with held(documents) as mine:
        assert mine.token > before


@pytest.mark.parametrize(
    ("changed", "gone"), [({"process_started": 1.0}, True), ({"host": "elsewhere", "pid": 2**22 + 1}, False)]
)
def test_a_reused_process_id_is_another_process_and_other_hosts_are_beyond_our_knowledge(
    documents: Documents, changed: dict[str, Any], gone: bool
) -> None:
    acquired(documents, _holder(psutil.Process(), **changed), seconds=60)
    holder = documents.leases.holder()
    assert holder is not None and leasing.process_is_gone(holder) is gone
    assert not leasing.process_is_gone(dataclasses.replace(holder, **_of_this_process()))


def _of_this_process() -> dict[str, Any]:
    me = psutil.Process()
    return {"host": socket.gethostname(), "pid": me.pid, "process_started": me.create_time()}
