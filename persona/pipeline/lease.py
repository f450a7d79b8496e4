"""One writer at a time: a lease with a heartbeat and a rising token, checked before every batch and in every mark.

A holder that slept past its lease finds its token outdated and stops; a holder whose process is gone is replaced at once.
"""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import psutil
import structlog
from pymongo.client_session import ClientSession

from persona.errors import Busy, PersonaError
from persona.stores.documents import Documents
from persona.stores.documents.leases import Holder
from persona.stores.fencing import lease_lost

T = TypeVar("T")
POLL_SECONDS = 0.5
log = structlog.get_logger()


class Lease:
    """The lease as its holder sees it."""

    def __init__(self, documents: Documents, token: int, *, seconds: float, session: ClientSession) -> None:
        self._documents = documents
        self._seconds = seconds
        self._session = session
        self.token = token

    def check(self) -> None:
        """Raise `LeaseLost` unless the lease is in force; called before every batch that writes."""
        if not self._documents.leases.holds(self.token):
            raise lease_lost()

    def transaction(self, work: Callable[[ClientSession], T]) -> T:
        """Run `work` in a transaction that fails with `LeaseLost` if the lease is lost before it commits."""

        def fenced(session: ClientSession) -> T:
            if not self._documents.leases.fence(self.token, seconds=self._seconds, session=session):
                raise lease_lost()
            return work(session)

        return self._documents.transaction(fenced, session=self._session)


@contextmanager
def lease(documents: Documents, *, run_id: str, purpose: str, seconds: float, wait_seconds: float) -> Iterator[Lease]:
    """Hold the lease for the time of the block, renewed by a heartbeat.

    Raises `Busy`, naming the holder, when it is not to be had within `wait_seconds`.
    """
    with documents.session() as session:
        token = _acquire(documents, session, run_id=run_id, purpose=purpose, seconds=seconds, wait_seconds=wait_seconds)
        ended = threading.Event()
        heartbeat = threading.Thread(target=_renew, args=(documents, token, seconds, ended), name="lease-heartbeat", daemon=True)
        heartbeat.start()
        try:
            yield Lease(documents, token, seconds=seconds, session=session)
        finally:
            ended.set()
            heartbeat.join()
            _release(documents, token)


def process_is_gone(holder: Holder) -> bool:
    """Whether the holder's process, if it ran on this host, has ended; False where we cannot know."""
    return has_ended(host=holder.host, pid=holder.pid, started=holder.process_started)


def has_ended(*, host: str, pid: int, started: float) -> bool:
    """Whether the process with this pid and start time (epoch seconds) has ended; False on another host, where we cannot know."""
    if host != socket.gethostname():
        return False
    try:
        return abs(psutil.Process(pid).create_time() - started) > 1
    except psutil.NoSuchProcess:
        return True


def _acquire(
    documents: Documents, session: ClientSession, *, run_id: str, purpose: str, seconds: float, wait_seconds: float
) -> int:
    me = {
        "run_id": run_id, "purpose": purpose, "host": socket.gethostname(), "pid": os.getpid(),
        "process_started": psutil.Process().create_time(),
    }  # fmt: skip
    deadline = time.monotonic() + wait_seconds
    while True:
        holder = documents.leases.holder()
        gone = holder.token if holder and process_is_gone(holder) else None
        token = documents.leases.acquire(me, seconds=seconds, session=session.session_id, instead_of=gone)
        if token is not None:
            return token
        if time.monotonic() >= deadline:
            who = f"run {holder.run_id} ({holder.purpose}, process {holder.pid} on {holder.host})" if holder else "another run"
            raise Busy(
                f"{who} is writing and did not end within {wait_seconds:.0f} s", hint="Wait for it, or end it; then run again."
            )
        time.sleep(POLL_SECONDS)


def _release(documents: Documents, token: int) -> None:
    try:
        documents.leases.release(token)
    except PersonaError as error:  # it expires by itself; how the block ended is what is to be told
        log.warning("lease_not_released", error=error.message)


def _renew(documents: Documents, token: int, seconds: float, ended: threading.Event) -> None:
    while not ended.wait(seconds / 3):
        try:
            if not documents.leases.renew(token, seconds=seconds):
                return
        except PersonaError as error:  # the next beat may get through; if none does, the check before the next batch fails
            log.warning("lease_not_renewed", error=error.message)
