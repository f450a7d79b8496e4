"""Dagster's instance under PERSONA_HOME, and running the graph in this process. What the graph is: `definitions`."""

import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from persona.errors import Busy, PersonaError
from persona.pipeline.draining import Pipeline
from persona.settings import Settings
from persona_assets.definitions import build_definitions
from persona_assets.pools import POOLS
from persona_assets.runs import NOT_RETRIED, process_tag
from persona_assets.storage import in_our_words, reach

CONFIGURATION = Path(__file__).parents[1] / "dagster.yaml"
OUR_ERRORS = "persona.errors."
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@dataclass(frozen=True, slots=True)
class Execution:
    """How a run ended."""

    run_id: str
    success: bool
    error: str | None
    busy: bool
    """Whether it failed because another run held the lease."""
    checks: list[dict[str, Any]]
    """asset, check, passed, blocking."""


def prepare_instance(settings: Settings) -> dg.DagsterInstance:
    """Dagster's instance, with its configuration in place, its tables made and the limits of its pools set.

    Several processes that find no tables would all make them and stand in each other's way: call this before they start. Raises
    `PersonaError` where the PostgreSQL that is to hold them does not answer.
    """
    reach(settings)
    settings.dagster_home.mkdir(parents=True, exist_ok=True)
    if not CONFIGURATION.exists():
        raise PersonaError(
            f"{CONFIGURATION.name} is missing beside the packages", hint="Install from a checkout: pip install -e ."
        )
    shutil.copyfile(CONFIGURATION, settings.dagster_home / CONFIGURATION.name)
    os.environ["DAGSTER_HOME"] = str(settings.dagster_home)
    with in_our_words(settings):
        instance = dg.DagsterInstance.get()
        instance.get_runs(limit=1)
        instance.get_asset_records()
        instance.all_instigator_state()
        # the daemon makes a pool's limit when it first sees the pool, and lets what waits at that moment pass
        for pool in set(POOLS) - {limited.name for limited in instance.event_log_storage.get_pool_limits()}:
            instance.event_log_storage.initialize_concurrency_limit_to_default(pool)
    return instance


def execute(
    settings: Settings, pipeline: Pipeline, *, assets: Sequence[str], resources: Mapping[str, Any] | None = None
) -> Execution:
    """Materialise these assets with their checks, in this process; `resources` take the place of those defined."""
    definitions = build_definitions({"pipeline": pipeline, **(resources or {})})
    job = definitions.resolve_implicit_global_asset_job_def()
    run_id = str(uuid.uuid4())
    with prepare_instance(settings) as instance:
        result = job.execute_in_process(
            instance=instance,
            raise_on_error=False,
            asset_selection=[dg.AssetKey(asset) for asset in assets],
            run_config=QUIET,
            tags={**process_tag(run_id), **NOT_RETRIED},
            run_id=run_id,
        )
    checks = [
        {
            "asset": evaluation.asset_key.to_user_string(),
            "check": evaluation.check_name,
            "passed": evaluation.passed,
            "blocking": evaluation.blocking,
        }
        for evaluation in result.get_asset_check_evaluations()
    ]
    failures = list(result.filter_events(lambda event: event.is_step_failure))
    if not failures:  # a store that was not to be reached when the run began: no step was started
        failures = list(result.filter_events(lambda event: event.is_job_failure))
    reasons = "; ".join(_reason(event) for event in failures)
    busy = any(cause is not None and cause.cls_name == Busy.__name__ for cause in map(_cause, failures))
    return Execution(result.run_id, result.success, reasons or None, busy, checks)


def _cause(event: dg.DagsterEvent) -> Any:
    """What we raised, under what Dagster says of it; None where it says nothing."""
    error = event.step_failure_data.error if event.is_step_failure else event.job_failure_data.error
    return (error.cause or error) if error else None


def _reason(event: dg.DagsterEvent) -> str:
    cause = _cause(event)
    if cause is None:
        return f"{event.step_key or event.job_name} failed"
    if cause.cls_name == "DagsterAssetCheckFailedError":
        return f"a blocking check failed: {event.step_key}"
    if not cause.message.startswith(OUR_ERRORS):  # only our own messages are known to hold no person's words
        return f"{event.step_key or event.job_name} failed with {cause.cls_name}; see the run in Dagster"
    return str(cause.message).strip().split(": ", 1)[-1]
