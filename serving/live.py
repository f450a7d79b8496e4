"""Answers by what came in a moment ago: the person's context from the truth and the overlay together. What is made of it: `ranking`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from persona.ranking.context import Context
from persona.ranking.live import context_beside, context_now, newest, texts_in, vectors_of
from persona.ranking.recommender import CountedIn, Degraded, Query, Snapshot
from persona.ranking.truth import Truth, truth_of
from persona.stores.documents import Documents
from persona.stores.live import Live
from serving.guard import Guard
from serving.learning import Learner
from serving.overlay import CameIn, Overlay

ENCODING_SECONDS = 0.1
"""How long an answer waits for new words to be encoded; until they are, what they name counts."""


class LiveAnswers:
    """What the recommender asks for what the stores do not have yet."""

    def __init__(self, documents: Guard[Documents], overlay: Overlay, learner: Learner, *, shared: bool = True) -> None:
        """Without `shared`, of what this process alone has: for somebody of whom the others are known to have nothing."""
        self._documents = documents
        self._overlay = overlay
        self._learner = learner
        self._ask = overlay.begin if shared else overlay.held

    async def put(self, records: Sequence[Mapping[str, Any]], *, drop: str) -> None:
        """Let these records of a drop that is safe count from now on."""
        await self._overlay.put(records, drop=drop)
        self._learner.begin({record["user_id"] for record in records if "text_hash" in record})

    def begin(self, user_id: str) -> CountedIn:
        """Begin to ask what came in of this person; decay counts from then, if it is the newest of all."""
        return partial(self._counted_in, self._ask(user_id))

    def _counted_in(
        self, came_in: CameIn, context: Context, query: Query, snapshot: Snapshot, degraded: Degraded
    ) -> tuple[Context, Snapshot]:
        user_id, live = str(context.user_id), came_in(degraded)
        if not live.records:
            return context, snapshot
        snapshot = replace(snapshot, as_of=newest(live.records, snapshot.as_of))
        nothing: Truth | None = None
        truth = degraded.unless(lambda: self._truth(user_id, live), nothing)
        if truth is None:
            return context_beside(context, live, snapshot.finder, at=query.at), snapshot
        if (texts := texts_in(live)) and truth.model:
            lacks = not texts <= vectors_of(truth, live.learned).keys()
            if self._learner.wait(user_id, again=lacks, seconds=ENCODING_SECONDS):
                live = self._overlay.of(user_id, degraded)
        return context_now(context, truth, live, snapshot.finder, at=query.at), snapshot

    def _truth(self, user_id: str, live: Live) -> Truth:
        texts = texts_in(live)
        # one person's long history is no reason to refuse others: with patience the breaker stays closed
        return self._documents.call(
            lambda documents: truth_of(documents, user_id, texts=texts), patience=self._documents.deadline
        )
