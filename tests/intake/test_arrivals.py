"""What becomes of a request's body: the judge of drops, defaults that change nothing that was said, and files that are drops."""

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from persona.errors import InvalidInput, Malformed, NoRoom, StoreRefused
from persona.intake import inbox
from persona.intake.arrivals import MOST, judged, live_records
from persona.intake.parse import raw_records
from persona.intake.records import to_document

AT = datetime(2026, 1, 1, 12, 0, 0, 250_000, tzinfo=UTC)
SAID = {"user_id": "u_1", "message": "hello"}


def body(records: Any) -> bytes:
    return json.dumps(records).encode()


def taken(content: bytes, **options: Any) -> list[dict[str, Any]]:
    return judged(content, at=AT, now=AT, **options).records


def test_one_object_and_a_list_of_one_are_the_same() -> None:
    assert taken(body(SAID)) == taken(body([SAID])) == taken(b"\xef\xbb\xbf  \n" + body([SAID]))


def test_what_says_no_time_happened_now_and_what_says_one_then() -> None:
    [now, then] = taken(body([SAID, {**SAID, "timestamp": "2020-05-01T00:00:00+02:00"}]))
    assert now["timestamp"] == AT
    assert then["timestamp"] == datetime(2020, 4, 30, 22, tzinfo=UTC)


def test_ids_follow_from_the_content_or_from_the_key_and_the_place() -> None:
    assert taken(body(SAID))[0]["_id"] == taken(body(SAID))[0]["_id"]
    first, second = (record["_id"] for record in taken(body([SAID, SAID]), ids_from="key"))
    assert first != second
    assert [record["_id"] for record in taken(body([SAID, SAID]), ids_from="key")] == [first, second]
    assert taken(body(SAID), ids_from="another")[0]["_id"] != first
    assert taken(body({**SAID, "message_id": "mine"}), ids_from="key")[0]["_id"] == "mine"


def test_each_bad_record_is_named_with_its_reason_and_costs_itself() -> None:
    records = [
        SAID,
        {"message": "whose?"},
        "text",
        {"user_id": "u"},
        {**SAID, "timestamp": "2999-01-01"},
        {**SAID, "value": "x"},
        {},
    ]
    arrived = judged(body(records), at=AT, now=AT)
    assert [(refused.index, refused.reason.value) for refused in arrived.refused] == [
        (1, "missing_field"), (2, "not_an_object"), (3, "missing_field"), (4, "time_in_future"), (5, "invalid_field"),
        (6, "missing_field"),
    ]  # fmt: skip
    assert len(arrived.records) == 1


@pytest.mark.parametrize(
    "content",
    [b"", b" \n", b"{", b"[", b"[{}", b'[{"user_id": "u"},]', b'{"user_id": "u"', b"\xff\xfe", b'{"user_id": "\xff"}', b"nonsense",
     b'{"user_id": "u", "message": "a\nb"}', b'[{"user_id": "u", "message": NaN}]'],
)  # fmt: skip
def test_what_is_not_json_is_malformed(content: bytes) -> None:
    with pytest.raises(Malformed):
        judged(content, at=AT, now=AT)


def test_a_thousand_are_taken_and_one_more_is_not() -> None:
    assert len(taken(body([{**SAID, "message": str(number)} for number in range(MOST)]))) == MOST
    with pytest.raises(InvalidInput):
        taken(body([SAID] * (MOST + 1)))


def test_depth_and_size_are_refused_and_break_nothing() -> None:
    deep = b'{"user_id": "u", "message": "m", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    large = body({**SAID, "filler": "x" * 1_100_000})
    for content, reason in ((deep, "too_deep"), (large, "too_large")):
        [refused] = judged(content, at=AT, now=AT).refused
        assert refused.reason == reason


def test_its_lines_are_a_drop_that_says_the_same(tmp_path: Path) -> None:
    records = [
        SAID,
        {**SAID, "big": 10**30, "message_id": "m_1"},
        {"user_id": 7, "event": "click", "campaign_id": 3, "timestamp": 1_700_000_000, "nested": {"a": [1, "ä\u2028"]}},
    ]
    arrived = judged(json.dumps(records, indent=2).encode(), at=AT, now=AT)
    drop = inbox.keep(arrived.lines, tmp_path)
    [arrival] = inbox.arrivals_in(tmp_path)
    assert arrival.sha256 == drop
    documents = [to_document(raw, drop=drop, now=AT) for raw in raw_records(arrival.path, arrival.path.name)]
    assert [document["_id"] for document in documents if isinstance(document, dict)] == [
        record["_id"] for record in arrived.records
    ]
    assert list(live_records(arrival.path, arrival.path.name, now=AT)) == arrived.records


def test_many_requests_make_one_drop_and_none_is_lost(tmp_path: Path) -> None:
    lines = [f'{{"user_id": "u", "message": "{number}"}}\n'.encode() for number in range(5)]
    drops = [inbox.keep(line, tmp_path / "inbox") for line in lines]
    (tmp_path / "inbox" / ".half").write_bytes(b'{"user_id": "u", "mess')
    [(claimed, parts)] = inbox.gathered(inbox.arrivals_in(tmp_path / "inbox"), tmp_path / "drops")
    assert [part.sha256 for part in parts] == drops
    assert claimed.path.read_bytes() == b"".join(lines)


@pytest.mark.parametrize("verb", ["fsync", "replace"])
@pytest.mark.parametrize(("code", "error"), [(28, NoRoom), (122, NoRoom), (5, StoreRefused)])
def test_a_disk_that_is_full_or_broken_leaves_nothing_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, code: int, error: type[Exception]
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    broken: Callable[..., None] = fail
    monkeypatch.setattr(f"persona.intake.inbox.os.{verb}", broken)
    with pytest.raises(error):
        inbox.keep(b"{}\n", tmp_path)
    assert list(tmp_path.iterdir()) == []
