"""What to offer someone who says this: texts are read by the model, then answered like a person's. No route, no cache."""

import asyncio
from collections.abc import Sequence

import orjson

from persona.errors import StoreUnavailable
from persona.ranking.recommender import Query, Recommender, Snapshot
from persona.schemas import Answer
from serving.answers import ALL_STORES, JSON, document_of
from serving.guard import one_deadline
from serving.intents import UNREAD, Intents, Read
from serving.snapshots import Snapshots


class TextAnswers:
    """Answers for texts, as the bytes that leave."""

    def __init__(self, recommender: Recommender, intents: Intents, snapshots: Snapshots, *, deadline: float) -> None:
        self._recommender = recommender
        self._intents = intents
        self._snapshots = snapshots
        self._deadline = deadline

    async def for_texts(self, texts: Sequence[str], query: Query, *, explain: bool) -> bytes:
        """What to offer whoever says these texts, as JSON; where nobody knows how to read them, what they name still counts.

        Raises `StoreUnavailable` when there is nothing to answer from, `Busy` where too many texts wait to be read, `EmbeddingMismatch`
        where the settings name another model than the stored vectors come from.
        """
        current = await self._snapshots.catch_up()
        missing: set[str] = set()
        try:
            read = await self._intents.read(texts)
        except StoreUnavailable as error:
            read = UNREAD
            missing.add(error.store)
        answer = await asyncio.to_thread(self._answer, texts, read, query, current.snapshot)
        answer.degraded = sorted(missing.union(answer.degraded))
        return orjson.dumps(document_of(answer, explain=explain), option=JSON)

    def _answer(self, texts: Sequence[str], read: Read, query: Query, snapshot: Snapshot) -> Answer:
        with one_deadline(ALL_STORES * self._deadline):
            return self._recommender.for_texts(texts, read.vector, read.intents, query, snapshot)
