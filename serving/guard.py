"""What keeps one store from hanging the service: threads of its own, a deadline, a circuit breaker. It knows no store's verbs.

A server that is stopped may block a driver's call for as long as it is stopped, whatever timeouts are set. So every call runs
in one of the store's own few threads; its caller waits for the deadline and no longer; the overrun call keeps its thread. Two
failures in a row open the breaker: whoever waits is let go, and from then on callers are refused at once. Who asks whether the
store is back is not a person's request but `Guard.keep`, in the background; a client that gets no answer then is left for a new one,
as its connections may be dead, or wait out a driver's growing pauses.
"""

import asyncio
import math
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any, Generic, Literal, NoReturn, Protocol, TypeVar, cast

import structlog
from purgatory import SyncCircuitBreakerFactory
from purgatory.domain.model import CLOSED, OpenedState

from persona.errors import PersonaError, StoreUnavailable
from persona.settings import StoreName
from serving import telemetry

log = structlog.get_logger(__name__)

SUSPICION = 1 / 3
"""Of the deadline, after a failure and until the store answers again: one person's questions follow each other, and their waits add up."""
PING_SECONDS = 1.0
CONNECT_SECONDS = 30.0
HEALTH_SECONDS = 1.5
"""For a ping and the wait for its turn: whoever asks how the service is hears it within two seconds."""
CLOSE_SECONDS = 2.0
KEEP_SECONDS = 1.0
"""How often a store that does not answer is asked again."""
FAILURES_TO_OPEN = 2
"""In a row. One person's slow query must not cost everyone the store; a store that hangs fails every call."""
THREADS = 4
"""Answers in the making, and calls from the event loop, that may run at once: with more of them each waits longer for its stores."""
SLOTS = 3 * THREADS
"""Calls of one store that may run at once: an answer begins up to two together."""
_answer_by: ContextVar[float] = ContextVar("answer_by", default=math.inf)


class Pingable(Protocol):
    """What every store can do."""

    def ping(self) -> None:
        """Return when the server answers."""


T = TypeVar("T", bound=Pingable)
R = TypeVar("R")
P = TypeVar("P")


@dataclass(frozen=True, slots=True)
class StoreHealth:
    """How a store is right now; `latency_ms` of its ping, None where it did not answer."""

    status: Literal["ok", "down"]
    latency_ms: float | None
    error: str | None


class Guard(Generic[T]):
    """One store, opened in the background and asked under a deadline.

    `call` and `ask` raise `StoreUnavailable`, whatever went wrong: a store that refuses costs what one that is down costs.
    """

    def __init__(self, name: StoreName, open_store: Callable[[], AbstractContextManager[T]], *, deadline: float) -> None:
        self.name = name
        self.deadline = deadline
        """How long an answer waits for this store, seconds."""
        self._open = open_store
        self._opened: tuple[AbstractContextManager[T], T] | None = None
        self._why = "not connected yet"
        self._slots = _Slots(name, SLOTS)
        self._turns = asyncio.Semaphore(THREADS)
        self._waited_for: set[Future[Any]] = set()
        self._suspected = False
        self._lock = threading.Lock()
        breakers = SyncCircuitBreakerFactory(default_threshold=FAILURES_TO_OPEN, default_ttl=KEEP_SECONDS / 2)
        breakers.add_listener(_log_state)
        self._breaker = breakers.get_breaker(name)
        telemetry.breaker(name, is_open=True)
        self.attempted = asyncio.Event()
        """Set when the first attempt to open the store has ended, well or not."""

    # -- asking -----------------------------------------------------------------------------------------------------------

    def call(self, verb: Callable[[T], R], *, patience: float | None = None) -> R:
        """What `verb` returns of the store, from a thread that may wait; for `patience` seconds, where a question takes longer.

        Such a question does not open the breaker: that it fails says nothing about short ones. Nor does an open one end it.
        """
        return self.begin(verb, patience=patience)()

    def begin(self, verb: Callable[[T], R], *, patience: float | None = None) -> Callable[[], R]:
        """Begin with `verb`, from a thread; what is returned waits for it as `call` does, and no longer than `one_deadline` allows.

        A question that was begun too late for its own deadline does not open the breaker either.
        """
        deadline, now = patience or self._deadline, time.monotonic()
        given = min(deadline, _answer_by.get() - now)
        try:
            future = self._begin(verb, ends=patience is None)
        except StoreUnavailable as error:
            return partial(_raise, error)

        def wait() -> R:
            with self._recorded(given, opens=patience is None and given > deadline / 2):
                return future.result(max(now + given - time.monotonic(), 0))

        return wait

    async def ask(self, verb: Callable[[T], R], *, deadline: float | None = None) -> R:
        """What `verb` returns of the store, from the event loop."""
        async with self._turns:  # under load callers queue here; a full set of slots then means that calls hang
            future, patience = self._begin(verb), deadline or self._deadline
            with self._recorded(patience):
                return await _within(patience, future)

    async def wait_for(self, asking: Callable[[], Awaitable[R]]) -> R:
        """What `asking` returns, which has a client of the event loop's own for the same server: it needs no thread."""
        self._available()
        deadline = self._deadline
        with self._recorded(deadline):
            async with asyncio.timeout(deadline):
                return await asking()

    def part(self, part_of: Callable[[T], P], *, patience: float | None = None) -> P:
        """A stand-in for the store, or a part of it, whose every verb goes through `call`; verbs must not return generators."""
        return cast(P, _StandIn(self, part_of, patience))

    async def health(self) -> StoreHealth:
        """Ask the store whether it is there."""
        started = time.perf_counter()
        try:
            async with asyncio.timeout(HEALTH_SECONDS):
                await self.ask(lambda store: store.ping(), deadline=PING_SECONDS)
        except StoreUnavailable as error:
            return StoreHealth("down", None, error.message)
        except TimeoutError:
            return StoreHealth("down", None, f"{self.name} is unavailable: too many wait for it")
        return StoreHealth("ok", round((time.perf_counter() - started) * 1000, 2), None)

    # -- keeping ----------------------------------------------------------------------------------------------------------

    async def keep(self) -> None:
        """Open the store as soon as it can be opened, and close the breaker as soon as the store answers again. Runs for ever."""
        while True:
            if self._opened is not None and self._breaker.context.state != CLOSED and not await self._answers():
                self._leave()
            if self._opened is None:
                await self._connect()
            await asyncio.sleep(KEEP_SECONDS)

    async def close(self) -> None:
        """Close the store's client; one that hangs is left behind."""
        if self._opened is not None:
            leaving = self._leave()
            self._why = "closed"
            with suppress(Exception):  # whatever the driver says about a server that may be gone already
                await _within(CLOSE_SECONDS, leaving)
        self._slots.close()

    async def _connect(self) -> None:
        context = self._open()
        try:
            opening = self._slots.submit(context.__enter__)
            self._opened = context, await _within(CONNECT_SECONDS, opening)
            self._record(None)
            telemetry.breaker(self.name, is_open=False)
            log.info("store connected", store=self.name)
        except TimeoutError:
            opening.add_done_callback(lambda late: None if late.exception() else context.__exit__(None, None, None))
            self._why = f"no connection within {CONNECT_SECONDS:g} s"
        except Exception as error:  # a driver's surprise at start must not end the service, nor the attempts
            why = self._reason(error)
            if why != self._why:
                log.warning("store not connected", store=self.name, reason=why, exc_info=not isinstance(error, PersonaError))
            self._why = why
        self.attempted.set()

    def _leave(self) -> "Future[Any]":
        """Close the client and forget it, and the threads of the calls that hang; the future says when it is closed."""
        assert self._opened is not None
        context, _ = self._opened
        self._opened, left, leaving = None, self._slots, _Slots(self.name, 1)
        self._slots = _Slots(self.name, SLOTS)
        closed = leaving.submit(lambda: context.__exit__(None, None, None))
        left.close()
        leaving.close()
        return closed

    async def _answers(self) -> bool:
        """Whether the store answers a ping; one that does is trusted again."""
        assert self._opened is not None
        _, store = self._opened
        with suppress(StoreUnavailable), self._recorded(PING_SECONDS):
            await _within(PING_SECONDS, self._slots.submit(store.ping))
            return True
        return False

    # -- one call ---------------------------------------------------------------------------------------------------------

    @property
    def _deadline(self) -> float:
        return SUSPICION * self.deadline if self._suspected else self.deadline

    def _begin(self, verb: Callable[[T], R], *, ends: bool = True) -> "Future[R]":
        """Have the store asked; where it `ends`, no longer than the breaker is closed."""
        _, store = self._available()
        future = self._slots.submit(lambda: verb(store))
        if ends:
            self._waited_for.add(future)
            future.add_done_callback(self._waited_for.discard)
        return future

    def _available(self) -> tuple[AbstractContextManager[T], T]:
        opened = self._opened
        if opened is None or self._breaker.context.state != CLOSED:
            telemetry.refused(self.name)
            raise StoreUnavailable(self.name, self._why)
        return opened

    @contextmanager
    def _recorded(self, deadline: float, *, opens: bool = True) -> Iterator[None]:
        """Tell the breaker how the call went, a failure only if it `opens` it; raise whatever went wrong as `StoreUnavailable`."""
        try:
            with telemetry.StoreCall(self.name):
                yield
        except TimeoutError:
            why = f"no answer within {deadline:g} s"
        except PersonaError as error:
            why = self._reason(error)
        except Exception as error:
            # Ours or the driver's mistake about this one question: no reason to refuse the next.
            log.exception("a store's verb failed", store=self.name)
            raise StoreUnavailable(self.name, self._reason(error)) from error
        else:
            self._record(None)
            return
        failure = StoreUnavailable(self.name, why)
        if opens:
            self._why = why
            self._record(failure)
        raise failure

    def _reason(self, error: Exception) -> str:
        """Why the store is unavailable, fit to be shown: a driver's own words may hold a password or a person's id."""
        if isinstance(error, PersonaError):
            return error.message.removeprefix(f"{self.name} is unavailable: ")
        return type(error).__name__

    def _record(self, failure: StoreUnavailable | None) -> None:
        if failure is None and not self._suspected and self._breaker.context.state == CLOSED:
            return  # nothing has failed since the last success: the breaker has nothing to forget
        # The breaker is not thread-safe. One that opened meanwhile takes no notice of late outcomes.
        with self._lock, suppress(StoreUnavailable, OpenedState):
            self._suspected = failure is not None
            with self._breaker:
                if failure:
                    raise failure
        if self._breaker.context.state != CLOSED:
            for future in tuple(self._waited_for):
                with suppress(InvalidStateError):  # it was answered this moment
                    future.set_exception(StoreUnavailable(self.name, self._why))


@contextmanager
def one_deadline(seconds: float) -> Iterator[None]:
    """Whatever is begun in this block, by this thread, is waited for until so many seconds from now at most."""
    token = _answer_by.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _answer_by.reset(token)


async def _within(seconds: float, future: "Future[R]") -> R:
    """What a thread's future comes to, waited for on the event loop; raises `TimeoutError`."""
    async with asyncio.timeout(seconds):
        return await asyncio.wrap_future(future)


def _raise(error: StoreUnavailable) -> NoReturn:
    raise error


class _StandIn:
    """Every attribute is a verb that runs under the guard, or is begun under it and waited for later."""

    def __init__(self, guard: Guard[Any], part_of: Callable[[Any], Any], patience: float | None) -> None:
        self._guard = guard
        self._part_of = part_of
        self._patience = patience

    def __getattr__(self, name: str) -> "_Verb":
        verb = _Verb(self._guard, self._part_of, name, self._patience)
        setattr(self, name, verb)  # not asked for again
        return verb


class _Verb:
    """One verb of a store, under its guard."""

    def __init__(self, guard: Guard[Any], part_of: Callable[[Any], Any], name: str, patience: float | None) -> None:
        self._guard = guard
        self._part_of = part_of
        self._name = name
        self._patience = patience

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.begin(*args, **kwargs)()

    def begin(self, *args: Any, **kwargs: Any) -> Callable[[], Any]:
        """See `persona.ranking.asking`."""
        return self._guard.begin(
            lambda store: getattr(self._part_of(store), self._name)(*args, **kwargs), patience=self._patience
        )


class _Slots:
    """A bounded set of daemon threads: one that hangs keeps its slot, and is left behind at exit rather than waited for."""

    def __init__(self, name: StoreName, slots: int) -> None:
        self._name = name
        self._slots = slots
        self._lock = threading.Lock()
        self._busy = 0
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    def submit(self, work: Callable[[], R]) -> "Future[R]":
        """Run `work` now. Raises `StoreUnavailable` where every slot is taken."""
        with self._lock:
            if self._busy == self._slots:
                raise StoreUnavailable(self._name, "every earlier call still hangs")
            self._busy += 1
            if self._busy > len(self._threads):
                thread = threading.Thread(target=self._serve, name=f"{self._name}-calls", daemon=True)
                self._threads.append(thread)
                thread.start()
        future: Future[R] = Future()
        future.set_running_or_notify_cancel()

        def run() -> None:
            with suppress(InvalidStateError):  # whoever asked has been let go
                try:
                    result = work()
                except Exception as error:
                    future.set_exception(error)
                else:
                    future.set_result(result)

        self._work.put(run)
        return future

    def close(self) -> None:
        """Let the threads end that are not hanging."""
        for _ in self._threads:
            self._work.put(None)

    def _serve(self) -> None:
        while (run := self._work.get()) is not None:
            run()
            del run  # an idle thread must not keep the last answer alive
            with self._lock:
                self._busy -= 1


def _log_state(store: str, what: str, event: Any) -> None:
    if what == "state_changed":
        telemetry.breaker(store, is_open=event.state != CLOSED)
        log.warning("store's breaker changed", store=store, state=event.state)
