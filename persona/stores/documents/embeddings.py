"""Vectors, intent labels and named campaigns of distinct texts, keyed by the text's hash. No model is run here."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from bson.binary import Binary
from pymongo import ReplaceOne
from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.database import Database

from persona.errors import EmbeddingMismatch
from persona.schemas import Vector, Vectors
from persona.stores._chunks import chunks
from persona.stores.documents._errors import translated

CHUNK = 5_000
COLLECTIONS = {"_id": "collections"}


def text_hash(text: str) -> str:
    """The key of all that is known of a text: equal texts, equal keys."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@translated
class Embeddings:
    """text hash to vector, to the intent inferred from it, and to the campaigns that the text names."""

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        self._vectors: Collection[dict[str, Any]] = database["embeddings"]
        self._labels: Collection[dict[str, Any]] = database["labels"]
        self._mentions: Collection[dict[str, Any]] = database["mentions"]
        self._centroids: Collection[dict[str, Any]] = database["centroids"]
        self._state: Collection[dict[str, Any]] = database["state"]

    def ensure_indexes(self) -> None:
        """Make what asking for the newest runs needs."""
        self._centroids.create_index("at")

    def agree_on(self, fingerprint: str, dimension: int) -> None:
        """Take this model for the stored vectors, or raise `EmbeddingMismatch` when they come from another."""
        agreed = {"fingerprint": fingerprint, "dimension": dimension}
        self._state.update_one({"_id": "embedding_model"}, {"$setOnInsert": agreed}, upsert=True)
        stored = self.model()
        if stored is not None and stored != (fingerprint, dimension):
            raise EmbeddingMismatch(
                f"the stored vectors are {stored[0]} ({stored[1]} dimensions), the settings name {fingerprint} ({dimension})",
                hint="Set EMBEDDING_MODEL and EMBEDDING_DIM back, or run `persona rebuild embeddings` to encode everything anew.",
            )

    def model(self) -> tuple[str, int] | None:
        """The (fingerprint, dimension) that the stored vectors have; None before the first."""
        stored = self._state.find_one({"_id": "embedding_model"})
        return (stored["fingerprint"], stored["dimension"]) if stored else None

    def forget_all(self) -> None:
        """Drop all that is known of every text, and the model they agreed on: the first step of a rebuild."""
        self._vectors.drop()
        self._labels.drop()
        self._mentions.drop()
        self._centroids.drop()
        self._state.delete_many({"_id": {"$in": ["embedding_model", "labels", "mentions"]}})
        self.ensure_indexes()

    # -- which vector collections there are -------------------------------------------------------------------------------

    def collections_in_use(self) -> str:
        """The suffix of the vector collections that serving reads."""
        in_use: str = self._collections()["in_use"]
        return in_use

    def collections_to_fill(self) -> str:
        """The suffix of the vector collections that drops go to: the ones in use, or their successors for another model."""
        to_fill: str = self._collections()["to_fill"]
        return to_fill

    def collections_named(self) -> list[str]:
        """Every suffix whose collections may hold anything: in use, filled, built beside by a rebuild, or about to be dropped."""
        collections = self._collections()
        retired = [entry["version"] for entry in collections["retired"]]
        named = (collections["in_use"], collections["to_fill"], collections["beside"], *retired)
        return sorted({version for version in named if version})

    def begin_new_collections(self) -> None:
        """From now on drops go to the next suffix, whose collections do not exist yet; the ones in use go on serving."""
        before = self._collections()
        number = self._next()
        retired = {before["to_fill"]} - {before["in_use"]}
        self._change(in_use=before["in_use"], to_fill=f"v{number}", retired=retired, newest=number)

    def begin_beside(self, *, session: ClientSession | None = None) -> str:
        """Note the next suffix as being built beside the others, in place of one that was begun before; return it.

        No suffix is given twice: who slept while filling one never writes into another's.
        """
        number = self._next()
        beside = {**self._collections(), "beside": f"v{number}", "newest": number}
        self._state.update_one(COLLECTIONS, {"$set": beside}, upsert=True, session=session)
        return f"v{number}"

    def use_beside(self, *, session: ClientSession) -> None:
        """Let serving read, and drops go to, what has been built beside; the others are retired."""
        before = self._collections()
        retired = {before["in_use"], before["to_fill"]}
        self._change(in_use=before["beside"], to_fill=before["beside"], retired=retired, session=session)

    def use_filled_collections(self, *, session: ClientSession | None = None) -> str | None:
        """Let serving read what drops go to; return the suffix that is retired by that, if they were not the same."""
        before = self._collections()
        if before["in_use"] == before["to_fill"]:
            return None
        self._change(in_use=before["to_fill"], to_fill=before["to_fill"], retired={before["in_use"]}, session=session)
        return str(before["in_use"])

    def retired_collections(self) -> dict[str, float]:
        """Suffix to seconds since it was last in use."""
        with_the_time = [{"$match": COLLECTIONS}, {"$set": {"now": "$$NOW"}}]
        for found in self._state.aggregate(with_the_time):
            current = (found["in_use"], found["to_fill"])
            retired = [entry for entry in found.get("retired", ()) if entry["version"] not in current]
            return {entry["version"]: (found["now"] - entry["at"]).total_seconds() for entry in retired}
        return {}

    def beside(self) -> str | None:
        """The suffix that is being built beside, or that a rebuild which died has left."""
        beside: str | None = self._collections()["beside"]
        return beside

    def forget_collections(self, version: str) -> None:
        """This suffix, retired or built beside, has been dropped."""
        self._state.update_one(COLLECTIONS, {"$pull": {"retired": {"version": version}}})
        self._state.update_one({**COLLECTIONS, "beside": version}, {"$set": {"beside": None}})

    def _change(
        self, *, in_use: str, to_fill: str, retired: set[str], newest: int = 0, session: ClientSession | None = None
    ) -> None:
        change = {
            "in_use": in_use,
            "to_fill": to_fill,
            "newest": {"$max": ["$newest", newest]},
            "beside": {"$cond": [{"$eq": ["$beside", in_use]}, None, "$beside"]},
            "retired": {
                "$concatArrays": [
                    {"$ifNull": ["$retired", []]},
                    [{"version": version, "at": "$$NOW"} for version in sorted(retired)],
                ]
            },
        }
        self._state.update_one(COLLECTIONS, [{"$set": change}], upsert=True, session=session)

    def _next(self) -> int:
        named = (int(version.removeprefix("v")) for version in self.collections_named())
        return max(int(self._collections()["newest"]), *named) + 1

    def _collections(self) -> dict[str, Any]:
        none: dict[str, Any] = {"in_use": "v1", "to_fill": "v1", "beside": None, "retired": [], "newest": 1}
        found = self._state.find_one(COLLECTIONS, {"_id": 0}) or {}
        return none | found

    # -- vectors and labels -----------------------------------------------------------------------------------------------

    def present(self, hashes: Sequence[str]) -> set[str]:
        """Which of these texts have a vector."""
        return {
            found["_id"] for chunk in chunks(hashes, CHUNK) for found in self._vectors.find({"_id": {"$in": chunk}}, {"_id": 1})
        }

    def put(self, hashes: Sequence[str], vectors: Vectors, *, model: str, session: ClientSession | None = None) -> None:
        """Store one vector a text, for texts that have none; one that has keeps it."""
        # asked first: a duplicate key would abort the transaction
        known = {found["_id"] for found in self._vectors.find({"_id": {"$in": list(hashes)}}, {"_id": 1}, session=session)}
        documents = [
            {"_id": key, "model": model, "vector": Binary(vector.tobytes())}
            for key, vector in zip(hashes, np.ascontiguousarray(vectors, dtype=np.float32), strict=True)
            if key not in known
        ]
        if documents:
            self._vectors.insert_many(documents, ordered=False, session=session)

    def get(self, hashes: Iterable[str] | None = None) -> dict[str, Vector]:
        """The vectors of these texts, or of all; texts without one are absent."""
        found = _of(self._vectors, hashes, {}, {"vector": 1})
        return {each["_id"]: np.frombuffer(each["vector"], dtype=np.float32) for each in found}

    def after(self, last: str, *, limit: int) -> dict[str, Vector]:
        """The next `limit` texts after this hash, in the order of the hashes, each with its vector."""
        found = self._vectors.find({"_id": {"$gt": last}}, {"vector": 1}).sort("_id", 1).limit(limit)
        return {document["_id"]: np.frombuffer(document["vector"], dtype=np.float32) for document in found}

    def scan(self) -> Iterator[tuple[str, Vector]]:
        """Every stored vector, in the order of the hashes."""
        for found in self._vectors.find({}, {"vector": 1}).sort("_id", 1):
            yield found["_id"], np.frombuffer(found["vector"], dtype=np.float32)

    def label_version(self) -> str | None:
        """The version that all labels have; None where nothing was ever labelled."""
        found = self._state.find_one({"_id": "labels"})
        return found["version"] if found else None

    def set_label_version(self, version: str, *, session: ClientSession | None = None) -> None:
        """All labels are of this version now."""
        self._state.replace_one({"_id": "labels"}, {"_id": "labels", "version": version}, upsert=True, session=session)

    def put_labels(
        self, labels: Mapping[str, tuple[str | None, float]], *, version: str, session: ClientSession | None = None
    ) -> None:
        """Store the inferred (intent or None, score) of each text with the version of what inferred it."""
        writes = [
            ReplaceOne({"_id": key}, {"_id": key, "intent": intent, "score": score, "version": version}, upsert=True)
            for key, (intent, score) in labels.items()
        ]
        if writes:
            self._labels.bulk_write(writes, ordered=False, session=session)

    def outdated_labels(self, version: str) -> Iterator[list[str]]:
        """The texts whose label another version inferred, or that have no vector: in parts fit for one transaction."""
        outdated = [found["_id"] for found in self._labels.find({"version": {"$ne": version}}, {"_id": 1})]
        without = self._labels.aggregate(self._without_vector())
        yield from chunks(list({*outdated, *(found["_id"] for found in without)}), CHUNK)

    def _without_vector(self) -> list[dict[str, Any]]:
        return [
            {"$lookup": {"from": self._vectors.name, "localField": "_id", "foreignField": "_id", "as": "vector"}},
            {"$match": {"vector": []}},
            {"$project": {"_id": 1}},
        ]

    def forget_labels(self, hashes: list[str], session: ClientSession | None = None) -> int:
        """Drop the labels of these texts; return how many there were."""
        return self._labels.delete_many({"_id": {"$in": hashes}}, session=session).deleted_count

    def labelled(self, hashes: Sequence[str], *, version: str) -> set[str]:
        """Which of these texts have a label of this version."""
        return {
            found["_id"]
            for chunk in chunks(hashes, CHUNK)
            for found in self._labels.find({"_id": {"$in": chunk}, "version": version}, {"_id": 1})
        }

    def labels(self, hashes: Iterable[str] | None = None) -> dict[str, str]:
        """The inferred intents of these texts, or of all; those without one are absent."""
        return {each["_id"]: each["intent"] for each in _of(self._labels, hashes, {"intent": {"$ne": None}}, {"intent": 1})}

    def mention_version(self) -> str | None:
        """The version of the names that all mentions were found by; None where none was ever looked for."""
        found = self._state.find_one({"_id": "mentions"})
        return found["version"] if found else None

    def set_mention_version(self, version: str, *, session: ClientSession | None = None) -> None:
        """All mentions are of these names now."""
        self._state.replace_one({"_id": "mentions"}, {"_id": "mentions", "version": version}, upsert=True, session=session)

    def put_mentions(self, named: Mapping[str, Sequence[str]], session: ClientSession | None = None) -> None:
        """Store the ids of the campaigns that each text names, in place of what was stored; of most texts there are none."""
        self.forget_mentions([key for key, campaigns in named.items() if not campaigns], session)
        writes = [
            ReplaceOne({"_id": key}, {"_id": key, "campaign_ids": list(campaigns)}, upsert=True)
            for key, campaigns in named.items()
            if campaigns
        ]
        if writes:
            self._mentions.bulk_write(writes, ordered=False, session=session)

    def mentions(self, hashes: Iterable[str] | None = None) -> dict[str, tuple[str, ...]]:
        """The ids of the campaigns that these texts, or any, name, in order; texts that name none are absent."""
        return {each["_id"]: tuple(each["campaign_ids"]) for each in _of(self._mentions, hashes, {}, {"campaign_ids": 1})}

    def stray_mentions(self) -> Iterator[list[str]]:
        """The texts with mentions that have no vector: in parts fit for one transaction."""
        yield from chunks([found["_id"] for found in self._mentions.aggregate(self._without_vector())], CHUNK)

    def forget_mentions(self, hashes: list[str], session: ClientSession | None = None) -> int:
        """Drop the mentions of these texts; return how many texts had any."""
        return self._mentions.delete_many({"_id": {"$in": hashes}}, session=session).deleted_count

    def remember_centroid(self, run_id: str, centroid: Vector) -> None:
        """Keep the mean vector of a run's texts; the same run again replaces it."""
        document = {"_id": run_id, "at": datetime.now(UTC), "vector": Binary(centroid.astype(np.float32).tobytes())}
        self._centroids.replace_one({"_id": run_id}, document, upsert=True)

    def centroids_before(self, run_id: str, *, limit: int) -> list[Vector]:
        """The mean vectors of the newest other runs."""
        found = self._centroids.find({"_id": {"$ne": run_id}}).sort("at", -1).limit(limit)
        return [np.frombuffer(centroid["vector"], dtype=np.float32) for centroid in found]

    def kept_of(self, hashes: Sequence[str]) -> dict[str, int]:
        """How many of these texts have a vector, a label, and a mention."""
        kept = {"texts": self._vectors, "labels": self._labels, "mentions": self._mentions}
        return {
            what: sum(among.count_documents({"_id": {"$in": chunk}}) for chunk in chunks(hashes, CHUNK))
            for what, among in kept.items()
        }

    def count(self) -> int:
        """The number of distinct texts with a vector."""
        return self._vectors.estimated_document_count()

    def remove(self, hashes: Iterable[str]) -> None:
        """Forget these texts: their vectors, labels and mentions, and the mean of a run that met no other text."""
        for chunk in chunks(list(hashes), CHUNK):
            vectors = [found["vector"] for found in self._vectors.find({"_id": {"$in": chunk}}, {"vector": 1})]
            self._centroids.delete_many({"vector": {"$in": vectors}})
            self._labels.delete_many({"_id": {"$in": chunk}})
            self._mentions.delete_many({"_id": {"$in": chunk}})
            self._vectors.delete_many({"_id": {"$in": chunk}})


def _of(
    collection: Collection[dict[str, Any]], hashes: Iterable[str] | None, query: dict[str, Any], fields: dict[str, int]
) -> Iterator[dict[str, Any]]:
    """What is known of these texts; of all in one go, as to name each takes longer than to read it."""
    if hashes is None:
        yield from collection.find(query, fields, batch_size=CHUNK)
        return
    for chunk in chunks(list(hashes), CHUNK):
        yield from collection.find({"_id": {"$in": chunk}, **query}, fields)
