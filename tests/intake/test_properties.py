"""What holds for any drops: nothing lost, nothing doubled, whatever the order, the splitting and the repetition."""

import json
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from persona.pipeline.draining import Pipeline
from tests.intake.conftest import drop, take_in

ERASED_UNTIL = 1_700_000_005
PROVENANCE = {"drop", "line"}
MANY = settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))

users = st.sampled_from(["u_1", " u_1", "u_2", "gone", "\U0001f600", 7])
records = st.fixed_dictionaries(
    {"user_id": users, "message": st.text(min_size=1, max_size=4), "timestamp": st.integers(1_700_000_000, 1_700_000_009)},
    optional={
        "campaign_id": st.sampled_from(["c_1", "c_2"]),
        "event": st.sampled_from(["message", "click"]),
        "value": st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.integers(0, 2**70)),
        "extra": st.recursive(st.none() | st.booleans() | st.text(max_size=3), st.lists, max_leaves=3),
    },
)
broken = st.sampled_from(["{", "[]", '{"user_id": "u_1"}', '{"user_id": "gone"}', '{"user_id": "gone", "x', "\x00", "null"])
lines = st.lists(st.one_of(records.map(json.dumps), records.map(json.dumps), broken), max_size=12)


def world_of(pipeline: Pipeline) -> Pipeline:
    """The pipeline over a truth of its own in which one person was erased; no drop of it is held."""
    documents = pipeline.documents
    for name in ("records", "quarantine", "ledger", "files", "campaigns"):
        documents.database[name].delete_many({})
    shutil.rmtree(pipeline.settings.claimed_drops, ignore_errors=True)
    documents.tombstones.place("gone", at=datetime.fromtimestamp(ERASED_UNTIL, UTC))
    return replace(pipeline, settings=pipeline.settings.model_copy(update={"reject_share": 1.0}))


def put_in(pipeline: Pipeline, drops: Sequence[Sequence[str]]) -> None:
    for content in drops:
        drop(pipeline, f"{uuid.uuid4()}.jsonl", content)
        take_in(pipeline)
    for path in pipeline.settings.drops.iterdir():
        path.unlink()


def held(pipeline: Pipeline) -> dict[str, dict[str, Any]]:
    """Every record but for where it came from."""
    found = pipeline.documents.database["records"].find()
    return {record["_id"]: {name: value for name, value in record.items() if name not in PROVENANCE} for record in found}


def quarantined(pipeline: Pipeline) -> list[dict[str, Any]]:
    """Every line in quarantine, but for which run judged it and where it stands: erased records beside it are shorter."""
    return list(pipeline.documents.database["quarantine"].find({}, {"judged": 0, "offset": 0}).sort("_id"))


@MANY
@given(drops=st.lists(lines, min_size=1, max_size=4))
def test_every_line_is_accounted_for(pipeline: Pipeline, drops: list[list[str]]) -> None:
    pipeline = world_of(pipeline)
    put_in(pipeline, drops)
    documents = pipeline.documents
    entries = documents.ledger.get(documents.ledger.ids("drop"))
    distinct = {tuple(content) for content in drops if content}
    assert sum(entry.counts.read for entry in entries) == sum(map(len, distinct))
    for entry in entries:
        assert entry.counts.balanced
        assert documents.records.count([entry.id]) == entry.counts.accepted
        assert documents.quarantine.count([entry.id]) == entry.counts.quarantined
    kept = "".join(str(line["raw"]) for line in documents.database["quarantine"].find())
    assert "gone" not in kept
    for record in documents.database["records"].find({"user_id": "gone"}):
        assert record["timestamp"].timestamp() > ERASED_UNTIL


@MANY
@given(content=lines, data=st.data())
def test_any_order_and_any_splitting_of_the_same_lines_is_the_same_truth(
    pipeline: Pipeline, content: list[str], data: st.DataObject
) -> None:
    found = []
    for _ in range(3):
        order = data.draw(st.permutations(content))
        cuts = sorted(data.draw(st.lists(st.integers(0, len(content)), max_size=3)))
        drops = [order[start:end] for start, end in zip([0, *cuts], [*cuts, len(content)], strict=True)]
        fresh = world_of(pipeline)
        put_in(fresh, drops)
        found.append(held(fresh))
    assert found[0] == found[1] == found[2]


@MANY
@given(drops=st.lists(lines, min_size=1, max_size=3))
def test_applying_twice_is_applying_once(pipeline: Pipeline, drops: list[list[str]]) -> None:
    pipeline = world_of(pipeline)
    put_in(pipeline, drops)
    ledger = pipeline.documents.ledger
    before = {entry.id: (entry.state, entry.counts) for entry in ledger.get(ledger.ids("drop"))}
    truth, kept = held(pipeline), quarantined(pipeline)
    for _ in range(2):
        take_in(pipeline, drops=list(before), reapply=True)
        put_in(pipeline, drops)
    assert {entry.id: (entry.state, entry.counts) for entry in ledger.get(ledger.ids("drop"))} == before
    assert held(pipeline) == truth
    assert quarantined(pipeline) == kept
