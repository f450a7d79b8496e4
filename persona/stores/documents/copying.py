"""A whole MongoDB server's content into another, empty one: documents as they are, then their indexes. Nothing is interpreted."""

from collections.abc import Callable

from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient
from pymongo.collection import Collection

from persona.errors import StoreRefused
from persona.stores.documents._errors import mongodb_errors
from persona.stores.documents._raw import BATCH, RAW, copy_indexes, insertable

SYSTEM = frozenset({"admin", "config", "local"})


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
    copied = 0
    for batch in insertable(ours.find(batch_size=BATCH)):
        theirs.insert_many(batch)  # which returns no ids of raw documents
        copied += len(batch)
    copy_indexes(ours, theirs)
    if (held := theirs.count_documents({})) != ours.count_documents({}):
        raise StoreRefused(f"the copy of {ours.name} holds {held} documents, not as many as there are", hint="Run it again.")
    return copied
