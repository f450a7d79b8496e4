"""`persona prepare`: what has to be there before Dagster's processes are started one by one, as containers are."""

import sys
from contextlib import redirect_stdout

from persona.settings import Settings
from persona_cli.options import Json
from persona_cli.output import emit, steps


def prepare(json: Json = False) -> None:
    """Write Dagster's configuration and bring its tables up to this version; harmless while it runs. `persona up` needs no such step."""
    settings = Settings()
    with steps() as step:
        step.now("preparing Dagster")
        from persona_assets.execution import prepare_instance  # Dagster takes a second to import: not for `persona --help`

        with prepare_instance(settings) as instance, redirect_stdout(sys.stderr):  # some of what Dagster says, it prints
            instance.upgrade(lambda line: step.now(str(line)))  # what `dagster instance migrate` does
    emit({"dagster_home": str(settings.dagster_home)}, f"Dagster's instance in {settings.dagster_home} is ready")
