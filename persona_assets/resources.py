"""One resource for each store and one for the encoder: thin shells. What assets receive is the domain's own object.

Empty fields mean: from the settings (the environment, `.env`), or the address that the local stack wrote down.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
from pydantic import Field

from persona.language.encoder import Encoder
from persona.language.lazy import LazyEncoder
from persona.pipeline.draining import Pipeline
from persona.settings import Settings
from persona.stores.cache import Cache
from persona.stores.documents import Documents
from persona.stores.graph import Graph
from persona.stores.opening import cache_of, documents_of, graph_of, vectors_of, warehouse_of
from persona.stores.vectors import VectorStore
from persona.stores.warehouse import Warehouse
from persona_assets.runs import tag_with_process


class DocumentsResource(dg.ConfigurableResource[Documents]):
    """MongoDB. Assets that ask for `documents` receive open `Documents`."""

    url: str = Field(default="", description="mongodb:// address; empty: MONGODB_URI or the local stack's.")

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator[Documents]:
        """Open for the time of a run or a tick."""
        with documents_of(Settings(), self.url) as documents:
            yield documents


class VectorsResource(dg.ConfigurableResource[VectorStore]):
    """Milvus. Assets that ask for `vectors` receive an open `VectorStore` on the collections to fill."""

    documents: dg.ResourceDependency[Documents]
    uri: str = Field(default="", description="http:// address; empty: MILVUS_URI or the local stack's.")

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator[VectorStore]:
        """Open for the time of a run."""
        with vectors_of(Settings(), version=self.documents.embeddings.collections_to_fill(), uri=self.uri) as vectors:
            yield vectors


class GraphResource(dg.ConfigurableResource[Graph]):
    """Neo4j. Assets that ask for `graph` receive an open `Graph`."""

    url: str = Field(default="", description="bolt:// or neo4j:// address; empty: NEO4J_URI or the local stack's.")

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator[Graph]:
        """Open for the time of a run."""
        with graph_of(Settings(), self.url) as graph:
            yield graph


class WarehouseResource(dg.ConfigurableResource[Warehouse]):
    """The SQL warehouse. Assets that ask for `warehouse` receive an open `Warehouse`."""

    url: str = Field(default="", description="SQLAlchemy URL; empty: WAREHOUSE_URL, SQLITE_PATH or a file under PERSONA_HOME.")

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator[Warehouse]:
        """Open for the time of a run or a tick."""
        with warehouse_of(Settings(), self.url) as warehouse:
            yield warehouse


class CacheResource(dg.ConfigurableResource[Cache]):
    """Redis. Assets that ask for `cache` receive an open `Cache`."""

    url: str = Field(default="", description="redis:// address; empty: REDIS_URL or the local stack's.")

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator[Cache]:
        """Open for the time of a run, which goes on without it when it is down."""
        with cache_of(Settings(), self.url, at_once=False) as cache:
            yield cache


class EncoderResource(dg.ConfigurableResource[Encoder]):
    """The sentence-transformers model. Loaded when the first text is encoded, once a process."""

    def create_resource(self, context: dg.InitResourceContext) -> Encoder:
        """An encoder that loads its model on first use."""
        return LazyEncoder(Settings())


class PipelineResource(dg.ConfigurableResource[Pipeline]):
    """Ledger, lease and run history as one. Assets that ask for `pipeline` receive a `Pipeline`."""

    documents: dg.ResourceDependency[Documents]
    warehouse: dg.ResourceDependency[Warehouse]
    cache: dg.ResourceDependency[Cache]

    def create_resource(self, context: dg.InitResourceContext) -> Pipeline:
        """On the stores of the run, which from now on is known by its process."""
        if context.instance and context.run:
            tag_with_process(context.instance, context.run.run_id)
        return Pipeline(Settings(), self.documents, self.warehouse, self.cache)
