"""`persona stores`: the local servers alone."""

import typer

from persona.local.stack import start_stores, stop_stores, stores_status
from persona.settings import Settings
from persona_cli.options import Json
from persona_cli.output import emit, steps

app = typer.Typer(help="The local MongoDB, Milvus, Neo4j and Redis.", no_args_is_help=True)


@app.command()
def up(json: Json = False) -> None:
    """Start the servers for which no URL is set; harmless when they run."""
    with steps() as step:
        step.now("starting the stores")
        start_stores(Settings(), progress=lambda name: step.now(f"{name} is ready"))
    _print(Settings())


@app.command()
def down(json: Json = False) -> None:
    """Stop the local servers."""
    stop_stores(Settings())
    _print(Settings())


@app.command()
def status(json: Json = False) -> None:
    """How each server is."""
    _print(Settings())


def _print(settings: Settings) -> None:
    statuses = stores_status(settings)
    lines = [f"{name:<10} {status.state:<12} {status.url or ''}" for name, status in statuses.items()]
    document = {name: {"state": status.state, "url": status.url, "pid": status.pid} for name, status in statuses.items()}
    emit({"home": str(settings.home), "stores": document}, "\n".join(lines))
