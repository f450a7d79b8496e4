"""Documents and indexes as they are, for whoever copies whole collections. Nothing is interpreted."""

from collections.abc import Iterable, Iterator
from typing import Any

from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo.collection import Collection

from persona.stores._chunks import batches

RAW: CodecOptions[RawBSONDocument] = CodecOptions(document_class=RawBSONDocument)
PLAIN: CodecOptions[dict[str, Any]] = CodecOptions(document_class=dict)
BATCH, BATCH_BYTES = 2_000, 16 << 20


def insertable(documents: Iterable[Any]) -> Iterator[list[Any]]:
    """The documents in parts that one insert can take; of those that are decoded the bytes are not looked at."""
    return batches(documents, _bytes_of, count=BATCH, size=BATCH_BYTES)


def copy_indexes(source: Collection[Any], target: Collection[Any]) -> None:
    """Give the target the indexes that the source has."""
    for index in source.with_options(codec_options=PLAIN).list_indexes():
        specification = {key: value for key, value in index.items() if key not in ("v", "ns")}
        if specification["name"] != "_id_":
            target.database.command("createIndexes", target.name, indexes=[specification])


def _bytes_of(document: Any) -> int:
    return len(document.raw) if isinstance(document, RawBSONDocument) else 0
