"""What the graph is promised to do, on whichever Bolt server the settings name."""

import random
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from neo4j import GraphDatabase

from persona.errors import StoreRefused, StoreUnavailable
from persona.schemas import Campaign, Engagement, ExpressedIntent, Mention, Relation
from persona.settings import Settings
from persona.stores.graph import Graph, open_graph
from tests.stores.conftest import NAUGHTY_IDS
from tests.worlds import related

DAY = 86_400_000
NOW = 20_000 * DAY


def engagement(user: str, campaign: str, *, weight: float = 0.5, last_at_ms: int = NOW) -> Engagement:
    return Engagement(user, campaign, weight, 2.5, {"click": 2, "conversion": 1}, last_at_ms - DAY, last_at_ms, f"m {user}")


def test_writing_twice_is_writing_once(graph: Graph) -> None:
    pairs = [engagement(f"u_{n}", f"c_{n % 7}") for n in range(100)]
    wanted = [ExpressedIntent(f"u_{n}", f"intent {n % 3}", 1, NOW, "m") for n in range(50)]
    named = {f"u_{n}": [Mention(f"c_{n % 7}", 1, NOW, "m")] for n in range(60)}
    campaigns = [Campaign(campaign_id=f"c_{n}", name=f"Offer {n}", intents=["intent 0", "intent 9"]) for n in range(7)]
    for _ in range(2):
        assert graph.upsert_users([f"u_{n}" for n in range(120)]) == 120
        assert graph.upsert_engagements(pairs) == 100
        assert graph.replace_expressed([f"u_{n}" for n in range(50)], wanted) == 50
        assert graph.replace_mentioned(named) == 60
        assert graph.upsert_campaigns(campaigns) == 7
    assert {what: graph.count(what) for what in ("User", "Campaign", "Intent")} == {"User": 120, "Campaign": 7, "Intent": 4}
    ties = {what: graph.count(what) for what in ("ENGAGED", "EXPRESSED", "MENTIONED", "ADDRESSES")}
    assert ties == {"ENGAGED": 100, "EXPRESSED": 50, "MENTIONED": 60, "ADDRESSES": 14}


def test_what_is_written_comes_back(graph: Graph) -> None:
    older, newer = engagement("u", "c_1", last_at_ms=NOW - DAY), engagement("u", "c_2", weight=-1)
    expressed = ExpressedIntent("u", "cancel", 4, NOW, "m_9")
    graph.upsert_engagements([older, newer, engagement("other", "c_1")])
    graph.replace_expressed(["u"], [expressed])
    said, lately = Mention("c_1", 2, NOW - DAY, "m_3"), Mention("c_3", 1, NOW, "m_4")
    graph.replace_mentioned({"u": [said, lately], "other": [said]})
    assert graph.mentions_of("u") == [lately, said] and graph.mentions_of("nobody") == []
    assert graph.history_of("u") == [newer, older]
    assert graph.intents_of("u") == [expressed]
    assert graph.history_of("nobody") == [] and graph.intents_of("nobody") == []
    assert graph.ties_of("u") == ([newer, older], [expressed], [lately, said])
    assert graph.ties_of("nobody") == ([], [], [])


def test_who_wants_what_a_campaign_is_for_or_is_tied_to_it_is_interested(graph: Graph) -> None:
    graph.upsert_campaigns([Campaign(campaign_id="c_1", intents=["buy", "try"]), Campaign(campaign_id="c_2", intents=["leave"])])
    graph.upsert_engagements(
        [engagement("tied", "c_1"), engagement("loose", "c_1", weight=0.1), engagement("gone", "c_1", weight=-1)]
    )
    wanted = {"wants": ["buy"], "wants both": ["buy", "try"], "leaves": ["leave"], "tied": ["leave"]}
    graph.replace_expressed(
        wanted, [ExpressedIntent(user, intent, 1, NOW, "m") for user, intents in wanted.items() for intent in intents]
    )
    assert graph.interested_in("c_1", limit=9) == ["wants both", "wants", "tied", "loose"]
    assert graph.interested_in("c_1", limit=1) == ["wants both", "tied"]
    assert graph.interested_in("never", limit=9) == []


def test_a_new_state_of_a_pair_leaves_nothing_of_the_old(graph: Graph) -> None:
    graph.upsert_engagements([engagement("u", "c")])
    only_opened = replace(engagement("u", "c", weight=0.1), counts={"open": 1})
    graph.upsert_engagements([engagement("u", "c"), only_opened])
    assert graph.history_of("u") == [only_opened]


def test_any_id_comes_back_unchanged(graph: Graph) -> None:
    pairs = [engagement(user, campaign) for user, campaign in zip(NAUGHTY_IDS, reversed(NAUGHTY_IDS), strict=True)]
    assert graph.upsert_engagements(pairs) == len(NAUGHTY_IDS)
    graph.replace_expressed(NAUGHTY_IDS, [ExpressedIntent(text, text, 1, NOW, text) for text in NAUGHTY_IDS])
    graph.replace_mentioned({text: [Mention(text, 1, NOW, text)] for text in NAUGHTY_IDS})
    graph.upsert_campaigns([Campaign(campaign_id="all", name=NAUGHTY_IDS[0], intents=NAUGHTY_IDS)])
    assert [graph.history_of(pair.user_id) for pair in pairs] == [[pair] for pair in pairs]
    assert [graph.intents_of(text)[0].intent for text in NAUGHTY_IDS] == NAUGHTY_IDS
    assert [graph.mentions_of(text)[0].campaign_id for text in NAUGHTY_IDS] == NAUGHTY_IDS
    assert set(graph.interested_in("all", limit=len(NAUGHTY_IDS))) == set(NAUGHTY_IDS)
    assert graph.missing_users([*NAUGHTY_IDS, "nobody"]) == ["nobody"]
    assert graph.count("User") == len(NAUGHTY_IDS)


def test_scores_are_what_a_few_lines_of_python_say(graph: Graph) -> None:
    drawn = random.Random(5)
    pairs = [
        engagement(f"u_{user}", f"c_{campaign}", weight=drawn.uniform(-1, 1), last_at_ms=NOW - drawn.randint(-30, 4_000) * DAY)
        for user in range(40)
        for campaign in drawn.sample(range(25), 8)
    ]
    graph.replace_engagements(["u_1"], pairs)
    neighbours = {f"u_{user}": drawn.uniform(0.1, 1) for user in range(30)} | {"nobody": 1.0}
    scores: dict[str, float] = {}
    users: dict[str, set[str]] = {}
    for pair in pairs:
        if pair.user_id in neighbours and pair.weight > 0:
            age_days = max(0, NOW - pair.last_at_ms) / DAY
            pull = neighbours[pair.user_id] * pair.weight * 0.5 ** (age_days / 30)
            scores[pair.campaign_id] = scores.get(pair.campaign_id, 0) + pull
            users.setdefault(pair.campaign_id, set()).add(pair.user_id)
    votes = graph.campaigns_of(neighbours, now_ms=NOW, half_life_days=30, limit=10)
    best = sorted(scores, key=lambda campaign: -scores[campaign])[:10]
    assert [vote.campaign_id for vote in votes] == best
    assert [vote.score for vote in votes] == pytest.approx([scores[campaign] for campaign in best])
    assert [vote.users for vote in votes] == [len(users[campaign]) for campaign in best]
    assert graph.campaigns_of({}, now_ms=NOW, half_life_days=30, limit=10) == []


def test_a_history_of_another_century_does_not_underflow(graph: Graph) -> None:
    graph.replace_engagements("u", [engagement("u", "c", last_at_ms=-30_000 * DAY)])
    assert graph.campaigns_of({"u": 1.0}, now_ms=NOW, half_life_days=0.5, limit=1)[0].score == pytest.approx(0, abs=1e-12)
    assert graph.campaigns_of({"u": 1.0}, now_ms=-30_000 * DAY, half_life_days=0.5, limit=1)[0].score == pytest.approx(0.5)


def test_neighbours_vote_by_what_ties_them_now(graph: Graph) -> None:
    def votes(*users: str) -> dict[str, float]:
        found = graph.campaigns_of(dict.fromkeys(users, 1.0), now_ms=NOW, half_life_days=30, limit=10)
        return {vote.campaign_id: round(vote.score, 6) for vote in found}

    graph.replace_engagements(["u"], [engagement("u", "c_1"), engagement("u", "c_2"), engagement("v", "c_1")])
    assert votes("u") == {"c_1": 0.5, "c_2": 0.5} and votes("u", "v") == {"c_1": 1.0, "c_2": 0.5}
    now = [engagement("u", "c_1", weight=-1.0), engagement("u", "c_2"), engagement("u", "c_3", weight=1.0)]
    assert graph.replace_engagements(["u"], now, touched={("u", "c_1"), ("u", "c_3")}) == 2
    assert votes("u") == {"c_2": 0.5, "c_3": 1.0} and len(graph.history_of("u")) == 3
    assert graph.replace_engagements(["u"], []) == 0
    assert votes("u") == {} and votes("v") == {"c_1": 0.5} and graph.history_of("u") == []
    graph.remove_user("v")
    assert votes("v") == {}


def test_what_a_campaign_no_longer_addresses_is_removed(graph: Graph) -> None:
    graph.replace_expressed("abc", [ExpressedIntent(intent, intent, 1, NOW, "m") for intent in "abc"])
    graph.upsert_campaigns([Campaign(campaign_id="c_1", intents=["a", "b"]), Campaign(campaign_id="c_2", intents=["b"])])
    graph.upsert_campaigns([Campaign(campaign_id="c_1", intents=["b", "c"])])
    assert [graph.interested_in(campaign, limit=9) for campaign in ("c_1", "c_2")] == [["b", "c"], ["b"]]
    graph.upsert_campaigns([Campaign(campaign_id="c_1")])
    assert [graph.interested_in(campaign, limit=9) for campaign in ("c_1", "c_2")] == [[], ["b"]]


def test_inferred_anew_means_the_old_intents_are_gone(graph: Graph) -> None:
    people = ["u", "v", "w"]
    graph.replace_expressed(people, [ExpressedIntent(user, intent, 1, NOW, "m") for user in people for intent in ("a", "b")])
    now = ExpressedIntent("u", "c", 2, NOW, "m_2")
    assert graph.replace_expressed(["u", "v"], [now]) == 1
    assert graph.intents_of("u") == [now]
    assert graph.intents_of("v") == []
    assert {pair.intent for pair in graph.intents_of("w")} == {"a", "b"}


def test_found_anew_means_the_old_mentions_are_gone_and_engagements_are_not(graph: Graph) -> None:
    graph.upsert_engagements([engagement("u", "c_1")])
    graph.replace_mentioned({user: [Mention(f"c_{n}", 1, NOW, "m") for n in range(3)] for user in ("u", "v", "w")})
    now = Mention("c_9", 2, NOW, "m_2")
    assert graph.replace_mentioned({"u": [now], "v": []}) == 1
    assert graph.mentions_of("u") == [now] and graph.mentions_of("v") == []
    assert len(graph.mentions_of("w")) == 3 and len(graph.history_of("u")) == 1
    assert graph.incomplete_ends(["u", "v", "w"], limit=5) == []
    assert graph.delete_campaigns(["c_9"]) == 1 and graph.mentions_of("u") == []


def test_twenty_thousand_pairs_and_a_campaign_that_everyone_knows(graph: Graph) -> None:
    pairs = [engagement(f"u_{n}", "everyone's") for n in range(20_000)]
    assert graph.upsert_engagements(pairs) == 20_000
    asked = [(pair.user_id, pair.campaign_id) for pair in pairs] + [("u_1", "c_missing"), ("nobody", "everyone's")]
    assert graph.missing_engagements(asked) == [("nobody", "everyone's"), ("u_1", "c_missing")]
    assert graph.missing_users([*(pair.user_id for pair in pairs), "nobody"]) == ["nobody"]
    assert graph.incomplete_ends([pair.user_id for pair in pairs], limit=5) == []
    graph.clear()
    assert (graph.count("User"), graph.count("Campaign"), graph.count("ENGAGED")) == (0, 0, 0)


def test_an_end_without_its_id_is_found(graph: Graph, stack_settings: Settings) -> None:
    addresses = stack_settings.addresses
    graph.upsert_engagements([engagement("u", "c"), engagement("v", "c")])
    with GraphDatabase.driver(addresses.neo4j, auth=(addresses.neo4j_user, addresses.neo4j_password)) as driver:
        driver.execute_query(
            "MATCH (user:User {user_id: 'u'}) CREATE (user)-[:ENGAGED {weight: 1}]->(:Campaign {name: 'no id'})",
            database_=stack_settings.neo4j_database,
        )
    assert len(graph.incomplete_ends(["u", "v"], limit=5)) == 1
    assert graph.incomplete_ends(["v"], limit=5) == []


def test_writers_that_meet_on_the_same_new_nodes_all_succeed(graph: Graph) -> None:
    pairs = [engagement(f"u_{n}", f"c_{n % 5}") for n in range(40)]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(graph.upsert_engagements, [pairs] * 6)) == [40] * 6
    assert (graph.count("User"), graph.count("Campaign"), graph.count("ENGAGED")) == (40, 5, 40)


def test_a_server_that_is_down_or_mute_is_told_in_time(closed_port: int, mute_port: int) -> None:
    for port in (closed_port, mute_port):
        began = time.monotonic()
        with (
            pytest.raises(StoreUnavailable),
            open_graph(f"bolt://127.0.0.1:{port}", user="neo4j", password="x", timeout_seconds=1),
        ):
            pass
        assert time.monotonic() - began < 4


def test_a_wrong_password_is_a_refusal_with_a_hint(stack_settings: Settings) -> None:
    addresses = stack_settings.addresses
    with (
        pytest.raises(StoreRefused) as refused,
        open_graph(addresses.neo4j, user=addresses.neo4j_user, password="wrong password"),
    ):
        pass
    assert "NEO4J_PASSWORD" in refused.value.hint


# -- putting right what is there ----------------------------------------------------------------------------------------


def test_what_ties_these_people_is_replaced_and_nobody_elses(graph: Graph) -> None:
    graph.upsert_engagements(
        [engagement("u_1", "c_1"), engagement("u_1", "c_2"), engagement("u_2", "c_2"), engagement("u_3", "c_1")]
    )
    assert graph.replace_engagements(["u_1", "u_2", "u_4"], [engagement("u_1", "c_3"), engagement("u_1", "c_2")]) == 2
    ties = {user: sorted(tie.campaign_id for tie in graph.history_of(user)) for user in ("u_1", "u_2", "u_3", "u_4")}
    assert ties == {"u_1": ["c_2", "c_3"], "u_2": [], "u_3": ["c_1"], "u_4": []}


def test_everybody_is_listed_once_whatever_the_ids_are_made_of(graph: Graph) -> None:
    users = {*NAUGHTY_IDS, "\uffee", "\U00010000", "\ue000", "a", "A", "b" * 200, *(f"u_{number}" for number in range(40))}
    graph.upsert_users(users)
    for limit in (1, 7, 1_000):
        listed, page = [], [""]
        while page := graph.users_after(page[-1], limit=limit):
            listed += page
            assert len(listed) <= len(users)
        assert len(listed) == len(users) and set(listed) == users


def test_people_campaigns_and_lone_intents_can_be_removed_with_what_ties_them(graph: Graph) -> None:
    graph.upsert_campaigns([Campaign(campaign_id="c_1", intents=["buy"]), Campaign(campaign_id="c_2", intents=["sell"])])
    graph.upsert_engagements([engagement(f"u_{number}", "c_1") for number in range(30)])
    graph.upsert_engagements([engagement("u_1", "c_2")])
    assert graph.delete_lone_intents() == 0
    assert graph.delete_users(["u_0", "u_1", "nobody"]) == 2
    assert graph.delete_campaigns(["c_1", "no such"]) == 1
    assert graph.delete_lone_intents() == 1
    assert graph.campaign_ids() == ["c_2"]
    assert [graph.count(what) for what in ("User", "Campaign", "Intent", "ENGAGED", "ADDRESSES")] == [28, 1, 1, 0, 1]


# -- what goes together -------------------------------------------------------------------------------------------------


def relations(seed: int, *, campaigns: int = 30, each: int = 6) -> list[Relation]:
    drawn = random.Random(seed)
    return [
        Relation(f"c_{one}", f"c_{other}", drawn.uniform(0.01, 0.5), drawn.randint(2, 90))
        for one in range(campaigns)
        for other in drawn.sample([number for number in range(campaigns) if number != one], each)
    ]


def in_graph(settings: Settings, generation: str) -> dict[tuple[str, str], tuple[float, int]]:
    return {(each["from"], each["to"]): (each["weight"], each["support"]) for each in related(settings, generation)}


def by_campaign(those: Iterable[Relation]) -> dict[str, list[Relation]]:
    found: dict[str, list[Relation]] = {}
    for each in those:
        found.setdefault(each.campaign_id, []).append(each)
    return found


def test_relations_are_those_that_were_written_last(graph: Graph, stack_settings: Settings) -> None:
    learned = {"g_1": relations(1), "g_2": relations(2)}
    for generation, those in [*learned.items(), *learned.items()]:
        for _ in range(2):  # twice is once
            assert graph.replace_relations(by_campaign(those), generation=generation, run_id="r") == 180
        assert graph.count_relations(generation) == 180
        written = {(each.campaign_id, each.related_id): (each.weight, each.support) for each in those}
        assert in_graph(stack_settings, generation) == written
    assert in_graph(stack_settings, "g_1") == {}


def test_relations_of_other_generations_are_forgotten_with_any_id(graph: Graph, stack_settings: Settings) -> None:
    pairs = [Relation(one, other, 0.5, 2) for one, other in zip(NAUGHTY_IDS, reversed(NAUGHTY_IDS), strict=True) if one != other]
    for generation, those in (("g_1", pairs[::2]), ("g_2", pairs[1::2])):
        graph.replace_relations(by_campaign(those), generation=generation, run_id="r")
    graph.forget_relations(but=["g_2"])
    assert [graph.count_relations(generation) for generation in ("g_1", "g_2")] == [0, len(pairs[1::2])]
    graph.replace_relations(by_campaign(pairs), generation="g_3", run_id="r")
    assert in_graph(stack_settings, "g_3") == {(each.campaign_id, each.related_id): (0.5, 2) for each in pairs}
    graph.replace_relations(by_campaign([replace(pairs[0], weight=0.1)]), generation="g_3", run_id="r")  # a new state of a pair
    assert in_graph(stack_settings, "g_3")[pairs[0].campaign_id, pairs[0].related_id] == (0.1, 2)
    graph.delete_campaigns([pairs[0].campaign_id])
    left = {ends for ends in in_graph(stack_settings, "g_3") if pairs[0].campaign_id in ends}
    assert left == set()
    graph.clear()
    assert graph.count("Campaign") == 0
