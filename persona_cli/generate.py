"""`persona generate`: conversations of people who do not exist, for a first look and for tests."""

from pathlib import Path
from typing import Annotated

import typer

from persona import synthetic
from persona.settings import Settings
from persona_cli.options import Json
from persona_cli.output import emit, steps


def generate(
    messages: Annotated[
        int, typer.Option(min=1, help="How many messages; events come on top. With --drift: how many events.")
    ] = 300,
    users: Annotated[int | None, typer.Option(min=1, help="How many people; by default one for every eight messages.")] = None,
    campaigns: Annotated[int | None, typer.Option(min=1, help="How many campaigns.")] = None,
    drops: Annotated[int, typer.Option(min=1, help="Into how many files.")] = 1,
    seed: Annotated[int, typer.Option(help="The same seed, the same conversations.")] = 7,
    drift: Annotated[
        bool, typer.Option("--drift", help="Events without words, on campaigns that come into fashion and go out of it.")
    ] = False,
    compress: Annotated[bool, typer.Option(help="Write .jsonl.gz.")] = False,
    into: Annotated[Path | None, typer.Option(help="Folder for drops; by default PERSONA_DROPS.")] = None,
    catalogs: Annotated[Path | None, typer.Option(help="Folder for catalogs; by default PERSONA_CATALOG.")] = None,
    json: Json = False,
) -> None:
    """Write drops and catalogs of generated conversations."""
    settings = Settings()
    made = synthetic.generate(messages=messages, users=users, campaigns=campaigns, seed=seed, drift=drift)
    with steps() as step:
        files = synthetic.write(
            made,
            into or settings.drops,
            catalogs or settings.catalog,
            drops=drops,
            compress=compress,
            progress=lambda done: step.count("records", done),
        )
    emit({"files": [str(file) for file in files]}, "\n".join(str(file) for file in files))
