"""The catalogs in force: campaigns, intents, customers, and the version that moves with every change. Files are read elsewhere."""

from collections.abc import Iterable, Sequence
from typing import Any

from pymongo import ReplaceOne, UpdateOne
from pymongo.collection import Collection
from pymongo.database import Database

from persona.schemas import Campaign, Customer, IntentDefinition
from persona.stores.documents._errors import translated

CHUNK = 5_000


@translated
class Catalog:
    """Catalog entries by id; one loaded later replaces one of the same id."""

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        self._campaigns: Collection[dict[str, Any]] = database["campaigns"]
        self._intents: Collection[dict[str, Any]] = database["intents"]
        self._customers: Collection[dict[str, Any]] = database["customers"]
        self._state: Collection[dict[str, Any]] = database["state"]

    def ensure_indexes(self) -> None:
        """Make what asking for those who are to be left alone needs: of many customers few are."""
        left_alone = {"suppressed": True}
        self._customers.create_index([("suppressed", 1), ("_id", 1)], name="suppressed", partialFilterExpression=left_alone)

    def put_campaigns(self, campaigns: Sequence[Campaign]) -> None:
        """Take these campaigns into the catalog."""
        self._put(self._campaigns, "campaign_id", [campaign.model_dump() for campaign in campaigns])

    def put_intents(self, intents: Sequence[IntentDefinition]) -> None:
        """Take these intents into the catalog."""
        self._put(self._intents, "intent", [intent.model_dump() for intent in intents])

    def put_customers(self, customers: Sequence[Customer]) -> None:
        """Take these customers into the catalog."""
        self._put(self._customers, "user_id", [customer.model_dump() for customer in customers])

    def discover_campaigns(self, campaign_ids: Iterable[str]) -> int:
        """Let campaigns that a drop named exist from now on; return how many are new."""
        writes = [
            UpdateOne({"_id": key}, {"$setOnInsert": Campaign(campaign_id=key, name=key).model_dump()}, upsert=True)
            for key in campaign_ids
        ]
        new = self._campaigns.bulk_write(writes, ordered=False).upserted_count if writes else 0
        if new:
            self._bump()
        return new

    def campaigns(self) -> list[Campaign]:
        """All campaigns, by id."""
        return [Campaign.model_validate(found) for found in self._campaigns.find().sort("_id", 1)]

    def campaigns_by_id(self, campaign_ids: Iterable[str]) -> list[Campaign]:
        """The campaigns with these ids."""
        return [Campaign.model_validate(found) for found in self._campaigns.find({"_id": {"$in": list(campaign_ids)}})]

    def campaign_count(self) -> int:
        """How many campaigns there are."""
        return self._campaigns.estimated_document_count()

    def intents(self) -> list[IntentDefinition]:
        """All intents, by name."""
        return [IntentDefinition.model_validate(found) for found in self._intents.find().sort("_id", 1)]

    def customer(self, user_id: str) -> Customer | None:
        """What the team knows of this person."""
        found = self._customers.find_one({"_id": user_id})
        return Customer.model_validate(found) if found else None

    def remove_customer(self, user_id: str) -> None:
        """Forget what the team knew of this person."""
        if self._customers.delete_one({"_id": user_id}).deleted_count:
            self._bump()

    def suppressed(self) -> frozenset[str]:
        """Everyone who is to be left alone."""
        return frozenset(found["_id"] for found in self._customers.find({"suppressed": True}, {"_id": 1}))

    def version(self) -> int:
        """Moves with every change of the catalog; 0 before the first."""
        found = self._state.find_one({"_id": "catalog"})
        return int(found["version"]) if found else 0

    def _put(self, collection: Collection[dict[str, Any]], key: str, documents: list[dict[str, Any]]) -> None:
        for start in range(0, len(documents), CHUNK):
            writes = [ReplaceOne({"_id": document[key]}, document, upsert=True) for document in documents[start : start + CHUNK]]
            collection.bulk_write(writes, ordered=False)
        if documents:
            self._bump()

    def _bump(self) -> None:
        self._state.update_one({"_id": "catalog"}, {"$inc": {"version": 1}}, upsert=True)
