"""What a ranking has to beat: the field's plain methods behind one signature, each with settings to choose among. Pure.

They share nothing with the product's channels, so that a fault there does not hide in what it is compared with.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, csr_matrix, diags_array

from persona.schemas import Vector, Vectors

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
MS_PER_DAY = 86_400_000


@dataclass(frozen=True)
class Told:
    """Texts of the past (conversations), and what each led to."""

    vectors: Vectors
    """Shape (texts, dimension), of length one."""
    words: Sequence[str]
    """The texts themselves; empty where only their vectors are known."""
    outcomes: csr_array
    """Shape (texts, campaigns): strength of what followed, zero or more."""


@dataclass(frozen=True)
class Past:
    """What may be learned from: who engaged with what, when. Campaigns and users are numbers."""

    campaigns: int
    user: Ints
    campaign: Ints
    at_ms: Ints
    """These three of one length, an entry an event."""
    now_ms: int
    told: Callable[[], Told | None] = lambda: None
    """Called by who needs texts: putting them together takes longer than most methods."""

    @cached_property
    def matrix(self) -> csr_array:
        """Users x campaigns, one where there was any engagement."""
        users = int(self.user.max()) + 1 if len(self.user) else 0
        pairs = np.unique(self.user * self.campaigns + self.campaign)
        return csr_array((np.ones(len(pairs)), divmod(pairs, self.campaigns)), shape=(users, self.campaigns))

    @cached_property
    def popularity(self) -> Floats:
        """Events a campaign, all alike: what stands behind whatever a method says."""
        return np.bincount(self.campaign, minlength=self.campaigns).astype(np.float64)


@dataclass(frozen=True)
class Asked:
    """Whom to rank for: what they engaged with or named, and what they said."""

    at_ms: int
    history: Mapping[int, int] = field(default_factory=dict)
    """Campaign to when it was last engaged with or named, UTC epoch milliseconds."""
    vector: Vector | None = None
    words: str = ""


Scorer = Callable[[Asked], Floats]
"""Scores of all campaigns, shape (campaigns,); zero: the method knows nothing of it."""


class Baseline(Protocol):
    """A method with its settings."""

    def fit(self, past: Past) -> Scorer:
        """Learn from the past."""
        ...


@dataclass(frozen=True)
class Popularity:
    """Events a campaign, each halved with every `half_life_days` since; without a half-life, all alike."""

    half_life_days: float | None = None

    def fit(self, past: Past) -> Scorer:
        """The same for everyone."""
        if self.half_life_days is None:
            return lambda asked: past.popularity
        ages = np.maximum(past.now_ms - past.at_ms, 0) / MS_PER_DAY
        weights = 0.5 ** (ages / self.half_life_days)
        counts: Floats = np.bincount(past.campaign, weights=weights, minlength=past.campaigns).astype(np.float64)
        return lambda asked: counts


@dataclass(frozen=True)
class SimilarUsers:
    """Count what the nearest users, by cosine of their histories, engaged with (Sarwar et al. 2000)."""

    neighbours: int

    def fit(self, past: Past) -> Scorer:
        """Compare with everyone at once."""
        matrix = past.matrix
        unit = _unit_rows(matrix)

        def score(asked: Asked) -> Floats:
            similarities = unit @ _indicator(asked, past.campaigns)
            return _counted(similarities, matrix, self.neighbours)

        return score


@dataclass(frozen=True)
class SimilarTexts:
    """Count what the nearest texts led to, by cosine of TF-IDF, or of the encoder's vectors."""

    neighbours: int
    by_vectors: bool = False

    def fit(self, past: Past) -> Scorer:
        """Nothing to learn without texts."""
        told = past.told()
        if told is None or not told.outcomes.shape[0] or not (self.by_vectors or any(told.words)):
            return lambda asked: np.zeros(past.campaigns)
        if self.by_vectors:
            vectors = told.vectors

            def score(asked: Asked) -> Floats:
                if asked.vector is None:
                    return np.zeros(past.campaigns)
                return _counted((vectors @ asked.vector).astype(np.float64), told.outcomes, self.neighbours)

            return score
        from sklearn.feature_extraction.text import TfidfVectorizer  # takes a second to import

        vectorizer = TfidfVectorizer(sublinear_tf=True)
        matrix = vectorizer.fit_transform(told.words)
        return lambda asked: _counted(
            (matrix @ vectorizer.transform([asked.words]).T).toarray()[:, 0], told.outcomes, self.neighbours
        )


@dataclass(frozen=True)
class ItemKnn:
    """Add up, for what the user engaged with, the cosines to its nearest campaigns (Deshpande & Karypis 2004)."""

    neighbours: int

    def fit(self, past: Past) -> Scorer:
        """One matrix of campaigns x campaigns."""
        unit = _unit_rows(csr_array(past.matrix.T))
        cosines = (unit @ unit.T).toarray()
        np.fill_diagonal(cosines, 0.0)
        if self.neighbours < past.campaigns:
            weakest = -np.partition(-cosines, self.neighbours - 1, axis=1)[:, self.neighbours - 1 : self.neighbours]
            cosines[cosines < weakest] = 0.0
        return lambda asked: _indicator(asked, past.campaigns) @ cosines


@dataclass(frozen=True)
class Ease:
    """A linear model of campaigns in closed form (Steck 2019); `regularisation` in multiples of the Gram matrix's mean diagonal."""

    regularisation: float

    def fit(self, past: Past) -> Scorer:
        """One inversion of campaigns x campaigns."""
        gram = (past.matrix.T @ past.matrix).toarray()
        places = np.diag_indices(past.campaigns)
        gram[places] += max(self.regularisation * float(gram[places].mean()), 1.0)
        inverse = np.linalg.inv(gram)
        weights = inverse / -np.diag(inverse)
        weights[places] = 0.0
        return lambda asked: _indicator(asked, past.campaigns) @ weights


@dataclass(frozen=True)
class Als:
    """Matrix factorisation of implicit feedback (Hu, Koren & Volinsky 2008), by the library `implicit`; a user is folded in."""

    factors: int
    regularisation: float

    def fit(self, past: Past) -> Scorer:
        """Fifteen alternations."""
        from implicit.cpu.als import AlternatingLeastSquares  # takes a second to import
        from threadpoolctl import threadpool_limits

        with threadpool_limits(1, "blas"):  # its threads are its own, and BLAS's beside them make it slow
            model = AlternatingLeastSquares(
                factors=self.factors, regularization=self.regularisation, alpha=10.0, iterations=15, num_threads=2, random_state=7
            )
            model.fit(csr_matrix(past.matrix, dtype=np.float32), show_progress=False)
        factors = np.asarray(model.item_factors, dtype=np.float64)

        def score(asked: Asked) -> Floats:
            if not asked.history:
                return np.zeros(past.campaigns)
            liked = csr_matrix(_indicator(asked, past.campaigns)[None, :], dtype=np.float32)
            scores: Floats = factors @ np.asarray(model.recalculate_user([0], liked), dtype=np.float64).reshape(-1)
            return scores

        return score


CONTENDERS: Mapping[str, Sequence[Baseline]] = {
    "popularity": [Popularity()],
    "decayed popularity": [Popularity(days) for days in (1.0, 3.5, 7.0, 14.0, 30.0, 90.0)],
    "similar users": [SimilarUsers(n) for n in (10, 20, 50, 100, 200, 500)],
    "similar texts (TF-IDF)": [SimilarTexts(n) for n in (10, 20, 50, 100, 200, 500)],
    "similar texts (vectors)": [SimilarTexts(n, by_vectors=True) for n in (10, 20, 50, 100, 200, 500)],
    "ItemKNN": [ItemKnn(n) for n in (5, 10, 20, 50, 100, 200)],
    "EASE": [Ease(multiple) for multiple in (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)],
    "iALS": [Als(factors, penalty) for factors in (16, 32, 64) for penalty in (0.1, 1.0)],
}
"""Each with the settings to choose among on earlier windows: six of each, so that none is tuned harder than another."""
DECAYED = "decayed popularity"
SQUARE = frozenset({"ItemKNN", "EASE"})
"""Those that make a matrix of campaigns x campaigns."""


def ranked(scores: Floats, popularity: Floats, depth: int) -> list[int]:
    """The campaigns that the method knows of, best first, and after them the most popular; at most so many, ties by number."""
    unknown = scores == 0
    order = np.lexsort((-popularity, np.where(unknown, 0.0, -scores), unknown))
    left = order[(scores[order] != 0) | (popularity[order] > 0)]
    return [int(campaign) for campaign in left[:depth]]


def _indicator(asked: Asked, campaigns: int) -> Floats:
    row = np.zeros(campaigns)
    row[list(asked.history)] = 1.0
    return row


def _unit_rows(matrix: csr_array) -> csr_array:
    norms = np.sqrt(matrix.multiply(matrix).sum(axis=1))
    return csr_array(diags_array(1 / np.maximum(norms, 1e-12)) @ matrix)


def _counted(similarities: Floats, outcomes: csr_array, neighbours: int) -> Floats:
    count = min(neighbours, int((similarities > 0).sum()))
    if not count:
        return np.zeros(outcomes.shape[1])
    nearest = np.argpartition(-similarities, count - 1)[:count]
    counted: Floats = similarities[nearest] @ outcomes[nearest]
    return counted
