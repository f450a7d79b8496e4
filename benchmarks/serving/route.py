"""The service with one route more that does nothing but answer: `python -m benchmarks.serving.route FILE` serves the bytes of FILE."""

import os
import sys
from pathlib import Path
from unittest.mock import patch

from fastapi import FastAPI, Response

from persona.settings import Settings
from serving import app, run

ANSWER_FILE = "BENCHMARK_ANSWER"
"""The variable that names the file to the process that serves."""


def application() -> FastAPI:
    """The service and `/bare/{user_id}`, behind everything that a request passes before it reaches a route."""
    answer = Path(os.environ[ANSWER_FILE]).read_bytes()
    with_a_bare_route = app.application()

    @with_a_bare_route.get("/bare/{user_id}")
    async def bare(user_id: str) -> Response:
        return Response(answer, media_type="application/json")

    return with_a_bare_route


def main() -> None:
    """Serve until told to stop."""
    os.environ[ANSWER_FILE] = sys.argv[1]
    with patch.object(run, "APPLICATION", "benchmarks.serving.route:application"):
        run.serve(Settings())


if __name__ == "__main__":
    main()
