"""Commands that put something in: whole or not at all, one at a time, and the same again where the same was asked for."""

import json
from pathlib import Path

import pytest

from persona_cli.pipeline import open_pipeline
from tests.cli.conftest import Command
from tests.worlds import put_drop, said


def test_ingest_copies_whole_files(persona: Command) -> None:
    source = persona.folder / "source"
    for name in ("a.jsonl", "b.jsonl"):
        put_drop(source, name, [said("u_1", f"hello from {name}")])
    drops = persona.settings.drops
    done = persona("ingest", str(source), "--json")
    assert (done.code, done.json) == (0, {"folder": str(drops), "files": ["a.jsonl", "b.jsonl"]}), done.err
    assert {path.name: path.read_bytes() for path in drops.iterdir()} == {
        path.name: path.read_bytes() for path in source.iterdir()
    }


def test_a_copy_that_fails_leaves_nothing_to_be_taken_in(persona: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    source = put_drop(persona.folder / "source", "a.jsonl", [said("u_1", "hello")])

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("persona_cli.ingest.os.replace", refuse)
    done = persona("ingest", str(source), "--json")
    assert done.code == 1
    assert "No space left" in done.error["message"]
    assert list(persona.settings.drops.iterdir()) == []


def test_another_file_of_the_same_name_keeps_both(persona: Command) -> None:
    for folder in ("monday", "tuesday"):
        put_drop(persona.folder / folder, "a.jsonl", [said("u_1", f"hello on {folder}")])
    files = [str(persona.folder / folder / "a.jsonl") for folder in ("monday", "tuesday", "monday")]
    names = persona("ingest", *files, "--json").json["files"]
    assert names[0] == names[2] == "a.jsonl"
    assert names[1].startswith("a-")
    assert len(list(persona.settings.drops.iterdir())) == 2


def test_a_catalog_that_does_not_validate_loads_nothing(persona: Command) -> None:
    good, bad = persona.folder / "good.json", persona.folder / "bad.json"
    good.write_text(json.dumps([{"campaign_id": "c_1", "name": "Savings"}]))
    bad.write_text(json.dumps([{"campaign_id": "c_2", "name": "Loan"}, {"campaign_id": "c_3", "status": "whatever"}]))
    done = persona("catalog", str(bad), "--json")
    assert (done.code, done.error["code"]) == (2, "invalid_input")
    assert "entry 1.status" in done.error["message"] and "nothing of the file was loaded" in done.error["hint"]
    with open_pipeline(persona.settings) as pipeline:
        assert pipeline.documents.catalog.campaigns() == []
    done = persona("catalog", str(good), "--json")
    assert done.code == 0, done.out
    assert done.json == {"loaded": [{"file": str(good), "catalog": "campaigns", "entries": 1}], "version": 1}
    with open_pipeline(persona.settings) as pipeline:
        assert [campaign.campaign_id for campaign in pipeline.documents.catalog.campaigns()] == ["c_1"]


def test_who_finds_another_writing_is_told_so(persona: Command) -> None:
    good = persona.folder / "good.json"
    good.write_text(json.dumps([{"campaign_id": "c_1"}]))
    with open_pipeline(persona.settings) as pipeline, pipeline.lease("the-other-run", "a test"):
        for arguments in (("catalog", str(good)), ("rebuild", "neo4j_graph")):
            done = persona.process(*arguments, "--json", PERSONA_LEASE_WAIT_SECONDS="1")
            assert (done.code, done.error["code"]) == (4, "busy"), done.err
            assert "the-other-run" in done.error["message"]
        done = persona("materialize", "catalogs", "--json", PERSONA_LEASE_WAIT_SECONDS="1")
        assert (done.code, done.json["status"]) == (4, "failed")
        assert "the-other-run" in done.json["error"]


def test_generate_is_the_same_for_the_same_seed(persona: Command) -> None:
    folders = [persona.folder / name for name in ("one", "two", "three")]
    for folder, seed in zip(folders, ("1", "1", "2"), strict=True):
        into = ["--into", str(folder / "drops"), "--catalogs", str(folder / "catalog")]
        done = persona("generate", "--messages", "20", "--drops", "2", "--seed", seed, *into, "--json")
        assert done.code == 0, done.err
        assert [Path(file).parent for file in done.json["files"]] == [folder / "drops"] * 2
    first, again, other = ({path.name: path.read_bytes() for path in (folder / "drops").iterdir()} for folder in folders)
    assert first == again and not first.keys() & other.keys()


def test_without_stores_the_reader_is_told_how_to_start_them(persona: Command) -> None:
    done = persona("materialize", "--json", MONGODB_URI="mongodb://127.0.0.1:1/", PERSONA_STORE_TIMEOUT_SECONDS="1")
    assert (done.code, done.error["code"]) == (1, "store_unavailable")
    assert "mongodb" in done.error["message"] and "persona doctor" in done.error["hint"]


def test_doctor_says_what_to_do_about_what_is_amiss(persona: Command) -> None:
    done = persona("doctor", "--json", MILVUS_URI="http://127.0.0.1:1", PERSONA_STORE_TIMEOUT_SECONDS="1")
    assert (done.code, done.json["ok"]) == (1, False)
    amiss = [finding for finding in done.json["findings"] if not finding["ok"]]
    assert [finding["what"] for finding in amiss] == ["milvus"] and amiss[0]["hint"]


@pytest.mark.slow
def test_rebuild_says_what_it_did_and_ends_with_a_materialized_graph_where_texts_are_encoded_anew(persona: Command) -> None:
    put_drop(persona.settings.drops, "a.jsonl", [said("u_1", "hello", campaign_id="c_1")])
    assert persona("materialize", "--json").code == 0
    for asset, records in (("milvus_collection", 2), ("neo4j_graph", 2), ("engagement_metrics", 1), ("intents", 2)):
        done = persona("rebuild", asset, "--json")
        assert done.code == 0, done.err
        assert {name: done.json[name] for name in ("asset", "users", "removed")} == {"asset": asset, "users": 1, "removed": 0}
        assert done.json["records"] == records
    done = persona("rebuild", "embeddings", "--json")
    assert done.code == 0, done.err
    assert {stage["stage"]: stage["records"] for stage in done.json["stages"]}["embeddings"] == 1
    assert done.json["status"] == "success"
