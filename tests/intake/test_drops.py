"""The way of a drop into the truth, on a real MongoDB: every record is accounted for, whatever happens on the way."""

import hashlib
import json
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymongo.client_session import ClientSession

from persona.errors import LeaseLost, NotFound, StoreUnavailable
from persona.intake import drops
from persona.intake import records as validation
from persona.intake.drops import take_in_all
from persona.intake.parse import DropFault, RawRecord
from persona.pipeline import draining
from persona.pipeline.draining import Pipeline
from persona.pipeline.stages import DROP_SINKS
from persona.schemas import Reason
from persona.stores.documents.ledger import Counts, Entry
from persona.stores.documents.records import Inserted
from tests.intake.conftest import counts, drop, ledger, message, stored, take_in


def test_a_drop_is_claimed_judged_and_written(pipeline: Pipeline) -> None:
    source = drop(
        pipeline,
        "a.jsonl",
        [message(1, campaign_id="c_1"), "{broken", message(2, campaign_id="c_2"), message(1, campaign_id="c_1")],
    )
    outcome = take_in(pipeline)
    source.unlink()
    [entry] = outcome.entries
    assert (entry.state, entry.name, outcome.records) == ("accepted", "a.jsonl", 2)
    assert counts(entry) == (4, 2, 1, 1, 0)
    assert entry.counts.balanced
    assert (pipeline.settings.claimed_drops / entry.id).stat().st_size == entry.size
    assert [campaign.campaign_id for campaign in pipeline.documents.catalog.campaigns()] == ["c_1", "c_2"]
    [rejected] = pipeline.documents.quarantine.of_drop(entry.id)
    assert (rejected.line, rejected.raw, rejected.reason) == (2, b"{broken", Reason.INVALID_JSON)
    assert [entry.id for entry in pipeline.documents.ledger.pending("embeddings", upstream=())] == [entry.id]
    assert take_in(pipeline).entries == []


def test_whatever_json_allows_in_attributes_comes_back_from_the_server(pipeline: Pipeline) -> None:
    extra = {
        "$set": {"$inc": 1, "a.b": {"$ref": "x"}},
        "": {"": [[], {}, None]},
        "a.b": 1,
        "_id": 7,
        "n": 2**63,
        "deep": _nested(63),
    }
    drop(pipeline, "a.jsonl", [message(1, **extra), message(2, message="\x00 and \U0001f600", user_id="\U0001f600" * 256)])
    [entry] = take_in(pipeline).entries
    assert counts(entry) == (2, 2, 0, 0, 0)
    [record] = [record for record in stored(pipeline.documents).values() if "attributes" in record]
    assert record["attributes"] == {**extra, "n": str(2**63)}


def _nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"d": value}
    return value


items = st.one_of(
    st.tuples(st.sampled_from([None, "m1", "m2", "m3"]), st.integers(0, 2)),
    st.sampled_from(["{", "[]", '{"user_id": "u"}']),
)
generated_drops = st.lists(st.lists(items, min_size=1, max_size=8), min_size=1, max_size=4)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(generated=generated_drops, batch=st.integers(1, 5), in_memory=st.sampled_from([0, 3, 100]))
def test_counts_balance_and_say_what_became_of_every_record(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, generated: list[list[Any]], batch: int, in_memory: int
) -> None:
    pipeline = replace(pipeline, settings=pipeline.settings.model_copy(update={"reject_share": 1.0}))
    documents = pipeline.documents
    monkeypatch.setattr(drops, "BATCH", batch)
    monkeypatch.setattr(drops, "KEPT_RECORDS", in_memory)
    example = uuid.uuid4().hex[:8]
    before = len(stored(documents))
    first: dict[str, int] = {}
    entries: list[Entry] = []
    for number, lines in enumerate(generated):
        expected = {"read": len(lines) + 1, "accepted": 0, "duplicate": 0, "quarantined": 1, "erased": 0}
        records: list[Any] = [example, " " * number]  # no two drops have the same content
        for line in lines:
            if isinstance(line, str):
                records.append(line)
                expected["quarantined"] += 1
                continue
            given_id, text = line
            key = f"{example}-{given_id or f'derived {text}'}"
            records.append(message(text, user_id=example, **({"message_id": key} if given_id else {})))
            if key not in first:
                first[key] = text
                expected["accepted"] += 1
            else:
                expected["duplicate" if first[key] == text else "quarantined"] += 1
        drop(pipeline, f"{example}-{number}.jsonl", records)
        [entry] = take_in(pipeline).entries
        entries.append(entry)
        assert entry.counts.as_dict() == expected
        assert entry.counts.balanced
        assert documents.records.count([entry.id]) == entry.counts.accepted
        assert documents.quarantine.count([entry.id]) == entry.counts.quarantined
    assert len(stored(documents)) - before == len(first)
    again = take_in(pipeline, drops=[entry.id for entry in entries], reapply=True).entries
    assert {entry.id: entry.counts for entry in again} == {entry.id: entry.counts for entry in entries}
    assert len(stored(documents)) - before == len(first)


def test_any_order_of_the_same_drops_gives_the_same_records(new_pipeline: Callable[[], Pipeline]) -> None:
    batches = [[message(n) for n in range(6)], [message(n) for n in range(4, 9)], [message(8), "{", message(0)], [message(3)]]
    found = []
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]):
        pipeline = new_pipeline()
        for number in order:
            drop(pipeline, f"{number}.jsonl", batches[number])
            take_in(pipeline)
        accepted = stored(pipeline.documents)
        found.append({key: record["digest"] for key, record in accepted.items()})
        total = sum(entry.counts.accepted for entry in ledger(pipeline).values())
        assert total == len(accepted) == 9
    assert found[0] == found[1] == found[2]


def test_of_two_records_with_one_id_the_first_accepted_wins_and_the_other_is_kept_with_its_reason(pipeline: Pipeline) -> None:
    drop(pipeline, "a.jsonl", [message(1, message_id="m")])
    take_in(pipeline)
    drop(pipeline, "b.jsonl", [message(2, message_id="m", x={"y": 1}), message(1, message_id="m"), message(3), message(4)])
    [entry] = take_in(pipeline).entries
    assert counts(entry) == (4, 2, 1, 1, 0)
    [rejected] = pipeline.documents.quarantine.of_drop(entry.id)
    assert (rejected.reason, rejected.line) == (Reason.ID_CONFLICT, 1)
    kept = json.loads(rejected.raw)
    assert (kept["message_id"], kept["message"]) == ("m", "message 2")
    assert stored(pipeline.documents)["m"]["message"] == "message 1"
    assert "message 1" not in rejected.detail and "message 2" not in rejected.detail


@pytest.mark.parametrize("fault", [RuntimeError("power cut"), StoreUnavailable("mongodb", "gone")])
@pytest.mark.parametrize("calls", [0, 1, 2])
def test_a_crash_half_way_and_another_run_end_like_an_undisturbed_one(
    new_pipeline: Callable[[], Pipeline], monkeypatch: pytest.MonkeyPatch, fault: Exception, calls: int
) -> None:
    monkeypatch.setattr(drops, "BATCH", 3)
    records = [message(number % 7, campaign_id=f"c_{number % 2}") for number in range(9)]
    records += ["{", message(1, message_id="m"), message(2, message_id="m"), {"user_id": "u"}]
    undisturbed, disturbed = new_pipeline(), new_pipeline()
    drop(undisturbed, "a.jsonl", records)
    drop(disturbed, "a.jsonl", records)
    take_in(undisturbed)

    insert, countdown = disturbed.documents.records.insert, iter(range(calls))

    def failing(batch: Sequence[dict[str, Any]], *, session: ClientSession) -> Inserted:
        if next(countdown, None) is None:
            insert(batch[:1], session=session)
            raise fault
        return insert(batch, session=session)

    with monkeypatch.context() as patch:
        patch.setattr(disturbed.documents.records, "insert", failing)
        with pytest.raises(type(fault)):
            take_in(disturbed)
    assert [entry.state for entry in ledger(disturbed).values()] == ["claimed"]
    assert disturbed.documents.ledger.waiting(["embeddings"]) == 1
    take_in(disturbed)

    ours, theirs = ledger(disturbed)["a.jsonl"], ledger(undisturbed)["a.jsonl"]
    assert (ours.state, ours.counts, ours.attempts) == (theirs.state, theirs.counts, 0)
    assert stored(disturbed.documents) == stored(undisturbed.documents)
    assert disturbed.documents.quarantine.of_drop(ours.id) == undisturbed.documents.quarantine.of_drop(ours.id)


def test_a_held_drop_leaves_no_record_and_claims_no_id(pipeline: Pipeline) -> None:
    drop(pipeline, "bad.jsonl", [message(1, message_id="m", campaign_id="c"), "{", "{", {"user_id": "u"}])
    [held] = take_in(pipeline).entries
    assert (held.state, held.reason) == ("held", Reason.INVALID_JSON)
    assert counts(held) == (4, 0, 0, 4, 0) and held.counts.balanced
    assert [rejected.line for rejected in pipeline.documents.quarantine.of_drop(held.id)] == [2, 3, 4]
    assert stored(pipeline.documents) == {} and pipeline.documents.catalog.campaigns() == []
    assert pipeline.documents.ledger.waiting(DROP_SINKS) == 0
    drop(pipeline, "good.jsonl", [message(2, message_id="m")])
    [entry] = take_in(pipeline).entries
    assert counts(entry) == (1, 1, 0, 0, 0)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.csv", b"user_id,message", Reason.UNSUPPORTED_FILE),
        ("a.json", b"", Reason.EMPTY_FILE),
        ("a.json", b"[" + json.dumps(message(1)).encode() + b", ", Reason.INVALID_JSON),
        ("a.json.gz", b"\x1f\x8b\x08\x00", Reason.TRUNCATED_GZIP),
        ("a.json", json.dumps(message(1)).encode("utf-16"), Reason.INVALID_ENCODING),
    ],
)
def test_a_file_that_cannot_be_read_is_held_with_the_reason(
    pipeline: Pipeline, name: str, content: bytes, reason: Reason
) -> None:
    (pipeline.settings.drops / name).write_bytes(content)
    [held] = take_in(pipeline).entries
    assert (held.state, held.reason, counts(held)) == ("held", reason, (0, 0, 0, 0, 0))
    assert stored(pipeline.documents) == {}


def test_an_empty_array_is_a_drop_of_nothing(pipeline: Pipeline) -> None:
    (pipeline.settings.drops / "a.json").write_bytes(b"[]")
    [entry] = take_in(pipeline).entries
    assert (entry.state, counts(entry)) == ("accepted", (0, 0, 0, 0, 0))


def test_a_held_drop_that_comes_under_a_better_name_is_read_again(pipeline: Pipeline) -> None:
    source = drop(pipeline, "a.txt", [message(1), message(2)])
    assert take_in(pipeline).entries[0].reason == Reason.UNSUPPORTED_FILE
    source = source.rename(source.with_suffix(".json"))
    assert take_in(pipeline).entries[0].reason == Reason.INVALID_JSON
    source.rename(source.with_suffix(".jsonl"))
    [entry] = take_in(pipeline).entries
    assert (entry.state, entry.name, counts(entry)) == ("accepted", "a.jsonl", (2, 2, 0, 0, 0))
    assert take_in(pipeline).entries == []


def test_the_same_content_under_two_names_is_one_drop(pipeline: Pipeline) -> None:
    drop(pipeline, "a.jsonl", [message(1)])
    drop(pipeline, "b.jsonl", [message(1)])
    assert len(take_in(pipeline).entries) == 1
    drop(pipeline, "c.jsonl", [message(1)])
    assert take_in(pipeline).entries == []
    assert list(ledger(pipeline)) == ["a.jsonl"]


def test_three_crashes_hold_a_drop_and_its_neighbours_go_on(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    drop(pipeline, "1-poison.jsonl", [message(1, user_id="poison")])
    drop(pipeline, "2-good.jsonl", [message(2)])
    insert = pipeline.documents.records.insert

    def failing(batch: Sequence[dict[str, Any]], *, session: ClientSession) -> Inserted:
        if batch[0]["user_id"] == "poison":
            raise RuntimeError("out of memory")
        return insert(batch, session=session)

    monkeypatch.setattr(pipeline.documents.records, "insert", failing)
    for _ in range(3):
        with pytest.raises(RuntimeError):
            take_in(pipeline)
    take_in(pipeline)
    held, good = ledger(pipeline)["1-poison.jsonl"], ledger(pipeline)["2-good.jsonl"]
    assert (held.state, held.reason) == ("held", Reason.CRASHED_RUN)
    assert (good.state, counts(good)) == ("accepted", (1, 1, 0, 0, 0))
    monkeypatch.undo()
    [released] = take_in(pipeline, drops=[held.id], reapply=True).entries
    assert (released.state, counts(released)) == ("accepted", (1, 1, 0, 0, 0))


def test_a_store_that_is_down_is_not_the_drops_fault(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    drop(pipeline, "a.jsonl", [message(1)])

    def down(batch: Sequence[dict[str, Any]], *, session: ClientSession) -> Inserted:
        raise StoreUnavailable("mongodb", "down")

    with monkeypatch.context() as patch:
        patch.setattr(pipeline.documents.records, "insert", down)
        for _ in range(5):
            with pytest.raises(StoreUnavailable):
                take_in(pipeline)
    assert [entry.state for entry in take_in(pipeline).entries] == ["accepted"]


def test_only_named_drops_are_taken_in(pipeline: Pipeline) -> None:
    drop(pipeline, "a.jsonl", [message(1)])
    b = drop(pipeline, "b.jsonl", [message(2)])
    sha256 = hashlib.sha256(b.read_bytes()).hexdigest()
    assert [entry.name for entry in take_in(pipeline, drops=[sha256]).entries] == ["b.jsonl"]
    assert ledger(pipeline)["a.jsonl"].state == "claimed"
    for reapply in (False, True):
        with pytest.raises(NotFound, match="f" * 64):
            take_in(pipeline, drops=[sha256, "f" * 64], reapply=reapply)
    assert ledger(pipeline)["b.jsonl"].state == "accepted"


def test_what_was_kept_out_is_forgotten_when_the_drop_is_read_again_and_it_validates(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop(pipeline, "a.jsonl", [message(1), message(2, timestamp="9998-01-01")])
    [early] = take_in(pipeline).entries
    assert (counts(early), pipeline.documents.quarantine.count([early.id])) == ((2, 1, 0, 1, 0), 1)
    monkeypatch.setattr(validation, "FUTURE_TOLERANCE", timedelta.max)
    [late] = take_in(pipeline, drops=[early.id], reapply=True).entries
    assert (counts(late), pipeline.documents.quarantine.count([early.id])) == ((2, 2, 0, 0, 0), 0)


def test_the_run_history_tells_of_success_and_of_failure_without_a_persons_words(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop(pipeline, "a.jsonl", [message(1, message="my secret")])

    def failing(batch: Sequence[dict[str, Any]], *, session: ClientSession) -> Inserted:
        raise RuntimeError(batch[0]["message"])

    with monkeypatch.context() as patch:
        patch.setattr(pipeline.documents.records, "insert", failing)
        with pytest.raises(RuntimeError):
            take_in_all(pipeline, run_id="bad")
    take_in_all(pipeline, run_id="good")
    [bad], [good] = pipeline.warehouse.stages("bad"), pipeline.warehouse.stages("good")
    assert (bad.status, bad.error) == ("failed", "RuntimeError")
    assert (good.stage, good.status, good.records, good.error) == ("raw_conversations", "success", 1, None)


# -- erased people ------------------------------------------------------------------------------------------------------


def test_what_an_erased_person_did_before_is_refused_and_what_comes_later_is_welcome(pipeline: Pipeline) -> None:
    documents = pipeline.documents
    documents.tombstones.place("u_1", at=datetime.fromtimestamp(1_700_000_010, UTC))
    drop(
        pipeline,
        "a.jsonl",
        [
            message(10, user_id=" u_1 "),
            message(11, user_id="u_1"),
            message(12, user_id="u_2"),
            {"user_id": "u_1 ", "message": "no time"},
            '{"user_id": "\\u0075_1", "message": "broken',
            '{"user_id": "u_2", "message": "broken too',
        ],
    )
    [entry] = take_in(pipeline).entries
    assert counts(entry) == (6, 2, 0, 1, 3) and entry.counts.balanced
    assert {record["message"] for record in stored(documents).values()} == {"message 11", "message 12"}
    assert [rejected.line for rejected in documents.quarantine.of_drop(entry.id)] == [6]


def test_our_copy_keeps_nothing_of_the_erased_and_is_known_by_both_hashes(pipeline: Pipeline) -> None:
    documents = pipeline.documents
    documents.tombstones.place("u_1", at=datetime.now(UTC))
    source = drop(pipeline, "a.jsonl", [message(1, message="secret"), message(2), {"user_id": "u_1", "message": "secret"}])
    [entry] = take_in(pipeline).entries
    copy = (pipeline.settings.claimed_drops / entry.id).read_bytes()
    assert copy.splitlines()[::2] == [b'{"persona":"erased"}'] * 2 and b"secret" not in copy
    [again] = take_in(pipeline, drops=[entry.id], reapply=True).entries
    assert counts(again) == counts(entry) == (3, 1, 0, 0, 2)

    drop(pipeline, "again.jsonl", source.read_text().splitlines())  # neither what first arrived …
    (pipeline.settings.drops / "rewritten.jsonl").write_bytes(copy)  # … nor what became of it is another drop
    assert take_in(pipeline).entries == []
    assert [path.name for path in pipeline.settings.claimed_drops.iterdir()] == [entry.id]
    assert (pipeline.settings.claimed_drops / entry.id).read_bytes() == copy


def test_the_erased_do_not_make_a_drop_bad_and_are_not_kept_when_it_is(pipeline: Pipeline) -> None:
    documents = pipeline.documents
    documents.tombstones.place("u_1", at=datetime.now(UTC))
    drop(pipeline, "good.jsonl", [message(2), *[{"user_id": "u_1", "n": number} for number in range(9)]])
    [entry] = take_in(pipeline).entries
    assert (entry.state, counts(entry)) == ("accepted", (10, 1, 0, 0, 9))
    drop(pipeline, "bad.jsonl", [message(1), message(3), "{", "{x", {"user_id": "u_1"}])
    [held] = take_in(pipeline).entries
    assert (held.state, counts(held)) == ("held", (5, 0, 0, 3, 2))
    assert [rejected.line for rejected in documents.quarantine.of_drop(held.id)] == [3, 4]
    assert b"u_1" not in (pipeline.settings.claimed_drops / held.id).read_bytes()


# -- what was accepted stays accepted -----------------------------------------------------------------------------------


def test_an_accepted_drop_that_validates_no_more_keeps_its_records_and_its_counts(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop(pipeline, "a.jsonl", [message(1), message(2), message(1), "{"])
    [before] = take_in(pipeline).entries
    monkeypatch.setattr(validation, "MAX_MESSAGE", 0)
    monkeypatch.setattr(validation, "FUTURE_TOLERANCE", timedelta(days=-30_000))
    [after] = take_in(pipeline, drops=[before.id], reapply=True).entries
    assert (after.state, counts(before)) == ("accepted", (4, 2, 1, 1, 0))
    assert counts(after) == (4, 2, 0, 2, 0)  # the copy of line 1 was stored nowhere: it is judged by what holds now
    assert pipeline.documents.records.count([after.id]) == 2
    assert pipeline.documents.ledger.pending("embeddings", upstream=())[0].id == after.id


def test_an_accepted_drop_that_cannot_be_read_again_stays_as_it_was(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    drop(pipeline, "a.jsonl", [message(1), "{", message(1)])
    [before] = take_in(pipeline).entries

    def unreadable(path: Path, name: str) -> Iterator[RawRecord]:
        raise DropFault(Reason.TRUNCATED_GZIP, "cut off")

    with monkeypatch.context() as patch:
        patch.setattr(drops, "raw_records", unreadable)
        [after] = take_in(pipeline, drops=[before.id], reapply=True).entries
    assert (after.state, after.counts) == ("accepted", before.counts)
    assert "truncated_gzip" in pipeline.documents.ledger.history(after.id)[-1].what

    def killing(path: Path, name: str) -> Iterator[RawRecord]:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(drops, "raw_records", killing)
        for _ in range(3):
            with pytest.raises(RuntimeError):
                take_in(pipeline, drops=[before.id], reapply=after.state == "accepted")
            [after] = pipeline.documents.ledger.get([before.id])
        [after] = take_in(pipeline).entries
    assert (after.state, after.counts) == ("accepted", before.counts)
    (pipeline.settings.claimed_drops / before.id).unlink()
    take_in(pipeline, drops=[before.id], reapply=True)
    assert pipeline.documents.ledger.get([before.id])[0].state == "accepted"


def test_a_drop_whose_copy_and_file_are_lost_is_held_and_comes_in_when_it_is_handed_in_again(pipeline: Pipeline) -> None:
    drop(pipeline, "a.jsonl", [message(1)])
    drops.claim_settled(pipeline, run_id="r0")
    [claimed] = pipeline.documents.ledger.claimed()
    (pipeline.settings.claimed_drops / claimed.id).unlink()
    (pipeline.settings.drops / "a.jsonl").unlink()
    take_in(pipeline)
    take_in(pipeline)
    [held] = pipeline.documents.ledger.get([claimed.id])
    assert (held.state, held.reason) == ("held", "crashed_run")
    assert held.detail
    assert "hand it in again" in held.detail
    drop(pipeline, "a.jsonl", [message(1)])
    take_in(pipeline)
    assert pipeline.documents.ledger.get([claimed.id])[0].state == "accepted"


def test_a_drop_that_is_held_after_a_crash_half_way_leaves_no_record(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drops, "BATCH", 1)
    drop(pipeline, "a.jsonl", [message(1), message(2), {**message(3), "x": 1}])
    written = drops._batch_written

    def crashing(
        intake: drops.Intake, entry: Entry, batch: list[drops.Item], stored: set[int], before: Counts, session: ClientSession
    ) -> Counts:
        if before.read:
            raise RuntimeError("power cut")
        return written(intake, entry, batch, stored, before, session)

    with monkeypatch.context() as patch:
        patch.setattr(drops, "_batch_written", crashing)
        with pytest.raises(RuntimeError):
            take_in(pipeline)
    assert len(stored(pipeline.documents)) == 1
    monkeypatch.setattr(validation, "FUTURE_TOLERANCE", timedelta(days=-30_000))
    [held] = take_in(pipeline).entries
    assert (held.state, held.reason, stored(pipeline.documents)) == ("held", Reason.TIME_IN_FUTURE, {})


def crash_half_way(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, name: str, lines: Sequence[Any], fault: Exception
) -> None:
    """Take in a new drop and end after its first batch."""
    drop(pipeline, name, lines)
    written, entry = drops._batch_written, hashlib.sha256((pipeline.settings.drops / name).read_bytes()).hexdigest()

    def crashing(
        intake: drops.Intake, ours: Entry, batch: list[drops.Item], stored: set[int], before: Counts, session: ClientSession
    ) -> Counts:
        if ours.id == entry and before.read:
            raise fault
        return written(intake, ours, batch, stored, before, session)

    with monkeypatch.context() as patch:
        patch.setattr(drops, "BATCH", 2)
        patch.setattr(drops, "_batch_written", crashing)
        with pytest.raises(type(fault)):
            take_in(pipeline)


@pytest.mark.parametrize("fault", [RuntimeError("power cut"), StoreUnavailable("mongodb", "gone")])
def test_nothing_is_computed_from_what_a_crash_left_half_written(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    drop(pipeline, "a.jsonl", [message(7)])
    take_in(pipeline)
    half = [message(number, user_id=f"u_{number}") for number in range(5)]
    crash_half_way(pipeline, monkeypatch, "b.jsonl", half, fault)
    assert len(stored(pipeline.documents)) == 3
    monkeypatch.setattr(draining, "REMOVED_AT_ONCE", 1)
    seen: list[set[str]] = []
    pipeline.drain("embeddings", lambda batch: seen.append(set(stored(batch.documents))), run_id="r")
    assert [len(records) for records in seen] == [1]
    take_in(pipeline)
    assert counts(ledger(pipeline)["b.jsonl"]) == (5, 5, 0, 0, 0)
    pipeline.drain("embeddings", lambda batch: None, run_id="r")
    assert len(stored(pipeline.documents)) == 6  # an accepted drop is no crashed one


def test_a_record_whose_first_copy_never_came_in_whole_is_no_duplicate(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [message(1), message(2, message_id="m"), message(3), message(4)]
    drop(pipeline, "held.jsonl", [lines[0], *"{{{{"])
    [held] = take_in(pipeline).entries
    drop(pipeline, "other.txt", [message(9, message_id="m"), lines[2]])
    [other] = take_in(pipeline).entries
    crash_half_way(pipeline, monkeypatch, "mended.jsonl", lines, RuntimeError("out of memory"))
    pipeline.documents.ledger.read_again([held.id], what="released", run_id="r", released=True)
    drop(pipeline, "other.jsonl", [message(9, message_id="m"), lines[2]])
    take_in(pipeline, drops=[held.id, other.id])
    assert [counts(entry) for entry in pipeline.documents.ledger.get([held.id, other.id])] == [(5, 1, 0, 4, 0), (2, 2, 0, 0, 0)]
    [mended] = take_in(pipeline).entries
    assert counts(mended) == (4, 1, 2, 1, 0)
    [rejected] = pipeline.documents.quarantine.of_drop(mended.id)
    assert f"drop {other.id[:12]}, line 1" in rejected.detail


def test_an_outage_of_mongodb_is_not_held_against_the_drop_however_long_it_lasts(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop(pipeline, "a.jsonl", [message(1)])
    down = StoreUnavailable("mongodb", "the first error")
    end_attempt, left = pipeline.documents.ledger.end_attempt, iter(())

    def away(*_: Any, **__: Any) -> Any:
        raise down

    def back_soon(entry: str) -> None:
        if next(left, None):
            raise StoreUnavailable("mongodb", "still away")
        end_attempt(entry)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline.documents.records, "insert", away)
        patch.setattr(pipeline.documents.ledger, "end_attempt", back_soon)
        for _ in range(4):
            left = iter([True, True])
            with pytest.raises(StoreUnavailable, match="the first error"):
                take_in(pipeline)
        patch.setattr(drops, "PATIENCE_SECONDS", 0.2)
        left = iter([True] * 1_000)
        with pytest.raises(StoreUnavailable, match="the first error"):
            take_in(pipeline)
    assert take_in(pipeline).entries[0].state == "accepted"


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_no_transaction_is_as_large_as_the_quarantine_of_a_drop(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    quarantine = pipeline.documents.quarantine
    pipeline = replace(pipeline, settings=pipeline.settings.model_copy(update={"reject_share": share}))
    drop(pipeline, "a.jsonl", ["{", *[message(number, timestamp="9998-01-01") for number in range(12)], "{x"])
    [before] = take_in(pipeline, drops=[]).entries
    assert quarantine.count([before.id]) == 14
    quarantine.settle(before.id, how="discarded", run_id="r", line=14)
    monkeypatch.setattr(validation, "FUTURE_TOLERANCE", timedelta.max)
    monkeypatch.setattr(drops, "BATCH", 3)
    removed: list[int] = []
    remove = quarantine.remove

    def watched(drop: str, lines: Any, *, session: ClientSession) -> int:
        assert session.in_transaction
        removed.append(remove(drop, lines, session=session))
        return removed[-1]

    monkeypatch.setattr(quarantine, "remove", watched)
    [after] = take_in(pipeline, drops=[before.id], reapply=True).entries
    assert after.state == ("accepted" if share else "held")
    assert [line.line for line in quarantine.of_drop(before.id)] == [1, 14]
    assert sum(removed) == 12 and max(removed) <= 3
    assert [line.settled is not None for line in quarantine.of_drop(before.id)] == [False, True]


def test_an_erasure_leaves_other_peoples_lines_alone(pipeline: Pipeline) -> None:
    documents = pipeline.documents
    for user in ("message", "click", "1", "42"):
        documents.tombstones.place(user, at=datetime.now(UTC))
    others = ['{"user_id": "u_1", "message": "cut', '{"user_id": "u_1", "event": "click", "value": 1, "n": [42,']
    theirs = ['{"user_id": "click", "message": "cut', '{"user_id": 42, "event": ']
    drop(pipeline, "a.jsonl", [*(message(number) for number in range(16)), *others, *theirs])
    [entry] = take_in(pipeline).entries
    assert counts(entry) == (20, 16, 0, 2, 2)
    assert [line.line for line in documents.quarantine.of_drop(entry.id)] == [17, 18]
    assert (pipeline.settings.claimed_drops / entry.id).read_text().splitlines()[16:18] == others


def test_a_line_of_an_erased_person_that_came_later_and_does_not_validate_can_be_mended(pipeline: Pipeline) -> None:
    documents = pipeline.documents
    documents.tombstones.place("u_1", at=datetime.fromtimestamp(1_700_000_010, UTC))
    bad = {"user_id": "u_1", "event": "no such event"}
    lines = [{**bad, "timestamp": at} for at in (1_700_000_011, 1_700_000_010, "9998-01-01", "some day")]
    drop(pipeline, "a.jsonl", [*(message(number, user_id="u_2") for number in range(16)), *lines])
    [entry] = take_in(pipeline).entries
    assert counts(entry) == (20, 16, 0, 1, 3)
    assert [line.line for line in documents.quarantine.of_drop(entry.id)] == [17]
    assert b"1700000011" in (pipeline.settings.claimed_drops / entry.id).read_bytes()


def test_a_copy_is_not_replaced_by_a_run_that_lost_the_lease_meanwhile(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = pipeline.documents
    documents.tombstones.place("u_1", at=datetime.now(UTC))
    source = drop(pipeline, "a.jsonl", [message(1, message="secret"), message(2)])
    add_alias = documents.ledger.add_alias

    def asleep(entry: str, sha256: str) -> None:
        add_alias(entry, sha256)
        documents.database["leases"].update_many({}, {"$inc": {"token": 1}})

    monkeypatch.setattr(documents.ledger, "add_alias", asleep)
    with pytest.raises(LeaseLost):
        take_in(pipeline)
    [copy] = pipeline.settings.claimed_drops.iterdir()
    assert copy.read_bytes() == source.read_bytes()


@pytest.mark.slow
def test_thousands_of_waiting_files_are_one_run(pipeline: Pipeline) -> None:
    for number in range(2_000):
        drop(pipeline, f"{number:04}.jsonl", [message(number + ahead, campaign_id="c_1") for ahead in (0, 1)])
    outcome = take_in(pipeline)
    assert (len(outcome.entries), outcome.records) == (2_000, 4_000 - 1_999)
    assert {entry.state for entry in outcome.entries} == {"accepted"} and all(entry.counts.balanced for entry in outcome.entries)
    assert len(pipeline.documents.ledger.pending("embeddings", upstream=())) == 2_000
