"""Whom to show a campaign, and who is like whom: in keeping with what each of them is offered."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persona.errors import NotFound, StoreUnavailable
from persona.ranking.holdout import Holdout
from persona.ranking.recommender import Query
from tests.ranking.invented import AT, World

worlds = st.integers(0, 10**6).map(World)


def found(world: World, campaign: str, k: int = 20, **rules: object) -> list[tuple[str, int, float]]:
    audience = world.people_of(**rules).audience(campaign, Query(k=k, at=AT), world.snapshot)
    return [(member.user_id, member.rank, member.score) for member in audience.audience]


@settings(max_examples=40, deadline=None)
@given(world=worlds)
def test_an_audience_is_those_who_are_offered_the_campaign_by_the_score_it_has_for_them(world: World) -> None:
    for campaign in world.campaigns:
        members = found(world, campaign)
        assert [rank for _, rank, _ in members] == [*range(1, len(members) + 1)]
        assert [score for _, _, score in members] == sorted((score for _, _, score in members), reverse=True)
        offered = {person: world.why(person, campaign) for person in world.people}
        assert {person: score for person, _, score in members} == {
            person: why.ranking_score
            for person, why in offered.items()
            if why.offered and (person in world.vectors or person in world.interested_in(campaign, limit=99))
        }
        assert found(world, campaign, k=1) == members[:1] or len(world.people) > 3


def test_who_is_held_out_is_in_no_audience() -> None:
    world = World(3)
    campaign = next(campaign for campaign in world.campaigns if found(world, campaign))
    assert found(world, campaign, holdout=Holdout(100)) == []


def test_a_store_that_is_down_costs_the_people_that_it_knows() -> None:
    world = World(3)
    campaign = next(campaign for campaign in world.campaigns if found(world, campaign))
    world.down = {"neo4j"}
    audience = world.people_of().audience(campaign, Query(at=AT), world.snapshot)
    assert audience.degraded == ["neo4j"]
    assert {member.user_id for member in audience.audience} <= set(world.vectors)


def test_where_nobody_is_known_because_a_store_is_down_there_is_no_audience() -> None:
    world = World(3)
    campaign = next(campaign for campaign in world.campaigns if found(world, campaign))
    world.down = {"neo4j", "milvus"}
    with pytest.raises(StoreUnavailable, match="milvus, neo4j"):
        found(world, campaign)


def test_however_many_are_asked_for_only_so_many_rankings_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    world, looked_for = World(3), list[int]()
    monkeypatch.setattr(world, "interested_in", lambda campaign, *, limit: looked_for.append(limit) or [])
    monkeypatch.setattr(world, "similar_users", lambda vector, *, limit, exclude: looked_for.append(limit) or [])
    campaign = next(campaign for campaign in world.campaigns.values() if campaign.text).campaign_id
    for k in (20, 100):
        found(world, campaign, k=k)
    assert looked_for == [60, 60, 100, 100]


def test_an_audience_of_nothing_there_is_not_found() -> None:
    with pytest.raises(NotFound):
        found(World(0), "c_99")


def test_similar_people_are_the_nearest_but_oneself() -> None:
    world = World(0)
    world.records_of["silent"].append({})
    world.vectors = {
        "a": np.array([1, 0, 0], np.float32), "b": np.array([0.6, 0.8, 0], np.float32), "c": np.array([0, 1, 0], np.float32),
    }  # fmt: skip
    similar = world.people_of().similar("a", k=5)
    assert [(person.user_id, person.rank, person.similarity) for person in similar.similar] == [("b", 1, 0.6), ("c", 2, 0.0)]
    assert world.people_of().similar("silent", k=5).similar == []
    with pytest.raises(NotFound):
        world.people_of().similar("nobody", k=5)
    world.down = {"milvus"}
    with pytest.raises(StoreUnavailable):
        world.people_of().similar("a", k=5)
