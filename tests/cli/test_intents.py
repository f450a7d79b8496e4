"""`persona intents`: the contract on a small world, and on real questions to a bank how often it is right."""

import gzip
import json
import os
import random
from collections import defaultdict
from pathlib import Path

import orjson
import pytest

from tests.cli.conftest import Answer, Command

DATA = Path(os.environ.get("PERSONA_TEST_DATA", "../shared/data")).resolve() / "banking77"
EACH = 10
INTENTS = [
    {"intent": "refund", "examples": ["i want my money back", "refund please"]},
    {"intent": "travel", "examples": ["a trip to the sea", "book me a flight"]},
]

NONSENSE = "they were all quite blue under heavy rain last tuesday evening"


def ask(persona: Command, *lines: object, **options: str) -> Answer:
    (persona.folder / "questions.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    extra = [part for name, value in options.items() for part in (f"--{name}", value)]
    return persona("intents", "--texts", "questions.jsonl", *extra, "--json")


def test_each_line_gets_its_intents_under_its_id_or_none(persona: Command) -> None:
    (persona.folder / "intents.json").write_text(json.dumps(INTENTS))
    persona("catalog", "intents.json")
    lines = [
        {"id": 1, "text": "my money back please"},
        {"id": "b", "texts": [NONSENSE, "a flight please"]},
        {"text": NONSENSE},
    ]
    before = ask(persona, *lines, k="2")  # the catalog is in force, and nothing has been embedded yet
    assert before.code == 0, before.err
    persona("materialize", "--json")
    found = ask(persona, *lines, k="2").lines
    assert found == before.lines
    assert [(answer["id"], answer["intent"]) for answer in found] == [(1, "refund"), ("b", "travel"), (None, None)]
    for answer in found:
        assert list(answer) == ["id", "intent", "intents"]
        probabilities = [likely["probability"] for likely in answer["intents"]]
        assert len(probabilities) == 2 and probabilities == sorted(probabilities, reverse=True) and sum(probabilities) <= 2
    assert [len(answer["intents"]) for answer in ask(persona, *lines).lines] == [1, 1, 1]
    done = ask(persona, *lines, output="answers.jsonl")
    assert done.out == "" and len((persona.folder / "answers.jsonl").read_bytes().splitlines()) == 3


@pytest.mark.slow
def test_intents_that_only_drops_gave_are_learned_by_materialize(persona: Command) -> None:
    said = [f"where is my {thing} now" for thing in ("card", "phone", "letter", "parcel", "key")]
    drop = [{"user_id": "u", "message": text, "timestamp": 1_700_000_000 + n, "intent": "lost"} for n, text in enumerate(said)]
    persona.settings.drops.mkdir(parents=True)
    (persona.settings.drops / "given.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in drop))
    assert ask(persona, {"text": "where is my coat now"}).lines[0] == {"id": None, "intent": None, "intents": []}
    done = persona("materialize", "--json").json
    assert (done["status"], len(done["stages"])) == ("success", 11)
    assert ask(persona, {"text": "where is my coat now"}).lines[0]["intent"] == "lost"
    assert all(stage["records"] == 0 for stage in persona("materialize", "--json").json["stages"])


@pytest.mark.parametrize(
    "line",
    [b"nonsense", b'{"id": 1}', b'{"texts": "x"}', b"[]", b'{"text": null}', b'{"texts": ["x", {}]}', b'{"text": "\xff"}'],
)
def test_a_line_that_asks_nothing_is_named(persona: Command, line: bytes) -> None:
    (persona.folder / "questions.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "x"}\n\n' + line + b"\n")
    done = persona("intents", "--texts", "questions.jsonl", "--output", "answers.jsonl", "--json")
    assert (done.code, done.error["code"]) == (2, "invalid_input") and "line 3" in done.error["message"]


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason=f"banking77 is not at {DATA}: set PERSONA_TEST_DATA")
def test_ten_examples_an_intent_are_enough_for_questions_to_a_bank(persona: Command) -> None:
    examples = defaultdict(list)
    for row in rows("train"):
        examples[row["intent"]].append(row["text"])
    dice = random.Random(7)
    catalog = [{"intent": intent, "examples": dice.sample(texts, EACH)} for intent, texts in sorted(examples.items())]
    (persona.folder / "intents.json").write_text(json.dumps(catalog))
    test = rows("test")[::2]  # encoding is what takes the time
    questions = [orjson.dumps({"id": number, "text": row["text"]}) for number, row in enumerate(test)]
    (persona.folder / "questions.jsonl").write_bytes(b"\n".join(questions))
    persona("catalog", "intents.json")
    assert persona.process("materialize", "--json").json["status"] == "success"
    assert persona.process("intents", "--texts", "questions.jsonl", "--output", "answers.jsonl").code == 0
    answers = [orjson.loads(line) for line in (persona.folder / "answers.jsonl").read_bytes().splitlines()]
    assert [answer["id"] for answer in answers] == list(range(len(test)))
    right = [answer["intents"][0]["intent"] == row["intent"] for answer, row in zip(answers, test, strict=True)]
    shown = [answer["intent"] == row["intent"] for answer, row in zip(answers, test, strict=True)]
    print(f"\n{sum(right) / len(right):.4f} right, {sum(shown) / len(shown):.4f} where none counts as wrong")
    assert sum(right) / len(right) >= 0.855


def rows(part: str) -> list[dict[str, str]]:
    return [orjson.loads(line) for line in gzip.decompress((DATA / f"{part}.jsonl.gz").read_bytes()).splitlines()]
