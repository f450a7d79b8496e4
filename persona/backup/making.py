"""Making a backup: the whole truth in a folder, whole or not there. Projections are left out: they are computed from it."""

import json
import platform
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from persona.backup.manifest import (
    COLLECTIONS,
    DROPS,
    FORMAT,
    HISTORY,
    MANIFEST,
    SEAL,
    SETTINGS,
    Manifest,
    Part,
)
from persona.errors import InvalidInput, PersonaError
from persona.intake.claim import sha256_of, sync
from persona.intake.drops import claim_inbox
from persona.pipeline.draining import Pipeline
from persona.pipeline.lease import Lease
from persona.pipeline.stages import CODE_VERSIONS
from persona.settings import Settings
from persona.stores.documents import dumping
from persona.stores.opening import Stores

Progress = Callable[[str], None]


def back_up(folder: Path, settings: Settings, stores: Stores, *, run_id: str, progress: Progress = lambda what: None) -> Manifest:
    """Put everything that cannot be computed into `folder`, under the lease; return its manifest.

    Raises `InvalidInput` where the folder holds something already or is where a disk is mounted, `Busy` where another run holds the
    lease.
    """
    folder = folder.expanduser().absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidInput(f"{folder} is not empty", hint="A backup goes into a folder of its own, which need not exist.")
    if folder.is_mount():  # it is written beside and renamed, which a mount point cannot be
        raise InvalidInput(f"a disk is mounted at {folder}", hint="Name a folder in it.")
    pipeline = Pipeline(settings, stores.documents, stores.warehouse, stores.cache)
    with pipeline.recorded(run_id, "backup") as count, pipeline.lease(run_id, "backup") as lease:
        claim_inbox(pipeline, run_id=run_id)  # what was accepted over HTTP is part of the truth
        at = datetime.now(UTC)
        _remove_unfinished(stores, at)
        stores.documents.backups.note(str(folder), at=at)  # first: an erasure has to know of whatever there may be
        unfinished = _unfinished(folder)
        try:
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True, mode=0o700)
            manifest = _fill(unfinished, settings, stores, lease, at, progress)
            lease.check()
            if folder.exists():
                folder.rmdir()
            unfinished.rename(folder)
            sync(folder.parent)
        except BaseException as error:
            shutil.rmtree(unfinished, ignore_errors=True)
            if not (folder / SETTINGS).exists() and not unfinished.exists():
                stores.documents.backups.forget(str(folder), at=at)
            if isinstance(error, OSError):
                raise PersonaError(
                    f"the backup cannot be written: {error.strerror}", hint="Look at the folder, its rights and the disk's space."
                ) from None
            raise
        count(sum(manifest.collections.values()))
    return manifest


def _unfinished(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.unfinished")


def _remove_unfinished(stores: Stores, at: datetime) -> None:
    """What backups that were killed have left, wherever they were to be; under the lease no other is being made."""
    for known in stores.documents.backups.before(at):
        shutil.rmtree(_unfinished(Path(known.path)), ignore_errors=True)


def _fill(folder: Path, settings: Settings, stores: Stores, lease: Lease, at: datetime, progress: Progress) -> Manifest:
    documents = stores.documents
    (folder / COLLECTIONS).mkdir()
    (folder / DROPS).mkdir()
    held: dict[str, int] = {}
    for name in dumping.collections(documents):
        lease.check()
        progress(f"collection {name}")
        with open(folder / COLLECTIONS / f"{name}.bson", "wb") as file:
            held[name] = dumping.dump(documents, name, file)
    drops = [drop for drop in documents.ledger.ids("drop") if (settings.claimed_drops / drop).is_file()]
    for number, drop in enumerate(drops, 1):
        if number % 100 == 1:
            lease.check()
            progress(f"claimed drops: {number} of {len(drops)}")
        shutil.copyfile(settings.claimed_drops / drop, folder / DROPS / drop)
    (folder / HISTORY).write_text(json.dumps(stores.warehouse.history()))
    (folder / SETTINGS).write_text(json.dumps(_without_secrets(settings), indent=2))
    progress("checksums")
    manifest = Manifest(
        format=FORMAT,
        at=at,
        versions={
            "persona": _own_version(),
            "python": platform.python_version(),
            "mongodb": documents.server_version(),
            **{f"code of {asset}": code for asset, code in CODE_VERSIONS.items()},
        },
        collections=held,
        drops=len(drops),
        parts={str(file.relative_to(folder)): _sealed(file, lease) for file in sorted(folder.rglob("*")) if file.is_file()},
    )
    manifest.write(folder)
    for written in (folder / MANIFEST, folder / SEAL, folder / COLLECTIONS, folder / DROPS, folder):
        sync(written)
    return manifest


def _sealed(file: Path, lease: Lease) -> Part:
    lease.check()
    sync(file)
    return Part(bytes=file.stat().st_size, sha256=sha256_of(file))


def _own_version() -> str:
    try:
        return version("persona")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown"


def _without_secrets(settings: Settings) -> dict[str, Any]:
    addresses = {"milvus_uri", "milvus_host", "neo4j_uri"}  # which may hold a password too: shown masked below
    names = [name for name, value in settings if not isinstance(value, SecretStr) and name not in addresses]
    return settings.model_dump(mode="json", include=set(names)) | {"addresses": dict(settings.addresses.masked())}
