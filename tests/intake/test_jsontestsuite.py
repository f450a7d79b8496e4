"""Every file of JSONTestSuite as a drop: what no parser may accept is held with the reason, what every parser must accept is read."""

import hashlib
import os
import zipfile
from pathlib import Path

import pytest

from persona.pipeline.draining import Pipeline
from persona.stores.documents.ledger import Entry
from tests.intake.conftest import take_in

SUITE = Path(os.environ.get("PERSONA_TEST_DATA", "../shared/data")).resolve() / "jsontestsuite" / "test_parsing.zip"
NO_JSON = {"invalid_json", "invalid_encoding", "too_deep", "empty_file"}
NO_RECORD = {"not_an_object", "missing_field", "invalid_field"}

pytestmark = pytest.mark.skipif(not SUITE.is_file(), reason=f"JSONTestSuite is not at {SUITE}: set PERSONA_TEST_DATA")


def test_every_file_gets_the_right_end_in_one_run(pipeline: Pipeline) -> None:
    files: dict[str, str] = {}
    with zipfile.ZipFile(SUITE) as suite:
        for name in sorted(suite.namelist()):
            if name.endswith(".json"):
                (pipeline.settings.drops / Path(name).name).write_bytes(suite.read(name))
                files[Path(name).name] = hashlib.sha256(suite.read(name)).hexdigest()
    take_in(pipeline)
    ledger = pipeline.documents.ledger
    entries = {entry.id: entry for entry in ledger.get(ledger.ids("drop"))}
    assert len(files) > 300 and set(entries) == set(files.values())
    wrong = {name: reasons for name, drop in files.items() if (reasons := faults(pipeline, entries[drop], name))}
    assert wrong == {}
    assert all(entry.counts.balanced for entry in entries.values())


def faults(pipeline: Pipeline, entry: Entry, name: str) -> set[str]:
    """What the drop was kept out for and should not have been, or `accepted` where it should have been kept out."""
    if name.startswith("n_"):
        return {entry.reason or "accepted"} - NO_JSON
    found = {entry.reason} if entry.reason else set()
    found |= pipeline.documents.quarantine.by_drop().get(entry.id, {}).keys()
    return found - NO_RECORD if name.startswith("y_") else found - NO_RECORD - NO_JSON
