"""The first step of computing a projection anew: forget what it holds, and let everything wait for it again. Draining does the rest."""

from collections.abc import Callable

from persona.language.encoder import Encoder
from persona.pipeline.draining import Pipeline
from persona.pipeline.stages import downstream
from persona.stores.graph import open_graph


def begin(asset: str, pipeline: Pipeline, encoder: Encoder) -> None:
    """Forget and reopen; call it under the lease, then materialise. `encoder` is asked only where embeddings are rebuilt."""
    # a model that cannot be loaded must not cost the vectors of the one before
    model = (encoder.fingerprint, encoder.dimension) if asset == "embeddings" else None
    # before anything is forgotten: if this ends here, the next run computes it again all the same
    pipeline.documents.ledger.reopen([asset, *downstream(asset)])
    REBUILDABLE[asset](pipeline)
    if model:
        pipeline.documents.embeddings.agree_on(*model)


def _embeddings(pipeline: Pipeline) -> None:
    pipeline.documents.embeddings.begin_new_collections()
    pipeline.documents.embeddings.forget_all()


def _intents(pipeline: Pipeline) -> None:
    pipeline.documents.embeddings.forget_labels()


def _milvus_collection(pipeline: Pipeline) -> None:
    pipeline.documents.embeddings.begin_new_collections()


def _neo4j_graph(pipeline: Pipeline) -> None:
    settings, addresses = pipeline.settings, pipeline.settings.addresses
    with open_graph(
        addresses.neo4j,
        user=addresses.neo4j_user,
        password=addresses.neo4j_password,
        database=settings.neo4j_database,
        timeout_seconds=settings.store_timeout_seconds,
    ) as graph:
        graph.clear()


def _engagement_metrics(pipeline: Pipeline) -> None:
    pipeline.warehouse.clear_facts()


REBUILDABLE: dict[str, Callable[[Pipeline], None]] = {
    "embeddings": _embeddings,
    "intents": _intents,
    "milvus_collection": _milvus_collection,
    "neo4j_graph": _neo4j_graph,
    "engagement_metrics": _engagement_metrics,
}
