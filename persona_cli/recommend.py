"""`persona recommend`: answers in this process, from the same stores and by the same code as over HTTP."""

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from persona.errors import EmbeddingMismatch, InvalidInput, NotFound
from persona.language import intents
from persona.language.lazy import LazyEncoder
from persona.ranking.recommender import Query
from persona.settings import Settings
from persona_cli.answering import Answering, open_answering
from persona_cli.options import Json
from persona_cli.output import State, emit_lines, stdout, steps


def recommend(
    users: Annotated[list[str] | None, typer.Argument(help="User ids.")] = None,
    users_file: Annotated[Path | None, typer.Option("--users", help="A file with one user id a line.")] = None,
    texts_file: Annotated[Path | None, typer.Option("--texts", help='JSON lines of {"id", "texts": […]}.')] = None,
    k: Annotated[int, typer.Option(min=1, max=1000, help="How many offers.")] = 5,
    channel: Annotated[str | None, typer.Option(help="Only what may be offered on this channel.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Campaigns to leave out.")] = None,
    as_of: Annotated[datetime | None, typer.Option(help="What was running, capped and consented then (UTC).")] = None,
    output: Annotated[Path | None, typer.Option(help="Write JSON lines there.")] = None,
    json: Json = False,
) -> None:
    """What to offer whom, and why."""
    wanted = list(users or []) + (_lines(users_file) if users_file else [])
    if not wanted and not texts_file:
        raise InvalidInput("nobody to recommend to", hint="Name users, or give --users FILE or --texts FILE.")
    at = as_of.replace(tzinfo=UTC) if as_of and as_of.tzinfo is None else as_of
    query = Query(k=k, channel=channel.lower() if channel else None, exclude=frozenset(exclude or ()), at=at)
    settings = Settings()
    with open_answering(settings) as here, steps() as step:
        answers: list[Iterator[dict[str, Any]]] = [
            (here.recommender.for_user(user, query, here.snapshot).model_dump(mode="json") for user in wanted)
        ]
        if texts_file:
            answers.append(_for_texts(texts_file, settings, here, query))
        _write(chain.from_iterable(answers), output, lambda done: step.count("answers", done))


def _for_texts(file: Path, settings: Settings, here: Answering, query: Query) -> Iterator[dict[str, Any]]:
    encoder = LazyEncoder(settings)
    stored = here.documents.embeddings.model()
    if stored not in (None, (encoder.fingerprint, encoder.dimension)):
        raise EmbeddingMismatch(
            f"the stored vectors are {stored}, the settings name {encoder.fingerprint}",
            hint="Set EMBEDDING_MODEL and EMBEDDING_DIM back, or run `persona rebuild embeddings`.",
        )
    definitions = here.documents.catalog.intents()
    examples = {definition.intent: encoder.encode(intents.definition_texts(definition)) for definition in definitions}
    classifier = intents.NearestExamples.fit(examples, threshold=settings.intent_threshold)
    for number, line in enumerate(_lines(file), 1):
        try:
            asked = orjson.loads(line)
            texts = [str(text) for text in asked["texts"]]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            raise InvalidInput(f'{file}, line {number}: not {{"id", "texts": […]}}') from None
        vectors = encoder.encode(texts)
        found = [guess.intent for guess in classifier.classify(vectors) if guess]
        answer = here.recommender.for_texts(texts, vectors, found, query, here.snapshot)
        yield {"id": asked.get("id"), **answer.model_dump(mode="json")}


def _write(answers: Iterator[dict[str, Any]], output: Path | None, progress: Any) -> None:
    if output is None and State.json:
        emit_lines(answers)
        return
    if output is None:
        for answer in answers:
            stdout.print(_text(answer), markup=False, soft_wrap=True)
        return
    with open(output, "wb") as file:
        for done, answer in enumerate(answers, 1):
            file.write(orjson.dumps(answer, option=orjson.OPT_APPEND_NEWLINE))
            progress(done)
    print(output, file=sys.stderr)


def _text(answer: dict[str, Any]) -> str:
    who = answer.get("id") or answer["user_id"]
    note = "" if answer["known_user"] else " (not known: what does well now)"
    lines = [f"{who}{note}"]
    lines += [
        f"  {offer['rank']}. {offer['campaign_id']}  {offer['ranking_score']:.3f}  {offer['reason']}"
        for offer in answer["recommendations"]
    ]
    return "\n".join(lines)


def _lines(file: Path) -> list[str]:
    if not file.is_file():
        raise NotFound(f"no such file: {file}")
    return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
