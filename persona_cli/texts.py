"""Questions and answers by file, as `recommend` and `intents` take and give them: one JSON document a line. What is asked is theirs."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from persona.errors import InvalidInput, NotFound
from persona_cli.output import State, emit_lines, stdout


@dataclass(frozen=True, slots=True)
class Asked:
    """Texts to be answered for, under the name that the caller gave them."""

    id: Any
    texts: list[str]


def asked_in(file: Path) -> Iterator[Asked]:
    """The questions of a file: {"id", "texts": […]} or {"id", "text"} a line.

    Raises `NotFound`; while it is read, `InvalidInput` that names the line.
    """
    return _asked(file, lines_of(file))


def lines_of(file: Path) -> list[str]:
    """The lines of a file that are not blank. Raises `NotFound`."""
    if not file.is_file():
        raise NotFound(f"no such file: {file}")
    return [line.strip() for line in file.read_text(encoding="utf-8").split("\n") if line.strip()]


def write_answers(
    answers: Iterator[dict[str, Any]],
    output: Path | None,
    text: Callable[[dict[str, Any]], str],
    progress: Callable[[int], None],
) -> None:
    """To the file, whose name is then said on stderr; without one to stdout, as JSON lines where JSON is asked for, else in words."""
    if output is None and State.json:
        emit_lines(answers)
        return
    if output is None:
        for answer in answers:
            stdout.print(text(answer), markup=False, soft_wrap=True)
        return
    with open(output, "wb") as file:
        for done, answer in enumerate(answers, 1):
            file.write(orjson.dumps(answer, option=orjson.OPT_APPEND_NEWLINE))
            progress(done)
    print(output, file=sys.stderr)


def _asked(file: Path, lines: list[str]) -> Iterator[Asked]:
    for number, line in enumerate(lines, 1):
        try:
            asked = orjson.loads(line)
            texts = [asked["text"]] if "text" in asked else asked["texts"]
            if not isinstance(texts, list):
                raise TypeError
            yield Asked(asked.get("id"), [str(text) for text in texts])
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
            raise InvalidInput(f'{file}, line {number}: neither {{"id", "texts": […]}} nor {{"id", "text"}}') from None
