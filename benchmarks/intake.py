"""How much one drop may hold: `python -m benchmarks.intake`.

Records without words, so that no model runs: what is measured is reading, judging, writing and every sink. Starts stores of its own in
temporary homes. The large drops are drained by `persona materialize`, a process whose peak memory is read; the small ones by a
warm process, checks included. Beside it stands what MongoDB alone takes for the same documents in the same run.
"""

import argparse
import gzip
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from benchmarks.homes import home
from persona import synthetic
from persona.local.processes import marked
from persona.logs import configure_logs
from persona.pipeline.stages import DRAINING_ASSETS
from persona.settings import Settings
from persona.stores.opening import documents_of
from persona_cli.pipeline import open_pipeline

console = Console(width=110)
GOAL_GIGABYTES = 1.5
GOAL_REPEATED = 6_000
GOAL_NEW = 4_000
GOAL_RATIO = 1.5
PAIRS = 200_000
SMALL = 1_000
SMALL_RUNS = 3


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured value beside the goal it should keep."""

    what: str
    value: float
    goal: float
    unit: str
    at_most: bool = False

    @property
    def met(self) -> bool:
        """Whether the goal is kept."""
        return self.value <= self.goal if self.at_most else self.value >= self.goal


def main() -> None:
    """Measure, print, and with `--check` exit 1 where a goal is missed."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--records", type=int, default=1_000_000, help="records in each large drop")
    arguments.add_argument("--pairs", type=int, default=PAIRS, help="distinct (user, campaign) pairs in the first of them")
    arguments.add_argument("--seed", type=int, default=7)
    arguments.add_argument("--check", action="store_true", help="exit 1 where a goal is missed")
    options = arguments.parse_args()
    configure_logs("WARNING")

    with home() as settings:
        empty = seconds_for_small_drops(settings, options.seed, begin=1)
        figures = large_drop(settings, options.records, options.pairs, options.seed, goal=GOAL_REPEATED)
        full = seconds_for_small_drops(settings, options.seed, begin=1 + SMALL_RUNS)
        for what in ("the whole run", "the stages"):
            console.print(f"{SMALL:,} records, {what}: {empty[what]:.2f} s on empty stores, {full[what]:.2f} s on full ones")
            ratio = full[what] / empty[what]
            figures.append(Figure(f"{SMALL:,} records on full stores, {what}", ratio, GOAL_RATIO, "x of empty", at_most=True))
    with home() as settings:
        figures += large_drop(settings, options.records, options.records, options.seed, goal=GOAL_NEW)

    table = Table("", "measured", "goal", "", title=f"{options.records:,} records", title_justify="left")
    for figure in figures:
        sign = "<=" if figure.at_most else ">="
        table.add_row(
            figure.what,
            f"{figure.value:,.2f} {figure.unit}",
            f"{sign} {figure.goal:,.1f}",
            "met" if figure.met else "[bold]missed[/]",
        )
    console.print(table)
    if options.check and not all(figure.met for figure in figures):
        raise SystemExit(1)


def large_drop(settings: Settings, records: int, pairs: int, seed: int, *, goal: float) -> list[Figure]:
    """Drain one drop with `persona materialize`; beside it, inserting the same documents into MongoDB and nothing else."""
    path = write_drop(settings.drops / f"large-{pairs}.jsonl.gz", synthetic.event_records(records, pairs, seed))
    bound = seconds_to_insert(settings, path)
    began, worked, served = time.perf_counter(), cpu_seconds_of_children(), cpu_seconds_of_stores(settings)
    document, peak = materialize()
    wall, worked = time.perf_counter() - began, cpu_seconds_of_children() - worked
    served = cpu_seconds_of_stores(settings) - served
    if document["status"] != "success" or document["drops"]["accepted"] != records:
        raise SystemExit(f"the run failed: {document['error'] or document['drops']}")
    stages = {stage["stage"]: stage["seconds"] for stage in document["stages"] if stage["stage"] in DRAINING_ASSETS}
    took = sum(stages.values())
    table = Table("stage", "seconds", "records/s", title=f"{records:,} records over {pairs:,} pairs", title_justify="left")
    for stage, seconds in stages.items():
        table.add_row(stage, f"{seconds:.2f}", f"{records / seconds:,.0f}" if seconds > 1 else "")
    table.add_row("all of them", f"{took:.2f}", f"{records / took:,.0f}")
    table.add_row("the process, with checks and its start", f"{wall:.2f}", f"{records / wall:,.0f}")
    table.add_row("MongoDB alone", f"{bound:.2f}", f"{records / bound:,.0f}")
    console.print(table)
    console.print(
        f"peak memory {peak:.2f} GB; CPU seconds: the process {worked:.0f}, its stores {served:.0f}; "
        f"load {os.getloadavg()[1]:.1f} on {os.cpu_count()} processors\n"
    )
    return [
        Figure(f"through all stages, {pairs:,} pairs", records / took, goal, "records/s"),
        Figure(f"peak memory, {pairs:,} pairs", peak, GOAL_GIGABYTES, "GB", at_most=True),
    ]


def materialize() -> tuple[dict[str, Any], float]:
    """Run `persona materialize` as a process; return what it says and its peak resident memory in GB."""
    command = [sys.executable, "-m", "persona_cli.main", "materialize", *DRAINING_ASSETS, "--json"]
    peak = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        while process.poll() is None:
            peak = max(peak, peak_kilobytes(process.pid))
            time.sleep(0.2)
        assert process.stdout is not None
        return orjson.loads(process.stdout.read()), peak * 1024 / 1e9


def peak_kilobytes(pid: int) -> int:
    """What the kernel has seen as the process's highest resident memory; 0 when it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")), 0)


def cpu_seconds_of_children() -> float:
    """Of every process that this one started and that has ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def cpu_seconds_of_stores(settings: Settings) -> float:
    """Of the home's servers, so far."""
    return sum(process.cpu_times().user + process.cpu_times().system for process in marked(settings.home / "run" / "stores"))


def seconds_for_small_drops(settings: Settings, seed: int, *, begin: int) -> dict[str, float]:
    """Drain small drops one by one in this process; the medians of the whole run, checks included, and of its stages.

    The first drop is not counted.
    """
    from persona_assets.execution import execute

    runs, stages = list[float](), list[float]()
    with open_pipeline(settings) as pipeline:
        for number in range(begin, begin + SMALL_RUNS + 1):
            write_drop(settings.drops / f"small-{number}.jsonl.gz", synthetic.event_records(SMALL, SMALL, seed + 1_000 + number))
            began = time.perf_counter()
            execution = execute(settings, pipeline, assets=DRAINING_ASSETS)
            runs.append(time.perf_counter() - began)
            if not execution.success:
                raise SystemExit(f"the run failed: {execution.error}")
            stages.append(sum(stage.seconds for stage in pipeline.warehouse.stages(execution.run_id)))
    return {"the whole run": statistics.median(runs[1:]), "the stages": statistics.median(stages[1:])}


def seconds_to_insert(settings: Settings, drop: Path) -> float:
    """How long MongoDB takes for the drop's records in a collection without an index, parsing not counted."""
    seconds = 0.0
    with documents_of(settings) as documents, gzip.open(drop) as lines:
        collection = documents.database["benchmark_bound"]
        while batch := [orjson.loads(line) for line in islice(lines, 5_000)]:
            began = time.perf_counter()
            collection.insert_many(batch, ordered=False)
            seconds += time.perf_counter() - began
        collection.drop()
    return seconds


def write_drop(path: Path, records: Iterator[synthetic.Record]) -> Path:
    """Write the records as a drop, whole at once."""
    unfinished = path.with_name(f".{path.name}")
    with gzip.open(unfinished, "wb", compresslevel=1) as file:
        file.writelines(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE) for record in records)
    return unfinished.replace(path)


if __name__ == "__main__":
    main()
