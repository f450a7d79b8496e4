"""Options that several commands share."""

from typing import Annotated

import typer

from persona_cli.output import set_json


def _lower(channel: str | None) -> str | None:
    return channel.lower() if channel else None


Channel = Annotated[str | None, typer.Option(help="As if asked on this channel.", callback=_lower)]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout (JSON lines for lists).", callback=set_json)]
