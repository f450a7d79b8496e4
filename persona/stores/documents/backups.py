"""Where copies of the truth have been put, and when: what an erasure cannot reach. What is in them is decided elsewhere."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pymongo.collection import Collection
from pymongo.database import Database

from persona.stores.documents._errors import translated


@dataclass(frozen=True, slots=True)
class KnownBackup:
    """A backup that was made, or restored from; it may have been moved or removed since."""

    path: str
    at: datetime
    """What it holds is as of then, UTC."""


@translated
class Backups:
    """Backups by their path and time: one that was moved has left its path to the next."""

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        self._backups: Collection[dict[str, Any]] = database["backups"]

    def note(self, path: str, *, at: datetime) -> None:
        """There is, or is about to be, a backup at this path."""
        key = _key(path, at)
        self._backups.replace_one({"_id": key}, {"_id": key, "path": path, "at": at}, upsert=True)

    def forget(self, path: str, *, at: datetime) -> None:
        """This backup has not come to be after all."""
        self._backups.delete_one({"_id": _key(path, at)})

    def before(self, at: datetime) -> list[KnownBackup]:
        """Those that are older than this, oldest first."""
        return [KnownBackup(found["path"], found["at"]) for found in self._backups.find({"at": {"$lt": at}}).sort("at", 1)]


def _key(path: str, at: datetime) -> str:
    return f"{path}@{at.isoformat()}"
