"""What a person can do about what is kept out: every drop ends where it was sent, and the ledger tells how it came there."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest

from persona.errors import InvalidInput, NotFound
from persona.intake import drops, judge, quarantine
from persona.intake import records as validation
from persona.pipeline.draining import Pipeline
from persona.pipeline.lease import Lease
from persona.schemas import Reason
from persona.stores.documents.ledger import Entry
from tests.intake.conftest import counts, drop, ledger, message, stored, take_in


@contextmanager
def held_lease(pipeline: Pipeline) -> Iterator[Lease]:
    with pipeline.lease("mending", "quarantine") as lease:
        yield lease


def replay(pipeline: Pipeline, *entries: Entry) -> list[Entry]:
    with held_lease(pipeline) as lease:
        quarantine.replay(pipeline, entries, lease, run_id="mending")
    return take_in(pipeline).entries


def release(pipeline: Pipeline, *entries: Entry) -> list[Entry]:
    with held_lease(pipeline) as lease:
        quarantine.release(pipeline, entries, lease, run_id="mending")
    return take_in(pipeline).entries


def discard(pipeline: Pipeline, *entries: Entry, line: int | None = None) -> int:
    with held_lease(pipeline) as lease:
        return quarantine.discard(pipeline, entries, lease, line=line, run_id="mending")


def mend(pipeline: Pipeline, entry: Entry, lines: list[Any], name: str = "mended.jsonl") -> str:
    file = pipeline.settings.home / name
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    with held_lease(pipeline) as lease:
        return quarantine.replay_mended(pipeline, entry, file, lease, run_id="mending")


def put_in(pipeline: Pipeline, name: str, lines: list[Any]) -> Entry:
    drop(pipeline, name, lines)
    [entry] = take_in(pipeline).entries
    return entry


def names(pipeline: Pipeline, **options: Any) -> list[str]:
    return [row.entry.name for row in quarantine.kept_out(pipeline.documents, **options)]


def history(pipeline: Pipeline, entry: str) -> list[str]:
    return [past.what for past in pipeline.documents.ledger.history(entry)]


BAD = [message(1), "{", "{x", message(2)]
"""Half of it does not validate: accepted by a hair, or with one more line held."""


def test_the_list_tells_what_is_kept_out_why_and_what_to_do(pipeline: Pipeline) -> None:
    good, some, held = (
        put_in(pipeline, name, lines)
        for name, lines in (("good.jsonl", [message(9)]), ("some.jsonl", BAD), ("held.jsonl", [*BAD, {"user_id": "u"}]))
    )
    rows = quarantine.kept_out(pipeline.documents)
    assert [(row.entry.id, row.reasons) for row in rows] == [
        (some.id, {"invalid_json": 2}),
        (held.id, {"invalid_json": 2, "missing_field": 1}),
    ]
    assert all(row.entry.id[:12] in row.advice for row in rows)
    assert "release" in rows[1].advice and "release" not in rows[0].advice
    assert names(pipeline, reason=Reason.MISSING_FIELD) == ["held.jsonl"]
    assert names(pipeline, drop="some.jsonl") == ["some.jsonl"]
    assert names(pipeline, drop=good.id) == []


def test_a_drop_is_found_by_its_hash_its_beginning_or_its_name(pipeline: Pipeline) -> None:
    entry = put_in(pipeline, "a.jsonl", [message(1)])
    documents = pipeline.documents
    for called in (entry.id, entry.id[:6], entry.id[:12].upper(), "a.jsonl"):
        assert quarantine.find(documents, called).id == entry.id
    for called in (entry.id[:5], "b.jsonl", "", ".*", "a", f"{entry.id}0"):
        with pytest.raises(NotFound):
            quarantine.find(documents, called)
    put_in(pipeline, "a.jsonl", [message(2)])
    with pytest.raises(InvalidInput, match="2 drops"):
        quarantine.find(documents, "a.jsonl")


def test_after_a_fix_a_drop_is_judged_again_as_it_is(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    late = [message(number, timestamp="9998-01-01") for number in range(3)]
    held, accepted = put_in(pipeline, "held.jsonl", late), put_in(pipeline, "some.jsonl", [message(1), message(2), late[0]])
    assert (held.state, held.reason, counts(accepted)) == ("held", Reason.TIME_IN_FUTURE, (3, 2, 0, 1, 0))
    monkeypatch.setattr(validation, "FUTURE_TOLERANCE", timedelta.max)
    one, other = replay(pipeline, held, accepted)
    assert (one.state, counts(one), counts(other)) == ("accepted", (3, 3, 0, 0, 0), (3, 2, 1, 0, 0))
    assert names(pipeline, settled=True) == []
    assert history(pipeline, held.id) == ["claimed", "held: time_in_future", "replayed", "accepted"]


def test_a_mended_file_takes_the_place_of_a_held_drop(pipeline: Pipeline) -> None:
    held = put_in(pipeline, "a.jsonl", [message(1), "{", "{x"])
    new = mend(pipeline, held, [message(1), message(2), message(3)])
    [mended] = take_in(pipeline).entries
    assert (mended.id, mended.name, counts(mended)) == (new, "mended.jsonl", (3, 3, 0, 0, 0))
    [old] = pipeline.documents.ledger.get([held.id])
    assert (old.state, old.detail) == ("discarded", f"replaced by {new}")
    assert (history(pipeline, old.id)[-1], history(pipeline, new)[1]) == (f"replaced by {new}", f"replaces {old.id}")
    settled = [line.settled for line in pipeline.documents.quarantine.of_drop(old.id)]
    assert [(line.how, line.by) for line in settled if line] == [("replayed", new)] * 2
    assert names(pipeline) == [] and names(pipeline, settled=True) == ["a.jsonl"]


def test_a_drop_held_for_crashes_is_judged_as_any_other_when_it_is_released(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = put_in(pipeline, "judged.jsonl", [message(1), "{", "{x"])
    with monkeypatch.context() as patch:
        patch.setattr(judge, "MAX_CRASHES", 0)
        crashed = put_in(pipeline, "crashed.jsonl", [message(2), "{", "{y"])
    assert (judged.reason, crashed.reason) == (Reason.INVALID_JSON, Reason.CRASHED_RUN)
    with held_lease(pipeline) as lease:
        quarantine.release(pipeline, [judged, crashed], lease, run_id="mending")
    take_in(pipeline)
    one, other = pipeline.documents.ledger.get([judged.id, crashed.id])
    assert (one.state, other.state, other.reason) == ("accepted", "held", Reason.INVALID_JSON)


def test_of_a_drop_whose_copy_is_lost_the_list_says_to_hand_it_in_again(pipeline: Pipeline) -> None:
    drop(pipeline, "a.jsonl", [message(1)])
    drops.claim_settled(pipeline, run_id="r0")
    [claimed] = pipeline.documents.ledger.claimed()
    (pipeline.settings.claimed_drops / claimed.id).unlink()
    (pipeline.settings.drops / "a.jsonl").unlink()
    take_in(pipeline)
    take_in(pipeline)
    [row] = quarantine.kept_out(pipeline.documents)
    assert row.entry.state == "held" and "persona ingest" in row.advice and "replay" not in row.advice


def test_a_mended_file_of_an_accepted_drop_adds_what_was_kept_out_of_it(pipeline: Pipeline) -> None:
    accepted = put_in(pipeline, "a.jsonl", [message(1), "{"])
    new = mend(pipeline, accepted, [message(1), message(2)], name="a.jsonl")
    [mended] = take_in(pipeline).entries
    assert (mended.id, counts(mended)) == (new, (2, 1, 1, 0, 0))
    [old] = pipeline.documents.ledger.get([accepted.id])
    assert (old.state, old.counts) == ("accepted", accepted.counts)
    assert names(pipeline) == []
    replay(pipeline, old)  # and judged again as it is, it asks to be looked at again
    assert names(pipeline) == ["a.jsonl"]


def test_a_mended_file_that_brings_nothing_new_is_refused(pipeline: Pipeline) -> None:
    held, other = put_in(pipeline, "a.jsonl", [message(1), "{", "{x"]), put_in(pipeline, "b.jsonl", [message(2)])
    with held_lease(pipeline) as lease:
        for file, why in (
            ("a.jsonl", "as it came"),
            ("b.jsonl", other.id[:12]),
            ("none.jsonl", "cannot read"),
            ("", "cannot be read"),
        ):
            with pytest.raises(InvalidInput, match=why):
                quarantine.replay_mended(pipeline, held, pipeline.settings.drops / file, lease, run_id="mending")
    assert pipeline.documents.ledger.get([held.id]) == [held]
    assert sorted(path.name for path in pipeline.settings.claimed_drops.iterdir()) == sorted([held.id, other.id])


def test_what_has_not_been_judged_is_not_replaced(pipeline: Pipeline) -> None:
    held = put_in(pipeline, "a.jsonl", ["{", "{x"])
    with held_lease(pipeline) as lease:
        quarantine.replay(pipeline, [held], lease, run_id="mending")
    with pytest.raises(InvalidInput, match="waits to be judged"):
        mend(pipeline, ledger(pipeline)["a.jsonl"], [message(1)])


def test_a_released_drop_comes_in_with_what_validates_of_it(pipeline: Pipeline) -> None:
    held = put_in(pipeline, "a.jsonl", [message(1), "{", "{x", "{y"])
    [entry] = release(pipeline, held)
    assert (entry.state, counts(entry)) == ("accepted", (4, 1, 0, 3, 0))
    assert history(pipeline, entry.id) == ["claimed", "held: invalid_json", "released", "accepted"]
    with pytest.raises(InvalidInput, match="accepted"):
        release(pipeline, entry)


def test_what_cannot_be_read_at_all_cannot_be_released(pipeline: Pipeline) -> None:
    readable = put_in(pipeline, "a.jsonl", ["{", "{x"])
    (pipeline.settings.drops / "b.json").write_bytes(b"[")
    [unreadable] = take_in(pipeline).entries
    with pytest.raises(InvalidInput, match=r"b\.json.*cannot be read at all \(invalid_json\)"):
        release(pipeline, readable, unreadable)
    assert {entry.state for entry in ledger(pipeline).values()} == {"held"}


def test_a_drop_held_for_crashes_gets_new_attempts(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: Any) -> None:
        raise RuntimeError("out of memory")

    drop(pipeline, "a.jsonl", [message(1), "{", "{x"])
    with monkeypatch.context() as patch:
        patch.setattr(drops, "_judge", killed)
        for _ in range(3):
            with pytest.raises(RuntimeError):
                take_in(pipeline)
        [held] = take_in(pipeline).entries
        assert held.reason == Reason.CRASHED_RUN
        with pytest.raises(RuntimeError):
            release(pipeline, held)
    [entry] = take_in(pipeline).entries
    assert (entry.state, counts(entry)) == ("held", (3, 0, 0, 3, 0))  # judged as any other


def test_what_is_discarded_is_out_of_the_way_and_can_be_brought_back(pipeline: Pipeline) -> None:
    held, accepted = put_in(pipeline, "a.jsonl", ["{", "{x"]), put_in(pipeline, "b.jsonl", [*BAD, message(3)])
    assert discard(pipeline, accepted, line=2) == 1
    assert [bool(line.settled) for line in pipeline.documents.quarantine.of_drop(accepted.id)] == [True, False]
    assert discard(pipeline, held, accepted) == 3
    assert names(pipeline) == [] and names(pipeline, settled=True) == ["b.jsonl", "a.jsonl"]
    assert {name: entry.state for name, entry in ledger(pipeline).items()} == {"a.jsonl": "discarded", "b.jsonl": "accepted"}
    assert counts(ledger(pipeline)["b.jsonl"]) == counts(accepted)
    assert take_in(pipeline).entries == []  # neither by itself …
    drop(pipeline, "again.jsonl", ["{", "{x"])
    assert take_in(pipeline).entries == []  # … nor under another name does it come back
    [back] = replay(pipeline, ledger(pipeline)["a.jsonl"])
    assert back.state == "held" and names(pipeline) == ["a.jsonl"]
    with pytest.raises(NotFound, match="line 1 of b"):
        discard(pipeline, accepted, line=1)


def test_a_drop_whose_copy_is_gone_is_asked_for_again(pipeline: Pipeline) -> None:
    held = put_in(pipeline, "a.jsonl", ["{", "{x"])
    (pipeline.settings.claimed_drops / held.id).unlink()
    for act in (replay, release):
        with pytest.raises(NotFound, match="copy"):
            act(pipeline, held)
    assert ledger(pipeline)["a.jsonl"].state == "held"


def test_settled_lines_stay_settled_when_a_drop_is_read_again(pipeline: Pipeline) -> None:
    entry = put_in(pipeline, "a.jsonl", BAD)
    discard(pipeline, entry)
    [again] = take_in(pipeline, drops=[entry.id], reapply=True).entries
    assert (counts(again), names(pipeline), len(stored(pipeline.documents))) == (counts(entry), [], 2)
