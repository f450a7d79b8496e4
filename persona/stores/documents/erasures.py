"""Proofs of erasure: what was found of a person, what is left, and where copies out of reach may be. Never whose it was."""

from collections.abc import Mapping
from typing import Any

from pymongo.collection import Collection
from pymongo.database import Database

from persona.stores.documents._errors import translated


@translated
class Erasures:
    """One proof for each erasure, by its id."""

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        self._proofs: Collection[dict[str, Any]] = database["erasures"]

    def put(self, proof: Mapping[str, Any]) -> None:
        """Keep a proof; one of the same erasure is replaced."""
        document = {("_id" if name == "erasure" else name): entry for name, entry in proof.items()}
        self._proofs.replace_one({"_id": proof["erasure"]}, document, upsert=True)

    def of_tombstone(self, tombstone: str) -> list[dict[str, Any]]:
        """The proofs of this person's erasures, oldest first."""
        return [{**found, "erasure": found.pop("_id")} for found in self._proofs.find({"user": tombstone}).sort("at", 1)]
