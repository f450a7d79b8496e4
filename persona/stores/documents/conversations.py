"""Vectors of how people's conversations open, by conversation: what no single text's vector can tell. No model is run here."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from bson.binary import Binary
from pymongo import ReplaceOne
from pymongo.client_session import ClientSession
from pymongo.collection import Collection as MongoCollection
from pymongo.database import Database

from persona.schemas import Opening, Vector, Vectors
from persona.stores.documents._errors import translated


@translated
class Conversations:
    """Conversation id to which messages it opened with when they were encoded as one, and their vector."""

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        self._openings: MongoCollection[dict[str, Any]] = database["openings"]

    def ensure_indexes(self) -> None:
        """Make what asking for one person's needs."""
        self._openings.create_index("user_id")

    def said(self, users: Sequence[str]) -> dict[str, str]:
        """Conversation id of these users to what was said (see `Opening`) when it was encoded."""
        found = self._openings.find({"user_id": {"$in": list(users)}}, {"said": 1})
        return {opening["_id"]: opening["said"] for opening in found}

    def openings(self, users: Sequence[str]) -> dict[str, tuple[str, Vector]]:
        """The same, with the vector."""
        found = self._openings.find({"user_id": {"$in": list(users)}})
        return {opening["_id"]: (opening["said"], _vector(opening)) for opening in found}

    def everything(self) -> dict[str, tuple[str, Vector]]:
        """The same of everybody."""
        return {opening["_id"]: (opening["said"], _vector(opening)) for opening in self._openings.find({})}

    def put(self, openings: Sequence[Opening], vectors: Vectors, session: ClientSession | None = None) -> None:
        """Store one vector an opening, in place of the conversation's former one."""
        writes = [
            ReplaceOne(
                {"_id": opening.conversation_id},
                {"user_id": opening.user_id, "said": opening.said, "vector": Binary(vector.tobytes())},
                upsert=True,
            )
            for opening, vector in zip(openings, np.ascontiguousarray(vectors, dtype=np.float32), strict=True)
        ]
        if writes:
            self._openings.bulk_write(writes, ordered=False, session=session)

    def remove(self, conversation_ids: Collection[str], session: ClientSession | None = None) -> None:
        """Forget conversations that are no more."""
        if conversation_ids:
            self._openings.delete_many({"_id": {"$in": sorted(conversation_ids)}}, session=session)

    def remove_user(self, user_id: str) -> None:
        """Forget this person's."""
        self._openings.delete_many({"user_id": user_id})

    def count_of(self, user_id: str) -> int:
        """How many there are of this person's."""
        return self._openings.count_documents({"user_id": user_id})

    def forget_all(self) -> None:
        """Empty the collection: another model makes other vectors."""
        self._openings.delete_many({})


def _vector(opening: dict[str, Any]) -> Vector:
    return np.frombuffer(opening["vector"], dtype=np.float32)
