"""The `persona` command: its nouns and verbs, and what an error becomes. What each does is in its own module."""

import os
import sys

import typer
from pydantic import ValidationError

from persona.errors import InvalidInput, PersonaError
from persona.logs import configure_logs
from persona.settings import Settings
from persona_cli import (
    audience,
    backup,
    catalog,
    doctor,
    erase,
    evaluate,
    export,
    generate,
    generations,
    ingest,
    intents,
    keys,
    materialize,
    offpolicy,
    output,
    platform,
    prepare,
    quarantine,
    rebuild,
    recommend,
    restore,
    serve,
    stores,
    warm,
    why,
)

USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]  # Typer carries its own Click and names only the subclass

app = typer.Typer(
    name="persona",
    help="From drops of customer conversations to campaign recommendations that explain themselves.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(stores.app, name="stores")
app.add_typer(quarantine.app, name="quarantine")
app.add_typer(generations.app, name="generations")
app.add_typer(keys.app, name="keys")
for command in (
    platform.up,
    platform.down,
    platform.status,
    doctor.doctor,
    generate.generate,
    catalog.catalog,
    ingest.ingest,
    materialize.materialize,
    recommend.recommend,
    why.why,
    audience.audience,
    intents.intents,
    evaluate.evaluate,
    offpolicy.offpolicy,
    rebuild.rebuild,
    export.export,
    erase.erase,
    backup.backup,
    restore.restore,
    prepare.prepare,
    serve.serve,
    warm.warm,
):
    app.command()(command)


def main() -> None:
    """Run the command line; exit 0 done, 1 failed, 2 usage, 3 not found, 4 busy."""
    output.set_json("--json" in sys.argv[1:])
    try:
        _configure_logs()
        sys.exit(app(standalone_mode=False) or 0)
    except PersonaError as error:
        sys.exit(output.fail(error))
    except USAGE_ERROR as error:
        if not output.State.json:
            error.show()  # type: ignore[attr-defined]
            sys.exit(2)
        message = error.format_message()  # type: ignore[attr-defined]
        sys.exit(output.fail(InvalidInput(message, hint="`persona --help` shows the commands.")))
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output has gone; nothing more to say to it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        sys.exit(output.fail(PersonaError(str(error), hint="Look at the path, its permissions and the disk's space.")))


def _configure_logs() -> None:
    """On a terminal the progress line says what is under way; warnings still show, unless another level is asked for."""
    try:
        settings = Settings()
    except ValidationError as error:
        prefix = Settings.model_config.get("env_prefix", "")
        names = {name: field.validation_alias or f"{prefix}{name.upper()}" for name, field in Settings.model_fields.items()}
        faults = [f"{names.get(str(fault['loc'][0]), fault['loc'][0])}: {fault['msg']}" for fault in error.errors()]
        raise InvalidInput("; ".join(faults), hint="Mend the environment or `.env`; `.env.example` explains each.") from None
    quiet = sys.stderr.isatty() and "log_level" not in settings.model_fields_set
    configure_logs("WARNING" if quiet else settings.log_level)


if __name__ == "__main__":
    main()
