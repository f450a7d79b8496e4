"""Real conversations, as they are, through the commands a person would type: `catalog`, `ingest`, `materialize`, `recommend`."""

import gzip
import json
import os
from collections import Counter
from pathlib import Path

import orjson
import pytest

from tests.cli.conftest import Command

DATA = Path(os.environ.get("PERSONA_TEST_DATA", "../shared/data")).resolve() / "redial_train"

DROPS = 2
"""Of ten: encoding is what takes the time."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA.is_dir(), reason=f"the ReDial drops are not at {DATA}: set PERSONA_TEST_DATA"),
]


def test_every_seeker_gets_movies_with_reasons(persona: Command, tmp_path: Path) -> None:
    drops = sorted((DATA / "drops").iterdir())[:DROPS]
    records = [orjson.loads(line) for drop in drops for line in gzip.open(drop).readlines()]  # noqa: SIM115
    users = sorted({record["user_id"] for record in records})
    movies = {campaign["campaign_id"] for campaign in json.loads((DATA / "campaigns.json").read_text())}

    assert persona("catalog", str(DATA / "campaigns.json"), "--json").json["loaded"][0]["entries"] == len(movies)
    persona("ingest", *map(str, drops), "--json")
    run = persona.process("materialize", "--json").json  # a process of its own, with the real encoder
    assert run["status"] == "success", run
    assert run["drops"] == {
        "read": len(records), "accepted": len(records), "duplicate": 0, "quarantined": 0, "erased": 0, "held": 0,
    }  # fmt: skip
    assert all(check["passed"] for check in run["checks"] if check["blocking"])

    (tmp_path / "users").write_text("\n".join(users))
    persona("recommend", "--users", str(tmp_path / "users"), "--k", "5", "--output", str(tmp_path / "answers.jsonl"))
    answers = [orjson.loads(line) for line in (tmp_path / "answers.jsonl").read_bytes().splitlines()]
    assert [answer["user_id"] for answer in answers] == users
    taken = {(record["user_id"], record["campaign_id"]) for record in records if record.get("event") in ("conversion", "dismiss")}
    channels: Counter[str] = Counter()
    for answer in answers:
        assert answer["known_user"]
        assert len(answer["recommendations"]) == 5
        for offer in answer["recommendations"]:
            assert offer["campaign_id"] in movies
            assert (answer["user_id"], offer["campaign_id"]) not in taken
            assert offer["reason"]
            channels.update(part["channel"] for part in offer["evidence"])
    assert set(channels) >= {"similar_conversations", "similar_users", "content", "engagement"}
