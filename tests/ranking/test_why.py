"""Why and why not: that it agrees with the answer, names the rule, goes back to the person's own records, and tells of nobody else."""

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persona.errors import NotFound
from persona.ranking.context import CameIn
from persona.ranking.diversity import Diversity
from persona.ranking.holdout import Holdout
from persona.ranking.policy import Rule
from persona.ranking.recommender import Query, Recommender, Rules
from persona.ranking.tracing import LIMIT, Trail
from persona.schemas import Campaign, Customer
from tests.ranking.invented import AT, INTENTS, World


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
        answer = Recommender(world, world, world, rules).for_user(person, query, world.snapshot)
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
                assert (source["drop"], source["line"], source["at"]) == (record["drop"], record["line"], record["timestamp"])
                assert source["run_id"] == world.entries[record["drop"]].run_id
            for part in why.evidence:
                if isinstance(said := part.get("messages"), int):
                    assert [source["message_id"] for source in part["sources"]][:1] == [part["message_id"]]
                    assert len(part["sources"]) == min(said, LIMIT)


@settings(max_examples=60, deadline=None)
@given(world=worlds, data=st.data())
def test_what_came_in_is_told_beside_what_is_stored(world: World, data: st.DataObject) -> None:
    person, campaign = data.draw(st.sampled_from(world.people)), data.draw(st.sampled_from(sorted(world.campaigns)))
    records = world.records_of[person]
    evidence = [
        {"channel": "mentions"},
        {"channel": "content"},
        {"channel": "related", "because": campaign},
        *({"channel": "intents", "intent": intent} for intent in INTENTS),
    ]
    trail = Trail(world, world)
    whole = [trail.traced(person, campaign, evidence), trail.history(person, campaign)]
    came_in = data.draw(st.lists(st.sampled_from(records), unique_by=lambda each: str(each["_id"]))) if records else []
    lost = {record["_id"] for record in came_in if data.draw(st.booleans())}
    world.records_of[person] = [record for record in records if record["_id"] not in lost]
    fresh = [
        CameIn(
            {**{key: value for key, value in record.items() if key != "line"}, "drop": "inbox"},
            record.get("intent"),
            record.get("names", ()),
        )
        for record in came_in
    ]
    beside = trail.beside(fresh)
    told = [beside.traced(person, campaign, evidence), beside.history(person, campaign)]

    def as_told(source: dict[str, Any]) -> dict[str, Any]:
        unknown = {"drop": "inbox", "line": None, "run_id": None} if source.get("message_id") in lost else {}
        return {**source, **unknown}

    traced, passed = whole
    assert told == [
        [{**part, "sources": [as_told(source) for source in part["sources"]]} for part in traced],
        [as_told(source) for source in passed],
    ]


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
        "event": "click", "message_id": "m_90", "drop": "d_1", "line": 90, "run_id": "run-1",
        "at": AT - timedelta(hours=90),
    }  # fmt: skip
    figures = next(part for part in why.evidence if part["channel"] == "engagement")
    assert (figures["half_life_days"], figures["newest_day"]) == (7.0, "2026-01-05")


def test_each_part_of_the_evidence_is_traced_to_all_that_it_counts(world: World) -> None:
    world.campaigns["c_1"] = Campaign(campaign_id="c_1", intents=["buy"])
    world.records_of["u_1"] = [
        record(1, intent="buy", names=["c_2"]), record(2, names=["c_1"]), record(3, intent="buy", names=["c_1"]), record(4, names=["c_1"]),
        record(5, "conversion", campaign_id="c_2"), record(6, intent="ask"),
    ]  # fmt: skip
    world.records_of["u_2"] = [record(9, intent="buy", names=["c_1", "c_2"])]
    parts = {part["channel"]: part for part in world.why("u_1", "c_1").evidence}
    sources = {channel: [source["message_id"] for source in part["sources"]] for channel, part in parts.items()}
    assert sources["mentions"] == ["m_2", "m_3", "m_4"]
    assert sources["intents"] == ["m_1", "m_3"]
    related = world.why("u_1", "c_3").evidence
    [part] = [part for part in related if part["channel"] == "related"]
    assert (part["because"], part["weight"], part["run_id"]) == ("c_1", 0.5, "run-0")
    world.records_of["u_1"] = [record(20 + n, "click", campaign_id="c_2") for n in range(LIMIT)] + [
        record(4, names=["c_2"]), record(5, "impression", campaign_id="c_2"), record(90, "conversion", campaign_id="c_2"),
    ]  # fmt: skip
    [part] = [part for part in world.why("u_1", "c_3").evidence if part["channel"] == "related"]
    sources["related"] = [source["message_id"] for source in part["sources"]]
    assert sources["related"][0] == "m_90"
    assert "m_4" in sources["related"] and "m_5" not in sources["related"]


def test_a_drop_is_told_by_its_hash_whoever_it_is_named_after(world: World) -> None:
    world.entries["d_1"] = replace(world.entries["d_1"], name="u_2.jsonl")
    world.records_of["u_1"] = [record(1, "click", campaign_id="c_1")]
    assert "u_2" not in world.why("u_1", "c_1").model_dump_json()


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
    answer = recommender.for_texts([], np.eye(3, dtype=np.float32)[0], ["buy"], Query(at=AT), world.snapshot)
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
