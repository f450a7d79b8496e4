"""Why and why not: that it agrees with the answer, names the rule, goes back to the person's own records, and tells of nobody else."""

import json
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persona.errors import NotFound, StoreUnavailable
from persona.ranking.diversity import Diversity
from persona.ranking.holdout import Holdout
from persona.ranking.model import fit
from persona.ranking.policy import Rule
from persona.ranking.recommender import Query, Recommender, Rules, Snapshot
from persona.ranking.tracing import LIMIT, Trail
from persona.schemas import (
    Campaign,
    Customer,
    DayBucket,
    Engagement,
    Event,
    ExpressedIntent,
    FrequencyCap,
    NeighbourVote,
    SimilarConversation,
    Vector,
    Why,
)
from persona.stores.documents.ledger import Entry

AT = datetime(2026, 1, 10, 12, tzinfo=UTC)
INTENTS = ["buy", "leave", "ask"]
EVENTS = [event for event in Event if event != Event.MESSAGE]


class World:
    """People, campaigns and what passed between them, in all stores at once; the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.down: set[str] = set()
        self.people = [f"person-{seed}-{number}" for number in range(self.random.randint(2, 5))]
        self.campaigns = {campaign.campaign_id: campaign for campaign in map(self._campaign, range(self.random.randint(2, 8)))}
        self.entries = {f"d_{number}": entry(number) for number in range(3)}
        self.records_of: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for number in range(self.random.randint(5, 60)):
            self._record(number)
        self.customers = {
            person: Customer(user_id=person, consent=self.random.random() < 0.5, suppressed=self.random.random() < 0.1)
            for person in self.people
        }
        self.vectors = {
            person: self._vector()
            for person, records in self.records_of.items()
            if any("text_hash" in record for record in records)
        }
        model = fit(self._buckets(), facts=9, fingerprint="f")
        self.snapshot = Snapshot("g_1", model, 1, self.campaigns, AT)

    def _campaign(self, number: int) -> Campaign:
        some = self.random
        return Campaign(
            campaign_id=f"c_{number}",
            intents=some.sample(INTENTS, some.randint(0, 2)),
            categories=some.sample(["a", "b"], some.randint(0, 2)),
            channels=some.choice([[], ["email"], ["email", "sms"]]),
            status=some.choice(["active", "active", "active", "paused"]),
            requires_consent=some.random() < 0.3,
            frequency_cap=some.choice([None, FrequencyCap(count=1, days=30)]),
        )

    def _record(self, number: int) -> None:
        some = self.random
        person = some.choice(self.people)
        record: dict[str, Any] = {
            "_id": f"m_{number}-of-{person}", "user_id": person, "timestamp": AT - timedelta(hours=some.randint(1, 900)),
            "drop": some.choice(sorted(self.entries)), "line": number, "channel": some.choice(["email", "sms", "unknown"]),
        }  # fmt: skip
        if some.random() < 0.5:
            record |= {"event": "message", "message": f"words of {person}, {number}", "text_hash": str(number)}
            record |= {"intent": some.choice(INTENTS)}
        else:
            record |= {"event": some.choice(EVENTS).value}
            if record["event"] != "unsubscribe" or some.random() < 0.8:
                record |= {"campaign_id": some.choice(sorted(self.campaigns))}
        self.records_of[person].append(record)

    def _vector(self) -> Vector:
        vector = np.array([self.random.random() for _ in range(3)], np.float32)
        return vector / np.linalg.norm(vector)

    def _buckets(self) -> list[DayBucket]:
        return [
            DayBucket(f"2026-01-0{day}", campaign, "email", self.random.choice(EVENTS).value, self.random.randint(1, 9), 0.0)
            for campaign in sorted(self.campaigns)[1:]
            for day in (1, 5)
        ]

    # -- as the stores answer -----------------------------------------------------------------------------------------

    def _up(self, store: str) -> None:
        if store in self.down:
            raise StoreUnavailable(store, "told to be down")

    def user_vector(self, user_id: str) -> Vector | None:
        self._up("milvus")
        return self.vectors.get(user_id)

    def similar_users(self, vector: Vector, *, limit: int, exclude: str | None) -> list[tuple[str, float]]:
        self._up("milvus")
        return [(person, float(other @ vector)) for person, other in self.vectors.items() if person != exclude]

    def similar_conversations(self, vector: Vector, *, limit: int, exclude_user: str | None) -> list[SimilarConversation]:
        self._up("milvus")
        return [
            SimilarConversation(float(other @ vector), 0, {record["campaign_id"]: 1.0})
            for person, other in self.vectors.items()
            for record in self.records_of[person]
            if person != exclude_user and "campaign_id" in record
        ]

    def similar_campaigns(self, vector: Vector, *, limit: int) -> list[tuple[str, float]]:
        self._up("milvus")
        return [(campaign, 1 / (2 + place)) for place, campaign in enumerate(sorted(self.campaigns)) if place % 2]

    def history_of(self, user_id: str) -> list[Engagement]:
        self._up("neo4j")
        return [
            Engagement(user_id, record["campaign_id"], 0.5, 0.0, {record["event"]: 1}, 0, 0, record["_id"])
            for record in self.records_of[user_id]
            if "campaign_id" in record
        ]

    def intents_of(self, user_id: str) -> list[ExpressedIntent]:
        self._up("neo4j")
        found = {record["intent"]: record["_id"] for record in self.records_of[user_id] if "intent" in record}
        return [ExpressedIntent(user_id, intent, 1, 0, message) for intent, message in found.items()]

    def campaigns_of(
        self, neighbours: Mapping[str, float], *, now_ms: int, half_life_days: float, limit: int
    ) -> list[NeighbourVote]:
        self._up("neo4j")
        campaigns = {record["campaign_id"] for person in neighbours for record in self.history(person)}
        return [NeighbourVote(campaign, 0.5, len(neighbours)) for campaign in sorted(campaigns)]

    def history(self, user_id: str) -> list[dict[str, Any]]:
        return [record for record in self.records_of[user_id] if "campaign_id" in record]

    def decisions_of(self, user_id: str, *, impressions_since: datetime) -> list[dict[str, Any]]:
        self._up("mongodb")
        return [record for record in self.records_of[user_id] if record["event"] != "message"]

    def customer(self, user_id: str) -> Customer | None:
        self._up("mongodb")
        return self.customers.get(user_id)

    def own(self, user_id: str, message_ids: Sequence[str]) -> list[dict[str, Any]]:
        self._up("mongodb")
        return [record for record in self.records_of[user_id] if record["_id"] in message_ids]

    def newest_messages(self, user_id: str, *, limit: int) -> list[dict[str, Any]]:
        self._up("mongodb")
        return [record for record in self.records_of[user_id] if "message" in record][:limit]

    def between(self, user_id: str, campaign_id: str, *, limit: int) -> list[dict[str, Any]]:
        self._up("mongodb")
        return [record for record in self.records_of[user_id] if record.get("campaign_id") == campaign_id][:limit]

    def get(self, entries: Sequence[str]) -> list[Entry]:
        self._up("mongodb")
        return [self.entries[name] for name in entries if name in self.entries]

    # -- asking -------------------------------------------------------------------------------------------------------

    def recommender(self, **rules: Any) -> Recommender:
        return Recommender(self, self, self, self, Rules(**rules))

    def why(self, user_id: str, campaign_id: str, *, rules: Rules | None = None, **query: Any) -> Why:
        recommender = Recommender(self, self, self, self, rules or Rules())
        return recommender.why(user_id, campaign_id, Query(**{"at": AT, **query}), self.snapshot, Trail(self, self))


def entry(number: int) -> Entry:
    return Entry(f"d_{number}", "drop", f"day-{number}.jsonl", 1, "accepted", run_id=f"run-{number}")


def same_but_for_what_is_added(told: list[dict[str, Any]], offered: list[dict[str, Any]]) -> bool:
    return [{key: part[key] for key in of} for part, of in zip(told, offered, strict=True)] == offered


worlds = st.integers(0, 10**6).map(World)
all_rules = st.builds(
    Rules,
    st.booleans(),
    st.builds(Diversity, st.sampled_from([None, 1]), st.sampled_from([1.0, 0.5])),
    st.builds(Holdout, st.sampled_from([0.0, 50.0])),
)


@settings(max_examples=60, deadline=None)
@given(world=worlds, rules=all_rules, channel=st.sampled_from([None, "email", "sms"]), down=st.sampled_from(["", "neo4j"]))
def test_why_agrees_with_the_answer(world: World, rules: Rules, channel: str | None, down: str) -> None:
    world.down = {down} - {""}
    for person in [*world.people, "nobody"]:
        query = Query(k=1000, at=AT, channel=channel, exclude=["c_0"])
        answer = Recommender(world, world, world, world, rules).for_user(person, query, world.snapshot)
        offered = {offer.campaign_id: offer for offer in answer.recommendations}
        for campaign in world.campaigns:
            why = world.why(person, campaign, rules=rules, channel=channel, exclude=["c_0"])
            assert why.offered == (campaign in offered)
            assert (why.rule is None) == why.offered
            for name in ("generation", "as_of", "known_user", "holdout", "degraded"):
                assert getattr(why, name) == getattr(answer, name)
            if why.offered:
                offer = offered[campaign]
                assert (why.rank, why.ranking_score, why.reason) == (offer.rank, offer.ranking_score, offer.reason)
                assert same_but_for_what_is_added(why.evidence, offer.evidence)
            else:
                assert why.rank is None
                assert why.rule in set(Rule)


@settings(max_examples=60, deadline=None)
@given(world=worlds)
def test_nobody_elses_id_or_words_are_told_and_sources_are_true(world: World) -> None:
    for person in world.people:
        own = {record["_id"]: record for record in world.records_of[person]}
        answer = world.recommender().for_user(person, Query(k=1000, at=AT), world.snapshot)
        told = [world.why(person, campaign) for campaign in world.campaigns]
        words = json.dumps([answer.model_dump(mode="json"), *(why.model_dump(mode="json") for why in told)])
        for other in set(world.people) - {person}:
            assert other not in words
        assert "words of" not in words
        for why in told:
            for source in [*(source for part in why.evidence for source in part["sources"]), *why.history]:
                record = own[source["message_id"]]
                drop = world.entries[record["drop"]]
                assert (source["drop"], source["line"], source["at"]) == (record["drop"], record["line"], record["timestamp"])
                assert (source["drop_name"], source["run_id"]) == (drop.name, drop.run_id)


# -- one world by hand ----------------------------------------------------------------------------------------------------


@pytest.fixture
def world() -> World:
    """Five campaigns without conditions, and one person with nothing to their name."""
    world = World(0)
    world.people = ["u_1"]
    world.records_of.clear()
    world.vectors = {}
    world.customers = {}
    world.campaigns.clear()
    world.campaigns.update({f"c_{number}": Campaign(campaign_id=f"c_{number}") for number in range(5)})
    return world


def record(number: int, event: str = "message", **fields: Any) -> dict[str, Any]:
    return {
        "_id": f"m_{number}", "user_id": "u_1", "timestamp": AT - timedelta(hours=number), "drop": "d_1", "line": number,
        "channel": "email", "event": event, **fields,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "campaign", "customer", "records", "query"),
    [
        ("not_running", {"status": "paused"}, {}, [], {}),
        ("not_running", {"ends_at": AT}, {}, [], {}),
        ("other_channel", {"channels": ["sms"]}, {}, [], {"channel": "email"}),
        ("excluded", {}, {}, [], {"exclude": ["c_1"]}),
        ("suppressed", {}, {"suppressed": True}, [], {}),
        ("no_consent", {"requires_consent": True}, {"consent": {"email": True}}, [], {"channel": "sms"}),
        ("unsubscribed", {}, {}, [record(1, "unsubscribe", campaign_id="c_1")], {}),
        ("unsubscribed", {}, {}, [record(1, "unsubscribe")], {"channel": "email"}),
        ("dismissed", {}, {}, [record(1, "dismiss", campaign_id="c_1")], {}),
        ("frequency_cap", {"frequency_cap": {"count": 1, "days": 1}}, {}, [record(1, "impression", campaign_id="c_1")], {}),
        ("already_converted", {}, {}, [record(1, "conversion", campaign_id="c_1")], {}),
    ],
)
def test_why_not_names_the_rule(
    world: World,
    rule: str,
    campaign: dict[str, Any],
    customer: dict[str, Any],
    records: list[dict[str, Any]],
    query: dict[str, Any],
) -> None:
    assert world.why("u_1", "c_1").offered
    world.campaigns["c_1"] = Campaign(campaign_id="c_1", **campaign)
    world.customers["u_1"] = Customer(user_id="u_1", **customer)
    world.records_of["u_1"] = records
    why = world.why("u_1", "c_1", **query)
    assert (why.offered, why.rank, why.rule) == (False, None, rule)
    assert why.reason == f"Not offered: {Rule(rule).sentence}."
    assert why.ranking_score is not None and why.evidence


def test_a_campaign_that_no_channel_proposes_says_so(world: World) -> None:
    world.snapshot.model.weights["engagement"] = 0
    why = world.why("u_1", "c_1")
    assert (why.offered, why.rank, why.ranking_score, why.rule, why.evidence) == (False, None, None, "not_proposed", [])
    world.campaigns["c_1"] = Campaign(campaign_id="c_1", status="paused")
    assert world.why("u_1", "c_1").rule == "not_running"


def test_a_campaign_that_nobody_knows_is_not_found(world: World) -> None:
    with pytest.raises(NotFound):
        world.why("u_1", "c_99")


def test_evidence_goes_back_to_the_messages_it_rests_on(world: World) -> None:
    world.campaigns["c_1"] = Campaign(campaign_id="c_1", intents=["buy"])
    said = [record(number, message="words", text_hash=str(number)) for number in range(2, 2 + LIMIT + 5)]
    world.records_of["u_1"] = [record(1, intent="buy"), *said, record(90, "click", campaign_id="c_1")]
    world.vectors["u_1"] = np.array([1, 0, 0], np.float32)
    why = world.why("u_1", "c_1")
    sources = {part["channel"]: [source["message_id"] for source in part["sources"]] for part in why.evidence}
    assert sources["intents"] == ["m_1"]
    assert sources["content"] == [f"m_{number}" for number in range(2, 2 + LIMIT)]
    assert sources["engagement"] == []
    (clicked,) = why.history
    assert clicked == {
        "event": "click", "message_id": "m_90", "drop": "d_1", "drop_name": "day-1.jsonl", "line": 90, "run_id": "run-1",
        "at": AT - timedelta(hours=90),
    }  # fmt: skip
    figures = next(part for part in why.evidence if part["channel"] == "engagement")
    assert (figures["half_life_days"], figures["newest_day"]) == (7.0, "2026-01-05")


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({"message_id": "m_1"}, ["m_1"]),
        ({"messages": ["m_2", "m_1"]}, ["m_1", "m_2"]),
        ({"message_id": "m_2", "messages": 3}, ["m_2"]),
        ({"because": "c_1"}, ["m_3"]),
        ({"message_id": "m_9"}, []),
        ({"support": 3}, []),
    ],
)
def test_whatever_evidence_names_messages_or_a_campaign_is_traced(
    world: World, part: dict[str, Any], expected: list[str]
) -> None:
    world.records_of["u_1"] = [record(1), record(2), record(3, "click", campaign_id="c_1")]
    world.records_of["u_2"] = [record(9)]
    (traced,) = Trail(world, world).traced("u_1", [{"channel": "any", **part}])
    assert [source["message_id"] for source in traced["sources"]] == expected


def test_without_the_truth_there_is_no_trail_and_that_is_said(world: World) -> None:
    world.down = {"mongodb"}
    why = world.why("u_1", "c_1")
    assert why.offered
    assert (why.degraded, why.history) == (["mongodb"], [])
    assert [part["sources"] for part in why.evidence] == [[]]


# -- what holds people out, and what is moved for variety ---------------------------------------------------------------------


def test_who_is_held_out_gets_what_does_well_and_no_other_channel(world: World) -> None:
    world.campaigns["c_1"] = Campaign(campaign_id="c_1", intents=["buy"])
    world.records_of["u_1"] = [record(1, intent="buy"), record(2, "dismiss", campaign_id="c_4")]
    world.vectors["u_1"] = np.array([1, 0, 0], np.float32)
    rules = Rules(holdout=Holdout(100), diversity=Diversity(category_limit=1, relevance=0.1))
    ask = world.recommender(holdout=rules.holdout, diversity=rules.diversity).for_user
    answer, unknown = (ask(person, Query(k=9, at=AT, exclude=["c_4"]), world.snapshot) for person in ("u_1", "nobody"))
    assert answer.holdout and answer.known_user
    assert {part["channel"] for offer in answer.recommendations for part in offer.evidence} == {"engagement"}
    assert [offer.campaign_id for offer in answer.recommendations] == [offer.campaign_id for offer in unknown.recommendations]
    assert world.why("u_1", "c_4", rules=rules).rule == "dismissed"
    assert world.why("u_1", "c_1", rules=rules).holdout


def test_texts_are_nobodys_and_never_held_out(world: World) -> None:
    recommender = world.recommender(holdout=Holdout(100))
    answer = recommender.for_texts(np.eye(3, dtype=np.float32), ["buy"], Query(at=AT), world.snapshot)
    assert not answer.holdout
    assert "content" in {part["channel"] for offer in answer.recommendations for part in offer.evidence}


def test_what_was_moved_down_for_variety_says_so_and_keeps_its_score(world: World) -> None:
    for number in range(5):
        world.campaigns[f"c_{number}"] = Campaign(campaign_id=f"c_{number}", categories=["a" if number < 4 else "b"])
    plain = world.recommender().for_user("u_1", Query(k=9, at=AT), world.snapshot)
    varied = world.recommender(diversity=Diversity(category_limit=1)).for_user("u_1", Query(k=9, at=AT), world.snapshot)
    scores = {offer.campaign_id: offer.ranking_score for offer in plain.recommendations}
    ranks = {offer.campaign_id: offer.rank for offer in plain.recommendations}
    assert {offer.campaign_id: offer.ranking_score for offer in varied.recommendations} == scores
    assert [offer.rank for offer in varied.recommendations] == [1, 2, 3, 4, 5]
    assert "c_4" in [offer.campaign_id for offer in varied.recommendations][:2]
    for offer in varied.recommendations:
        moved = [part["moved_down"] for part in offer.evidence if part["channel"] == "diversity"]
        assert moved == [offer.rank - ranks[offer.campaign_id]] * (offer.rank > ranks[offer.campaign_id])
