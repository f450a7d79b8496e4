"""The first step of computing a projection anew: forget what it holds, and let everything wait for it again. Draining does the rest."""

from collections.abc import Callable

from persona.pipeline.draining import Pipeline
from persona.pipeline.stages import UPSTREAM, downstream
from persona.settings import Settings
from persona.stores.graph import open_graph


def begin(asset: str, pipeline: Pipeline, settings: Settings) -> None:
    """Forget and reopen; call it under the lease, then materialise."""
    REBUILDABLE[asset](pipeline, settings)
    again = [asset, *downstream(asset)] if asset in ("embeddings", "intents") else [asset]
    pipeline.documents.ledger.reopen([sink for sink in UPSTREAM if sink in again])


def _embeddings(pipeline: Pipeline, settings: Settings) -> None:
    pipeline.documents.embeddings.forget_all()
    pipeline.documents.embeddings.begin_new_collections()


def _intents(pipeline: Pipeline, settings: Settings) -> None:
    pipeline.documents.embeddings.forget_labels()


def _milvus_collection(pipeline: Pipeline, settings: Settings) -> None:
    pipeline.documents.embeddings.begin_new_collections()


def _neo4j_graph(pipeline: Pipeline, settings: Settings) -> None:
    addresses = settings.addresses
    with open_graph(
        addresses.neo4j,
        user=addresses.neo4j_user,
        password=addresses.neo4j_password,
        database=settings.neo4j_database,
        timeout_seconds=settings.store_timeout_seconds,
    ) as graph:
        graph.clear()


def _engagement_metrics(pipeline: Pipeline, settings: Settings) -> None:
    pipeline.warehouse.clear_facts()


REBUILDABLE: dict[str, Callable[[Pipeline, Settings], None]] = {
    "embeddings": _embeddings,
    "intents": _intents,
    "milvus_collection": _milvus_collection,
    "neo4j_graph": _neo4j_graph,
    "engagement_metrics": _engagement_metrics,
}
