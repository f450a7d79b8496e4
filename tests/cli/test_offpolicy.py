"""`persona offpolicy` on logs of a few lines; it needs no store."""

import gzip
import json
from pathlib import Path

import pytest

from tests.cli.conftest import Command

HEADER = "item_id,position,click,propensity_score,anything\n"
LOG = HEADER + "1,1,1,0.5,x\n1,1,0,0.5,x\n2,1,0,0.5,x\n2,1,0,0.5,x\n" * 25


@pytest.fixture
def persona(tmp_path: Path) -> Command:
    command = Command(tmp_path, {"PERSONA_HOME": str(tmp_path)})
    (tmp_path / "log.csv").write_text(LOG)
    (tmp_path / "policy.csv.gz").write_bytes(gzip.compress((HEADER + "1,1,1,0.9,x\n" * 9 + "2,1,0,0.1,x\n").encode()))
    (tmp_path / "ranking.txt").write_text("1\n2\n")
    return command


def test_a_policy_by_its_own_log(persona: Command) -> None:
    done = persona("offpolicy", "log.csv", "--policy", "policy.csv.gz", "--json")
    assert done.code == 0, done.err
    found = done.json
    assert set(found) == {"impressions", "logged", "ips", "snips", "own"}
    assert (found["impressions"], found["logged"]["value"]) == (100, 0.25)
    assert found["ips"]["value"] == pytest.approx(0.9 * 0.5)
    assert found["ips"]["low"] < 0.45 < found["ips"]["high"]
    assert found["own"]["value"] == 0.9


def test_a_ranking_in_words(persona: Command) -> None:
    done = persona("offpolicy", "log.csv", "--ranking", "ranking.txt")
    assert done.code == 0 and "100 impressions" in done.out and "SNIPS        50.000%" in done.out.replace("  ", " " * 2)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["log.csv"], 2, "no policy"),
        (["log.csv", "--policy", "log.csv", "--ranking", "ranking.txt"], 2, "no policy"),
        (["nowhere.csv", "--ranking", "ranking.txt"], 3, "nowhere.csv"),
        (["ranking.txt", "--ranking", "ranking.txt"], 2, "not a log of impressions"),
    ],
)
def test_what_cannot_be_estimated_is_said(persona: Command, arguments: list[str], code: int, words: str) -> None:
    done = persona("offpolicy", *arguments, "--json")
    assert done.code == code and words in json.dumps(done.error)
