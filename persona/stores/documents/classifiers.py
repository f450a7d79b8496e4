"""The classifier of intents: the messages it learns from beside the catalog, and what was fitted. No model is run here."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from bson.binary import Binary
from numpy.typing import NDArray
from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.database import Database

from persona.stores._chunks import chunks
from persona.stores.documents._errors import translated

CHUNK = 5_000
PART_BYTES = 8 * 2**20
"""A document holds 16 MiB at most."""


@translated
class Classifiers:
    """What is learned from, and one fitted classifier as plain arrays."""

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        self._lessons: Collection[dict[str, Any]] = database["lessons"]
        self._arrays: Collection[dict[str, Any]] = database["classifier"]

    def lessons(self) -> dict[str, str]:
        """The messages with a given intent that are learned from, by their text's hash."""
        return {found["_id"]: found["intent"] for found in self._lessons.find()}

    def set_lessons(self, lessons: Mapping[str, str], *, session: ClientSession) -> None:
        """Learn from these, and no others, from now on."""
        self._lessons.delete_many({}, session=session)
        for part in chunks(sorted(lessons), CHUNK):
            self._lessons.insert_many([{"_id": key, "intent": lessons[key]} for key in part], session=session)

    def unlearn(self, hashes: Iterable[str]) -> None:
        """Learn from these messages no more. What was fitted to them is of another version than what is learned from now."""
        for part in chunks(list(hashes), CHUNK):
            self._lessons.delete_many({"_id": {"$in": part}})

    def count_of(self, hashes: Sequence[str]) -> int:
        """How many of these messages are learned from."""
        return sum(self._lessons.count_documents({"_id": {"$in": part}}) for part in chunks(hashes, CHUNK))

    def version(self) -> str | None:
        """Of the classifier that is stored, of either while one takes another's place; None where there is none."""
        found = self._arrays.find_one({}, {"version": 1}, sort=[("_id", -1)])
        return found["version"] if found else None

    def arrays(self, version: str) -> dict[str, NDArray[Any]] | None:
        """What the classifier of this version is made of; None where it is not the stored one, or not whole."""
        parts = list(self._arrays.find({"version": version}).sort("_id", 1))
        if not parts or len(parts) != parts[0]["parts"]:
            return None
        content = b"".join(part["content"] for part in parts)
        found, start = {}, 0
        for name, dtype, shape in parts[0]["layout"]:
            size = int(np.prod(shape)) * np.dtype(dtype).itemsize
            found[name] = np.frombuffer(content[start : start + size], dtype=dtype).reshape(shape)
            start += size
        return found

    def put_part(self, part: dict[str, Any], session: ClientSession) -> None:
        """Keep one of the `parts_of` a classifier, beside the one that is stored."""
        self._arrays.replace_one({"_id": part["_id"]}, part, upsert=True, session=session)

    def keep_only(self, version: str | None, session: ClientSession) -> None:
        """Forget every classifier but that of this version."""
        self._arrays.delete_many({"version": {"$ne": version}}, session=session)

    def count_others(self, version: str | None) -> int:
        """How many parts there are of classifiers of other versions."""
        return self._arrays.count_documents({"version": {"$ne": version}})


def parts_of(version: str, arrays: Mapping[str, NDArray[Any]]) -> Iterator[dict[str, Any]]:
    """What to keep of this classifier, in parts that are small enough for a document and a transaction."""
    layout = [(name, array.dtype.str, list(array.shape)) for name, array in arrays.items()]
    content = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays.values())
    starts = range(0, max(len(content), 1), PART_BYTES)
    described = {"version": version, "parts": len(starts), "layout": layout}
    for number, start in enumerate(starts):
        yield {"_id": f"{version}/{number:04d}", **described, "content": Binary(content[start : start + PART_BYTES])}
