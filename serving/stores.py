"""How the service opens each store: addresses and timeouts from the settings. What keeps them open is `guard`."""

from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass

from persona.errors import StoreRefused
from persona.settings import Settings
from persona.stores.cache import Cache
from persona.stores.documents import Documents
from persona.stores.graph import Graph
from persona.stores.kept_answers import KeptAnswers
from persona.stores.opening import cache_of, documents_of, graph_of, kept_answers_of, vectors_of, warehouse_of
from persona.stores.vectors import VectorStore
from persona.stores.warehouse import Warehouse

NOBODY = ""
FIRST = "v1"


@dataclass(frozen=True)
class StoreOpeners:
    """One way to open each store; nothing is connected before it is called, and it may be called again after it failed."""

    documents: Callable[[], AbstractContextManager[Documents]]
    vectors: Callable[[], AbstractContextManager[VectorStore]]
    """On no collections in particular, see `VectorStore.at`: which are in use MongoDB says, and Milvus comes back without it."""
    graph: Callable[[], AbstractContextManager[Graph]]
    warehouse: Callable[[], AbstractContextManager[Warehouse]]
    cache: Callable[[], AbstractContextManager[Cache]]
    answers: Callable[[], AbstractAsyncContextManager[KeptAnswers]]
    """For the event loop, on the same server."""


def openers(settings: Settings) -> StoreOpeners:
    """The stores that the settings name. Each raises `NotStarted` while the local stack has no addresses yet."""

    @contextmanager
    def vectors() -> Iterator[VectorStore]:
        with vectors_of(settings, version=FIRST) as store:
            for version in store.versions():
                with suppress(StoreRefused):  # collections that are being made, or dropped, are not searched yet, or no more
                    store.at(version).warm()
            yield store

    @contextmanager
    def graph() -> Iterator[Graph]:
        with graph_of(settings) as store:
            # The server plans each query the first time it sees it, which takes it longer than a person's deadline.
            store.ties_of(NOBODY)
            store.campaigns_of({NOBODY: 1.0}, now_ms=0, half_life_days=1, limit=1)
            store.interested_in(NOBODY, limit=1)
            yield store

    return StoreOpeners(
        documents=lambda: documents_of(settings),
        vectors=vectors,
        graph=graph,
        warehouse=lambda: warehouse_of(settings),
        cache=lambda: cache_of(settings),
        answers=lambda: kept_answers_of(settings),
    )
