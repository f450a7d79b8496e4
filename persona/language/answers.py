"""What is answered to the question which intents texts show, over HTTP and on the command line alike. Pure."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from persona.language.classifier import IntentClassifier
from persona.schemas import Vectors


def shown(classifier: IntentClassifier, vectors: Vectors, *, k: int, threshold: float) -> dict[str, Any]:
    """The intent that texts, `vectors` of shape (n, dimension), show together, or None; and the `k` likeliest with probabilities.

    Of several texts each intent is as likely as in the one that shows it most.
    """
    probabilities = classifier.probabilities(vectors)
    likeliest = probabilities.max(axis=0, initial=0.0)
    guesses = [guess for guess in classifier.classify(vectors, threshold) if guess]
    best = max(guesses, key=lambda guess: guess.probability, default=None)
    order = np.argsort(-likeliest, kind="stable")[:k]
    return {
        "intent": best.intent if best else None,
        "intents": [
            {"intent": classifier.intents[column], "probability": round(float(likeliest[column]), 6)} for column in order
        ],
    }


def shown_by_each(classifier: IntentClassifier, vectors: Vectors, *, k: int, threshold: float) -> Sequence[dict[str, Any]]:
    """As `shown`, for each text by itself."""
    return [shown(classifier, vectors[row : row + 1], k=k, threshold=threshold) for row in range(len(vectors))]
