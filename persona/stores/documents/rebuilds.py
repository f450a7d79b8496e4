"""Which projections are being computed anew, by which run. How that is done is decided elsewhere."""

from datetime import UTC, datetime
from typing import Any

from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.database import Database

from persona.stores.documents._errors import translated


@translated
class Rebuilds:
    """At most one rebuild an asset: the one that began last."""

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        self._rebuilds: Collection[dict[str, Any]] = database["rebuilds"]

    def begin(self, asset: str, *, run_id: str, token: int) -> str | None:
        """Let this run, under the lease with this token, be the one that rebuilds; return the run it takes over from, if any."""
        document = {"_id": asset, "run_id": run_id, "token": token, "at": datetime.now(UTC)}
        before = self._rebuilds.find_one_and_replace({"_id": asset}, document, upsert=True)
        return before["run_id"] if before else None

    def run_of(self, asset: str) -> str | None:
        """The run that rebuilds the asset, or that died over it; None where no rebuild is unfinished."""
        found = self._rebuilds.find_one({"_id": asset}, {"run_id": 1})
        return found["run_id"] if found else None

    def end(self, asset: str, *, session: ClientSession | None = None) -> None:
        """The asset is rebuilt, or another way is taken."""
        self._rebuilds.delete_one({"_id": asset}, session=session)
