"""Which process executes a run, and closing runs whose process is gone: Dagster's default launcher does not notice."""

import os
import socket

import dagster as dg
import psutil

PROCESS_TAG = "persona/process"
EXECUTING = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
NOT_BEGUN = [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING]


def tag_with_process(instance: dg.DagsterInstance, run_id: str) -> None:
    """Note which process executes the run."""
    instance.add_run_tags(run_id, {PROCESS_TAG: f"{socket.gethostname()}:{os.getpid()}:{psutil.Process().create_time():.2f}"})


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


def _process_is_gone(tag: str | None, nothing_runs: bool) -> bool:
    if tag is None:
        return nothing_runs
    host, pid, started = tag.rsplit(":", 2)
    if host != socket.gethostname():
        return False
    try:
        return abs(psutil.Process(int(pid)).create_time() - float(started)) > 1
    except psutil.NoSuchProcess:
        return True
