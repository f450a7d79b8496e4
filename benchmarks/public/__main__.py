"""The report on public data as a Markdown table: `python -m benchmarks.public redial --data FOLDER`, or `drift`.

Starts stores of its own in a temporary home. What it prints on stderr is how far it is.
"""

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.public import drift, redial
from benchmarks.public.contenders import Contender, Task, chosen, ranked_by
from benchmarks.public.scoring import METRICS, Floats, Ints, advantage, measure


def main() -> None:
    """Judge and print."""
    default = Path(os.environ.get("PERSONA_TEST_DATA", "../shared/data")) / "redial_train"
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = arguments.add_subparsers(dest="kind", required=True)
    kinds.add_parser("redial", help="new people, by what they say").add_argument(
        "--data", type=Path, default=default, help="the folder with campaigns.json and drops/"
    )
    kinds.add_parser("drift", help="events alone, of changing fashions").add_argument(
        "--seed", type=int, default=1, help="of the world that is generated"
    )
    options = arguments.parse_args()
    if options.kind == "redial":
        report(*redial.run(options.data.resolve()), redial.CONTENDERS)
    else:
        report(*drift.run(options.seed), drift.CONTENDERS)


def report(task: Task, answers: Ints, windows: Sequence[Task], contenders: Mapping[str, Sequence[Contender]]) -> None:
    """The product's figures, and below it each contender's with what the product is above it."""
    ours = measure(answers, task.relevant)
    queries, tuned = len(task.relevant), sum(len(window.relevant) for window in windows)
    people = len(np.unique(task.users))
    print(f"{queries:,} queries of {people:,} people; settings chosen on {tuned:,} earlier queries.\n")
    print(f"| | {' | '.join(METRICS)} | Persona above it: {' | '.join(METRICS)} |")
    print("| --- |" + " ---: |" * (2 * len(METRICS)))
    print(f"| **Persona** | {' | '.join(_figures(ours))} |" + " |" * len(METRICS), flush=True)
    for name, settings in contenders.items():
        began = time.perf_counter()
        contender = chosen(settings, windows)
        theirs = measure(ranked_by(contender, task), task.relevant)
        above = [f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]" for mean, low, high in advantage(ours, theirs, task.users).T]
        print(f"| {name} | {' | '.join(_figures(theirs))} | {' | '.join(above)} |", flush=True)
        print(f"{contender}: {time.perf_counter() - began:,.0f} s", file=sys.stderr)


def _figures(scores: Floats) -> list[str]:
    return [f"{figure:.3f}" for figure in scores.mean(axis=0)]


if __name__ == "__main__":
    main()
