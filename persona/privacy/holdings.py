"""Everything that is held on a person, store by store: counted, and handed out. Nothing is changed here."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from persona.errors import NotFound, StoreRefused, StoreUnavailable
from persona.intake.inbox import arrivals_in
from persona.intake.parse import DropFault, raw_records
from persona.privacy.copies import CopyFound, claimed_copies, find_in_copies
from persona.privacy.search import Identifier
from persona.schemas import Event
from persona.settings import Settings
from persona.stores.opening import Stores

UNKNOWN = "nothing is held on this person"
OF_TIES = {"user_id", "counts"}


@dataclass(frozen=True, slots=True)
class QuarantinedLine:
    """A line that is kept out and is, or may be, the person's."""

    drop: str
    line: int
    raw: bytes


def quarantined_of(stores: Stores, identifier: Identifier, copies: Iterable[CopyFound]) -> list[QuarantinedLine]:
    """The quarantined lines of this person: those that name them, and those that the claimed copies know to be theirs.

    Of a line that is larger than a record may be only the beginning is in quarantine; who it is about may stand behind that.
    """
    theirs = {(copy.path.name, line) for copy in copies for line in copy.found.theirs}
    return [
        QuarantinedLine(drop, line, raw)
        for drop, line, raw in stores.documents.quarantine.scan()
        if (drop, line) in theirs or identifier.owns(raw)
    ]


def count_in_stores(stores: Stores, user_id: str) -> dict[str, int]:
    """How much each store holds of this person; of Redis, whether it keeps an answer. Quarantine and files are not looked at."""
    documents = stores.documents
    versions = (stores.vectors.at(version) for version in stores.vectors.versions())
    return {
        "records": documents.records.count_of_user(user_id),
        "openings": documents.conversations.count_of(user_id),
        "customers": int(documents.catalog.customer(user_id) is not None),
        "milvus": sum(version.count_of(user_id) for version in versions),
        "neo4j": stores.graph.count_of(user_id),
        "warehouse": stores.warehouse.count_of(user_id),
        "redis": int(stores.cache.keeps(user_id)),
    }


def export(user_id: str, settings: Settings, stores: Stores) -> dict[str, Any]:
    """One document, ready for JSON, with everything that is held on this person.

    Raises `NotFound` where nothing is.
    """
    documents, identifier = stores.documents, Identifier(user_id)
    user_id = identifier.user_id
    arrived = list(_arrived(settings, identifier))  # first: what is claimed meanwhile is found among the copies
    records = list(documents.records.of_user(user_id))
    customer = documents.catalog.customer(user_id)
    copies = find_in_copies(claimed_copies(settings), documents, identifier)
    quarantined = quarantined_of(stores, identifier, copies)
    waiting = [*arrived, *_waiting(copies)]
    live = _live(stores, user_id)
    vectors = stores.vectors.at(documents.embeddings.collections_in_use()).everything_of(user_id)
    graph = {
        "engaged": [_tie(engagement) for engagement in stores.graph.history_of(user_id)],
        "expressed": [_tie(expressed) for expressed in stores.graph.intents_of(user_id)],
        "mentioned": [_tie(mention) for mention in stores.graph.mentions_of(user_id)],
    }
    warehouse = stores.warehouse.everything_of(user_id)
    held: list[Iterable[Any]] = [records, quarantined, waiting, live, *vectors.values(), *graph.values(), *warehouse.values()]
    if customer is None and not any(held):
        raise NotFound(UNKNOWN, hint="Ids are compared exactly, upper and lower case included.")
    return {
        "user_id": user_id,
        "exported_at": datetime.now(UTC).isoformat(),
        "records": _records(stores, records),
        "quarantined": [{"drop": found.drop, "line": found.line, "text": _text(found.raw)} for found in quarantined],
        "waiting": waiting,
        "live": live,
        "customer": customer.model_dump(mode="json") if customer else None,
        "drops": _drops(stores, {found["drop"] for found in (*records, *waiting)} | {found.drop for found in quarantined}),
        "milvus": {"profile": vectors["users"], "conversations": vectors["conversations"]},
        "neo4j": graph,
        "warehouse": warehouse,
    }


def _records(stores: Stores, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    texts = {record["text_hash"] for record in records if "text_hash" in record}
    inferred, named = stores.documents.embeddings.labels(texts), stores.documents.embeddings.mentions(texts)
    ours = {"_id", "timestamp", "digest", "text_hash", "expressive"}
    return [
        {
            "message_id": record["_id"],
            "timestamp": record["timestamp"].isoformat(),
            **{name: value for name, value in record.items() if name not in ours},
            "inferred_intent": inferred.get(record.get("text_hash", "")),
            "mentioned_campaigns": list(named.get(record.get("text_hash", ""), ())),
        }
        for record in records
    ]


def _arrived(settings: Settings, identifier: Identifier) -> Iterator[dict[str, Any]]:
    """The person's records that came in over HTTP and have not been claimed."""
    for arrival in arrivals_in(settings.inbox):
        with suppress(FileNotFoundError):
            for raw in raw_records(arrival.path, arrival.path.name):
                if identifier.owns(raw.raw):
                    yield {"drop": arrival.sha256, "line": raw.line, "text": _text(raw.raw)}


def _live(stores: Stores, user_id: str) -> list[dict[str, Any]]:
    """What counts before every store has it; nothing that is not in a drop, so nothing is missing where Redis is down."""
    try:
        records = stores.cache.live.of(user_id).records
    except (StoreUnavailable, StoreRefused):
        return []
    ours = {"_id", "timestamp", "text_hash", "characters"}
    return [
        {
            "message_id": record["_id"],
            "timestamp": record["timestamp"].isoformat(),
            **{name: value for name, value in record.items() if name not in ours},
        }
        for record in records
    ]


def _waiting(copies: Iterable[CopyFound]) -> Iterator[dict[str, Any]]:
    """The person's records in copies of drops that are not accepted: held whole, discarded, not judged yet, or unknown."""
    for copy in copies:
        if not copy.found or (copy.entry and copy.entry.state == "accepted"):
            continue
        theirs = frozenset(copy.found.theirs)
        if copy.found.unreadable:
            yield {"drop": copy.path.name, "line": None, "text": None}
        try:
            for raw in raw_records(copy.path, copy.name) if copy.name else ():
                if raw.line in theirs:
                    yield {"drop": copy.path.name, "line": raw.line, "text": _text(raw.raw)}
        except DropFault:
            continue


def _drops(stores: Stores, drops: set[str]) -> list[dict[str, Any]]:
    return [
        {
            "drop": entry.id,
            "name": entry.name,
            "state": entry.state,
            "claimed_at": entry.claimed_at and entry.claimed_at.isoformat(),
        }
        for entry in stores.documents.ledger.get(sorted(drops))
    ]


def _tie(tie: Any) -> dict[str, Any]:
    values = {name: getattr(tie, name) for name in tie.__slots__ if name not in OF_TIES}
    return values | {event.value: tie.counts[event.value] for event in Event if event.value in getattr(tie, "counts", {})}


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")
