"""Lines that did not validate, with drop, line, reason, a sentence that a person can act on, and the bytes. Nothing is judged here."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from bson.binary import Binary
from pymongo import ASCENDING, IndexModel, UpdateOne
from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.database import Database

from persona.schemas import Reason
from persona.stores._chunks import chunks
from persona.stores.documents._errors import translated

KEPT_BYTES = 64 * 1024
LINES_PER_CALL = 10_000
INDEXES = [
    IndexModel([("drop", ASCENDING), ("line", ASCENDING)], name="by_drop_and_line"),
    # a line has `open` until somebody deals with it: what is waiting costs what is waiting
    IndexModel([("open", ASCENDING)], name="open", sparse=True),
]


@dataclass(frozen=True, slots=True)
class Settled:
    """What a person did about a line that is kept out; from then on it asks for nothing."""

    how: Literal["replayed", "discarded"]
    at: datetime
    run_id: str
    by: str | None = None
    """The drop that replaces the line's own."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """One line that is kept out."""

    line: int
    """Number of the record in its drop, from 1."""
    offset: int
    """Where it starts, in bytes of the decompressed file."""
    reason: Reason
    detail: str
    raw: bytes
    """The line; of one larger than a record may be, the first 64 KiB."""
    settled: Settled | None = None


@translated
class Quarantine:
    """Rejected lines, keyed by drop and line."""

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        self._lines: Collection[dict[str, Any]] = database["quarantine"]

    def ensure_indexes(self) -> None:
        """Create what the queries need; harmless when there."""
        self._lines.create_indexes(INDEXES)

    def put(self, drop: str, lines: Sequence[Rejected], *, judged: str = "", session: ClientSession | None = None) -> None:
        """Keep these lines, as judged in this run; one that is there is replaced, and stays settled if it was."""
        writes = [
            UpdateOne(
                {"_id": f"{drop}:{line.line}"},
                {
                    "$set": {
                        "drop": drop, "line": line.line, "offset": line.offset, "reason": line.reason.value,
                        "detail": line.detail, "raw": Binary(line.raw[:KEPT_BYTES]), "judged": judged,
                    },
                    "$setOnInsert": {"open": True},
                },
                upsert=True,
            )
            for line in lines
        ]  # fmt: skip
        if writes:
            self._lines.bulk_write(writes, ordered=False, session=session)

    def outdated(
        self,
        drop: str,
        *,
        judged_in: str,
        from_line: int | None = None,
        before_line: int | None = None,
        session: ClientSession | None = None,
    ) -> Iterator[int]:
        """The lines of a drop, or of a part of it, that this run has not judged anew, in order."""
        part = {key: line for key, line in (("$gte", from_line), ("$lt", before_line)) if line is not None}
        query = {"drop": drop, "judged": {"$ne": judged_in}, **({"line": part} if part else {})}
        for found in self._lines.find(query, {"_id": 0, "line": 1}, session=session).sort("line", ASCENDING):
            yield found["line"]

    def of_drop(self, drop: str, *, limit: int = 100) -> list[Rejected]:
        """The lines of a drop in order."""
        return [_rejected(found) for found in self._lines.find({"drop": drop}).sort("line", ASCENDING).limit(limit)]

    def line(self, drop: str, line: int) -> Rejected | None:
        """One line of a drop, if it is kept out."""
        found = self._lines.find_one({"_id": f"{drop}:{line}"})
        return _rejected(found) if found else None

    def settle(
        self, drop: str, *, how: Literal["replayed", "discarded"], run_id: str, by: str | None = None, line: int | None = None
    ) -> int:
        """Note what was done about the open lines of a drop, or about one of them; return how many that were."""
        query = {"drop": drop, "open": True, **({} if line is None else {"line": line})}
        settled = {"how": how, "at": datetime.now(UTC), "run_id": run_id, "by": by}
        return self._lines.update_many(query, {"$set": {"settled": settled}, "$unset": {"open": ""}}).modified_count

    def unsettle(self, drops: Sequence[str]) -> None:
        """Let the lines of these drops ask to be looked at again."""
        self._lines.update_many({"drop": {"$in": list(drops)}}, {"$set": {"open": True}, "$unset": {"settled": ""}})

    def by_drop(self, *, settled: bool = False) -> dict[str, dict[str, int]]:
        """How many lines of each drop are kept out, by reason, most first; only the open ones, or with the settled ones."""
        groups = self._lines.aggregate(
            [
                {"$match": {} if settled else {"open": True}},
                {"$group": {"_id": {"drop": "$drop", "reason": "$reason"}, "n": {"$sum": 1}}},
                {"$sort": {"n": -1, "_id.reason": 1}},
            ]
        )
        found: dict[str, dict[str, int]] = {}
        for group in groups:
            found.setdefault(group["_id"]["drop"], {})[group["_id"]["reason"]] = group["n"]
        return found

    def count_open(self) -> int:
        """How many lines are kept out and nobody has done anything about."""
        return self._lines.count_documents({"open": True}, hint="open")

    def count(self, drops: Sequence[str]) -> int:
        """How many lines of these drops are kept out."""
        return self._lines.count_documents({"drop": {"$in": list(drops)}})

    # -- one person -------------------------------------------------------------------------------------------------------

    def scan(self) -> Iterator[tuple[str, int, bytes]]:
        """Every line that is kept out, as (drop, line, bytes), drop by drop."""
        for found in self._lines.find({}, {"drop": 1, "line": 1, "raw": 1}).sort("drop", ASCENDING):
            yield found["drop"], found["line"], bytes(found["raw"])

    def remove(self, drop: str, lines: Iterable[int], *, session: ClientSession | None = None) -> int:
        """Forget these lines of a drop; return how many were there."""
        keys = [f"{drop}:{line}" for line in lines]
        return sum(
            self._lines.delete_many({"_id": {"$in": part}}, session=session).deleted_count
            for part in chunks(keys, LINES_PER_CALL)
        )


def _rejected(found: Mapping[str, Any]) -> Rejected:
    return Rejected(
        line=found["line"],
        offset=found["offset"],
        reason=Reason(found["reason"]),
        detail=found["detail"],
        raw=bytes(found["raw"]),
        settled=Settled(**found["settled"]) if found.get("settled") else None,
    )
