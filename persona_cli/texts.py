"""Questions and answers by file, as `recommend` and `intents` take and give them: one JSON document a line. What is asked is theirs."""

import sys
from collections.abc import Callable, Iterator, Mapping
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

    Raises `NotFound`, `InvalidInput` that names the line; for what a line says, while it is read.
    """
    return _asked(file, _numbered(file))


def lines_of(file: Path) -> list[str]:
    """The lines of a file that are not blank. Raises `NotFound`, `InvalidInput` that names the line where it is not UTF-8."""
    return list(_numbered(file).values())


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


def _numbered(file: Path) -> dict[int, str]:
    """The lines that are not blank, by number from 1; a byte order mark is none of the text."""
    if not file.is_file():
        raise NotFound(f"no such file: {file}")
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InvalidInput(f"{file}, line {line}: not UTF-8") from None
    return {number: line.strip() for number, line in enumerate(text.split("\n"), 1) if line.strip()}


def _asked(file: Path, lines: Mapping[int, str]) -> Iterator[Asked]:
    for number, line in lines.items():
        try:
            asked = orjson.loads(line)
            texts = [asked["text"]] if "text" in asked else asked["texts"]
            if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
                raise TypeError
            name = asked.get("id")
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
            raise InvalidInput(f'{file}, line {number}: neither {{"id", "texts": […]}} nor {{"id", "text"}}') from None
        yield Asked(name, texts)
