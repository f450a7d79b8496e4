"""What a valid record is: from its bytes to the document that MongoDB keeps, or to why not. Pure but for the clock it is handed."""

import hashlib
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import orjson
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
)

from persona.intake.parse import RawRecord
from persona.schemas import Event, Reason
from persona.stores.documents.embeddings import text_hash
from persona.stores.documents.quarantine import Rejected

MAX_DEPTH = 64
MAX_MESSAGE = 100_000
FUTURE_TOLERANCE = timedelta(days=1)
BIG_INTEGER = re.compile(rb"[0-9]{19}")
INT64 = range(-(2**63), 2**63)
ERASED_RECORD = b'{"persona":"erased"}'
"""What stands in a claimed copy where the record of an erased person stood."""
BETWEEN_QUOTES = re.compile(rb'(?:[^"\\]|\\.)*', re.DOTALL)
INTEGER_TOKEN = re.compile(rb'[:,\[{]\s*(-?[0-9]+)\s*(?=[,}\]"]|$)')
NAMED_USER = re.compile(rb'"user_id"\s*:\s*(?:"((?:[^"\\]|\\.)*)|(-?[0-9]+))', re.DOTALL)
SHORTEST_ID = 4
SHORT_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)


class BigInteger(str):
    """The digits of an integer beyond 64 bits, which no store keeps as a number."""


def _big_integer_as_float(value: Any) -> Any:
    return float(value) if isinstance(value, BigInteger) else value


def _integer_as_text(value: Any) -> Any:
    return str(value) if type(value) is int else value


def _lowercase(value: Any) -> Any:
    return value.strip().lower() if isinstance(value, str) else value


def _time(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("a time is an ISO 8601 string, or epoch seconds or milliseconds")
    return value


Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=256, pattern=r"^[^\x00]*$", strict=True)]
Id = Annotated[Name, BeforeValidator(_integer_as_text)]
Time = Annotated[datetime, BeforeValidator(_time)]
TIME: TypeAdapter[datetime] = TypeAdapter(Time)


class Record(BaseModel):
    """One message or event, as a drop's line gives it. Whatever else the line holds is kept as attributes."""

    model_config = ConfigDict(extra="allow", hide_input_in_errors=True)

    user_id: Id
    timestamp: Time
    message: Annotated[str, StringConstraints(max_length=MAX_MESSAGE, strict=True)] | None = None
    message_id: Id | None = None
    conversation_id: Id | None = None
    campaign_id: Id | None = None
    intent: Name | None = None
    channel: Annotated[Name, BeforeValidator(_lowercase)] | None = None
    event: Annotated[Event, BeforeValidator(_lowercase)] | None = None
    value: Annotated[float, BeforeValidator(_big_integer_as_float), Field(strict=True, allow_inf_nan=False)] | None = None


COMMON_WORDS = frozenset({*Record.model_fields, *Event, *(event.value for event in Event)})


@dataclass(frozen=True, slots=True)
class Erased:
    """A record that is counted and not kept: its person was erased."""

    line: int
    in_copy: bool = False
    """Whether it still stands in our copy of the drop, as it came."""


def to_document(raw: RawRecord, *, drop: str, now: datetime) -> dict[str, Any] | Rejected | Erased:
    """The document of a valid record, ready to insert; or the line with the reason why it is kept out; or that it was erased."""
    if raw.raw == ERASED_RECORD:
        return Erased(raw.line)
    try:
        return _document(raw, drop, now)
    except _Refusal as refusal:
        return Rejected(line=raw.line, offset=raw.offset, reason=refusal.reason, detail=refusal.detail, raw=raw.raw)


def fields_of(raw: bytes) -> dict[str, Any] | None:
    """The fields of a line, as they came; None where it is no JSON object."""
    try:
        fields = _parsed(raw)
    except _Refusal:
        return None
    return fields if isinstance(fields, dict) else None


def whose(raw: bytes) -> set[str]:
    """The ids of those whose record this line may be: its `user_id`; of one that is no JSON object, what in it looks like an id.

    That is whatever stands behind `"user_id":`, and every other of `names_in` it but what stands in lines of everybody: names of
    fields and events, and what is shorter than four characters.
    """
    fields = fields_of(raw)
    if fields is None:
        named = {_unescaped(text).strip() if text else digits.decode() for text, digits in NAMED_USER.findall(raw)}
        return named | {name for name in _strings_in(raw) - COMMON_WORDS if len(name) >= SHORTEST_ID}
    user_id = _integer_as_text(fields.get("user_id"))
    return {user_id.encode("utf-8", "replace").decode().strip()} if isinstance(user_id, str) else set()


def when(raw: bytes, *, now: datetime) -> datetime | None:
    """The time that a line gives, UTC; None where it is no JSON object, or its time is not valid or lies in the future."""
    try:
        fields = _parsed(raw)
        at = _utc(TIME.validate_python(fields.get("timestamp"))) if isinstance(fields, dict) else None
    except (_Refusal, ValidationError):
        return None
    return at if at and at - now <= FUTURE_TOLERANCE else None


def names_in(raw: bytes) -> set[str]:
    """Every string (unescaped, trimmed) and every integer of a line that does not parse: one of them may be its `user_id`.

    What stands between any two quotes counts, escaped ones included: a missing quote or a stray backslash turns strings inside out.
    """
    return _strings_in(raw) | {found.group(1).decode() for found in INTEGER_TOKEN.finditer(raw)}


def _strings_in(raw: bytes) -> set[str]:
    pieces = {*_between_quotes(raw), *(piece.rstrip(b"\\") for piece in raw.split(b'"'))}
    return {_unescaped(piece).strip() for piece in pieces}


def _between_quotes(raw: bytes) -> Iterator[bytes]:
    position = 0
    while found := BETWEEN_QUOTES.match(raw, position):
        yield found.group()
        position = found.end() + 1
        if position > len(raw):
            return


def _unescaped(piece: bytes) -> str:
    text = piece.decode("utf-8", "replace")
    if "\\" not in text:
        return text
    text = ESCAPE.sub(lambda found: chr(int(found[1], 16)) if found[1] else SHORT_ESCAPES.get(found[2], found[2]), text)
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # joins the halves of surrogate pairs


class _Refusal(Exception):
    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def _document(raw: RawRecord, drop: str, now: datetime) -> dict[str, Any]:
    if raw.oversized:
        raise _Refusal(Reason.TOO_LARGE, "A record is at most 1 MiB: split it, or leave out what it carries along.")
    fields = _parsed(raw.raw)
    if not isinstance(fields, dict):
        raise _Refusal(Reason.NOT_AN_OBJECT, "A record is a JSON object with user_id, message and timestamp.")
    try:
        record = Record.model_validate(fields)
    except ValidationError as error:
        raise _refusal(error) from None
    at = _utc(record.timestamp)
    if at - now > FUTURE_TOLERANCE:
        raise _Refusal(
            Reason.TIME_IN_FUTURE, "timestamp lies more than a day in the future: check the producer's clock or its unit."
        )
    event = record.event or Event.MESSAGE
    if event is Event.MESSAGE and not record.message:
        raise _Refusal(Reason.MISSING_FIELD, "message is required unless event says that something else happened.")
    document: dict[str, Any] = {
        "user_id": record.user_id,
        "timestamp": at,
        "event": event.value,
        "channel": record.channel or "unknown",
    }
    for name, value in (
        ("message", record.message),
        ("conversation_id", record.conversation_id),
        ("campaign_id", record.campaign_id),
        ("intent", record.intent),
        ("value", record.value),
    ):
        if value is not None and value != "":
            document[name] = value
    if record.model_extra:
        document["attributes"] = _checked_attributes(record.model_extra)
    document["digest"] = _digest(document)
    document["_id"] = record.message_id or f"m_{document['digest']}"
    document["drop"], document["line"] = drop, raw.line
    if record.message:
        document["text_hash"] = text_hash(record.message)
    if record.message or record.intent:
        document["expressive"] = True
    return document


def _parsed(raw: bytes) -> Any:
    try:
        if BIG_INTEGER.search(raw):
            return json.loads(raw.decode("utf-8"), parse_int=_integer, parse_float=_float, parse_constant=_no_constant)
        return orjson.loads(raw)
    except UnicodeDecodeError:
        raise _Refusal(Reason.INVALID_ENCODING, "The record is not valid UTF-8.") from None
    except RecursionError:
        raise _Refusal(Reason.TOO_DEEP, f"The record nests deeper than {MAX_DEPTH} levels.") from None
    except ValueError as error:
        raise _syntax_refusal(raw, error) from None


def _syntax_refusal(raw: bytes, error: ValueError) -> _Refusal:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return _Refusal(Reason.INVALID_ENCODING, "The record is not valid UTF-8.")
    if "depth limit" in str(error):
        return _Refusal(Reason.TOO_DEEP, f"The record nests deeper than {MAX_DEPTH} levels.")
    where = (
        f"line {error.lineno}, column {error.colno} of the record" if isinstance(error, json.JSONDecodeError) else "the record"
    )
    return _Refusal(Reason.INVALID_JSON, f"Not valid JSON at {where}.")


def _integer(digits: str) -> int | str:
    # Python refuses to convert thousands of digits; 20 are beyond 64 bits whatever they are
    return BigInteger(digits) if len(digits) > 20 or (number := int(digits)) not in INT64 else number


def _float(digits: str) -> float:
    if math.isinf(number := float(digits)):
        raise ValueError("a number beyond what a double holds")
    return number


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _refusal(error: ValidationError) -> _Refusal:
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    field = str(first["loc"][0]) if first["loc"] else "record"
    if first["type"] == "missing":
        return _Refusal(Reason.MISSING_FIELD, f"{field} is missing.")
    return _Refusal(Reason.INVALID_FIELD, f"{field}: {first['msg']}.")


def _utc(time: datetime) -> datetime:
    try:
        at = time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except OverflowError:
        raise _Refusal(Reason.INVALID_FIELD, "timestamp: outside the years 1 to 9999.") from None
    return at.replace(microsecond=at.microsecond // 1000 * 1000)  # MongoDB keeps milliseconds


def _checked_attributes(attributes: dict[str, Any]) -> dict[str, Any]:
    waiting: list[tuple[Any, int]] = [(attributes, 1)]
    while waiting:
        value, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise _Refusal(Reason.TOO_DEEP, f"The record nests deeper than {MAX_DEPTH} levels.")
        if isinstance(value, dict):
            if any("\x00" in key for key in value):
                raise _Refusal(Reason.INVALID_FIELD, "A field's name holds a NUL character.")
            waiting.extend((item, depth + 1) for item in value.values() if isinstance(item, dict | list))
        else:
            waiting.extend((item, depth + 1) for item in value if isinstance(item, dict | list))
    return attributes


def _digest(document: dict[str, Any]) -> str:
    try:
        canonical = orjson.dumps(document, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError:
        raise _Refusal(Reason.INVALID_ENCODING, "The record holds half of a surrogate pair: no Unicode text.") from None
    return hashlib.blake2b(canonical, digest_size=16).hexdigest()
