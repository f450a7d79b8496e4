"""From the body of a request to records: judged as a drop's lines are, and written as the lines of a drop. Pure but for reading copies."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson

from persona.errors import InvalidInput, Malformed
from persona.intake.parse import DropFault, RawRecord, raw_records, records_in
from persona.intake.records import fields_of, to_document
from persona.schemas import Reason
from persona.stores.documents.quarantine import Rejected

MOST = 1_000
"""Records in one request."""
NOT_JSON = frozenset({Reason.INVALID_JSON, Reason.INVALID_ENCODING})
COUNTS_AT_ONCE = (
    "_id", "user_id", "timestamp", "event", "channel", "campaign_id", "conversation_id", "intent", "value", "text_hash", "message",
)  # fmt: skip
NO_DROP = ""


@dataclass(frozen=True, slots=True)
class Refused:
    """A record that is not taken, by its place in the request."""

    index: int
    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class Arrived:
    """What came in with one request."""

    lines: bytes
    """The records that are taken, as the lines of a drop."""
    records: list[dict[str, Any]]
    """The same, as they count for answers at once: fields of `Records.history_of`, and `message`."""
    refused: list[Refused]


def judged(body: bytes, *, at: datetime, now: datetime, ids_from: str = "") -> Arrived:
    """The records of a request, judged as those of a drop. One that says no time happened `at` then.

    With `ids_from`, records without an id get one that is made of it and of their place: sent again, they are the same. Raises
    `Malformed`, and `InvalidInput` for more than a thousand records.
    """
    lines: list[bytes] = []
    records: list[dict[str, Any]] = []
    refused: list[Refused] = []
    for index, raw in enumerate(_cut(body)):
        if index == MOST:
            raise InvalidInput(f"a request has at most {MOST:,} records", hint="Send the others in another one.")
        line = _with_defaults(raw, _defaults(at, ids_from, index))
        document = to_document(line, drop=NO_DROP, now=now)
        if isinstance(document, dict):
            lines.append(line.raw.replace(b"\n", b" ").replace(b"\r", b" ") + b"\n")  # none stands in a valid string
            records.append(live_record(document))
            continue
        reason, detail = (document.reason, document.detail) if isinstance(document, Rejected) else (Reason.MISSING_FIELD, "")
        if reason in NOT_JSON:
            raise Malformed(f"record {index} cannot be read: {detail}")
        refused.append(Refused(index, reason, detail))
    return Arrived(b"".join(lines), records, refused)


def live_record(document: dict[str, Any]) -> dict[str, Any]:
    """What of an accepted record counts for answers: the fields of `Records.history_of`, and `message`."""
    kept = {name: document[name] for name in COUNTS_AT_ONCE if name in document}
    return {**kept, "characters": len(document.get("message", ""))}


def live_records(copy: Path, name: str, *, now: datetime) -> Iterator[dict[str, Any]]:
    """The valid records of a drop that came in over HTTP; none where the file is gone or cannot be read."""
    try:
        for raw in raw_records(copy, name):
            document = to_document(raw, drop=NO_DROP, now=now)
            if isinstance(document, dict):
                yield live_record(document)
    except (DropFault, FileNotFoundError):
        return


def _cut(body: bytes) -> Iterator[RawRecord]:
    try:
        yield from records_in(body)
    except DropFault as fault:
        raise Malformed(fault.detail) from None


def _defaults(at: datetime, ids_from: str, index: int) -> dict[str, str]:
    time = {"timestamp": at.isoformat(timespec="milliseconds")}
    if not ids_from:
        return time
    name = hashlib.blake2b(f"{ids_from}\x00{index}".encode(), digest_size=16).hexdigest()
    return {"message_id": f"m_{name}", **time}


def _with_defaults(raw: RawRecord, defaults: dict[str, str]) -> RawRecord:
    """The record with those of the fields that it lacks; where it lacks none, as it came: the same bytes are the same drop."""
    fields = None if raw.oversized else fields_of(raw.raw)
    if fields is None or not (lacking := {name: value for name, value in defaults.items() if name not in fields}):
        return raw
    added = orjson.dumps(lacking)[:-1] + (b"," if fields else b"")
    line = added + raw.raw[1:]
    return RawRecord(raw.line, raw.offset, line, len(line))
