"""The cached path: answers that are kept, beside a route that has the same bytes at hand, and beside single GETs of Redis."""

import asyncio
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import httpx
import numpy as np
import redis
from rich.console import Console

from benchmarks.serving.figures import Figure
from benchmarks.serving.load import Load, drive
from benchmarks.serving.service import Service, service
from benchmarks.serving.world import World, world
from serving.warming import warm

USERS = 2_000
"""Of the world: how many there are is nothing to who asks for what is kept."""
ASKED_FOR = 1_000
THROUGHPUT_SHARE = 0.7
P99_TIMES = 2.5
MANY, FEW = 64, 8
"""Connections."""
ROUNDS = 5
"""Of each, by turns: a machine is not as fast in one minute as in the next."""
GETS = 5_000
KEPT = {"REDIS_TTL_SECONDS": "3600"}
"""For longer than the load takes."""


def measure(folder: Path, console: Console, *, seed: int, seconds: float) -> list[Figure]:
    """One worker of each, the median of several rounds."""
    with world(folder, users=USERS, seed=seed, console=console) as small:
        people = small.sample(ASKED_FOR, seed=1)
        settings = small.settings.model_copy(update={"redis_ttl_seconds": int(KEPT["REDIS_TTL_SECONDS"])})
        outcomes = asyncio.run(warm(settings, people, done=lambda _: None))
        if outcomes["degraded"]:
            raise SystemExit(f"answers could not be kept: {dict(outcomes)}")
        get_p50, get_p99 = gets_of_redis(small)
        cached, bare = rounds(small, people, seconds / ROUNDS)
    share = median(one[MANY].per_second / other[MANY].per_second for one, other in zip(cached, bare, strict=True))
    slower = median(one[FEW].p99_ms / other[FEW].p99_ms for one, other in zip(cached, bare, strict=True))
    return [
        Figure(
            f"cached, {MANY} connections, of a bare route's throughput", share, "times", THROUGHPUT_SHARE, at_least=True,
            bound=beside(MANY, cached, bare),
        ),
        Figure(f"cached, {FEW} connections, p99 of a bare route's", slower, "times", P99_TIMES, bound=beside(FEW, cached, bare)),
        Figure("one GET of Redis, p50", get_p50, "ms", bound=f"p99 {get_p99:.2f} ms, one after the other"),
        Figure("cached or bare, failed", sum(load.failed for one in (*cached, *bare) for load in one.values()), "", 0),
    ]  # fmt: skip


Round = dict[int, Load]
"""Loads by number of connections."""


def rounds(small: World, people: list[str], seconds: float) -> tuple[list[Round], list[Round]]:
    """What the service does and what a bare route does, by turns."""
    with ExitStack() as stack:
        real = stack.enter_context(service(small.settings, **KEPT))
        answer = answer_of(real, people[0])
        file = small.settings.home / "answer.json"
        file.write_bytes(answer)
        only_answers = ("benchmarks.serving.route", str(file))
        bare = stack.enter_context(service(small.settings, command=only_answers, **KEPT))
        asked = [f"/recommendations/{user}" for user in people], [f"/bare/{user}" for user in people]
        measured: tuple[list[Round], list[Round]] = [], []
        for _ in range(ROUNDS):
            for running, paths, found in zip((real, bare), asked, measured, strict=True):
                found.append(
                    {at_once: drive(running.url, paths, connections=at_once, seconds=seconds) for at_once in (MANY, FEW)}
                )
        answer_of(real, people[-1])
    return measured


def answer_of(running: Service, user: str) -> bytes:
    """This person's, which has to be a kept one."""
    response = httpx.get(f"{running.url}/recommendations/{user}").raise_for_status()
    if response.json()["retrieval_source"] != "cache":
        raise SystemExit("an answer was not kept: more was measured than the cached path")
    return response.content


def gets_of_redis(small: World) -> tuple[float, float]:
    """Median and 99th percentile of GETs of as many bytes as an answer has, milliseconds."""
    with redis.Redis.from_url(small.settings.addresses.redis) as client:
        client.set("benchmark", bytes(2_000), ex=60)
        took = []
        for _ in range(GETS):
            began = time.perf_counter()
            client.get("benchmark")
            took.append((time.perf_counter() - began) * 1e3)
    p50, p99 = np.percentile(took, [50, 99])
    return float(p50), float(p99)


def beside(connections: int, cached: list[Round], bare: list[Round]) -> str:
    """The median figures of both."""

    def told(of: list[Round]) -> str:
        loads = [one[connections] for one in of]
        per_second, p50, p99 = (median(getattr(load, name) for load in loads) for name in ("per_second", "p50_ms", "p99_ms"))
        return f"{per_second:,.0f}/s, p50 {p50:.2f} ms, p99 {p99:.2f} ms"

    return f"cached {told(cached)}; bare {told(bare)}"
