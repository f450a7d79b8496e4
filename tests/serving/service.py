"""The service as a process of its own over real stores that hold a small generated world; texts are encoded in a few lines.

`python -m tests.serving.service` is that process: it serves what the environment names until it is told to stop.
"""

import hashlib
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from persona.language import lazy
from persona.settings import Settings
from tests.cli.conftest import Command, command_in
from tests.platforms import unused_port
from tests.worlds import HashingEncoder, clear, eventually, generated

KEY = secrets.token_urlsafe(24)
SCOPES = "read+ingest+admin"
DEADLINE = "PERSONA_DEADLINE_SECONDS"
"""The variable with the seconds that each store gets, where a test is not about them."""


@dataclass(frozen=True)
class Service:
    """A running service, and the command in its home."""

    persona: Command
    url: str
    process: subprocess.Popen[bytes]

    @property
    def settings(self) -> Settings:
        return self.persona.settings

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {KEY}"}

    @property
    def log(self) -> str:
        """What it has written since it was started."""
        return _log(self.persona).read_text(errors="replace")

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers=self.headers, timeout=60)

    def document(self) -> dict[str, Any]:
        """The OpenAPI document."""
        with self.client() as http:
            found: dict[str, Any] = http.get("/openapi.json").json()
        return found


@contextmanager
def service_in(folder: Path, stack: Settings, *, messages: int = 400, **environment: str) -> Iterator[Service]:
    """A service over the stack's servers, well and with a generation in force; nothing of it is left at the end."""
    persona = command_in(folder, stack)
    port = unused_port()
    persona.environment |= {
        "PERSONA_API_PORT": str(port),
        "PERSONA_API_KEYS": f"tests:{SCOPES}:{hashlib.sha256(KEY.encode()).hexdigest()}",
    }
    clear(persona.settings)
    generated(persona.settings, messages=messages)
    done = persona("materialize", "--json")
    assert done.code == 0, done.out
    with open(_log(persona), "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.serving.service"], cwd=folder,
            env={**os.environ, **persona.environment, **environment},
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    service = Service(persona, f"http://127.0.0.1:{port}", process)
    try:
        eventually(lambda: _is_well(service), seconds=60, what="a service that is well")
        yield service
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        clear(persona.settings)


def _is_well(service: Service) -> bool:
    with service.client() as http:
        return bool(http.get("/health").json()["status"] == "ok")


def _log(persona: Command) -> Path:
    return persona.folder / "service.log"


def main() -> None:
    """Serve until told to stop."""
    lazy.LazyEncoder = lambda settings: HashingEncoder(settings.embedding_model)  # type: ignore[assignment, misc]
    from serving.run import serve  # after the encoder is replaced

    serve(Settings(_env_file=None))


if __name__ == "__main__":
    main()
