"""What a valid record is, field by field, and that a refusal never repeats what a person said."""

import json
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persona.intake.parse import RawRecord
from persona.intake.records import ERASED_RECORD, Erased, names_in, to_document, when, whose
from persona.schemas import Reason
from persona.stores.documents.quarantine import Rejected

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BASE: dict[str, Any] = {"user_id": "u_1", "message": "hello", "timestamp": "2025-06-01T12:00:00Z"}


def judged(raw: bytes | str) -> dict[str, Any] | Rejected | Erased:
    body = raw.encode() if isinstance(raw, str) else raw
    return to_document(RawRecord(line=7, offset=99, raw=body, length=len(body)), drop="d" * 64, now=NOW)


def outcome(**fields: Any) -> dict[str, Any] | Rejected:
    return judged(json.dumps({**BASE, **fields}))


def accepted(**fields: Any) -> dict[str, Any]:
    document = outcome(**fields)
    assert isinstance(document, dict), document
    return document


def refused(**fields: Any) -> Reason:
    rejected = outcome(**fields)
    assert isinstance(rejected, Rejected), rejected
    return rejected.reason


def without(*names: str, **more: Any) -> dict[str, Any] | Rejected:
    return judged(json.dumps({key: value for key, value in {**BASE, **more}.items() if key not in names}))


def reason_of(result: dict[str, Any] | Rejected) -> Reason | None:
    return result.reason if isinstance(result, Rejected) else None


@pytest.mark.parametrize(
    ("given_id", "stored"),
    [
        ("u_1", "u_1"),
        (7, "7"),
        (-3, "-3"),
        (10**30, str(10**30)),
        (" u\t", "u"),
        (f" {'é' * 256}\n", "é" * 256),
        ("\U0001f600", "\U0001f600"),
    ],
)
def test_a_user_id_is_a_string_or_an_integer(given_id: Any, stored: str) -> None:
    assert accepted(user_id=given_id)["user_id"] == stored


@pytest.mark.parametrize("bad", [True, False, 1.0, 1.5, None, "", "   ", "a\x00b", "x" * 257, [], {}, ["u_1"]])
def test_what_is_no_user_id(bad: Any) -> None:
    assert refused(user_id=bad) is Reason.INVALID_FIELD


@pytest.mark.parametrize("name", ["message_id", "conversation_id", "campaign_id"])
def test_optional_ids_follow_the_same_rule_and_null_means_absent(name: str) -> None:
    key = "_id" if name == "message_id" else name
    assert accepted(**{name: 12})[key] == "12"
    assert accepted(**{name: None}) == accepted()
    for bad in (True, 1.5, "", "a\x00", "x" * 257, []):
        assert refused(**{name: bad}) is Reason.INVALID_FIELD


@pytest.mark.parametrize(
    ("given_time", "stored"),
    [
        ("2025-06-01T12:00:00Z", datetime(2025, 6, 1, 12, tzinfo=UTC)),
        ("2025-06-01T12:00:00", datetime(2025, 6, 1, 12, tzinfo=UTC)),
        ("2025-06-01 12:00:00+02:00", datetime(2025, 6, 1, 10, tzinfo=UTC)),
        ("2025-06-01T12:00:00.123999-05:30", datetime(2025, 6, 1, 17, 30, 0, 123_000, tzinfo=UTC)),
        ("2025-06-01", datetime(2025, 6, 1, tzinfo=UTC)),
        (1_700_000_000, datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)),
        (1_700_000_000_000, datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)),
        (1_700_000_000.5, datetime(2023, 11, 14, 22, 13, 20, 500_000, tzinfo=UTC)),
        ("1700000000", datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)),
        (0, datetime(1970, 1, 1, tzinfo=UTC)),
        (-1, datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC)),
        ("0001-01-01T00:00:00", datetime(1, 1, 1, tzinfo=UTC)),
        ("2026-01-01T23:59:59Z", datetime(2026, 1, 1, 23, 59, 59, tzinfo=UTC)),
    ],
)
def test_times_are_stored_as_utc_milliseconds(given_time: Any, stored: datetime) -> None:
    at = accepted(timestamp=given_time)["timestamp"]
    assert (at, at.utcoffset()) == (stored, timedelta(0))


@pytest.mark.parametrize("bad", [True, None, "", "yesterday", "2025-13-01", [], {}, "0001-01-01T00:00:00+05:00", 1e300, 10**18])
def test_what_is_no_time(bad: Any) -> None:
    assert refused(timestamp=bad) is Reason.INVALID_FIELD


@pytest.mark.parametrize("late", ["2026-01-02T00:00:01Z", "9999-12-31T23:59:59Z", 4_000_000_000, 4_000_000_000_000])
def test_more_than_a_day_ahead_is_in_the_future(late: Any) -> None:
    assert refused(timestamp=late) is Reason.TIME_IN_FUTURE


def test_what_must_be_there() -> None:
    assert reason_of(without("user_id")) is Reason.MISSING_FIELD
    assert reason_of(without("timestamp")) is Reason.MISSING_FIELD
    assert reason_of(without("message")) is Reason.MISSING_FIELD
    assert reason_of(without("message", event="message")) is Reason.MISSING_FIELD
    assert refused(message="") is Reason.MISSING_FIELD
    assert refused(message=None) is Reason.MISSING_FIELD


@pytest.mark.parametrize("event", ["impression", "open", "click", "reply", "conversion", "unsubscribe", "dismiss", " Click "])
def test_an_event_needs_no_message(event: str) -> None:
    document = without("message", event=event)
    assert isinstance(document, dict)
    assert document["event"] == event.strip().lower()
    assert "text_hash" not in document and "expressive" not in document


def test_messages_may_hold_anything_up_to_their_length() -> None:
    for text in ("x" * 100_000, "\x00", "\u202e", " ", "\U0001f469\u200d\U0001f467", "é"):
        assert accepted(message=text)["message"] == text
    assert refused(message="x" * 100_001) is Reason.INVALID_FIELD
    for bad in (7, True, ["hello"], {"text": "hello"}):
        assert refused(message=bad) is Reason.INVALID_FIELD


def test_channel_event_and_value() -> None:
    assert accepted()["channel"] == "unknown"
    assert accepted(channel=" E-Mail ")["channel"] == "e-mail"
    assert accepted(value=3)["value"] == 3.0
    assert accepted(value=-0.5)["value"] == -0.5
    for bad in (
        {"channel": ""},
        {"channel": 7},
        {"event": "bought"},
        {"event": 1},
        {"value": "3"},
        {"value": True},
        {"value": []},
    ):
        assert refused(**bad) is Reason.INVALID_FIELD


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("also", ["", ', "big": 12345678901234567890123'])
def test_constants_that_are_no_json(value: str, also: str) -> None:
    assert reason_of(judged(json.dumps(BASE)[:-1] + f', "value": {value}{also}}}')) is Reason.INVALID_JSON


@pytest.mark.parametrize("number", ["1e400", "1e999"])
@pytest.mark.parametrize("also", ["", ', "big": 12345678901234567890123'])
def test_a_value_beyond_all_bounds_is_refused(number: str, also: str) -> None:
    assert isinstance(judged(json.dumps(BASE)[:-1] + f', "value": {number}{also}}}'), Rejected)


def test_whatever_else_there_is_becomes_attributes() -> None:
    extra = {"_id": 1, "drop": "x", "line": 2, "digest": None, "a.b": {"$set": [1, {}]}, "": "", "model_dump": 1, "__class__": {}}
    document = accepted(**extra)
    assert document["attributes"] == extra
    assert (document["drop"], document["line"]) == ("d" * 64, 7)


@pytest.mark.parametrize("number", [2**63 - 1, -(2**63), 10**18])
def test_integers_of_64_bits_stay_integers(number: int) -> None:
    assert accepted(n=number)["attributes"]["n"] == number


@pytest.mark.parametrize("digits", [str(2**63), str(-(2**63) - 1), "1" + "0" * 25, "-1" + "0" * 25, "9" * 5_000])
def test_larger_integers_become_strings(digits: str) -> None:
    document = judged(json.dumps(BASE)[:-1] + f', "n": [{digits}]}}')
    assert isinstance(document, dict)
    assert document["attributes"]["n"] == [digits]


def nested(levels: int) -> Any:
    value: Any = 1
    for level in range(levels):
        value = {"deeper": value} if level % 2 else [value]
    return value


def test_attributes_nest_64_levels() -> None:
    assert "attributes" in accepted(a=nested(63))
    assert refused(a=nested(64)) is Reason.TOO_DEEP
    assert refused(a=nested(300)) is Reason.TOO_DEEP


@pytest.mark.parametrize("also", ["", ', "big": 12345678901234567890123'])
def test_half_a_surrogate_pair_is_refused_wherever_it_stands(also: str) -> None:
    for field in ('"user_id": "\\ud800"', '"message": "a\\udfff"', '"x": "\\ud800"', '"\\ud800": 1', '"x": [{"\\ud800": 1}]'):
        assert isinstance(judged(json.dumps(BASE)[:-1] + f", {field}{also}}}"), Rejected)


def test_bytes_that_are_no_utf8_and_values_that_are_no_object() -> None:
    assert reason_of(judged(b'{"user_id": "\xff"}')) is Reason.INVALID_ENCODING
    assert reason_of(judged(b'{"user_id": "\xff", "n": 12345678901234567890}')) is Reason.INVALID_ENCODING
    for other in ("[]", "1", '"text"', "null", "true", "12345678901234567890"):
        assert reason_of(judged(other)) is Reason.NOT_AN_OBJECT
    for broken in ("{", '{"a":1,}', "nope", '{"a":01}', '{"n": 12345678901234567890,}'):
        assert reason_of(judged(broken)) is Reason.INVALID_JSON


def test_a_nul_in_a_field_name_is_refused_at_any_depth() -> None:
    assert refused(**{"a\x00": 1}) is Reason.INVALID_FIELD
    assert refused(a=[{"b\x00": 1}]) is Reason.INVALID_FIELD


def test_of_duplicate_keys_the_last_wins() -> None:
    for also in ("", ', "n": 12345678901234567890'):
        document = judged('{"user_id": "first", "user_id": "last", "message": "m", "timestamp": 1' + also + "}")
        assert isinstance(document, dict) and document["user_id"] == "last"


def test_a_given_id_is_kept_and_a_derived_one_depends_on_every_field_and_on_nothing_else() -> None:
    full = {**BASE, "conversation_id": "k", "campaign_id": "c", "intent": "i", "channel": "email", "event": "reply", "value": 1.5}
    full |= {"x": {"b": 1, "a": [1, 2]}}
    derived = accepted(**full)["_id"]
    assert derived.startswith("m_") and len(derived) == 34
    shuffled = list(full.items())
    random.Random(1).shuffle(shuffled)
    assert judged(json.dumps({**dict(shuffled), "x": {"a": [1, 2], "b": 1}})) == accepted(**full)
    assert accepted(**{**full, "timestamp": "2025-06-01T14:00:00+02:00"})["_id"] == derived
    others = {
        "user_id": "u_2", "message": "hello!", "timestamp": 1, "conversation_id": "k2", "campaign_id": "c2", "intent": "i2",
        "channel": "sms", "event": "click", "value": 2, "x": {"b": 1, "a": [2, 1]}, "y": None,
    }  # fmt: skip
    ids = {accepted(**{**full, name: other})["_id"] for name, other in others.items()}
    assert len(ids | {derived}) == len(others) + 1
    assert accepted(**full, message_id="mine")["_id"] == "mine"
    assert accepted(**full, message_id="mine")["digest"] == accepted(**full)["digest"]


SECRET = "my-secret-words"
words = st.sampled_from([SECRET, [SECRET], {SECRET: SECRET}, SECRET * 30_000, f"{SECRET}\x00", True, None, 1e300, -5, ""])


@settings(max_examples=200, deadline=None)
@given(
    fields=st.dictionaries(
        st.sampled_from([*BASE, "message_id", "intent", "channel", "event", "value", SECRET]), words, max_size=6
    ),
    cut=st.integers(0, 60),
)
def test_no_refusal_repeats_what_a_person_said(fields: dict[str, Any], cut: int) -> None:
    raw = orjson.dumps({**BASE, "message": SECRET, **fields})
    for result in (judged(raw), judged(raw[: len(raw) - cut])):
        if isinstance(result, Rejected):
            assert SECRET not in result.detail and result.detail
            assert (result.line, result.offset) == (7, 99)


@settings(max_examples=200, deadline=None)
@given(raw=st.binary(max_size=80) | st.text(max_size=80).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_get_a_document_or_a_reason(raw: bytes) -> None:
    assert isinstance(judged(raw), dict | Rejected | Erased)


def test_what_was_erased_is_counted_and_no_more() -> None:
    assert judged(ERASED_RECORD) == Erased(7)
    assert isinstance(judged(ERASED_RECORD + b" "), Rejected)


@pytest.mark.parametrize(
    ("value", "stored"), [("3", 3.0), ("0.5", 0.5), (str(2**63), float(2**63)), (str(-(2**80)), -float(2**80)), ("1e300", 1e300)]
)
def test_a_value_is_a_number_of_any_size(value: str, stored: float) -> None:
    document = judged(json.dumps(BASE)[:-1] + f', "value": {value}}}')
    assert isinstance(document, dict) and document["value"] == stored


@pytest.mark.parametrize("value", ["1e400", "-1e400", "1" * 400, '"1"', '"12345678901234567890"', "true", "NaN"])
@pytest.mark.parametrize("more", ["", ', "n": 12345678901234567890'])
def test_what_is_no_value(value: str, more: str) -> None:
    assert isinstance(judged(json.dumps(BASE)[:-1] + f', "value": {value}{more}}}'), Rejected)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"user_id": "user 1", "message": "cut',
        b'{"user_id: " user 1 ", "message": "a missing quote"}',
        b'{"user_id": "user 1\\", "message": "a stray backslash"}',
        b'{"user_id": "\\u0075ser 1", "message": "escaped}',
        b'{"user_id" "user 1"; "message": "\xff"}',
        b'[{"user_id": "user 1"}',
        b'{\'user_id\': 7, "user_id": "user 1"',
    ],
)
def test_whoever_a_broken_line_may_belong_to_is_found_in_it(raw: bytes) -> None:
    assert "user 1" in names_in(raw) and "user 1" in whose(raw)
    assert "user" not in names_in(raw)


@pytest.mark.parametrize("user", ["message", "click", "user_id", "1", "42", "ab", "u 1"])
def test_a_broken_line_belongs_to_whom_it_names_and_not_to_whoever_is_called_like_a_word_in_it(user: str) -> None:
    everybodys = (
        f'{{"user_id": "somebody", "message": "{user}", "event": "click", "value": {7 if user == "ab" else 1}, "n": [42, "{user}'
    )
    assert user in names_in(everybodys.encode()) and user not in whose(everybodys.encode())
    for theirs in (f'{{"event": "open", "user_id" : "{user}", "message": "cut', f'{{"user_id":"{user}'):
        assert user in whose(theirs.encode())
    assert "42" in whose(b'{"user_id": 42, "message": "cut')


def test_whose_a_line_is() -> None:
    assert whose(b'{"user_id": " u_1 ", "message": "u_2"}') == {"u_1"}
    assert whose(b'{"user_id": 7}') == {"7"} and whose(b'{"user_id": 7.5}') == set() == whose(b'{"message": "u_1"}')
    assert whose(f'{{"user_id": {2**70}}}'.encode()) == {str(2**70)}
    assert "user_1" in whose(b'["user_1", 7]') and "7" not in whose(b'["user_1", 7]')
    assert "7" in names_in(b'{"user_id": 7, "message": "cut') and "7" not in names_in(b'{"user_id": "u", "message": "7 cats')


@given(user=st.text(min_size=1, max_size=12), escaped=st.booleans(), cut=st.integers(1, 20))
def test_a_line_that_is_cut_behind_its_user_still_names_it(user: str, escaped: bool, cut: int) -> None:
    line = json.dumps({"user_id": user, "message": "some words about nothing"}, ensure_ascii=escaped).encode()
    assert user.strip() in names_in(line[:-cut]) and user.strip() in whose(line[:-cut])


def test_the_time_of_a_line_is_told_where_it_is_valid() -> None:
    assert when(b'{"timestamp": 1700000000, "event": 7}', now=NOW) == datetime.fromtimestamp(1_700_000_000, UTC)
    for raw in (
        b'{"timestamp": "soon"}',
        b'{"timestamp": "9998-01-01"}',
        b'{"timestamp": true}',
        b"{}",
        b"[]",
        b'{"timestamp": 17000',
    ):
        assert when(raw, now=NOW) is None
