"""The computed path: answers that no cache holds, beside the same store calls made by the drivers alone."""

import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from pymilvus import MilvusClient
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.serving.bare import (
    AT_ONCE,
    Drivers,
    Timed,
    as_they_were,
    by_kind,
    calls_of,
    one_after_the_other,
    timed,
)
from benchmarks.serving.figures import Figure
from benchmarks.serving.load import Load, drive
from benchmarks.serving.service import service
from benchmarks.serving.world import World, world
from persona.stores.opening import documents_of, vectors_of
from persona.stores.vectors import key_of

ALLOWANCE_MS = 2.0
"""What an answer may take longer than its store calls."""
P99_TIMES = 2.0
THROUGHPUT_SHARE = 0.75
AIM_MS = 10.0
GROWTH = 1.5
"""Times the p50 from a tenth of the people."""
NEIGHBOURS = 100
SEARCHES = 200
PROFILES_AT_ONCE = 1_000
CONNECTIONS = 8
ROUNDS = 5
WARM_ROUNDS = 20
WARM_PEOPLE = 500
FASTER = 1.03
"""Times the fastest round so far: what is less is no gain."""
DEGRADED_SHARE = 0.01
"""On two cores that the servers work on, too, a store may be waited for in vain now and then."""


@dataclass(frozen=True, slots=True)
class Round:
    """What the service and the drivers alone do, one after the other."""

    alone: Load
    together: Load
    in_order: Timed
    at_once: Timed
    in_order_together: Timed
    at_once_together: Timed

    @property
    def quickest(self) -> float:
        """Answers a second that the calls alone would allow."""
        return max(self.in_order_together.per_second, self.at_once_together.per_second)


Of = Callable[[Round], float]


def measure(folder: Path, console: Console, *, users: int, seed: int, seconds: float, answers: int) -> list[Figure]:
    """Both of a world of a tenth of the people and of the whole: medians of rounds."""
    with world(folder, users=users // 10, seed=seed, console=console) as small:
        before = rounds(small, console, seconds=seconds, answers=answers)
    with world(folder, users=users, seed=seed, console=console) as large:
        now = rounds(large, console, seconds=seconds, answers=answers)
        recall, index = recall_of(large)
        title = f"{large.users:,} people, {large.engagements:,} engagements"

    def middle(of: Of, among: Sequence[Round] = now) -> float:
        return statistics.median(map(of, among))

    p50, p50_before = middle(lambda each: each.alone.p50_ms), middle(lambda each: each.alone.p50_ms, before)
    asked = sum(each.together.requests for each in now)
    return [
        Figure(
            f"computed p50, 1 connection; {title}", p50, "ms", middle(lambda each: each.in_order.p50_ms) + ALLOWANCE_MS,
            bound=f"the calls in their order {middle(lambda each: each.in_order.p50_ms):.2f} ms; "
            f"at once as the service makes them {middle(lambda each: each.at_once.p50_ms):.2f} ms",
        ),
        Figure("computed p50, altogether", p50, "ms", AIM_MS),
        Figure(
            "computed p99, 1 connection", middle(lambda each: each.alone.p99_ms), "ms",
            P99_TIMES * middle(lambda each: each.in_order.p99_ms),
            bound=f"the calls in their order {middle(lambda each: each.in_order.p99_ms):.2f} ms; "
            f"at once as the service makes them {middle(lambda each: each.at_once.p99_ms):.2f} ms",
        ),
        Figure(
            f"computed, {CONNECTIONS} connections, of the calls' throughput",
            middle(lambda each: each.together.per_second / each.quickest), "times", THROUGHPUT_SHARE, at_least=True,
            bound=f"{middle(lambda each: each.together.per_second):,.0f}/s of {middle(lambda each: each.quickest):,.0f}/s; "
            f"p50 {middle(lambda each: each.together.p50_ms):.1f} ms, p99 {middle(lambda each: each.together.p99_ms):.1f} ms",
        ),
        Figure(
            f"of {asked:,} answers over {CONNECTIONS} connections, without all stores",
            sum(each.together.degraded for each in now) / asked, "", DEGRADED_SHARE,
        ),
        Figure(
            f"p50 from {users // 10:,} to {users:,} people", p50 / p50_before, "times", GROWTH,
            bound=f"{p50_before:.2f} and {p50:.2f} ms",
        ),
        Figure(f"recall of the {NEIGHBOURS} nearest people", recall, "", bound=f"index {index}"),
    ]  # fmt: skip


def rounds(place: World, console: Console, *, seconds: float, answers: int) -> list[Round]:
    """The service under load, then the calls of so many answers without it, and again: a machine is not always as fast."""
    asked = [f"/recommendations/{user}" for user in place.sample(place.users, seed=1)]
    noted, others = asked[:answers], asked[answers:]
    few, many = others[: len(others) // 3], others[len(others) // 3 :]
    found: list[Round] = []
    took = by_kind()
    calls = calls_of(place.settings, noted)
    with (
        Drivers(place.settings) as drivers,
        service(place.settings) as served,
        ThreadPoolExecutor(AT_ONCE * CONNECTIONS) as threads,
    ):
        drivers.forget_answers()
        warmed(served.url, few[-WARM_PEOPLE:], drivers)
        at_once = partial(as_they_were, drivers, threads=threads)
        timed(calls[:100], at_once, clients=1)
        for number in range(ROUNDS):
            alone = answered(drive(served.url, few[number::ROUNDS], connections=1, seconds=seconds / ROUNDS, look=True))
            together = answered(
                drive(served.url, many[number::ROUNDS], connections=CONNECTIONS, seconds=seconds / ROUNDS, look=True)
            )
            times = []
            for clients in (1, CONNECTIONS):
                for make in (partial(one_after_the_other, drivers, took=took if clients == 1 else by_kind()), at_once):
                    drivers.forget_answers()
                    times.append(timed(calls[number::ROUNDS], make, clients=clients))
            found.append(Round(alone, together, *times))
    show_calls(console, place, took, answers=len(calls))
    return found


def warmed(url: str, paths: Sequence[str], drivers: Drivers) -> None:
    """Ask until the servers have read what they need, and compiled what they run: until it no longer gets faster."""
    fastest = 0.0
    for _ in range(WARM_ROUNDS):
        load = drive(url, paths, connections=CONNECTIONS, seconds=3, look=True)
        drivers.forget_answers()
        if load.degraded <= DEGRADED_SHARE * load.requests and load.per_second < FASTER * fastest:
            return
        fastest = max(fastest, load.per_second)


def answered(load: Load) -> Load:
    """The same; a load of which a request failed says nothing."""
    if load.failed:
        raise SystemExit(f"of {load.requests} requests {load.failed} failed")
    return load


def show_calls(console: Console, place: World, took: dict[str, list[float]], *, answers: int) -> None:
    """What one call of each kind takes by itself."""
    table = Table("one bare call", "an answer has", "p50 ms", "p99 ms", title=f"{place.users:,} people", title_justify="left")
    for kind, times in sorted(took.items()):
        p50, p99 = np.percentile(times, [50, 99])
        table.add_row(escape(kind), f"{len(times) / answers:.2f}", f"{p50:.2f}", f"{p99:.2f}")
    console.print(table)


def recall_of(place: World) -> tuple[float, str | None]:
    """Of the people nearest to some, how many a search finds, the mean; and by which index."""
    settings = place.settings
    with documents_of(settings) as documents:
        version = documents.embeddings.collections_in_use()
    users, profiles = everybody(place, version)
    with vectors_of(settings, version=version) as store:
        shares = []
        for user in place.sample(SEARCHES, seed=2):
            near = profiles @ profiles[users[user]]
            near[users[user]] = -1
            nearest = np.argpartition(-near, NEIGHBOURS)[:NEIGHBOURS]
            found = store.similar_users(profiles[users[user]], limit=NEIGHBOURS, exclude=user)
            shares.append(len({users[other] for other, _ in found} & set(nearest.tolist())) / NEIGHBOURS)
        return statistics.mean(shares), store.index()


def everybody(place: World, version: str) -> tuple[dict[str, int], np.ndarray]:
    """Each person's row, and the profiles, shape (people, dimensions)."""
    users: dict[str, int] = {}
    profiles: list[np.ndarray] = []
    client = MilvusClient(uri=place.settings.addresses.milvus, token=place.settings.addresses.milvus_token)
    try:
        keys = list(map(key_of, place.sample(place.users, seed=3)))
        for begin in range(0, len(keys), PROFILES_AT_ONCE):
            part = keys[begin : begin + PROFILES_AT_ONCE]
            for row in client.query(f"users_{version}", ids=part, output_fields=["user_id", "vector"]):
                users[row["user_id"]] = len(profiles)
                profiles.append(np.asarray(row["vector"], np.float32))
    finally:
        client.close()
    return users, np.stack(profiles)
