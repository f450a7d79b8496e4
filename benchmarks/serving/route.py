"""The service with one route more that does nothing but answer: `python -m benchmarks.serving.route FILE` serves the bytes of FILE."""

import sys
from pathlib import Path
from unittest.mock import patch

from fastapi import FastAPI, Response

from persona.settings import Settings
from serving import run
from serving.app import create_app


def main() -> None:
    """Serve `/bare/{user_id}`, behind everything that a request passes before it reaches a route."""
    answer = Path(sys.argv[1]).read_bytes()

    def with_a_bare_route(settings: Settings) -> FastAPI:
        app = create_app(settings)

        @app.get("/bare/{user_id}")
        async def bare(user_id: str) -> Response:
            return Response(answer, media_type="application/json")

        return app

    with patch.object(run, "create_app", with_a_bare_route):
        run.serve(Settings())


if __name__ == "__main__":
    main()
