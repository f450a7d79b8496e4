"""An erased person is gone: asked of every server through its driver and looked for in the bytes of every file."""

import gzip
import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from persona.errors import InvalidInput, NotFound
from persona.evaluation.candidate import evaluate_candidate
from persona.intake.catalogs import load_folder
from persona.pipeline.learning import learn_given_intents
from persona.privacy import erasure
from persona.privacy.erasure import erase, is_complete
from persona.privacy.holdings import export
from persona.privacy.scrub import scrub
from persona.ranking import publication
from persona.schemas import Fact, UserProfile, Vector
from persona.stores.documents.classifiers import Classifiers
from persona.stores.documents.embeddings import Embeddings, text_hash
from tests.privacy.conftest import VERA, Cut, Place, cut_at, drops, said
from tests.worlds import related

MENTIONING = {"mongodb:records", "drops:mixed.jsonl", "watched:mixed.jsonl"}
"""Where others' words hold the id."""
NOT_OURS_TO_CHANGE = {"watched:cut.json", "watched:table.csv"}


def test_the_person_is_gone_and_the_proof_says_where_not(place: Place) -> None:
    before, others = place.seen(VERA), place.seen("u_1")
    assert {
        "mongodb:records",
        "mongodb:quarantine",
        "mongodb:customers",
        "milvus:users",
        "milvus:conversations",
        "neo4j",
        "warehouse",
        "redis",
    } <= before
    assert {f"drops:{name}" for name in drops() if name != "others.jsonl"} <= before
    proof = erase(VERA, place.settings, place.world.stores, run_id="e")
    assert is_complete(proof), proof["left"]
    assert place.seen(VERA) == MENTIONING | NOT_OURS_TO_CHANGE
    assert place.seen("u_1") == others - {"redis", "drops:cut.json"}
    assert proof["found"]["records"] == 9 and proof["found"]["customers"] == 1 and proof["found"]["redis"] == 1
    assert {entry["line"] for entry in proof["mentions"]} == {3, 4}
    assert [source for source in proof["sources"] if not source["rewritten"]] == [
        {"file": "cut.json", "rewritten": False, "why": "not a drop that can be read"},
        {"file": "table.csv", "rewritten": False, "why": "not a drop that can be read"},
    ]
    assert VERA not in json.dumps(proof, default=str, ensure_ascii=False)
    place.world.agrees_with_the_truth()


def test_what_goes_together_stops_counting_the_person_at_the_next_fit(place: Place) -> None:
    def support() -> set[int]:
        publication.fit_candidate(place.pipeline, place.pipeline.warehouse, run_id="r")
        evaluate_candidate(place.pipeline, run_id="r")
        generation = publication.publish_candidate(place.pipeline, place.world.graph, run_id="r").in_force or ""
        relations = related(place.settings, generation)
        assert {relation["to"] for relation in relations} == {"c_0", "c_1", "c_2"}
        return {relation["support"] for relation in relations}

    assert support() == {4}
    erase(VERA, place.settings, place.world.stores, run_id="e")
    assert support() == {3}


def test_every_record_stays_accounted_for(place: Place) -> None:
    erase(VERA, place.settings, place.world.stores, run_id="e")
    counts = place.counts()
    assert {name: of["erased"] for name, of in counts.items()} == {
        "everyone.jsonl": 4, "clicks.json.gz": 3, "again.json": 1, "mixed.jsonl": 7, "single.json": 1, "held.jsonl": 3,
        "cut.json": 0, "table.csv": 0, "others.jsonl": 0,
    }  # fmt: skip
    assert all(of["read"] == of["accepted"] + of["duplicate"] + of["quarantined"] + of["erased"] for of in counts.values())
    assert counts["everyone.jsonl"] == {"read": 16, "accepted": 9, "duplicate": 3, "quarantined": 0, "erased": 4}
    assert counts["again.json"] == {"read": 4, "accepted": 3, "duplicate": 0, "quarantined": 0, "erased": 1}
    place.read_everything_again()
    assert place.counts() == counts


def test_older_drops_do_not_bring_the_person_back(place: Place) -> None:
    erase(VERA, place.settings, place.world.stores, run_id="e")
    seen, counts = place.seen(VERA), place.counts()
    place.read_everything_again()
    assert (place.seen(VERA), place.counts()) == (seen, counts)
    place.empty_the_folder()
    place.take_in({f"sent-again-{name}": content for name, content in drops().items()})
    place.take_in({"new.jsonl": json.dumps(said(VERA, 100)).encode() + b"\n" + json.dumps(said("u_1", 101)).encode()})
    place.take_in({"new.json.gz": gzip.compress(json.dumps([said(VERA, 102), said("u_1", 103)]).encode())})
    (place.settings.catalog / "users.json").write_text(
        json.dumps([{"user_id": VERA}, {"user_id": "u_1", "segments": ["silver"]}])
    )
    load_folder(place.pipeline, run_id="r")
    assert _inside(place.seen(VERA)) == _inside(seen)
    assert place.counts()["new.jsonl"] == {"read": 2, "accepted": 1, "duplicate": 0, "quarantined": 0, "erased": 1}
    place.world.agrees_with_the_truth()


def test_new_contact_is_welcome_and_can_be_erased_again(place: Place) -> None:
    stores = place.world.stores
    first = erase(VERA, place.settings, stores, run_id="e")
    assert is_complete(erase(VERA, place.settings, stores, run_id="e")), "with nothing left there is nothing to do"
    now = datetime.now(UTC).isoformat()
    place.take_in({"back.jsonl": json.dumps(said(VERA, 104, timestamp=now, campaign_id="c_1")).encode()})
    (place.settings.catalog / "users.json").write_text(json.dumps([{"user_id": VERA, "segments": ["back"]}]))
    load_folder(place.pipeline, run_id="r")
    document = export(VERA, place.settings, stores)
    assert [record["message_id"] for record in document["records"]] == [f"m_{VERA}_104"]
    assert document["customer"]["segments"] == ["back"]
    again = erase(VERA, place.settings, stores, run_id="e")
    assert again["user"] == first["user"] and again["erasure"] != first["erasure"]
    assert (again["found"]["records"], again["found"]["drops"], is_complete(again)) == (1, 1, True)
    assert len(place.documents.erasures.of_tombstone(first["user"])) == 3
    assert json.loads((place.settings.catalog / "users.json").read_bytes()) == []
    place.world.agrees_with_the_truth()


def test_mentions_beyond_those_listed_are_counted(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasure, "MENTIONS_LISTED", 1)
    proof = erase(VERA, place.settings, place.world.stores, run_id="e")
    assert (len(proof["mentions"]), proof["mentions_in_all"]) == (1, 2)


def test_what_a_rebuild_is_filling_forgets_the_person_too(place: Place) -> None:
    stores, documents = place.world.stores, place.documents
    beside = place.world.milvus.at(documents.embeddings.begin_beside())
    beside.prepare(16)
    vector = stores.vectors.user_vector(VERA)
    assert vector is not None
    beside.upsert_users([UserProfile(VERA, vector, 1, 1), UserProfile("u_1", vector, 1, 1)])
    stores.warehouse.begin_beside()
    stores.warehouse.beside().insert_facts(
        [Fact(f"m_{who}", "d", who, "c", "click", "sms", None, 1.0, 1) for who in (VERA, "u_1")]
    )
    assert is_complete(erase(VERA, place.settings, stores, run_id="e"))
    assert place.seen(VERA) == MENTIONING | NOT_OURS_TO_CHANGE
    assert beside.present_users([VERA, "u_1"]) == {"u_1"}
    assert [bucket.n for bucket in stores.warehouse.beside().day_buckets()] == [1]


def test_what_was_learned_from_the_person_goes_wherever_it_was_cut_off(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    stores, documents = place.world.stores, place.documents
    given = [said(user, 60 + number, intent="refund") for user in (VERA, "u_1") for number in range(2)]
    place.take_in({"given.jsonl": b"".join(json.dumps(record).encode() + b"\n" for record in given)})
    learn_given_intents(place.pipeline, place.world.graph, run_id="r")
    of_others = {text_hash(record["message"]) for record in given if record["user_id"] != VERA}
    theirs = documents.embeddings.get(documents.classifiers.lessons().keys() - of_others)
    assert len(theirs) == 2 and fitted_to(place, theirs)
    cuts = 0
    for owner, verb in ((Classifiers, "unlearn"), (Classifiers, "put_part"), (Classifiers, "keep_only"), (Embeddings, "remove")):
        for after in (True, False):
            with monkeypatch.context() as patch:
                cut_at(patch, owner, verb, after=after)
                with suppress(Cut):
                    erase(VERA, place.settings, stores, run_id="e")
                    cuts -= 1
                cuts += 1
            assert documents.classifiers.version(), "whoever serves has a classifier all the time"
    proof = erase(VERA, place.settings, stores, run_id="e")
    assert cuts >= 6 and is_complete(proof), proof["left"]
    assert documents.classifiers.lessons().keys() == of_others
    assert fitted_to(place, documents.embeddings.get(of_others)) and not fitted_to(place, theirs)


def test_the_proof_counts_what_was_learned_and_said_of_texts(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.take_in({"given.jsonl": json.dumps(said(VERA, 60, message="Offer c_1: about refund", intent="refund")).encode()})
    learn_given_intents(place.pipeline, place.world.graph, run_id="r")
    monkeypatch.setattr(Classifiers, "unlearn", lambda self, hashes: None)
    monkeypatch.setattr(Embeddings, "remove", lambda self, hashes: None)
    place.documents.database["classifier"].insert_one({"_id": "older/0000", "version": "older"})
    monkeypatch.setattr(Classifiers, "keep_only", lambda self, version, session: None)
    proof = erase(VERA, place.settings, place.world.stores, run_id="e")
    assert not is_complete(proof)
    left = {what: proof["left"][what] for what in ("texts", "labels", "mentions", "lessons")}
    assert left == {what: proof["found"][what] for what in left} and all(left.values()), left
    assert proof["left"]["classifiers"] == 1


def fitted_to(place: Place, vectors: Mapping[str, Vector]) -> bool:
    """Whether what is stored of classifiers holds one of these vectors."""
    content = b"".join(found["content"] for found in place.documents.database["classifier"].find().sort("_id", 1))
    return any(vector.tobytes() in content for vector in vectors.values())


def test_nobody_is_not_erased(place: Place) -> None:
    with pytest.raises(NotFound):
        erase("vera-471", place.settings, place.world.stores, run_id="e")
    with pytest.raises(NotFound):
        export("vera-471", place.settings, place.world.stores)
    assert place.documents.tombstones.count() == 0


def test_older_backups_are_named_and_servers_of_ones_own_are_left_alone(place: Place) -> None:
    place.documents.backups.note("/somewhere", at=datetime(2026, 1, 1, tzinfo=UTC))
    settings = place.addressed
    proof = erase(VERA, settings, place.world.stores, run_id="e")
    assert proof["backups"] == [{"path": "/somewhere", "at": datetime(2026, 1, 1, tzinfo=UTC)}]
    where = {entry["where"].partition("'")[0]: entry["removed_by"] for entry in proof["residue"]}
    assert {"MongoDB", "deleted rows in Milvus", "Neo4j", "Redis"} <= set(where)
    scrubbed = scrub(VERA, proof, settings)
    assert [entry for entry in proof["residue"] if "--scrub" not in entry["removed_by"]] == scrubbed["residue"]
    assert {place._name_of(Path(path)) for path in scrubbed["scrubbed"]["found_in"]} == {"mixed.jsonl", "cut.json", "table.csv"}
    assert place.documents.erasures.of_tombstone(proof["user"])[-1]["scrubbed"]
    place.world.agrees_with_the_truth()


@pytest.mark.parametrize("nobody", ["", " ", "a\x00b", "\ud800", "x" * 257])
def test_what_is_no_id_erases_nothing(place: Place, nobody: str) -> None:
    with pytest.raises(InvalidInput):
        erase(nobody, place.settings, place.world.stores, run_id="e")


def test_lost_copies_that_come_back_are_read_with_the_tombstone(place: Place) -> None:
    for copy in place.settings.claimed_drops.iterdir():
        copy.unlink()
    counts = place.counts()
    proof = erase(VERA, place.settings, place.world.stores, run_id="e")
    assert is_complete(proof) and proof["found"]["records"] == 9 and proof["drops"] == []
    after = place.counts()
    assert all(of["read"] == of["accepted"] + of["duplicate"] + of["quarantined"] + of["erased"] for of in after.values())
    assert sum(before["accepted"] - after[name]["accepted"] for name, before in counts.items()) == 9
    place.empty_the_folder()
    place.take_in(drops())
    assert {where for where in _inside(place.seen(VERA)) if where.startswith("drops:")} == {
        "drops:mixed.jsonl", "drops:cut.json", "drops:table.csv"
    }  # fmt: skip
    assert place.documents.records.count_of_user(VERA) == 0
    place.world.agrees_with_the_truth()


def _inside(places: set[str]) -> set[str]:
    return {where for where in places if not where.startswith(("watched:", "catalog:"))}
