"""`persona intents`: which intents texts show, by the classifier that labels people's messages."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from persona.language.answers import shown
from persona.language.classifier import IntentClassifier
from persona.language.encoder import Encoder
from persona.language.lazy import LazyEncoder
from persona.pipeline.labelling import classifier_to_ask
from persona.settings import Settings
from persona.stores.opening import documents_of
from persona_cli.options import Json
from persona_cli.output import steps
from persona_cli.texts import Asked, asked_in, write_answers

LINES = 1_024


def intents(
    texts_file: Annotated[Path, typer.Option("--texts", help='JSON lines of {"id", "texts": […]} or {"id", "text"}.')],
    k: Annotated[int, typer.Option(min=1, max=1000, help="How many intents, likeliest first.")] = 1,
    output: Annotated[Path | None, typer.Option(help="Write JSON lines there.")] = None,
    json: Json = False,
) -> None:
    """Which intents texts show, with probabilities, or none of these."""
    settings = Settings()
    encoder = LazyEncoder(settings)
    asked = asked_in(texts_file)
    with documents_of(settings) as documents:
        classifier = classifier_to_ask(documents, encoder)
    with steps() as step:
        answers = _answers(asked, classifier, encoder, k=k, threshold=settings.intent_threshold)
        write_answers(answers, output, _text, lambda done: step.count("answers", done))


def _answers(
    asked: Iterator[Asked], classifier: IntentClassifier, encoder: Encoder, *, k: int, threshold: float
) -> Iterator[dict[str, Any]]:
    while lines := list(islice(asked, LINES)):
        vectors, start = encoder.encode([text for line in lines for text in line.texts]), 0
        for line in lines:
            ours = vectors[start : start + len(line.texts)]
            start += len(line.texts)
            yield {"id": line.id, **shown(classifier, ours, k=k, threshold=threshold)}


def _text(answer: dict[str, Any]) -> str:
    likeliest = ", ".join(f"{found['intent']} {found['probability']:.2f}" for found in answer["intents"])
    return f"{answer['id']}  {answer['intent'] or 'none of these'}  ({likeliest})"
