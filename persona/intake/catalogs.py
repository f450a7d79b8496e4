"""Catalog files (campaigns, intents, users): which kind a file is, whether it validates, and loading it. All of a file or nothing."""

import hashlib
import os
from pathlib import Path
from typing import Any, Literal

import orjson
import structlog
from pydantic import TypeAdapter, ValidationError

from persona.errors import InvalidInput
from persona.intake.claim import WatchedFile, settled_files
from persona.pipeline.draining import Outcome, Pipeline
from persona.pipeline.lease import Lease
from persona.pipeline.stages import CATALOG_SINKS
from persona.schemas import Campaign, Customer, IntentDefinition
from persona.settings import Settings
from persona.stores.documents import Documents

CatalogName = Literal["campaigns", "intents", "users"]
ENTRIES: dict[CatalogName, TypeAdapter[list[Any]]] = {
    "campaigns": TypeAdapter(list[Campaign]),
    "intents": TypeAdapter(list[IntentDefinition]),
    "users": TypeAdapter(list[Customer]),
}
log = structlog.get_logger()
KEYS: dict[str, CatalogName] = {"campaign_id": "campaigns", "intent": "intents", "user_id": "users"}


def read_catalog(content: bytes, *, name: str) -> tuple[CatalogName, list[Any]]:
    """Which catalog this is, by the key of its entries, and its validated entries.

    Raises `InvalidInput` naming the first entries at fault.
    """
    try:
        entries = orjson.loads(content.removeprefix(b"\xef\xbb\xbf"))
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"{name}: not valid JSON ({error})", hint="A catalog is a JSON array of objects.") from None
    if not isinstance(entries, list) or not entries:
        raise InvalidInput(f"{name}: a catalog is a JSON array of objects with at least one entry", hint="See data/samples.")
    catalog = _kind(entries[0])
    if catalog is None:
        raise InvalidInput(
            f"{name}: its entries have none of campaign_id, intent, user_id",
            hint="campaigns.json, intents.json and users.json have them.",
        )
    try:
        return catalog, ENTRIES[catalog].validate_python(entries)
    except ValidationError as error:
        faults = [f"entry {'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors(include_input=False)[:3]]
        raise InvalidInput(
            f"{name}: {'; '.join(faults)}", hint="Mend the entries named; nothing of the file was loaded."
        ) from None


def catalog_id(content: bytes) -> str:
    """What the ledger knows a catalog with this content by; a drop with the same content has another id."""
    return hashlib.sha256(b"catalog\n" + content).hexdigest()


def load_catalog(documents: Documents, path: Path, lease: Lease, *, run_id: str) -> tuple[CatalogName, int]:
    """Validate the file and put it in force; return which catalog it is and how many entries it has.

    Raises `InvalidInput` when it does not validate; the ledger says so too, and what was in force stays.
    """
    return _load(documents, path.read_bytes(), str(path), lease, run_id=run_id)


def load_folder(pipeline: Pipeline, *, run_id: str) -> Outcome:
    """Load every file of the catalog folder whose content has not been seen; the `catalogs` stage. A refused file stops nothing."""
    settings, documents = pipeline.settings, pipeline.documents
    with pipeline.recorded(run_id, "catalogs") as count, pipeline.lease(run_id, "catalogs") as lease:
        loaded: list[str] = []
        files = _catalog_files(settings)
        for path in documents.ledger.unseen({path: file.signature for path, file in files.items()}):
            try:
                content = files[path].path.read_bytes()
                entry = catalog_id(content)
                if entry != documents.ledger.entry_of_file(path):
                    _, records = _load(documents, content, path, lease, run_id=run_id)
                    count(count.records + records)
                    loaded.append(entry)
                    pipeline.announce(run_id)
            except InvalidInput as error:
                log.warning("catalog_refused", file=files[path].path.name, error=error.message)
            except OSError as error:
                log.warning("catalog_not_readable_yet", file=files[path].path.name, error=error.strerror)
                continue
            documents.ledger.remember_file(path, files[path].signature, entry)
        return pipeline.outcome("catalogs", count.records, count.seconds, documents.ledger.get(loaded))


def unseen_catalogs(pipeline: Pipeline) -> bool:
    """Whether the catalog folder holds a file that has changed since it was looked at."""
    files = _catalog_files(pipeline.settings)
    return bool(pipeline.documents.ledger.unseen({path: file.signature for path, file in files.items()}))


def _catalog_files(settings: Settings) -> dict[str, WatchedFile]:
    files = settled_files(settings.catalog, settle_seconds=settings.settle_seconds)
    return {str(file.path): file for file in files if file.path.suffix == ".json" and os.access(file.path, os.R_OK)}


def _load(documents: Documents, content: bytes, path: str, lease: Lease, *, run_id: str) -> tuple[CatalogName, int]:
    entry, name = catalog_id(content), Path(path).name
    try:
        catalog, entries = read_catalog(content, name=name)
    except InvalidInput as error:
        documents.ledger.refuse_catalog(entry, name=name, size=len(content), detail=error.message, run_id=run_id)
        raise
    lease.check()
    if catalog == "campaigns":
        documents.catalog.put_campaigns(entries)
    elif catalog == "intents":
        documents.catalog.put_intents(entries)
    else:
        documents.catalog.put_customers(_without_the_erased(documents, entries))
    documents.ledger.load_catalog(
        entry,
        name=name,
        size=len(content),
        catalog=catalog,
        records=len(entries),
        sinks=CATALOG_SINKS[catalog],
        run_id=run_id,
    )
    return catalog, len(entries)


def _without_the_erased(documents: Documents, customers: list[Customer]) -> list[Customer]:
    """A catalog does not say how old it is: someone who was erased is a customer again once a record of theirs has come in."""
    erased = documents.tombstones.times(customer.user_id for customer in customers)
    back = documents.records.known_among(sorted(erased))
    return [customer for customer in customers if customer.user_id not in erased or customer.user_id in back]


def _kind(entry: Any) -> CatalogName | None:
    if not isinstance(entry, dict):
        return None
    return next((catalog for key, catalog in KEYS.items() if key in entry), None)
