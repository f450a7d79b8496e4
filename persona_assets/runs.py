"""Which process executes a run, and closing runs whose process is gone: Dagster's default launcher does not notice."""

import os
import socket
import time
from datetime import UTC, datetime, timedelta
from itertools import takewhile

import dagster as dg
import psutil

from persona.pipeline.lease import has_ended

PROCESS_TAG = "persona/process"
EXECUTING = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
LAUNCHED_WITHIN = timedelta(minutes=2)
"""A run that has not shown its process by then is not counted on any more."""
FIRST_WAIT, LONGEST_WAIT = 10.0, 300.0
NOT_BEGUN = [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING]


def tag_with_process(instance: dg.DagsterInstance, run_id: str) -> None:
    """Note which process executes the run."""
    instance.add_run_tags(run_id, process_tag())


def process_tag() -> dict[str, str]:
    """The tag of a run that this process executes."""
    return {PROCESS_TAG: f"{socket.gethostname()}:{os.getpid()}:{psutil.Process().create_time():.2f}"}


def close_orphaned_runs(instance: dg.DagsterInstance, *, nothing_runs: bool = False) -> list[str]:
    """Fail the runs whose process on this host has ended without saying so; return their ids.

    With `nothing_runs`, the caller knows that no service is up: runs that were being launched are orphans too.
    """
    orphaned = [
        run
        for run in instance.get_runs(dg.RunsFilter(statuses=EXECUTING))
        if _process_is_gone(run.tags.get(PROCESS_TAG), nothing_runs)
    ]
    if nothing_runs:
        orphaned += instance.get_runs(dg.RunsFilter(statuses=NOT_BEGUN))
    for run in orphaned:
        instance.report_run_failed(
            run, "The process that executed this run is gone. What it had not applied, the next run applies."
        )
    return [run.run_id for run in orphaned]


def is_under_way(instance: dg.DagsterInstance, job_name: str) -> bool:
    """Whether a run of the job is being launched, or any run executes in a living process of this host."""
    launched = dg.RunsFilter(
        job_name=job_name, statuses=[*NOT_BEGUN, dg.DagsterRunStatus.STARTED], created_after=datetime.now(UTC) - LAUNCHED_WITHIN
    )
    executing = instance.get_runs(dg.RunsFilter(statuses=EXECUTING))  # of any job: "Materialize all" drains too
    return any(_process_lives(run.tags.get(PROCESS_TAG)) for run in executing) or any(
        PROCESS_TAG not in run.tags for run in instance.get_runs(launched)
    )


def seconds_to_wait(instance: dg.DagsterInstance, job_name: str) -> float:
    """How long to leave a job alone that has failed: 10 seconds, then twice as long each time, at most five minutes.

    So that an outage of hours does not fill the history with failed runs, and is noticed to be over all the same.
    """
    records = instance.get_run_records(dg.RunsFilter(job_name=job_name), limit=10)
    failures = list(takewhile(lambda record: record.dagster_run.status is dg.DagsterRunStatus.FAILURE, records))
    if not failures or failures[0].end_time is None:
        return 0.0
    pause: float = min(FIRST_WAIT * 2 ** (len(failures) - 1), LONGEST_WAIT)
    return float(max(0.0, failures[0].end_time + pause - time.time()))


def _process_lives(tag: str | None) -> bool:
    return tag is not None and tag.rsplit(":", 2)[0] == socket.gethostname() and not _process_is_gone(tag, False)


def _process_is_gone(tag: str | None, nothing_runs: bool) -> bool:
    if tag is None:
        return nothing_runs
    host, pid, started = tag.rsplit(":", 2)
    return has_ended(host=host, pid=int(pid), started=float(started))
