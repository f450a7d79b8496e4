"""A whole MongoDB server's content into another, empty one: documents as they are, then their indexes. Nothing is interpreted."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient
from pymongo.collection import Collection

from persona.errors import StoreRefused
from persona.stores.documents._errors import mongodb_errors

SYSTEM = frozenset({"admin", "config", "local"})
RAW: CodecOptions[RawBSONDocument] = CodecOptions(document_class=RawBSONDocument)
PLAIN: CodecOptions[dict[str, Any]] = CodecOptions(document_class=dict)
BATCH = 2_000
BATCH_BYTES = 16 << 20


def copy_everything(source_url: str, target_url: str, *, progress: Callable[[str, int], None] = lambda name, done: None) -> None:
    """Copy every database that is not the server's own; nobody may write meanwhile.

    Raises `StoreRefused` where the copy does not hold as many documents as the source, `StoreUnavailable`.
    """
    with mongodb_errors(), MongoClient[RawBSONDocument](source_url) as source, MongoClient[RawBSONDocument](target_url) as target:
        for database in sorted(set(source.list_database_names()) - SYSTEM):
            for name in source[database].list_collection_names():
                ours = source[database].get_collection(name, codec_options=RAW)
                theirs = target[database].get_collection(name, codec_options=RAW)
                progress(name, _copy(ours, theirs))


def _copy(ours: Collection[RawBSONDocument], theirs: Collection[RawBSONDocument]) -> int:
    documents, copied = iter(ours.find(batch_size=BATCH)), 0
    while chunk := list(islice(documents, BATCH)):
        for batch in _bounded(chunk):
            theirs.insert_many(batch)  # which returns no ids of raw documents
            copied += len(batch)
    for index in ours.with_options(codec_options=PLAIN).list_indexes():
        specification = {key: value for key, value in index.items() if key not in ("v", "ns")}
        if specification["name"] != "_id_":
            theirs.database.command("createIndexes", theirs.name, indexes=[specification])
    if (held := theirs.count_documents({})) != ours.count_documents({}):
        raise StoreRefused(f"the copy of {ours.name} holds {held} documents, not as many as there are", hint="Run it again.")
    return copied


def _bounded(documents: Sequence[RawBSONDocument]) -> Iterator[list[RawBSONDocument]]:
    batch: list[RawBSONDocument] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document.raw)
        if size > BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
