"""`persona export`: everything that is held on a person, as one document."""

import sys
from pathlib import Path
from typing import Annotated

import orjson
import typer

from persona.privacy import holdings
from persona.settings import Settings
from persona.stores.opening import open_stores
from persona_cli.options import Json


def export(
    user_id: Annotated[str, typer.Argument(help="Whose data.")],
    output: Annotated[Path | None, typer.Option(help="Write the document there.")] = None,
    json: Json = False,
) -> None:
    """Everything held on a person, from every store and claimed drop: one JSON document."""
    settings = Settings()
    with open_stores(settings) as stores:
        document = orjson.dumps(
            holdings.export(user_id, settings, stores),
            option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE,
            default=str,
        )
    if output is None:
        sys.stdout.buffer.write(document)
        sys.stdout.flush()
        return
    output.touch(mode=0o600)
    output.write_bytes(document)
    print(output, file=sys.stderr)
