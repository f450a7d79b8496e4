"""`persona restore`: the truth as a backup holds it."""

import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from persona.backup.restoring import restore as put_back
from persona.language.lazy import LazyEncoder
from persona.settings import Settings
from persona.stores.opening import open_stores
from persona_cli.options import Json
from persona_cli.output import emit, steps


def restore(
    folder: Annotated[Path, typer.Argument(help="What `persona backup` has written.")],
    replace: Annotated[bool, typer.Option("--replace", help="Put it in the place of what is there.")] = False,
    json: Json = False,
) -> None:
    """Put a backup back, on these servers or on others; people who were erased since stay erased. Projections are computed anew."""
    settings = Settings()
    with steps() as step, open_stores(settings) as stores:
        done = put_back(
            folder, settings, stores, LazyEncoder(settings), run_id=f"restore-{uuid.uuid4()}", replace=replace, progress=step.now
        )
    lines = [f"as of {done.at:%Y-%m-%d %H:%M:%S} UTC: {done.documents:,} documents, {done.drops:,} claimed drops"]
    if done.erased_again:
        lines.append(f"{done.erased_again:,} people were erased after the backup was made, and are again")
    if done.not_in_backup:
        lines.append(
            f"{len(done.not_in_backup):,} drops came in after it: those whose file is in the watched folder come in again by "
            f"themselves, the others lie in {settings.claimed_drops}"
        )
    emit({"folder": str(folder), **asdict(done)}, "\n".join(lines))
