"""What is written before what when a model is put in force, on real stores: whoever answers meanwhile finds what its generation needs."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from persona.errors import LeaseLost, NotFound, StoreUnavailable
from persona.evaluation.candidate import evaluate_candidate
from persona.pipeline import sinks
from persona.ranking import publication, relations
from persona.ranking.publication import fit_candidate, publish_by_hand, publish_candidate, roll_back
from persona.ranking.recommender import Query, Recommender, load_snapshot
from persona.stores.graph import Graph
from tests.pipeline.conftest import START, World
from tests.pipeline.conftest import new_world as new_world
from tests.worlds import related


def together(number: int, *campaigns: str) -> list[dict[str, Any]]:
    """Three people more who took all of these campaigns."""
    return [
        {"user_id": f"u_{number}_{person}", "timestamp": START + number, "event": "click", "campaign_id": campaign}
        for person in range(3)
        for campaign in campaigns
    ]


class Place:
    """A world whose models are fitted and published step by step."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.pipeline = world.pipeline
        self.graph = world.graph
        self.generations = world.pipeline.documents.generations
        world.load_catalogs()

    def fit(self, number: int, *campaigns: str) -> None:
        self.world.put(together(number, *campaigns))
        self.world.drain()
        fit_candidate(self.pipeline, self.pipeline.warehouse, run_id=f"run_{number}")
        evaluate_candidate(self.pipeline, run_id=f"run_{number}")

    def publish(self) -> str:
        published = publish_candidate(self.pipeline, self.graph, run_id="r")
        assert published.decision.publish and published.in_force
        return published.in_force

    def related(self, generation: str) -> list[dict[str, Any]]:
        return related(self.pipeline.settings, generation)


@pytest.fixture
def place(new_world: Callable[[], World]) -> Place:
    return Place(new_world())


def test_the_graph_shows_the_generation_that_serves_and_an_older_one_comes_back(place: Place) -> None:
    names, those = [], []
    for number in range(3):
        place.fit(number, "c_0", f"c_{number + 1}")
        names.append(place.publish())
        those.append(place.related(names[-1]))
    assert len({str(each) for each in those}) == 3 and all(those)
    assert [place.related(name) for name in names] == [[], [], those[2]]
    with pytest.raises(NotFound):
        publish_by_hand(place.pipeline, place.graph, "g_unknown", run_id="r")
    assert publish_by_hand(place.pipeline, place.graph, names[0], run_id="r").instead_of == names[2]
    assert place.generations.in_force_id() == names[0]
    assert [place.related(name) for name in names] == [those[0], [], []]
    assert roll_back(place.pipeline, place.graph, run_id="r").generation == names[2]
    assert place.related(names[2]) == those[2]
    assert not publish_candidate(place.pipeline, place.graph, run_id="r").decision.publish


def test_without_a_candidate_what_serves_goes_on_and_is_named(place: Place) -> None:
    assert publish_candidate(place.pipeline, place.graph, run_id="r").in_force is None
    place.fit(0, "c_0", "c_1")
    first = place.publish()
    place.pipeline.documents.database["state"].delete_one({"_id": "candidate"})
    published = publish_candidate(place.pipeline, place.graph, run_id="r")
    assert (published.decision.publish, published.in_force) == (False, first)


def test_conversations_in_which_campaigns_are_named_relate_them(place: Place) -> None:
    said = [("Is Offer c_0 like Offer c_3?", 0), ("Offer c_1?", 0), ("Offer c_2?", 86_400)]
    place.world.put(
        {"user_id": f"u_said_{person}", "timestamp": START + after, "event": "message", "message": text}
        for person in range(3)
        for text, after in said
    )
    place.fit(0, "c_1", "c_2")  # people without words are a row each
    candidate = place.generations.candidate()
    assert candidate and candidate["relations"]["people"] == 6
    found = [each for _, related in place.pipeline.documents.relations.of(candidate["fingerprint"]) for each in related]
    together = {("c_0", "c_3"), ("c_0", "c_1"), ("c_1", "c_3"), ("c_1", "c_2")}
    assert {(each.campaign_id, each.related_id) for each in found} == together | {(b, a) for a, b in together}
    assert {each.support for each in found if {each.campaign_id, each.related_id} != {"c_1", "c_2"}} == {3}
    assert {each.support for each in found if {each.campaign_id, each.related_id} == {"c_1", "c_2"}} == {6}


def test_a_generation_serves_whatever_happens_to_the_graph_which_shows_its_relations_as_soon_as_it_can(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.fit(0, "c_0", "c_1")
    first = place.publish()
    answered = place.related(first)
    place.fit(1, "c_2", "c_3")

    def fails(*arguments: Any, **options: Any) -> int:
        raise StoreUnavailable("neo4j", "told to be down")

    with monkeypatch.context() as patch:
        patch.setattr(Graph, "replace_relations", fails)
        with pytest.raises(StoreUnavailable):
            place.publish()
    second = place.generations.in_force_id()
    assert second and second != first
    assert (place.related(first), place.related(second)) == (answered, [])
    assert load_snapshot(place.pipeline.documents).relations.related_campaigns(
        {"c_2": 1.0}, limit=1
    )  # answers do not ask the graph for them

    relate = sinks.relate

    def overtaken(*arguments: Any) -> int:
        place.pipeline.documents.database["leases"].update_one({}, {"$inc": {"token": 1}})
        return relate(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(sinks, "relate", overtaken)
        with pytest.raises(LeaseLost):
            publish_candidate(place.pipeline, place.graph, run_id="r")
    place.pipeline.documents.database["leases"].delete_many({})
    published = publish_candidate(place.pipeline, place.graph, run_id="r")
    assert (published.decision.publish, published.in_force) == (False, second)
    assert place.related(first) == []
    assert {(each["from"], each["to"]) for each in place.related(second)} == {
        ("c_0", "c_1"), ("c_1", "c_0"), ("c_2", "c_3"), ("c_3", "c_2"),
    }  # fmt: skip


def test_a_lease_that_is_lost_before_the_swap_changes_nothing_that_serves(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.fit(0, "c_0", "c_1")
    first = place.publish()
    answered = place.related(first)
    place.fit(1, "c_2", "c_3")
    decided = publication.decide

    def overtaken(*arguments: Any, **options: Any) -> Any:
        place.pipeline.documents.database["leases"].update_one({}, {"$inc": {"token": 1}})
        return decided(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(publication, "decide", overtaken)
        with pytest.raises(LeaseLost):
            place.publish()
    place.pipeline.documents.database["leases"].delete_many({})
    assert (place.generations.in_force_id(), place.related(first)) == (first, answered)
    assert place.related(place.publish())


def test_only_relations_that_something_refers_to_are_kept(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publication, "KEPT", 1)
    kept = place.pipeline.documents.database["relations"]
    place.fit(0, "c_0", "c_1")
    place.publish()
    for number in (1, 2):  # fitted, and never published
        place.fit(number, "c_0", "c_1")
    assert set(kept.distinct("fingerprint")) == place.generations.fingerprints()
    assert len(place.generations.fingerprints()) == 2
    assert kept.distinct("run_id") == ["run_0", "run_2"]
    place.publish()
    assert kept.distinct("run_id") == ["run_2"]


def test_with_too_many_campaigns_the_model_serves_without_relations_and_says_so(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relations, "LARGEST", 1)
    place.fit(0, "c_0", "c_1")
    name = place.publish()
    found = place.generations.get(name)
    assert found and found.model["relations"]["left_out"] == (
        "2 campaigns are more than the 1 for which related campaigns are learned"
    )
    assert place.related(name) == []
    documents = place.pipeline.documents
    answer = Recommender(place.world.vectors, place.graph, documents).for_user("u_0_0", Query(), load_snapshot(documents))
    assert answer.recommendations and answer.degraded == []


def test_relations_come_from_what_people_did_and_say_how_many_and_by_which_run(place: Place) -> None:
    shown = [{**record, "event": "impression"} for record in together(1, "c_0", "c_2")]
    place.world.put(shown)
    place.fit(0, "c_0", "c_1")
    of_campaign: Mapping[str, Any] = {
        each.campaign_id: (run_id, each.related_id, each.support)
        for run_id, found in place.pipeline.documents.relations.of(place.generations.candidate()["fingerprint"])  # type: ignore[index]
        for each in found
    }
    assert of_campaign == {"c_0": ("run_0", "c_1", 3), "c_1": ("run_0", "c_0", 3)}
