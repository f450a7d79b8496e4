"""What the command line prints: results on stdout (people's words, or one JSON document), everything else on stderr; and exit codes."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import orjson
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from persona.errors import PersonaError

stderr = Console(stderr=True, highlight=False)
stdout = Console(highlight=False)


class State:
    """What the global options say."""

    json = False


def set_json(value: bool) -> None:
    """Remember that JSON is asked for."""
    State.json = State.json or value


def emit(document: dict[str, Any], text: str) -> None:
    """Print a result: the document with `--json`, else the text."""
    if State.json:
        sys.stdout.buffer.write(orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE, default=str))
        sys.stdout.flush()
    else:
        stdout.print(text, markup=True, soft_wrap=True)


def emit_lines(documents: Iterable[dict[str, Any]]) -> None:
    """Print a list as JSON lines."""
    for document in documents:
        sys.stdout.buffer.write(orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE, default=str))
    sys.stdout.flush()


def fail(error: PersonaError) -> int:
    """Print the error; return what to exit with."""
    if State.json:
        emit({"error": {"code": error.code, "message": error.message, "hint": error.hint}}, "")
    else:
        stderr.print(f"[bold red]error[/]: {escape(error.message)}")
        if error.hint:
            stderr.print(f"[dim]{escape(error.hint)}[/]")
    return error.exit_code


class Steps:
    """A line on stderr for each thing under way, with the time it takes; plain lines where there is no terminal."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=None) if progress else None

    def now(self, what: str) -> None:
        """Say what is under way."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, description=what)
        else:
            typer.echo(what, err=True)

    def count(self, what: str, done: int) -> None:
        """Say how far a long thing is; only on a terminal, where the line is overwritten."""
        if self._progress is not None:
            self.now(f"{what}: {done:,}")


@contextmanager
def steps() -> Iterator[Steps]:
    """Progress on stderr for the time of the block."""
    if not stderr.is_terminal:
        yield Steps(None)
        return
    with Progress(
        SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=stderr, transient=True
    ) as progress:
        yield Steps(progress)
