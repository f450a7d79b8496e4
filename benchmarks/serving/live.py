"""What came in a moment ago: how soon it counts in the next answer, and whether all of it outlives a server that is killed."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
from rich.console import Console

from benchmarks.homes import home
from benchmarks.intake import materialize
from benchmarks.serving.figures import Figure
from benchmarks.serving.service import Service, service
from benchmarks.serving.world import World, world
from persona.settings import Settings
from persona.stores.opening import open_stores

GOAL_MS = 100.0
PATIENCE_SECONDS = 5.0
PEOPLE = 100
EVENTS = 10_000
EVENTS_A_REQUEST = 50


def measure(folder: Path, console: Console, *, users: int, seed: int) -> list[Figure]:
    """From an event to another answer, and ten thousand events with the server killed among them."""
    with world(folder, users=users, seed=seed, console=console) as place, service(place.settings) as served:
        figures = list(to_changed_answers(place, served))
    with home() as settings:
        return [*figures, *killed(settings, console)]


# -- from an event to another answer ------------------------------------------------------------------------------------------


def to_changed_answers(place: World, served: Service) -> Iterator[Figure]:
    """Milliseconds from before an event is sent until an answer has been read that counts it."""
    users = place.sample(2 * PEOPLE, seed=int(time.time()))  # others each time: what they take stays taken
    with httpx.Client(base_url=served.url, timeout=PATIENCE_SECONDS) as client:
        for user in users[:10]:
            converted(client, user)
        for what, change, some in (
            ("a conversion", converted, users[10:PEOPLE]), ("a message", moved, users[PEOPLE:]),
        ):  # fmt: skip
            took = [milliseconds for user in some if (milliseconds := change(client, user)) is not None]
            if not took:
                raise SystemExit(f"nobody's answer was changed by {what}")
            p50, p99 = np.percentile(took, [50, 99])
            yield Figure(
                f"{what} to changed answer, p99 of {len(took)} people", float(p99), "ms", GOAL_MS, bound=f"p50 {p50:.1f} ms"
            )


def converted(client: httpx.Client, user: str) -> float | None:
    """Until the best campaign, taken, is offered no more; None for someone who is offered nothing."""
    offered = answer(client, user)
    if not offered:
        return None
    event = {"user_id": user, "campaign_id": offered[0], "event": "conversion", "channel": "web"}
    return milliseconds_until(client, user, "/events", event, lambda now: offered[0] not in now)


def moved(client: httpx.Client, user: str) -> float | None:
    """Until a campaign that is named moves the answer."""
    offered = answer(client, user)
    if not offered:
        return None
    message = {"user_id": user, "message": "I need new running shoes for the trail, and somebody to run with.", "channel": "chat"}
    return milliseconds_until(client, user, "/conversations", message, lambda now: now != offered)


def milliseconds_until(
    client: httpx.Client, user: str, route: str, record: dict[str, Any], done: Callable[[list[str]], bool]
) -> float:
    began = time.perf_counter()
    client.post(route, json=record).raise_for_status()
    while not done(answer(client, user)):
        if time.perf_counter() - began > PATIENCE_SECONDS:
            raise SystemExit(f"{route} did not change the answer within {PATIENCE_SECONDS:.0f} s")
    return (time.perf_counter() - began) * 1e3


def answer(client: httpx.Client, user: str) -> list[str]:
    """The campaigns that this person is offered, best first."""
    answered = client.get(f"/recommendations/{user}", params={"k": 20, "explain": False}).raise_for_status().json()
    return [offer["campaign_id"] for offer in answered["recommendations"]]


# -- killed ---------------------------------------------------------------------------------------------------------------


def killed(settings: Settings, console: Console) -> list[Figure]:
    """Send events, kill the server when half of them are accepted, send the rest to the next one, then drain."""
    began = time.perf_counter()
    accepted: list[str] = []
    with service(settings) as served:
        for ids, status in sent(served, range(0, EVENTS // 2, EVENTS_A_REQUEST)):
            accepted += ids if status == 202 else []
        served.kill_after(0.05)
        for ids, status in sent(served, range(EVENTS // 2, EVENTS // 2 + 500, EVENTS_A_REQUEST)):
            accepted += ids if status == 202 else []
    with service(settings) as served:
        for ids, status in sent(served, range(EVENTS // 2 + 500, EVENTS + 500, EVENTS_A_REQUEST)):
            accepted += ids if status == 202 else []
    seconds = time.perf_counter() - began
    document, _ = materialize()
    if document["status"] != "success":
        raise SystemExit(f"the run failed: {document['error']}")
    with open_stores(settings) as stores:
        records = {found["_id"] for found in stores.documents.database["records"].find({}, {"_id": 1})}
        facts = stores.warehouse.fact_count()
    console.print(
        f"{len(accepted):,} events accepted in {seconds:.1f} s, a start and a killed server among them; {facts:,} facts"
    )
    return [
        Figure("accepted before and after kill -9", len(accepted), "events", EVENTS, at_least=True),
        Figure("accepted and not in the truth", len(set(accepted) - records), "events", 0),
        Figure("accepted and not in the warehouse", max(len(accepted) - facts, 0), "events", 0),
    ]


def sent(served: Service, begins: range) -> Iterator[tuple[list[str], int | None]]:
    """The ids of the events of each request, and how it was answered; None where nobody answered any more."""
    with httpx.Client(base_url=served.url, timeout=PATIENCE_SECONDS) as client:
        for begin in begins:
            ids = [f"killed-{number}" for number in range(begin, begin + EVENTS_A_REQUEST)]
            events = [
                {
                    "message_id": key, "user_id": f"u_{number % 500}", "campaign_id": f"c_{number % 50}", "event": "click",
                    "channel": "web",
                }
                for number, key in enumerate(ids, begin)
            ]  # fmt: skip
            try:
                answered = client.post("/events", content=orjson.dumps(events), headers={"Content-Type": "application/json"})
            except httpx.TransportError:
                yield ids, None
                return
            yield ids, answered.status_code
