"""API keys: how one is made, and how the setting writes down who may do what. The service decides who asks; no request comes here."""

import hashlib
import re
import secrets
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Literal, cast, get_args

Scope = Literal["read", "ingest", "admin"]
"""What a key may do: ask, hand in, or see and erase what is held on a person."""
SCOPES: tuple[Scope, ...] = get_args(Scope)
PREFIX = "persona_"
"""Tells whoever finds a key in the wrong place what it opens."""
RANDOM_BYTES = 32

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it is stored: never itself."""

    name: str
    scopes: frozenset[Scope]
    digest: bytes = field(repr=False)
    """SHA-256 of the key."""

    def entry(self) -> str:
        """As it stands in the setting: `name:scope+scope:sha256hex`."""
        return f"{self.name}:{'+'.join(sorted(self.scopes))}:{self.digest.hex()}"


def new_key(name: str, scopes: Collection[str]) -> tuple[str, ApiKey]:
    """A fresh key, and what is stored of it. Raises `ValueError` for a name or scope that the setting could not hold."""
    key = PREFIX + secrets.token_urlsafe(RANDOM_BYTES)
    return key, ApiKey(_name(name), _scopes(scopes), digest_of(key.encode()))


def parse_keys(setting: str) -> tuple[ApiKey, ...]:
    """The keys of `name:scope+scope:sha256hex,…`.

    Raises `ValueError`, which tells which entry is wrong and never shows it: it may be the key itself, put in the wrong place.
    """
    keys = []
    for number, entry in enumerate(filter(None, map(str.strip, setting.split(","))), 1):
        try:
            keys.append(_parsed(entry))
        except ValueError as error:
            raise ValueError(f"entry {number}: {error}") from None
    for what, values in (("name", [key.name for key in keys]), ("digest", [key.digest for key in keys])):
        if len(set(values)) < len(values):
            raise ValueError(f"two keys have the same {what}")
    return tuple(keys)


def digest_of(key: bytes) -> bytes:
    """What is stored of a key. It is random and long, so a fast hash does: there is nothing to guess from."""
    return hashlib.sha256(key).digest()


def _parsed(entry: str) -> ApiKey:
    parts = entry.split(":")
    if len(parts) != 3:
        raise ValueError("name:scope+scope:sha256hex is expected; `persona keys new` writes it")
    name, scopes, digest = parts
    if not _DIGEST.fullmatch(digest):
        raise ValueError("the last part is not a SHA-256 digest of 64 hex digits; `persona keys new` writes it")
    return ApiKey(_name(name), _scopes(scopes.split("+")), bytes.fromhex(digest))


def _name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(
            "a key's name has 1 to 64 letters, digits, dots, dashes and underscores, and begins with one of the first two"
        )
    return name


def _scopes(scopes: Iterable[str]) -> frozenset[Scope]:
    if not (named := frozenset(scopes)) or not named <= frozenset(SCOPES):
        raise ValueError(f"a key's scopes are some of {', '.join(SCOPES)}")
    return cast(frozenset[Scope], named)
