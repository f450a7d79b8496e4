"""A person's id in files: which records of a drop are theirs, which of others mention them. Nothing is changed here."""

import gzip
import re
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import orjson
from pydantic import TypeAdapter

from persona.errors import InvalidInput
from persona.intake.blanking import opened
from persona.intake.parse import CHUNK_BYTES, MAX_GZIP_RATIO, DropFault, RawRecord, raw_records
from persona.intake.records import ERASED_RECORD, whose
from persona.schemas import Id

SHORT_ESCAPES = {'"': rb"\"", "\\": rb"\\", "/": rb"\/", "\b": rb"\b", "\f": rb"\f", "\n": rb"\n", "\r": rb"\r", "\t": rb"\t"}
USER_ID: TypeAdapter[str] = TypeAdapter(Id)
ODD_ESCAPE = re.compile(rb'\\[^"\\/bfnrtu]')
BEFORE = rb"(?:(?<![0-9A-Za-z_])|(?<=\\[bfnrt])|(?<=\\u[0-9A-Fa-f]{4}))"
AFTER = rb"(?![0-9A-Za-z_])"


@dataclass
class Found:
    """What a drop's file holds of a person. Lines are numbers of records, from 1."""

    read: int = 0
    theirs: list[int] = field(default_factory=list)
    mentions: list[int] = field(default_factory=list)
    """Records of others in whose words the id stands."""
    erased: int = 0
    """Records, of whomever, that were erased before."""
    unreadable: bool = False
    """It is no drop that could be read to its end, and the id stands in it."""

    def __bool__(self) -> bool:
        return bool(self.theirs or self.unreadable)


class Identifier:
    """An id as it may stand in bytes: as UTF-8, or with any of its characters escaped as JSON allows."""

    def __init__(self, user_id: str) -> None:
        """Raises `InvalidInput` for what no record could have as its `user_id`."""
        try:
            self.user_id = USER_ID.validate_python(user_id)
            user_id = self.user_id.encode().decode()
        except ValueError:
            raise InvalidInput("no user id: 1 to 256 characters of Unicode, no NUL", hint="Ids are compared exactly.") from None
        self._plain = user_id.encode()
        self._escape = b"\\" if not SHORT_ESCAPES.keys().isdisjoint(user_id) else rb"\u"
        spelled = b"".join(map(_spellings, user_id))
        self._word = re.compile(BEFORE + spelled + AFTER)
        self._token = re.compile(
            rb'"\s*'
            + spelled
            + rb'\s*"'
            + (rb"|(?<![0-9.])" + self._plain + rb"(?![0-9.])") * bool(re.fullmatch("-?[0-9]+", user_id))
        )
        self._foreign = tuple(user_id.encode(encoding) for encoding in ("utf-16-le", "utf-16-be"))
        self._longest = 12 * len(user_id) + 16

    def masked(self, text: str) -> str:
        """The text with `[erased]` where the id stands in it."""
        return self._word.sub(b"[erased]", text.encode(errors="surrogateescape")).decode(errors="surrogateescape")

    def may_stand_in(self, content: bytes) -> bool:
        """False where the id cannot stand, however it is written."""
        # an escape that JSON does not know stands for its character in lines that do not parse: see `records.names_in`
        return self._plain in content or self._escape in content or ODD_ESCAPE.search(content) is not None

    def stands_in(self, content: bytes) -> bool:
        """Whether the id stands there as a word."""
        return (self._plain in content or b"\\u" in content or b"\\" in self._plain) and self._word.search(content) is not None

    def owns(self, raw: bytes) -> bool:
        """Whether the line is, or may be, this person's record."""
        return self.may_stand_in(raw) and self.user_id in whose(raw)

    def is_named_between(self, path: Path, offset: int, length: int) -> bool:
        """Whether the id is a value in these bytes of the decompressed file."""
        return self._is_between(self._token, path, offset, length)

    def stands_between(self, path: Path, offset: int, length: int) -> bool:
        """Whether the id stands as a word in these bytes of the decompressed file."""
        return self._is_between(self._word, path, offset, length)

    def _is_between(self, pattern: re.Pattern[bytes], path: Path, offset: int, length: int) -> bool:
        with opened(path) as content:
            content.seek(offset)
            tail = b""
            while length > 0 and (chunk := content.read(min(CHUNK_BYTES, length))):
                length -= len(chunk)
                tail += chunk
                if pattern.search(tail):
                    return True
                tail = tail[-self._longest :]
        return False

    def may_stand_in_file(self, path: Path) -> bool:
        """False where the id cannot stand in the file, as far as it can be unpacked."""
        return any(self.may_stand_in(window) for window in _windows(path, len(self._plain)))

    def stands_in_file(self, path: Path) -> bool:
        """Whether the id stands in the file, whatever it is, as far as it can be unpacked."""
        return any(
            self.stands_in(window) or any(foreign in window for foreign in self._foreign)
            for window in _windows(path, self._longest)
        )


def search(path: Path, name: str, identifier: Identifier) -> Found:
    """What the drop's file holds of this person; `name` says its format."""
    found = Found()
    oversized: list[RawRecord] = []
    try:
        for raw in raw_records(path, name):
            found.read += 1
            if raw.raw == ERASED_RECORD:
                found.erased += 1
            elif identifier.owns(raw.raw):
                found.theirs.append(raw.line)
            elif raw.oversized:
                oversized.append(raw)
            elif identifier.stands_in(raw.raw):
                found.mentions.append(raw.line)
    except DropFault:
        return Found(unreadable=identifier.stands_in_file(path))
    for raw in oversized:
        if identifier.is_named_between(path, raw.offset, raw.length):
            found.theirs.append(raw.line)
        elif identifier.stands_between(path, raw.offset, raw.length):
            found.mentions.append(raw.line)
    found.theirs.sort()
    found.mentions.sort()
    return found


def format_of(path: Path) -> str | None:
    """The name under which a drop whose own name is lost can be read to its end; None where no record of it is a JSON object."""
    for name in ("copy.json", "copy.jsonl"):
        with suppress(DropFault):
            if sum(_is_object(raw.raw) for raw in raw_records(path, name)):
                return name
    return None


def _is_object(raw: bytes) -> bool:
    try:
        return isinstance(orjson.loads(raw), dict)
    except ValueError:
        return False


def _windows(path: Path, overlap: int) -> Iterator[bytes]:
    """The decompressed file in chunks that overlap; up to where it is damaged, or unpacks beyond reason."""
    limit = max(path.stat().st_size * MAX_GZIP_RATIO, CHUNK_BYTES)
    tail, total = b"", 0
    try:
        with opened(path) as content:
            while total <= limit and (chunk := content.read(CHUNK_BYTES)):
                total += len(chunk)
                window = tail + chunk
                yield window
                tail = window[-overlap:]
    except (EOFError, gzip.BadGzipFile, zlib.error):
        return


def _spellings(character: str) -> bytes:
    units = character.encode("utf-16-be")
    escaped = b"".join(rb"\\u(?i:%04x)" % int.from_bytes(units[at : at + 2]) for at in range(0, len(units), 2))
    ways = [re.escape(character.encode()), escaped]
    if character in SHORT_ESCAPES:
        ways.append(re.escape(SHORT_ESCAPES[character]))
    return b"(?:" + b"|".join(ways) + b")"
