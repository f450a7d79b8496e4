"""`persona evaluate` on a home that has been filled."""

import json
import sys

import pytest

from persona.evaluation import serving
from tests.cli.conftest import Answer, Command

Filled = tuple[Command, Answer]


def test_what_serves_is_judged_in_words_and_as_a_document(filled: Filled) -> None:
    persona, _ = filled
    folder = persona.folder / "report"
    done = persona("evaluate", "--json", "--output", str(folder))
    assert done.code == 0, done.err
    report = done.json
    assert report["model"].startswith("g_") and report["engagements"] > 0 and report["verdict"]["publish"]
    assert {file.name for file in folder.iterdir()} == {"evaluation.md", "evaluation.json", "evaluation.png"}
    assert json.loads((folder / "evaluation.json").read_text()) == report
    words = (folder / "evaluation.md").read_text()
    assert report["verdict"]["reason"] in words and "u_0" not in words
    said = persona("evaluate")
    assert said.code == 0 and said.out.strip() in words


def test_what_needs_a_matrix_of_all_campaigns_is_left_out_of_large_catalogues(
    filled: Filled, monkeypatch: pytest.MonkeyPatch
) -> None:
    persona, _ = filled
    monkeypatch.setattr(serving, "LARGEST", 2)
    [note] = [note for note in persona("evaluate", "--json").json["notes"] if "matrix" in note]
    assert "EASE and ItemKNN" in note and "left out" in note


def test_without_a_model_there_is_nothing_to_judge(persona: Command) -> None:
    done = persona("evaluate", "--json")
    assert (done.code, done.error["code"]) == (3, "not_found")
    assert "persona materialize" in done.error["hint"]


def test_without_the_baselines_libraries_it_says_what_to_install(persona: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "implicit", None)
    done = persona("evaluate", "--json")
    assert (done.code, done.error["message"]) == (1, "not installed: implicit") and "persona[evaluation]" in done.error["hint"]
