"""What is counted and timed for Prometheus, and how it is written out. What happens is others' to tell, by the functions here.

Each costs a few microseconds: the series of a combination of labels is looked up once. Labels are names of ours, never what a
client sent. With several workers each writes into a folder they share, and whichever is asked answers for all of them.
"""

import os
import platform
import time
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import psutil
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from persona.settings import StoreName
from serving import traces

SHARED_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The variable with which the library, when it is imported, is told where workers share their figures."""
METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})
MILLISECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

REQUESTS = Histogram(
    "persona_http_request_duration_seconds",
    "From the request's arrival to the end of its answer.",
    ("method", "route", "status"),
    buckets=MILLISECONDS,
)
STORE_CALLS = Histogram(
    "persona_store_call_duration_seconds",
    "How long a question to a store was waited for; `late` ended with the deadline.",
    ("store", "outcome"),
    buckets=MILLISECONDS,
)
REFUSALS = Counter(
    "persona_store_refusals_total", "Questions that were not put to a store: breaker open, or not connected.", ("store",)
)
STORE_UP = Gauge(
    "persona_store_up",
    "Whether the store answered when these figures were asked for.",
    ("store",),
    multiprocess_mode="livemostrecent",
)
BREAKER = Gauge(
    "persona_store_breaker_open",
    "1 while a worker puts no question to the store: its breaker is open, or it was never reached.",
    ("store",),
    multiprocess_mode="livemax",
)
ANSWERS = Counter("persona_answers_total", "Recommendations answered, by where they came from.", ("source",))
DEGRADED = Counter("persona_answers_degraded_total", "Answers that lack what this store would have given.", ("store",))
CACHE_READS = Counter("persona_cache_reads_total", "Answers looked for in the cache.", ("result",))
GENERATION = Gauge(
    "persona_generation_info", "1 for the ranking model that answers rest on.", ("generation",), multiprocess_mode="livemax"
)
CAMPAIGNS = Gauge("persona_campaigns", "Campaigns in the snapshot that answers rest on.", multiprocess_mode="livemin")
DATA_AGE = Gauge("persona_data_age_seconds", "Age of the newest accepted record.", multiprocess_mode="livemostrecent")
SNAPSHOT_LOADS = Histogram(
    "persona_snapshot_load_duration_seconds", "How long loading campaigns and ranking model took.", buckets=SECONDS
)
BUILD = Gauge("persona_build_info", "1 for what runs.", ("version", "python"), multiprocess_mode="livemax")


def app_version() -> str:
    """The installed version, `0` from a checkout that was never installed."""
    try:
        return version("persona")
    except PackageNotFoundError:
        return "0"


# -- what happens -----------------------------------------------------------------------------------------------------------


def requested(method: str, route: str | None, status: int | None, seconds: float) -> None:
    """A request has ended; `route` is the template, None where no route fits, `status` None where the client had gone."""
    _requests(method, route, status and status // 100).observe(seconds)


class StoreCall:
    """A question to a store, for as long as the block lasts: timed, and a part of the request's trace."""

    __slots__ = ("_span", "_started", "_store")

    def __init__(self, store: StoreName) -> None:
        self._store = store

    def __enter__(self) -> Self:
        self._span = traces.store_asked(self._store)
        self._started = time.perf_counter()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        outcome: Outcome = "ok" if error is None else "late" if isinstance(error, TimeoutError) else "failed"
        _store_calls(self._store, outcome).observe(time.perf_counter() - self._started)
        if self._span is not None:
            traces.store_answered(self._span, outcome)


Outcome = Literal["ok", "late", "failed"]


def refused(store: StoreName) -> None:
    """A question was not put to the store."""
    _refusals(store).inc()


def breaker(store: str, *, is_open: bool) -> None:
    """The store's breaker is open or closed from now on; one that was never reached counts as open."""
    BREAKER.labels(store).set(is_open)


def answered(source: Literal["computed", "cache"], degraded: Iterable[str] = ()) -> None:
    """A recommendation is on its way, for want of these stores."""
    _answers(source).inc()
    for store in degraded:
        _degraded(store).inc()


def cache_read(result: Literal["hit", "miss", "failed"]) -> None:
    """An answer was looked for in the cache."""
    _cache_reads(result).inc()


def snapshot_loaded(seconds: float, *, campaigns: int, before: str | None, generation: str | None) -> None:
    """Campaigns and ranking model were loaded; `before` is the generation that is no longer in use."""
    SNAPSHOT_LOADS.observe(seconds)
    CAMPAIGNS.set(campaigns)
    if before and before != generation:
        GENERATION.labels(before).set(0)  # with several workers a series cannot be removed
    if generation:
        GENERATION.labels(generation).set(1)


@cache
def _requests(method: str, route: str | None, hundreds: int | None) -> Histogram:
    known = method if method in METHODS else "other"
    return REQUESTS.labels(known, route or "none", f"{hundreds}xx" if hundreds else "none")


@cache
def _store_calls(store: StoreName, outcome: Outcome) -> Histogram:
    return STORE_CALLS.labels(store, outcome)


_refusals = cache(REFUSALS.labels)
_answers = cache(ANSWERS.labels)
_degraded = cache(DEGRADED.labels)
_cache_reads = cache(CACHE_READS.labels)


# -- writing out ------------------------------------------------------------------------------------------------------------


def look(stores: dict[StoreName, bool], *, age_seconds: float | None) -> None:
    """What is true at the moment of asking: which stores answer, how old the newest record is."""
    BUILD.labels(app_version(), platform.python_version()).set(1)
    DATA_AGE.set(float("nan") if age_seconds is None else age_seconds)
    for store, answers in stores.items():
        STORE_UP.labels(store).set(answers)


def written(accept: str) -> tuple[bytes, str]:
    """Every figure, of all workers, in the format that the header `accept` prefers; and its content type."""
    encode, content_type = choose_encoder(accept)
    return encode(_registry()), content_type


def _registry() -> CollectorRegistry:
    shared = os.environ.get(SHARED_FOLDER)
    if shared is None:
        return REGISTRY
    for file in Path(shared).glob("gauge_live*.db"):
        pid = int(file.stem.rpartition("_")[2])
        if not psutil.pid_exists(pid):
            mark_process_dead(pid, shared)  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    MultiProcessCollector(registry, shared)  # type: ignore[no-untyped-call]
    return registry
