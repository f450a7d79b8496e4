"""Catalogs are loaded whole or not at all, and the ledger says what became of each file."""

import json
from pathlib import Path
from typing import Any

import pytest

from persona.errors import InvalidInput
from persona.intake.catalogs import load_catalog, load_folder, read_catalog, unseen_catalogs
from persona.pipeline.draining import Pipeline
from persona.schemas import Customer
from tests.intake.conftest import take_in

CAMPAIGNS = [
    {"campaign_id": "c_1", "name": "Sale", "starts_at": "2025-01-01", "frequency_cap": {"count": 2, "days": 7}},
    {"campaign_id": 2, "status": "draft"},
]
INTENTS = [{"intent": "refund", "examples": ["I want my money back"]}]
USERS = [{"user_id": 7, "consent": {"email": True}, "segments": ["vip"]}, {"user_id": "u_2", "suppressed": True}]


def put(pipeline: Pipeline, name: str, content: Any) -> Path:
    path = pipeline.settings.catalog / name
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def waiting(pipeline: Pipeline) -> dict[str, set[str]]:
    entries = {sink: pipeline.documents.ledger.pending(sink, upstream=()) for sink in ("embeddings", "intents", "neo4j_graph")}
    return {sink: {entry.catalog or "" for entry in found} for sink, found in entries.items()}


def test_three_catalogs_by_the_key_of_their_entries(pipeline: Pipeline) -> None:
    put(pipeline, "one.json", CAMPAIGNS)
    put(pipeline, "two.json", b"\xef\xbb\xbf" + json.dumps(INTENTS).encode())
    put(pipeline, "three.json", USERS)
    put(pipeline, "notes.txt", b"not a catalog")
    assert unseen_catalogs(pipeline)
    outcome = load_folder(pipeline, run_id="r1")
    assert outcome.records == 5
    assert {entry.catalog: entry.state for entry in outcome.entries} == dict.fromkeys(("campaigns", "intents", "users"), "loaded")
    catalog = pipeline.documents.catalog
    assert [campaign.campaign_id for campaign in catalog.campaigns()] == ["2", "c_1"]
    assert [intent.intent for intent in catalog.intents()] == ["refund"]
    assert catalog.customer("7") == Customer(user_id="7", consent={"email": True}, segments=["vip"])
    assert catalog.customer("nobody") is None
    assert waiting(pipeline) == {
        "embeddings": {"campaigns", "intents"}, "intents": {"campaigns", "intents"}, "neo4j_graph": {"campaigns", "intents"},
    }  # fmt: skip
    assert not unseen_catalogs(pipeline)
    assert load_folder(pipeline, run_id="r2").entries == []


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"{}", b"[1]", b"null", b'[{"name": "x"}]', b"\xff\xfe[\x00", [*CAMPAIGNS, {"campaign_id": ""}],
        [*CAMPAIGNS, {"name": "no id"}], [{"campaign_id": "c", "status": "unheard of"}], [*CAMPAIGNS, *USERS],
        [{"campaign_id": "c", "frequency_cap": {"count": 0, "days": 1}}], [{"user_id": "u", "consent": "perhaps"}],
        [{"campaign_id": "c", "starts_at": "tomorrow"}], [{"user_id": "x" * 257}],
    ],
)  # fmt: skip
def test_of_a_catalog_that_does_not_validate_nothing_is_loaded(pipeline: Pipeline, content: Any) -> None:
    put(pipeline, "bad.json", content)
    put(pipeline, "good.json", INTENTS)
    outcome = load_folder(pipeline, run_id="r1")
    catalog, ledger = pipeline.documents.catalog, pipeline.documents.ledger
    assert catalog.campaigns() == [] and catalog.customer("u") is None
    assert [entry.name for entry in outcome.entries] == ["good.json"]
    [refused] = ledger.all_of("catalog", states=["refused"])
    assert refused.name == "bad.json" and refused.detail and "bad.json" in refused.detail
    assert not unseen_catalogs(pipeline)
    assert catalog.version() == 1


def test_a_refusal_names_the_entries_at_fault_and_repeats_nothing_of_theirs(pipeline: Pipeline) -> None:
    content = json.dumps([{"user_id": "u", "consent": "my secret"}]).encode()
    with pytest.raises(InvalidInput, match=r"entry 0\.consent") as raised:
        read_catalog(content, name="users.json")
    assert "my secret" not in str(raised.value)


def test_what_was_in_force_stays_when_its_successor_is_refused(pipeline: Pipeline) -> None:
    file = put(pipeline, "campaigns.json", CAMPAIGNS)
    with pipeline.lease("r1", "catalogs") as lease:
        assert load_catalog(pipeline.documents, file, lease, run_id="r1") == ("campaigns", 2)
        file.write_text("[{}]")
        with pytest.raises(InvalidInput):
            load_catalog(pipeline.documents, file, lease, run_id="r2")
    assert len(pipeline.documents.catalog.campaigns()) == 2


def test_every_loading_moves_the_version_and_waits_for_the_sinks_again(pipeline: Pipeline) -> None:
    catalog, ledger = pipeline.documents.catalog, pipeline.documents.ledger
    assert catalog.version() == 0
    file = put(pipeline, "campaigns.json", CAMPAIGNS)
    versions, fingerprints = [], []
    for run_id in ("r1", "r2"):
        with pipeline.lease(run_id, "catalogs") as lease:
            load_catalog(pipeline.documents, file, lease, run_id=run_id)
        versions.append(catalog.version())
        fingerprints.append(ledger.fingerprint("catalogs"))
        [entry] = ledger.pending("embeddings", upstream=())
        pipeline.drain("embeddings", lambda batch: None, run_id=run_id)
        assert ledger.pending("embeddings", upstream=()) == []
        assert entry.counts.accepted == 2
    assert versions == [1, 2] and len(set(fingerprints)) == 2


def test_a_campaign_that_a_drop_named_exists_and_its_catalog_entry_is_never_overwritten(pipeline: Pipeline) -> None:
    catalog = pipeline.documents.catalog
    assert catalog.discover_campaigns(["c_1", "c_9"]) == 2
    put(pipeline, "campaigns.json", CAMPAIGNS)
    load_folder(pipeline, run_id="r")
    version = catalog.version()
    assert catalog.discover_campaigns(["c_1", "c_9"]) == 0
    assert catalog.version() == version
    assert {campaign.campaign_id: campaign.name for campaign in catalog.campaigns()} == {"c_1": "Sale", "c_9": "c_9", "2": ""}
    assert [campaign.name for campaign in catalog.campaigns_by_id(["c_1", "nowhere"])] == ["Sale"]


def test_a_file_that_is_both_a_drop_and_a_catalog_has_two_entries_of_the_ledger(pipeline: Pipeline) -> None:
    put(pipeline, "users.json", USERS)
    (pipeline.settings.drops / "users.json").write_text(json.dumps(USERS))
    [dropped] = take_in(pipeline).entries
    [loaded] = load_folder(pipeline, run_id="r1").entries
    with pipeline.lease("r2", "catalog") as lease:
        load_catalog(pipeline.documents, pipeline.settings.catalog / "users.json", lease, run_id="r2")
    ledger = pipeline.documents.ledger
    assert [(entry.kind, entry.state) for entry in ledger.get([dropped.id, loaded.id])] == [
        ("drop", "held"),
        ("catalog", "loaded"),
    ]
    assert [past.what for past in ledger.history(loaded.id)] == ["loaded", "loaded"] and len(ledger.ids("catalog")) == 1
    put(pipeline, "bad.json", b"[1]")
    (pipeline.settings.drops / "bad.json").write_bytes(b"[1]")
    load_folder(pipeline, run_id="r3")
    assert [(entry.name, entry.state) for entry in take_in(pipeline).entries] == [("bad.json", "held")]
    assert {entry.state for entry in ledger.get(ledger.ids("catalog"))} == {"loaded", "refused"}
