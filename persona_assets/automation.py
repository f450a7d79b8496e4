"""When things run: the jobs, the sensors that nudge, the schedules. What runs is in the assets; whether it should, in the domain."""

import hashlib
import os
from datetime import UTC, datetime

import dagster as dg

from persona.intake.catalogs import unseen_catalogs
from persona.intake.claim import settled_files
from persona.intake.inbox import arrivals_in
from persona.pipeline.audit import compare_stores
from persona.pipeline.draining import Pipeline
from persona.pipeline.rebuilding import gives_way
from persona.pipeline.stages import DRAINING_ASSETS
from persona.ranking.publication import fit_is_due
from persona.settings import Settings
from persona.stores.documents import Documents
from persona.stores.graph import Graph
from persona.stores.vectors import VectorStore
from persona.stores.warehouse import Warehouse
from persona_assets.pools import MONGODB
from persona_assets.results import DATA_VERSION, DROP_FOLDER, drop_folder_seen
from persona_assets.runs import NOT_RETRIED, close_orphaned_runs, is_under_way, seconds_to_wait

TICK_SECONDS = Settings().sensor_seconds

drops_job = dg.define_asset_job(
    "drops_job",
    selection=dg.AssetSelection.assets(*DRAINING_ASSETS),
    run_tags=NOT_RETRIED,  # what a run leaves undone the sensor asks for, ever more rarely: two who ask would be one too many
)
ranking_job = dg.define_asset_job(
    "ranking_job", selection=dg.AssetSelection.assets("lessons", "ranking_model", "ranking_evaluation", "generation")
)


@dg.op(pool=MONGODB)
def compare_whole_stores(
    context: dg.OpExecutionContext,
    documents: dg.ResourceParam[Documents],
    vectors: dg.ResourceParam[VectorStore],
    graph: dg.ResourceParam[Graph],
    warehouse: dg.ResourceParam[Warehouse],
) -> None:
    """Count everything in the truth and in each projection; a difference fails the run and is kept in `anomalies`."""
    if waiting := documents.ledger.waiting(DRAINING_ASSETS):
        context.log.info(f"{waiting} drops or catalogs wait to be applied: the stores are not to be compared now.")
        return
    comparisons = compare_stores(documents, vectors, graph, warehouse)
    different = [comparison for comparison in comparisons if not comparison.agrees]
    for comparison in different:
        warehouse.record_anomaly(
            context.run.run_id,
            comparison.asset,
            "audit",
            severity="ERROR",
            value=comparison.found,
            threshold=comparison.expected,
            at=datetime.now(UTC),
        )
    metadata = {
        f"{comparison.asset}: {comparison.what}": f"{comparison.found} of {comparison.expected}" for comparison in comparisons
    }
    context.add_output_metadata(metadata)
    if different:
        raise dg.Failure(
            "Stores differ from the truth; `persona rebuild` mends a projection.", metadata=metadata, allow_retries=False
        )


@dg.job
def audit() -> None:
    """Compare whole stores, when nothing waits to be applied."""
    compare_whole_stores()


@dg.sensor(
    job=drops_job,
    minimum_interval_seconds=TICK_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Asks for a run when a settled file or a request has not been taken in, or a drop or catalog waits for an asset.",
)
def drops_sensor(context: dg.SensorEvaluationContext, pipeline: dg.ResourceParam[Pipeline]) -> dg.SensorResult:
    """Only nudges: what is to be done is worked out by the run."""
    close_orphaned_runs(context.instance)
    documents, settings = pipeline.documents, pipeline.settings
    files = {str(file.path): file.signature for file in settled_files(settings.drops, settle_seconds=settings.settle_seconds)}
    unseen = [path for path in documents.ledger.unseen(files) if os.access(path, os.R_OK)]
    events = _folder_events(context.instance, documents, {path: files[path] for path in unseen})
    waiting = documents.ledger.waiting(DRAINING_ASSETS)
    if not unseen and not waiting and not arrivals_in(settings.inbox) and not unseen_catalogs(pipeline):
        return dg.SensorResult(skip_reason=dg.SkipReason("Everything is applied."), asset_events=events)
    if not gives_way(documents.leases.holder()) or is_under_way(context.instance, drops_job.name):
        return dg.SensorResult(skip_reason=dg.SkipReason("A run is under way."), asset_events=events)
    if wait := seconds_to_wait(context.instance, drops_job.name):
        reason = f"The latest run failed; the next is asked for in {wait:.0f} s."
        return dg.SensorResult(skip_reason=dg.SkipReason(reason), asset_events=events)
    return dg.SensorResult(run_requests=[dg.RunRequest()], asset_events=events)


@dg.sensor(
    job=ranking_job,
    minimum_interval_seconds=TICK_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Asks for a new model when there is none, or when the facts grew by a fifth since the last one.",
)
def ranking_sensor(context: dg.SensorEvaluationContext, pipeline: dg.ResourceParam[Pipeline]) -> dg.SkipReason | dg.RunRequest:
    """The daily schedule does the rest."""
    if pipeline.documents.ledger.waiting(DRAINING_ASSETS):
        return dg.SkipReason("Drops are being applied.")
    if not fit_is_due(pipeline):
        return dg.SkipReason("The model is recent enough.")
    if pipeline.documents.leases.holder() is not None or is_under_way(context.instance, ranking_job.name):
        return dg.SkipReason("A run is under way.")
    if wait := seconds_to_wait(context.instance, ranking_job.name):
        return dg.SkipReason(f"The latest run failed; the next is asked for in {wait:.0f} s.")
    return dg.RunRequest()


ranking_schedule = dg.ScheduleDefinition(
    name="ranking_daily", job=ranking_job, cron_schedule="0 3 * * *", default_status=dg.DefaultScheduleStatus.RUNNING
)
audit_schedule = dg.ScheduleDefinition(
    name="audit_daily", job=audit, cron_schedule="30 3 * * *", default_status=dg.DefaultScheduleStatus.RUNNING
)


def _folder_events(instance: dg.DagsterInstance, documents: Documents, unseen: dict[str, str]) -> list[dg.AssetMaterialization]:
    """Tell Dagster the folder's state where it has moved: the drops that have been judged, and the files that have not."""
    state = documents.ledger.arrivals()
    if unseen:
        state += "+" + hashlib.sha256(repr(sorted(unseen.items())).encode()).hexdigest()[:8]
    latest = instance.get_latest_materialization_event(DROP_FOLDER)
    materialization = latest.asset_materialization if latest else None
    known = materialization.tags.get(DATA_VERSION) if materialization and materialization.tags else None
    return [] if known == state else [drop_folder_seen(state)]
