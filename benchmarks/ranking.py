"""How long fitting and evaluating take on many engagements: `python -m benchmarks.ranking`. No store is needed, but for `--stores`.

A hundred thousand people and 1,760,000 events over a thousand campaigns; everybody says something before the first, and once more before
every tenth. Vectors are drawn, not encoded. With `--stores`, all that is between the last projection and the publication is measured on
servers of its own. Memory is the peak of the process so far; run it on a machine that does nothing else.
"""

import argparse
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from benchmarks.homes import home
from persona.evaluation.baselines import CONTENDERS
from persona.evaluation.candidate import evaluate, evaluate_candidate
from persona.evaluation.gate import Limits
from persona.evaluation.judging import ask, judge
from persona.evaluation.replay import Log
from persona.evaluation.report import markdown
from persona.logs import configure_logs
from persona.pipeline.draining import Pipeline
from persona.projections.engagements import fact_of
from persona.projections.histories import EVER
from persona.ranking.model import fit
from persona.ranking.publication import fit_candidate, publish_candidate
from persona.schemas import Campaign, Vectors
from persona.stores.opening import graph_of
from persona.synthetic import event_records
from persona_cli.pipeline import open_pipeline

console = Console(width=120)
DIMENSION = 384
CAMPAIGNS_A_USER = 10
SPEAKS = 0.1
"""Share of events before which the person says something, and before their first."""
SAID = "I am looking for something nice for the holidays, for two."
AT_ONCE = 5_000
COLUMNS = pa.schema(
    {
        name: pa.string()
        for name in ("_id", "user_id", "event", "campaign_id", "channel", "text_hash", "conversation_id", "intent")
    }
    | {"timestamp": pa.timestamp("ms"), "characters": pa.int64()}
)
"""As the truth hands records out to who reads all of them."""
CAMPAIGNS = {f"c_{101 + number}": Campaign(campaign_id=f"c_{101 + number}", name=f"Offer {number}") for number in range(1_000)}


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--engagements", type=int, default=1_760_000)
    arguments.add_argument("--users", type=int, default=100_000)
    arguments.add_argument("--stores", action="store_true", help="from MongoDB to the publication")
    arguments.add_argument("--all-baselines", action="store_true", help="with every baseline, as `persona evaluate` does")
    options = arguments.parse_args()
    configure_logs("WARNING")
    table = Table(
        "step", "seconds", "processor", "peak memory",
        title=f"{options.users:,} users, {options.engagements:,} engagements, 1,000 campaigns", title_justify="left",
    )  # fmt: skip
    if options.stores:
        with_stores(table, options.engagements, options.users)
    else:
        in_memory(table, options.engagements, options.users, all_baselines=options.all_baselines)


def in_memory(table: Table, engagements: int, users: int, *, all_baselines: bool) -> None:
    """What is computed, without a store."""
    everything = pa.concat_tables(
        pa.Table.from_pylist(batch, schema=COLUMNS) for batch in in_batches(records(engagements, users))
    )
    vectors = drawn(users)
    with timed(table, "log in memory"):
        log = Log(
            everything, vectors={f"text {number}": vector for number, vector in enumerate(vectors)}, inferred={}, named={}, openings={},
            catalogue=CAMPAIGNS, campaign_vectors={},
        )  # fmt: skip
    with timed(table, "figures of a model"):
        candidate = fit(log.day_buckets(EVER), facts=engagements, fingerprint="benchmark")
    with timed(table, "evaluation: tuning, two windows, the gate"):
        model, report = evaluate(log, candidate, None, Limits())
    with timed(table, "evaluation again, beside the one in force"):
        _, report = evaluate(log, candidate.model_copy(update={"fingerprint": "next"}), ("g_before", model), Limits())
    if all_baselines:
        with timed(table, "every baseline, six settings each"):
            _, report = judge(ask(log), model, None, Limits(), CONTENDERS)
    console.print(table)
    console.print(markdown(report), markup=False)


def with_stores(table: Table, engagements: int, users: int) -> None:
    """What stands between the last projection and the publication, twice: at first, and beside the one in force."""
    with home() as settings, open_pipeline(settings) as pipeline, graph_of(settings) as graph:
        fill(pipeline, engagements, users)
        for number, more in ((1, "at first"), (2, "beside the one in force")):
            with timed(table, f"fitting, {more}"):
                fit_candidate(pipeline, pipeline.warehouse, run_id=f"run {number}")
            with timed(table, f"evaluation, {more}"):
                evaluated = evaluate_candidate(pipeline, run_id=f"run {number}")
            with timed(table, f"publication, {more}"):
                published = publish_candidate(pipeline, graph, run_id=f"run {number}")
            assert evaluated.report
            console.print(f"{more}: {'published' if published.decision.publish else 'refused'}, {published.decision.reason}")
            write(pipeline, records(1_000, 100, prefix="later "))  # so that there is something to fit again
    console.print(table)


def fill(pipeline: Pipeline, engagements: int, users: int) -> None:
    """The truth, and the warehouse, as draining leaves them."""
    documents = pipeline.documents
    documents.catalog.put_campaigns(list(CAMPAIGNS.values()))
    documents.embeddings.agree_on("drawn", DIMENSION)
    vectors = drawn(users)
    for begin in range(0, users, AT_ONCE):
        part = vectors[begin : begin + AT_ONCE]
        documents.embeddings.put([f"text {begin + number}" for number in range(len(part))], part, model="drawn")
    write(pipeline, records(engagements, users))


def write(pipeline: Pipeline, rows: Iterator[dict[str, Any]]) -> None:
    """Records, and the facts among them."""
    for number, batch in enumerate(in_batches({**row, "drop": "d", "digest": row["_id"]} for row in rows)):
        pipeline.documents.records.insert([{**row, "line": number * AT_ONCE + place} for place, row in enumerate(batch)])
        pipeline.warehouse.insert_facts([fact_of(row) for row in batch if "campaign_id" in row])


@contextmanager
def timed(table: Table, step: str) -> Iterator[None]:
    """A row of the table for what happens in the block."""
    started, worked = time.perf_counter(), time.process_time()
    yield
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    table.add_row(step, f"{time.perf_counter() - started:.1f}", f"{time.process_time() - worked:.1f}", f"{peak:.2f} GiB")


def drawn(texts: int) -> Vectors:
    """Vectors of length one, around a hundred centres."""
    rng = np.random.default_rng(7)
    centres = rng.normal(size=(100, DIMENSION))
    vectors = (centres[rng.integers(100, size=texts)] + rng.normal(size=(texts, DIMENSION))).astype(np.float32)
    found: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return found


def in_batches(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """As the truth hands them out."""
    return iter(lambda: list(islice(rows, AT_ONCE)), [])


def records(engagements: int, users: int, *, prefix: str = "") -> Iterator[dict[str, Any]]:
    """Events of `persona.synthetic`, and words before some of them, as the truth has them."""
    rng = np.random.default_rng(7)
    speaks = rng.random(engagements) < SPEAKS
    texts = rng.integers(users, size=engagements)
    spoke = set[str]()
    for number, event in enumerate(event_records(engagements, pairs=users * CAMPAIGNS_A_USER)):
        at = datetime.fromtimestamp(event["timestamp"] / 1000, UTC)
        common = {"user_id": event["user_id"], "channel": "web"}
        key = prefix + event["message_id"]
        yield {"_id": key, "timestamp": at, "event": event["event"], "campaign_id": event["campaign_id"], **common}
        if speaks[number] or event["user_id"] not in spoke:
            spoke.add(event["user_id"])
            yield {
                "_id": f"{key}-said", "timestamp": at - timedelta(minutes=1), "event": "message", "message": SAID,
                "text_hash": f"text {texts[number]}", "characters": len(SAID), "expressive": True, **common,
            }  # fmt: skip


if __name__ == "__main__":
    main()
