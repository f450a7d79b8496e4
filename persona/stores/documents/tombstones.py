"""Who has been erased, and when: a keyed hash of the person's id and a time, and nothing else. What is erased is decided elsewhere."""

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from bson.binary import Binary
from pymongo import ReturnDocument
from pymongo.collection import Collection
from pymongo.database import Database

from persona.stores.documents._errors import translated

CHUNK = 5_000
KEYS = "tombstone_keys"


@translated
class Tombstones:
    """HMAC-SHA-256 of the user id to the time up to which the person is erased.

    The key lives beside them, so that every process and every backup of the truth agrees on it; a truth that took in another's
    tombstones has several.
    """

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        self._tombstones: Collection[dict[str, Any]] = database["tombstones"]
        self._state: Collection[dict[str, Any]] = database["state"]

    def place(self, user_id: str, *, at: datetime) -> str:
        """Refuse what this person did up to `at` from now on; return the tombstone's id. A later time wins."""
        key = self._first_key()
        tombstone = tombstone_of(user_id, key)
        self._tombstones.update_one({"_id": tombstone}, {"$max": {"at": at}}, upsert=True)
        return tombstone

    def times(self, user_ids: Iterable[str]) -> dict[str, datetime]:
        """Those of these people who have a tombstone, each with its time (UTC)."""
        keys = self.keys() if self._tombstones.estimated_document_count() else []
        by_hash = {tombstone_of(user_id, key): user_id for user_id in set(user_ids) for key in keys}
        hashes = list(by_hash)
        times: dict[str, datetime] = {}
        for start in range(0, len(hashes), CHUNK):
            for found in self._tombstones.find({"_id": {"$in": hashes[start : start + CHUNK]}}):
                user_id = by_hash[found["_id"]]
                times[user_id] = max(found["at"], times.get(user_id, found["at"]))
        return times

    def count(self) -> int:
        """How many people have been erased."""
        return self._tombstones.estimated_document_count()

    def keys(self) -> list[bytes]:
        """The keys that tombstones here were made with; none before the first."""
        found = self._state.find_one({"_id": KEYS})
        return [bytes(key) for key in found["keys"]] if found else []

    def all(self) -> list[tuple[str, datetime]]:
        """Every tombstone: its id and its time."""
        return [(found["_id"], found["at"]) for found in self._tombstones.find().sort("_id", 1)]

    def _first_key(self) -> bytes:
        fresh = {"$setOnInsert": {"keys": [Binary(secrets.token_bytes(32))]}}
        found = self._state.find_one_and_update({"_id": KEYS}, fresh, upsert=True, return_document=ReturnDocument.AFTER)
        assert found is not None
        return bytes(found["keys"][0])


def tombstone_of(user_id: str, key: bytes) -> str:
    """The id of this person's tombstone under this key."""
    return hmac.digest(key, user_id.encode(), hashlib.sha256).hex()
