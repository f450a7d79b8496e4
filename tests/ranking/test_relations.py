"""What relations are learned from whom: EASE against a dense solution, and what must not change it."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.sparse import csr_array

from persona.projections.histories import EPOCH, EVER, MS, Histories
from persona.ranking import relations
from persona.ranking.knowledge import Related
from persona.ranking.relations import Rows, co_engagement, ease, learn, rows_of
from persona.schemas import Relation
from tests.tables import table_of

NAMES = [f"c_{number:02}" for number in range(12)]
NOW = datetime(2026, 5, 1, tzinfo=UTC)
Row = Mapping[str, float]


def matrix(everybody: Iterable[Sequence[Row]], names: Iterable[str] = NAMES) -> Rows:
    """People's rows as they are learned from."""
    ordered = sorted(names)
    owned = [(person, row) for person, rows in enumerate(filter(None, everybody)) for row in rows]
    cells = np.array([[row.get(name, 0.0) for name in ordered] for _, row in owned]).reshape(len(owned), len(ordered))
    return Rows(csr_array(cells), np.array([person for person, _ in owned], np.int64), ordered)


def people(seed: int = 0, number: int = 80, names: Sequence[str] = NAMES, most_rows: int = 1) -> list[list[Row]]:
    dice = np.random.default_rng(seed)
    return [
        [
            {names[each]: float(dice.uniform(0.1, 1)) for each in dice.choice(len(names), size=3, replace=False)}
            for _ in range(dice.integers(1, most_rows, endpoint=True))
        ]
        for _ in range(number)
    ]


def dense(rows: Sequence[Row], names: Sequence[str] = NAMES) -> np.ndarray:
    return np.array([[row.get(name, 0.0) for name in names] for row in rows])


def all_rows(everybody: Sequence[Sequence[Row]]) -> list[Row]:
    return [row for rows in everybody for row in rows]


def by_pair(found: Sequence[Relation]) -> dict[tuple[str, str], tuple[float, int]]:
    return {(each.campaign_id, each.related_id): (each.weight, each.support) for each in found}


# -- the literature's model -------------------------------------------------------------------------------------------------


def test_the_weights_are_those_of_the_constrained_ridge_regression() -> None:
    x, regularisation = dense(all_rows(people())), 7.0
    weights = ease(x.T @ x, regularisation)
    for column in range(len(NAMES)):  # column by column: the others explain this one, ridge, in closed form
        others = np.arange(len(NAMES)) != column
        a = x[:, others]
        expected = np.linalg.solve(a.T @ a + regularisation * np.eye(len(NAMES) - 1), a.T @ x[:, column])
        assert np.allclose(weights[others, column], expected)
    assert not weights.diagonal().any()


@pytest.mark.parametrize("together", [1, 2, 4, 12])
@pytest.mark.parametrize("number", [10, 100, 1_000])
def test_the_regularisation_is_the_one_of_those_tried_that_tells_best(number: int, together: int) -> None:
    dice = np.random.default_rng([number, together])
    themes = [NAMES[first : first + together] for first in range(0, len(NAMES), together)]
    everybody = [
        [dict.fromkeys((*themes[dice.integers(len(themes))], NAMES[dice.integers(len(NAMES))]), 1.0)] for _ in range(number)
    ]
    a, b = co_engagement(matrix(everybody), parts=2).grams
    scale = float(np.trace(a) + np.trace(b)) / 2 / len(NAMES)
    tried = sorted({max(multiple * scale, relations.LEAST_REGULARISATION) for multiple in relations.MULTIPLES})

    def error(regularisation: float) -> float:
        pairs = [(np.eye(len(NAMES)) - ease(one.copy(), regularisation), other) for one, other in ((a, b), (b, a))]
        return float(sum(np.trace(rest.T @ gram @ rest) for rest, gram in pairs))

    assert learn(matrix(everybody)).summary.regularisation == pytest.approx(min(tried, key=error), abs=1e-5)


def test_no_other_weights_do_better() -> None:
    x = dense(all_rows(people(number=20)), NAMES)[:, :3]
    free = ~np.eye(3, dtype=bool)

    def loss(values: np.ndarray) -> float:
        weights = np.zeros((3, 3))
        weights[free] = values
        return float(((x - x @ weights) ** 2).sum() + 2.0 * (weights**2).sum())

    assert loss(ease(x.T @ x, 2.0)[free]) <= minimize(loss, np.zeros(6)).fun + 1e-9


@pytest.mark.parametrize("block", [1, 50, 10**6])
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("most_rows", [1, 4])
def test_people_are_added_up_the_same_in_blocks_of_any_size(
    block: int, parts: int, most_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relations, "BLOCK", block)
    somebody = people(most_rows=most_rows)
    found = co_engagement(matrix(somebody), parts=parts)
    assert found.people == 80
    for part, gram in enumerate(found.grams):  # all rows of a person are in one part
        x = dense(all_rows(somebody[part::parts]))
        assert np.allclose(gram, x.T @ x)
    together = np.zeros((len(NAMES), len(NAMES)), dtype=int)
    for rows in somebody:
        has = (dense(rows) > 0).any(axis=0)
        together += np.outer(has, has)
    assert (found.support == together - np.diag(together.diagonal())).all()


# -- what is kept -----------------------------------------------------------------------------------------------------------


def test_what_goes_together_is_related_and_what_does_not_is_not() -> None:
    pairs = [("sun", "sea"), ("loan", "card")]
    rows = [[dict.fromkeys(pair, 1.0)] for pair in pairs for _ in range(20)]
    found = learn(matrix(rows, ["sun", "sea", "loan", "card", "new"]))
    weights = by_pair(found.relations)
    assert set(weights) == {("sun", "sea"), ("sea", "sun"), ("loan", "card"), ("card", "loan")}
    assert all(0 < weight <= 1 and support == 20 for weight, support in weights.values())
    assert (found.summary.people, found.summary.campaigns, found.summary.relations) == (40, 5, 4)


def test_what_a_person_took_in_different_conversations_does_not_go_together() -> None:
    assert learn(matrix([[{"a": 1.0}, {"b": 1.0}]] * 9, "ab")).relations == []


def test_every_weight_is_positive_and_supported_and_only_the_strongest_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    everybody = people(number=300, most_rows=2)
    whole = learn(matrix(everybody)).relations
    together = co_engagement(matrix(everybody)).support
    for each in whole:
        assert each.weight > 0 and each.support == together[NAMES.index(each.campaign_id), NAMES.index(each.related_id)] >= 2
    monkeypatch.setattr(relations, "STRONGEST", 2)
    kept = learn(matrix(everybody)).relations
    for name in NAMES:
        before = [each for each in whole if each.campaign_id == name]
        assert [each for each in kept if each.campaign_id == name] == before[:2]
        assert [each.weight for each in before] == sorted((each.weight for each in before), reverse=True)


def test_too_many_campaigns_are_said_to_be_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relations, "LARGEST", 11)
    found = learn(matrix(people()))
    assert found.relations == [] and found.summary.left_out == (
        "12 campaigns are more than the 11 for which related campaigns are learned"
    )
    monkeypatch.setattr(relations, "LARGEST", 12)
    assert learn(matrix(people())).summary.left_out is None


@pytest.mark.parametrize("nothing", [[], [[{"a": 1.0}]], [[{"a": 1.0, "b": 0.0}]]])
def test_from_nothing_nothing_is_learned(nothing: list[list[Row]]) -> None:
    assert learn(matrix(nothing, "ab")).relations == []
    assert learn(matrix([], [])).relations == []


# -- what must not matter ---------------------------------------------------------------------------------------------------


@given(st.permutations(range(12)), st.integers(0, 100))
@settings(max_examples=25, deadline=None)
def test_the_order_of_campaigns_does_not_matter(order: list[int], seed: int) -> None:
    x = dense(all_rows(people(seed)))
    gram = x.T @ x
    shuffled = ease(gram[np.ix_(order, order)].copy(), 5.0)
    assert np.allclose(shuffled, ease(gram.copy(), 5.0)[np.ix_(order, order)])


@given(st.integers(0, 100), st.integers(1, 60))
@settings(max_examples=25, deadline=None)
def test_people_who_have_nothing_in_common_with_the_others_do_not_change_what_relates_theirs(seed: int, more: int) -> None:
    foreign = [f"x_{number}" for number in range(4)]
    ours = co_engagement(matrix(people(seed), [*NAMES, *foreign]))
    everybody = co_engagement(matrix([*people(seed), *people(seed + 1, more, foreign)], [*NAMES, *foreign]))
    before, after = ease(ours.grams[0], 5.0), ease(everybody.grams[0], 5.0)
    assert np.allclose(before[:12, :12], after[:12, :12]) and not after[:12, 12:].any()
    assert (ours.support[:12, :12] == everybody.support[:12, :12]).all() and not everybody.support[:12, 12:].any()


# -- from a history ---------------------------------------------------------------------------------------------------------


def did(days: float, event: str, campaign: str | None = None, text: str | None = None, talk: str | None = None) -> dict[str, Any]:
    fields = {"campaign_id": campaign, "text_hash": text, "conversation_id": talk}
    at = NOW - timedelta(days=days)
    return {"_id": f"{days}", "timestamp": at, "event": event, **{name: value for name, value in fields.items() if value}}


def rows(*history: dict[str, Any], **named: list[str]) -> list[Row]:
    own = [record | {"user_id": "u", "channel": "web"} for record in history]
    histories = Histories(table_of(own), named)
    ties = histories.ties_before(EVER, histories.talks_before(EVER))
    found = rows_of(ties, histories.campaigns.all, now_ms=(NOW - EPOCH) // MS, half_life_days=10)
    assert not found.person.any()
    return [
        {found.campaigns[place]: round(float(row[place]), 12) for place in np.flatnonzero(row).tolist()}
        for row in found.cells.toarray()
    ]


@pytest.mark.parametrize("conversations", [0, 2])
def test_a_robot_that_engages_with_everything_counts_no_more_than_its_strongest(
    conversations: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relations, "MOST_OF_ONE", 2)
    done = [did(number / 10, "conversion", name) for number, name in enumerate(NAMES)]
    talked = [did(90 + talk, "message", text="x", talk=f"t_{talk}") for talk in range(conversations)]
    assert rows(*done, *talked, x=NAMES) == [{NAMES[0]: 1.0, NAMES[1]: pytest.approx(0.5**0.01)}]


def test_without_words_a_person_is_one_row_of_the_strongest_events_halved_by_age() -> None:
    found = rows(
        did(10, "impression", "a"), did(10, "conversion", "b"), did(10, "open", "c"), did(0, "click", "b"), did(-5, "click", "d"),
    )  # fmt: skip
    assert found == [{"b": 1.0, "c": 0.1, "d": 0.5}]
    assert rows(did(3, "impression", "a")) == rows() == []


def test_what_was_refused_counts_only_where_it_was_engaged_with_since() -> None:
    found = rows(
        did(10, "conversion", "a"),
        did(10, "dismiss", "b"),
        did(10, "unsubscribe", "c"),
        did(9, "dismiss", "a"),
        did(9, "click", "b"),
    )
    assert found == [{"b": pytest.approx(0.5 * 0.5**0.9)}]
    talked = [did(30, "message", text="x", talk="t"), did(20, "click", "a", talk="t"), did(0, "dismiss", "a")]
    assert rows(*talked, x=["a", "b"]) == [{"b": 0.125}]  # named and clicked on, refused in the end
    assert rows(did(20, "dismiss", "a"), *talked[:1], x=["a"]) == rows(did(0, "dismiss", "a"), *talked[:1], x=["a"]) == []


def test_each_conversation_is_a_row_in_which_naming_and_engaging_are_alike_and_all_that_was_done_is_another() -> None:
    found = rows(
        did(30, "message", text="x", talk="t_1"), did(30, "click", "b", talk="t_1"), did(30, "impression", "c", talk="t_1"),
        did(20, "message", text="y"), did(20, "open", "b"), did(10, "message", text="z", talk="t_3"), did(10, "click", "d"),
        did(0, "open", "e", talk="t_1"), did(0, "message", text="x"),
        x=["a"], y=["a", "b"],
    )  # fmt: skip
    done = {"b": 0.125, "d": 0.25, "e": 0.2}
    assert found == [{"a": 0.125, "b": 0.125, "e": 1.0}, {"a": 0.25, "b": 0.25}, {"d": 0.5}, {"a": 1.0}, done]
    found = rows(did(30, "message", text="x"), did(20, "click", "b"), did(20, "conversion", "c"), x=["a"])
    assert found == [{"a": 0.125}, {"b": 0.125, "c": 0.25}]  # long after it, so by no conversation


# -- what a history points to -----------------------------------------------------------------------------------------------


def test_votes_add_up_over_the_history_and_name_what_adds_most() -> None:
    learned = {"a": [Relation("a", "x", 0.4, 3), Relation("a", "y", 0.1, 9)], "b": [Relation("b", "x", 0.3, 5)]}
    related = Related(("r", relations) for relations in learned.values())
    votes = related.related_campaigns({"a": 0.5, "b": 1.0, "unknown": 1.0}, limit=5)
    assert [(vote.campaign_id, round(vote.score, 6), vote.because, vote.support) for vote in votes] == [
        ("x", 0.5, "b", 5), ("y", 0.05, "a", 9),
    ]  # fmt: skip
    assert [vote.campaign_id for vote in related.related_campaigns({"a": 0.5}, limit=1)] == ["x"]
    assert related.related_campaigns({}, limit=5) == []
