"""What is learned from people before a ranking is fitted. A step of its own, so that a ranking run changes nothing but the generation."""

import dagster as dg

from persona.pipeline.draining import Pipeline
from persona.pipeline.learning import LEARNED_BY, learn_given_intents
from persona.pipeline.stages import CODE_VERSIONS
from persona.stores.graph import Graph
from persona_assets.assets.intake import drop_folder
from persona_assets.assets.projections import neo4j_graph
from persona_assets.pools import NEO4J
from persona_assets.results import FOLDER_STATE

OWNERS = ["team:data"]


@dg.asset(
    group_name="language",
    deps=[neo4j_graph, drop_folder],
    kinds={"mongodb", "neo4j"},
    owners=OWNERS,
    pool=NEO4J,
    code_version=CODE_VERSIONS["lessons"],
)
def lessons(
    context: dg.AssetExecutionContext, pipeline: dg.ResourceParam[Pipeline], graph: dg.ResourceParam[Graph]
) -> dg.MaterializeResult[None]:
    """The messages with a given intent, from which it is learned how people say it; where they are others, all labels are inferred anew."""
    learned = learn_given_intents(pipeline, graph, run_id=context.run.run_id)
    documents = pipeline.documents
    return dg.MaterializeResult(
        metadata={"dagster/row_count": len(documents.classifiers.lessons()), "learned": learned},
        data_version=dg.DataVersion(documents.embeddings.label_version() or "none"),
        tags={FOLDER_STATE: documents.ledger.arrivals(applied_by=LEARNED_BY)},
    )
