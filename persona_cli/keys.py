"""`persona keys`: a key for the API, and the setting that lets it in."""

from typing import Annotated

import typer
from rich.markup import escape

from persona.errors import InvalidInput
from persona.keys import SCOPES, new_key
from persona.settings import Settings
from persona_cli.options import Json
from persona_cli.output import emit

app = typer.Typer(help="Keys for the API.", no_args_is_help=True)


@app.callback()
def keys() -> None:
    """Keys for the API: with one or more set, nobody is answered without."""


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Whose it is, for the log: letters, digits, dots, dashes, underscores.")],
    scope: Annotated[list[str], typer.Option(help=f"What it may do: {', '.join(SCOPES)}; repeat it for each.")],
    json: Json = False,
) -> None:
    """Make a key. It is shown once and kept nowhere; the setting holds its digest."""
    held = Settings().keys
    if name in {key.name for key in held}:
        raise InvalidInput(
            f"there is a key {name} already", hint="Take its entry out of PERSONA_API_KEYS, or choose another name."
        )
    try:
        key, stored = new_key(name, scope)
    except ValueError as error:
        raise InvalidInput(str(error)) from None
    setting = ",".join(entry.entry() for entry in (*held, stored))
    emit(
        {"name": stored.name, "scopes": sorted(stored.scopes), "key": key, "setting": {"PERSONA_API_KEYS": setting}},
        f"[bold]{escape(key)}[/]\n\nThis is the only time it is shown. To let it in, set this and start the service again:\n\n"
        f"PERSONA_API_KEYS={escape(setting)}",
    )
