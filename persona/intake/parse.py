"""From a claimed file to the bytes of its records, streamed: gzip, byte order marks, JSON lines, arrays, one object.

A record is cut out by structure alone, so that one that does not parse costs itself and not its neighbours. Whether its content is
a valid record is judged in `records`.
"""

import gzip
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from persona.schemas import Reason

MAX_RECORD_BYTES = 1 << 20
KEPT_BYTES = 64 * 1024
CHUNK_BYTES = 1 << 20
MAX_GZIP_RATIO = 200
"""Text compresses 5 to 20 times; beyond this a file is made to exhaust whoever opens it."""
GZIP_MAGIC = b"\x1f\x8b"
UTF8_MARK = b"\xef\xbb\xbf"
FOREIGN_MARKS = (b"\xff\xfe", b"\xfe\xff")
WHITESPACE = b" \t\r\n"
STRUCTURE = re.compile(rb'["\\\[\]{},]')
IN_STRING = re.compile(rb'["\\]')
LINE_SUFFIXES = (".jsonl", ".ndjson")
SUFFIXES = (".json", *LINE_SUFFIXES)


@dataclass(frozen=True, slots=True)
class RawRecord:
    """The bytes of one record and where they stood."""

    line: int
    offset: int
    """Of its first byte in the decompressed file."""
    raw: bytes
    length: int
    """How many bytes of the decompressed file it takes, white space around it apart."""

    @property
    def oversized(self) -> bool:
        """Larger than a record may be; `raw` is its beginning."""
        return self.length > MAX_RECORD_BYTES


def is_gzip(file: IO[bytes]) -> bool:
    """Whether this is the beginning of a gzip stream; the file stands at its beginning afterwards."""
    found = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    file.seek(0)
    return found


class DropFault(Exception):
    """The file as a whole cannot be read; nothing of it is taken."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def raw_records(path: Path, name: str) -> Iterator[RawRecord]:
    """The records of the drop, in order. `name` is the file's own name; it says which format is meant.

    Raises `DropFault` where the file as a whole is at fault, possibly after records have been yielded.
    """
    stem = name.lower().removesuffix(".gz")
    if not stem.endswith(SUFFIXES):
        raise DropFault(
            Reason.UNSUPPORTED_FILE, "Drops are .json, .jsonl or .ndjson files, each optionally .gz: rename or convert it."
        )
    with open(path, "rb") as file:
        chunks = _without_mark(_chunks(file, path.stat().st_size))
        try:
            first = next(chunks, None)
            if first is None:
                raise DropFault(Reason.EMPTY_FILE, "The file has no content: drop it again when it has been written.")
            stream = _Stream(first, chunks)
            if stem.endswith(LINE_SUFFIXES):
                yield from _lines(stream)
            else:
                yield from _document(stream)
        except EOFError:
            raise DropFault(
                Reason.TRUNCATED_GZIP, "The gzip stream ends early: it was cut off on the way, send it again."
            ) from None
        except (gzip.BadGzipFile, zlib.error):
            raise DropFault(Reason.TRUNCATED_GZIP, "The gzip stream is damaged: send it again.") from None


def records_in(body: bytes) -> Iterator[RawRecord]:
    """The elements of a JSON array, or one value, that is at hand. Raises `DropFault`, possibly after records have been yielded."""
    chunks = _without_mark(iter([body]))
    first = next(chunks, None)
    if first is None:
        raise DropFault(Reason.EMPTY_FILE, "There is nothing in it.")
    yield from _document(_Stream(first, chunks))


class _Stream:
    """Chunks with one byte offset over all of them."""

    def __init__(self, first: tuple[int, bytes], rest: Iterator[tuple[int, bytes]]) -> None:
        self._first: tuple[int, bytes] | None = first
        self._rest = rest

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        if self._first is not None:
            first, self._first = self._first, None
            yield first
        yield from self._rest


def _chunks(file: IO[bytes], size: int) -> Iterator[bytes]:
    compressed = is_gzip(file)
    source = cast(IO[bytes], gzip.GzipFile(fileobj=file)) if compressed else file
    total = 0
    while chunk := source.read(CHUNK_BYTES):
        total += len(chunk)
        if compressed and total > max(size * MAX_GZIP_RATIO, CHUNK_BYTES):
            raise DropFault(
                Reason.GZIP_RATIO, f"It unpacks to over {MAX_GZIP_RATIO} times its size: send it uncompressed if it is meant so."
            )
        yield chunk


def _without_mark(chunks: Iterator[bytes]) -> Iterator[tuple[int, bytes]]:
    """(offset, chunk) without a UTF-8 byte order mark; nothing at all for a file of whitespace."""
    offset, started = 0, False
    for chunk in chunks:
        at, body = offset, chunk
        offset += len(chunk)
        if not started:
            if at == 0 and body.startswith(FOREIGN_MARKS):
                raise DropFault(Reason.INVALID_ENCODING, "The file is UTF-16 or UTF-32: save it as UTF-8.")
            if at == 0 and body.startswith(UTF8_MARK):
                at, body = len(UTF8_MARK), body[len(UTF8_MARK) :]
            if not body.strip(WHITESPACE):
                continue
            started = True
        yield at, body


class _Held:
    """The record at hand, gathered piece by piece; its memory is bounded however long the record is."""

    def __init__(self) -> None:
        self._raw = bytearray()
        self._start = 0
        self._length = 0

    def take(self, offset: int, piece: bytes) -> None:
        """Add the bytes that stand at `offset`; white space before the record is passed over."""
        if not self._length:
            size, piece = len(piece), piece.lstrip(WHITESPACE)
            offset += size - len(piece)
            self._start = offset
        if content := len(piece.rstrip(WHITESPACE)):
            self._length = offset + content - self._start
        if (room := MAX_RECORD_BYTES - len(self._raw)) > 0 and self._length <= MAX_RECORD_BYTES:
            self._raw += piece[:room]

    def cut(self, line: int) -> RawRecord | None:
        """The record, now that it has ended; None where there was nothing but white space."""
        length = self._length
        raw = bytes(self._raw[: length if length <= MAX_RECORD_BYTES else KEPT_BYTES])
        self._raw.clear()
        self._length = 0
        return RawRecord(line, self._start, raw, length) if length else None


def _lines(stream: _Stream) -> Iterator[RawRecord]:
    held, line = _Held(), 0
    for offset, chunk in stream:
        *ended, rest = chunk.split(b"\n")
        for piece in ended:
            line += 1
            held.take(offset, piece)
            offset += len(piece) + 1
            if record := held.cut(line):
                yield record
        held.take(offset, rest)
    if record := held.cut(line + 1):
        yield record


def _document(stream: _Stream) -> Iterator[RawRecord]:
    """A JSON file: the elements of its array, or its one value."""
    chunks = iter(stream)
    offset, chunk = next(chunks)
    body = chunk.lstrip(WHITESPACE)
    offset += len(chunk) - len(body)
    if body[:1] == b"[":
        yield from _elements(offset + 1, body[1:], chunks)
    else:
        yield from _one_value(offset, body, chunks)


def _one_value(offset: int, body: bytes, chunks: Iterator[tuple[int, bytes]]) -> Iterator[RawRecord]:
    held = _Held()
    held.take(offset, body)
    for at, chunk in chunks:
        held.take(at, chunk)
    if record := held.cut(1):
        yield record


def _elements(offset: int, first: bytes, chunks: Iterator[tuple[int, bytes]]) -> Iterator[RawRecord]:
    """Cut an array into its elements, counting brackets outside strings; `offset` is the first byte behind the opening bracket."""
    cutter = _Cutter(offset)
    yield from cutter.feed(first)
    for _, chunk in chunks:
        yield from cutter.feed(chunk)
    cutter.finish()


class _Cutter:
    def __init__(self, offset: int) -> None:
        self._offset = offset  # of the byte behind everything fed so far
        self._held = _Held()
        self._depth = 1
        self._in_string = False
        self._escaped = False
        self._line = 0
        self._after_comma = False

    def feed(self, chunk: bytes) -> Iterator[RawRecord]:
        """The elements that end in this chunk."""
        position, begin, end = 0, 0, len(chunk)
        while position < end:
            if self._escaped:
                self._escaped = False
                position += 1
                continue
            if self._depth == 0:
                if chunk[position:].strip(WHITESPACE):
                    raise DropFault(Reason.INVALID_JSON, "Something follows the closing bracket of the array: one array a file.")
                break
            found = (IN_STRING if self._in_string else STRUCTURE).search(chunk, position)
            if found is None:
                break
            position = found.end()
            token = found.group()
            if token == b'"':
                self._in_string = not self._in_string
            elif token == b"\\":
                self._escaped = True
            elif token in (b"[", b"{"):
                self._depth += 1
            elif token in (b"]", b"}"):
                self._depth -= 1
                if self._depth == 0:
                    if token == b"}":
                        raise DropFault(Reason.INVALID_JSON, "The array is closed by a brace: it was cut or edited by hand.")
                    self._held.take(self._offset + begin, chunk[begin : position - 1])
                    record = self._cut(last=True)
                    if record:
                        yield record
                    begin = position
            elif self._depth == 1:
                self._held.take(self._offset + begin, chunk[begin : position - 1])
                record = self._cut(last=False)
                if record:
                    yield record
                begin = position
        if self._depth:
            self._held.take(self._offset + begin, chunk[begin:])
        self._offset += end

    def finish(self) -> None:
        """The file has ended."""
        if self._depth:
            raise DropFault(Reason.INVALID_JSON, "The array is not closed: the file was cut off, or is still being written.")

    def _cut(self, *, last: bool) -> RawRecord | None:
        record = self._held.cut(self._line + 1)
        if record:
            self._line += 1
        elif self._after_comma or not last:
            raise DropFault(Reason.INVALID_JSON, f"A comma without a value after record {self._line}: remove it.")
        self._after_comma = not last
        return record
