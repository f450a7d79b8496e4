"""`persona backup` and `persona restore` as people and programs use them."""

from pathlib import Path

from tests.cli.conftest import Command
from tests.cli.conftest import persona as persona
from tests.worlds import content, differences, put_drop, said


def test_a_backup_can_be_made_and_put_back(persona: Command, tmp_path: Path) -> None:
    put_drop(persona.settings.drops, "a.jsonl", [said("u_1", "hello", campaign_id="c_1")])
    assert persona("materialize", "--json").code == 0
    folder = tmp_path / "backup"
    made = persona("backup", str(folder), "--json")
    assert (made.code, made.json["drops"], made.json["collections"]["records"]) == (0, 1, 1), made.err
    before = content(persona.settings)
    refused = persona("restore", str(folder), "--json")
    assert (refused.code, refused.error["code"]) == (2, "invalid_input")
    assert "--replace" in refused.error["hint"]
    done = persona("restore", str(folder), "--replace", "--json")
    assert done.code == 0, done.err
    assert {name: done.json[name] for name in ("drops", "erased_again", "not_in_backup")} == {
        "drops": 1, "erased_again": 0, "not_in_backup": [],
    }  # fmt: skip
    assert differences(before, content(persona.settings)) == {}
    assert "1 claimed drops" in persona("restore", str(folder), "--replace").out
    missing = persona("restore", str(tmp_path / "nowhere"), "--json")
    assert (missing.code, missing.error["code"]) == (3, "not_found")
    again = persona("backup", str(folder), "--json")
    assert (again.code, again.error["code"]) == (2, "invalid_input")
