"""What the platform costs as people grow in number: `python -m benchmarks.scaling`. Worlds are those of `benchmarks.serving`.

For each number of people: disk and memory of every store, memory and p50 of the service, and seconds and memory of a run that fits,
judges and publishes a model. Beside each row how it grows: 1 is in proportion, 0 not at all.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import orjson
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.serving.load import drive
from benchmarks.serving.publishing import write_drop
from benchmarks.serving.service import service
from benchmarks.serving.world import World, world
from persona.local.stack import stores_status
from persona.logs import configure_logs

USERS = (1_000, 10_000, 100_000)
SECONDS = 10
POLL_SECONDS = 0.05
MIB = 1 << 20
STAGES = ("milvus_collection", "neo4j_graph", "ranking_model", "ranking_evaluation", "generation")

console = Console(width=150)


def main() -> None:
    """Measure each size and print them side by side."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--home", type=Path, help="where the stores are kept between runs; otherwise in a temporary folder")
    arguments.add_argument("--users", type=int, nargs="+", default=USERS)
    arguments.add_argument("--seed", type=int, default=7)
    options = arguments.parse_args()
    configure_logs("WARNING")
    costs: dict[int, Mapping[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="persona-bench-") as folder:
        for users in options.users:
            with world(options.home or Path(folder), users=users, seed=options.seed, console=console) as place:
                costs[users] = costs_of(place)
    show(costs)


def costs_of(place: World) -> dict[str, float]:
    """Of one size, by what it is."""
    found: dict[str, float] = {"engagements": place.engagements}
    found |= run_costs(place)
    found |= service_costs(place)
    stores = place.settings.home / "stores"
    for name, status in stores_status(place.settings).items():
        if status.pid is not None:
            found[f"{name}: memory, MiB"] = psutil.Process(status.pid).memory_info().rss / MIB
            found[f"{name}: disk, MiB"] = size_of(stores / name)
    found["warehouse: disk, MiB"] = sum(size_of(path) for path in stores.glob("warehouse.sqlite*"))
    return found


def run_costs(place: World) -> dict[str, float]:
    """Of a run over a small drop that ends with another model in force."""
    write_drop(place)
    command = [sys.executable, "-m", "persona_cli.main", "materialize", "--json"]
    most = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        run = psutil.Process(process.pid)
        while process.poll() is None:
            most = max(most, run.memory_info().rss)
            time.sleep(POLL_SECONDS)
        assert process.stdout is not None
        document = orjson.loads(process.stdout.read())
    if document["status"] != "success":
        raise SystemExit(f"the run failed: {document['error']}")
    took = {f"run: {stage['stage']}, s": stage["seconds"] for stage in document["stages"] if stage["stage"] in STAGES}
    return took | {"run: memory at most, MiB": most / MIB}


def service_costs(place: World) -> dict[str, float]:
    """Of one worker that is asked for people whom it has not answered yet."""
    paths = [f"/recommendations/{user}" for user in place.sample(min(place.users, 20_000), seed=9)]
    half = len(paths) // 2
    with service(place.settings) as served:
        drive(served.url, paths[half:], connections=1, seconds=SECONDS)
        load = drive(served.url, paths[:half], connections=1, seconds=SECONDS)
        memory = psutil.Process(served.process.pid).memory_info().rss
    return {"service: computed p50, ms": load.p50_ms, "service: memory of a worker, MiB": memory / MIB}


def size_of(path: Path) -> float:
    """On disk, in MiB."""
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    return sum(file.stat().st_blocks * 512 for file in files) / MIB


def show(costs: Mapping[int, Mapping[str, float]]) -> None:
    """One row a cost, one column a size, and the exponent of its growth."""
    table = Table("people", *(f"{users:,}" for users in costs), "grows by people to the")
    for name in sorted(next(iter(costs.values()))):
        row = [cost[name] for cost in costs.values()]
        table.add_row(name, *(f"{value:,.1f}" for value in row), f"{exponent(list(costs), row):.2f}" if len(row) > 1 else "")
    console.print(table)


def exponent(users: Sequence[int], values: Sequence[float]) -> float:
    """Between the two largest sizes: below them what is there anyway outweighs what grows."""
    return float(np.log(max(values[-1], 1e-9) / max(values[-2], 1e-9)) / np.log(users[-1] / users[-2]))


if __name__ == "__main__":
    main()
