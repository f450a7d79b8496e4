"""Who asks: the key that a request carries, told before anything else is looked at. What a caller may do is in `scopes`."""

import hmac
from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from persona.keys import SCOPES, ApiKey, digest_of
from persona.keys import Scope as KeyScope
from serving.attempts import Attempts
from serving.problems import problem

log = structlog.get_logger(__name__)

OPEN = frozenset({"/livez", "/readyz", "/docs", "/openapi.json"})
"""What answers without a key: whether the service is there, and how to ask it."""
CHALLENGE = {"WWW-Authenticate": "Bearer"}
NO_KEY = "A key is needed: send it as `Authorization: Bearer …`."
WRONG_KEY = "There is no such key."
TOO_MANY = "Too many wrong keys came from this address."


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, by the name of their key."""

    name: str
    scopes: frozenset[KeyScope]


LOCAL = Caller("local", frozenset(SCOPES))
"""Whoever asks where no keys are set, which is possible from this machine only."""


class Keys:
    """Puts the caller into the request's state as `caller`, or answers 401 or 429 itself. Even what does not exist wants a key."""

    def __init__(self, app: ASGIApp, keys: Sequence[ApiKey]) -> None:
        self._app = app
        self._keys = keys
        self._callers = {key.name: Caller(key.name, key.scopes) for key in keys}
        self._attempts = Attempts()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on the requests of those who may ask, and those for what is open to all."""
        if scope["type"] == "http" and scope["path"] not in OPEN and (refusal := self._refusal(scope)):
            return await refusal(scope, receive, send)
        return await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        """None for a caller, who is then in the request's state; else what they are told."""
        if not self._keys:
            scope["state"]["caller"] = LOCAL
            return None
        if (sent := _sent(scope)) is None:
            return problem(scope, 401, kind="no_key", detail=NO_KEY, headers=CHALLENGE)
        address, name = _address(scope), self._match(sent)
        if name is not None and self._attempts.let_in(address, name):
            scope["state"]["caller"] = self._callers[name]
            return None
        if self._attempts.too_many(address):
            wait = {"Retry-After": str(self._attempts.seconds_left(address))}
            return problem(scope, 429, kind="too_many_requests", detail=TOO_MANY, headers=wait)
        self._attempts.failed(address)
        log.warning("wrong key", address=address)
        return problem(scope, 401, kind="wrong_key", detail=WRONG_KEY, headers=CHALLENGE)

    def _match(self, sent: bytes) -> str | None:
        """The name of the key that was sent; the time that this takes tells nothing about which it resembles."""
        digest, found = digest_of(sent), None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                found = key.name
        return found


def _sent(scope: Scope) -> bytes | None:
    """What stands in the place of a key; None where nothing does. Whatever is no bearer token is as wrong as a key can be."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            kind, _, key = bytes(value).partition(b" ")
            return key.strip(b" ") if kind.lower() == b"bearer" else b""
    return None


def _address(scope: Scope) -> str:
    """Of whoever holds the connection; what a header says of others could be said by anybody."""
    return scope["client"][0] if scope.get("client") else "unknown"
