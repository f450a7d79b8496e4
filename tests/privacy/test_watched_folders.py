"""What an erasure does in the watched folders: nobody else's data is lost, and whatever it cannot take the person out of is named."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from persona.intake.catalogs import load_folder
from persona.privacy import copies, search
from persona.privacy.erasure import erase, is_complete
from tests.pipeline.conftest import World
from tests.privacy.conftest import VERA, Place, said

KILLED = """
import os, signal, sys
from pathlib import Path
from persona.intake.blanking import blanked, replaced
drop, catalog = map(Path, sys.argv[1:])
with blanked(drop, drop.name, [1]), replaced(catalog, b"[]"):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def lines(*records: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def unreadable(patch: pytest.MonkeyPatch, owner: Any, verb: str, path: Path) -> None:
    """The verb may not open this file, whoever runs the test."""
    real: Callable[..., Any] = getattr(owner, verb)

    def refusing(file: Path, *args: Any) -> Any:
        if file == path:
            raise PermissionError
        return real(file, *args)

    patch.setattr(owner, verb, refusing)


@pytest.fixture
def small(new_world: Callable[[], World]) -> Place:
    """The person and another in one drop and in one catalog."""
    place = Place(new_world())
    (place.settings.catalog / "users.json").write_text(json.dumps([{"user_id": VERA}, {"user_id": "u_1", "segments": ["gold"]}]))
    load_folder(place.pipeline, run_id="r")
    place.take_in({"day.jsonl": lines(said(VERA, 1), said("u_1", 1))})
    return place


def erased(place: Place) -> dict[str, str]:
    """Erase the person; return why each file was left alone, empty where it was rewritten."""
    proof = erase(VERA, place.settings, place.world.stores, run_id="e")
    assert is_complete(proof)
    named = {residue["where"].removesuffix(" in the watched folder") for residue in proof["residue"]}
    assert {source["file"] for source in proof["sources"] if not source["rewritten"]} <= named
    return {source["file"]: source["why"] for source in proof["sources"]}


def test_a_catalog_that_waits_to_be_loaded_is_loaded_without_the_person(small: Place) -> None:
    newer = [{"user_id": VERA}, {"user_id": "u_1", "suppressed": True}]
    (small.settings.catalog / "users.json").write_text(json.dumps(newer))
    assert erased(small) == {"day.jsonl": "", "users.json": ""}
    load_folder(small.pipeline, run_id="r")
    customer = small.documents.catalog.customer("u_1")
    assert customer is not None and customer.suppressed
    assert small.documents.catalog.customer(VERA) is None


def test_a_drop_that_came_meanwhile_is_taken_in_without_the_person(small: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    newer = lines(said("u_2", 2), said(VERA, 2), said("u_1", 2))
    real = copies.find_in_copies

    def replacing(*args: Any) -> Any:
        (small.settings.drops / "day.jsonl").write_bytes(newer)
        monkeypatch.setattr("persona.privacy.erasure.find_in_copies", real)
        return real(*args)

    monkeypatch.setattr("persona.privacy.erasure.find_in_copies", replacing)
    assert erased(small) == {"day.jsonl": "", "users.json": ""}
    small.take_in()
    known = small.documents.database["records"].distinct("_id")
    assert sorted(known) == ["m_u_1_1", "m_u_1_2", "m_u_2_2"]
    small.world.agrees_with_the_truth()


@pytest.mark.parametrize("newer", [lines(said("u_2", 2), said(VERA, 2)), b"\x1f\x8bno gzip"])
def test_a_drop_that_is_replaced_while_it_is_searched_stays(small: Place, monkeypatch: pytest.MonkeyPatch, newer: bytes) -> None:
    file, real = small.settings.drops / "day.jsonl", search.search

    def replacing(path: Path, *args: Any) -> Any:
        found = real(path, *args)
        if path.name == file.name:
            file.write_bytes(newer)
        return found

    monkeypatch.setattr(copies, "search", replacing)
    assert erased(small)["day.jsonl"] == "still being written"
    assert file.read_bytes() == newer


def test_what_a_killed_erasure_left_half_written_is_removed(small: Place) -> None:
    settings = small.settings
    files = [settings.drops / "day.jsonl", settings.catalog / "users.json"]
    killed = subprocess.run([sys.executable, "-c", KILLED, *map(str, files)], check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert all(len(list(file.parent.glob(".*.part"))) == 1 for file in files)
    (settings.drops / ".monday.part").write_bytes(b"a producer's")
    assert erased(small) == {"day.jsonl": "", "users.json": ""}
    assert [path.name for file in files for path in file.parent.glob(".*")] == [".monday.part"]


def test_files_that_cannot_be_read_are_named(small: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = small.settings
    content = {
        "broken.json": f'[{{"user_id": "{VERA}"}}',
        "people.csv": f"user_id\n{VERA}\n",
        "foreign.json": json.dumps([{"id": VERA}]),
        "object.json": json.dumps({"users": [VERA]}),
        "others.csv": "user_id\nu_1\n",
        "campaigns.json": json.dumps([{"campaign_id": "c", "name": f"for {VERA}"}]),
    }
    for name, text in content.items():
        (settings.catalog / name).write_text(text)
    (settings.catalog / "closed.json").write_text("[]")
    unreadable(monkeypatch, search, "opened", settings.drops.resolve() / "day.jsonl")
    unreadable(monkeypatch, Path, "read_bytes", settings.catalog.resolve() / "closed.json")
    no_catalog = "not a catalog that can be read"
    assert erased(small) == {
        "day.jsonl": "not readable",
        "closed.json": "not readable",
        "users.json": "",
        **dict.fromkeys(["broken.json", "people.csv", "foreign.json", "object.json"], no_catalog),
    }
    assert all((settings.catalog / name).read_text() == text for name, text in content.items())
