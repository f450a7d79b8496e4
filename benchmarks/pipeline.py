"""How fast draining is, beside the encoder alone: `python -m benchmarks.pipeline`.

Starts stores of its own in a temporary home. Conversations: PERSONA_TEST_DATA/redial_train where it is there, generated ones else.
The encoder is loaded and warm before anything is timed, and encodes the same distinct texts before and after the run.
"""

import argparse
import gzip
import os
import shutil
import statistics
import time
from pathlib import Path

import orjson
from rich.console import Console
from rich.table import Table

from benchmarks.homes import home
from persona import synthetic
from persona.intake.catalogs import load_catalog
from persona.language.encoder import Encoder, bf16_is_fast, load_encoder
from persona.language.intents import definition_texts
from persona.logs import configure_logs
from persona.pipeline.draining import Pipeline
from persona.pipeline.stages import DRAINING_ASSETS
from persona.settings import Settings
from persona_cli.pipeline import open_pipeline

console = Console(width=110)
GOAL_SHARE = 0.8


def main() -> None:
    """Measure, print, and with `--check` exit 1 where a goal is missed."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--messages", type=int, help="generate so many messages instead of reading the test data")
    arguments.add_argument("--check", action="store_true", help="exit 1 where the goal is missed")
    options = arguments.parse_args()
    configure_logs("WARNING")

    figures: dict[str, float] = {}
    precisions = ["fp32", *(["bf16"] if bf16_is_fast() else [])]
    for precision in precisions:
        with home(EMBEDDING_PRECISION=precision) as settings:
            figures |= measure_conversations(settings, precision, options.messages)
    if "bf16" not in precisions:
        console.print("bf16: this processor has neither AVX512-BF16 nor AMX-BF16.")
    if options.check and figures["fp32 share of the encoder"] < GOAL_SHARE:
        raise SystemExit(1)


def measure_conversations(settings: Settings, precision: str, messages: int | None) -> dict[str, float]:
    """Drain conversations; beside it, the encoder alone on the same distinct texts."""
    encoder = load_encoder(settings)
    with open_pipeline(settings) as pipeline:
        source = prepare_conversations(settings, pipeline, messages)
        texts = distinct_texts(settings, pipeline)
        encoder.encode(texts[:2_000])
        alone = [seconds_to_encode(encoder, texts)]
        stages = drain(settings, pipeline, encoder)
        alone.append(seconds_to_encode(encoder, texts))
    bound, took = statistics.mean(alone), sum(stages.values())
    table = Table("stage", "seconds", title=f"{source}, {precision}: {len(texts):,} distinct texts", title_justify="left")
    for stage, seconds in stages.items():
        table.add_row(stage, f"{seconds:.2f}")
    console.print(table)
    share = bound / took
    console.print(
        f"draining: {len(texts) / took:,.0f} distinct texts/s; the encoder alone: {len(texts) / bound:,.0f}/s "
        f"(before {len(texts) / alone[0]:,.0f}, after {len(texts) / alone[1]:,.0f}); share {share:.0%}\n"
    )
    return {f"{precision} share of the encoder": share}


def prepare_conversations(settings: Settings, pipeline: Pipeline, messages: int | None) -> str:
    """Put drops into the watched folder and their catalogs in force; return what they are."""
    real = Path(os.environ.get("PERSONA_TEST_DATA", "../shared/data")) / "redial_train"
    if messages is None and real.is_dir():
        catalogs, source = [real / "campaigns.json"], "ReDial (train)"
        for drop in sorted((real / "drops").iterdir()):
            shutil.copy(drop, settings.drops)
    else:
        synthetic.write(synthetic.generate(messages=messages or 20_000), settings.drops, settings.home / "made")
        catalogs, source = sorted((settings.home / "made").iterdir()), "generated conversations"
    with pipeline.lease("benchmark", "benchmark") as lease:
        for catalog in catalogs:
            load_catalog(pipeline.documents, catalog, lease, run_id="benchmark")
    time.sleep(0.1)
    return source


def distinct_texts(settings: Settings, pipeline: Pipeline) -> list[str]:
    """What the run will encode: messages, campaigns, examples of intents, each once."""
    catalog = pipeline.documents.catalog
    texts = {campaign.text for campaign in catalog.campaigns() if campaign.text}
    texts |= {text for definition in catalog.intents() for text in definition_texts(definition)}
    for drop in settings.drops.iterdir():
        content = gzip.decompress(drop.read_bytes()) if drop.suffix == ".gz" else drop.read_bytes()
        texts |= {record["message"] for record in map(orjson.loads, content.splitlines()) if record.get("message")}
    return sorted(texts)


def seconds_to_encode(encoder: Encoder, texts: list[str]) -> float:
    """How long the encoder takes for all of them in one call."""
    started = time.perf_counter()
    encoder.encode(texts)
    return time.perf_counter() - started


def drain(settings: Settings, pipeline: Pipeline, encoder: Encoder) -> dict[str, float]:
    """Materialise the draining assets through Dagster, with their checks; return each one's seconds."""
    from persona_assets.execution import execute

    execution = execute(settings, pipeline, assets=DRAINING_ASSETS, resources={"encoder": encoder})
    if not execution.success:
        raise SystemExit(f"the run failed: {execution.error}")
    return {stage.stage: stage.seconds for stage in pipeline.warehouse.stages(execution.run_id)}


if __name__ == "__main__":
    main()
