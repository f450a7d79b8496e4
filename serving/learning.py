"""Learning from words as they come in: vectors and intents of new messages, before the pipeline does it. Where it is kept: `overlay`."""

import asyncio
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import NamedTuple

import numpy as np
import structlog

from persona.errors import PersonaError
from persona.language.classifier import IntentClassifier
from persona.language.encoder import Encoder
from persona.ranking.live import Missing, missing, texts_in
from persona.ranking.recommender import Degraded
from persona.ranking.truth import said_by, truth_of
from persona.schemas import Vector
from persona.stores.documents import Documents
from persona.stores.documents.embeddings import text_hash
from persona.stores.live import Learned, LearnedOpening, LearnedText
from serving.cores import run_on_any
from serving.guard import Guard
from serving.intents import Intents
from serving.memory import keep_what_there_is
from serving.overlay import Overlay

log = structlog.get_logger(__name__)

AT_ONCE = 64
"""People whose words are encoded together."""
IN_LINE = 2_000
"""People who wait for it; the words of others count when they are asked for, or when the pipeline has run."""


class _Due(NamedTuple):
    user_id: str
    model: str
    words: Missing


class Learner:
    """One thread, as the model uses every core; whoever comes while it works is learned of together."""

    def __init__(
        self,
        documents: Guard[Documents],
        overlay: Overlay,
        encoder: Encoder,
        intents: Intents,
        *,
        threshold: float,
        patience: float,
    ) -> None:
        self._documents = documents
        self._overlay = overlay
        self._encoder = encoder
        self._intents = intents
        self._threshold = threshold
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="learner", initializer=run_on_any)
        self._lock = threading.Lock()
        self._waiting: dict[str, Future[None]] = {}
        self._under_way: dict[str, Future[None]] = {}
        self._loaded = threading.Event()

    async def prepare(self) -> None:
        """Load the model, where there are vectors that others can be compared with."""
        with suppress(PersonaError):
            if await self._documents.ask(lambda documents: documents.embeddings.model()):
                self._thread.submit(self._load)

    def begin(self, users: Iterable[str]) -> None:
        """Learn from these people's words, soon."""
        with self._lock:
            begun = bool(self._waiting or self._under_way)
            for user in users:
                if len(self._waiting) < IN_LINE:
                    self._waiting.setdefault(user, Future())  # one under way may have looked before the newest came in
            if self._waiting and not begun:
                with suppress(RuntimeError):  # it is closed
                    self._thread.submit(self._work)

    def wait(self, user_id: str, *, again: bool, seconds: float) -> bool:
        """Wait while this person's words are learned from; whether there was anything to wait for. `again`: begin if nobody has."""
        if not self._loaded.is_set():
            return False
        if again:
            self.begin([user_id])
        with self._lock:
            learned = self._waiting.get(user_id) or self._under_way.get(user_id)
        if learned is None:
            return False
        with suppress(TimeoutError):
            learned.result(seconds)
        return True

    def close(self) -> None:
        """Let the thread end."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _load(self) -> str | None:
        """The name of the model's space; None where it cannot be loaded."""
        try:
            fingerprint = self._encoder.fingerprint
        except PersonaError as error:
            log.warning("words count when the pipeline has run", reason=error.message)
            return None
        if not self._loaded.is_set():
            keep_what_there_is()
            self._loaded.set()
        return fingerprint

    def _work(self) -> None:
        while True:
            with self._lock:
                self._under_way = {user: self._waiting.pop(user) for user in list(self._waiting)[:AT_ONCE]}
                if not self._under_way:
                    return
            try:
                self._learn(list(self._under_way))
            except PersonaError as error:
                log.info("words count when the pipeline has run", reason=error.message)
            except Exception:
                log.exception("learning failed")
            for learned in self._under_way.values():
                learned.set_result(None)

    def _learn(self, users: Sequence[str]) -> None:
        model = self._load()
        due = [found for user in users if (found := self._due(user)) and found.model == model]
        texts = {key: text for each in due for key, text in each.words.texts.items()}
        texts |= {text_hash(opening.words): opening.words for each in due for opening in each.words.openings}
        if not texts:
            return
        vectors = dict(zip(texts, self._encoder.encode(list(texts.values())), strict=True))
        asking = asyncio.run_coroutine_threadsafe(self._intents.classifier(), self._loop)
        _, classifier = asking.result(self._patience)
        for each in due:
            self._overlay.learn(each.user_id, self._learned(each, vectors, classifier))

    def _due(self, user_id: str) -> _Due | None:
        live = self._overlay.of(user_id, Degraded())
        texts = texts_in(live)
        if not texts:
            return None
        truth = self._documents.call(lambda documents: truth_of(documents, user_id, texts=texts), patience=self._patience)
        said = self._documents.call(lambda documents: said_by(documents, user_id), patience=self._patience)
        words = missing(user_id, truth, said, live)
        return _Due(user_id, truth.model, words) if truth.model and words else None

    def _learned(self, due: _Due, vectors: dict[str, Vector], classifier: IntentClassifier) -> Learned:
        keys = list(due.words.texts)
        guesses = classifier.classify(np.stack([vectors[key] for key in keys]), self._threshold) if keys else []
        return Learned(
            {
                key: LearnedText(due.model, guess.intent if guess else None, vectors[key])
                for key, guess in zip(keys, guesses, strict=True)
            },
            {
                opening.conversation_id: LearnedOpening(due.model, opening.said, vectors[text_hash(opening.words)])
                for opening in due.words.openings
            },
        )
