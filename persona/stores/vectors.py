"""Who and what is near whom: vectors of people, conversations and campaigns in Milvus.

A projection of MongoDB: every write can be repeated, a whole version rebuilt beside the old one. Nothing is embedded here.
"""

import hashlib
import json
import logging
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Self

import grpc
import numpy as np
import stamina
from pymilvus import DataType, MilvusClient, MilvusException
from pymilvus.client.types import LoadState
from pymilvus.exceptions import ConnectionConfigException

from persona.errors import (
    EmbeddingMismatch,
    PersonaError,
    StoreRefused,
    StoreUnavailable,
)
from persona.schemas import Conversation, SimilarConversation, UserProfile, Vector
from persona.stores._chunks import chunks
from persona.stores._connecting import GRANTS, Terms

Collection = Literal["users", "conversations", "campaigns"]

VARCHAR_BYTES = 1024  # 256 characters of at most four UTF-8 bytes
FIELDS: Mapping[Collection, Mapping[str, Mapping[str, Any]]] = {
    "users": {
        "user_id": {"datatype": DataType.VARCHAR, "max_length": VARCHAR_BYTES},
        "messages": {"datatype": DataType.INT64},
        "last_at_ms": {"datatype": DataType.INT64},
    },
    "conversations": {
        "user_key": {"datatype": DataType.VARCHAR, "max_length": 32},
        "user_id": {"datatype": DataType.VARCHAR, "max_length": VARCHAR_BYTES},
        "messages": {"datatype": DataType.INT64},
        "started_at_ms": {"datatype": DataType.INT64},
        "ended_at_ms": {"datatype": DataType.INT64},
        "outcomes": {"datatype": DataType.JSON},
    },
    "campaigns": {"campaign_id": {"datatype": DataType.VARCHAR, "max_length": VARCHAR_BYTES}},
}
"""Besides `id`, the hex primary key, and `vector`."""

THIS_ONE = 'id in ["{key}"]'
NOT_OF_THIS_USER = 'user_key != "{key}"'
OF_THESE_USERS = "user_key in {keys}"
WITH_PREFIX = '{filter} and id like "{prefix}%"'

UPSERT_ROWS = 2_000  # the local server takes about 50 ms for an upsert however small; gRPC messages end at 64 MB
ROWS_WITH_VECTORS = 1_000
MOST_HITS = 16_384
OWN_CONVERSATIONS = 20
"""Of a person among those nearest to them: hardly anybody has more."""
KEYS_PER_CALL = 10_000  # a query silently stops at 16,383 rows
USERS_PER_FILTER = 1_000
OUTCOMES_BYTES = 60_000  # a JSON field ends at 65,536 bytes
WRITE_PATIENCE = 6  # a batch of vectors may take this many times as long as a read

# A check that follows a write must see it, from whichever process the write came: Strong. A search serves people and may lag by
# the server's few seconds of staleness: Bounded, which on a loaded server is many times faster. Who has written ends with a Strong
# read (`await_visible`): answers that are computed from then on are not kept with what was there before.
EXACT = "Strong"
PROMPT = "Bounded"

Index = Literal["AUTO", "FLAT", "HNSW", "AUTOINDEX"]
EXACT_UP_TO = 20_000
"""Rows that are searched one by one, which finds exactly the nearest, in some milliseconds."""
BEYOND = ("HNSW", "AUTOINDEX")
"""What more rows get: the first that the server knows. The local one has no HNSW, and makes an inverted file of AUTOINDEX."""
BUILT_WITH: Mapping[str, Mapping[str, int]] = {"HNSW": {"M": 48, "efConstruction": 400}}
"""Of 100,000 people in groups of like taste it finds .97 of the 100 nearest; with the usual 16 and 200 it was .78."""
LEAST_EF, EF_TIMES = 64, 4
"""Candidates that a search of an HNSW graph keeps: so many times what is asked for, and these at least."""
MOST_EF = 32_768

LOAD_POLL_SECONDS = 0.02
QUIET_WHEN_IDLE = {"grpc.keepalive_permit_without_calls": False}  # the local server hangs up on clients that ping without a call
CONNECT_FAILED = 2
COLLECTION_NOT_FOUND = 100
TERMS = Terms("milvus", "MILVUS_URI", encrypted="begin MILVUS_URI with https://", ca="PERSONA_CA_FILE")
LITE_FAILED = "Unexpected error in RPC handling"  # all that Milvus Lite says of what went wrong inside it, as of a full disk
HEX = re.compile(r"[0-9a-f]{1,64}")
VERSION = re.compile(r"[A-Za-z0-9_]{1,64}")
OURS = re.compile(rf"(?:{'|'.join(FIELDS)})_(v[0-9]+)")

# The driver logs every failure with a traceback before it raises it; what it raises is translated here and told once.
logging.getLogger("pymilvus").setLevel(logging.CRITICAL)


class VectorStore:
    """Nearest people, conversations and campaigns of one version of the collections; nobody, before `prepare` has made them."""

    def __init__(
        self, client: MilvusClient, *, version: str, index: Index, timeout: float, dimensions: dict[str, int] | None = None
    ) -> None:
        """`dimensions` is what is known of collections, and is shared by all versions."""
        if not VERSION.fullmatch(version):
            raise ValueError("version must be 1 to 64 letters, digits or underscores")
        self._client = client
        self._version = version
        self._index = index
        self._timeout = timeout
        self._dimensions = {} if dimensions is None else dimensions

    def at(self, version: str) -> Self:
        """Another version of the collections, on the same connection."""
        return type(self)(self._client, version=version, index=self._index, timeout=self._timeout, dimensions=self._dimensions)

    def versions(self) -> list[str]:
        """Every version of which the server has collections, whoever made them; those not named like one of ours are left out."""
        with _translated():
            names = self._client.list_collections(timeout=self._timeout)
        return sorted({found[1] for name in names if (found := OURS.fullmatch(name))})

    def prepare(self, dimension: int, *, rows: int = 0) -> None:
        """Make this version's collections, empty, for about so many vectors of this many dimensions; harmless when they are there.

        Raises `EmbeddingMismatch` where they exist with another dimension.
        """
        for collection in FIELDS:
            # Another process may be making the same collection: what it has made by then is found on the next attempt.
            for attempt in stamina.retry_context(on=_lost_a_race, attempts=4, wait_initial=0.05, wait_jitter=0.05):
                with attempt:
                    _ensure(self._client, collection, self._name(collection), dimension, self._index_for(rows), self._timeout)
        with _translated():
            for collection in FIELDS:
                self._await_loaded(self._name(collection))

    def _index_for(self, rows: int) -> Sequence[str]:
        """The types to try, one after the other."""
        if self._index != "AUTO":
            return [self._index]
        return ["FLAT"] if rows <= EXACT_UP_TO else BEYOND

    # -- writing --------------------------------------------------------------------------------------------------------

    def upsert_users(self, profiles: Sequence[UserProfile]) -> int:
        """Write each person's profile once, whatever was there before; return the number of people written."""
        return self._upsert(
            "users",
            [
                {
                    "id": key_of(profile.user_id),
                    "user_id": profile.user_id,
                    "messages": profile.messages,
                    "last_at_ms": profile.last_at_ms,
                    "vector": profile.vector,
                }
                for profile in profiles
            ],
        )

    def upsert_conversations(self, conversations: Sequence[Conversation]) -> int:
        """Write each conversation once, whatever was there before; return the number written. Their ids must be hex."""
        return self._upsert(
            "conversations",
            [
                {
                    "id": _hex(conversation.conversation_id),
                    "user_key": key_of(conversation.user_id),
                    "user_id": conversation.user_id,
                    "messages": conversation.messages,
                    "started_at_ms": conversation.started_at_ms,
                    "ended_at_ms": conversation.ended_at_ms,
                    "outcomes": _fitting(conversation.outcomes),
                    "vector": conversation.vector,
                }
                for conversation in conversations
            ],
        )

    def upsert_campaigns(self, vectors: Mapping[str, Vector]) -> int:
        """Write each campaign's vector, by campaign id, once; return the number written."""
        rows = [{"id": key_of(campaign), "campaign_id": campaign, "vector": vector} for campaign, vector in vectors.items()]
        return self._upsert("campaigns", rows)

    def delete_users(self, user_ids: Iterable[str]) -> None:
        """Remove these people's profiles; those that are not there are no error."""
        self._delete("users", map(key_of, user_ids))

    def delete_conversations(self, conversation_ids: Iterable[str]) -> None:
        """Remove these conversations; those that are not there are no error."""
        self._delete("conversations", map(_hex, conversation_ids))

    def delete_campaigns(self, campaign_ids: Iterable[str]) -> None:
        """Remove these campaigns' vectors; those that are not there are no error."""
        self._delete("campaigns", map(key_of, campaign_ids))

    def drop(self) -> None:
        """Remove this version's collections whole; the store is of no use afterwards."""
        with _translated():
            for collection in FIELDS:
                self._client.drop_collection(self._name(collection), timeout=self._timeout * WRITE_PATIENCE)

    def await_visible(self) -> None:
        """Return once searches see everything that has been written."""
        for collection in FIELDS:
            self._get(collection, [key_of("")], ["id"])

    # -- searching ------------------------------------------------------------------------------------------------------

    def user_vector(self, user_id: str) -> Vector | None:
        """The person's profile, shape (dimension,), or None where there is none."""
        # The nearest of one row, found by `in`: asked for a key, or with `==`, the local server looks through its rows, which takes
        # three times as long.
        if (anything := self._anything("users")) is None:
            return None
        try:
            hits = self._search("users", anything, 1, THIS_ONE.format(key=key_of(user_id)), ["vector"])
        except StoreRefused:
            self._dimensions.clear()  # collections that were made anew may have others
            raise
        return np.asarray(hits[0]["entity"]["vector"], dtype=np.float32) if hits else None

    def similar_users(self, vector: Vector, *, limit: int, exclude: str | None = None) -> list[tuple[str, float]]:
        """The `limit` (at most 16,383) people nearest to `vector` without `exclude`, as (user id, cosine), nearest first."""
        # one more instead of a filter, which a server holds against every row
        hits = self._search("users", vector, limit if exclude is None else limit + 1, "", ["user_id"])
        found = ((hit["entity"]["user_id"], float(hit["distance"])) for hit in hits)
        return [(user, cosine) for user, cosine in found if user != exclude][:limit]

    def similar_conversations(self, vector: Vector, *, limit: int, exclude_user: str | None = None) -> list[SimilarConversation]:
        """The `limit` (at most 16,384) conversations nearest to `vector`, none of them of `exclude_user`, nearest first."""
        theirs = None if exclude_user is None else key_of(exclude_user)
        # some more instead of a filter, which a server holds against every row
        asked = limit if theirs is None else min(limit + OWN_CONVERSATIONS, MOST_HITS)
        hits = self._search("conversations", vector, asked, "", ["user_key", "outcomes"])
        found = [hit for hit in hits if hit["entity"]["user_key"] != theirs][:limit]
        if theirs is not None and len(found) < limit and len(hits) == asked:  # theirs were more than that
            found = list(self._search("conversations", vector, limit, NOT_OF_THIS_USER.format(key=theirs), ["outcomes"]))
        return [SimilarConversation(float(hit["distance"]), hit["entity"]["outcomes"]) for hit in found]

    def warm(self) -> None:
        """Search this version's collections once: a server loads them for the first search, which takes it longer than any other."""
        for collection in FIELDS:
            if (anything := self._anything(collection)) is not None:
                self._search(collection, anything, 1, "", ["id"])

    # -- checking -------------------------------------------------------------------------------------------------------

    def conversation_ids_of(self, user_ids: Iterable[str]) -> set[str]:
        """The ids of every conversation stored for these people."""
        keys = sorted(set(map(key_of, user_ids)))
        found: set[str] = set()
        for part in chunks(keys, USERS_PER_FILTER):
            found |= self._ids_matching("conversations", OF_THESE_USERS.format(keys=json.dumps(part)))
        return found

    def present_users(self, user_ids: Iterable[str]) -> set[str]:
        """Those of `user_ids` that have a profile."""
        by_key = {key_of(user_id): user_id for user_id in user_ids}
        return {by_key[key] for key in self._present("users", list(by_key))}

    def count(self, collection: Collection) -> int:
        """How many rows the collection holds."""
        rows: Sequence[Any] = []
        with _translated(), _nothing_there():
            rows = self._client.query(
                self._name(collection),
                filter="",
                output_fields=["count(*)"],
                consistency_level=EXACT,
                timeout=self._timeout,
            )
        return int(rows[0]["count(*)"]) if rows else 0

    def index(self) -> str | None:
        """The type of the index that people are searched by; None where nothing has been prepared."""
        name = self._name("users")
        with _translated(), _nothing_there():
            for field in self._client.list_indexes(name, timeout=self._timeout):
                return str(self._client.describe_index(name, field, timeout=self._timeout)["index_type"])
        return None

    def ping(self) -> None:
        """Return when the server answers; raise `StoreUnavailable` or `StoreRefused`."""
        with _translated():
            self._client.has_collection(self._name("users"), timeout=self._timeout)

    # -- one person -----------------------------------------------------------------------------------------------------

    def everything_of(self, user_id: str) -> dict[Collection, list[dict[str, Any]]]:
        """The rows of this person's profile and conversations, vectors included."""
        fields: dict[Collection, list[str]] = {name: ["id", *FIELDS[name], "vector"] for name in ("users", "conversations")}
        rows: dict[Collection, list[dict[str, Any]]] = {"users": [], "conversations": []}
        for collection, keys in self._keys_of(user_id).items():
            for part in chunks(keys, ROWS_WITH_VECTORS):
                found = self._get(collection, part, fields[collection])
                rows[collection] += [{**row, "vector": [float(number) for number in row["vector"]]} for row in found]
        return rows

    def count_of(self, user_id: str) -> int:
        """How many rows are this person's."""
        return sum(len(keys) for keys in self._keys_of(user_id).values())

    def remove_user(self, user_id: str) -> None:
        """Remove this person's profile and conversations."""
        keys = self._keys_of(user_id)
        self._delete("users", keys["users"])
        self._delete("conversations", keys["conversations"])

    def _keys_of(self, user_id: str) -> dict[Collection, list[str]]:
        return {
            "users": sorted(self._present("users", [key_of(user_id)])),
            "conversations": sorted(self.conversation_ids_of([user_id])),
        }

    # -- one call each --------------------------------------------------------------------------------------------------

    def _await_loaded(self, name: str) -> None:
        deadline = time.monotonic() + self._timeout
        while self._client.get_load_state(name, timeout=self._timeout)["state"] != LoadState.Loaded:
            if time.monotonic() > deadline:
                raise StoreUnavailable("milvus", f"{name} was not loaded within {self._timeout:g} s")
            time.sleep(LOAD_POLL_SECONDS)

    def _anything(self, collection: Collection) -> Vector | None:
        """A vector that fits the collection; None where there is none."""
        name = self._name(collection)
        if name not in self._dimensions:
            with _translated(), _nothing_there():
                self._dimensions[name] = _dimension(self._client.describe_collection(name, timeout=self._timeout))
        return np.ones(self._dimensions[name], np.float32) if name in self._dimensions else None

    def _name(self, collection: Collection) -> str:
        return f"{collection}_{self._version}"

    def _upsert(self, collection: Collection, rows: Iterable[dict[str, Any]]) -> int:
        # One row a key: a server may keep either of two rows that share a key within one call.
        distinct = list({row["id"]: row for row in rows}.values())
        # No retries of our own: the driver repeats what is worth repeating until the timeout.
        for part in chunks(distinct, UPSERT_ROWS):
            with _translated():
                self._client.upsert(self._name(collection), part, timeout=self._timeout * WRITE_PATIENCE)
        return len(distinct)

    def _delete(self, collection: Collection, keys: Iterable[str]) -> None:
        for part in chunks(sorted(set(keys)), KEYS_PER_CALL):
            with _translated():
                self._client.delete(self._name(collection), ids=part, timeout=self._timeout * WRITE_PATIENCE)

    def _search(self, collection: Collection, vector: Vector, limit: int, narrowed: str, fields: list[str]) -> Sequence[Any]:
        answers: Sequence[Any] = [[]]
        with _translated(), _nothing_there():
            answers = self._client.search(
                self._name(collection),
                data=[np.asarray(vector, dtype=np.float32)],
                limit=limit,
                filter=narrowed,
                output_fields=fields,
                search_params={
                    "params": {"ef": min(max(LEAST_EF, EF_TIMES * limit), MOST_EF)}
                },  # for HNSW; others do not read it
                consistency_level=PROMPT,
                timeout=self._timeout,
            )
        hits: Sequence[Any] = answers[0]
        return hits

    def _get(self, collection: Collection, keys: list[str], fields: list[str]) -> Sequence[Any]:
        rows: Sequence[Any] = []
        with _translated(), _nothing_there():
            rows = self._client.query(
                self._name(collection),
                ids=keys,
                output_fields=fields,
                consistency_level=EXACT,
                timeout=self._timeout,
            )
        return rows

    def _present(self, collection: Collection, keys: list[str]) -> set[str]:
        return {row["id"] for part in chunks(keys, KEYS_PER_CALL) for row in self._get(collection, part, ["id"])}

    def _ids_matching(self, collection: Collection, narrowed: str, prefix: str = "") -> set[str]:
        """Every matching id, however many: where a page is full, the hex key space is cut in sixteen and asked again."""
        rows: Sequence[Any] = []
        with _translated(), _nothing_there():
            rows = self._client.query(
                self._name(collection),
                filter=WITH_PREFIX.format(filter=narrowed, prefix=prefix) if prefix else narrowed,
                output_fields=["id"],
                limit=KEYS_PER_CALL,
                consistency_level=EXACT,
                timeout=self._timeout,
            )
        if len(rows) < KEYS_PER_CALL:
            return {row["id"] for row in rows}
        return {key for digit in "0123456789abcdef" for key in self._ids_matching(collection, narrowed, prefix + digit)}


@contextmanager
def open_vectors(
    uri: str,
    *,
    token: str = "",
    version: str,
    index: Index = "AUTO",
    ca_file: Path | None = None,
    timeout_seconds: float = 10,
) -> Iterator[VectorStore]:
    """Connect within `timeout_seconds`, hand the store out, close.

    `version` is the collections' suffix (letters, digits, `_`); `index` is the type that new collections get, with AUTO what fits their
    size. With `https://` the server's certificate is held against `ca_file`, or the CAs that come with gRPC. Raises
    `StoreUnavailable`, `StoreRefused`.
    """
    with TERMS.readable(ConnectionConfigException), _translated():
        client = MilvusClient(
            uri=uri,
            token=token,
            timeout=timeout_seconds,
            dedicated=True,
            grpc_options=QUIET_WHEN_IDLE,
            server_pem_path=str(ca_file or ""),
        )
    try:
        yield VectorStore(client, version=version, index=index, timeout=timeout_seconds)
    finally:
        client.close()


def key_of(identifier: str) -> str:
    """The primary key that stands for an id: 32 hex digits, whatever the id is made of."""
    return hashlib.sha256(identifier.encode()).hexdigest()[:32]


def _ensure(
    client: MilvusClient, collection: Collection, name: str, dimension: int, indexes: Sequence[str], timeout: float
) -> None:
    with _translated():
        if not client.has_collection(name, timeout=timeout):
            schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
            schema.add_field("id", DataType.VARCHAR, max_length=64, is_primary=True)
            for field, properties in FIELDS[collection].items():
                schema.add_field(field, **properties)
            schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dimension)
            client.create_collection(name, schema=schema, timeout=timeout)
        stored = _dimension(client.describe_collection(name, timeout=timeout))
        if stored != dimension:
            raise EmbeddingMismatch(
                f"{name} holds vectors of {stored} dimensions, the settings' model makes {dimension}",
                hint="Set the model that the vectors were made with, or `persona rebuild milvus_collection`.",
            )
        if not client.list_indexes(name, timeout=timeout):
            _index(client, name, indexes, timeout)
        # the driver would look every half second whether it is loaded: see `_await_loaded`
        client.load_collection(name, timeout=timeout, _async=True)


def _index(client: MilvusClient, name: str, indexes: Sequence[str], timeout: float) -> None:
    """The first of these types that the server knows."""
    for index in indexes:
        wanted = MilvusClient.prepare_index_params()
        wanted.add_index(field_name="vector", index_type=index, metric_type="COSINE", params=dict(BUILT_WITH.get(index, {})))
        try:
            client.create_index(name, wanted, timeout=timeout)
            return
        except MilvusException:
            if index == indexes[-1]:
                raise


def _dimension(described: Mapping[str, Any]) -> int:
    return next(int(field["params"]["dim"]) for field in described["fields"] if field["name"] == "vector")


def _fitting(outcomes: Mapping[str, float]) -> dict[str, float]:
    """The strongest outcomes that one JSON field can hold; all of them but for a conversation about thousands of campaigns."""
    kept: dict[str, float] = {}
    size = 2
    for campaign, strength in sorted(outcomes.items(), key=lambda outcome: (-abs(outcome[1]), outcome[0])):
        size += len(json.dumps(campaign)) + 32
        if size > OUTCOMES_BYTES:
            break
        kept[campaign] = float(strength)
    return kept


def _hex(conversation_id: str) -> str:
    if not HEX.fullmatch(conversation_id):
        raise ValueError("a conversation's id must be 1 to 64 lower-case hex digits")
    return conversation_id


def _lost_a_race(error: Exception) -> bool:
    return isinstance(error, StoreRefused)


@contextmanager
def _nothing_there() -> Iterator[None]:
    """Reading collections that nobody has made finds nothing."""
    try:
        yield
    except MilvusException as error:
        if error.code != COLLECTION_NOT_FOUND and "collection not found" not in error.message.lower():
            raise


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except ConnectionConfigException:
        raise
    except (MilvusException, grpc.RpcError) as error:
        raise _in_our_words(error) from None


def _in_our_words(error: Exception) -> PersonaError:
    rpc = error if isinstance(error, grpc.RpcError) else error.__cause__
    status: grpc.StatusCode | None = rpc.code() if isinstance(rpc, grpc.RpcError) else None
    if status in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        return StoreRefused("milvus refused the credentials", hint=f"Check MILVUS_TOKEN. {GRANTS}")
    if status is not None:
        return TERMS.fault(error) or StoreUnavailable("milvus", status.name.lower().replace("_", " "))
    assert isinstance(error, MilvusException)
    if LITE_FAILED in error.message:
        return StoreRefused(
            "milvus refused, and does not say why",
            hint="Look at its log (logs/milvus.log under PERSONA_HOME) and at its disk: where that is full, free space, then run again.",
        )
    if error.code == CONNECT_FAILED or error.retriable or "Retry" in error.message:
        return StoreUnavailable("milvus", error.message)
    return StoreRefused(f"milvus refused: {error.message}", hint="Check the server's log, its disk and its quota.")
