"""From facts that have been drained to answers that rest on them: fitting, judging, publishing, and a thousand people answered."""

import asyncio
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
from rich.console import Console
from rich.table import Table

from benchmarks.serving.figures import Figure
from benchmarks.serving.service import Service, service
from benchmarks.serving.world import World, world
from persona.pipeline.stages import DRAINING_ASSETS
from persona.stores.opening import documents_of, warehouse_of
from persona.stores.warehouse import StageRun

GOAL_SECONDS = 60.0
ANSWERED = 1_000
CONNECTIONS = 4
NEW_EVENTS = 1_000
RUN_SECONDS = 1_800
POLL_SECONDS = 0.5
FOR_EVERYONE = "engagement"
"""The channel that knows nobody in particular."""


def measure(folder: Path, console: Console, *, users: int, seed: int) -> list[Figure]:
    """A drop comes in, is drained, and a generation published, while the service is up."""
    with world(folder, users=users, seed=seed, console=console) as place, service(place.settings) as served:
        before = asyncio.run(generation(served))
        write_drop(place)
        with running([sys.executable, "-m", "persona_cli.main", "materialize", "--json"]) as run:
            published_at = until_published(served, before, run)
            at_once = asyncio.run(answered(served, place.sample(ANSWERED, seed=4), before))
            done_at = datetime.now(UTC)
            run_id = ended_well(run)
        with warehouse_of(place.settings) as warehouse:
            stages = warehouse.stages(run_id)
    drained_at = max(ended(stage) for stage in stages if stage.stage in DRAINING_ASSETS)
    show_stages(console, stages, published_at - drained_at, done_at - published_at)
    title = f"{users:,} people, {place.engagements:,} engagements"
    return [
        Figure(
            f"from drained to {ANSWERED:,} people answered personally; {title}", (done_at - drained_at) / timedelta(seconds=1), "s",
            GOAL_SECONDS, bound=f"{at_once} of them when they were asked first",
        ),
    ]  # fmt: skip


def write_drop(place: World) -> None:
    """Something new from people who are known: without it there is nothing to fit, and were it not to their taste, nothing to publish."""
    now = datetime.now(UTC)
    users = place.sample(NEW_EVENTS, seed=int(now.timestamp()))
    events = [
        {
            "user_id": user, "campaign_id": campaign_id, "event": "click", "channel": "web",
            "timestamp": now.isoformat(), "message_id": f"{user}-{now.timestamp():.0f}",
        }
        for user, campaign_id in to_their_taste(place, users)
    ]  # fmt: skip
    path = place.settings.drops / f"new-{now.timestamp():.0f}.json"
    unfinished = path.with_name(f".{path.name}")
    unfinished.write_bytes(orjson.dumps(events))
    unfinished.replace(path)


def to_their_taste(place: World, users: Sequence[str]) -> Iterator[tuple[str, str]]:
    """For each of these people a campaign that answers the same intent as one that they engaged with."""
    rng = np.random.default_rng()
    with documents_of(place.settings) as documents:
        campaigns = documents.catalog.campaigns()
        engaged = {record["user_id"]: record["campaign_id"] for record in documents.records.engagements_of(users)}
    intents = {campaign.campaign_id: set(campaign.intents) for campaign in campaigns}
    for user, campaign_id in engaged.items():
        alike = [each for each, theirs in intents.items() if theirs & intents[campaign_id]]
        yield user, str(rng.choice(alike))


def until_published(served: Service, before: str | None, run: subprocess.Popen[bytes]) -> datetime:
    """When an answer first rests on another generation."""
    deadline = time.monotonic() + RUN_SECONDS
    while asyncio.run(generation(served)) == before:
        if run.poll() is not None or time.monotonic() > deadline:
            ended_well(run)
            raise SystemExit("no generation was published: `persona generations list` says why")
        time.sleep(POLL_SECONDS)
    return datetime.now(UTC)


def ended_well(run: subprocess.Popen[bytes]) -> str:
    """The id of the run, when it has ended."""
    assert run.stdout is not None
    document = orjson.loads(run.stdout.read())
    if document["status"] != "success":
        raise SystemExit(f"the run failed: {document['error']}")
    return str(document["run_id"])


@contextmanager
def running(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with the block."""
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.terminate()


async def generation(served: Service) -> str | None:
    """What answers rest on."""
    async with httpx.AsyncClient(base_url=served.url, timeout=30) as client:
        return (await client.get("/health")).json()["generation"]  # type: ignore[no-any-return]


async def answered(served: Service, users: Sequence[str], before: str | None) -> int:
    """Ask for these people until each has had an answer that rests on another generation than before, and on what is known of them.

    Return how many had one at once; the run goes on beside it, and may cost an answer what a store would have said in time.
    """
    waiting = deque((user, True) for user in users)
    at_once = 0
    deadline = time.monotonic() + RUN_SECONDS

    async def client_asks() -> None:
        nonlocal at_once
        async with httpx.AsyncClient(base_url=served.url, timeout=30) as client:
            while waiting and time.monotonic() < deadline:
                user, first = waiting.popleft()
                if not personal((await client.get(f"/recommendations/{user}")).json(), before):
                    waiting.append((user, False))
                elif first:
                    at_once += 1

    await asyncio.gather(*(client_asks() for _ in range(CONNECTIONS)))
    if waiting:
        raise SystemExit(f"{len(waiting)} people have not been answered personally")
    return at_once


def personal(answer: dict[str, Any], before: str | None) -> bool:
    """Whether it is; who is to be left alone is offered nothing."""
    channels = {part["channel"] for offer in answer["recommendations"] for part in offer["evidence"]}
    knows = bool(channels - {FOR_EVERYONE}) or not answer["recommendations"]
    return answer["known_user"] and not answer["degraded"] and answer["generation"] != before and knows


def ended(stage: StageRun) -> datetime:
    """When the stage did."""
    return stage.started_at + timedelta(seconds=stage.seconds)


def show_stages(console: Console, stages: Sequence[StageRun], publishing: timedelta, answering: timedelta) -> None:
    """Print where the time goes."""
    table = Table("stage", "seconds", title="from a drop to answers", title_justify="left")
    for stage in stages:
        table.add_row(stage.stage, f"{stage.seconds:.1f}")
    table.add_row("from drained to published", f"{publishing.total_seconds():.1f}")
    table.add_row(f"{ANSWERED:,} people answered", f"{answering.total_seconds():.1f}")
    console.print(table)
