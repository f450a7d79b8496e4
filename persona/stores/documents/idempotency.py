"""What was said under which idempotency key, for a day: so that saying it again changes nothing. Neither the key nor the words are kept."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pymongo import ReturnDocument
from pymongo.collection import Collection
from pymongo.database import Database

from persona.stores.documents._errors import translated

KEPT_SECONDS = 86_400


@dataclass(frozen=True, slots=True)
class Said:
    """What was said first under a key."""

    digest: str
    at: datetime


@translated
class IdempotencyKeys:
    """Hash of a caller and their key to the digest of what came with it, and when."""

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        self._keys: Collection[dict[str, Any]] = database["idempotency"]

    def ensure_indexes(self) -> None:
        """Let the server forget by itself."""
        self._keys.create_index("at", expireAfterSeconds=KEPT_SECONDS)

    def first(self, key: str, digest: str, *, at: datetime) -> Said:
        """What was said first under this key: this, `at` this time, where nothing was before."""
        said = {"$setOnInsert": {"digest": digest, "at": at}}
        found = self._keys.find_one_and_update({"_id": key}, said, upsert=True, return_document=ReturnDocument.AFTER)
        assert found is not None
        return Said(found["digest"], found["at"])
