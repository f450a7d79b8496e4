"""How long fitting and evaluating take on many engagements: `python -m benchmarks.ranking`. No store is needed.

A million events over a thousand campaigns; before a tenth of them something is said, whose vector is drawn, not encoded. Memory is the
peak of the process so far; run it on a machine that does nothing else.
"""

import argparse
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from persona.evaluation.baselines import CONTENDERS
from persona.evaluation.candidate import evaluate
from persona.evaluation.gate import Limits
from persona.evaluation.judging import ask, judge
from persona.evaluation.replay import Log
from persona.evaluation.report import markdown
from persona.ranking.model import fit
from persona.schemas import Campaign
from persona.synthetic import event_records

console = Console(width=120)
DIMENSION = 384
TEXTS = 2_000
"""Distinct ones."""
SPEAKS = 0.1
"""Share of events before which the person says something."""


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--engagements", type=int, default=1_000_000)
    arguments.add_argument("--all-baselines", action="store_true", help="with every baseline, as `persona evaluate` does")
    options = arguments.parse_args()
    table = Table(
        "step", "seconds", "peak memory", title=f"{options.engagements:,} engagements, 1,000 campaigns", title_justify="left"
    )

    with timed(table, "log in memory"):
        log = log_of(options.engagements)
    with timed(table, "figures of a model"):
        candidate = fit(log.day_buckets(1 << 60), facts=options.engagements, fingerprint="benchmark")
    with timed(table, "evaluation: tuning, two windows, the gate"):
        model, report = evaluate(log, candidate, None, Limits())
    with timed(table, "evaluation again, beside the one in force"):
        _, report = evaluate(log, candidate.model_copy(update={"fingerprint": "next"}), ("g_before", model), Limits())
    if options.all_baselines:
        with timed(table, "every baseline, six settings each"):
            _, report = judge(ask(log), model, None, Limits(), CONTENDERS)
    console.print(table)
    console.print(markdown(report), markup=False)


@contextmanager
def timed(table: Table, step: str) -> Iterator[None]:
    """A row of the table for what happens in the block."""
    started = time.perf_counter()
    yield
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    table.add_row(step, f"{time.perf_counter() - started:.1f}", f"{peak:.2f} GiB")


def log_of(engagements: int) -> Log:
    """Events of `persona.synthetic`, and words before some of them."""
    rng = np.random.default_rng(7)
    vectors = rng.normal(size=(TEXTS + 1_000, DIMENSION)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    texts = {f"text {number}": vectors[number] for number in range(TEXTS)}
    campaigns = {f"c_{101 + number}": Campaign(campaign_id=f"c_{101 + number}") for number in range(1_000)}
    of_campaigns = {campaign: vectors[TEXTS + number] for number, campaign in enumerate(campaigns)}
    return Log(
        records(engagements, rng), vectors=texts, inferred={}, named={}, openings={}, catalogue=campaigns, campaign_vectors=of_campaigns
    )  # fmt: skip


def records(engagements: int, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """As the truth hands them out."""
    speaks = rng.random(engagements) < SPEAKS
    texts = rng.integers(TEXTS, size=engagements)
    for number, event in enumerate(event_records(engagements, pairs=engagements // 4)):
        at = datetime.fromtimestamp(event["timestamp"] / 1000, UTC)
        common = {"user_id": event["user_id"], "channel": "web"}
        yield {
            "_id": event["message_id"], "timestamp": at, "event": event["event"], "campaign_id": event["campaign_id"], **common,
        }  # fmt: skip
        if speaks[number]:
            said = {
                "text_hash": f"text {texts[number]}",
                "characters": 60,
                "event": "message",
                "timestamp": at - timedelta(minutes=1),
            }
            yield {"_id": f"{event['message_id']}-said", **said, **common}


if __name__ == "__main__":
    main()
