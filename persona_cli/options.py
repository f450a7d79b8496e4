"""Options that several commands share."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from persona_cli.output import set_json


def _in_utc(time: datetime | None) -> datetime | None:
    return time.replace(tzinfo=UTC) if time and time.tzinfo is None else time


def _lower(channel: str | None) -> str | None:
    return channel.lower() if channel else None


Channel = Annotated[str | None, typer.Option(help="As if asked on this channel.", callback=_lower)]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout (JSON lines for lists).", callback=set_json)]
AsOf = Annotated[
    datetime | None, typer.Option("--as-of", help="What was running, capped and consented then (UTC).", callback=_in_utc)
]
