"""`persona serve`: the API in this process, or in several that it keeps alive."""

from typing import Annotated

import typer

from persona.settings import Settings


def serve(
    host: Annotated[str | None, typer.Option(help="Default: PERSONA_API_HOST.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Default: PERSONA_API_PORT.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, max=64, help="Processes. Default: PERSONA_API_WORKERS.")] = None,
) -> None:
    """Answer over HTTP until stopped; requests under way are finished first."""
    from serving.run import serve as run  # uvicorn takes a while to import: not for `persona --help`

    run(Settings(), host=host, port=port, workers=workers)
