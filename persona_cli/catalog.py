"""`persona catalog`: put campaigns, intents and customers in force."""

import uuid
from pathlib import Path
from typing import Annotated

import typer

from persona.errors import NotFound
from persona.intake.catalogs import load_catalog
from persona.settings import Settings
from persona_cli.options import Json
from persona_cli.output import emit
from persona_cli.pipeline import open_pipeline


def catalog(
    files: Annotated[list[Path], typer.Argument(help="campaigns.json, intents.json, users.json: arrays of objects.")],
    json: Json = False,
) -> None:
    """Validate catalog files and load them; all of a file or nothing. The sensor then applies them."""
    if missing := [str(file) for file in files if not file.is_file()]:
        raise NotFound(f"no such file: {', '.join(missing)}")
    run_id = f"catalog-{uuid.uuid4()}"
    loaded = []
    with open_pipeline(Settings()) as pipeline, pipeline.lease(run_id, "catalog") as lease:
        for file in files:
            name, entries = load_catalog(pipeline.documents, file, lease, run_id=run_id)
            pipeline.announce(run_id)
            loaded.append({"file": str(file), "catalog": name, "entries": entries})
        version = pipeline.documents.catalog.version()
    lines = [f"{item['file']}: {item['entries']} {item['catalog']}" for item in loaded]
    emit({"loaded": loaded, "version": version}, "\n".join(lines))
