"""`persona backup`: everything that cannot be computed, in a folder."""

import uuid
from pathlib import Path
from typing import Annotated

import typer

from persona.backup.making import back_up
from persona.settings import Settings
from persona.stores.opening import open_stores
from persona_cli.options import Json
from persona_cli.output import emit, steps


def backup(
    folder: Annotated[Path, typer.Argument(help="Where the backup is to be; new, or empty.")],
    json: Json = False,
) -> None:
    """Copy the truth, the claimed drops and the history of runs into a folder: whole, or not there. People's words are in it."""
    settings = Settings()
    with steps() as step, open_stores(settings) as stores:
        manifest = back_up(folder, settings, stores, run_id=f"backup-{uuid.uuid4()}", progress=step.now)
    size = sum(part.bytes for part in manifest.parts.values())
    document = {
        "folder": str(folder), "at": manifest.at, "collections": manifest.collections, "drops": manifest.drops, "bytes": size,
    }  # fmt: skip
    documents = sum(manifest.collections.values())
    emit(document, f"{folder}: {documents:,} documents, {manifest.drops:,} claimed drops, {size / 1e6:,.1f} MB")
