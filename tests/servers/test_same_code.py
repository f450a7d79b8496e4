"""URLs are the only difference: the same drops through local servers and through those of production, and a move from one to the other."""

import gzip
import json
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from persona.local.stack import start_stores, stop_stores
from persona.settings import Settings
from tests.cli.conftest import Command, command_in
from tests.servers.running import Running, postgresql_database
from tests.worlds import clear, content, differences, generated, learned, put_drop, said

pytestmark = pytest.mark.slow

REDIAL = Path(os.environ.get("PERSONA_TEST_DATA", "../shared/data")).resolve() / "redial_train" / "drops" / "redial-01.jsonl.gz"
LINES = 1_000
"""Of its thousands."""
K = 20
AS_OF = "2026-11-01T00:00:00+00:00"
SCORE = 1.001e-6  # scores are given to six digits: one in the last


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """The command in a home with local servers."""
    settings = Settings(home=tmp_path_factory.mktemp("local"), _env_file=None)
    start_stores(settings)
    try:
        yield command_in(tmp_path_factory.mktemp("local-command"), settings)
    finally:
        stop_stores(settings)


@pytest.fixture(scope="module")
def served(production: Running | None, tmp_path_factory: pytest.TempPathFactory) -> Command:
    """The command in a home with servers of production, PostgreSQL among them."""
    if production is None:
        pytest.skip("the servers of production are asked for with --servers")
    folder = tmp_path_factory.mktemp("served")
    command = command_in(folder, production.settings(folder))
    del command.environment["SQLITE_PATH"]
    command.environment["WAREHOUSE_URL"] = postgresql_database(production.addresses["postgresql"])
    return command


def filled(persona: Command) -> None:
    """Apply a generated world, a part of a real one, and what is kept out."""
    clear(persona.settings)
    generated(persona.settings, messages=400, drops=3)
    with gzip.open(REDIAL, "rt") as lines:
        put_drop(persona.settings.drops, "redial.jsonl", map(str.strip, islice(lines, LINES)))
    put_drop(persona.settings.drops, "mixed.jsonl", [said("vera", "a loan please", campaign_id="c_101", event="click"), "{"])
    done = persona("materialize", "--json")
    assert done.code == 0, done.out


def asked(persona: Command) -> list[dict[str, Any]]:
    """What everybody is offered, at one moment."""
    users = sorted({json.loads(row)["user_id"] for row in content(persona.settings)["mongodb:records"]})
    listed = persona.folder / "users"
    listed.write_text("\n".join(users))
    answered = persona("recommend", "--users", str(listed), "--k", str(K), "--as-of", AS_OF, "--json")
    assert answered.code == 0, answered.err
    return answered.lines


def assert_same(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    assert len(ours) > 50
    for one, other in zip(ours, theirs, strict=True):
        assert one["user_id"] == other["user_id"] and one["degraded"] == other["degraded"] == []
        offers, others = one["recommendations"], other["recommendations"]
        assert [offer["campaign_id"] for offer in offers] == [offer["campaign_id"] for offer in others], one["user_id"]
        assert [offer["ranking_score"] for offer in offers] == pytest.approx(
            [offer["ranking_score"] for offer in others], abs=SCORE
        )
        assert [offer["reason"] for offer in offers] == [offer["reason"] for offer in others]


def test_the_same_drops_make_the_same_stores_and_the_same_answers(local: Command, served: Command) -> None:
    filled(local)
    filled(served)
    assert differences(content(local.settings), content(served.settings)) == {}
    assert_same(asked(local), asked(served))


def test_a_local_installation_moves_to_servers_by_backup_and_restore(local: Command, served: Command, tmp_path: Path) -> None:
    filled(local)
    clear(served.settings)
    folder = tmp_path / "moving"
    made = local("backup", str(folder), "--json")
    assert made.code == 0, made.err
    moved = served("restore", str(folder), "--json")
    assert moved.code == 0, moved.err
    assert differences(content(local.settings), content(served.settings)) == {}
    assert {name: len(rows) for name, rows in learned(local.settings).items()} == {
        name: len(rows) for name, rows in learned(served.settings).items()
    }
    assert_same(asked(local), asked(served))
    put_drop(served.settings.drops, "after.jsonl", [said("vera", "and a card", minutes=-5)])
    assert served("materialize", "--json").code == 0
