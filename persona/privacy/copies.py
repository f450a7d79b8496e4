"""Erasing a person from files: our claimed copies of drops, the watched folder, the catalog folder. Stores are erased elsewhere.

Each file is replaced at once by one that lacks the person, so that an interruption leaves either, and the ledger is told before.
"""

import json
import os
import re
import stat
from collections.abc import Collection, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from persona.errors import InvalidInput
from persona.intake.blanking import blanked, replaced
from persona.intake.catalogs import read_catalog
from persona.intake.claim import WatchedFile, settled_files, watched
from persona.intake.inbox import arrivals_in
from persona.intake.parse import DropFault
from persona.pipeline.lease import Lease
from persona.privacy.search import Found, Identifier, format_of, search
from persona.settings import Settings
from persona.stores.documents import Documents
from persona.stores.documents.ledger import Counts, Entry

NOTHING = b""
UNFINISHED = re.compile(r"\.[0-9a-f]{32}\.part")
"""What `blanking` calls the file that is to take another's place."""


@dataclass(frozen=True, slots=True)
class CopyFound:
    """One claimed copy that holds the person, or their name in others' words."""

    path: Path
    entry: Entry | None
    """None for a copy that the ledger does not know, as after a restore of an older backup."""
    name: str | None
    """The file name that says its format; None where nobody knows one under which it can be read."""
    found: Found


@dataclass(frozen=True, slots=True)
class Source:
    """A file of a watched folder that held the person."""

    path: Path
    rewritten: bool
    why: Literal[
        "", "read-only", "not readable", "not a drop that can be read", "not a catalog that can be read", "still being written"
    ] = ""


def claimed_copies(settings: Settings) -> list[Path]:
    """All of them, whatever the ledger says."""
    return sorted(path for path in settings.claimed_drops.glob("[!.]*") if path.is_file())


def as_they_were_claimed(documents: Documents, copies: Iterable[Path]) -> set[str]:
    """The drops of those copies that have never been rewritten."""
    sizes = {path.name: path.stat().st_size for path in copies}
    return {entry.id for entry in documents.ledger.get(list(sizes)) if not entry.aliases and entry.size == sizes[entry.id]}


def find_in_copies(copies: Iterable[Path], documents: Documents, identifier: Identifier) -> list[CopyFound]:
    """Those of these claimed copies that hold this person or mention them."""
    candidates = [path for path in copies if identifier.may_stand_in_file(path)]
    entries = {entry.id: entry for entry in documents.ledger.get([path.name for path in candidates])}
    finds: list[CopyFound] = []
    for path in candidates:
        entry = entries.get(path.name)
        name = entry.name if entry else format_of(path)
        found = search(path, name, identifier) if name else Found(unreadable=identifier.stands_in_file(path))
        if found or found.mentions:
            finds.append(CopyFound(path, entry, name, found))
    return finds


def erase_from_copy(documents: Documents, copy: CopyFound, *, of_user: int, run_id: str) -> None:
    """Blank the person's records in this copy and count them as erased; `of_user` of its accepted ones are stored as theirs.

    A copy that cannot be read as a drop becomes empty; where the ledger does not know it either, it is removed.
    """
    if copy.entry is None:
        if copy.name is None or copy.found.unreadable:
            copy.path.unlink()
        else:
            with blanked(copy.path, copy.name, copy.found.theirs):
                pass
    elif copy.found.unreadable:
        with replaced(copy.path, NOTHING):
            counts = _counts(documents, copy.entry, None, of_user)
            what = "emptied: it named an erased person and could not be read record by record"
            documents.ledger.recount(copy.entry.id, counts, what=what, run_id=run_id)
    else:
        with blanked(copy.path, copy.entry.name, copy.found.theirs) as content:
            documents.ledger.add_alias(copy.entry.id, content)
            documents.quarantine.remove(copy.entry.id, copy.found.theirs)
            counts = _counts(documents, copy.entry, copy.found, of_user)
            what = f"{len(copy.found.theirs)} records of one person erased"
            documents.ledger.recount(copy.entry.id, counts, what=what, run_id=run_id)


def recount_without_copy(documents: Documents, entry: Entry, *, of_user: int, quarantined_of_user: int, run_id: str) -> None:
    """Count this person's records and quarantined lines of a drop as erased where its copy is gone. Remove them afterwards."""
    counts = _counts(documents, entry, None, of_user, quarantined_of_user)
    if counts != entry.counts:
        documents.ledger.recount(entry.id, counts, what="records of one person erased", run_id=run_id)


def _counts(documents: Documents, entry: Entry, found: Found | None, of_user: int, quarantined_of_user: int = 0) -> Counts:
    """Absolute, not grown: counted again after an interruption they are the same."""
    read, before = entry.counts.read, entry.counts
    if not read:
        return before
    if entry.state in ("held", "discarded"):
        erased = found.erased + len(found.theirs) if found else before.erased
        return Counts(read=read, quarantined=read - erased, erased=erased)
    accepted = documents.records.count([entry.id]) - of_user
    quarantined = documents.quarantine.count([entry.id]) - quarantined_of_user
    duplicate = before.duplicate
    if found:
        duplicate = read - accepted - quarantined - found.erased - len(found.theirs)
    return Counts(read, accepted, duplicate, quarantined, read - accepted - duplicate - quarantined)


# -- the watched folders ----------------------------------------------------------------------------------------------------


def erase_from_sources(
    settings: Settings, documents: Documents, identifier: Identifier, lease: Lease, *, clean: Collection[str]
) -> list[Source]:
    """Blank the person's records in the files of the drop folder and of the inbox, and take them out of the catalog folder's.

    `clean` are the drops whose copies are as they were claimed and do not hold the person: their files need not be read.
    """
    sources = _remove_unfinished(settings.drops, settings.catalog, settings.inbox)
    sources += _erase_from_inbox(settings, identifier, lease)
    settled = {file.path for file in settled_files(settings.drops, settle_seconds=settings.settle_seconds)}
    files = {str(file.path): file for file in settled_files(settings.drops, settle_seconds=0)}
    changed = set(documents.ledger.unseen({path: file.signature for path, file in files.items()}))
    for path, file in files.items():
        # what a file has become since it was claimed is no drop yet: blanked, it will be one
        entry = documents.ledger.entry_of_file(path) if path not in changed else None
        if entry in clean:
            continue
        try:
            if not identifier.may_stand_in_file(file.path) or not (found := search(file.path, file.path.name, identifier)):
                continue
            lease.check()
            sources.append(_erase_from_drop(documents, file, found, entry, settled=file.path in settled))
        except FileNotFoundError:
            continue
        except PermissionError:
            sources.append(Source(file.path, rewritten=False, why="not readable"))
    for file in settled_files(settings.catalog, settle_seconds=0):
        try:
            content = file.path.read_bytes()
            entries = _entries(file.path, content)
            kept = [entry for entry in entries if _customer_id(entry) != identifier.user_id]
            if len(kept) < len(entries):
                lease.check()
                sources.append(_erase_from_catalog(documents, file, kept))
            elif identifier.stands_in_file(file.path) and not _is_catalog(file.path, content):
                sources.append(Source(file.path, rewritten=False, why="not a catalog that can be read"))
        except FileNotFoundError:
            continue
        except PermissionError:
            sources.append(Source(file.path, rewritten=False, why="not readable"))
    return sources


def _erase_from_inbox(settings: Settings, identifier: Identifier, lease: Lease) -> Iterator[Source]:
    """What came in since the inbox was claimed; it keeps the ids that its senders were told."""
    for path in (arrival.path for arrival in arrivals_in(settings.inbox)):
        if found := search(path, path.name, identifier):
            lease.check()
            with blanked(path, path.name, found.theirs):
                yield Source(path, rewritten=True)


def _remove_unfinished(*folders: Path) -> list[Source]:
    """Remove what erasures that were killed have left half-written, everybody's lines in it; the lease says nobody writes now."""
    kept: list[Source] = []
    for path in (path for folder in folders for path in folder.glob(".*.part") if UNFINISHED.fullmatch(path.name)):
        try:
            path.unlink(missing_ok=True)
        except OSError:
            kept.append(Source(path, rewritten=False, why="read-only"))
    return kept


def _erase_from_drop(documents: Documents, file: WatchedFile, found: Found, entry: str | None, *, settled: bool) -> Source:
    if not settled:  # its producer would go on writing into the old file
        return Source(file.path, rewritten=False, why="still being written")
    if found.unreadable:
        return Source(file.path, rewritten=False, why="not a drop that can be read")
    return _rewrite(documents, file, blanked(file.path, file.path.name, found.theirs), entry, alias=True)


def _erase_from_catalog(documents: Documents, file: WatchedFile, kept: list[Any]) -> Source:
    path = str(file.path)
    # what has not been loaded yet is loaded next, without the person
    entry = None if documents.ledger.unseen({path: file.signature}) else documents.ledger.entry_of_file(path)
    content = json.dumps(kept, indent=2, ensure_ascii=False).encode()
    return _rewrite(documents, file, replaced(file.path, content), entry, alias=False)


def _rewrite(
    documents: Documents, file: WatchedFile, rewritten: AbstractContextManager[str], entry: str | None, *, alias: bool
) -> Source:
    """Put the new content in place of a file that is still as it was; with `alias` the ledger knows its entry by it too."""
    if _is_read_only(file.path):
        return Source(file.path, rewritten=False, why="read-only")
    try:
        with rewritten as content:
            _make_sure_it_is_still(file)
            if entry and alias:
                documents.ledger.add_alias(entry, content)
    except (_Replaced, DropFault):
        return Source(file.path, rewritten=False, why="still being written")
    except FileNotFoundError:
        raise
    except OSError:
        return Source(file.path, rewritten=False, why="read-only")
    _remember(documents, file.path, entry)
    return Source(file.path, rewritten=True)


class _Replaced(Exception):
    """Its producer put another content there while this one was looked at."""


def _make_sure_it_is_still(file: WatchedFile) -> None:
    if watched(file.path) != file:
        raise _Replaced


def _remember(documents: Documents, path: Path, entry: str | None) -> None:
    """Let the file count as seen: what is in it now came from nobody but us."""
    if entry:
        documents.ledger.remember_file(str(path), watched(path).signature, entry)


def _is_catalog(path: Path, content: bytes) -> bool:
    try:
        read_catalog(content, name=path.name)
    except InvalidInput:
        return False
    return path.suffix == ".json"


def _entries(path: Path, content: bytes) -> list[Any]:
    if path.suffix != ".json":
        return []
    try:
        entries = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return []
    return entries if isinstance(entries, list) else []


def _customer_id(entry: Any) -> str | None:
    user_id = entry.get("user_id") if isinstance(entry, dict) else None
    return None if user_id is None or isinstance(user_id, bool) else str(user_id).strip()


def _is_read_only(path: Path) -> bool:
    return not path.stat().st_mode & stat.S_IWUSR or not os.access(path.parent, os.W_OK)
