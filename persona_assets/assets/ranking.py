"""From the projections to what is served: a fitted model, and its publication as a generation."""

from datetime import timedelta

import dagster as dg

from persona.pipeline.draining import Pipeline
from persona.pipeline.learning import learn_given_intents
from persona.pipeline.stages import CODE_VERSIONS
from persona.ranking import publication
from persona.stores.graph import Graph
from persona.stores.warehouse import Warehouse
from persona_assets import plots
from persona_assets.assets.intake import drop_folder
from persona_assets.assets.projections import (
    engagement_metrics,
    milvus_collection,
    neo4j_graph,
)
from persona_assets.results import FOLDER_STATE

OWNERS = ["team:marketing"]


@dg.asset(
    group_name="ranking",
    deps=[milvus_collection, neo4j_graph, engagement_metrics, drop_folder],
    kinds={"python", "mongodb"},
    owners=OWNERS,
    code_version=CODE_VERSIONS["ranking_model"],
    freshness_policy=dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=48), warn_window=timedelta(hours=26)),
)
def ranking_model(
    context: dg.AssetExecutionContext,
    pipeline: dg.ResourceParam[Pipeline],
    warehouse: dg.ResourceParam[Warehouse],
    graph: dg.ResourceParam[Graph],
) -> dg.MaterializeResult[None]:
    """Weights of the channels, how well each campaign does and which go together, fitted on the warehouse; and intents, from given ones."""
    learned = learn_given_intents(pipeline, graph, run_id=context.run.run_id)
    fitted = publication.fit_candidate(pipeline, warehouse, run_id=context.run.run_id)
    relations = fitted.model.relations
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(fitted.model.overall),
            "facts": fitted.model.facts,
            "related_campaigns": relations.relations,
            "related_campaigns_left_out": relations.left_out or "no",
            "learned_intents": learned,
            "top_campaigns": plots.top_campaigns(fitted.model),
        },
        data_version=dg.DataVersion(fitted.model.fingerprint),
        tags={FOLDER_STATE: fitted.folder_state},
    )


@dg.asset(
    group_name="ranking",
    deps=[ranking_model, drop_folder],
    kinds={"python", "mongodb", "neo4j"},
    owners=OWNERS,
    code_version=CODE_VERSIONS["generation"],
)
def generation(
    context: dg.AssetExecutionContext, pipeline: dg.ResourceParam[Pipeline], graph: dg.ResourceParam[Graph]
) -> dg.MaterializeResult[None]:
    """The ranking model in service. A candidate that is not better is not published, and the run succeeds all the same."""
    published = publication.publish_candidate(pipeline, graph, run_id=context.run.run_id)
    return dg.MaterializeResult(
        metadata={
            "published": published.decision.publish,
            "reason": published.decision.reason,
            "generation": published.in_force or "",
        },
        data_version=dg.DataVersion(published.fingerprint),
        tags={FOLDER_STATE: published.folder_state},
    )


recommendation_api = dg.AssetSpec(
    "recommendation_api",
    group_name="serving",
    deps=[generation],
    description="GET /recommendations/{user_id}: answers from the stores with the generation in force.",
    kinds={"fastapi", "redis"},
    owners=OWNERS,
)
