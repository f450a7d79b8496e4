"""What each channel proposes for whom, and that evidence tells nothing about anybody else."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from persona.ranking.channels import (
    CHANNELS,
    Candidate,
    Candidates,
    Sources,
    content,
    engagement,
    intents,
    mentions,
    related,
    similar_conversations,
    similar_users,
    weighted_history,
)
from persona.ranking.context import Context
from persona.ranking.knowledge import Knowledge
from persona.ranking.model import HALF_LIFE_DAYS, RankingModel, fit
from persona.schemas import (
    Campaign,
    DayBucket,
    Engagement,
    ExpressedIntent,
    Mention,
    NeighbourVote,
    RelatedVote,
    SimilarConversation,
    Vector,
)

VECTOR = np.array([1, 0], np.float32)
NOW_MS = 1_767_225_600_000
SOMEONE = Context(user_id="u_1", vector=VECTOR)
NOBODY = Context(user_id="u_9")


@dataclass
class Stores:
    """Whom and what the stores find; `asked` is what they were asked."""

    users: list[tuple[str, float]] = field(default_factory=list)
    conversations: list[SimilarConversation] = field(default_factory=list)
    near: list[tuple[str, float]] = field(default_factory=list)
    """Campaigns by their words."""
    votes: list[NeighbourVote] = field(default_factory=list)
    relations: list[RelatedVote] = field(default_factory=list)
    asked: dict[str, Any] = field(default_factory=dict)

    def similar_users(self, vector: Vector, *, limit: int, exclude: str | None) -> list[tuple[str, float]]:
        self.asked["exclude"] = exclude
        return self.users

    def similar_conversations(self, vector: Vector, *, limit: int, exclude_user: str | None) -> list[SimilarConversation]:
        self.asked["exclude_user"] = exclude_user
        return self.conversations

    def similar_campaigns(self, vector: Vector, *, limit: int) -> list[tuple[str, float]]:
        return self.near

    def campaigns_of(
        self, neighbours: Mapping[str, float], *, now_ms: int, half_life_days: float, limit: int
    ) -> list[NeighbourVote]:
        self.asked.update(neighbours=dict(neighbours), now_ms=now_ms)
        return self.votes

    def related_campaigns(self, history: Mapping[str, float], *, limit: int) -> list[RelatedVote]:
        self.asked.update(history=dict(history))
        return self.relations


def model(**conversions: int) -> RankingModel:
    buckets = [
        DayBucket(day="2026-01-01", campaign_id=campaign, channel="email", event="conversion", n=n, value=0.0)
        for campaign, n in conversions.items()
    ]
    return fit(buckets, facts=len(buckets), fingerprint="f")


def sources(
    stores: Stores | None = None, *, channel: str | None = None, fitted: RankingModel | None = None, **campaigns: Any
) -> Sources:
    found = stores or Stores()
    catalog = {name: Campaign(campaign_id=name, **fields) for name, fields in campaigns.items()}
    return Sources(found, found, Knowledge(catalog, fitted or model(), relations=found, words=found), NOW_MS, channel)


def engaged(campaign: str, weight: float = 1.0, *, days: float = 0, **counts: int) -> Engagement:
    at_ms = NOW_MS - round(days * 86_400_000)
    return Engagement("u_1", campaign, weight, 0.0, counts or {"conversion": 1}, at_ms, at_ms, "m_1")


def scores(candidates: Candidates) -> dict[str, float]:
    return {candidate.campaign_id: candidate.score for candidate in candidates}


def conversation(similarity: float, **outcomes: float) -> SimilarConversation:
    return SimilarConversation(similarity, outcomes)


@pytest.mark.parametrize("channel", [similar_users, similar_conversations, content, intents])
def test_someone_who_said_nothing_is_like_nobody(channel: Any) -> None:
    stores = Stores(users=[("u_2", 0.9)], conversations=[conversation(0.9, a=1.0)], near=[("a", 0.9)])
    assert not channel(NOBODY, sources(stores, a={"intents": ["buy"]}))
    assert stores.asked == {}


def test_neighbours_vote_by_how_near_they_are_and_the_person_is_not_their_own_neighbour() -> None:
    stores = Stores(
        users=[("u_2", 0.8), ("u_3", 0.4), ("u_4", -0.2)], votes=[NeighbourVote("a", 2.0, 2), NeighbourVote("b", 0.0, 1)]
    )
    found = similar_users(SOMEONE, sources(stores))
    asked = stores.asked
    assert (asked["exclude"], set(asked["neighbours"]), asked["now_ms"]) == ("u_1", {"u_2", "u_3"}, NOW_MS)
    assert asked["neighbours"]["u_2"] > 2 * asked["neighbours"]["u_3"]
    assert [(candidate.campaign_id, candidate.evidence) for candidate in found] == [("a", {"users": 2})]


def test_with_no_neighbour_the_graph_is_not_asked() -> None:
    stores = Stores(users=[("u_2", -0.1)], votes=[NeighbourVote("a", 2.0, 2)])
    assert not similar_users(SOMEONE, sources(stores))
    assert "neighbours" not in stores.asked


def test_of_equal_votes_the_less_popular_campaign_says_more() -> None:
    stores = Stores(users=[("u_2", 0.8)], votes=[NeighbourVote("hit", 1.0, 1), NeighbourVote("niche", 1.0, 1)])
    found = scores(similar_users(SOMEONE, sources(stores, fitted=model(hit=100, niche=1))))
    assert found["niche"] > found["hit"] > 0


def test_conversations_propose_what_they_led_to_and_not_what_they_led_away_from() -> None:
    stores = Stores(conversations=[conversation(0.9, a=1.0, b=-1.0), conversation(0.5, a=-1.0, b=1.0, c=0.5)])
    found = {candidate.campaign_id: candidate for candidate in similar_conversations(SOMEONE, sources(stores))}
    assert set(found) == {"a", "c"}
    assert found["a"].score > found["c"].score > 0
    assert found["a"].evidence == {"conversations": 1}
    assert stores.asked["exclude_user"] == "u_1"


def test_intents_propose_what_addresses_them_by_how_often_they_were_expressed() -> None:
    said = {
        "buy": ExpressedIntent("u_1", "buy", 3, NOW_MS, "m_3"),
        "cancel": ExpressedIntent("u_1", "cancel", 1, NOW_MS, ""),
    }
    catalog = {
        "a": {"intents": ["buy"]},
        "b": {"intents": ["cancel"]},
        "c": {"intents": ["cancel", "buy"]},
        "d": {"intents": ["x"]},
    }
    found = intents(Context(user_id="u_1", intents=said), sources(**catalog, e={}))
    assert scores(found) == {"a": 0.75, "b": 0.25, "c": 0.75}
    evidence = {candidate.campaign_id: candidate.evidence for candidate in found}
    assert evidence["c"] == {"intent": "buy", "messages": 3, "message_id": "m_3"}
    assert evidence["b"] == {"intent": "cancel", "messages": 1}


def test_mentions_propose_what_was_named_by_how_often_and_how_lately() -> None:
    week_ms = 7 * 86_400_000
    named = {
        "now": Mention("now", 1, NOW_MS, "m_1"),
        "often": Mention("often", 4, NOW_MS, "m_2"),
        "before": Mention("before", 4, NOW_MS - week_ms, "m_3"),
        "later": Mention("later", 1, NOW_MS + week_ms, ""),
    }
    found = mentions(Context(user_id="u_1", mentioned=named), sources())
    assert scores(found) == {"now": 1.0, "often": 4.0, "before": pytest.approx(4 * 0.5 ** (7 / HALF_LIFE_DAYS)), "later": 1.0}
    evidence = {candidate.campaign_id: candidate.evidence for candidate in found}
    assert evidence["often"] == {"messages": 4, "message_id": "m_2"} and evidence["later"] == {"messages": 1}
    assert not mentions(NOBODY, sources())


def test_content_proposes_campaigns_whose_words_are_near() -> None:
    found = content(SOMEONE, sources(Stores(near=[("a", 0.61234), ("b", 0.0), ("c", -0.3)])))
    assert [(candidate.campaign_id, candidate.evidence) for candidate in found] == [("a", {"similarity": 0.6123})]


def test_engagement_proposes_to_anyone_what_does_well_on_the_channel() -> None:
    fitted = fit(
        [
            DayBucket(day="2026-01-01", campaign_id="a", channel="email", event="conversion", n=5, value=0.0),
            DayBucket(day="2026-01-01", campaign_id="b", channel="push", event="conversion", n=2, value=0.0),
        ],
        facts=7,
        fingerprint="f",
    )
    everywhere, pushed = (engagement(NOBODY, sources(fitted=fitted, channel=channel, a={}, b={})) for channel in (None, "push"))
    assert scores(everywhere)["a"] > scores(everywhere)["b"]
    assert max(pushed, key=lambda candidate: candidate.score).campaign_id == "b"
    assert everywhere[0].evidence == {"conversions": 5}


def test_a_campaign_that_nobody_has_seen_stands_at_the_prior() -> None:
    found = scores(engagement(NOBODY, sources(fitted=model(a=5), a={}, b={}, c={})))
    assert found["a"] > found["b"] == found["c"] > 0


def test_no_evidence_names_another_person() -> None:
    stores = Stores(
        users=[("u_secret", 0.9)], conversations=[conversation(0.9, a=1.0)], near=[("a", 0.4)], votes=[NeighbourVote("a", 1.0, 1)],
        relations=[RelatedVote("a", 0.3, "b", 2, 0.2, "r_1")],
    )  # fmt: skip
    person = Context(
        user_id="u_1",
        vector=VECTOR,
        intents={"buy": ExpressedIntent("u_1", "buy", 1, NOW_MS, "m_1")},
        history=[engaged("b")],
        mentioned={"a": Mention("a", 1, NOW_MS, "m_1")},
    )
    found = {
        name: channel(person, sources(stores, fitted=model(a=1), a={"intents": ["buy"]})) for name, channel in CHANNELS.items()
    }
    assert all(found.values())
    assert "secret" not in repr(found)


# -- related ------------------------------------------------------------------------------------------------------------


def test_a_history_weighs_by_strength_and_age_and_leaves_out_what_was_shown_or_refused() -> None:
    history = [
        engaged("now"), engaged("week", days=7), engaged("clicked", 0.5, days=14, click=2, impression=3), engaged("future", days=-3),
        engaged("refused", -1.0), engaged("shown", 0.05, impression=1),
    ]  # fmt: skip
    found = weighted_history(Context(user_id="u_1", history=history), now_ms=NOW_MS, half_life_days=7)
    assert found == pytest.approx({"now": 1.0, "week": 0.5, "clicked": 0.125, "future": 1.0})


def test_related_names_the_campaign_it_goes_together_with() -> None:
    stores = Stores(relations=[RelatedVote("b", 0.4, "a", 7, 0.2, "r_1"), RelatedVote("c", 0.0, "a", 2, 0.2, "r_1")])
    found = related(Context(user_id="u_1", history=[engaged("a")]), sources(stores))
    assert list(found) == [Candidate("b", 0.4, {"because": "a", "support": 7, "weight": 0.2, "run_id": "r_1"})]
    assert stores.asked == {"history": {"a": 1.0}}


def test_without_a_history_nothing_is_related_and_nothing_asked() -> None:
    stores = Stores(relations=[RelatedVote("b", 0.4, "a", 7, 0.2, "r_1")])
    assert not related(SOMEONE, sources(stores))
    assert not related(Context(user_id="u_1", history=[engaged("a", 0.05, impression=1)]), sources(stores))
    assert stores.asked == {}


def test_of_a_long_history_what_weighs_most_counts() -> None:
    stores = Stores()
    related(Context(user_id="u_1", history=[engaged(f"c_{day}", days=day) for day in range(500)]), sources(stores))
    assert set(stores.asked["history"]) == {f"c_{day}" for day in range(50)}
