"""The table of contents: everything Dagster is to know, assembled. Nothing is defined here."""

from collections.abc import Mapping
from typing import Any

import dagster as dg
import structlog

from persona.logs import configure_logs
from persona.settings import Settings
from persona_assets import automation, resources
from persona_assets.assets import intake, language, learning, projections, ranking
from persona_assets.checks import intake as intake_checks
from persona_assets.checks import language as language_checks
from persona_assets.checks import projections as projection_checks
from persona_assets.checks import ranking as ranking_checks


def build_definitions(resource_overrides: Mapping[str, Any] | None = None) -> dg.Definitions:
    """The whole graph; a test may put other objects in the place of resources."""
    documents = resources.DocumentsResource()
    warehouse = resources.WarehouseResource()
    cache = resources.CacheResource()
    return dg.Definitions(
        assets=dg.load_assets_from_modules([intake, language, learning, projections, ranking], include_specs=True),
        asset_checks=dg.load_asset_checks_from_modules([intake_checks, language_checks, projection_checks, ranking_checks]),
        jobs=[automation.drops_job, automation.ranking_job, automation.audit],
        sensors=[automation.drops_sensor, automation.ranking_sensor],
        schedules=[automation.ranking_schedule, automation.audit_schedule],
        resources={
            "documents": documents,
            "vectors": resources.VectorsResource(documents=documents),
            "graph": resources.GraphResource(),
            "warehouse": warehouse,
            "cache": cache,
            "encoder": resources.EncoderResource(),
            "pipeline": resources.PipelineResource(documents=documents, warehouse=warehouse, cache=cache),
            **(resource_overrides or {}),
        },
        executor=dg.in_process_executor,
    )


if not structlog.is_configured():  # a process of Dagster's own; the command line has its own wishes
    configure_logs(Settings().log_level)
defs = build_definitions()
