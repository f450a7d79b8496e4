"""Which intents texts show: the classifier that the pipeline stored, and the encoder, held for the life of the process.

The model is loaded with the first question, which takes seconds; until then the service needs no memory for it.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import structlog

from persona.errors import EmbeddingMismatch, StoreUnavailable
from persona.language.answers import shown, shown_by_each
from persona.language.classifier import IntentClassifier
from persona.language.encoder import Encoder
from persona.projections.conversations import in_one
from persona.schemas import Vector
from persona.stores.documents import Documents
from serving.guard import Guard
from serving.turns import Turns

log = structlog.get_logger(__name__)


class Read(NamedTuple):
    """What texts say."""

    vector: Vector | None
    """Of them all in one; None where nobody read them."""
    intents: Sequence[str]
    """Those that the texts show, each as often as texts show it."""


UNREAD = Read(None, ())
NO_INTENTS = IntentClassifier.fit({})


class Intents:
    """Answers on texts, with the newest classifier that could be loaded; the old one while MongoDB is down."""

    def __init__(self, documents: Guard[Documents], encoder: Encoder, *, threshold: float, patience: float) -> None:
        self._documents = documents
        self._encoder = encoder
        self._threshold = threshold
        self._patience = patience
        self._turns = Turns("encoder")  # one question after the other: the model uses every core
        self._one_at_a_time = asyncio.Lock()
        self._held: tuple[str, str, IntentClassifier] | None = None

    async def of(self, texts: list[str], *, k: int) -> dict[str, Any]:
        """The intent that the texts show together, or None, the `k` likeliest, and the same of each text.

        Raises `StoreUnavailable` where MongoDB is down and was never asked, `Busy` where too many wait, `EmbeddingMismatch` where
        the settings name another model than the stored vectors come from, `PersonaError` where there is no such model.
        """
        fingerprint, classifier = await self.classifier()
        return await self._turns.take(lambda: self._answer(texts, k, fingerprint, classifier))

    async def read(self, texts: Sequence[str]) -> Read:
        """What the texts say, as whoever looks for what is like them needs it; raises what `of` raises."""
        fingerprint, classifier = await self.classifier()
        if not fingerprint:  # without a classifier there are still stored vectors to compare with
            model = await self._documents.ask(lambda documents: documents.embeddings.model())
            fingerprint = model[0] if model else ""
        return await self._turns.take(lambda: self._read(texts, fingerprint, classifier))

    def close(self) -> None:
        """Let the thread end."""
        self._turns.close()

    def _read(self, texts: Sequence[str], fingerprint: str, classifier: IntentClassifier) -> Read:
        self._check(fingerprint)
        *each, together = self._encoder.encode([*texts, in_one(texts)])
        return Read(together, [guess.intent for guess in classifier.classify(np.array(each), self._threshold) if guess])

    def _answer(self, texts: list[str], k: int, fingerprint: str, classifier: IntentClassifier) -> dict[str, Any]:
        self._check(fingerprint)
        vectors = self._encoder.encode(texts)
        together = shown(classifier, vectors, k=k, threshold=self._threshold)
        return {**together, "texts": shown_by_each(classifier, vectors, k=k, threshold=self._threshold)}

    def _check(self, fingerprint: str) -> None:
        if fingerprint and fingerprint != self._encoder.fingerprint:
            raise EmbeddingMismatch(
                f"the stored vectors are {fingerprint}, the settings name {self._encoder.fingerprint}",
                hint="Set EMBEDDING_MODEL and EMBEDDING_DIM back, or run `persona rebuild embeddings`.",
            )

    async def classifier(self) -> tuple[str, IntentClassifier]:
        """The newest that could be loaded, and the space of the vectors that it judges. Raises `StoreUnavailable`."""
        async with self._one_at_a_time:
            try:
                version = await self._documents.ask(lambda documents: documents.classifiers.version())
                if version is None:
                    self._held = None
                    return "", NO_INTENTS
                if self._held is None or self._held[0] != version:
                    loaded = await self._documents.ask(lambda documents: _load(documents, version), deadline=self._patience)
                    self._held = loaded or self._held  # one that is being replaced this moment comes with the next question
                    log.info("classifier loaded", version=version, whole=loaded is not None)
            except StoreUnavailable:
                if self._held is None:
                    raise
            return self._held[1:] if self._held else ("", NO_INTENTS)


def _load(documents: Documents, version: str) -> tuple[str, str, IntentClassifier] | None:
    model, arrays = documents.embeddings.model(), documents.classifiers.arrays(version)
    return (version, model[0], IntentClassifier.from_arrays(arrays)) if model and arrays else None
