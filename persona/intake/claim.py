"""From a watched folder to claimed copies: which files have settled, and one safe copy of each under its content's hash."""

import hashlib
import os
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from persona.errors import StoreRefused

UNFINISHED_SUFFIXES = (".tmp", ".part", ".partial", ".crdownload", ".swp")
COPY_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class WatchedFile:
    """A file that has settled."""

    path: Path
    signature: str
    """inode, size, mtime and ctime: the same signature means the same content was there."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """A copy of ours: from now on the source may vanish."""

    sha256: str
    name: str
    size: int
    path: Path


def settled_files(folder: Path, *, settle_seconds: float, now: float | None = None) -> Iterator[WatchedFile]:
    """The regular files of the folder that nobody has touched for `settle_seconds`, by name.

    Hidden and unfinished files (`.tmp`, `.part`, …) are left alone, as are folders and links that lead out of the folder. Age counts
    from ctime: it moves with every write and rename, and a producer cannot set it back.
    """
    now = time.time() if now is None else now
    root = folder.resolve()
    try:
        entries = sorted(os.scandir(root), key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    for entry in entries:
        if entry.name.startswith(".") or entry.name.endswith(UNFINISHED_SUFFIXES):
            continue
        try:
            stat = entry.stat()
            inside = not entry.is_symlink() or Path(entry.path).resolve().is_relative_to(root)
            regular = entry.is_file()
        except OSError:  # it vanished between listing and looking
            continue
        if regular and inside and now - stat.st_ctime >= settle_seconds:
            yield WatchedFile(Path(entry.path), _signature(stat))


def watched(path: Path) -> WatchedFile:
    """A file as it is now, wherever it lies and however lately it was written. Raises `OSError` where it is not there."""
    return WatchedFile(path, _signature(path.stat()))


def claim(file: WatchedFile, into: Path) -> Claimed | None:
    """Copy the file to `into/<sha256>` while hashing; None when it vanished, changed meanwhile or may not be read.

    The name outlives a power cut once `into` has been through `sync`. Raises `StoreRefused` when the copy cannot be written.
    """
    try:
        with open(file.path, "rb", opener=_at_once) as source:
            return _copied(file, source, into)
    except OSError:  # of the source: what is wrong with our copies is raised in our own words
        return None


def _at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe that took the file's place would be waited for


def sync(path: Path) -> None:
    """Make a file's content, or the names in a folder, outlive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """Of the file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _copied(file: WatchedFile, source: IO[bytes], into: Path) -> Claimed | None:
    unfinished = into / f".{uuid.uuid4().hex}"
    digest = hashlib.sha256()
    try:
        into.mkdir(parents=True, exist_ok=True)
        if _signature(os.fstat(source.fileno())) != file.signature:
            return None
        with open(unfinished, "xb") as copy:
            while chunk := _read(source):
                digest.update(chunk)
                copy.write(chunk)
            copy.flush()
            os.fsync(copy.fileno())
        after = os.fstat(source.fileno())
        if _signature(after) != file.signature:
            return None
        sha256 = digest.hexdigest()
        if not (into / sha256).exists():  # one that is there may have been rewritten when somebody was erased
            os.replace(unfinished, into / sha256)
        return Claimed(sha256=sha256, name=file.path.name, size=after.st_size, path=into / sha256)
    except _NotReadable:
        return None
    except OSError as error:
        raise StoreRefused(
            f"cannot copy a drop into {into}: {error.strerror}",
            hint="Make room and leave to write under PERSONA_HOME, then run again: the drop waits.",
        ) from error
    finally:
        unfinished.unlink(missing_ok=True)


class _NotReadable(Exception):
    pass


def _read(source: IO[bytes]) -> bytes:
    try:
        return source.read(COPY_BYTES)
    except OSError as error:  # of the source's disk or share: its trouble, not that of our copies or of other drops
        raise _NotReadable from error


def _signature(stat: os.stat_result) -> str:
    return f"{stat.st_ino}:{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}"
