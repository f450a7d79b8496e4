"""Whatever is put into the watched folder gets its right end, and the good drop beside it comes in with the same run."""

import gzip
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import pytest

from persona.intake import claim as claiming
from persona.pipeline.draining import Pipeline
from persona.schemas import Reason
from persona.stores.documents.ledger import Entry
from persona.stores.warehouse import open_warehouse
from tests.intake.conftest import counts, drop, ledger, message, stored, take_in

GOOD = json.dumps(message(1)).encode()
DEEP = b'{"user_id": "u", "message": "m", "timestamp": 1, "x": ' + b"[" * 10_000 + b"]" * 10_000 + b"}"
LONG = b'{"user_id": "u", "timestamp": 1, "message": "' + b"x" * 50_000_000 + b'"}'


def lines(*found: bytes) -> bytes:
    return b"\n".join(found) + b"\n"


def gzipped(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


def with_a_neighbour(pipeline: Pipeline) -> dict[str, Entry]:
    """What became of the drops of the folder; the good one among them must be in."""
    drop(pipeline, "neighbour.jsonl", [message(99, user_id="neighbour")])
    take_in(pipeline)
    found = ledger(pipeline)
    assert found.pop("neighbour.jsonl").state == "accepted"
    return found


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("array.json", b" [" + GOOD + b" ,\r\n" + GOOD.replace(b"message 1", b"message 2") + b"] \n"),
        ("object.json", GOOD),
        ("lines.jsonl", lines(GOOD, GOOD.replace(b"message 1", b"message 2"))),
        ("LINES.NDJSON", GOOD),
        ("packed.json.gz", gzipped(b"[" + GOOD + b"]")),
        ("packed_and_not_called_so.jsonl", gzipped(lines(GOOD))),
        ("called_packed.jsonl.gz", lines(GOOD)),
        ("two_members.jsonl.gz", gzipped(lines(GOOD)) + gzipped(lines(GOOD.replace(b"message 1", b"message 2")))),
        ("marked.json", b"\xef\xbb\xbf[" + GOOD + b"]"),
        ("dos.jsonl", GOOD + b"\r\n\r\n  \r\n" + GOOD.replace(b"message 1", b"message 2") + b"\r\n"),
        ("no_line_end.jsonl", GOOD),
        ("padded.jsonl", GOOD + b" " * (1 << 20) + b"\n"),
    ],
)
def test_every_format_is_read_whole(pipeline: Pipeline, name: str, content: bytes) -> None:
    (pipeline.settings.drops / name).write_bytes(content)
    [entry] = with_a_neighbour(pipeline).values()
    written = 2 if b"message 2" in (gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content) or "two" in name else 1
    assert (entry.state, counts(entry)) == ("accepted", (written, written, 0, 0, 0))


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ('"user_id": "a", "user_id": 7', {"user_id": "7"}),
        (f'"user_id": {2**80}', {"user_id": str(2**80)}),
        (f'"user_id": "u", "attribute": {2**80}', {"attributes": {"attribute": str(2**80)}}),
        (f'"user_id": "u", "value": {2**80}', {"value": float(2**80)}),
        ('"user_id": "u", "message": "a\\u0000b"', {"message": "a\x00b"}),
        ('"user_id": "u", "timestamp": -1', {}),
    ],
)
def test_odd_values_that_are_fine(pipeline: Pipeline, fields: str, kept: dict[str, Any]) -> None:
    drop(pipeline, "a.jsonl", ["{" + f'"message": "m", "timestamp": 1700000000, {fields}' + "}"])
    [entry] = with_a_neighbour(pipeline).values()
    assert counts(entry) == (1, 1, 0, 0, 0)
    [record] = [record for record in stored(pipeline.documents).values() if record["drop"] == entry.id]
    assert {name: record[name] for name in kept} == kept


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"user_id": "u",}', Reason.INVALID_JSON),
        (b'{"user_id": NaN}', Reason.INVALID_JSON),
        (b'{"user_id": "u", "message": "m", "timestamp": 1, "n": 12345678901234567890, "x": 1e400}', Reason.INVALID_JSON),
        (b'{"user_id": "u", "message": "m", "timestamp": 1, "x": 1e400}', Reason.INVALID_JSON),
        (b'{"user_id": "\xff"}', Reason.INVALID_ENCODING),
        (b'{"user_id": "u", "message": "\\ud800", "timestamp": 1}', Reason.INVALID_JSON),
        (b'{"user_id": "u\\u0000", "message": "m", "timestamp": 1}', Reason.INVALID_FIELD),
        (b'{"user_id": 1.5, "message": "m", "timestamp": 1}', Reason.INVALID_FIELD),
        (b'{"user_id": true, "message": "m", "timestamp": 1}', Reason.INVALID_FIELD),
        (b'{"user_id": "u", "message": "m", "timestamp": 9000000000000}', Reason.TIME_IN_FUTURE),
        (b'{"user_id": "u", "message": "m", "timestamp": "9999-12-31"}', Reason.TIME_IN_FUTURE),
        (b'{"user_id": "u", "message": "m", "timestamp": 1e300}', Reason.INVALID_FIELD),
        (b'{"user_id": "u", "message": "m", "timestamp": "0001-01-01T00:00+14:00"}', Reason.INVALID_FIELD),
        (DEEP, Reason.TOO_DEEP),
        (LONG, Reason.TOO_LARGE),
        (b"\x00", Reason.INVALID_JSON),
        (b"[]", Reason.NOT_AN_OBJECT),
    ],
    ids=lambda value: value if isinstance(value, str) else repr(value[-60:]),
)
@pytest.mark.parametrize("array", [False, True], ids=["lines", "array"])
def test_a_bad_record_costs_itself_and_says_why(pipeline: Pipeline, line: bytes, reason: Reason, array: bool) -> None:
    name, content = ("a.json", b"[" + GOOD + b",\n" + line + b"]") if array else ("a.jsonl", lines(GOOD, line))
    (pipeline.settings.drops / name).write_bytes(content)
    [entry] = with_a_neighbour(pipeline).values()
    assert (entry.state, counts(entry)) == ("accepted", (2, 1, 0, 1, 0))
    [rejected] = pipeline.documents.quarantine.of_drop(entry.id)
    assert (rejected.line, rejected.offset, rejected.reason) == (2, content.index(line), reason)
    assert rejected.raw == line[:65_536] and rejected.detail.endswith(".")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.json", b"", Reason.EMPTY_FILE),
        ("blank.jsonl", b" \r\n\n", Reason.EMPTY_FILE),
        ("mark_alone.json", b"\xef\xbb\xbf", Reason.EMPTY_FILE),
        ("nothing_packed.json.gz", gzipped(b""), Reason.EMPTY_FILE),
        ("a.csv", b"user_id,message", Reason.UNSUPPORTED_FILE),
        ("a.json", b"[" + GOOD + b",]", Reason.INVALID_JSON),
        ("a.json", b"[" + GOOD, Reason.INVALID_JSON),
        ("a.json", b"[" * 100_000, Reason.INVALID_JSON),
        ("a.json", GOOD.decode().encode("utf-16"), Reason.INVALID_ENCODING),
        ("deep.json", DEEP, Reason.TOO_DEEP),
        ("long.json", LONG, Reason.TOO_LARGE),
        ("cut.jsonl.gz", gzipped(lines(GOOD) * 100)[:-9], Reason.TRUNCATED_GZIP),
        ("damaged.jsonl.gz", gzipped(lines(GOOD))[:-8] + b"\x00" * 8, Reason.TRUNCATED_GZIP),
        ("bomb.jsonl.gz", gzipped(b" " * 200_000_000), Reason.GZIP_RATIO),
        ("bomb_of_lines.jsonl.gz", gzipped(lines(GOOD) * 200_000), Reason.GZIP_RATIO),
    ],
)
def test_a_file_that_is_no_drop_is_held_with_what_to_do(pipeline: Pipeline, name: str, content: bytes, reason: Reason) -> None:
    (pipeline.settings.drops / name).write_bytes(content)
    [held] = with_a_neighbour(pipeline).values()
    assert (held.state, held.reason) == ("held", reason)
    assert held.detail and held.detail.endswith(".")
    assert {record["user_id"] for record in stored(pipeline.documents).values()} == {"neighbour"}


def test_a_folder_a_pipe_and_a_link_out_of_the_folder_are_no_files_of_ours(pipeline: Pipeline, tmp_path: Path) -> None:
    folder, outside = pipeline.settings.drops, tmp_path / "outside.json"
    outside.write_bytes(GOOD)
    (folder / "folder.json").mkdir()
    os.mkfifo(folder / "pipe.json")
    (folder / "link.json").symlink_to(outside)
    assert with_a_neighbour(pipeline) == {}


def meddling(monkeypatch: pytest.MonkeyPatch, name: str, act: Callable[[Path], object], *, when: str) -> None:
    """Do something to the file of this name, once: before it is opened for copying, or after its first bytes were read."""
    left, read, opened = [act], claiming._read, claiming._at_once

    def opening(path: str, flags: int) -> int:
        if when == "before" and Path(path).name == name and left:
            left.pop()(Path(path))
        return opened(path, flags)

    def reading(source: IO[bytes]) -> bytes:
        found = read(source)
        if when == "meanwhile" and Path(str(source.name)).name == name and left:
            left.pop()(Path(str(source.name)))
        return found

    monkeypatch.setattr(claiming, "_at_once", opening)
    monkeypatch.setattr(claiming, "_read", reading)


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(lines(json.dumps(message(2)).encode()))


def replace_by_another(path: Path) -> None:
    other = path.with_name(".other")
    other.write_bytes(lines(json.dumps(message(2)).encode()))
    other.replace(path)


def replace_by_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def replace_by_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("when", ["before", "meanwhile"])
@pytest.mark.parametrize(
    ("act", "messages"),
    [
        (grow, {"message 1", "message 2"}),
        (replace_by_another, {"message 2"}),
        (Path.unlink, set()),
        (replace_by_a_pipe, set()),
        (replace_by_a_folder, set()),
    ],
)
def test_a_file_that_changes_under_our_hands_is_left_to_settle(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, act: Callable[[Path], object], messages: set[str], when: str
) -> None:
    drop(pipeline, "a.jsonl", [message(1)])
    meddling(monkeypatch, "a.jsonl", act, when=when)
    assert with_a_neighbour(pipeline) == {}
    take_in(pipeline)
    assert {record["message"] for record in stored(pipeline.documents).values()} == {"message 99", *messages}
    assert [path.name for path in pipeline.settings.claimed_drops.glob(".*")] == []


def test_the_same_content_under_two_names_is_one_drop_and_another_under_the_same_name_is_another(pipeline: Pipeline) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        drop(pipeline, name, [message(1)])
    take_in(pipeline)
    drop(pipeline, "a.jsonl", [message(2)])
    take_in(pipeline)
    ledger = pipeline.documents.ledger
    assert [(entry.name, counts(entry)) for entry in ledger.get(ledger.ids("drop"))] == [("a.jsonl", (1, 1, 0, 0, 0))] * 2


@contextmanager
def another_user() -> Iterator[None]:
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
def test_a_file_that_may_not_be_read_is_left_until_it_may(pipeline: Pipeline) -> None:
    take_in(pipeline)  # what is imported when it is first used may lie where only we may read
    with tempfile.TemporaryDirectory() as folder, open_warehouse(f"sqlite:///{folder}/warehouse.sqlite") as warehouse:
        home = Path(folder)
        (home / "drops").mkdir()
        settings = pipeline.settings.model_copy(update={"home": home, "drops": home / "drops"})
        theirs = replace(pipeline, settings=settings, warehouse=warehouse)
        closed, opened = drop(theirs, "closed.jsonl", [message(1)]), drop(theirs, "open.jsonl", [message(2)])
        closed.chmod(0o600)
        for path in (home, *home.glob("warehouse*"), home / "drops", opened):
            shutil.chown(path, 65534)
        with another_user():
            take_in(theirs)
            assert list(ledger(theirs)) == ["open.jsonl"]
        shutil.chown(closed, 65534)
        with another_user():
            take_in(theirs)
        assert {entry.state for entry in ledger(theirs).values()} == {"accepted"} and len(ledger(theirs)) == 2


def test_a_claimed_copy_is_made_to_outlast_a_power_cut(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    sync = os.fsync

    def noted(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    drop(pipeline, "a.jsonl", [message(1)])
    take_in(pipeline)
    assert Path(synced[0]).parent == pipeline.settings.claimed_drops == Path(synced[1])
