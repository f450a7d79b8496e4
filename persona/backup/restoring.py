"""Restoring a backup: the truth as it was, whoever has been erased since left out, and every projection computed from it."""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, islice
from pathlib import Path
from typing import Any

import structlog

from persona.backup.manifest import COLLECTIONS, DROPS, HISTORY, Manifest, read_manifest, verify
from persona.errors import InvalidInput, StoreRefused, StoreUnavailable
from persona.intake.claim import sync
from persona.intake.parse import DropFault, raw_records
from persona.intake.records import names_in, whose
from persona.language.encoder import Encoder
from persona.pipeline.draining import RESTORE, Pipeline
from persona.pipeline.lease import Lease
from persona.pipeline.rebuilding import REBUILDABLE, rebuild
from persona.pipeline.stages import PROJECTIONS
from persona.privacy.erasure import erase_under
from persona.settings import Settings
from persona.stores.documents import Documents, dumping
from persona.stores.documents.tombstones import KEYS, tombstone_of
from persona.stores.opening import Stores

STATE, TOMBSTONES = "state", "tombstones"
MERGED = (STATE, TOMBSTONES, "erasures", "backups")
"""What neither side may lose."""
PEOPLE_AT_ONCE = 5_000
SEARCHED_BYTES = 64 << 20
"""Of a copy that cannot be read record by record."""
Progress = Callable[[str], None]
Document = dict[str, Any]
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore did."""

    at: datetime
    """The truth is as it was then, UTC."""
    documents: int
    drops: int
    erased_again: int
    """People who were erased after the backup was made."""
    not_in_backup: list[str]
    """Drops that were here and came after the backup; their claimed copies stay."""


def restore(
    folder: Path,
    settings: Settings,
    stores: Stores,
    encoder: Encoder,
    *,
    run_id: str,
    replace: bool = False,
    progress: Progress = lambda what: None,
) -> Restored:
    """Put the truth of the backup in `folder` in the place of what is there, under the lease, and compute every projection from it.

    Interrupted, it is finished by being run again; once the truth is being replaced, nothing else gets the lease before.

    Raises `NotFound` where there is no backup, `InvalidInput` where it is damaged, or where there is a truth already and `replace` is
    not said; nothing is changed then. Raises `Busy` where another run holds the lease.
    """
    folder = folder.expanduser().absolute()
    documents = stores.documents
    manifest = read_manifest(folder)
    progress("checksums")
    verify(folder, manifest)
    pipeline = Pipeline(settings, documents, stores.warehouse, stores.cache)
    with pipeline.recorded(run_id, RESTORE) as count, pipeline.lease(run_id, RESTORE) as lease:
        begun = replace or documents.rebuilds.run_of(RESTORE)
        if not begun and (records := documents.records.count()) + len(before := documents.ledger.ids("drop")):
            raise InvalidInput(
                f"there are {records} records of {len(before)} drops here already",
                hint="`--replace` puts the backup in their place; `persona backup` keeps them before.",
            )
        newer = sorted(set(documents.ledger.ids("drop")) - set(_ids(folder, "ledger")))
        try:
            _load_truth(folder, manifest, documents, lease, progress)
            lease.check()
            documents.rebuilds.begin(RESTORE, run_id=run_id, token=lease.token)
            for asset in REBUILDABLE:
                documents.rebuilds.end(asset)  # one that is under way has computed from another truth
            _put_drops(folder, manifest, settings, lease, progress)
            lease.check()
            dumping.use_beside(documents)
        finally:
            dumping.drop_beside(documents)
        _forget_what_came_in(stores)
        stores.warehouse.take_in_history(json.loads((folder / HISTORY).read_text()))
        documents.ledger.reopen(PROJECTIONS)  # the backup's marks say what other servers hold
        documents.backups.note(str(folder), at=manifest.at)
        erased = _erase_again(folder, settings, stores, lease, run_id=run_id, progress=progress)
        for asset in PROJECTIONS:
            progress(f"computing {asset}")
            told = _counted(progress)
            rebuild(asset, pipeline, stores, encoder, run_id=run_id, progress=told, lease=lease)
        _drop_unknown_collections(stores)
        documents.rebuilds.end(RESTORE)
        count(sum(manifest.collections.values()))
    return Restored(manifest.at, sum(manifest.collections.values()), manifest.drops, erased, newer)


def _forget_what_came_in(stores: Stores) -> None:
    """It belongs to another truth; the service puts back what waits to be applied to this one."""
    try:
        stores.cache.live.clear()
    except (StoreUnavailable, StoreRefused) as error:
        log.warning("what_came_in_not_forgotten", error=error.message)


def _put_drops(folder: Path, manifest: Manifest, settings: Settings, lease: Lease, progress: Progress) -> None:
    settings.claimed_drops.mkdir(parents=True, exist_ok=True)
    for number, file in enumerate(sorted((folder / DROPS).iterdir()), 1):
        if number % 100 == 1:
            lease.check()
            progress(f"claimed drops: {number} of {manifest.drops}")
        unfinished = settings.claimed_drops / f".{file.name}.part"
        shutil.copyfile(file, unfinished)
        os.replace(unfinished, settings.claimed_drops / file.name)
    sync(settings.claimed_drops)


def _load_truth(folder: Path, manifest: Manifest, documents: Documents, lease: Lease, progress: Progress) -> None:
    dumping.drop_beside(documents)  # what one that was killed has left
    for name in sorted({*manifest.collections, *MERGED}):
        lease.check()
        progress(f"collection {name}")
        file = folder / COLLECTIONS / f"{name}.bson"
        contents: Iterable[Any] = dumping.read(file) if file.exists() else ()
        if name in MERGED:
            contents = _merged(name, list(map(dumping.decoded, contents)), dumping.everything(documents, name))
        dumping.load_beside(documents, name, contents)


def _merged(name: str, theirs: list[Document], ours: list[Document]) -> list[Document]:
    """The backup's documents and those that are here, one of each id."""
    restored = {document["_id"]: document for document in theirs}
    if name == STATE:
        return _merged_state(restored, {document["_id"]: document for document in ours})
    for document in ours:
        known = restored.get(document["_id"])
        if known is None or name != TOMBSTONES or known["at"] < document["at"]:
            restored[document["_id"]] = document
    return list(restored.values())


def _merged_state(restored: dict[str, Document], ours: dict[str, Document]) -> list[Document]:
    """The backup's, but for the vector collections, which are those that are here, and for what may only grow."""
    restored.pop("collections", None)
    if collections := ours.get("collections"):
        restored["collections"] = collections | {"to_fill": collections["in_use"]}
        if collections["to_fill"] != collections["in_use"]:
            retired = {"version": collections["to_fill"], "at": datetime.now(UTC)}
            restored["collections"]["retired"] = [*collections.get("retired", ()), retired]
    keys = [key for side in (ours, restored) for key in side.get(KEYS, {}).get("keys", ())]
    if keys:
        restored[KEYS] = {"_id": KEYS, "keys": list(dict.fromkeys(keys))}
    versions = [side["catalog"]["version"] for side in (ours, restored) if "catalog" in side]
    restored["catalog"] = {
        "_id": "catalog",
        "version": max(versions, default=0) + 1,
    }  # serving notices the catalog by its version
    return list(restored.values())


def _drop_unknown_collections(stores: Stores) -> None:
    """Remove the vectors of a truth that is gone: what the server has and nothing here names, or all where nothing is embedded."""
    embeddings = stores.documents.embeddings
    named = embeddings.collections_named() if embeddings.model() else []
    for version in set(stores.vectors.versions()) - set(named):
        stores.vectors.at(version).drop()


# -- who has been erased since ------------------------------------------------------------------------------------------------


def _erase_again(folder: Path, settings: Settings, stores: Stores, lease: Lease, *, run_id: str, progress: Progress) -> int:
    """Erase those whom the backup does not know to be erased, or to be erased so late; return how many there are."""
    documents = stores.documents
    then = {document["_id"]: document["at"] for document in _decoded(folder, TOMBSTONES)}
    keys_then = [bytes(key) for document in _decoded(folder, STATE) if document["_id"] == KEYS for key in document["keys"]]
    since = {tombstone: at for tombstone, at in documents.tombstones.all() if tombstone not in then or then[tombstone] < at}
    if not since:
        return 0
    progress("looking for people who were erased since")
    erased: set[str] = set()
    people = chain(
        _users(documents),
        _ids(folder, "customers"),
        (name for line in _decoded(folder, "quarantine") for name in whose(bytes(line["raw"]))),
        _people_in_copies(settings, documents),
    )
    while part := set(islice(people, PEOPLE_AT_ONCE)):
        for user_id, at in documents.tombstones.times(part - erased).items():
            known = [then[tombstone] for key in keys_then if (tombstone := tombstone_of(user_id, key)) in then]
            if not known or max(known) < at:
                erased.add(user_id)
    for number, user_id in enumerate(sorted(erased), 1):
        progress(f"erasing {number} of {len(erased)} people again")
        erase_under(lease, user_id, settings, stores, run_id=run_id, again=True)
    return len(erased)


def _users(documents: Documents) -> Iterator[str]:
    last = ""
    while users := documents.records.users_after(last, limit=PEOPLE_AT_ONCE):
        yield from users
        last = users[-1]


def _people_in_copies(settings: Settings, documents: Documents) -> Iterator[str]:
    for entry in documents.ledger.get(documents.ledger.ids("drop")):
        copy = settings.claimed_drops / entry.id
        if not copy.is_file():
            continue
        try:
            for raw in raw_records(copy, entry.name):
                yield from whose(raw.raw)
        except DropFault:
            with open(copy, "rb") as file:
                yield from names_in(file.read(SEARCHED_BYTES))


def _ids(folder: Path, name: str) -> Iterator[str]:
    return (document["_id"] for document in _decoded(folder, name))


def _decoded(folder: Path, name: str) -> Iterator[Document]:
    file = folder / COLLECTIONS / f"{name}.bson"
    return map(dumping.decoded, dumping.read(file)) if file.exists() else iter(())


def _counted(progress: Progress) -> Callable[[str, int], None]:
    return lambda what, done: progress(f"{what}: {done:,}")
