"""`persona rebuild`: compute a projection anew from the truth."""

import uuid
from typing import Annotated

import typer

from persona.errors import InvalidInput
from persona.language.lazy import LazyEncoder
from persona.pipeline import rebuilding
from persona.settings import Settings
from persona_cli.materialize import materialize
from persona_cli.options import Json
from persona_cli.output import steps
from persona_cli.pipeline import open_pipeline


def rebuild(asset: Annotated[str, typer.Argument(help="The projection to compute anew.")], json: Json = False) -> None:
    """Forget what a projection holds and compute it again from MongoDB, with everything downstream of it."""
    if asset not in rebuilding.REBUILDABLE:
        raise InvalidInput(f"{asset} cannot be rebuilt", hint=f"There are: {', '.join(rebuilding.REBUILDABLE)}.")
    run_id = f"rebuild-{uuid.uuid4()}"
    settings = Settings()
    with steps() as step, open_pipeline(settings) as pipeline, pipeline.lease(run_id, f"rebuild {asset}"):
        step.now(f"rebuilding {asset}")
        rebuilding.begin(asset, pipeline, LazyEncoder(settings))
    materialize([], json)
