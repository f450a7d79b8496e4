"""What comes in: the watched folder, the catalogs, the accepted records. What is computed from them is in the other layers."""

import dagster as dg

from persona.intake import catalogs as catalog_files
from persona.intake import drops
from persona.pipeline.draining import Pipeline
from persona.pipeline.stages import CODE_VERSIONS
from persona_assets.pools import MONGODB
from persona_assets.results import (
    DROP_FOLDER,
    DrainConfig,
    drop_folder_seen,
    materialized,
)

OWNERS = ["team:data"]

drop_folder = dg.AssetSpec(
    DROP_FOLDER,
    group_name="intake",
    description="The watched folder (PERSONA_DROPS): JSON, JSON lines, each optionally gzip. A file put there is taken in by the sensor.",
    kinds={"json"},
    owners=OWNERS,
)


@dg.asset(group_name="intake", kinds={"mongodb", "json"}, owners=OWNERS, pool=MONGODB, code_version=CODE_VERSIONS["catalogs"])
def catalogs(context: dg.AssetExecutionContext, pipeline: dg.ResourceParam[Pipeline]) -> dg.MaterializeResult[None]:
    """Campaigns, intents and customers from the catalog folder (PERSONA_CATALOG) and from `persona catalog`."""
    outcome = catalog_files.load_folder(pipeline, run_id=context.run.run_id)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": outcome.records,
            "campaigns": pipeline.documents.catalog.campaign_count(),
            "version": pipeline.documents.catalog.version(),
        },
        data_version=dg.DataVersion(outcome.fingerprint),
    )


@dg.asset(
    group_name="intake",
    deps=[drop_folder],
    kinds={"mongodb"},
    owners=OWNERS,
    pool=MONGODB,
    code_version=CODE_VERSIONS["raw_conversations"],
)
def raw_conversations(
    context: dg.AssetExecutionContext, config: DrainConfig, pipeline: dg.ResourceParam[Pipeline]
) -> dg.MaterializeResult[None]:
    """Messages and events as they were accepted: the truth.

    Each settled drop, and what came in over HTTP, is claimed, judged, and written or held.
    """
    outcome = drops.take_in_all(pipeline, run_id=context.run.run_id, drops=config.drops, reapply=config.reapply)
    context.log_event(drop_folder_seen(outcome.folder_state))
    counts = [entry.counts for entry in outcome.entries]
    documents = pipeline.documents
    return materialized(
        outcome,
        {
            "read": sum(count.read for count in counts),
            "duplicate": sum(count.duplicate for count in counts),
            "quarantined": sum(count.quarantined for count in counts),
            "erased": sum(count.erased for count in counts),
            "held": sum(entry.state == "held" for entry in outcome.entries),
            "quarantined_in_all": documents.quarantine.count_open(),
            "held_in_all": documents.ledger.count("held"),
        },
    )
