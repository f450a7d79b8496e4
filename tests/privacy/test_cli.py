"""`persona export` and `persona erase`, and what a whole run leaves of a person in the platform's own files."""

import json

from tests.cli.conftest import Command
from tests.cli.conftest import persona as persona
from tests.privacy.conftest import ESCAPED, VERA, drops


def files_with(persona: Command, needle: str) -> set[str]:
    """The files of the home in which the needle stands, by their path."""
    spellings = (needle.encode(), ESCAPED.encode())
    home = persona.settings.home
    return {
        str(path.relative_to(home))
        for path in home.rglob("*")
        if path.is_file() and any(spelling in path.read_bytes() for spelling in spellings)
    }


def test_export_and_erase(persona: Command) -> None:
    settings = persona.settings
    for folder in (settings.drops, settings.catalog):
        folder.mkdir(parents=True)
    for name, content in drops().items():
        if not name.endswith(".gz"):
            (settings.drops / name).write_bytes(content)
    (settings.catalog / "users.json").write_text(json.dumps([{"user_id": VERA, "segments": ["gold"]}]))
    read_only = settings.drops / "single.json"
    read_only.chmod(0o444)
    done = persona("materialize", "--json")
    assert done.code == 0, done.err

    outside = {path for path in files_with(persona, VERA) if not path.startswith("drops/")}
    assert not outside, "neither Dagster's history nor our logs name a person"
    exported = persona.folder / "export.json"
    assert persona("export", VERA, "--output", str(exported)).code == 0
    document = json.loads(exported.read_bytes())
    assert document == {**persona("export", f" {VERA} ").json, "exported_at": document["exported_at"]}
    assert len(document["records"]) == 6 and exported.stat().st_mode & 0o077 == 0

    unknown = persona("erase", "nobody", "--json")
    assert (unknown.code, unknown.error["code"]) == (3, "not_found")
    erased = persona("erase", VERA, "--json")
    assert erased.code == 0, erased.out
    proof = erased.json
    assert VERA not in erased.out and VERA not in erased.err
    assert {"file": "single.json", "rewritten": False, "why": "read-only"} in proof["sources"]
    assert any("single.json" in residue["where"] for residue in proof["residue"])
    assert json.loads((settings.catalog / "users.json").read_bytes()) == []
    left = files_with(persona, VERA)
    assert {path for path in left if not path.startswith("drops/")} == set()
    assert {path.removeprefix("drops/") for path in left} == {entry["drop"] for entry in proof["mentions"]}
    assert persona("export", VERA, "--json").code == 3
    assert persona("materialize", "--json").json["drops"]["read"] == 0, "rewritten files are no new drops"
    text = persona("erase", VERA)
    assert text.code == 0 and "0 left" in text.out
