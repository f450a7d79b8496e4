"""Options that several commands share."""

from typing import Annotated

import typer

from persona_cli.output import set_json

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout (JSON lines for lists).", callback=set_json)]
