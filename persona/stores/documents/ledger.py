"""The ledger: every drop and catalog that ever arrived, what became of it, and which asset applied it in which run.

An accepted entry lists in `pending` the sinks that have not applied it; a mark takes a sink off that list. So the question "what is
waiting?" costs what is waiting, however long the history is.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from pymongo import ASCENDING, DESCENDING, IndexModel, ReplaceOne, UpdateOne
from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.database import Database

from persona.stores._chunks import chunks
from persona.stores.documents._errors import translated

Kind = Literal["drop", "catalog"]
HEX = "0123456789abcdef"
HASHES_AT_ONCE = 5_000
INDEXES = [
    IndexModel([("pending", ASCENDING)], name="by_pending_sink", sparse=True),
    IndexModel([("state", ASCENDING), ("claimed_at", ASCENDING)], name="by_state"),
    IndexModel([("aliases", ASCENDING)], name="by_alias", sparse=True),
    IndexModel([("half_written", ASCENDING)], name="half_written", sparse=True),
    # what an asset applied last, in this run, or since: of every asset, whichever there are
    IndexModel([("marks.$**", ASCENDING)], name="by_mark"),
    IndexModel([("run_id", ASCENDING)], name="by_run"),
    IndexModel([("name", ASCENDING)], name="by_name"),
]
EVER = {"$gte": datetime(1970, 1, 1, tzinfo=UTC)}
"""Any time: unlike `$exists`, a range is answered from an index in its order."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of a drop's records; read = accepted + duplicate + quarantined + erased."""

    read: int = 0
    accepted: int = 0
    duplicate: int = 0
    quarantined: int = 0
    erased: int = 0

    @property
    def balanced(self) -> bool:
        """Whether every record that was read is accounted for."""
        return self.read == self.accepted + self.duplicate + self.quarantined + self.erased

    def as_dict(self) -> dict[str, int]:
        """By name, in the order of the contract."""
        return {
            "read": self.read, "accepted": self.accepted, "duplicate": self.duplicate,
            "quarantined": self.quarantined, "erased": self.erased,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Happening:
    """One line of an entry's history."""

    what: str
    run_id: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Entry:
    """One drop or catalog in the ledger."""

    id: str
    """SHA-256 of the content as it first arrived."""
    kind: Kind
    name: str
    size: int
    state: str
    """claimed | accepted | held | discarded for drops; loaded | refused for catalogs."""
    attempts: int = 0
    reason: str | None = None
    detail: str | None = None
    counts: Counts = field(default_factory=Counts)
    catalog: str | None = None
    """For catalogs: campaigns | intents | users."""
    run_id: str | None = None
    claimed_at: datetime | None = None
    changed_at: datetime | None = None
    """When its history got its latest line."""
    was_accepted: bool = False
    """Whether its records were ever accepted: what was accepted is not held any more."""
    released: bool = False
    """Whether a person let in what validates of it, whatever does not."""
    aliases: tuple[str, ...] = ()
    """SHA-256 of what it was gathered from, and of what its content became when people in it were erased."""


@translated
class Ledger:
    """Entries by content hash; files of the watched folders by path and stat."""

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        self._entries: Collection[dict[str, Any]] = database["ledger"]
        self._files: Collection[dict[str, Any]] = database["files"]
        self._state: Collection[dict[str, Any]] = database["state"]

    def ensure_indexes(self) -> None:
        """Create what the queries need; harmless when there."""
        self._entries.create_indexes(INDEXES)
        self._files.create_index("entry")

    # -- files ------------------------------------------------------------------------------------------------------------

    def unseen(self, signatures: Mapping[str, str]) -> list[str]:
        """Of these files (path to stat signature), the paths whose present content has not been claimed."""
        seen: dict[str, str] = {}
        paths = list(signatures)
        for start in range(0, len(paths), 5_000):
            for file in self._files.find({"_id": {"$in": paths[start : start + 5_000]}}):
                seen[file["_id"]] = file["signature"]
        return [path for path, signature in signatures.items() if seen.get(path) != signature]

    def remember_file(self, path: str, signature: str, entry: str) -> None:
        """Note that the file with this path and stat holds this entry's content."""
        self.remember_files({path: (signature, entry)})

    def remember_files(self, files: Mapping[str, tuple[str, str]]) -> None:
        """`remember_file` of several: path to stat signature and entry."""
        if files:
            self._files.bulk_write(
                [
                    ReplaceOne({"_id": path}, {"_id": path, "signature": signature, "entry": entry}, upsert=True)
                    for path, (signature, entry) in files.items()
                ]
            )

    def forget_files(self, entry: str) -> None:
        """Let the files that hold this content be claimed again: our copy of it is gone."""
        self._files.delete_many({"entry": entry})

    def in_a_file(self, entries: Sequence[str]) -> set[str]:
        """Which of these contents a watched file was last seen to hold."""
        return {found["entry"] for found in self._files.find({"entry": {"$in": list(entries)}}, {"entry": 1})}

    def entry_of_file(self, path: str) -> str | None:
        """The content that this path was last seen to hold."""
        found = self._files.find_one({"_id": path}, {"entry": 1})
        return found["entry"] if found else None

    # -- drops ------------------------------------------------------------------------------------------------------------

    def claim_all(self, drops: Sequence[tuple[str, str, int]], *, run_id: str) -> int:
        """Enter drops, as (hash, name, size), whose content has been copied; return how many are to be judged.

        Content that is known is not entered again. Of what is known, a drop that is held is judged again when it comes under another
        name: the name says which format is meant.
        """
        now = datetime.now(UTC)
        known = self.known_as([entry for entry, _, _ in drops])
        drops = [drop for drop in drops if drop[0] not in known]
        if not drops:
            return 0
        entered = self._entries.bulk_write(
            [
                UpdateOne({"_id": entry}, {"$setOnInsert": _claimed(name, size, run_id, now)}, upsert=True)
                for entry, name, size in drops
            ]
        )
        renamed = [
            UpdateOne(
                {"_id": entry, "state": "held", "name": {"$ne": name}},
                {
                    "$set": {"name": name, "state": "claimed", "attempts": 0, "run_id": run_id},
                    "$push": {"history": _line("claimed under another name", run_id, now)},
                },
            )
            for index, (entry, name, _) in enumerate(drops)
            if index not in (entered.upserted_ids or {})
        ]
        return entered.upserted_count + (self._entries.bulk_write(renamed).modified_count if renamed else 0)

    def claim_gathered(self, entry: str, parts: Sequence[str], *, name: str, size: int, run_id: str) -> int:
        """Enter a drop that several requests make up, known by the hash of each too; return 1 where it is new, else 0."""
        entered = self._entries.update_one(
            {"_id": entry},
            {
                "$setOnInsert": _claimed(name, size, run_id, datetime.now(UTC)),
                "$addToSet": {"aliases": {"$each": [part for part in parts if part != entry]}},
            },
            upsert=True,
        )
        return int(entered.upserted_id is not None)

    def claimed(self) -> list[Entry]:
        """Drops that wait to be judged and written, oldest first; those that were claimed together by name."""
        waiting = self._entries.find({"state": "claimed"}).sort([("claimed_at", 1), ("name", 1), ("_id", 1)])
        return [_entry(found) for found in waiting]

    def begin_attempt(self, entry: str) -> int:
        """Count one more run that starts on this drop; return how many began without ending."""
        found = self._entries.find_one_and_update(
            {"_id": entry}, {"$inc": {"attempts": 1}}, {"attempts": 1}, return_document=True
        )
        return int(found["attempts"]) if found else 0

    def read_again(self, entries: Sequence[str], *, what: str, run_id: str, released: bool = False) -> None:
        """Let these drops be judged again from their claimed copies; `what` is the line of their history."""
        again = {"state": "claimed", "attempts": 0, **({"released": True} if released else {})}
        self._entries.update_many(
            {"_id": {"$in": list(entries)}, "kind": "drop"},
            {"$set": again, "$unset": {"pending": ""}, "$push": {"history": _line(what, run_id)}},
        )

    def end_attempt(self, entry: str) -> None:
        """The run ended on its own feet, well or not: what counts as a crash starts anew."""
        self._entries.update_one({"_id": entry}, {"$set": {"attempts": 0}})

    def begin_writing(self, entry: str, *, session: ClientSession) -> None:
        """Some of the drop's records are written, and until it is accepted they may not be all."""
        self._entries.update_one({"_id": entry}, {"$set": {"half_written": True}}, session=session)

    def half_written(self) -> list[str]:
        """The drops of which some records are written and that are not accepted."""
        return [found["_id"] for found in self._entries.find({"half_written": True}, {"_id": 1})]

    def end_writing(self, entries: Sequence[str], *, session: ClientSession) -> None:
        """No record of these drops is written any more."""
        self._entries.update_many({"_id": {"$in": list(entries)}}, {"$unset": {"half_written": ""}}, session=session)

    def hold(
        self, entry: str, *, reason: str, detail: str, counts: Counts, run_id: str, session: ClientSession | None = None
    ) -> None:
        """Keep the whole claimed drop out, with the reason; its copy stays."""
        self._entries.update_one(
            {"_id": entry, "state": "claimed"},
            {
                "$set": {
                    "state": "held", "reason": reason, "detail": detail, "counts": counts.as_dict(), "run_id": run_id, "attempts": 0,
                },
                "$unset": {"released": ""},
                "$push": {"history": _line(f"held: {reason}", run_id)},
            },
            session=session,
        )  # fmt: skip

    def accept(
        self, entry: str, *, counts: Counts, sinks: Sequence[str], run_id: str, what: str = "accepted", session: ClientSession
    ) -> None:
        """All of the drop's records are written: from now on it waits for these sinks."""
        self._entries.update_one(
            {"_id": entry},
            {
                "$set": {
                    "state": "accepted", "counts": counts.as_dict(), "run_id": run_id, "attempts": 0, "pending": list(sinks),
                    "marks.raw_conversations": {"run_id": run_id, "at": datetime.now(UTC)},
                },
                "$unset": {"reason": "", "detail": "", "half_written": ""},
                "$push": {"history": _line(what, run_id)},
            },
            session=session,
        )  # fmt: skip

    def discard(self, entries: Sequence[str], *, run_id: str) -> None:
        """Set these held drops aside for good: they ask for nothing any more, and nothing of them is forgotten."""
        self._entries.update_many(
            {"_id": {"$in": list(entries)}, "kind": "drop", "state": "held"},
            {"$set": {"state": "discarded"}, "$push": {"history": _line("discarded", run_id)}},
        )

    def replace(self, entry: str, new: str, *, name: str, size: int, run_id: str, session: ClientSession) -> None:
        """Enter a mended drop that takes this one's place; one that was held is discarded, and both histories say so."""
        now = datetime.now(UTC)
        document = _claimed(name, size, run_id, now)
        document["history"].append(_line(f"replaces {entry}", run_id, now))
        self._entries.insert_one({"_id": new, **document}, session=session)
        replaced = f"replaced by {new}"
        self._entries.update_one({"_id": entry}, {"$push": {"history": _line(replaced, run_id, now)}}, session=session)
        self._entries.update_one(
            {"_id": entry, "state": "held"}, {"$set": {"state": "discarded", "detail": replaced}}, session=session
        )

    def drops_called(self, name: str) -> list[Entry]:
        """The drops with this file name, hash, or beginning of a hash."""
        named: list[dict[str, Any]] = [{"name": name}]
        if name and not name.lower().strip(HEX):
            named.append({"_id": {"$gte": name.lower(), "$lt": f"{name.lower()}g"}})
        found = self._entries.find({"kind": "drop", "$or": named}).sort([("claimed_at", 1), ("_id", 1)])
        return [_entry(document) for document in found]

    def add_alias(self, entry: str, sha256: str, *, session: ClientSession | None = None) -> None:
        """Know the drop under this hash too: what its content became when people in it were erased."""
        self._entries.update_one({"_id": entry}, {"$addToSet": {"aliases": sha256}}, session=session)

    def known_as(self, hashes: Sequence[str]) -> dict[str, str]:
        """Of these hashes those that are an entry's alias, each with the entry."""
        found = self._entries.find({"aliases": {"$in": list(hashes)}}, {"aliases": 1})
        wanted = set(hashes)
        return {alias: entry["_id"] for entry in found for alias in entry["aliases"] if alias in wanted}

    def entries_of(self, hashes: Sequence[str]) -> dict[str, str]:
        """Of these hashes those that are known, as an entry's id or alias, each with the entry."""
        found: dict[str, str] = {}
        for part in chunks(hashes, HASHES_AT_ONCE):
            ids = {entry["_id"]: entry["_id"] for entry in self._entries.find({"_id": {"$in": part}}, {"_id": 1})}
            found |= self.known_as(part) | ids
        return found

    def recount(self, entry: str, counts: Counts, *, what: str, run_id: str) -> None:
        """Replace the drop's counts, with a line of its history that says why."""
        self._entries.update_one(
            {"_id": entry}, {"$set": {"counts": counts.as_dict()}, "$push": {"history": _line(what, run_id)}}
        )

    def history(self, entry: str) -> list[Happening]:
        """What was done with this entry, oldest first."""
        found = self._entries.find_one({"_id": entry}, {"history": 1}) or {}
        return [Happening(line["what"], line["run_id"], line["at"]) for line in found.get("history", ())]

    # -- catalogs ---------------------------------------------------------------------------------------------------------

    def load_catalog(
        self, entry: str, *, name: str, size: int, catalog: str, records: int, sinks: Sequence[str], run_id: str
    ) -> None:
        """Enter a catalog whose content is in force now; loaded again, it waits again for every sink."""
        now = datetime.now(UTC)
        counts = Counts(read=records, accepted=records)
        self._entries.update_one(
            {"_id": entry},
            {
                "$setOnInsert": {"claimed_at": now},
                "$set": {
                    "kind": "catalog", "catalog": catalog, "name": name, "size": size, "state": "loaded", "counts": counts.as_dict(),
                    "run_id": run_id, "pending": list(sinks), "loaded_at": now, "marks.catalogs": {"run_id": run_id, "at": now},
                },
                "$unset": {"reason": "", "detail": ""},
                "$push": {"history": _line("loaded", run_id, now)},
            },
            upsert=True,
        )  # fmt: skip

    def refuse_catalog(self, entry: str, *, name: str, size: int, detail: str, run_id: str) -> None:
        """Enter a catalog that does not validate; what was in force stays."""
        now = datetime.now(UTC)
        self._entries.update_one(
            {"_id": entry},
            {
                "$setOnInsert": {"claimed_at": now},
                "$set": {
                    "kind": "catalog", "name": name, "size": size, "state": "refused", "detail": detail, "run_id": run_id,
                    "counts": Counts().as_dict(),
                },
                "$push": {"history": _line("refused", run_id, now)},
            },
            upsert=True,
        )  # fmt: skip

    # -- sinks ------------------------------------------------------------------------------------------------------------

    def pending(self, sink: str, *, upstream: Sequence[str]) -> list[Entry]:
        """Entries that every sink upstream has applied and this one has not, oldest first."""
        query = {"$and": [{"pending": sink}, {"pending": {"$nin": list(upstream)}}]}
        return [_entry(found) for found in self._entries.find(query).sort([("claimed_at", 1), ("_id", 1)])]

    def get(self, entries: Sequence[str]) -> list[Entry]:
        """These entries, in the order given; unknown ones are absent."""
        found = {document["_id"]: _entry(document) for document in self._entries.find({"_id": {"$in": list(entries)}})}
        return [found[entry] for entry in entries if entry in found]

    def mark(
        self, sink: str, entries: Sequence[str], *, run_id: str, token: int, code_version: str, session: ClientSession
    ) -> None:
        """This sink has applied these entries, under the lease with this token; those that were overtaken since go on waiting."""
        mark = {"run_id": run_id, "token": token, "at": datetime.now(UTC), "code_version": code_version}
        for start in range(0, len(entries), 5_000):
            self._entries.update_many(
                {"_id": {"$in": list(entries[start : start + 5_000])}, f"overtaken.{sink}": {"$not": {"$gte": token}}},
                {"$pull": {"pending": sink}, "$set": {f"marks.{sink}": mark}},
                session=session,
            )

    def reopen(
        self, sinks: Sequence[str], *, kinds: Sequence[Kind] = ("drop", "catalog"), entries: Sequence[str] | None = None
    ) -> None:
        """Let every accepted drop and loaded catalog, or these, wait for these sinks again, each only for those it concerns."""
        among = {} if entries is None else {"_id": {"$in": list(entries)}}
        query = {**among, "kind": {"$in": list(kinds)}, "state": {"$in": ["accepted", "loaded"]}}
        for sink in sinks:
            self._entries.update_many({**query, f"marks.{sink}": {"$exists": True}}, {"$addToSet": {"pending": sink}})

    def reopen_outdated(self, sink: str, *, code_version: str) -> None:
        """Let what another version of the sink's code has applied wait for it again; looked for once after each change of version."""
        if self._state.find_one({"_id": "code_versions", sink: code_version}):
            return
        outdated = {f"marks.{sink}.code_version": {"$exists": True, "$ne": code_version}}
        self._entries.update_many({**outdated, "state": {"$in": ["accepted", "loaded"]}}, {"$addToSet": {"pending": sink}})
        self._state.update_one({"_id": "code_versions"}, {"$set": {sink: code_version}}, upsert=True)

    def overtake(self, sink: str, entries: Sequence[str], *, token: int) -> None:
        """Let these wait for the sink, whoever marks them: under leases up to this token, what it holds of them may be outdated."""
        self._entries.update_many(
            {"_id": {"$in": list(entries)}, "state": {"$in": ["accepted", "loaded"]}},
            {"$addToSet": {"pending": sink}, "$max": {f"overtaken.{sink}": token}},
        )

    def applied(self, asset: str, *, run_id: str | None = None) -> list[Entry]:
        """What this asset applied in this run; without a run, in its latest."""
        if run_id is None:
            latest = self._entries.find_one({f"marks.{asset}.at": EVER}, {"marks": 1}, sort=[(f"marks.{asset}.at", DESCENDING)])
            if latest is None:
                return []
            run_id = latest["marks"][asset]["run_id"]
        found = self._entries.find({f"marks.{asset}.run_id": run_id, "pending": {"$ne": asset}})
        return [_entry(document) for document in found.sort([("claimed_at", 1), ("_id", 1)])]

    def applied_since(self, sink: str, token: int) -> list[str]:
        """The drops that this sink applied under leases later than the one with this token."""
        found = self._entries.find({"kind": "drop", f"marks.{sink}.token": {"$gt": token}}, {"_id": 1})
        return [entry["_id"] for entry in found]

    def to_check(self, asset: str, *, downstream: Sequence[str]) -> list[Entry]:
        """What a blocking check looks at: what the asset's latest run applied, and what it ever applied that is still on its way.

        So a fault goes on blocking what it is in until it is mended, whatever comes after it; and costs nothing afterwards.
        """
        on_its_way = {
            f"marks.{asset}": {"$exists": True},
            "$and": [{"pending": {"$in": list(downstream)}}, {"pending": {"$ne": asset}}],
        }
        entries = {document["_id"]: _entry(document) for document in self._entries.find(on_its_way)}
        return list({**entries, **{entry.id: entry for entry in self.applied(asset)}}.values())

    def judged_in(self, run_id: str) -> list[Entry]:
        """The drops that this run accepted or held."""
        found = self._entries.find({"kind": "drop", "state": {"$in": ["accepted", "held"]}, "run_id": run_id})
        return [_entry(document) for document in found.sort([("claimed_at", 1), ("_id", 1)])]

    def fingerprint(self, asset: str) -> str:
        """A short hash of everything this asset has applied: the same set, the same fingerprint, in whatever order it came."""
        digest = hashlib.sha256()
        query = {f"marks.{asset}": {"$exists": True}, "pending": {"$ne": asset}}
        for found in self._entries.find(query, {"loaded_at": 1}).sort("_id", 1):
            digest.update(found["_id"].encode())
            digest.update(str(found.get("loaded_at", "")).encode())
        return digest.hexdigest()[:16]

    def arrivals(self, *, applied_by: Sequence[str] = ()) -> str:
        """A short hash of the drops that have been judged and, where they were accepted, applied by all these sinks."""
        digest = hashlib.sha256()
        query = {"kind": "drop", "state": {"$ne": "claimed"}, "pending": {"$nin": list(applied_by)}}
        for found in self._entries.find(query, {"_id": 1}).sort("_id", 1):
            digest.update(found["_id"].encode())
        return digest.hexdigest()[:16]

    def waiting(self, sinks: Sequence[str]) -> int:
        """How many entries wait to be judged, or for one of these sinks."""
        return self._entries.count_documents({"$or": [{"state": "claimed"}, {"pending": {"$in": list(sinks)}}]})

    def oldest_waiting(self, sinks: Sequence[str]) -> datetime | None:
        """When the entry that has waited longest, to be judged or for one of these sinks, was claimed."""
        query = {"$or": [{"state": "claimed"}, {"pending": {"$in": list(sinks)}}]}
        found = self._entries.find_one(query, {"claimed_at": 1}, sort=[("claimed_at", 1)])
        return found["claimed_at"] if found else None

    def ids(self, kind: Kind) -> list[str]:
        """Every entry of a kind, whatever became of it, in order."""
        return [found["_id"] for found in self._entries.find({"kind": kind}, {"_id": 1}).sort("_id", 1)]

    def all_of(self, kind: Kind, *, states: Iterable[str]) -> list[Entry]:
        """Every entry of a kind in these states, oldest first."""
        query = {"kind": kind, "state": {"$in": list(states)}}
        return [_entry(found) for found in self._entries.find(query).sort([("claimed_at", 1), ("_id", 1)])]

    def count(self, state: str) -> int:
        """The number of entries in this state."""
        return self._entries.count_documents({"state": state})


def _line(what: str, run_id: str, at: datetime | None = None) -> dict[str, Any]:
    return {"what": what, "run_id": run_id, "at": at or datetime.now(UTC)}


def _claimed(name: str, size: int, run_id: str, at: datetime) -> dict[str, Any]:
    return {
        "kind": "drop", "name": name, "size": size, "state": "claimed", "attempts": 0, "counts": Counts().as_dict(),
        "claimed_at": at, "run_id": run_id, "history": [_line("claimed", run_id, at)],
    }  # fmt: skip


def _entry(document: Mapping[str, Any]) -> Entry:
    return Entry(
        id=document["_id"],
        kind=document["kind"],
        name=document["name"],
        size=document["size"],
        state=document["state"],
        attempts=document.get("attempts", 0),
        reason=document.get("reason"),
        detail=document.get("detail"),
        counts=Counts(**document["counts"]),
        catalog=document.get("catalog"),
        run_id=document.get("run_id"),
        claimed_at=document.get("claimed_at"),
        changed_at=document["history"][-1]["at"] if document.get("history") else None,
        was_accepted="raw_conversations" in document.get("marks", {}),
        released=document.get("released", False),
        aliases=tuple(document.get("aliases", ())),
    )
