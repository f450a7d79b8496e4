"""How assets report: one shape of metadata for all of them, and the versions that tell the UI fresh from stale.

Few, stable, numeric keys; drops by hash and name, never a person. Dagster compares an asset with its direct inputs only, so every
asset that reflects drops depends on `drop_folder` and says which state of it is reflected: after a new drop all of them are stale.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import dagster as dg

from persona.pipeline.draining import Batch, Outcome, Pipeline
from persona.stores.documents.ledger import Entry

DROP_FOLDER = dg.AssetKey("drop_folder")
FOLDER_STATE = "dagster/input_data_version/drop_folder"
DATA_VERSION = "dagster/data_version"
SHOWN = 50


class DrainConfig(dg.Config):
    """What to apply. The default, everything that is pending, is nearly always right."""

    drops: list[str] = []
    """Only these drops, by SHA-256."""
    reapply: bool = False
    """Also what was applied before."""


def drain(context: dg.AssetExecutionContext, config: DrainConfig, pipeline: Pipeline, apply: Callable[[Batch], None]) -> Outcome:
    """Let `apply` work on what is pending for the asset that is being materialised, or on what the Launchpad names."""
    stage = context.asset_key.to_user_string()
    return pipeline.drain(stage, apply, run_id=context.run.run_id, drops=config.drops, reapply=config.reapply)


def materialized(outcome: Outcome, metadata: Mapping[str, Any] | None = None) -> dg.MaterializeResult[None]:
    """The result of a draining asset: what it wrote, which drops it applied, and the fingerprint of all it ever applied."""
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": outcome.records,
            "drops": len(outcome.entries),
            "seconds": round(outcome.seconds, 3),
            **({"applied": drops_table(outcome.entries)} if outcome.entries else {}),
            **(metadata or {}),
        },
        data_version=dg.DataVersion(outcome.fingerprint),
        tags={FOLDER_STATE: outcome.folder_state},
    )


def drop_folder_seen(state: str) -> dg.AssetMaterialization:
    """The event that tells Dagster which state the watched folder is in."""
    return dg.AssetMaterialization(DROP_FOLDER, tags={DATA_VERSION: state})


def drops_table(entries: Sequence[Entry]) -> dg.TableMetadataValue:
    """The drops of a run with their counts, the first fifty."""
    return dg.MetadataValue.table(
        records=[
            dg.TableRecord({"drop": entry.id[:12], "name": entry.name, "state": entry.state, **entry.counts.as_dict()})
            for entry in entries[:SHOWN]
        ],
        schema=dg.TableSchema(
            [dg.TableColumn("drop"), dg.TableColumn("name"), dg.TableColumn("state")]
            + [dg.TableColumn(name, "int") for name in ("read", "accepted", "duplicate", "quarantined", "erased")]
        ),
    )
