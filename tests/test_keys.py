"""What a key is made of, and what the setting may say."""

import hashlib

import pytest
from pydantic import ValidationError

from persona.keys import PREFIX, new_key, parse_keys
from persona.settings import Settings

DIGEST = hashlib.sha256(b"secret").hexdigest()
OTHER = hashlib.sha256(b"other").hexdigest()


def test_a_new_key_is_let_in_by_its_entry_and_by_nothing_else() -> None:
    key, stored = new_key("shop.eu-1", ["ingest", "read"])
    [parsed] = parse_keys(stored.entry())
    assert parsed == stored and parsed.scopes == {"read", "ingest"}
    assert parsed.digest == hashlib.sha256(key.encode()).digest()
    assert key.startswith(PREFIX) and len(key) > 48 and key not in stored.entry()
    assert new_key("shop", ["read"])[0] != new_key("shop", ["read"])[0]
    assert parsed.digest.hex() not in repr(parsed)


def test_the_setting_holds_several() -> None:
    keys = parse_keys(f" shop:read+ingest:{DIGEST.upper()} ,\n team:admin:{OTHER},")
    assert [(key.name, key.scopes) for key in keys] == [("shop", {"read", "ingest"}), ("team", {"admin"})]
    assert parse_keys("") == ()


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("plain-secret", "entry 1: name:scope"),
        (f"shop:read:{DIGEST},plain-secret", "entry 2: name:scope"),
        ("shop:read:plain-secret", "SHA-256"),
        (f"shop:read:{DIGEST}0", "SHA-256"),
        (f"shop:write:{DIGEST}", "read, ingest, admin"),
        (f"shop::{DIGEST}", "read, ingest, admin"),
        (f":read:{DIGEST}", "name"),
        (f"plain secret:read:{DIGEST}", "name"),
        (f"shop:read:{DIGEST},shop:admin:{OTHER}", "same name"),
        (f"shop:read:{DIGEST},team:admin:{DIGEST}", "same digest"),
    ],
)
def test_nonsense_is_told_and_never_shown(setting: str, complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint) as refused:
        Settings(_env_file=None, api_keys=setting)
    assert "plain" not in str(refused.value) and DIGEST not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rate_limit", "often"), ("rate_limit", "0/minute"), ("rate_limit", "10/minute;5/second"),
        ("cors_origins", "app.example.org"), ("cors_origins", "https://app.example.org/"), ("max_body_bytes", "0"),
    ],
)  # fmt: skip
def test_limits_that_make_no_sense_are_refused_at_start(name: str, value: str) -> None:
    with pytest.raises(ValidationError):
        Settings(_env_file=None, **{name: value})


def test_origins_are_listed_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSONA_CORS_ORIGINS", "https://a.example.org, http://localhost:5173")
    assert Settings(_env_file=None).cors_origins == ("https://a.example.org", "http://localhost:5173")
