"""Opening the stores that the settings name: which address, credential and timeout goes with which. Nothing is asked of them here."""

from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from dataclasses import dataclass

from persona.settings import Settings
from persona.stores.cache import Cache, open_cache
from persona.stores.documents import Documents, open_documents
from persona.stores.graph import Graph, open_graph
from persona.stores.kept_answers import KeptAnswers, open_kept_answers
from persona.stores.vectors import VectorStore, open_vectors
from persona.stores.warehouse import Warehouse, open_warehouse


@dataclass(frozen=True)
class Stores:
    """All five, open."""

    documents: Documents
    vectors: VectorStore
    """On the collections in use; `VectorStore.at` gives others."""
    graph: Graph
    warehouse: Warehouse
    cache: Cache


def documents_of(settings: Settings, url: str = "") -> AbstractContextManager[Documents]:
    """MongoDB, at `url` where one is given."""
    address = url or settings.addresses.mongodb
    return open_documents(address, settings.mongodb_database, timeout_seconds=settings.store_timeout_seconds)


def vectors_of(settings: Settings, *, version: str, uri: str = "") -> AbstractContextManager[VectorStore]:
    """Milvus, on this version of the collections."""
    return open_vectors(
        uri or settings.addresses.milvus,
        token=settings.addresses.milvus_token,
        version=version,
        index=settings.milvus_index,
        ca_file=settings.ca_file,
        timeout_seconds=settings.store_timeout_seconds,
    )


def graph_of(settings: Settings, url: str = "") -> AbstractContextManager[Graph]:
    """Neo4j."""
    addresses = settings.addresses
    return open_graph(
        url or addresses.neo4j,
        user=addresses.neo4j_user,
        password=addresses.neo4j_password,
        database=settings.neo4j_database,
        ca_file=settings.ca_file,
        timeout_seconds=settings.store_timeout_seconds,
    )


def warehouse_of(settings: Settings, url: str = "") -> AbstractContextManager[Warehouse]:
    """The SQL warehouse."""
    return open_warehouse(url or settings.addresses.warehouse, timeout_seconds=settings.store_timeout_seconds)


def cache_of(settings: Settings, url: str = "", *, at_once: bool = True) -> AbstractContextManager[Cache]:
    """Redis; with `at_once` false it connects, and raises, when it is first used."""
    return open_cache(url or settings.addresses.redis, timeout_seconds=settings.store_timeout_seconds, at_once=at_once)


def kept_answers_of(settings: Settings) -> AbstractAsyncContextManager[KeptAnswers]:
    """Redis, for an event loop; it connects, and raises, when it is first used."""
    return open_kept_answers(settings.addresses.redis, timeout_seconds=settings.store_timeout_seconds)


@contextmanager
def open_stores(settings: Settings) -> Iterator[Stores]:
    """All five for the time of the block; Redis may be down, as nothing is lost with it. Raises `StoreUnavailable`, `StoreRefused`."""
    with (
        documents_of(settings) as documents,
        vectors_of(settings, version=documents.embeddings.collections_in_use()) as vectors,
        graph_of(settings) as graph,
        warehouse_of(settings) as warehouse,
        cache_of(settings, at_once=False) as cache,
    ):
        yield Stores(documents, vectors, graph, warehouse, cache)
