"""What the words mean: vectors and intents of distinct texts. Where vectors are searched is another layer."""

import dagster as dg

from persona.language.encoder import Encoder
from persona.pipeline import sinks
from persona.pipeline.draining import Pipeline
from persona.pipeline.stages import CODE_VERSIONS
from persona_assets.assets.intake import catalogs, drop_folder, raw_conversations
from persona_assets.pools import MONGODB
from persona_assets.results import DrainConfig, drain, materialized

OWNERS = ["team:data"]


@dg.asset(
    group_name="language",
    deps=[raw_conversations, catalogs, drop_folder],
    kinds={"mongodb", "huggingface"},
    owners=OWNERS,
    pool=MONGODB,
    code_version=CODE_VERSIONS["embeddings"],
)
def embeddings(
    context: dg.AssetExecutionContext,
    config: DrainConfig,
    pipeline: dg.ResourceParam[Pipeline],
    encoder: dg.ResourceParam[Encoder],
) -> dg.MaterializeResult[None]:
    """A sentence-transformer vector for every distinct text: messages, campaigns, examples of intents. Equal texts once."""
    outcome = drain(context, config, pipeline, lambda batch: sinks.embed(batch, encoder))
    return materialized(outcome, {"distinct_texts": pipeline.documents.embeddings.count()})


@dg.asset(
    group_name="language",
    deps=[embeddings, drop_folder],
    kinds={"mongodb"},
    owners=OWNERS,
    pool=MONGODB,
    code_version=CODE_VERSIONS["intents"],
)
def intents(
    context: dg.AssetExecutionContext, config: DrainConfig, pipeline: dg.ResourceParam[Pipeline]
) -> dg.MaterializeResult[None]:
    """What every distinct text means: the campaigns that it names, and its intent, told by a classifier of examples, or none of these."""
    outcome = drain(context, config, pipeline, lambda batch: sinks.label(batch, threshold=pipeline.settings.intent_threshold))
    return materialized(outcome)
