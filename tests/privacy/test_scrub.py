"""After a scrub the bytes of every file under PERSONA_HOME are free of the erased, and everything else is as it was."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from persona.local.stack import renew_stores, running_services, stop_stores
from persona.privacy import scrub as scrubbing
from persona.stores.opening import documents_of
from tests.cli.conftest import Command
from tests.platforms import platform_in
from tests.privacy.conftest import VERA, drops
from tests.privacy.test_cli import files_with
from tests.worlds import Dump, content, eventually, put_drop, said

pytestmark = pytest.mark.slow


@pytest.fixture
def persona(tmp_path: Path) -> Iterator[Command]:
    """The command in a home with servers of its own."""
    folders = {f"PERSONA_{name.upper()}": str(tmp_path / name) for name in ("home", "drops", "catalog")}
    command = Command(tmp_path, {**folders, "PERSONA_SETTLE_SECONDS": "0", "DAGSTER_HOME": str(tmp_path / "home" / "dagster")})
    try:
        yield command
    finally:
        stop_stores(command.settings)


def test_no_byte_is_left(persona: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = persona.settings
    for folder in (settings.drops, settings.catalog):
        folder.mkdir(parents=True)
    for name, written in drops().items():
        if name != "mixed.jsonl":  # in which others mention her
            (settings.drops / name).write_bytes(written)
    (settings.catalog / "users.json").write_text(json.dumps([{"user_id": VERA}, {"user_id": "u_1"}]))
    assert persona("stores", "up").code == 0
    assert persona("materialize").code == 0
    before = files_with(persona, VERA)
    assert {Path(path).parts[1] for path in before if path.startswith("stores/")} >= {"milvus", "neo4j", "mongodb"}

    erased = persona("erase", VERA, "--json")
    assert erased.code == 0, erased.err
    assert any(path.startswith("stores/") for path in files_with(persona, VERA))
    assert any("--scrub" in residue["removed_by"] for residue in erased.json["residue"])
    held = _kept(persona)
    holders = []

    def renewing(*arguments: Any, **options: Any) -> None:
        with documents_of(settings) as documents:
            holders.append(documents.leases.holder())
        renew_stores(*arguments, **options)

    monkeypatch.setattr(scrubbing, "renew_stores", renewing)
    scrubbed = persona("erase", VERA, "--scrub", "--json")
    assert scrubbed.code == 0, scrubbed.err
    assert [holder and holder.purpose for holder in holders] == ["scrub"], "nobody writes into what is thrown away"
    with documents_of(settings) as documents:
        assert documents.leases.holder() is None
    assert files_with(persona, VERA) == set() == set(scrubbed.json["scrubbed"]["found_in"])
    assert all("its owner" in residue["removed_by"] for residue in scrubbed.json["residue"]), "files that are not ours to change"
    assert _kept(persona) == held
    assert persona("materialize", "--json").json["drops"]["read"] == 0


def test_services_are_stopped_and_come_back(tmp_path: Path) -> None:
    with platform_in(tmp_path) as platform:
        settings = platform.settings
        put_drop(settings.drops, "a.jsonl", [said(VERA, "I want my money back"), said("u_1", "what does it cost")])
        platform.persona("up")
        assert platform.get("/recommendations/-", user_id=VERA)["known_user"]
        with platform.start("erase", VERA, "--scrub") as process:
            eventually(lambda: process.poll() is not None or not running_services(settings), seconds=120)
            process.kill()
        assert process.returncode < 0 and not running_services(settings), "killed while the services were stopped"
        proof = platform.persona("erase", VERA, "--scrub")
        assert proof["scrubbed"]["found_in"] == []
        states = platform.persona("status")
        assert {service["state"] for service in states["services"].values()} == {"running"}
        eventually(lambda: platform.get("/recommendations/-", user_id="u_1")["known_user"], seconds=30)
        assert not platform.get("/recommendations/-", user_id=VERA)["known_user"]
        put_drop(settings.drops, "b.jsonl", [said("u_2", "what does it cost")])
        eventually(lambda: platform.get("/recommendations/-", user_id="u_2")["known_user"], seconds=90)


def _kept(persona: Command) -> Dump:
    return {name: rows for name, rows in content(persona.settings).items() if rows and name != "mongodb:erasures"}
