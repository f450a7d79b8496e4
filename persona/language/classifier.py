"""Vectors to intents with probabilities, "none of these" among them: fitted to example vectors, calibrated on the same. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from persona.schemas import Vectors

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

METHOD = 1
"""Moves when the same examples give another classifier."""

WIDTH = 1.0
"""Of the Gaussian kernel: exp(-WIDTH · squared distance); unit vectors that mean the same are closer than 1."""
RIDGE = 0.1
NEAREST = 0.5
"""What the cosine to the nearest example counts, beside the regression."""
LANDMARKS = 2_048
"""Examples that the kernel's functions are centred at (Nyström): memory and time grow with their square."""
CALIBRATED_ON = 32
"""Intents, evenly spread over their names, whose examples are left out for the calibration: more would say the same, later."""
ROWS_AT_ONCE = 1_024

SHARE_OF_NONE = 0.03
"""How many messages are taken to show no intent, but something as near to the intents as they are to each other."""
USUAL_SHARPNESS, USUAL_BAR = 8.0, 0.5
SPREAD_OF_SHARPNESS, SPREAD_OF_BAR = 0.15, 0.025
"""The calibration's prior: what it is where there is nothing to learn it from, and the standard deviations, of the sharpness's logarithm
and of the bar, that data has to overcome."""


@dataclass(frozen=True, slots=True)
class IntentGuess:
    """An intent that a text seems to show."""

    intent: str
    probability: float


@dataclass(frozen=True, eq=False)
class IntentClassifier:
    """Kernel ridge regression on the intents' indicators plus the cosine to the nearest example, calibrated. Build it with `fit`.

    The regression (Rifkin, Yeo & Poggio 2003; Nyström landmarks: Williams & Seeger 2001) tells intents apart that are near to each
    other and gains from many examples; the nearest example carries where there are few; far from all examples both are low. "None"
    is one more class, whose score is constant: the bar. Bar and sharpness are those under which examples that were left out are
    likeliest: each alone, for its intent, and all of an intent, for none.
    """

    intents: tuple[str, ...]
    """By name."""
    examples: Vectors
    """Shape (n, dimension), L2-normalised, by intent."""
    counts: Integers
    """How many examples each intent has."""
    landmarks: Integers
    """Rows of `examples`."""
    weights: Vectors
    """Shape (landmarks, intents)."""
    sharpness: float
    bar: float

    @classmethod
    def fit(cls, examples: Mapping[str, Vectors]) -> Self:
        """Take each intent's example vectors, shape (n, dimension), L2-normalised; intents without any are left out.

        Some seconds for 10,000 examples of 77 intents. The order of the mapping does not matter.
        """
        intents = tuple(sorted(intent for intent, vectors in examples.items() if len(vectors)))
        counts = np.array([len(examples[intent]) for intent in intents], dtype=np.int64)
        if not intents:
            nothing = np.zeros((0, 0), dtype=np.float32)
            return cls((), nothing, counts, counts, nothing, USUAL_SHARPNESS, USUAL_BAR)
        stacked = np.concatenate([np.asarray(examples[intent], dtype=np.float32) for intent in intents])
        landmarks = _evenly(len(stacked), LANDMARKS)
        ridge = _Ridge(stacked, counts, landmarks)
        sharpness, bar = _calibrated(*ridge.left_out())
        return cls(intents, stacked, counts, landmarks, ridge.weights.astype(np.float32), sharpness, bar)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All that it is made of, to be stored; `from_arrays` takes it back."""
        names = np.frombuffer("\0".join(self.intents).encode(), dtype=np.uint8)
        calibration = np.array([self.sharpness, self.bar])
        return {
            "names": names, "examples": self.examples, "counts": self.counts, "landmarks": self.landmarks,
            "weights": self.weights, "calibration": calibration,
        }  # fmt: skip

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """What `arrays` gave."""
        names, (sharpness, bar) = arrays["names"].tobytes().decode(), arrays["calibration"].tolist()
        return cls(
            intents=tuple(names.split("\0")) if names else (),
            examples=arrays["examples"],
            counts=arrays["counts"],
            landmarks=arrays["landmarks"],
            weights=arrays["weights"],
            sharpness=sharpness,
            bar=bar,
        )

    def probabilities(self, vectors: Vectors) -> Floats:
        """How likely each vector shows each intent: shape (n, len(intents)), columns in the order of `intents`.

        `vectors` has shape (n, dimension), L2-normalised. What a row lacks to 1 is the probability of none.
        """
        found = np.zeros((len(vectors), len(self.intents)))
        for start in range(0, len(vectors) if self.intents else 0, ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            found[rows] = np.exp(_log_probabilities(self._scores(vectors[rows]), self.sharpness, self.bar)[:, :-1])
        return found

    def classify(self, vectors: Vectors, threshold: float) -> list[IntentGuess | None]:
        """The likeliest intent of each vector, shape (n, dimension); a tie goes to the first name.

        None where the intent is less likely than `threshold` if it is this intent or none: several that are alike do not make none.
        """
        if not self.intents:
            return [None] * len(vectors)
        probabilities = self.probabilities(vectors)
        best = probabilities.argmax(axis=1)
        likely = probabilities[np.arange(len(vectors)), best]
        shown = likely >= threshold * (likely + 1 - probabilities.sum(axis=1))
        return [
            IntentGuess(self.intents[column], probability) if really else None
            for column, probability, really in zip(best.tolist(), likely.tolist(), shown.tolist(), strict=True)
        ]

    def _scores(self, vectors: Vectors) -> Floats:
        cosines = vectors @ self.examples.T
        regressed = _kernel(cosines[:, self.landmarks]) @ self.weights
        return np.asarray(regressed + NEAREST * _nearest(cosines, self.counts), dtype=np.float64)


class _Ridge:
    """The regression, and what it would say of examples that it had not seen."""

    def __init__(self, examples: Vectors, counts: Integers, landmarks: Integers) -> None:
        from scipy.linalg import cho_factor, cho_solve  # SciPy takes half a second to import: not for `persona --help`

        self._examples = examples
        self._counts = counts
        self._ends = np.cumsum(counts)
        self._centres = examples[landmarks]
        gram = np.zeros((len(landmarks), len(landmarks)))
        targets = np.zeros((len(landmarks), len(counts)))
        for intent, rows in enumerate(self._by_intent()):
            features = self._features(rows)
            gram += features.T @ features
            targets[:, intent] = features.sum(axis=0)
        penalty = RIDGE * _kernel(self._centres @ self._centres.T).astype(np.float64)
        self._factor = cho_factor(gram + penalty + 1e-5 * np.eye(len(landmarks)))
        self.weights: Floats = cho_solve(self._factor, targets)

    def left_out(self) -> tuple[Floats, Integers, Floats]:
        """Scores of each example as if it alone had been left out, with its intent; and as if its whole intent had been.

        Shapes (n, intents), (n,) and (m, intents), the intent that was left out at -inf. In closed form from the blocks of the hat
        matrix, as for any linear smoother. An intent of one example has nothing left without it and is only left out as a whole.
        """
        from scipy.linalg import cho_solve

        alone, whole, truth = [], [], []
        for intent in _evenly(len(self._ends), CALIBRATED_ON):
            rows = self._examples[self._slice(intent)]
            features = self._features(rows)
            fitted = features @ self.weights
            hat = features @ cho_solve(self._factor, features.T)
            residuals = -fitted
            residuals[:, intent] += 1
            cosines = rows @ self._examples.T
            own = cosines[:, self._slice(intent)]
            np.fill_diagonal(own, -np.inf)  # not nearest to itself
            nearest = NEAREST * _nearest(cosines, self._counts)
            if len(rows) > 1:
                shown = np.zeros_like(fitted)
                shown[:, intent] = 1
                alone.append(shown - residuals / (1 - np.diag(hat))[:, None] + nearest)
                truth.append(np.full(len(rows), intent))
            if len(self._ends) > 1:
                unseen = -np.linalg.solve(np.eye(len(rows)) - hat, residuals)
                unseen[:, intent] = -np.inf
                whole.append(unseen + nearest)
        none = np.zeros((0, len(self._ends)))
        return (
            np.concatenate([none, *alone]),
            np.concatenate([np.zeros(0, np.int64), *truth]),
            np.concatenate([none, *whole]),
        )

    def _by_intent(self) -> Iterator[Vectors]:
        return (self._examples[self._slice(intent)] for intent in range(len(self._ends)))

    def _slice(self, intent: int) -> slice:
        return slice(int(self._ends[intent - 1]) if intent else 0, int(self._ends[intent]))

    def _features(self, rows: Vectors) -> Floats:
        return _kernel(rows @ self._centres.T).astype(np.float64)


def _evenly(n: int, limit: int) -> Integers:
    """At most `limit` of the numbers below n, evenly spread."""
    return np.arange(min(n, limit), dtype=np.int64) * n // min(n, limit)


def _nearest(cosines: Vectors, counts: Integers) -> Vectors:
    """The cosine to the nearest example of each intent; columns of `cosines` by intent."""
    return np.asarray(np.maximum.reduceat(cosines, np.concatenate([[0], np.cumsum(counts)[:-1]]), axis=1))


def _kernel(cosines: Vectors) -> Vectors:
    return np.asarray(np.exp(-WIDTH * (2 - 2 * cosines)))


def _log_probabilities(scores: Floats, sharpness: float, bar: float) -> Floats:
    """Of each intent and, in the last column, of none."""
    from scipy.special import logsumexp

    logits = sharpness * np.column_stack([scores, np.full(len(scores), bar)])
    return np.asarray(logits - logsumexp(logits, axis=1, keepdims=True))


def _calibrated(alone: Floats, truth: Integers, whole: Floats) -> tuple[float, float]:
    """Sharpness and bar under which the examples that were left out are likeliest, drawn to the prior where there are few."""
    from scipy.optimize import minimize

    examples = max(len(alone), len(whole))

    def loss(parameters: Floats) -> float:
        sharpness, bar = float(np.exp(parameters[0])), float(parameters[1])
        off = (parameters - usual) / (SPREAD_OF_SHARPNESS, SPREAD_OF_BAR)
        surprise = float(off @ off) / 2
        if len(alone):
            right = _log_probabilities(alone, sharpness, bar)[np.arange(len(alone)), truth]
            surprise -= examples * (1 - SHARE_OF_NONE) * float(right.mean())
        if len(whole):
            surprise -= examples * SHARE_OF_NONE * float(_log_probabilities(whole, sharpness, bar)[:, -1].mean())
        return surprise

    usual = np.array([np.log(USUAL_SHARPNESS), USUAL_BAR])
    found = minimize(loss, usual, method="Nelder-Mead", options={"xatol": 1e-3, "fatol": 1e-3}).x
    return float(np.exp(found[0])), float(found[1])
