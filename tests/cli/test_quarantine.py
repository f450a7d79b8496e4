"""`persona quarantine` as people and programs use it: what is kept out, and getting it in or out of the way."""

from tests.cli.conftest import Command
from tests.worlds import put_drop, said


def materialize(persona: Command) -> dict[str, int]:
    drops: dict[str, int] = persona("materialize", "catalogs", "raw_conversations", "--json").json["drops"]
    return drops


def test_from_a_held_drop_to_an_accepted_one(persona: Command) -> None:
    drops = persona.settings.drops
    put_drop(drops, "[bad].jsonl", [said("u_1", "hello"), '{"user_id": "[red]u_2[/]"', "{x", {"user_id": "u"}])
    put_drop(drops, "some.jsonl", [said("u_3", "hello"), "{y"])
    assert materialize(persona)["held"] == 1

    rows = persona("quarantine", "list", "--json").lines
    assert {(row["name"], row["state"], row["reason"]) for row in rows} == {
        ("[bad].jsonl", "held", "invalid_json"), ("some.jsonl", "accepted", None),
    }  # fmt: skip
    [held] = [row for row in rows if row["state"] == "held"]
    assert held["lines"] == {"invalid_json": 2, "missing_field": 1}
    listed = persona("quarantine", "list", "--reason", "missing_field").out
    assert "[bad].jsonl" in listed and f"persona quarantine release {held['drop'][:12]}" in listed and "some.jsonl" not in listed

    shown = persona("quarantine", "show", "[bad].jsonl", "--json").json
    assert [past["what"] for past in shown["history"]] == ["claimed", "held: invalid_json"]
    assert [(line["line"], line["reason"]) for line in shown["lines"]] == [
        (2, "invalid_json"), (3, "invalid_json"), (4, "missing_field"),
    ]  # fmt: skip
    assert '[red]u_2[/]"' in persona("quarantine", "show", held["drop"][:6], "--line", "2").out

    mended = put_drop(persona.folder / "mended", "good.jsonl", [said("u_1", "hello"), said("u_2", "hello")])
    done = persona("quarantine", "replay", held["drop"], "--with", str(mended), "--json")
    assert (done.code, done.json["replayed"][0]["state"]) == (0, "discarded") and "persona materialize" in done.json["then"]
    assert materialize(persona) == {"read": 2, "accepted": 2, "duplicate": 0, "quarantined": 0, "erased": 0, "held": 0}
    assert [row["name"] for row in persona("quarantine", "list", "--json").lines] == ["some.jsonl"]

    assert persona("quarantine", "discard", "some.jsonl", "--line", "2", "--json").json["settled"] == 1
    assert persona("quarantine", "list").out == "Nothing is kept out.\n"
    assert len(persona("quarantine", "list", "--all", "--json").lines) == 2

    assert persona("quarantine", "replay", "[bad].jsonl").code == 0
    assert materialize(persona)["held"] == 1
    assert persona("quarantine", "release", "[bad].jsonl").code == 0
    assert materialize(persona) == {"read": 4, "accepted": 0, "duplicate": 1, "quarantined": 3, "erased": 0, "held": 0}
    assert "1 more" not in persona("quarantine", "show", "[bad].jsonl").out


def test_replay_of_everything_with_a_reason(persona: Command) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        put_drop(persona.settings.drops, name, [f"{{{name}"])
    put_drop(persona.settings.drops, "c.txt", [said("u_1", "hello")])
    materialize(persona)
    done = persona("quarantine", "replay", "--reason", "invalid_json", "--json").json
    assert {drop["name"] for drop in done["replayed"]} == {"a.jsonl", "b.jsonl"}
    assert materialize(persona)["held"] == 2

    gone = next(drop for drop in done["replayed"] if drop["name"] == "b.jsonl")
    (persona.settings.claimed_drops / gone["drop"]).unlink()
    done = persona("quarantine", "replay", "--reason", "invalid_json", "--json").json
    assert [drop["name"] for drop in done["replayed"]] == ["a.jsonl"]
    assert [drop["name"] for drop in done["skipped"]] == ["b.jsonl"] and gone["drop"][:12] in done["then"]


def test_what_cannot_be_done_is_said_and_changes_nothing(persona: Command) -> None:
    put_drop(persona.settings.drops, "c.txt", [said("u_1", "hello")])
    materialize(persona)
    for arguments, code, words in (
        (("show", "none.jsonl"), 3, "no drop is called none.jsonl"),
        (("show", "c.txt", "--line", "1"), 3, "not in quarantine"),
        (("release", "c.txt"), 2, "unsupported_file"),
        (("discard", "c.txt", "--line", "7"), 3, "line 7"),
        (("replay",), 2, "either drops or `--reason`"),
        (("replay", "c.txt", "--reason", "invalid_json"), 2, "either drops or `--reason`"),
        (("replay", "--reason", "unsupported_file", "--with", "c.txt"), 2, "one drop"),
        (("replay", "c.txt", "--with", str(persona.settings.drops / "c.txt")), 2, "as it came"),
    ):
        done = persona("quarantine", *arguments, "--json")
        assert (done.code, words in done.error["message"]) == (code, True), done.out
    assert [row["state"] for row in persona("quarantine", "list", "--json").lines] == ["held"]
    put_drop(persona.settings.drops, "d.jsonl", [said("u_1", "hello")])
    materialize(persona)
    with_nothing = persona("quarantine", "show", "d.jsonl")
    assert with_nothing.code == 0 and "accepted" in with_nothing.out
