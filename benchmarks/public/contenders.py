"""The field's methods as plainly as they can be written, over events in memory. Whose data these are, and who judges, is not known here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from implicit.cpu.als import AlternatingLeastSquares
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from benchmarks.public.scoring import DEPTH, Bools, Floats, Ints, measure

Weights = Mapping[str, float]
"""What an event of a kind counts; of several in a cell the most counts."""
REFUSAL = "dismiss"
"""The kind that empties its cell."""


@dataclass(frozen=True)
class Events:
    """Arrays of one length: the row (a conversation or a person), the campaign's number, what happened, how many days ago."""

    row: Ints
    campaign: Ints
    kind: NDArray[np.str_]
    age: Floats

    def matrix(self, shape: tuple[int, int], weights: Weights, half_life: float | None = None) -> Floats:
        """Rows x campaigns: what happened there, by weight, halved with every `half_life` days since; 0 where it was refused."""
        values = np.array([weights.get(kind, 0.0) for kind in self.kind])
        if half_life is not None:
            values *= 0.5 ** (self.age / half_life)
        cells = np.zeros(shape)
        np.maximum.at(cells, (self.row, self.campaign), values)
        refused = self.kind == REFUSAL
        cells[self.row[refused], self.campaign[refused]] = 0.0
        return cells


@dataclass(frozen=True)
class Texts:
    """What was said in each row, and by each query: the words, and vectors of length one."""

    said: Sequence[str]
    said_vectors: Floats
    asked: Sequence[str]
    asked_vectors: Floats


@dataclass(frozen=True)
class Task:
    """What may be learned from, who is asked about, and what turned out to be right for them."""

    past: Events
    rows: int
    history: Events
    """Its rows are the queries."""
    weights: Weights
    """What an event says of someone's taste."""
    taken: Bools
    """Shape (queries, campaigns): what is struck out of every list."""
    relevant: Bools
    """Shape (queries, campaigns)."""
    users: Ints
    """Of each query, whose it is."""
    texts: Texts | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Queries x campaigns."""
        return self.relevant.shape

    @cached_property
    def popularity(self) -> Floats:
        """Events a campaign, by weight: what fills a list where a method has nothing to say."""
        counts: Floats = self.learned().sum(axis=0)
        return counts

    def learned(self, half_life: float | None = None) -> Floats:
        """Rows x campaigns."""
        return self.past.matrix((self.rows, self.shape[1]), self.weights, half_life)

    def asked(self, half_life: float | None = None) -> Floats:
        """Queries x campaigns: what is known of who asks."""
        return self.history.matrix(self.shape, self.weights, half_life)


class Contender(Protocol):
    """A method with its settings."""

    def scores(self, task: Task) -> Floats:
        """Shape (queries, campaigns); what is not above zero stands below, by popularity."""
        ...


@dataclass(frozen=True)
class Popularity:
    """How often each campaign was met, each time by weight, halved with every `half_life` days since."""

    weights: Weights
    half_life: float | None = None

    def scores(self, task: Task) -> Floats:
        """The same for every query."""
        cells = task.past.matrix((task.rows, task.shape[1]), self.weights, self.half_life)
        return np.tile(cells.sum(axis=0), (task.shape[0], 1))


@dataclass(frozen=True)
class ItemKnn:
    """Add up the cosines to what is known of who asks (Deshpande & Karypis 2004), shrunk where few met both."""

    neighbours: int
    shrink: float = 0.0
    half_life: float | None = None

    def scores(self, task: Task) -> Floats:
        """From a matrix of campaigns x campaigns."""
        rows = task.learned(self.half_life)
        gram = rows.T @ rows
        norms = np.sqrt(np.diag(gram))
        cosines = gram / (np.outer(norms, norms) + self.shrink + 1e-9)
        np.fill_diagonal(cosines, 0.0)
        return task.asked(self.half_life) @ _largest(cosines, self.neighbours)


@dataclass(frozen=True)
class Ease:
    """A linear model of campaigns in closed form (Steck 2019)."""

    regularisation: float
    half_life: float | None = None

    def scores(self, task: Task) -> Floats:
        """By one inversion of the Gram matrix of the campaigns that were met at all."""
        rows = task.learned(self.half_life)
        met = np.flatnonzero(rows.any(axis=0))
        gram = rows[:, met].T @ rows[:, met]
        inverse = np.linalg.inv(gram + self.regularisation * np.eye(len(met)))
        model = inverse / -np.diag(inverse)
        np.fill_diagonal(model, 0.0)
        scores = np.zeros(task.shape)
        scores[:, met] = task.asked(self.half_life)[:, met] @ model
        return scores


@dataclass(frozen=True)
class EaseAndPopularity:
    """Both, each scaled to its best, the second by its share."""

    ease: Ease
    popularity: Popularity
    share: float

    def scores(self, task: Task) -> Floats:
        """Best of what is not taken is one."""
        ease, popularity = (_scaled(np.where(task.taken, 0.0, part.scores(task))) for part in (self.ease, self.popularity))
        return (1 - self.share) * ease + self.share * popularity


@dataclass(frozen=True)
class Als:
    """Matrix factorisation of implicit feedback (Hu, Koren & Volinsky 2008) by the library `implicit`; who asks is folded in."""

    factors: int
    regularisation: float
    confidence: float

    def scores(self, task: Task) -> Floats:
        """After fifteen alternations."""
        settings = {"factors": self.factors, "regularization": self.regularisation, "alpha": self.confidence}
        with threadpool_limits(1, "blas"):  # the library has threads of its own, and the two get in each other's way
            model = AlternatingLeastSquares(**settings, iterations=15, random_state=0)
            model.fit(csr_matrix(task.learned(), dtype=np.float32), show_progress=False)
            people = model.recalculate_user(np.arange(task.shape[0]), csr_matrix(task.asked(), dtype=np.float32))
        return np.asarray(people @ model.item_factors.T, dtype=np.float64)


@dataclass(frozen=True)
class TextNeighbours:
    """Count what the most similar texts led to, each by its similarity to the power of `sharpness`: TF-IDF, or vectors."""

    neighbours: int
    sharpness: float
    by_vectors: bool = False

    def scores(self, task: Task) -> Floats:
        """Cosines of what is asked and everything said."""
        if task.texts is None:
            raise ValueError("nothing was said")
        similar = np.maximum(self._similarities(task.texts), 0.0)
        return _largest(similar, self.neighbours) ** self.sharpness @ task.learned()

    def _similarities(self, texts: Texts) -> Floats:
        if self.by_vectors:
            return texts.asked_vectors @ texts.said_vectors.T
        vectorizer = TfidfVectorizer(sublinear_tf=True, stop_words="english")
        said = vectorizer.fit_transform(texts.said)
        similarities: Floats = (vectorizer.transform(texts.asked) @ said.T).toarray()
        return similarities


def ranked_by(contender: Contender, task: Task) -> Ints:
    """The best campaigns of each query that are not taken, as `measure` wants them; ties by number."""
    scores = contender.scores(task)
    filled = np.where(scores > 0, 1 + _scaled(scores), task.popularity / (task.popularity.max() + 1e-9))
    return best(np.where(task.taken, -np.inf, filled))


def best(scores: Floats) -> Ints:
    """Numbers of the campaigns with the highest scores, shape (queries, DEPTH); -1 where a score is minus infinity."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :DEPTH]
    order[np.isneginf(np.take_along_axis(scores, order, axis=1))] = -1
    return np.pad(order, ((0, 0), (0, DEPTH - order.shape[1])), constant_values=-1)


def chosen(settings: Sequence[Contender], windows: Sequence[Task]) -> Contender:
    """The setting with the best mean of the three metrics over the queries of all windows."""

    def quality(setting: Contender) -> float:
        return float(np.concatenate([measure(ranked_by(setting, task), task.relevant) for task in windows]).mean())

    return max(settings, key=quality)


def _scaled(scores: Floats) -> Floats:
    positive = np.maximum(scores, 0.0)
    scaled: Floats = positive / (positive.max(axis=1, keepdims=True) + 1e-9)
    return scaled


def _largest(matrix: Floats, count: int) -> Floats:
    """Of each row, its so many largest; the others become zero."""
    if count >= matrix.shape[1]:
        return matrix
    least = np.partition(matrix, -count, axis=1)[:, -count, None]
    return np.where(matrix >= least, matrix, 0.0)
