"""Whole collections to files and back, as BSON, document for document. What is kept of them is decided elsewhere."""

import struct
from collections.abc import Iterable, Iterator
from datetime import UTC
from pathlib import Path
from typing import IO, Any

import bson
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo.database import Database

from persona.errors import StoreRefused
from persona.stores.documents import Documents
from persona.stores.documents._errors import mongodb_errors
from persona.stores.documents._raw import BATCH, RAW, copy_indexes, insertable

NOT_DUMPED = frozenset({"leases", "rebuilds"})
"""What concerns the runs of this moment alone."""
BESIDE = "restoring."
DECODED: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True, tzinfo=UTC)
LENGTH = struct.Struct("<i")


def collections(documents: Documents) -> list[str]:
    """The names of what there is to dump, in order."""
    with mongodb_errors():
        return sorted(name for name in _names(documents.database) if name not in NOT_DUMPED)


def dump(documents: Documents, name: str, file: IO[bytes]) -> int:
    """Write every document of a collection; return how many there are. Nobody may write meanwhile."""
    written = 0
    with mongodb_errors():
        batches: Iterator[Any] = documents.database[name].find_raw_batches(batch_size=BATCH)
        for batch in batches:
            file.write(batch)
            written += sum(1 for _ in _documents(memoryview(batch)))
    return written


def read(path: Path) -> Iterator[RawBSONDocument]:
    """The documents of a file that `dump` wrote."""
    with open(path, "rb") as file:
        while head := file.read(LENGTH.size):
            yield RawBSONDocument(head + file.read(LENGTH.unpack(head)[0] - LENGTH.size))


def decoded(document: RawBSONDocument) -> dict[str, Any]:
    """The document as the stores read it: times are aware, UTC."""
    return bson.decode(document.raw, codec_options=DECODED)


def everything(documents: Documents, name: str) -> list[dict[str, Any]]:
    """Every document of a collection that fits in memory."""
    with mongodb_errors():
        return list(documents.database[name].find())


def load_beside(documents: Documents, name: str, contents: Iterable[Any]) -> int:
    """Put documents into a collection beside that of this name, with its indexes, in place of what is there; return how many."""
    database, loaded = documents.database, 0
    with mongodb_errors():
        database.drop_collection(BESIDE + name)
        beside = database.create_collection(BESIDE + name, codec_options=RAW)
        for batch in insertable(contents):
            beside.insert_many(batch, ordered=False)
            loaded += len(batch)
        copy_indexes(database[name], beside)
        if (held := beside.count_documents({})) != loaded:
            raise StoreRefused(f"{name} holds {held} documents, {loaded} were put in", hint="Run it again.")
    return loaded


def use_beside(documents: Documents) -> None:
    """Put everything that was loaded beside in its place, and empty the collections that have no successor."""
    database = documents.database
    with mongodb_errors():
        loaded = [name for name in database.list_collection_names() if name.startswith(BESIDE)]
        for name in loaded:
            database[name].rename(name.removeprefix(BESIDE), dropTarget=True)
        for name in set(_names(database)) - {name.removeprefix(BESIDE) for name in loaded} - NOT_DUMPED:
            database[name].delete_many({})


def drop_beside(documents: Documents) -> None:
    """Remove what was loaded beside and is not to be used."""
    with mongodb_errors():
        for name in documents.database.list_collection_names():
            if name.startswith(BESIDE):
                documents.database.drop_collection(name)


def _names(database: Database[dict[str, Any]]) -> list[str]:
    found = database.list_collection_names(filter={"type": "collection"})
    return [name for name in found if not name.startswith((BESIDE, "system."))]


def _documents(batch: memoryview) -> Iterator[memoryview]:
    start = 0
    while start < len(batch):
        end = start + LENGTH.unpack_from(batch, start)[0]
        yield batch[start:end]
        start = end
