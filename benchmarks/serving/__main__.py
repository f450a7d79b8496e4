"""Measure the service; see the package.

Starts stores and servers of its own. What is built stays under `--home` and is used again.
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path

from rich.console import Console

from benchmarks.serving import cached, computed, live, production, publishing
from benchmarks.serving.figures import Figure, show
from persona.logs import configure_logs

console = Console(width=150)
PARTS = ("cached", "computed", "live", "publishing", "production")


def main() -> None:
    """Measure, print, and with `--check` exit 1 where a goal is missed."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("parts", nargs="*", choices=PARTS, default=PARTS, help="what to measure; otherwise everything")
    arguments.add_argument("--home", type=Path, help="where the stores are kept between runs; otherwise in a temporary folder")
    arguments.add_argument("--users", type=int, default=100_000)
    arguments.add_argument("--seconds", type=int, default=25, help="of load, in five rounds of a fifth each")
    arguments.add_argument("--answers", type=int, default=1_000, help="whose store calls are made bare")
    arguments.add_argument("--seed", type=int, default=7)
    arguments.add_argument("--check", action="store_true", help="exit 1 where a goal is missed")
    options = arguments.parse_args()
    configure_logs("WARNING")
    with tempfile.TemporaryDirectory(prefix="persona-bench-") as folder:
        home, figures = options.home or Path(folder), list[Figure]()
        common = {"folder": home, "console": console, "seed": options.seed}
        measures = {
            "cached": partial(cached.measure, **common, seconds=options.seconds),
            "computed": partial(
                computed.measure, **common, users=options.users, seconds=options.seconds, answers=options.answers
            ),
            "live": partial(live.measure, **common, users=options.users),
            "publishing": partial(publishing.measure, **common, users=options.users),
            "production": partial(
                production.measure, **common, users=options.users, seconds=options.seconds, answers=options.answers
            ),
        }
        for part in PARTS:
            if part in options.parts:
                found = measures[part]()
                show(console, part, found)
                figures += found
    if options.check and not all(figure.met for figure in figures):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
