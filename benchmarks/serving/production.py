"""The computed path on the servers of production beside the local ones: the same world, the same service, in one table."""

import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pymilvus import MilvusClient
from rich.console import Console
from rich.table import Table

from benchmarks.serving.computed import Round, recall_of, rounds
from benchmarks.serving.figures import Figure
from benchmarks.serving.world import World, world
from persona.settings import Settings
from persona.stores.vectors import FIELDS
from tests.servers.running import Running, production_servers

INDEXED_SECONDS = 900
POLL_SECONDS = 2


def measure(folder: Path, console: Console, *, users: int, seed: int, seconds: float, answers: int) -> list[Figure]:
    """Both, one after the other; every figure is a median of rounds."""
    with world(folder, users=users, seed=seed, console=console) as place:
        local, local_recall = rounds(place, console, seconds=seconds, answers=answers), recall_of(place)
    with tempfile.TemporaryDirectory(prefix="persona-production-") as home, production_servers(Path(home, "servers")) as servers:
        if servers.missing:
            raise SystemExit("; ".join(servers.missing.values()))
        with on(servers), world(Path(home), users=users, seed=seed, console=console) as place:
            await_indexed(place.settings)
            theirs, their_recall = rounds(place, console, seconds=seconds, answers=answers), recall_of(place)
            show_both(console, place, {"local": (local, local_recall), "production": (theirs, their_recall)})
    here, there = middles(local), middles(theirs)
    return [
        Figure(
            f"computed {name} on servers of production; {users:,} people",
            there[name],
            unit,
            bound=f"local servers {here[name]:.1f}",
        )
        for name, unit in (("p50", "ms"), ("p99", "ms"), ("answers a second over 8 connections", "/s"))
    ]


def middles(found: Sequence[Round]) -> dict[str, float]:
    """The medians of the rounds."""
    return {
        "p50": statistics.median(each.alone.p50_ms for each in found),
        "p99": statistics.median(each.alone.p99_ms for each in found),
        "the calls in their order, p50": statistics.median(each.in_order.p50_ms for each in found),
        "the calls at once, p50": statistics.median(each.at_once.p50_ms for each in found),
        "answers a second over 8 connections": statistics.median(each.together.per_second for each in found),
        "percent of these without all stores": 100
        * statistics.median(each.together.degraded / each.together.requests for each in found),
    }


def show_both(console: Console, place: World, found: dict[str, tuple[list[Round], tuple[float, str | None]]]) -> None:
    """One row a figure, one column a kind of servers."""
    table = Table("", *found, title=f"{place.users:,} people, {place.engagements:,} engagements", title_justify="left")
    columns = {kind: middles(each) for kind, (each, _) in found.items()}
    for name in next(iter(columns.values())):
        table.add_row(name, *(f"{column[name]:.1f}" for column in columns.values()))
    table.add_row("index", *(str(index) for _, (_, index) in found.values()))
    table.add_row("recall of the 100 nearest people", *(f"{recall:.3f}" for _, (recall, _) in found.values()))
    console.print(table)


@contextmanager
def on(servers: Running) -> Iterator[None]:
    """With the servers' addresses in the environment, where settings and processes read them."""
    before = dict(os.environ)
    os.environ |= servers.environment()
    try:
        yield
    finally:
        os.environ.clear()
        os.environ |= before


def await_indexed(settings: Settings) -> None:
    """Until no row waits for the index: a server makes it in the background, and searches the rest row by row meanwhile."""
    addresses = settings.addresses
    client = MilvusClient(addresses.milvus, token=addresses.milvus_token)
    deadline = time.monotonic() + INDEXED_SECONDS
    try:
        for name in (f"{collection}_v1" for collection in FIELDS):
            client.flush(name)
            while int(client.describe_index(name, "vector")["pending_index_rows"]):
                if time.monotonic() > deadline:
                    raise SystemExit(f"{name} was not indexed within {INDEXED_SECONDS} s")
                time.sleep(POLL_SECONDS)
    finally:
        client.close()
