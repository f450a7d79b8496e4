"""Variety in a ranking: what a limit and marginal relevance promise of any ranking, and what they leave alone."""

from collections import Counter
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persona.ranking.diversity import RERANKED, Diversity, likeness, placed
from persona.ranking.fusion import Fused
from persona.schemas import Campaign

names = st.lists(st.sampled_from("abcd"), max_size=2, unique=True)
World = tuple[list[Fused], dict[str, Campaign]]
wanted_variety = st.builds(Diversity, st.none() | st.integers(1, 3), st.sampled_from([0.0, 0.3, 0.7, 1.0]))


@st.composite
def worlds(draw: st.DrawFn) -> World:
    scores = sorted(draw(st.lists(st.floats(0, 1), max_size=30)), reverse=True)
    campaigns = {
        f"c_{place}": Campaign(campaign_id=f"c_{place}", categories=draw(names), intents=draw(names))
        for place in range(len(scores))
    }
    return [Fused(campaign, score, ()) for campaign, score in zip(campaigns, scores, strict=True)], campaigns


def order(world: World, wanted: Diversity) -> list[str]:
    return [item.fused.campaign_id for item in placed(*world, wanted)]


def world_of(*categories: str, scores: list[float] | None = None) -> World:
    campaigns = {
        f"c_{place}": Campaign(campaign_id=f"c_{place}", categories=list(names)) for place, names in enumerate(categories)
    }
    found = scores or [1 - place / 100 for place in range(len(categories))]
    return [Fused(campaign, score, ()) for campaign, score in zip(campaigns, found, strict=True)], campaigns


@given(world=worlds())
def test_nothing_is_moved_unless_variety_is_wanted(world: World) -> None:
    assert list(placed(*world, Diversity())) == [(fused, 0) for fused in world[0]]


@settings(max_examples=200)
@given(world=worlds(), wanted=wanted_variety)
def test_everything_is_offered_once_with_its_own_score_and_says_how_far_it_fell(world: World, wanted: Diversity) -> None:
    ranked, _ = world
    found = list(placed(*world, wanted))
    assert sorted(item.fused.campaign_id for item in found) == sorted(fused.campaign_id for fused in ranked)
    before = {id(fused): place for place, fused in enumerate(ranked)}
    assert [item.moved_down for item in found] == [max(place - before[id(item.fused)], 0) for place, item in enumerate(found)]


@settings(max_examples=200)
@given(world=worlds(), limit=st.integers(1, 3), relevance=st.sampled_from([0.5, 1.0]))
def test_no_category_has_more_than_its_share_before_one_that_has_room(world: World, limit: int, relevance: float) -> None:
    _, campaigns = world
    taken: Counter[str] = Counter()
    crowded = False
    for campaign in order(world, Diversity(limit, relevance)):
        categories = set(campaigns[campaign].categories)
        full = any(taken[category] >= limit for category in categories)
        assert full or not crowded, "one that had room came after one that had none"
        crowded = crowded or full
        if not full:
            taken.update(categories)


def test_a_full_category_waits_until_all_others_had_their_turn() -> None:
    world = world_of("a", "a", "a", "b", "", "a", "c")
    assert order(world, Diversity(category_limit=1)) == ["c_0", "c_3", "c_4", "c_6", "c_1", "c_2", "c_5"]
    assert [item.moved_down for item in placed(*world, Diversity(category_limit=1))] == [0, 0, 0, 0, 3, 3, 1]


def test_a_campaign_counts_in_each_of_its_categories() -> None:
    world = world_of("ab", "a", "b", "c")
    assert order(world, Diversity(category_limit=1)) == ["c_0", "c_3", "c_1", "c_2"]


def test_what_is_like_the_one_above_it_has_to_be_more_relevant() -> None:
    world = world_of("a", "a", "b", scores=[1.0, 0.9, 0.6])
    assert order(world, Diversity(relevance=0.9)) == ["c_0", "c_1", "c_2"]  # .81 - .1 against .54
    assert order(world, Diversity(relevance=0.5)) == ["c_0", "c_2", "c_1"]  # .45 - .5 against .30
    assert order(world, Diversity(relevance=0.0)) == ["c_0", "c_2", "c_1"]


def test_marginal_relevance_does_not_depend_on_the_scale_of_scores() -> None:
    large = world_of("a", "a", "b", "ab", scores=[0.8, 0.7, 0.45, 0.4])
    small = ([Fused(fused.campaign_id, fused.score / 50, ()) for fused in large[0]], large[1])
    for relevance in (0.2, 0.5, 0.8):
        assert order(large, Diversity(relevance=relevance)) == order(small, Diversity(relevance=relevance))


def test_only_the_head_is_reordered_by_marginal_relevance() -> None:
    world = world_of(*["a", "a", "b"] * RERANKED)
    found = order(world, Diversity(relevance=0.3))
    assert found[RERANKED:] == [fused.campaign_id for fused in world[0]][RERANKED:]
    assert found[:RERANKED] != [fused.campaign_id for fused in world[0]][:RERANKED]


@pytest.mark.parametrize("wanted", [Diversity(), Diversity(category_limit=2)])
def test_no_more_is_ranked_than_is_taken(wanted: Diversity) -> None:
    ranked, campaigns = world_of("a", "b", "c", "d")
    asked: list[str] = []

    def ranking() -> object:
        for fused in ranked:
            asked.append(fused.campaign_id)
            yield fused

    assert len(list(islice(placed(ranking(), campaigns, wanted), 2))) == 2  # type: ignore[arg-type]
    assert asked == ["c_0", "c_1"]


def test_likeness_is_the_share_of_what_two_have_in_common() -> None:
    found = likeness(
        [
            Campaign(campaign_id="1", categories=["a"], intents=["x"]),
            Campaign(campaign_id="2", categories=["a"], intents=["x", "y"]),
            Campaign(campaign_id="3", categories=["x"]),
            Campaign(campaign_id="4"),
        ]
    )
    assert np.allclose(found, [[1, 2 / 3, 0, 0], [2 / 3, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]])
