"""Whole answers from stores of a few lines each: what is offered, and what a store that is down costs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import numpy as np
import pytest

from persona.errors import StoreUnavailable
from persona.language.mentions import NameFinder
from persona.ranking.knowledge import NO_RELATIONS, CampaignWords, Related
from persona.ranking.model import fit
from persona.ranking.recommender import NO_MODEL, Query, Recommender, Rules, Snapshot
from persona.schemas import (
    Answer,
    Campaign,
    Customer,
    DayBucket,
    Engagement,
    ExpressedIntent,
    FrequencyCap,
    Mention,
    NeighbourVote,
    Relation,
    SimilarConversation,
    Ties,
    Vector,
)

T = TypeVar("T")
AT = datetime(2026, 1, 10, 12, tzinfo=UTC)
AT_MS = round(AT.timestamp() * 1000)
STORES = ("milvus", "neo4j", "mongodb")
MODEL = fit(
    [
        DayBucket(day="2026-01-09", campaign_id=f"c_{number}", channel="email", event="click", n=20 - number, value=0.0)
        for number in range(1, 7)
    ],
    facts=99,
    fingerprint="f",
)
CAMPAIGNS = {
    f"c_{number}": Campaign(campaign_id=f"c_{number}", name=f"The Offer {number}", intents=["buy"] if number == 4 else [])
    for number in range(1, 7)
}
SNAPSHOT = Snapshot(
    generation="g_1",
    model=MODEL,
    catalog_version=1,
    campaigns=CAMPAIGNS,
    as_of=AT,
    finder=NameFinder(CAMPAIGNS.values()),
    relations=Related(("r_1", [Relation(f"c_{number}", "c_2", 0.2, 4)]) for number in (1, 3, 4, 5, 6)),
    words=CampaignWords({"c_3": np.array([1, 1], np.float32)}),
)


@dataclass
class World:
    """All the stores there are, for one known person, u_1."""

    down: set[str] = field(default_factory=set)
    decisions: list[dict[str, Any]] = field(default_factory=list)
    history: list[Engagement] = field(default_factory=list)
    mentioned: list[Mention] = field(default_factory=list)
    person: Customer | None = None

    def of(self, store: str, answer: T) -> T:
        if store in self.down:
            raise StoreUnavailable(store, "told to be down")
        return answer

    def user_vector(self, user_id: str) -> Vector | None:
        return self.of("milvus", np.array([1, 0], np.float32) if user_id == "u_1" else None)

    def similar_users(self, vector: Vector, *, limit: int, exclude: str | None) -> list[tuple[str, float]]:
        return self.of("milvus", [("u_2", 0.9)])

    def similar_conversations(self, vector: Vector, *, limit: int, exclude_user: str | None) -> list[SimilarConversation]:
        return self.of("milvus", [SimilarConversation(0.9, {"c_6": 1.0})])

    def ties_of(self, user_id: str) -> Ties:
        known = Ties(self.history, [ExpressedIntent("u_1", "buy", 1, AT_MS, "m_1")], self.mentioned)
        return self.of("neo4j", known if user_id == "u_1" else Ties([], [], []))

    def campaigns_of(
        self, neighbours: Mapping[str, float], *, now_ms: int, half_life_days: float, limit: int
    ) -> list[NeighbourVote]:
        return self.of("neo4j", [NeighbourVote("c_5", 1.0, 1)])

    def policy_of(self, user_id: str, *, impressions_since: datetime) -> tuple[list[dict[str, Any]], Customer | None]:
        decisions = [decision for decision in self.decisions if decision["timestamp"] >= impressions_since]
        return self.of("mongodb", (decisions, self.person))

    def recommender(self, **rules: Any) -> Recommender:
        return Recommender(self, self, self, Rules(**rules))


def ask(world: World, user: str = "u_1", snapshot: Snapshot = SNAPSHOT, **query: Any) -> Answer:
    return world.recommender().for_user(user, Query(**{"k": 10, "at": AT, **query}), snapshot)


def offered(answer: Answer) -> list[str]:
    return [item.campaign_id for item in answer.recommendations]


def channels(answer: Answer) -> set[str]:
    return {part["channel"] for item in answer.recommendations for part in item.evidence}


def decision(event: str, campaign: str, *, ago: timedelta = timedelta(days=1)) -> dict[str, Any]:
    return {"event": event, "campaign_id": campaign, "channel": "email", "timestamp": AT - ago}


def engagement(campaign: str, **counts: int) -> Engagement:
    return Engagement("u_1", campaign, 0.5, 0.0, counts, AT_MS - 1000, AT_MS - 1000, "m_1")


def test_every_channel_has_its_part_and_the_answer_says_what_it_rests_on() -> None:
    answer = ask(World())
    assert (answer.user_id, answer.generation, answer.as_of, answer.known_user) == ("u_1", "g_1", AT, True)
    assert (answer.degraded, answer.retrieval_source) == ([], "computed")
    assert channels(answer) == {"similar_users", "similar_conversations", "intents", "content", "engagement"}
    assert set(offered(answer)) == set(CAMPAIGNS)
    scores = [item.ranking_score for item in answer.recommendations]
    assert scores == sorted(scores, reverse=True)
    assert [item.rank for item in answer.recommendations] == [1, 2, 3, 4, 5, 6]
    assert all(item.reason.endswith(".") for item in answer.recommendations)


def test_what_goes_together_with_the_history_counts_by_the_generation_and_is_called_by_its_name() -> None:
    world = World(history=[engagement("c_1", click=1)])
    named = replace(SNAPSHOT, campaigns={**CAMPAIGNS, "c_1": Campaign(campaign_id="c_1", name="By the sea")})
    [offer] = [item for item in ask(world, snapshot=named).recommendations if item.campaign_id == "c_2"]
    [part] = [part for part in offer.evidence if part["channel"] == "related"]
    assert (part["because"], part["support"]) == ("c_1", 4)
    assert "goes together with “By the sea” (4 people engaged with both)" in offer.reason
    assert "related" not in channels(ask(world, snapshot=replace(named, relations=NO_RELATIONS)))


def test_someone_unknown_is_offered_what_does_well_now() -> None:
    answer = ask(World(), user="u_9")
    assert not answer.known_user
    assert offered(answer) == ["c_1", "c_2", "c_3", "c_4", "c_5", "c_6"]
    assert channels(answer) == {"engagement"}


def test_before_anything_was_published_the_catalog_is_offered() -> None:
    empty = Snapshot(generation=None, model=NO_MODEL, catalog_version=1, campaigns=CAMPAIGNS, as_of=None)
    answer = World().recommender().for_user("u_9", Query(k=10), empty)
    assert (answer.generation, answer.as_of) == (None, None)
    assert set(offered(answer)) == set(CAMPAIGNS)


def test_a_campaign_that_the_model_has_never_seen_can_be_offered() -> None:
    newer = replace(SNAPSHOT, campaigns={**CAMPAIGNS, "c_new": Campaign(campaign_id="c_new")})
    assert offered(ask(World(), user="u_9", snapshot=newer))[-1] == "c_new"


def test_without_any_campaign_there_is_an_empty_answer() -> None:
    empty = Snapshot(generation=None, model=NO_MODEL, catalog_version=0, campaigns={}, as_of=None)
    assert ask(World(), snapshot=empty).recommendations == []


@pytest.mark.parametrize("k", [1, 3, 6, 1000])
def test_there_are_k_offers_or_as_many_as_there_are(k: int) -> None:
    everything = offered(ask(World(), k=1000))
    assert offered(ask(World(), k=k)) == everything[:k]


def test_what_is_excluded_leaves_its_place_to_the_next() -> None:
    everything = offered(ask(World()))
    rest = offered(ask(World(), k=2, exclude=everything[:2]))
    assert rest == everything[2:4]


def test_a_channel_is_asked_for_by_the_campaigns_that_run_on_it() -> None:
    catalog = {**CAMPAIGNS, "c_1": Campaign(campaign_id="c_1", channels=["push"])}
    snapshot = replace(SNAPSHOT, campaigns=catalog)
    assert "c_1" not in offered(ask(World(), snapshot=snapshot, channel="email"))
    assert "c_1" in offered(ask(World(), snapshot=snapshot, channel="push"))


def test_a_campaign_that_left_the_catalog_is_not_offered() -> None:
    rest = {name: campaign for name, campaign in CAMPAIGNS.items() if name != "c_1"}
    assert set(offered(ask(World(), snapshot=replace(SNAPSHOT, campaigns=rest)))) == set(rest)


def test_decisions_and_consent_are_respected() -> None:
    world = World(
        decisions=[decision("conversion", "c_1"), decision("dismiss", "c_2")], person=Customer(user_id="u_1", consent=False)
    )
    snapshot = replace(SNAPSHOT, campaigns={**CAMPAIGNS, "c_3": Campaign(campaign_id="c_3", requires_consent=True)})
    assert set(offered(ask(world, snapshot=snapshot))) == {"c_4", "c_5", "c_6"}
    world.person = Customer(user_id="u_1", consent=True)
    assert set(offered(ask(world, snapshot=snapshot))) == {"c_3", "c_4", "c_5", "c_6"}
    world.person = Customer(user_id="u_1", suppressed=True)
    assert offered(ask(world, snapshot=snapshot)) == []


def test_conversions_may_be_repeated_where_that_is_set() -> None:
    world = World(decisions=[decision("conversion", "c_1")])
    assert "c_1" not in offered(ask(world))
    assert "c_1" in offered(world.recommender(repeat_conversions=True).for_user("u_1", Query(k=10, at=AT), SNAPSHOT))


def test_asked_about_an_earlier_time_later_decisions_are_unknown() -> None:
    world = World(decisions=[decision("conversion", "c_1")])
    earlier = AT - timedelta(days=2)
    answer = ask(world, at=earlier)
    assert "c_1" in offered(answer)
    assert answer.as_of == earlier


def test_what_a_clock_ahead_of_ours_decided_counts_now() -> None:
    soon = datetime.now(UTC) + timedelta(hours=20)
    world = World(decisions=[{"event": "unsubscribe", "channel": "unknown", "timestamp": soon}])
    assert offered(ask(world, at=None)) == []


def test_asked_about_the_beginning_of_time_nothing_was_decided() -> None:
    world = World(decisions=[decision("conversion", "c_1")])
    assert "c_1" in offered(ask(world, at=datetime(1, 1, 1, tzinfo=UTC)))


def test_who_did_nothing_but_unsubscribe_is_known() -> None:
    world = World(decisions=[{"event": "unsubscribe", "channel": "email", "timestamp": AT}])
    assert ask(world, user="u_9").known_user


@pytest.mark.parametrize(
    ("store", "left"),
    [
        ("milvus", {"intents", "engagement"}),
        ("neo4j", {"similar_conversations", "content", "engagement"}),
        ("mongodb", {"similar_users", "similar_conversations", "intents", "content", "engagement"}),
    ],
)
def test_a_store_that_is_down_costs_its_channels_and_is_named(store: str, left: set[str]) -> None:
    answer = ask(World(down={store}))
    assert answer.degraded == [store]
    assert channels(answer) == left
    assert answer.known_user
    assert answer.recommendations


def test_with_every_store_down_what_does_well_is_still_offered() -> None:
    answer = ask(World(down=set(STORES)))
    assert answer.degraded == sorted(STORES)
    assert channels(answer) == {"engagement"}
    assert len(answer.recommendations) == len(CAMPAIGNS)


def test_when_no_channel_is_left_the_answer_says_which_stores_are_missing() -> None:
    nothing = Snapshot(generation=None, model=NO_MODEL, catalog_version=0, campaigns={}, as_of=None)
    with pytest.raises(StoreUnavailable) as raised:
        ask(World(down=set(STORES)), snapshot=nothing)
    assert raised.value.store == "milvus, mongodb, neo4j"


def test_without_mongodb_lasting_decisions_are_read_from_the_graph() -> None:
    world = World(
        down={"mongodb"},
        history=[engagement("c_1", conversion=1, click=2), engagement("c_2", dismiss=1), engagement("c_3", unsubscribe=1)],
    )
    assert set(offered(ask(world))) == {"c_4", "c_5", "c_6"}
    world.history = [engagement("c_1", click=5)]
    assert "c_1" in offered(ask(world))


def test_without_mongodb_unsubscribes_are_respected_whether_the_graph_answers_or_not() -> None:
    for down in ({"mongodb"}, {"mongodb", "neo4j"}, set(STORES)):
        for gone, left in (
            ((None, "unknown"), set()),
            (("c_1", "email"), {"c_2", "c_3", "c_4", "c_5", "c_6"}),
            ((None, "email"), {"c_1", "c_2", "c_3", "c_4", "c_5", "c_6"}),
        ):
            snapshot = replace(SNAPSHOT, unsubscribed={"u_1": [gone]})
            assert set(offered(ask(World(down=down), snapshot=snapshot))) == left
            assert set(offered(ask(World(down=down), user="u_9", snapshot=snapshot))) == set(CAMPAIGNS)
        assert (
            offered(ask(World(down=down), snapshot=replace(snapshot, unsubscribed={"u_1": [(None, "email")]}), channel="email"))
            == []
        )


def test_without_mongodb_the_graph_tells_how_often_a_campaign_was_shown() -> None:
    world = World(down={"mongodb"}, history=[engagement("c_1", impression=2), engagement("c_2", impression=1, click=3)])
    capped = {name: Campaign(campaign_id=name, frequency_cap=FrequencyCap(count=2, days=1)) for name in ("c_1", "c_2")}
    snapshot = replace(SNAPSHOT, campaigns={**CAMPAIGNS, **capped})
    assert set(offered(ask(world, snapshot=snapshot))) == set(CAMPAIGNS) - {"c_1"}
    assert "c_1" in offered(ask(world, snapshot=snapshot, at=AT + timedelta(days=2)))


def test_without_mongodb_nobody_is_taken_to_have_consented() -> None:
    world = World(down={"mongodb"}, person=Customer(user_id="u_1", consent=True))
    snapshot = replace(SNAPSHOT, campaigns={**CAMPAIGNS, "c_3": Campaign(campaign_id="c_3", requires_consent=True)})
    assert "c_3" not in offered(ask(world, snapshot=snapshot))


def test_an_error_that_is_no_outage_is_not_hidden() -> None:
    class Broken(World):
        def similar_users(self, vector: Vector, *, limit: int, exclude: str | None) -> list[tuple[str, float]]:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ask(Broken())


A_VECTOR = np.array([1, 0], dtype=np.float32)


def for_texts(world: World, vector: Vector | None, intents: list[str], texts: Sequence[str] = (), **query: Any) -> Answer:
    asked = Query(**{"k": 10, "at": AT, **query})
    return world.recommender().for_texts(texts, vector, intents, asked, SNAPSHOT)


def test_texts_are_answered_for_nobody_in_particular() -> None:
    world = World(decisions=[decision("conversion", "c_1")], person=Customer(user_id="u_1", suppressed=True))
    answer = for_texts(world, A_VECTOR, ["buy", "buy"])
    assert answer.user_id is None
    assert channels(answer) == {"similar_users", "similar_conversations", "intents", "content", "engagement"}
    assert set(offered(answer)) == set(CAMPAIGNS)
    intent = next(part for item in answer.recommendations for part in item.evidence if part["channel"] == "intents")
    assert (intent["messages"], "message_id" in intent) == (2, False)


def test_without_texts_it_is_what_does_well_now() -> None:
    answer = for_texts(World(), None, [])
    assert offered(answer) == ["c_1", "c_2", "c_3", "c_4", "c_5", "c_6"]
    assert not answer.known_user


def test_what_the_person_mentioned_is_offered_with_the_message_unless_a_rule_is_against_it() -> None:
    world = World(
        mentioned=[Mention("c_2", 3, AT_MS, "m_9"), Mention("c_1", 1, AT_MS, "m_8")], decisions=[decision("dismiss", "c_1")]
    )
    answer = ask(world)
    assert "c_1" not in offered(answer)
    [part] = [part for item in answer.recommendations for part in item.evidence if part["channel"] == "mentions"]
    assert (part["messages"], part["message_id"]) == (3, "m_9")


def test_what_the_texts_name_counts_as_mentioned_now() -> None:
    answer = for_texts(World(), A_VECTOR, [], ["the offer 5, please", "I mean the offer 5!"])
    [item] = [item for item in answer.recommendations if any(part["channel"] == "mentions" for part in item.evidence)]
    [part] = [part for part in item.evidence if part["channel"] == "mentions"]
    assert item.campaign_id == "c_5"
    assert (part["messages"], part["score"], "message_id" in part) == (2, 1.0, False)


def test_the_same_question_has_the_same_answer() -> None:
    questions: list[Callable[[], Answer]] = [lambda: ask(World()), lambda: for_texts(World(), A_VECTOR, ["buy"])]
    for question in questions:
        assert question() == question()
