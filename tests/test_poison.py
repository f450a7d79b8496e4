"""A broken drop and a poisoned one among a hundred good ones: nobody is woken, the good ones are in, and these two say why they are not."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from persona.intake import drops, parse
from persona.settings import Settings
from tests.cli.conftest import Command, command_in
from tests.crash import Run
from tests.worlds import clear, content, ledger, put_drop, said

pytestmark = pytest.mark.slow

GOOD = 100
POISONED, BROKEN = "050-poisoned.jsonl", "070-broken.jsonl"


@pytest.fixture
def persona(stack_settings: Settings, tmp_path: Path) -> Iterator[Command]:
    command = command_in(tmp_path, stack_settings)
    clear(command.settings)
    yield command
    clear(command.settings)


def killed_by_the_poison() -> None:
    """A file on which the parser itself dies, as a library in C may."""

    def raw_records(path: Path, name: str) -> Iterator[parse.RawRecord]:
        for number, record in enumerate(parse.raw_records(path, name)):
            if name == POISONED and number == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            yield record

    drops.raw_records = raw_records  # type: ignore[attr-defined]


def test_a_hundred_good_drops_come_in_past_a_poisoned_and_a_broken_one(persona: Command) -> None:
    folder = persona.settings.drops
    for number in range(GOOD):
        put_drop(
            folder, f"{number:03d}-good.jsonl", [said(f"u_{number}", f"hello {number}", campaign_id="c_1") for _ in range(2)]
        )
    put_drop(folder, POISONED, [said("u_poisoned", f"never heard {number}") for number in range(3)])
    put_drop(folder, BROKEN, ['{"user_id": "u_broken"'] * 3)

    endings = []
    while not endings or endings[-1] == "killed":  # as the sensor asks for the next run, whatever became of the last
        run = Run(persona.folder, persona.environment, len(endings), prepare=killed_by_the_poison)
        assert run.ends(within=120)
        endings.append(run.ending()[0])
    assert endings == ["killed", "killed", "killed", "success"]

    entries = ledger(persona.settings)
    held = {name: entry["reason"] for name, entry in entries.items() if entry["state"] != "accepted"}
    assert held == {POISONED: "crashed_run", BROKEN: "invalid_json"}
    assert "3 runs ended abruptly while they read this drop" in entries[POISONED]["detail"]
    assert "mend the file" in entries[BROKEN]["detail"]
    assert not [name for name, entry in entries.items() if entry.get("pending")]
    stored = content(persona.settings)
    assert len(stored["mongodb:records"]) == GOOD
    assert len(stored["milvus:users"]) == GOOD
    assert not [row for rows in stored.values() for row in rows if "u_poisoned" in row and "drop" not in row]
