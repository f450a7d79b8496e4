"""Vectors to intents: the nearest example sentences of a catalog decide, and far from all nobody does. Pure; numpy only."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from persona.schemas import IntentDefinition, Vectors

DEFAULT_THRESHOLD = 0.45
NEAREST = 2
"""Examples that an intent's score is the mean of: one is at the mercy of a stray example, three blur intents with few."""
ROWS_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class IntentGuess:
    """An intent that a text seems to show."""

    intent: str
    score: float
    """Mean cosine, in [-1, 1], to the intent's nearest examples."""


class NearestExamples:
    """A classifier without training: an intent is as likely as its nearest examples are near. Build it with `fit`."""

    def __init__(self, intents: Sequence[str], examples: Sequence[Vectors], threshold: float) -> None:
        self.intents = tuple(intents)
        self.threshold = threshold
        self._examples = np.concatenate(examples) if examples else np.zeros((0, 0), dtype=np.float32)
        ends = np.cumsum([len(vectors) for vectors in examples])
        self._slices = [slice(int(end) - len(vectors), int(end)) for end, vectors in zip(ends, examples, strict=True)]

    @classmethod
    def fit(cls, examples: Mapping[str, Vectors], threshold: float = DEFAULT_THRESHOLD) -> Self:
        """Take each intent's example vectors, shape (n, dimension), L2-normalised; intents without any are left out.

        The order of the mapping does not matter.
        """
        intents = sorted(intent for intent, vectors in examples.items() if len(vectors))
        return cls(intents, [np.asarray(examples[intent], dtype=np.float32) for intent in intents], threshold)

    def scores(self, vectors: Vectors) -> Vectors:
        """How near each vector is to each intent: shape (n, len(intents)), columns in the order of `intents`.

        `vectors` has shape (n, dimension), L2-normalised.
        """
        scores = np.empty((len(vectors), len(self.intents)), dtype=np.float32)
        if not self.intents:
            return scores
        cosines = vectors @ self._examples.T
        for column, examples in enumerate(self._slices):
            own = cosines[:, examples]
            nearest = min(NEAREST, own.shape[1])
            scores[:, column] = np.partition(own, -nearest, axis=1)[:, -nearest:].mean(axis=1)
        return scores

    def classify(self, vectors: Vectors) -> list[IntentGuess | None]:
        """The likeliest intent of each vector, shape (n, dimension), None below the threshold; a tie goes to the first name."""
        if not self.intents:
            return [None] * len(vectors)
        guesses: list[IntentGuess | None] = []
        for start in range(0, len(vectors), ROWS_AT_ONCE):
            scores = self.scores(vectors[start : start + ROWS_AT_ONCE])
            for best, score in zip(scores.argmax(axis=1).tolist(), scores.max(axis=1).tolist(), strict=True):
                guesses.append(IntentGuess(self.intents[best], score) if score >= self.threshold else None)
        return guesses


def definition_texts(definition: IntentDefinition) -> list[str]:
    """The sentences that stand for an intent: its examples and description; its name in words where it has no examples."""
    texts = [text for text in (*definition.examples, definition.description) if text.strip()]
    if not any(example.strip() for example in definition.examples):
        texts.append(definition.intent.replace("_", " ").replace("-", " "))
    return list(dict.fromkeys(texts))


def version(definitions: Iterable[IntentDefinition], encoder_fingerprint: str, threshold: float) -> str:
    """A short hash of all that an inferred label depends on; the definitions' order does not matter."""
    catalog = sorted((definition.intent, definition_texts(definition)) for definition in definitions)
    inputs = json.dumps([catalog, encoder_fingerprint, threshold, NEAREST], ensure_ascii=True)
    return hashlib.sha256(inputs.encode()).hexdigest()[:12]
