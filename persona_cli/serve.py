"""`persona serve`: the API in this process."""

from persona.settings import Settings


def serve() -> None:
    """Answer over HTTP until stopped."""
    from serving.run import serve as run  # FastAPI takes half a second to import: not for `persona --help`

    run(Settings())
