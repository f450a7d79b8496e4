"""What serving reads: vectors, graph and warehouse, each computed from the truth and rebuilt from it at will."""

import dagster as dg

from persona.pipeline import sinks
from persona.pipeline.draining import Pipeline
from persona.pipeline.stages import CODE_VERSIONS
from persona.stores.graph import Graph
from persona.stores.vectors import VectorStore
from persona.stores.warehouse import Warehouse
from persona_assets import plots
from persona_assets.assets.intake import drop_folder
from persona_assets.assets.language import intents
from persona_assets.pools import MILVUS, NEO4J, WAREHOUSE
from persona_assets.results import DrainConfig, drain, materialized

OWNERS = ["team:data"]
DAYS = 90
"""As many of the newest are shown."""


@dg.asset(
    group_name="projections",
    deps=[intents, drop_folder],
    kinds={"milvus"},
    owners=OWNERS,
    pool=MILVUS,
    code_version=CODE_VERSIONS["milvus_collection"],
)
def milvus_collection(
    context: dg.AssetExecutionContext,
    config: DrainConfig,
    pipeline: dg.ResourceParam[Pipeline],
    vectors: dg.ResourceParam[VectorStore],
) -> dg.MaterializeResult[None]:
    """Users, conversations and campaigns as vectors, to find what is like what."""
    outcome = drain(context, config, pipeline, lambda batch: sinks.index_vectors(batch, vectors))
    current = vectors.at(pipeline.documents.embeddings.collections_to_fill())
    return materialized(
        outcome,
        {collection: current.count(collection) for collection in ("users", "conversations", "campaigns")},
    )


@dg.asset(
    group_name="projections",
    deps=[intents, drop_folder],
    kinds={"neo4j"},
    owners=OWNERS,
    pool=NEO4J,
    code_version=CODE_VERSIONS["neo4j_graph"],
)
def neo4j_graph(
    context: dg.AssetExecutionContext,
    config: DrainConfig,
    pipeline: dg.ResourceParam[Pipeline],
    graph: dg.ResourceParam[Graph],
) -> dg.MaterializeResult[None]:
    """Users, campaigns and intents: who engaged with what, named what, and wants what."""
    outcome = drain(context, config, pipeline, lambda batch: sinks.link(batch, graph))
    return materialized(
        outcome,
        {"users": graph.count("User"), "campaigns": graph.count("Campaign"), "engagements": graph.count("ENGAGED")},
    )


@dg.asset(
    group_name="projections",
    deps=[intents, drop_folder],
    kinds={"sql"},
    owners=OWNERS,
    pool=WAREHOUSE,
    code_version=CODE_VERSIONS["engagement_metrics"],
)
def engagement_metrics(
    context: dg.AssetExecutionContext,
    config: DrainConfig,
    pipeline: dg.ResourceParam[Pipeline],
    warehouse: dg.ResourceParam[Warehouse],
) -> dg.MaterializeResult[None]:
    """Facts, day buckets and users' sums in SQL."""
    outcome = drain(context, config, pipeline, lambda batch: sinks.count(batch, warehouse))
    return materialized(
        outcome,
        {"facts": warehouse.fact_count(), "events_by_day": plots.events_by_day(warehouse.events_by_day(DAYS))},
    )
