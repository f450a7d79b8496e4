"""From evidence back to where it came from: the person's own records, by message, drop, line and run. Never another person's."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from heapq import nlargest
from operator import itemgetter
from typing import Any, Protocol

from persona.projections.engagements import EVENT_WEIGHTS
from persona.ranking.context import CameIn
from persona.schemas import Event
from persona.stores.documents.ledger import Entry

LIMIT = 10
"""So many records are named of each kind that a part of the evidence rests on."""
RESTS_ON_WORDS = frozenset({"similar_users", "similar_conversations", "content"})
"""Channels that look for what is like the person's messages as a whole."""

Document = Mapping[str, Any]


class OwnRecords(Protocol):
    """What tracing asks of the records: always one person's."""

    def newest_messages(self, user_id: str, *, limit: int) -> list[dict[str, Any]]: ...
    def done_with(self, user_id: str, campaign_id: str) -> list[dict[str, Any]]: ...
    def naming(self, user_id: str, campaign_id: str, *, limit: int) -> list[dict[str, Any]]: ...
    def expressing(self, user_id: str, intent: str, *, limit: int) -> list[dict[str, Any]]: ...
    def between(self, user_id: str, campaign_id: str, *, limit: int) -> list[dict[str, Any]]: ...


class Arrivals(Protocol):
    """What tracing asks of the ledger."""

    def get(self, entries: Sequence[str]) -> list[Entry]: ...


@dataclass(frozen=True, slots=True)
class Trail:
    """Where records say they came from."""

    records: OwnRecords
    arrivals: Arrivals

    def beside(self, came_in: Sequence[CameIn]) -> "Trail":
        """With what came in of the person that is asked about: where it is not stored yet, it has no line and no run."""
        return replace(self, records=_Beside(self.records, came_in)) if came_in else self

    def traced(self, user_id: str, campaign_id: str, evidence: Sequence[Document]) -> list[dict[str, Any]]:
        """The evidence for the campaign, each part with the `sources` that it rests on; none where it rests on nothing this person did."""
        words = RESTS_ON_WORDS & {part["channel"] for part in evidence}
        messages = self.records.newest_messages(user_id, limit=LIMIT) if words else []
        found = [messages if part["channel"] in words else self._records_of(user_id, campaign_id, part) for part in evidence]
        source_of = self._sources(record for records in found for record in records)
        return [
            {**part, "sources": [source_of[record["_id"]] for record in records]}
            for part, records in zip(evidence, found, strict=True)
        ]

    def history(self, user_id: str, campaign_id: str) -> list[dict[str, Any]]:
        """What passed between this person and this campaign, newest first, and their unsubscribes from more than one campaign."""
        records = self.records.between(user_id, campaign_id, limit=LIMIT)
        source_of = self._sources(records)
        return [{"event": record["event"], **source_of[record["_id"]]} for record in records]

    def _records_of(self, user_id: str, campaign_id: str, part: Document) -> list[dict[str, Any]]:
        match part["channel"]:
            case "mentions":
                return self.records.naming(user_id, campaign_id, limit=LIMIT)
            case "intents":
                return self.records.expressing(user_id, part["intent"], limit=LIMIT)
            case "related":
                return self._tying(user_id, part["because"])
            case _:
                return []

    def _tying(self, user_id: str, campaign_id: str) -> list[dict[str, Any]]:
        """What gives a campaign its weight in the person's history: what they did with it, the strongest first, and said of it."""
        done = nlargest(LIMIT, self.records.done_with(user_id, campaign_id), key=_strength)
        named = self.records.naming(user_id, campaign_id, limit=LIMIT)
        return list({record["_id"]: record for record in (*done, *named)}.values())

    def _sources(self, records: Iterable[Document]) -> dict[str, dict[str, Any]]:
        by_id = {record["_id"]: record for record in records}
        drops = {entry.id: entry for entry in self.arrivals.get(sorted({record["drop"] for record in by_id.values()}))}
        return {key: _source(record, drops.get(record["drop"])) for key, record in by_id.items()}


@dataclass(frozen=True, slots=True)
class _Beside:
    """One person's records that are stored, and those that came in; of what is both, the stored one."""

    stored: OwnRecords
    came_in: Sequence[CameIn]

    def newest_messages(self, user_id: str, *, limit: int) -> list[dict[str, Any]]:
        found = (each for each in self.came_in if "text_hash" in each.record)
        return _newest(self.stored.newest_messages(user_id, limit=limit), found)[:limit]

    def done_with(self, user_id: str, campaign_id: str) -> list[dict[str, Any]]:
        found = (
            each for each in self.came_in
            if each.record.get("campaign_id") == campaign_id and each.record["event"] != Event.IMPRESSION
        )  # fmt: skip
        return _newest(self.stored.done_with(user_id, campaign_id), found)

    def naming(self, user_id: str, campaign_id: str, *, limit: int) -> list[dict[str, Any]]:
        found = (each for each in self.came_in if campaign_id in each.names)
        return _newest(self.stored.naming(user_id, campaign_id, limit=limit), found)[:limit]

    def expressing(self, user_id: str, intent: str, *, limit: int) -> list[dict[str, Any]]:
        found = (each for each in self.came_in if each.intent == intent)
        return _newest(self.stored.expressing(user_id, intent, limit=limit), found)[:limit]

    def between(self, user_id: str, campaign_id: str, *, limit: int) -> list[dict[str, Any]]:
        found = (each for each in self.came_in if _concerns(each.record, campaign_id))
        return _newest(self.stored.between(user_id, campaign_id, limit=limit), found)[:limit]


def _newest(stored: Iterable[Document], came_in: Iterable[CameIn]) -> list[dict[str, Any]]:
    each = {record["_id"]: dict(record) for record in (*(found.record for found in came_in), *stored)}
    return sorted(sorted(each.values(), key=itemgetter("_id")), key=itemgetter("timestamp"), reverse=True)


def _concerns(record: Document, campaign_id: str) -> bool:
    campaign = record.get("campaign_id")
    return campaign == campaign_id or (campaign is None and record["event"] == Event.UNSUBSCRIBE)


def _strength(record: Document) -> tuple[float, datetime]:
    return EVENT_WEIGHTS[Event(record["event"])], record["timestamp"]


def _source(record: Document, drop: Entry | None) -> dict[str, Any]:
    return {  # not the drop's name: people call files after people
        "message_id": record["_id"],
        "drop": record["drop"],
        "line": record.get("line"),
        "run_id": drop.run_id if drop else None,
        "at": record["timestamp"],
    }
