"""From bytes to records: whatever the layout, the same records with the right offsets; what is broken costs itself alone."""

import gzip
import json
import os
import zipfile
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from persona.intake import parse
from persona.intake.judge import judge
from persona.intake.parse import DropFault, RawRecord, raw_records
from persona.intake.records import to_document
from persona.schemas import Reason
from persona.stores.documents.quarantine import Rejected

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MARK = b"\xef\xbb\xbf"
GOOD = b'{"user_id":"u_1","message":"hi","timestamp":1}'
JSON_TEST_SUITE = Path(os.environ.get("PERSONA_TEST_DATA", "../shared/data")) / "jsontestsuite" / "test_parsing.zip"


def read(folder: Path, content: bytes, name: str = "drop.json") -> list[RawRecord]:
    path = folder / "claimed"
    path.write_bytes(content)
    return list(raw_records(path, name))


def fault(folder: Path, content: bytes, name: str = "drop.json") -> Reason:
    with pytest.raises(DropFault) as raised:
        read(folder, content, name)
    return raised.value.reason


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(['"', "\\", "]", "},{", '\\"', "[\n"])
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
objects = st.lists(st.dictionaries(texts, values, max_size=4), min_size=1, max_size=6)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    records=objects,
    layout=st.sampled_from(["array", "indented", "tabbed", "lines", "crlf", "blank lines", "last line open"]),
    escaped=st.booleans(),
    mark=st.booleans(),
    compressed=st.booleans(),
    chunk=st.integers(1, 64),
)
def test_every_layout_gives_back_the_same_records_and_says_where_they_stood(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    records: list[dict[str, Any]],
    layout: str,
    escaped: bool,
    mark: bool,
    compressed: bool,
    chunk: int,
) -> None:
    lines = [json.dumps(record, ensure_ascii=escaped) for record in records]
    text = {
        "array": json.dumps(records, ensure_ascii=escaped),
        "indented": json.dumps(records, ensure_ascii=escaped, indent=3) + "\n",
        "tabbed": " \r\n\t" + json.dumps(records, ensure_ascii=escaped, indent="\t") + "  ",
        "lines": "".join(f"{line}\n" for line in lines),
        "crlf": "".join(f"{line}\r\n" for line in lines),
        "blank lines": "\n \n" + "".join(f"  {line} \n\n\t\n" for line in lines),
        "last line open": "\n".join(lines),
    }[layout]
    content = (MARK if mark else b"") + text.encode()
    name = "drop.json" if layout in ("array", "indented", "tabbed") else "drop.jsonl"
    monkeypatch.setattr(parse, "CHUNK_BYTES", max(chunk, len(MARK)) if mark else chunk)

    found = read(tmp_path, gzip.compress(content) if compressed else content, f"{name}.gz" if compressed else name)

    assert [json.loads(record.raw) for record in found] == records
    assert all(content[record.offset :].startswith(record.raw) for record in found)
    assert not any(record.oversized for record in found)
    if layout != "blank lines":
        assert [record.line for record in found] == list(range(1, len(records) + 1))


def test_the_name_decides_the_format_whatever_its_case_and_the_bytes_decide_the_compression(tmp_path: Path) -> None:
    assert len(read(tmp_path, GOOD + b"\n" + GOOD, "DROP.JSONL")) == 2
    assert len(read(tmp_path, gzip.compress(GOOD), "drop.ndjson")) == 1
    assert len(read(tmp_path, GOOD, "drop.json.gz")) == 1
    assert fault(tmp_path, GOOD, "drop.csv") is Reason.UNSUPPORTED_FILE
    assert fault(tmp_path, GOOD, "json") is Reason.UNSUPPORTED_FILE


def test_one_object_is_a_drop_of_one_record(tmp_path: Path) -> None:
    [record] = read(tmp_path, b"\n  " + GOOD + b"\r\n")
    assert (record.raw, record.offset, record.line) == (GOOD, 3, 1)


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_a_broken_element_costs_itself_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(parse, "CHUNK_BYTES", chunk)
    broken = [b"{nonsense}", b'{"user_id": tru}', b"\xff\xfe", b"'single'", b"{'a': [1}]", b'{"a" "b"}']
    array = read(tmp_path, b"[" + b",".join(piece for item in broken for piece in (GOOD, item)) + b"," + GOOD + b"]")
    lines = read(tmp_path, b"\n".join(piece for item in [*broken, b"[{", b'"'] for piece in (GOOD, item)), "drop.jsonl")
    assert [record.raw for record in array][::2] == [GOOD] * 7
    assert [record.raw for record in array][1::2] == broken
    assert [record.raw for record in lines][::2] == [GOOD] * 8
    outcomes = [isinstance(to_document(record, drop="d", now=NOW), Rejected) for record in array]
    assert outcomes == [False, True] * 6 + [False]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", Reason.EMPTY_FILE),
        (b" \r\n\t \n", Reason.EMPTY_FILE),
        (MARK, Reason.EMPTY_FILE),
        (MARK + b"\n\n", Reason.EMPTY_FILE),
        (gzip.compress(b"", mtime=0), Reason.EMPTY_FILE),
        (GOOD.decode().encode("utf-16"), Reason.INVALID_ENCODING),
        (b"\xfe\xff" + GOOD.decode().encode("utf-16-be"), Reason.INVALID_ENCODING),
        (GOOD.decode().encode("utf-32"), Reason.INVALID_ENCODING),
        (b"[" + GOOD, Reason.INVALID_JSON),
        (b"[" + GOOD + b",", Reason.INVALID_JSON),
        (b"[" + GOOD + b',{"user_id":"u', Reason.INVALID_JSON),
        (b"[" + GOOD + b",]", Reason.INVALID_JSON),
        (b"[,]", Reason.INVALID_JSON),
        (b"[," + GOOD + b"]", Reason.INVALID_JSON),
        (b"[1,,2]", Reason.INVALID_JSON),
        (b"[1, \n ,2]", Reason.INVALID_JSON),
        (b"[" + GOOD + b"]]", Reason.INVALID_JSON),
        (b"[" + GOOD + b"] and more", Reason.INVALID_JSON),
        (b"[" + GOOD + b"}", Reason.INVALID_JSON),
        (gzip.compress(GOOD, mtime=0)[:-9], Reason.TRUNCATED_GZIP),
        (gzip.compress(GOOD, mtime=0)[:2], Reason.TRUNCATED_GZIP),
        (gzip.compress(GOOD, mtime=0)[:-8] + b"12345678", Reason.TRUNCATED_GZIP),
        (gzip.compress(GOOD, mtime=0)[:12] + b"\xff" * 30, Reason.TRUNCATED_GZIP),
        (gzip.compress(b" " * (8 << 20), mtime=0), Reason.GZIP_RATIO),
        (gzip.compress(b"[" + b"1234567890," * (1 << 19) + b"1]", mtime=0), Reason.GZIP_RATIO),
    ],
)
@pytest.mark.parametrize("chunk", [3, 1 << 20])
def test_a_file_that_cannot_be_read_whole_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, reason: Reason, chunk: int
) -> None:
    if len(content) < 1 << 12:
        monkeypatch.setattr(parse, "CHUNK_BYTES", chunk)
    assert fault(tmp_path, content) is reason


def test_an_empty_array_holds_nothing_and_is_no_fault(tmp_path: Path) -> None:
    assert read(tmp_path, b" [ \n ] \n") == []


@pytest.mark.parametrize("name", ["drop.json", "drop.jsonl"])
@pytest.mark.parametrize("chunk", [50_000, 1 << 20])
def test_an_oversized_record_keeps_its_beginning_and_its_neighbours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, chunk: int
) -> None:
    monkeypatch.setattr(parse, "CHUNK_BYTES", chunk)
    large = b'{"message":"' + b"x" * (1 << 20) + b'"}'
    fits = b'{"message":"' + b"x" * ((1 << 20) - 14) + b'"}'
    joined = (b",\n" if name == "drop.json" else b"\n").join([GOOD, large, GOOD, fits, GOOD, large])
    found = read(tmp_path, b"[" + joined + b"]" if name == "drop.json" else joined, name)
    assert [record.oversized for record in found] == [False, True, False, False, False, True]
    assert [found[index].raw for index in (0, 2, 3, 4)] == [GOOD, GOOD, fits, GOOD]
    assert found[1].raw == large[:65536]
    rejected = to_document(found[1], drop="d", now=NOW)
    assert isinstance(rejected, Rejected) and rejected.reason is Reason.TOO_LARGE


def test_an_oversized_single_object_keeps_its_beginning(tmp_path: Path) -> None:
    [record] = read(tmp_path, b'{"message":"' + b"x" * (3 << 20) + b'"}')
    assert record.oversized and len(record.raw) == 65536


@pytest.mark.parametrize("name", ["drop.json", "drop.jsonl"])
def test_white_space_however_much_hides_no_record(tmp_path: Path, name: str) -> None:
    filler = b" " * (3 << 20)
    content = filler + GOOD if name == "drop.jsonl" else b"[" + filler + GOOD + b"]"
    for found in (read(tmp_path, content, name), read(tmp_path, b"\n" + content, name)):
        assert [(record.raw, record.oversized) for record in found] == [(GOOD, False)]


@pytest.mark.parametrize("deep", [b'{"a":' * 10_000 + b"1" + b"}" * 10_000, b"[" * 10_000 + b"]" * 10_000])
@pytest.mark.parametrize("digits", [b"1", b"1" * 25])
def test_nesting_of_ten_thousand_levels_costs_one_record(tmp_path: Path, deep: bytes, digits: bytes) -> None:
    found = read(tmp_path, b"[" + GOOD + b"," + deep.replace(b"1", digits) + b"," + GOOD + b"]")
    outcomes = [to_document(record, drop="d", now=NOW) for record in found]
    assert isinstance(outcomes[0], dict) and isinstance(outcomes[2], dict)
    assert isinstance(outcomes[1], Rejected) and outcomes[1].reason is Reason.TOO_DEEP


def verdict(folder: Path, content: bytes) -> Reason | None:
    """Why a drop of this content would be held, if it would."""
    try:
        outcomes = [to_document(record, drop="d", now=NOW) for record in read(folder, content)]
    except DropFault as held:
        return held.reason
    rejected = Counter(outcome.reason for outcome in outcomes if isinstance(outcome, Rejected))
    hold = judge(len(outcomes), rejected, reject_share=0.0)
    return hold.reason if hold else None


def test_the_json_test_suite(tmp_path: Path) -> None:
    if not JSON_TEST_SUITE.exists():
        pytest.skip(f"JSONTestSuite is not at {JSON_TEST_SUITE}: set PERSONA_TEST_DATA")
    unreadable = {Reason.INVALID_JSON, Reason.INVALID_ENCODING, Reason.TOO_DEEP, Reason.EMPTY_FILE}
    wrong: dict[str, Reason | None] = {}
    seen = Counter[str]()
    with zipfile.ZipFile(JSON_TEST_SUITE) as suite:
        for member in suite.namelist():
            name = member.rsplit("/", 1)[-1]
            if not name.endswith(".json"):
                continue
            seen[name[0]] += 1
            found = verdict(tmp_path, suite.read(member))
            if (name[0] == "n" and found not in unreadable) or (name[0] == "y" and found in unreadable):
                wrong[name] = found
    assert wrong == {}
    assert seen["n"] > 180 and seen["y"] > 90 and seen["i"] > 30


@pytest.mark.parametrize("kept", [8, 1 << 20])
def test_where_a_record_stands_and_how_long_it_is_is_said_of_the_decompressed_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    monkeypatch.setattr(parse, "MAX_RECORD_BYTES", kept)
    monkeypatch.setattr(parse, "KEPT_BYTES", 4)
    monkeypatch.setattr(parse, "CHUNK_BYTES", 5)
    records = [GOOD, b"7", b'"a \\" b"', b"[1, 2,\t3]"]
    for name, content in (
        ("a.jsonl", b"\xef\xbb\xbf\r\n" + b" \t\r\n\n ".join(records)),
        ("a.json", b" [ " + b" \n, ".join(records) + b" \r\n ] "),
        ("b.json", b"  " + GOOD + b"   "),
        ("a.jsonl.gz", gzip.compress(b"\n".join(records))),
    ):
        found = read(tmp_path, content, name)
        plain = gzip.decompress(content) if name.endswith("gz") else content
        expected = records if name != "b.json" else [GOOD]
        assert [plain[record.offset : record.offset + record.length] for record in found] == expected
        assert [record.raw for record in found] == [raw if len(raw) <= kept else raw[:4] for raw in expected]
        assert [record.oversized for record in found] == [len(raw) > kept for raw in expected]
