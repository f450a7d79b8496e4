"""Lines that did not validate, with drop, line, reason, a sentence that a person can act on, and the bytes. Nothing is judged here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bson.binary import Binary
from pymongo import ASCENDING, IndexModel, ReplaceOne
from pymongo.collection import Collection
from pymongo.database import Database

from persona.schemas import Reason
from persona.stores.documents._errors import translated

KEPT_BYTES = 64 * 1024


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


@translated
class Quarantine:
    """Rejected lines, keyed by drop and line."""

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        self._lines: Collection[dict[str, Any]] = database["quarantine"]

    def ensure_indexes(self) -> None:
        """Create what the queries need; harmless when there."""
        self._lines.create_indexes([IndexModel([("drop", ASCENDING), ("reason", ASCENDING)], name="by_drop_and_reason")])

    def put(self, drop: str, lines: Sequence[Rejected]) -> None:
        """Keep these lines; one that is there is replaced."""
        writes = [
            ReplaceOne(
                {"_id": f"{drop}:{line.line}"},
                {
                    "_id": f"{drop}:{line.line}", "drop": drop, "line": line.line, "offset": line.offset, "reason": line.reason.value,
                    "detail": line.detail, "raw": Binary(line.raw[:KEPT_BYTES]),
                },
                upsert=True,
            )
            for line in lines
        ]  # fmt: skip
        if writes:
            self._lines.bulk_write(writes, ordered=False)

    def clear(self, drop: str) -> None:
        """Forget the lines of a drop that is about to be judged anew."""
        self._lines.delete_many({"drop": drop})

    def of_drop(self, drop: str, *, limit: int = 100) -> list[Rejected]:
        """The lines of a drop in order."""
        found = self._lines.find({"drop": drop}).sort("line", ASCENDING).limit(limit)
        return [
            Rejected(
                line=line["line"],
                offset=line["offset"],
                reason=Reason(line["reason"]),
                detail=line["detail"],
                raw=bytes(line["raw"]),
            )
            for line in found
        ]

    def reasons_of(self, drops: Sequence[str]) -> dict[str, int]:
        """How many lines of these drops are kept out, by reason."""
        groups = self._lines.aggregate(
            [{"$match": {"drop": {"$in": list(drops)}}}, {"$group": {"_id": "$reason", "n": {"$sum": 1}}}, {"$sort": {"n": -1}}]
        )
        return {group["_id"]: group["n"] for group in groups}

    def count(self, drops: Sequence[str]) -> int:
        """How many lines of these drops are kept out."""
        return self._lines.count_documents({"drop": {"$in": list(drops)}})
