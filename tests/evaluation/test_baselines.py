"""Each baseline against what it is by definition, on a world small enough to work out by hand."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from persona.evaluation.baselines import (
    CONTENDERS,
    MS_PER_DAY,
    Als,
    Asked,
    Baseline,
    Ease,
    ItemKnn,
    Past,
    Popularity,
    SimilarTexts,
    SimilarUsers,
    Told,
    ranked,
)

# user 0 and 1 take 0 and 1; user 2 takes 2 and 3; user 3 takes 3 alone, three times, lately
USERS = np.array([0, 0, 1, 1, 2, 2, 3, 3, 3])
CAMPAIGNS = np.array([0, 1, 0, 1, 2, 3, 3, 3, 3])
DAYS = np.array([0, 0, 0, 0, 0, 0, 8, 9, 10])
VECTORS = np.eye(2, dtype=np.float32)[[0, 0, 1]]
TOLD = Told(
    VECTORS,
    ["the sea and sun", "by the sea", "a loan"],
    csr_array(np.array([[1.0, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 1, 0]])),
)
PAST = Past(5, USERS, CAMPAIGNS, DAYS * MS_PER_DAY, 10 * MS_PER_DAY, lambda: TOLD)


def scores(baseline: Baseline, asked: Asked) -> list[float]:
    return [float(score) for score in baseline.fit(PAST)(asked)]


def test_popularity_counts_events_and_decay_halves_them() -> None:
    assert scores(Popularity(), Asked(0)) == [2, 2, 1, 4, 0]
    assert scores(Popularity(1.0), Asked(0)) == pytest.approx([2**-9, 2**-9, 2**-10, 2**-10 + 0.25 + 0.5 + 1, 0])


def test_similar_users_add_their_similarity() -> None:
    # to someone who took 0: users 0 and 1 have cosine 1/sqrt(2) each
    assert scores(SimilarUsers(10), Asked(0, {0: 0})) == pytest.approx([2**0.5, 2**0.5, 0, 0, 0])
    assert scores(SimilarUsers(1), Asked(0, {3: 0}))[3] == pytest.approx(1.0)  # the nearest is user 3
    assert scores(SimilarUsers(10), Asked(0)) == [0] * 5


def test_similar_texts_count_what_they_led_to() -> None:
    assert scores(SimilarTexts(10, by_vectors=True), Asked(0, vector=VECTORS[2])) == [0, 0, 0, 1, 0]
    assert scores(SimilarTexts(10, by_vectors=True), Asked(0)) == [0] * 5
    by_words = scores(SimilarTexts(10), Asked(0, words="to the sea"))
    assert min(by_words[:2]) > 0 and by_words[2:] == [0, 0, 0]
    assert scores(SimilarTexts(10), Asked(0, words="")) == [0] * 5


def test_item_knn_is_the_cosine_of_campaigns() -> None:
    assert scores(ItemKnn(10), Asked(0, {0: 0})) == pytest.approx([0, 1, 0, 0, 0])
    assert scores(ItemKnn(10), Asked(0, {2: 0})) == pytest.approx([0, 0, 0, 1 / 2**0.5, 0])


def test_ease_is_its_closed_form() -> None:
    matrix = PAST.matrix.toarray()
    gram = matrix.T @ matrix
    inverse = np.linalg.inv(gram + 2.0 * np.diag(gram).mean() * np.eye(5))
    expected = -inverse / np.diag(inverse)
    np.fill_diagonal(expected, 0)
    assert scores(Ease(2.0), Asked(0, {0: 0, 2: 0})) == pytest.approx(list(expected[0] + expected[2]))


@pytest.mark.filterwarnings("error")
def test_als_prefers_what_goes_together_and_says_nothing_of_strangers() -> None:
    rng = np.random.default_rng(1)
    users = rng.integers(200, size=2_000)
    campaigns = (users % 4) * 5 + rng.integers(5, size=2_000)
    score = Als(4, 0.1).fit(Past(20, users, campaigns, np.zeros(2_000, dtype=np.int64), 0))
    assert set(ranked(score(Asked(0, {5: 0, 6: 0})), np.zeros(20), 5)) == {5, 6, 7, 8, 9}
    assert not score(Asked(0)).any()


def test_after_what_a_method_knows_of_comes_what_is_popular_and_nothing_that_nobody_wanted() -> None:
    scores, popularity = np.array([0.0, 2.0, 3.0, -1.0, 2.0, 0.0, 0.0]), np.array([5.0, 0, 9, 9, 0, 7, 0])
    assert ranked(scores, popularity, 9) == [2, 1, 4, 3, 5, 0]
    assert ranked(scores, popularity, 1) == [2]


def test_nobody_is_tuned_harder_than_another() -> None:
    assert {len(settings) for name, settings in CONTENDERS.items() if name != "popularity"} == {6}


@pytest.mark.parametrize("name", CONTENDERS)
def test_an_empty_past_is_no_error(name: str) -> None:
    none = np.zeros(0, dtype=np.int64)
    nothing = Past(3, none, none, none, 0)
    if name != "iALS":
        assert not CONTENDERS[name][0].fit(nothing)(Asked(0, {0: 0}, words="a")).any()
