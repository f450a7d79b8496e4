"""`persona generations` as people and programs use it: what served when and why, and going back."""

from typing import Any

import pytest

from persona.ranking import publication
from persona.stores.opening import documents_of
from persona_cli.pipeline import open_pipeline
from tests.cli.conftest import Answer, Command
from tests.worlds import content, differences, everything, generated, learned, put_drop, said

pytestmark = pytest.mark.slow


def in_force(persona: Command) -> str:
    [row] = [row for row in persona("generations", "list", "--json").lines if row["in_force"]]
    name: str = row["generation"]
    return name


def fitted_on(persona: Command, number: int) -> str:
    """The id of the generation after so many people took the same two campaigns and one more."""
    records = [
        said(f"u_{number}_{person}", "yes please", campaign_id=campaign, event="click", minutes=number)
        for person in range(4)
        for campaign in ("c_101", f"c_new_{number}")
    ]
    put_drop(persona.settings.drops, f"more_{number}.jsonl", records)
    done = persona("materialize", "--json")
    assert (done.code, done.json["status"]) == (0, "success"), done.json
    return in_force(persona)


def answers(persona: Command) -> list[Any]:
    people = [f"u_{number:03}" for number in range(1, 5)] + ["u_1_0", "u_2_0", "u_nobody"]
    done: Answer = persona("recommend", *people, "--k", "20", "--as-of", "2026-06-02T00:00:00", "--json")
    assert done.code == 0, done.out
    return done.lines


def test_rolling_back_restores_the_former_answers_exactly(persona: Command) -> None:
    generated(persona.settings)
    assert persona("generations", "rollback", "--json").code == 3
    assert persona("generations", "show", "--json").code == 3
    assert persona("generations", "list").out == "Nothing has been published yet.\n"

    first = fitted_on(persona, 1)
    things = ("card", "phone", "letter", "parcel", "key")
    given = [said("u_1_0", f"where is my {thing} now", intent="lost") for thing in things]
    asks = [said("u_2_0", "hello", campaign_id="c_101", event="click"), said("u_001", "where is my coat now")]
    put_drop(persona.settings.drops, "people.jsonl", [*given, *asks])
    draining = ("raw_conversations", "embeddings", "intents", "milvus_collection", "neo4j_graph", "engagement_metrics", "lessons")
    assert persona("materialize", *draining, "--json").code == 0  # all that answers are made of is there; only the model changes
    held = content(persona.settings)
    assert sum('"intent": "lost"' in label for label in held["mongodb:labels"]) > len(given)
    before, relations = answers(persona), learned(persona.settings)
    assert relations["mongodb:relations"] == relations["neo4j:RELATED"] != []
    assert "related" in {
        part["channel"] for answer in before for offer in answer["recommendations"] for part in offer["evidence"]
    }
    assert {answer["generation"] for answer in before} == {first}

    assert persona("materialize", "ranking_model", "ranking_evaluation", "generation", "--json").code == 0
    second = in_force(persona)
    assert second != first and answers(persona) != before
    assert differences(held, content(persona.settings)) == {}

    done = persona("generations", "rollback", "--json")
    assert (done.code, done.json) == (0, {"generation": first, "instead_of": second})
    assert answers(persona) == before
    assert differences(relations, learned(persona.settings)) == {}

    assert persona("materialize", "--json").code == 0  # what a person took back, a run does not put in force again
    assert in_force(persona) == first and answers(persona) == before
    assert persona("generations", "rollback", "--json").code == 3

    done = persona("generations", "publish", second, "--json")
    assert (done.code, done.json) == (0, {"generation": second, "instead_of": first})
    assert [row["withdrawn"] for row in persona("generations", "list", "--json").lines] == [False, False]


def test_what_is_kept_is_listed_with_when_why_and_on_what(persona: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publication, "KEPT", 2)
    generated(persona.settings)
    names = [fitted_on(persona, number) for number in (1, 2, 3)]
    rows = persona("generations", "list", "--json").lines
    assert [row["generation"] for row in rows] == [names[2], names[1]]
    assert [row["in_force"] for row in rows] == [True, False]
    assert all(row["published_at"] and row["facts"] and row["newest_day"] == "2026-05-31" for row in rows)
    [reason] = {row["reason"] for row in rows}
    assert "too few queries" in reason
    text = persona("generations", "list").out
    assert f"{names[2]}  published" in text and "in force" in text and reason in text
    shown = persona("generations", "show", "--json").json
    assert shown["generation"] == names[2] and sum(shown["weights"].values()) == 1
    assert shown["related_campaigns"]["relations"] > 0 and len(shown["best_campaigns"]) == 10
    assert "learned from" in persona("generations", "show", names[1]).out
    gone = persona("generations", "publish", names[0], "--json")
    assert (gone.code, gone.error["code"]) == (3, "not_found")
    with documents_of(persona.settings) as documents:
        kept = documents.generations.fingerprints()
        assert set(documents.database["relations"].distinct("fingerprint")) == kept and len(kept) == 2


def test_a_refused_candidate_is_shown_and_published_by_hand(persona: Command) -> None:
    generated(persona.settings)
    first = fitted_on(persona, 1)
    assert fitted_on(persona, 2) != first
    assert persona("generations", "rollback", "--json").code == 0
    with documents_of(persona.settings) as documents:  # as if the model that was taken back had not been kept
        documents.database["generations"].delete_one({"_id": {"$ne": first}})
        documents.generations.refuse_candidate("it loses to what does well now")
    candidate, serving = persona("generations", "list", "--json").lines
    assert (candidate["generation"], candidate["reason"]) == ("candidate", "it loses to what does well now")
    assert serving["generation"] == first and serving["in_force"] and not candidate["in_force"]
    assert persona("generations", "show", "candidate", "--json").json["generation"] == "candidate"
    held = everything(persona.settings)
    with open_pipeline(persona.settings) as pipeline, pipeline.lease("the-other-run", "a test"):
        assert persona("generations", "publish", "--json", PERSONA_LEASE_WAIT_SECONDS="0").code == 4
    assert differences(held, everything(persona.settings)) == {}
    done = persona("generations", "publish", "--json")
    assert done.code == 0 and done.json["instead_of"] == first
    [row] = [row for row in persona("generations", "list", "--json").lines if row["in_force"]]
    assert row["reason"] == "published by hand, though: it loses to what does well now"
    found = learned(persona.settings)
    assert found["neo4j:RELATED"] == found["mongodb:relations"] != []
