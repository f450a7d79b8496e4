"""How the service opens each store: addresses and timeouts from the settings. What keeps them open is `guard`."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from persona.settings import Settings
from persona.stores.cache import Cache, open_cache
from persona.stores.documents import Documents, open_documents
from persona.stores.graph import Graph, open_graph
from persona.stores.vectors import VectorStore, open_vectors
from persona.stores.warehouse import Warehouse, open_warehouse

NOBODY = ""


@dataclass(frozen=True)
class StoreOpeners:
    """One way to open each store; nothing is connected before it is called, and it may be called again after it failed."""

    documents: Callable[[], AbstractContextManager[Documents]]
    vectors: Callable[[], AbstractContextManager[VectorStore]]
    graph: Callable[[], AbstractContextManager[Graph]]
    warehouse: Callable[[], AbstractContextManager[Warehouse]]
    cache: Callable[[], AbstractContextManager[Cache]]


def openers(settings: Settings) -> StoreOpeners:
    """The stores that the settings name. Each raises `NotStarted` while the local stack has no addresses yet."""
    patience = settings.store_timeout_seconds

    @contextmanager
    def documents() -> Iterator[Documents]:
        with open_documents(settings.addresses.mongodb, settings.mongodb_database, timeout_seconds=patience) as store:
            yield store

    @contextmanager
    def vectors() -> Iterator[VectorStore]:
        addresses = settings.addresses
        with documents() as truth:
            version = truth.embeddings.collections_in_use()
        with open_vectors(
            addresses.milvus,
            token=addresses.milvus_token,
            version=version,
            index=settings.milvus_index,
            timeout_seconds=patience,
        ) as store:
            store.ping()
            yield store

    @contextmanager
    def graph() -> Iterator[Graph]:
        addresses = settings.addresses
        with open_graph(
            addresses.neo4j,
            user=addresses.neo4j_user,
            password=addresses.neo4j_password,
            database=settings.neo4j_database,
            timeout_seconds=patience,
        ) as store:
            # The server plans each query the first time it sees it, which takes it longer than a person's deadline.
            store.history_of(NOBODY)
            store.intents_of(NOBODY)
            store.campaigns_of({NOBODY: 1.0}, now_ms=0, half_life_days=1, limit=1)
            yield store

    @contextmanager
    def warehouse() -> Iterator[Warehouse]:
        with open_warehouse(settings.addresses.warehouse, timeout_seconds=patience) as store:
            yield store

    @contextmanager
    def cache() -> Iterator[Cache]:
        with open_cache(settings.addresses.redis, timeout_seconds=patience) as store:
            yield store

    return StoreOpeners(documents=documents, vectors=vectors, graph=graph, warehouse=warehouse, cache=cache)
