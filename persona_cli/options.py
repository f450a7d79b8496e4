"""Options that several commands share."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from persona_cli.output import set_json


def _in_utc(time: datetime | None) -> datetime | None:
    return time.replace(tzinfo=UTC) if time and time.tzinfo is None else time


Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout (JSON lines for lists).", callback=set_json)]
AsOf = Annotated[
    datetime | None, typer.Option("--as-of", help="What was running, capped and consented then (UTC).", callback=_in_utc)
]
