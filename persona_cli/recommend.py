"""`persona recommend`: answers in this process, from the same stores and by the same code as over HTTP."""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from persona.errors import InvalidInput
from persona.language.lazy import LazyEncoder
from persona.pipeline.labelling import classifier_to_ask
from persona.projections.conversations import in_one
from persona.ranking.recommender import Query
from persona.settings import Settings
from persona_cli.answering import Answering, open_answering
from persona_cli.options import AsOf, Channel, Json
from persona_cli.output import steps
from persona_cli.texts import asked_in, lines_of, write_answers


def recommend(
    users: Annotated[list[str] | None, typer.Argument(help="User ids.")] = None,
    users_file: Annotated[Path | None, typer.Option("--users", help="A file with one user id a line.")] = None,
    texts_file: Annotated[
        Path | None, typer.Option("--texts", help='JSON lines of {"id", "texts": […]} or {"id", "text"}.')
    ] = None,
    k: Annotated[int, typer.Option(min=1, max=1000, help="How many offers.")] = 5,
    channel: Channel = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Campaigns to leave out.")] = None,
    as_of: AsOf = None,
    output: Annotated[Path | None, typer.Option(help="Write JSON lines there.")] = None,
    json: Json = False,
) -> None:
    """What to offer whom, and why."""
    wanted = list(users or []) + (lines_of(users_file) if users_file else [])
    if not wanted and not texts_file:
        raise InvalidInput("nobody to recommend to", hint="Name users, or give --users FILE or --texts FILE.")
    query = Query(k=k, channel=channel, exclude=frozenset(exclude or ()), at=as_of)
    settings = Settings()
    with open_answering(settings) as here, steps() as step:
        answers: list[Iterator[dict[str, Any]]] = [
            (here.recommender.for_user(user, query, here.snapshot).model_dump(mode="json") for user in wanted)
        ]
        if texts_file:
            answers.append(_for_texts(texts_file, settings, here, query))
        write_answers(chain.from_iterable(answers), output, _text, lambda done: step.count("answers", done))


def _for_texts(file: Path, settings: Settings, here: Answering, query: Query) -> Iterator[dict[str, Any]]:
    encoder = LazyEncoder(settings)
    classifier = classifier_to_ask(here.documents, encoder)
    for asked in asked_in(file):
        *each, together = encoder.encode([*asked.texts, in_one(asked.texts or [""])])
        found = [guess.intent for guess in classifier.classify(np.array(each), settings.intent_threshold) if guess]
        answer = here.recommender.for_texts(asked.texts, together if asked.texts else None, found, query, here.snapshot)
        yield {"id": asked.id, **answer.model_dump(mode="json")}


def _text(answer: dict[str, Any]) -> str:
    who = answer.get("id") or answer["user_id"]
    note = "" if answer["known_user"] else " (not known: what does well now)"
    lines = [f"{who}{note}"]
    lines += [
        f"  {offer['rank']}. {offer['campaign_id']}  {offer['ranking_score']:.3f}  {offer['reason']}"
        for offer in answer["recommendations"]
    ]
    return "\n".join(lines)
