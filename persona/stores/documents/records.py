"""Messages and events as they were accepted: the truth that every projection is computed from. No ledger, no vectors."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from pymongo import ASCENDING, DESCENDING, IndexModel
from pymongo.client_session import ClientSession
from pymongo.collection import Collection as MongoCollection
from pymongo.database import Database

from persona.schemas import Event
from persona.stores._chunks import chunks
from persona.stores.documents._errors import translated

if TYPE_CHECKING:
    import pyarrow as pa

HASHES_PER_QUERY = 50_000
AT_ONCE = 2_000
"""Of all records: more of them make no answer sooner, and fill fresh memory each time."""
INDEXES = [
    # in the order in which they were written, so that reading a whole drop does not jump to and fro
    IndexModel([("drop", ASCENDING)], name="by_drop"),
    # whom a drop touched, and with which campaigns, is answered from the index alone: every stage and most checks ask it
    IndexModel([("drop", ASCENDING), ("user_id", ASCENDING), ("campaign_id", ASCENDING)], name="touched_by_drop"),
    IndexModel(
        [("drop", ASCENDING), ("text_hash", ASCENDING)],
        name="texts_by_drop",
        partialFilterExpression={"text_hash": {"$exists": True}},
    ),
    IndexModel([("user_id", ASCENDING), ("timestamp", DESCENDING)], name="by_user_and_time"),
    # which of these users ever expressed anything? Answered without touching the records of those who only clicked.
    IndexModel([("user_id", ASCENDING)], name="expressive", partialFilterExpression={"expressive": True}),
    # who unsubscribed from what is answered from this alone
    IndexModel(
        [("event", ASCENDING), ("user_id", ASCENDING), ("campaign_id", ASCENDING), ("channel", ASCENDING)],
        name="unsubscribed",
        partialFilterExpression={"event": "unsubscribe"},
    ),
    IndexModel([("timestamp", DESCENDING)], name="newest"),
    IndexModel(
        [("intent", ASCENDING), ("text_hash", ASCENDING)], name="given", partialFilterExpression={"intent": {"$exists": True}}
    ),
]
A_CAMPAIGN, A_TEXT = {"campaign_id": {"$gte": ""}}, {"text_hash": {"$gte": ""}}
"""Any: unlike `$exists`, a range is answered from an index."""
NEGATIVE = [Event.DISMISS, Event.UNSUBSCRIBE]
EVENT_COUNTS = {event.value: {"$sum": {"$cond": [{"$eq": ["$event", event.value]}, 1, 0]}} for event in Event}
FOLD_PAIRS: list[dict[str, Any]] = [
    {
        "$group": {
            "_id": {"user_id": "$user_id", "campaign_id": "$campaign_id"},
            **EVENT_COUNTS,
            "value": {"$sum": {"$ifNull": ["$value", 0]}},
            "first_at": {"$min": "$timestamp"},
            "last": {"$max": {"at": "$timestamp", "message_id": "$_id"}},
            "last_negative_at": {"$max": {"$cond": [{"$in": ["$event", NEGATIVE]}, "$timestamp", None]}},
            "last_positive_at": {"$max": {"$cond": [{"$in": ["$event", NEGATIVE]}, None, "$timestamp"]}},
        }
    }
]
CHARACTERS = {"$strLenCP": {"$ifNull": ["$message", ""]}}
"""How long what was said is, without reading it."""
HISTORY: dict[str, Any] = {
    "user_id": 1, "timestamp": 1, "text_hash": 1, "conversation_id": 1, "event": 1, "campaign_id": 1, "intent": 1,
    "characters": CHARACTERS,
}  # fmt: skip
LIVE: dict[str, Any] = HISTORY | {"channel": 1, "value": 1}
FACT = {
    "user_id": 1, "timestamp": 1, "text_hash": 1, "drop": 1, "event": 1, "campaign_id": 1, "intent": 1, "channel": 1, "value": 1,
}  # fmt: skip
LOOKED_THROUGH = 5_000
"""Records of one person, the newest, that are looked at where not all of them are asked for."""
ORIGIN = {"timestamp": 1, "event": 1, "campaign_id": 1, "drop": 1, "line": 1}

SAID: dict[str, Any] = {"user_id": 1, "timestamp": 1, "text_hash": 1, "conversation_id": 1, "characters": CHARACTERS}
REPLAYED = HISTORY | {"channel": 1}
BY_USER_AND_TIME = [("user_id", ASCENDING), ("timestamp", ASCENDING), ("_id", ASCENDING)]


@dataclass(frozen=True, slots=True)
class Conflict:
    """A record whose id is taken by another record with other content."""

    index: int
    """Position in the batch that was inserted."""
    existing_drop: str
    existing_line: int


@dataclass(frozen=True, slots=True)
class Inserted:
    """What became of a batch: every record is in exactly one of the three."""

    accepted: int
    duplicate: int
    conflicts: list[Conflict]


@translated
class Records:
    """The accepted records, keyed by message id."""

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        self._records: MongoCollection[dict[str, Any]] = database["records"]
        self._handed_on: tuple[str, pa.Table] | None = None

    def ensure_indexes(self) -> None:
        """Create what the queries need; harmless when there."""
        self._records.create_indexes(INDEXES)

    def insert(self, batch: Sequence[dict[str, Any]], *, session: ClientSession | None = None) -> Inserted:
        """Insert documents (see `intake.records.to_document`), the first of an id wins; in a transaction all or none.

        One that is there from the same (drop, line) counts as accepted again, so that a retried drop ends with the same counts.
        """
        # asked before, not learned from refusals: one refusal ends a transaction
        ids = {"_id": {"$in": [document["_id"] for document in batch]}}
        first = {found["_id"]: found for found in self._records.find(ids, {"digest": 1, "drop": 1, "line": 1}, session=session)}
        new: list[dict[str, Any]] = []
        again, duplicate, conflicts = 0, 0, []
        for index, ours in enumerate(batch):
            theirs = first.setdefault(ours["_id"], ours)
            if theirs is ours:
                new.append(ours)
            elif theirs["digest"] != ours["digest"]:
                conflicts.append(Conflict(index, theirs["drop"], theirs["line"]))
            elif (theirs["drop"], theirs["line"]) == (ours["drop"], ours["line"]):
                again += 1
            else:
                duplicate += 1
        if new:
            self._records.insert_many(new, session=session)
        return Inserted(accepted=len(new) + again, duplicate=duplicate, conflicts=conflicts)

    def lines_of(self, drop: str) -> set[int]:
        """The lines of this drop whose records are stored."""
        return {
            found["line"]
            for found in self._records.find({"drop": drop}, {"_id": 0, "line": 1}, batch_size=50_000, hint="by_drop")
        }

    def remove_drops(self, drops: Sequence[str], *, limit: int, session: ClientSession) -> int:
        """Remove up to `limit` records of drops that are not accepted; return how many there were."""
        query = {"drop": {"$in": list(drops)}}
        ids = [found["_id"] for found in self._records.find(query, {"_id": 1}, session=session, hint="by_drop").limit(limit)]
        return self._records.delete_many({"_id": {"$in": ids}}, session=session).deleted_count if ids else 0

    # -- what a set of drops touched --------------------------------------------------------------------------------------

    def users_of(self, drops: Sequence[str]) -> list[str]:
        """The distinct users with a record from these drops, in a stable order."""
        groups = self._records.aggregate(
            [{"$match": {"drop": {"$in": list(drops)}}}, {"$group": {"_id": "$user_id"}}, {"$sort": {"_id": 1}}],
            hint="touched_by_drop",
            allowDiskUse=True,
        )
        return [group["_id"] for group in groups]

    def pairs_of(self, drops: Sequence[str], users: Sequence[str]) -> Iterator[tuple[str, str]]:
        """The distinct (user, campaign) pairs of these users with a record from these drops."""
        groups = self._records.aggregate(
            [
                {"$match": {"drop": {"$in": list(drops)}, "user_id": {"$in": list(users)}, **A_CAMPAIGN}},
                {"$group": {"_id": {"user_id": "$user_id", "campaign_id": "$campaign_id"}}},
            ],
            hint="touched_by_drop",
        )
        for group in groups:
            yield group["_id"]["user_id"], group["_id"]["campaign_id"]

    def texts_of(self, drops: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Each distinct text of these drops once, as (hash, text), shortest first."""
        groups = self._records.aggregate(
            [
                {"$match": {"drop": {"$in": list(drops)}, **A_TEXT}},
                {"$group": {"_id": "$text_hash", "text": {"$first": "$message"}}},
                {"$set": {"length": {"$strLenCP": "$text"}}},
                {"$sort": {"length": 1, "_id": 1}},
            ],
            hint="texts_by_drop",
            allowDiskUse=True,
        )
        for group in groups:
            yield group["_id"], group["text"]

    def text_hashes_of(self, drops: Sequence[str]) -> Iterator[str]:
        """The distinct text hashes of these drops."""
        groups = self._records.aggregate(
            [{"$match": {"drop": {"$in": list(drops)}, **A_TEXT}}, {"$group": {"_id": "$text_hash"}}],
            hint="texts_by_drop",
            allowDiskUse=True,
        )
        for group in groups:
            yield group["_id"]

    def engagements_of_drops(self, drops: Sequence[str]) -> Iterator[dict[str, Any]]:
        """The records of these drops that name a campaign (fields of `FACT`)."""
        of_drops = {"drop": {"$in": list(drops)}, "campaign_id": {"$exists": True}}
        yield from self._records.find(of_drops, FACT, batch_size=10_000, hint="by_drop")

    # -- the truth about everybody ----------------------------------------------------------------------------------------

    def users_after(self, last: str, *, limit: int) -> list[str]:
        """The next `limit` users after this id, in the order of the ids."""
        users: list[str] = []
        found = self._records.find({"user_id": {"$gt": last}}, {"_id": 0, "user_id": 1}, hint="by_user_and_time")
        for record in found.sort([("user_id", ASCENDING), ("timestamp", DESCENDING)]):
            if not users or record["user_id"] != users[-1]:
                if len(users) == limit:
                    break
                users.append(record["user_id"])
        return users

    def known_among(self, users: Sequence[str]) -> set[str]:
        """Which of these users have a record."""
        groups = self._records.aggregate([{"$match": {"user_id": {"$in": list(users)}}}, {"$group": {"_id": "$user_id"}}])
        return {group["_id"] for group in groups}

    def replayable(self, *, words: bool = False) -> "pa.Table":
        """Everybody's records in columns (`REPLAYED`, with `words` what was said too, null where there is none), in no order.

        Millions of records are read in a third of the time that documents would take, most of it the server's.
        """
        import pyarrow as pa  # with pandas half a second to import: who only answers does not read everything
        from pymongoarrow.api import Schema, find_arrow_all

        fields = REPLAYED | ({"message": 1} if words else {})
        types = {"timestamp": pa.timestamp("ms"), "characters": pa.int64()}
        schema = Schema({"_id": pa.string()} | {field: types.get(field, pa.string()) for field in fields})

        def read(query: dict[str, Any], **options: Any) -> "pa.Table":
            return find_arrow_all(self._records, query, schema=schema, batch_size=AT_ONCE, parallelism="threads", **options)

        # computing how long a text is slows the server down where there is none, too
        but_lengths = [field for field in fields if field != "characters"]
        with ThreadPoolExecutor(thread_name_prefix="replayable") as reading:
            without_text = reading.submit(read, {"text_hash": {"$exists": False}}, projection=but_lengths)
            with_text = reading.submit(read, A_TEXT, projection=fields, hint="texts_by_drop")
        return pa.concat_tables([without_text.result(), with_text.result()])

    def hand_on(self, state: str, records: "pa.Table") -> None:
        """Keep what `replayable` read of this state of the truth for the one who needs it next in this process."""
        self._handed_on = state, records

    def handed_on(self, state: str) -> "pa.Table | None":
        """What was kept of this state, once; whatever was kept is let go."""
        kept, self._handed_on = self._handed_on, None
        return kept[1] if kept and kept[0] == state else None

    # -- the truth about people -------------------------------------------------------------------------------------------

    def folded_pairs(self, users: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Every (user, campaign) pair of these users: counts by event, value, first and last time."""
        yield from self._records.aggregate(
            [{"$match": {"user_id": {"$in": list(users)}, "campaign_id": {"$exists": True}}}, *FOLD_PAIRS], allowDiskUse=True
        )

    def expressive_among(self, users: Sequence[str]) -> list[str]:
        """Which of these users ever sent a text or had an intent given."""
        groups = self._records.aggregate(
            [{"$match": {"user_id": {"$in": list(users)}, "expressive": True}}, {"$group": {"_id": "$user_id"}}],
            hint="expressive",
        )
        return sorted(group["_id"] for group in groups)

    def engagements_of(self, users: Sequence[str]) -> Iterator[dict[str, Any]]:
        """The records of these users that name a campaign (fields of `FACT`)."""
        query = {"user_id": {"$in": list(users)}, "campaign_id": {"$exists": True}}
        yield from self._records.find(query, FACT, batch_size=10_000)

    def histories(self, users: Sequence[str]) -> Iterator[dict[str, Any]]:
        """All records of these users (fields of `HISTORY`), by user, then time, then id."""
        yield from self._records.find({"user_id": {"$in": list(users)}}, HISTORY, batch_size=10_000).sort(BY_USER_AND_TIME)

    def history_of(self, user_id: str) -> list[dict[str, Any]]:
        """All records of this person (fields of `LIVE`: all that counts for an answer), by time then id, as of one moment."""
        return list(self._records.find({"user_id": user_id}, LIVE, batch_size=10_000).sort(BY_USER_AND_TIME))

    def messages_of(self, users: Sequence[str], *, characters: int) -> Iterator[dict[str, Any]]:
        """The records of these users that have a text (fields of `SAID`, and how each begins), in the order of `histories`."""
        beginning = {"message": {"$substrCP": ["$message", 0, characters]}}
        query = {"user_id": {"$in": list(users)}, **A_TEXT}
        yield from self._records.find(query, SAID | beginning, batch_size=10_000).sort(BY_USER_AND_TIME)

    def decisions_of(self, user_id: str, *, impressions_since: datetime) -> list[dict[str, Any]]:
        """What policy looks at: the user's conversions, dismissals, unsubscriptions, and impressions since a time."""
        lasting = {"user_id": user_id, "event": {"$in": ["conversion", "dismiss", "unsubscribe"]}}
        recent = {"user_id": user_id, "event": "impression", "timestamp": {"$gte": impressions_since}}
        return list(self._records.find({"$or": [lasting, recent]}, {"event": 1, "campaign_id": 1, "channel": 1, "timestamp": 1}))

    def unsubscribed(self) -> dict[str, set[tuple[str | None, str]]]:
        """Everybody who unsubscribed, by user id: from which campaign (None: from more than one) and on which channel."""
        query, fields = {"event": "unsubscribe"}, {"_id": 0, "user_id": 1, "campaign_id": 1, "channel": 1}
        of_user: dict[str, set[tuple[str | None, str]]] = {}
        for found in self._records.find(query, fields, batch_size=50_000, hint="unsubscribed"):
            of_user.setdefault(found["user_id"], set()).add((found.get("campaign_id"), found["channel"]))
        return of_user

    def given_intents(self) -> Iterator[tuple[str, str, int]]:
        """Text hash, an intent that messages with this text were given, and how many were."""
        groups = self._records.aggregate(
            [
                {"$match": {"intent": {"$gte": ""}, **A_TEXT}},
                {"$group": {"_id": {"text_hash": "$text_hash", "intent": "$intent"}, "n": {"$sum": 1}}},
            ],
            hint="given",
            allowDiskUse=True,
        )
        for group in groups:
            yield group["_id"]["text_hash"], group["_id"]["intent"], group["n"]

    def someone(self) -> str | None:
        """A person who expressed something, if there is any: to show what an answer looks like."""
        found = self._records.find_one({"expressive": True}, {"user_id": 1}, hint="expressive", sort=[("user_id", ASCENDING)])
        return found["user_id"] if found else None

    def newest_users(self, limit: int) -> list[str]:
        """At most `limit` users: those of the newest records, by their newest one, newest first."""
        users: dict[str, None] = {}
        for record in self._records.find({}, {"_id": 0, "user_id": 1}).sort([("timestamp", DESCENDING)]):
            users.setdefault(record["user_id"])
            if len(users) == limit:
                break
        return list(users)

    def newest_timestamp(self) -> datetime | None:
        """The time of the newest accepted record, UTC."""
        newest = self._records.find_one({}, {"timestamp": 1}, sort=[("timestamp", DESCENDING)])
        return newest["timestamp"] if newest else None

    def count(self, drops: Iterable[str] | None = None) -> int:
        """The number of records, of these drops or altogether."""
        query: Mapping[str, Any] = {} if drops is None else {"drop": {"$in": list(drops)}}
        return self._records.count_documents(query) if query else self._records.estimated_document_count()

    def count_engagements(self, drops: Sequence[str] | None = None) -> int:
        """The number of records that name a campaign, of these drops or altogether."""
        scope = {} if drops is None else {"drop": {"$in": list(drops)}}
        return self._records.count_documents({**scope, **A_CAMPAIGN})

    def count_users(self) -> int:
        """The number of distinct users."""
        return self._count_groups({}, "$user_id")

    def count_speakers(self) -> int:
        """The number of distinct users who ever sent a text."""
        return self._count_groups({"text_hash": {"$exists": True}}, "$user_id")

    def count_pairs(self) -> int:
        """The number of distinct (user, campaign) pairs."""
        return self._count_groups({"campaign_id": {"$exists": True}}, {"user": "$user_id", "campaign": "$campaign_id"})

    def count_mentions(self) -> int:
        """The number of distinct (user, campaign) pairs of which the user's texts name the campaign."""
        pairs = self._records.aggregate(
            [
                {"$match": A_TEXT},
                {"$group": {"_id": {"user": "$user_id", "text": "$text_hash"}}},
                {"$lookup": {"from": "mentions", "localField": "_id.text", "foreignField": "_id", "as": "mention"}},
                {"$unwind": "$mention"},
                {"$unwind": "$mention.campaign_ids"},
                {"$group": {"_id": {"user": "$_id.user", "campaign": "$mention.campaign_ids"}}},
                {"$count": "n"},
            ],
            allowDiskUse=True,
        )
        return next((int(found["n"]) for found in pairs), 0)

    def _count_groups(self, query: dict[str, Any], key: Any) -> int:
        counted = self._records.aggregate([{"$match": query}, {"$group": {"_id": key}}, {"$count": "n"}], allowDiskUse=True)
        return next((int(found["n"]) for found in counted), 0)

    def flawed_of(self, drops: Sequence[str], *, limit: int) -> list[dict[str, Any]]:
        """Records of these drops without an id, a user or a time, as (drop, line); empty when all is well."""
        query = {
            "drop": {"$in": list(drops)},
            "$or": [{"_id": {"$in": [None, ""]}}, {"user_id": {"$in": [None, ""]}}, {"timestamp": None}],
        }
        return list(self._records.find(query, {"_id": 0, "drop": 1, "line": 1}, hint="by_drop").limit(limit))

    # -- one person -------------------------------------------------------------------------------------------------------

    def of_user(self, user_id: str) -> Iterator[dict[str, Any]]:
        """Every record of this person whole, by time then id."""
        yield from self._records.find({"user_id": user_id}).sort([("timestamp", ASCENDING), ("_id", ASCENDING)])

    def newest_messages(self, user_id: str, *, limit: int) -> list[dict[str, Any]]:
        """This person's newest records with a text (fields of `ORIGIN`), newest first."""
        return self._newest({"user_id": user_id, **A_TEXT}, limit=limit)

    def between(self, user_id: str, campaign_id: str, *, limit: int) -> list[dict[str, Any]]:
        """This person's newest records that concern this campaign (fields of `ORIGIN`), newest first: an unsubscribe from all does."""
        concerning = [{"campaign_id": campaign_id}, {"event": Event.UNSUBSCRIBE, "campaign_id": {"$exists": False}}]
        return self._newest({"user_id": user_id, "$or": concerning}, limit=limit)

    def done_with(self, user_id: str, campaign_id: str) -> list[dict[str, Any]]:
        """All that this person did with this campaign (fields of `ORIGIN`), newest first; being shown it is none of their doing."""
        return self._newest(
            {"user_id": user_id, "campaign_id": campaign_id, "event": {"$ne": Event.IMPRESSION}}, limit=LOOKED_THROUGH
        )

    def naming(self, user_id: str, campaign_id: str, *, limit: int) -> list[dict[str, Any]]:
        """This person's newest messages whose words name this campaign (fields of `ORIGIN`), newest first."""
        return self._found_in_words("mentions", {"user_id": user_id, **A_TEXT}, {"found.campaign_ids": campaign_id}, limit)

    def expressing(self, user_id: str, intent: str, *, limit: int) -> list[dict[str, Any]]:
        """This person's newest records that were given this intent, or none and whose words show it (fields of `ORIGIN`), newest first."""
        may = {"user_id": user_id, "$or": [{"intent": intent}, {"intent": {"$exists": False}, **A_TEXT}]}
        return self._found_in_words("labels", may, {"$or": [{"intent": intent}, {"found.intent": intent}]}, limit)

    def _found_in_words(
        self, where: Literal["mentions", "labels"], query: dict[str, Any], found: dict[str, Any], limit: int
    ) -> list[dict[str, Any]]:
        newest = {"timestamp": DESCENDING}
        return list(
            self._records.aggregate(
                [
                    {"$match": query},
                    {"$sort": newest},
                    {"$limit": LOOKED_THROUGH},
                    {"$lookup": {"from": where, "localField": "text_hash", "foreignField": "_id", "as": "found"}},
                    {"$match": found},
                    {"$sort": {**newest, "_id": ASCENDING}},
                    {"$limit": limit},
                    {"$project": ORIGIN},
                ]
            )
        )

    def _newest(self, query: dict[str, Any], *, limit: int) -> list[dict[str, Any]]:
        return list(self._records.find(query, ORIGIN).sort([("timestamp", DESCENDING), ("_id", ASCENDING)]).limit(limit))

    def count_of_user(self, user_id: str) -> int:
        """How many records this person has."""
        return self._records.count_documents({"user_id": user_id})

    def newest_of_user(self, user_id: str) -> datetime | None:
        """The time of this person's newest record, UTC."""
        newest = self._records.find_one({"user_id": user_id}, {"timestamp": 1}, sort=[("timestamp", DESCENDING)])
        return newest["timestamp"] if newest else None

    def drops_of_user(self, user_id: str) -> dict[str, int]:
        """The drops that this person's records came with, and how many came with each."""
        groups = self._records.aggregate([{"$match": {"user_id": user_id}}, {"$group": {"_id": "$drop", "n": {"$sum": 1}}}])
        return {group["_id"]: group["n"] for group in groups}

    def texts_of_user_alone(self, user_id: str) -> set[str]:
        """The hashes of the texts that this person sent and nobody else."""
        texts: set[str] = set(self._records.distinct("text_hash", {"user_id": user_id, "text_hash": {"$exists": True}}))
        shared: set[str] = set()
        for part in chunks(sorted(texts), HASHES_PER_QUERY):
            # of any drop: from text to text through an index that begins with the drop, not through everybody's records
            others = {"drop": {"$gte": ""}, "text_hash": {"$in": part}, "user_id": {"$ne": user_id}}
            groups = self._records.aggregate([{"$match": others}, {"$group": {"_id": "$text_hash"}}], hint="texts_by_drop")
            shared |= {group["_id"] for group in groups}
        return texts - shared

    def remove_user(self, user_id: str) -> None:
        """Remove every record of this person."""
        self._records.delete_many({"user_id": user_id})
