"""Taking records out of a drop's file: a mark stands where each stood, so lines keep their numbers. Which ones is decided elsewhere."""

import gzip
import hashlib
import os
import shutil
import uuid
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, cast

from persona.intake.claim import sha256_of, sync
from persona.intake.parse import CHUNK_BYTES, MAX_GZIP_RATIO, is_gzip, raw_records
from persona.intake.records import ERASED_RECORD

STORED, COMPRESSED = 0, 6
Extent = tuple[int, int]
"""Offset and length, in bytes of the decompressed file."""


@contextmanager
def blanked(path: Path, name: str, lines: Collection[int]) -> Iterator[str]:
    """Write the file anew with `ERASED_RECORD` in place of these records; it takes the file's place when the block ends well.

    Yields the new content's SHA-256, so that it can be made known before. `name` says the format, as in `raw_records`; a compressed
    file stays compressed. Raises `DropFault` where the file cannot be read to its end, `OSError` where it cannot be written.
    """
    wanted = frozenset(lines)
    extents = [(raw.offset, raw.length) for raw in raw_records(path, name) if raw.line in wanted]
    with _replacing(path) as unfinished:
        _rewrite(path, unfinished, extents)
        yield sha256_of(unfinished)


@contextmanager
def replaced(path: Path, content: bytes) -> Iterator[str]:
    """Let the file have this content when the block ends well; yields its SHA-256. Raises `OSError` where it cannot be written."""
    with _replacing(path) as unfinished:
        unfinished.write_bytes(content)
        yield hashlib.sha256(content).hexdigest()


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The file's content, decompressed where it is gzip."""
    with open(path, "rb") as file:
        if not is_gzip(file):
            yield file
            return
        with gzip.GzipFile(fileobj=file) as unpacked:
            yield cast(IO[bytes], unpacked)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    unfinished = path.with_name(f".{uuid.uuid4().hex}.part")  # hidden: whoever watches the folder leaves it alone
    try:
        yield unfinished
        sync(unfinished)
        shutil.copymode(path, unfinished)
        owner = path.stat()
        with suppress(PermissionError):
            os.chown(unfinished, owner.st_uid, owner.st_gid)
        os.replace(unfinished, path)
        sync(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)


def _rewrite(path: Path, target: Path, extents: Sequence[Extent]) -> None:
    with open(path, "rb") as file:
        compressed = is_gzip(file)
    if not compressed:
        with open(target, "wb") as copy:
            _copy(path, copy, extents)
        return
    size = _compress(path, target, extents, COMPRESSED)
    # thousands of equal marks compress so well that the file would be taken for one made to exhaust its reader
    if size > max(target.stat().st_size * MAX_GZIP_RATIO, CHUNK_BYTES):
        _compress(path, target, extents, STORED)


def _compress(path: Path, target: Path, extents: Sequence[Extent], level: int) -> int:
    with open(target, "wb") as file, gzip.GzipFile(filename="", mode="wb", fileobj=file, compresslevel=level, mtime=0) as copy:
        return _copy(path, cast(IO[bytes], copy), extents)


def _copy(path: Path, copy: IO[bytes], extents: Sequence[Extent]) -> int:
    """Copy all but the extents, which are in order; return how many bytes were written."""
    written = 0
    with opened(path) as source:
        position = 0
        for offset, length in extents:
            written += _pass(source, copy, offset - position) + copy.write(ERASED_RECORD)
            _pass(source, None, length)
            position = offset + length
        return written + _pass(source, copy, None)


def _pass(source: IO[bytes], copy: IO[bytes] | None, length: int | None) -> int:
    done = 0
    while length is None or done < length:
        chunk = source.read(CHUNK_BYTES if length is None else min(CHUNK_BYTES, length - done))
        if not chunk:
            break
        if copy is not None:
            copy.write(chunk)
        done += len(chunk)
    return done
