"""Which campaigns a model found to go together: one document for each campaign, by the model's fingerprint. Learned elsewhere."""

from collections.abc import Collection, Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any

from pymongo import ReplaceOne
from pymongo.client_session import ClientSession
from pymongo.collection import Collection as MongoCollection
from pymongo.database import Database

from persona.schemas import Relation
from persona.stores._chunks import chunks
from persona.stores.documents._errors import translated

BATCH = 1_000


@translated
class Relations:
    """The truth of what `RELATED` in the graph is a projection of."""

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        self._relations: MongoCollection[dict[str, Any]] = database["relations"]

    def ensure_indexes(self) -> None:
        """Make what reading one model's needs."""
        self._relations.create_index("fingerprint")

    def put(self, fingerprint: str, relations: Sequence[Relation], *, run_id: str) -> None:
        """Keep a model's relations, given by campaign; the same written again leaves the same."""
        documents = [
            {
                "_id": f"{fingerprint}:{campaign}",
                "fingerprint": fingerprint,
                "campaign_id": campaign,
                "related": [[each.related_id, each.weight, each.support] for each in of_campaign],
                "run_id": run_id,
            }
            for campaign, of_campaign in groupby(relations, key=attrgetter("campaign_id"))
        ]
        for part in chunks(documents, BATCH):
            self._relations.bulk_write([ReplaceOne({"_id": each["_id"]}, each, upsert=True) for each in part], ordered=False)

    def of(self, fingerprint: str) -> Iterator[tuple[str, list[Relation]]]:
        """The run that learned them, and the relations of one campaign after the other, strongest first."""
        of_model = {
            "_id": {"$gte": f"{fingerprint}:", "$lt": f"{fingerprint};"}
        }  # the semicolon comes next: in order, from one index
        for found in self._relations.find(of_model, batch_size=BATCH).sort("_id", 1):
            campaign = found["campaign_id"]
            yield found["run_id"], [Relation(campaign, other, weight, support) for other, weight, support in found["related"]]

    def count(self, fingerprint: str) -> int:
        """How many relations the model has."""
        found = self._relations.aggregate(
            [{"$match": {"fingerprint": fingerprint}}, {"$group": {"_id": None, "n": {"$sum": {"$size": "$related"}}}}]
        )
        return sum(int(group["n"]) for group in found)

    def keep_only(self, fingerprints: Collection[str], *, session: ClientSession | None = None) -> None:
        """Remove the relations of every other model."""
        self._relations.delete_many({"fingerprint": {"$nin": sorted(fingerprints)}}, session=session)
