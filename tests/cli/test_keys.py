"""`persona keys new`: a key that is shown once, and the setting that lets it in."""

from pathlib import Path

import pytest

from persona.keys import digest_of, parse_keys
from persona.settings import Settings
from tests.cli.conftest import Command


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path, {"PERSONA_API_KEYS": ""})


def test_each_new_key_joins_those_before(command: Command) -> None:
    first = command("keys", "new", "shop", "--scope", "read", "--scope", "ingest", "--json").json
    second = command("keys", "new", "team", "--scope", "admin", "--json", **first["setting"]).json
    shop, team = parse_keys(second["setting"]["PERSONA_API_KEYS"])
    assert (shop.name, shop.scopes, shop.digest) == ("shop", {"read", "ingest"}, digest_of(first["key"].encode()))
    assert (team.name, team.scopes, team.digest) == ("team", {"admin"}, digest_of(second["key"].encode()))
    shown = command("keys", "new", "app", "--scope", "read")
    assert shown.code == 0 and shown.out.startswith("persona_")
    line = shown.out.splitlines()[-1].removeprefix("PERSONA_API_KEYS=")
    assert Settings(_env_file=None, api_keys=line).keys[0].digest == digest_of(shown.out.split()[0].encode())


@pytest.mark.parametrize(
    "arguments", [("shop", "--scope", "read"), ("a b", "--scope", "read"), ("app", "--scope", "everything"), ("app",)]
)
def test_what_the_setting_could_not_hold_is_refused(command: Command, arguments: tuple[str, ...]) -> None:
    held = command("keys", "new", "shop", "--scope", "read", "--json").json["setting"]
    answer = command("keys", "new", *arguments, "--json", **held)
    assert answer.code == 2 and answer.error["message"]


def test_a_setting_that_cannot_be_read_is_named_and_not_shown(command: Command) -> None:
    answer = command("keys", "new", "shop", "--scope", "read", PERSONA_API_KEYS="plain-secret")
    assert answer.code == 2 and "PERSONA_API_KEYS" in answer.err and "plain-secret" not in answer.err + answer.out
