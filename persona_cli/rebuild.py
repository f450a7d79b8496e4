"""`persona rebuild`: compute a projection anew from the truth."""

import uuid
from dataclasses import asdict
from typing import Annotated

import typer

from persona.errors import InvalidInput
from persona.language.lazy import LazyEncoder
from persona.pipeline.draining import Pipeline
from persona.pipeline.rebuilding import REBUILDABLE
from persona.pipeline.rebuilding import rebuild as compute_anew
from persona.settings import Settings
from persona.stores.opening import open_stores
from persona_cli.materialize import materialize
from persona_cli.options import Json
from persona_cli.output import emit, steps


def rebuild(asset: Annotated[str, typer.Argument(help="What to compute anew.")], json: Json = False) -> None:
    """Compute what an asset holds anew from MongoDB, while it goes on answering and drops go on arriving."""
    if asset not in REBUILDABLE:
        raise InvalidInput(f"{asset} cannot be rebuilt", hint=f"There are: {', '.join(REBUILDABLE)}.")
    settings, run_id = Settings(), f"rebuild-{uuid.uuid4()}"
    with steps() as step, open_stores(settings) as stores:
        step.now(f"rebuilding {asset}")
        pipeline = Pipeline(settings, stores.documents, stores.warehouse, stores.cache, step.count)
        done = compute_anew(asset, pipeline, stores, LazyEncoder(settings), run_id=run_id, progress=step.count)
    if asset == "embeddings":
        materialize([], json)
        return
    emit(
        {"run_id": run_id, **asdict(done)},
        f"{asset}: {done.users:,} people computed, {done.records:,} written, {done.removed:,} removed that the truth does not know",
    )
