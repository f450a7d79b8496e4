"""The command line as people and programs use it: a process with an environment of its own, and what it printed."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import structlog

from persona.settings import Settings
from persona_assets import resources
from persona_cli import doctor, intents, main, output, rebuild, recommend
from tests.worlds import HashingEncoder, clear, environment_of, generated


@dataclass(frozen=True)
class Answer:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def error(self) -> dict[str, str]:
        assert set(self.json) == {"error"} and set(self.json["error"]) == {"code", "message", "hint"}
        found: dict[str, str] = self.json["error"]
        return found


class Command:
    """`persona`, in a home of its own: in this process, with an encoder of a few lines, or as a process of its own."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.environment = environment

    @property
    def settings(self) -> Settings:
        with self._inside():
            return Settings(_env_file=None)

    def __call__(self, *arguments: str, **environment: str) -> Answer:
        """Run the command here; Python and its libraries take seconds to start."""
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
        with self._inside(**environment) as patch, redirect_stdout(out), redirect_stderr(err):
            patch.setattr(sys, "argv", ["persona", *arguments])
            patch.setattr(output.State, "json", False)
            for module in (resources, recommend, rebuild, intents):
                patch.setattr(module, "LazyEncoder", lambda settings: HashingEncoder(settings.embedding_model))
            patch.setattr(doctor, "load_encoder", lambda settings: HashingEncoder(settings.embedding_model))
            with pytest.raises(SystemExit) as ended:
                main.main()
        structlog.reset_defaults()  # neither this call's stream nor its level is for whatever comes next
        return Answer(int(ended.value.code or 0), _text(out), _text(err))

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "persona_cli.main", *arguments], cwd=self.folder, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, env={**os.environ, **self.environment, **environment},
        )  # fmt: skip

    def process(self, *arguments: str, **environment: str) -> Answer:
        """Run the command as people do."""
        with self.start(*arguments, **environment) as process:
            out, err = process.communicate(timeout=400)
        return Answer(process.returncode, out, err)

    @contextmanager
    def _inside(self, **environment: str) -> Iterator[pytest.MonkeyPatch]:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)
            for name, value in {**self.environment, **environment}.items():
                patch.setenv(name, value)
            yield patch


def _text(stream: io.TextIOWrapper) -> str:
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue().decode()


def command_in(folder: Path, stack: Settings) -> Command:
    """The command in a home in this folder, on the stack's servers."""
    root = str(Path(__file__).parents[2])
    return Command(folder, {**environment_of(stack, folder), "PYTHONPATH": root, "COLUMNS": "200"})


@pytest.fixture
def persona(stack_settings: Settings, tmp_path: Path) -> Iterator[Command]:
    """The command in an empty home."""
    command = command_in(tmp_path, stack_settings)
    yield command
    clear(command.settings)


@pytest.fixture(scope="module")
def filled(stack_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Command, Answer]]:
    """The command in a home with a small generated world, and what `materialize --json` said of it; for tests that only read."""
    command = command_in(tmp_path_factory.mktemp("filled"), stack_settings)
    clear(command.settings)
    generated(command.settings)
    yield command, command("materialize", "--json")
    clear(command.settings)
