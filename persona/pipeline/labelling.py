"""What tells texts their intents: which examples it is fitted to, when it learns, where it is kept. The fit itself is `language`'s.

A classifier is a function of the catalog of intents, of the *lessons* (messages that came with a given intent), and of their stored
vectors. Drops never change the lessons: else each would relabel everybody's messages, and labels would depend on the order of drops.
They are taken from the truth anew by `persona rebuild intents` and by every run of `lessons`.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from pymongo.client_session import ClientSession

from persona.errors import EmbeddingMismatch
from persona.language.classifier import IntentClassifier
from persona.language.encoder import Encoder
from persona.language.intents import definition_texts, version
from persona.pipeline.lease import Lease
from persona.schemas import IntentDefinition, Vector, Vectors
from persona.stores.documents import Documents
from persona.stores.documents.classifiers import parts_of
from persona.stores.documents.embeddings import text_hash

LESSONS_AN_INTENT = 500
"""More tell nothing new, and labelling takes the longer the more there are."""
LESSONS_TO_EXIST = 5
"""Different messages that must have been given an intent which no catalog knows before others are told that they show it."""


@dataclass(frozen=True)
class Labeller:
    """What tells texts their intents, and its version."""

    version: str
    classifier: IntentClassifier
    threshold: float

    def put_labels(self, documents: Documents, vectors: Mapping[str, Vector], session: ClientSession) -> int:
        """Infer and store the intent of each text, by its hash; return how many there are."""
        if not vectors:
            return 0
        guesses = self.classifier.classify(np.stack(list(vectors.values())), self.threshold)
        labels = {
            key: (guess.intent, guess.probability) if guess else (None, 0.0) for key, guess in zip(vectors, guesses, strict=True)
        }
        documents.embeddings.put_labels(labels, version=self.version, session=session)
        return len(labels)


def labeller_of(documents: Documents, lease: Lease, *, threshold: float) -> Labeller | None:
    """For the catalog in force and the lessons; None while there are neither, or a catalog whose examples have not been embedded.

    What had to be fitted is kept, and no other classifier is.
    """
    kept = _kept(documents, lease)
    if kept is None:
        return None
    named, classifier = kept
    return Labeller(hashlib.sha256(f"{named}/{threshold}".encode()).hexdigest()[:12], classifier, threshold)


def forget_lessons(documents: Documents, lease: Lease, hashes: Iterable[str]) -> None:
    """Learn from these messages no more, and keep no classifier that may have been fitted to them, but one to what is left.

    Done again after it ended half-way, it does what was left to do.
    """
    documents.classifiers.unlearn(hashes)
    if _kept(documents, lease) is None:  # nothing is left, or a catalog waits to be embedded, which then makes the next one
        lease.transaction(partial(documents.classifiers.keep_only, None))


def classifier_to_ask(documents: Documents, encoder: Encoder) -> IntentClassifier:
    """For the catalog in force and the lessons; what has to be encoded or fitted for that is not kept.

    Raises `EmbeddingMismatch` where the stored vectors are another model's.
    """
    stored = documents.embeddings.model()
    if stored not in (None, (encoder.fingerprint, encoder.dimension)):
        raise EmbeddingMismatch(
            f"the stored vectors are {stored}, the settings name {encoder.fingerprint}",
            hint="Set EMBEDDING_MODEL and EMBEDDING_DIM back, or run `persona rebuild embeddings`.",
        )
    if named := _version(documents):
        classifier = _stored(documents, named) or _fitted(documents)
        if classifier is not None:
            return classifier
    definitions = documents.catalog.intents()
    examples = {definition.intent: encoder.encode(definition_texts(definition)) for definition in definitions}
    return IntentClassifier.fit(examples)


def lessons_in(documents: Documents) -> dict[str, str]:
    """What there is to learn from: messages with a given intent, by their text's hash.

    Where a text was given several it is the one given most, then the first by name. What is not embedded yet is left out.
    """
    given: dict[str, Counter[str]] = defaultdict(Counter)
    for key, intent, times in documents.records.given_intents():
        given[key][intent] += times
    definitions = documents.catalog.intents()
    known = {definition.intent for definition in definitions}
    by_intent: dict[str, list[str]] = defaultdict(list)
    for key in documents.embeddings.present(sorted(given)) - _catalog_hashes(definitions):
        by_intent[min(given[key], key=lambda intent: (-given[key][intent], intent))].append(key)
    return {
        key: intent
        for intent, keys in by_intent.items()
        if intent in known or len(keys) >= LESSONS_TO_EXIST
        for key in sorted(keys)[:LESSONS_AN_INTENT]
    }


def outdated_classifiers(documents: Documents) -> int:
    """How much is kept of classifiers that were fitted to anything else than the catalog in force and the lessons."""
    return documents.classifiers.count_others(_version(documents))


def _version(documents: Documents) -> str | None:
    """Of the classifier for the catalog in force and the lessons; None where there is nothing to fit one to."""
    definitions, lessons, model = documents.catalog.intents(), documents.classifiers.lessons(), documents.embeddings.model()
    return version(definitions, lessons, model[0]) if model and (definitions or lessons) else None


def _kept(documents: Documents, lease: Lease) -> tuple[str, IntentClassifier] | None:
    """The version and the classifier: the stored one, or fitted and stored in place of any other.

    Each part is fenced: whoever has lost the lease brings nothing back that an erasure took away.
    """
    named = _version(documents)
    if named is None:
        return None
    stored = documents.classifiers
    classifier = _stored(documents, named)
    if classifier is None:
        classifier = _fitted(documents)
        if classifier is None:
            return None
        for part in parts_of(named, classifier.arrays()):
            lease.transaction(partial(stored.put_part, part))
    lease.transaction(partial(stored.keep_only, named))
    return named, classifier


def _stored(documents: Documents, named: str) -> IntentClassifier | None:
    arrays = documents.classifiers.arrays(named)
    return IntentClassifier.from_arrays(arrays) if arrays else None


def _fitted(documents: Documents) -> IntentClassifier | None:
    """None where the catalog's examples have not been embedded."""
    definitions, lessons = documents.catalog.intents(), documents.classifiers.lessons()
    vectors = documents.embeddings.get({*lessons, *_catalog_hashes(definitions)})
    if not vectors.keys() >= _catalog_hashes(definitions):
        return None
    return IntentClassifier.fit(_examples(definitions, lessons, vectors))


def _examples(
    definitions: Iterable[IntentDefinition], lessons: Mapping[str, str], vectors: Mapping[str, Vector]
) -> dict[str, Vectors]:
    hashes: dict[str, list[str]] = defaultdict(list)
    for definition in definitions:
        hashes[definition.intent] += [text_hash(text) for text in definition_texts(definition)]
    for key, intent in sorted(lessons.items()):
        if key in vectors:
            hashes[intent].append(key)
    return {intent: np.stack([vectors[key] for key in keys]) for intent, keys in hashes.items()}


def _catalog_hashes(definitions: Iterable[IntentDefinition]) -> set[str]:
    return {text_hash(text) for definition in definitions for text in definition_texts(definition)}
