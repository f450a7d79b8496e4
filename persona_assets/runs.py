"""Which process executes a run, closing runs whose process is gone, and when to ask for another: Dagster's own word is not enough."""

import os
import socket
import time
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import NamedTuple

import dagster as dg
import psutil

from persona.pipeline.lease import has_ended

PROCESS_TAG = "persona/process"
CODE_SERVER_TAG = ".dagster/grpc_info"
"""Of a run that a code server launched; it executes in a child of that server."""
NOT_RETRIED = {"dagster/max_retries": "0"}
"""The tag of a run that Dagster is not to repeat by itself when its process has crashed."""
EXECUTING = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
BEING_LAUNCHED = [dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING]
LAUNCHED_WITHIN = timedelta(minutes=2)
"""A run that is being launched and has not shown its process by then is not counted on any more; run monitoring fails it."""
FIRST_WAIT, LONGEST_WAIT = 10.0, 300.0


def tag_with_process(instance: dg.DagsterInstance, run_id: str) -> None:
    """Note which process executes the run."""
    instance.add_run_tags(run_id, process_tag(run_id))


def process_tag(run_id: str) -> dict[str, str]:
    """The tag of a run that this process executes. It names the run, as a run that repeats another is given the other's tags."""
    return {PROCESS_TAG: f"{run_id}:{socket.gethostname()}:{os.getpid()}:{psutil.Process().create_time():.2f}"}


def close_orphaned_runs(instance: dg.DagsterInstance, *, nothing_runs: bool = False) -> list[str]:
    """Fail the runs whose process has ended without saying so; return their ids.

    To be called where the code server is. With `nothing_runs`, the caller knows that no service is up: runs that were being
    launched are orphans too. What is queued waits for the next daemon.
    """
    orphaned = [run for run in instance.get_runs(dg.RunsFilter(statuses=EXECUTING)) if _is_orphaned(run, nothing_runs)]
    if nothing_runs:
        orphaned += instance.get_runs(dg.RunsFilter(statuses=BEING_LAUNCHED))
    for run in orphaned:
        instance.report_run_failed(
            run, "The process that executed this run is gone. What it had not applied, the next run applies."
        )
    return [run.run_id for run in orphaned]


def is_under_way(instance: dg.DagsterInstance, job_name: str) -> bool:
    """Whether a run of the job is queued or being launched, or any run executes in a living process of this host."""
    executing = instance.get_runs(dg.RunsFilter(statuses=EXECUTING))  # of any job: "Materialize all" drains too
    queued = dg.RunsFilter(job_name=job_name, statuses=[dg.DagsterRunStatus.QUEUED])
    launched = dg.RunsFilter(
        job_name=job_name,
        statuses=[*BEING_LAUNCHED, dg.DagsterRunStatus.STARTED],
        updated_after=datetime.now(UTC) - LAUNCHED_WITHIN,
    )
    return (
        any(_lives(run) for run in executing)
        or bool(instance.get_runs(queued, limit=1))
        or any(_process_of(run) is None for run in instance.get_runs(launched))
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


class _Process(NamedTuple):
    host: str
    pid: int
    started: float

    @property
    def is_here(self) -> bool:
        return self.host == socket.gethostname()

    def has_ended(self) -> bool:
        return has_ended(host=self.host, pid=self.pid, started=self.started)


def _process_of(run: dg.DagsterRun) -> _Process | None:
    """The process that executes the run; None where it has not said so yet."""
    run_id, _, process = run.tags.get(PROCESS_TAG, "").partition(":")
    if run_id != run.run_id:
        return None
    host, pid, started = process.rsplit(":", 2)
    return _Process(host, int(pid), float(started))


def _lives(run: dg.DagsterRun) -> bool:
    process = _process_of(run)
    return process is not None and process.is_here and not process.has_ended()


def _is_orphaned(run: dg.DagsterRun, nothing_runs: bool) -> bool:
    process = _process_of(run)
    if process is None:
        return nothing_runs
    # the code server, and its children with it, was on another host: in a container that this one has taken the place of
    return process.has_ended() or (CODE_SERVER_TAG in run.tags and not process.is_here)
