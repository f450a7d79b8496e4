"""From the projections to what is served: a fitted model, its evaluation, and its publication as a generation."""

from datetime import timedelta
from typing import Any

import dagster as dg

from persona.evaluation.candidate import evaluate_candidate
from persona.evaluation.report import Report, markdown
from persona.pipeline.draining import Pipeline
from persona.pipeline.stages import CODE_VERSIONS
from persona.ranking import publication
from persona.stores.graph import Graph
from persona.stores.warehouse import Warehouse
from persona_assets import plots
from persona_assets.assets.intake import drop_folder
from persona_assets.assets.learning import lessons
from persona_assets.assets.projections import engagement_metrics, milvus_collection, neo4j_graph
from persona_assets.pools import MONGODB, NEO4J
from persona_assets.results import FOLDER_STATE

OWNERS = ["team:marketing"]


@dg.asset(
    group_name="ranking",
    deps=[milvus_collection, neo4j_graph, engagement_metrics, lessons, drop_folder],
    kinds={"python", "mongodb"},
    owners=OWNERS,
    pool=MONGODB,
    code_version=CODE_VERSIONS["ranking_model"],
    freshness_policy=dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=48), warn_window=timedelta(hours=26)),
)
def ranking_model(
    context: dg.AssetExecutionContext,
    pipeline: dg.ResourceParam[Pipeline],
    warehouse: dg.ResourceParam[Warehouse],
) -> dg.MaterializeResult[None]:
    """Weights of the channels, how well each campaign does and which go together, fitted on the truth."""
    fitted = publication.fit_candidate(pipeline, warehouse, run_id=context.run.run_id)
    relations = fitted.model.relations
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(fitted.model.overall),
            "facts": fitted.model.facts,
            "related_campaigns": relations.relations,
            "related_campaigns_left_out": relations.left_out or "no",
            "top_campaigns": plots.top_campaigns(fitted.model),
        },
        data_version=dg.DataVersion(fitted.model.fingerprint),
        tags={FOLDER_STATE: fitted.folder_state},
    )


@dg.asset(
    group_name="ranking",
    deps=[ranking_model, drop_folder],
    kinds={"python", "mongodb"},
    owners=OWNERS,
    pool=MONGODB,
    code_version=CODE_VERSIONS["ranking_evaluation"],
)
def ranking_evaluation(context: dg.AssetExecutionContext, pipeline: dg.ResourceParam[Pipeline]) -> dg.MaterializeResult[None]:
    """How the fitted model, tuned on earlier windows, does in the newest, beside the one in force and decayed popularity."""
    evaluated = evaluate_candidate(pipeline, run_id=context.run.run_id)
    return dg.MaterializeResult(
        metadata=_figures(evaluated.report) if evaluated.report else {"dagster/row_count": 0},
        data_version=dg.DataVersion(evaluated.version),
        tags={FOLDER_STATE: evaluated.folder_state},
    )


@dg.asset(
    group_name="ranking",
    deps=[ranking_evaluation, drop_folder],
    kinds={"python", "mongodb", "neo4j"},
    owners=OWNERS,
    pool=NEO4J,
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


def _figures(report: Report) -> dict[str, Any]:
    newest = report.windows[0] if report.windows else None
    return {
        "dagster/row_count": newest.queries if newest else 0,
        "passed": report.verdict.publish,
        "reason": report.verdict.reason,
        "tuned_on": report.tuned_on,
        "half_life_days": report.half_life_days,
        **(newest.contenders[0].metrics if newest else {}),
        "report": dg.MetadataValue.md(markdown(report)),
        **({"advantage": plots.advantage(report)} if report.differences else {}),
    }


recommendation_api = dg.AssetSpec(
    "recommendation_api",
    group_name="serving",
    deps=[generation],
    description="GET /recommendations/{user_id}: answers from the stores with the generation in force.",
    kinds={"fastapi", "redis"},
    owners=OWNERS,
)
