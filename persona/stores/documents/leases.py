"""The one lease that serialises everything that writes: who holds it, until when (server time), with which token."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pymongo import ReturnDocument
from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.database import Database

from persona.stores.documents._errors import translated

LEASE = "pipeline"
EXPIRED = {"$expr": {"$lt": ["$expires_at", "$$NOW"]}}
NEXT_TOKEN = {"$max": [{"$add": ["$token", 1]}, {"$toLong": "$$NOW"}]}
"""The time in ms, so that tokens go on rising for the stores that remember them when MongoDB is set up anew beside them."""
CURRENT = {"$expr": {"$gt": ["$expires_at", "$$NOW"]}}


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds the lease: a run, in a process."""

    run_id: str
    purpose: str
    host: str
    pid: int
    process_started: float
    token: int


@translated
class Leases:
    """Acquire, renew, check and release; times are the server's."""

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        self._server: Database[dict[str, Any]] = database.client.admin
        self._leases: Collection[dict[str, Any]] = database["leases"]

    def acquire(
        self, holder: dict[str, Any], *, seconds: float, session: Mapping[str, Any], instead_of: int | None = None
    ) -> int | None:
        """Take the lease if it is free, expired, or held with the token `instead_of`; return the new token, or None.

        `session` is the id of the session whose transactions will hold the lease.
        """
        free = {"_id": LEASE, "$or": [EXPIRED, {"holder": None}, *([{"token": instead_of}] if instead_of is not None else [])]}
        self._leases.update_one({"_id": LEASE}, {"$setOnInsert": {"token": 0, "holder": None}}, upsert=True)
        # What a holder that died or sleeps left open locks the lease, and what it wrote, for a minute.
        if left := self._leases.find_one({**free, "holder": {"$ne": None}, "session": {"$exists": True}}, {"session": 1}):
            self._server.command("killSessions", [left["session"]])
        taken = self._leases.find_one_and_update(
            free,
            [
                {
                    "$set": {
                        "token": NEXT_TOKEN,
                        "holder": {"$literal": holder},
                        "session": {"$literal": dict(session)},
                        "expires_at": _from_now(seconds),
                    }
                }
            ],
            return_document=ReturnDocument.AFTER,
        )
        return int(taken["token"]) if taken else None

    def renew(self, token: int, *, seconds: float) -> bool:
        """Push the expiry out; False when the lease has passed to another or has expired."""
        mine = {"_id": LEASE, "token": token, **CURRENT}
        return self._leases.update_one(mine, [{"$set": {"expires_at": _from_now(seconds)}}]).matched_count == 1

    def holds(self, token: int) -> bool:
        """Whether this token's lease is in force now."""
        return self._leases.find_one({"_id": LEASE, "token": token, **CURRENT}, {"_id": 1}) is not None

    def fence(self, token: int, *, seconds: float, session: ClientSession) -> bool:
        """Inside a transaction: renew the lease, so that the transaction fails if another takes it meanwhile.

        A heartbeat that meets the transaction waits for its end, and of many in a row may meet each: so this has to do for it.
        """
        mine = {"_id": LEASE, "token": token, **CURRENT}
        renewed = [{"$set": {"expires_at": _from_now(seconds)}}]
        return self._leases.update_one(mine, renewed, session=session).matched_count == 1

    def release(self, token: int) -> None:
        """Give the lease back; harmless when it is no longer ours."""
        self._leases.update_one(
            {"_id": LEASE, "token": token}, {"$set": {"holder": None}, "$unset": {"expires_at": "", "session": ""}}
        )

    def newest_token(self) -> int:
        """The token of the lease that was acquired last, in force or not; 0 before the first."""
        found = self._leases.find_one({"_id": LEASE}, {"token": 1})
        return int(found["token"]) if found else 0

    def holder(self) -> Holder | None:
        """Who holds the lease now; None when it is free or expired."""
        found = self._leases.find_one({"_id": LEASE, "holder": {"$ne": None}, **CURRENT})
        return Holder(**found["holder"], token=found["token"]) if found else None


def _from_now(seconds: float) -> dict[str, Any]:
    return {"$dateAdd": {"startDate": "$$NOW", "unit": "millisecond", "amount": int(seconds * 1000)}}
