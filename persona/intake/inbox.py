"""What came in over HTTP, as files: written so that they outlive a power cut, gathered into drops. What stands in them is `arrivals`'."""

import errno
import hashlib
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from persona.errors import NoRoom, PersonaError, StoreRefused
from persona.intake.claim import Claimed, sync
from persona.stores._chunks import batches

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
SUFFIX = ".jsonl"
GATHERED = "http-"
"""How the names of drops begin that came in over HTTP."""
GATHERED_FILES, GATHERED_BYTES = 2_000, 64 << 20
"""At most so much makes one drop."""
ABANDONED_SECONDS = 600.0
"""Nobody writes one file for so long: whoever began it is gone."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A file of the inbox: whole, and never changed but to take an erased person out."""

    path: Path
    sha256: str
    """Of its content as it came: the drop that its sender was told."""
    size: int


def keep(lines: bytes, inbox: Path) -> str:
    """Write these lines, one record each, into a file of their own; return their drop's id, when no power cut can take them away.

    Raises `NoRoom` where the disk is full, `StoreRefused` where it cannot be written to for another reason; nothing is left then.
    """
    sha256 = hashlib.sha256(lines).hexdigest()
    target = inbox / f"{time.time_ns():020d}-{sha256}{SUFFIX}"
    unfinished = inbox / f".{uuid.uuid4().hex}"
    try:
        inbox.mkdir(parents=True, exist_ok=True)
        with open(unfinished, "xb") as file:
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, target)
        sync(inbox)
    except OSError as error:
        target.unlink(missing_ok=True)
        raise _in_our_words(error) from error
    finally:
        unfinished.unlink(missing_ok=True)
    return sha256


def arrivals_in(inbox: Path) -> list[Arrival]:
    """What has come in and has not been claimed, oldest first."""
    return sorted(_arrivals(inbox), key=lambda arrival: arrival.path.name)


def remove_abandoned(inbox: Path) -> None:
    """Remove what writers that were killed have left half-written: nobody was told that it is kept."""
    for path in inbox.glob(".*"):
        try:
            if time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
                path.unlink()
        except FileNotFoundError:
            continue


def gathered(arrivals: Sequence[Arrival], into: Path) -> Iterator[tuple[Claimed, list[Arrival]]]:
    """Copy the arrivals to `into/<sha256>`, many to a drop, each with those that it is made of: a drop costs more than a request.

    The names outlive a power cut. Raises `StoreRefused` where the copy cannot be written.
    """
    for part in batches(iter(arrivals), lambda arrival: arrival.size, count=GATHERED_FILES, size=GATHERED_BYTES):
        yield _gathered(part, into), part


def _gathered(part: Sequence[Arrival], into: Path) -> Claimed:
    unfinished = into / f".{uuid.uuid4().hex}"
    digest, size = hashlib.sha256(), 0
    try:
        into.mkdir(parents=True, exist_ok=True)
        with open(unfinished, "xb") as copy:
            for arrival in part:
                lines = arrival.path.read_bytes()
                digest.update(lines)
                size += copy.write(lines)
            copy.flush()
            os.fsync(copy.fileno())
        sha256 = digest.hexdigest()
        if not (into / sha256).exists():  # one that is there may have been rewritten when somebody was erased
            os.replace(unfinished, into / sha256)
        sync(into)
    except OSError as error:
        raise StoreRefused(
            f"cannot gather what came in over HTTP into {into}: {error.strerror}",
            hint="Make room and leave to write under PERSONA_HOME, then run again: it waits.",
        ) from error
    finally:
        unfinished.unlink(missing_ok=True)
    return Claimed(sha256=sha256, name=f"{GATHERED}{sha256[:12]}{SUFFIX}", size=size, path=into / sha256)


def _arrivals(inbox: Path) -> Iterator[Arrival]:
    try:
        entries = list(os.scandir(inbox))
    except FileNotFoundError:
        return
    for entry in entries:
        if entry.name.startswith(".") or not entry.name.endswith(SUFFIX):
            continue
        try:
            size = entry.stat().st_size
        except FileNotFoundError:  # claimed between listing and looking
            continue
        yield Arrival(Path(entry.path), entry.name.removesuffix(SUFFIX).rpartition("-")[2], size)


def _in_our_words(error: OSError) -> PersonaError:
    if error.errno in FULL:
        return NoRoom("the disk of the inbox is full", hint="Make room under PERSONA_HOME.")
    return StoreRefused(f"cannot write into the inbox: {error.strerror}", hint="Give leave to write under PERSONA_HOME.")
