"""Logs of what happened, made up by hand or by seed, as the truth would hand them out."""

import random
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from persona import synthetic
from persona.evaluation.replay import Log
from persona.schemas import Campaign
from persona.stores.documents.embeddings import text_hash
from tests.tables import table_of
from tests.worlds import HashingEncoder

BEGIN = datetime(2026, 5, 1, tzinfo=UTC)
MS_PER_MINUTE = 60_000


def did(user: str, minutes: float, event: str, campaign: str | None = None, message: str | None = None) -> dict[str, Any]:
    """A record of the truth, so many minutes after `BEGIN`."""
    at = BEGIN + timedelta(minutes=minutes)
    record = {
        "_id": f"{user}-{minutes:09.2f}-{event}-{campaign}",
        "user_id": user,
        "timestamp": at,
        "event": event,
        "channel": "web",
    }
    if campaign is not None:
        record["campaign_id"] = campaign
    if message is not None:
        record |= {"message": message, "text_hash": text_hash(message), "characters": len(message)}
    return record


def log_of(records: Iterable[Mapping[str, Any]], catalogue: Sequence[Campaign] = ()) -> Log:
    """With vectors of a few lines; campaigns that only a record names exist too."""
    rows = list(records)
    texts = {record["message"] for record in rows if "message" in record} | {entry.text for entry in catalogue if entry.text}
    ordered = sorted(texts)
    vectors = {text_hash(text): vector for text, vector in zip(ordered, HashingEncoder().encode(ordered), strict=True)}
    named = {record["campaign_id"] for record in rows if "campaign_id" in record}
    campaigns = {name: Campaign(campaign_id=name) for name in sorted(named)} | {entry.campaign_id: entry for entry in catalogue}
    of_campaigns = {name: vectors[text_hash(entry.text)] for name, entry in campaigns.items() if entry.text}
    named_in = {text_hash(text): ("c_1", "c_2") for text in texts if "by the sea" in text}
    shown_by = {text_hash(text): "saving" for text in texts if "savings" in text}
    return Log(
        table_of(rows, words=True),
        vectors=vectors,
        inferred=shown_by,
        named=named_in,
        openings={},
        catalogue=campaigns,
        campaign_vectors=of_campaigns,
    )


def ms(minutes: float) -> int:
    """That many minutes after `BEGIN`, as the epoch counts."""
    return round((BEGIN + timedelta(minutes=minutes)).timestamp() * 1000)


TASTES, CAMPAIGNS, EVENTS = 4, 20, 1_600
LAST = EVENTS * 10


def talk(events: int = EVENTS, *, people: int = 120, seed: int = 1) -> list[dict[str, Any]]:
    """People with tastes, which their words show; half of what they convert on follows them."""
    rng = random.Random(seed)
    records = []
    for number in range(events):
        user, at = rng.randrange(people), number * 10
        taste = user % TASTES
        campaign = rng.randrange(taste, CAMPAIGNS, TASTES) if rng.random() < 0.5 else int(CAMPAIGNS * rng.random() ** 2)
        records.append(did(f"u_{user}", at, "message", None, f"words of taste{taste}"))
        records.append(did(f"u_{user}", at + 1, rng.choice(["click", "conversion"]), f"c_{campaign}"))
    return records


def fashions(events: int = 3_000, *, people: int = 150, campaigns: int = 60, seed: int = 1) -> list[dict[str, Any]]:
    """Events without a word, with campaigns that come into fashion and go out of it."""
    world = synthetic.generate(messages=events, users=people, campaigns=campaigns, seed=seed, end=BEGIN, drift=True)
    return [
        {"_id": record["message_id"], **record, "timestamp": datetime.fromisoformat(record["timestamp"])}
        for record in world.records()
    ]
