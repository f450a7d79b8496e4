"""What a body must be before a route reads it: JSON by its content type, not too large, not too deep. Its fields are the routes'."""

import re

import numpy as np
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.problems import problem

WITHOUT_BODY = frozenset({"GET", "HEAD", "OPTIONS"})
"""No route reads one of these."""
LEVELS = 128
"""Twice what a record may have, which the intake judges by itself, and a fraction of what parsers can follow."""
UTF_8 = frozenset({"utf-8", "utf8"})

# possessive, for one pass whatever is sent; one that is never closed ends with the body
_STRINGS = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_SQUARE = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


class Bodies:
    """Reads the body, whole, and hands it on; or answers 413, 415 or 422 itself."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on the requests without a body as they are, those with a good one together with it."""
        if scope["type"] != "http" or scope["method"] in WITHOUT_BODY or not _has_body(headers := Headers(scope=scope)):
            return await self._app(scope, receive, send)
        try:
            body = await self._read(receive, headers)
        except Refused as why:
            return await problem(scope, why.status, kind=why.kind, detail=why.detail)(scope, receive, send)
        except ClientDisconnect:
            return None
        return await self._app(scope, _replayed(body, receive), send)

    async def _read(self, receive: Receive, headers: Headers) -> bytes:
        """The whole body. Raises `Refused`, before anything is read where the headers say enough, or `ClientDisconnect`."""
        if not is_json(headers.get("content-type", "")):
            raise Refused(415, "content_type", "A body is `application/json`, in UTF-8.")
        too_large = Refused(413, "too_large", f"A body has at most {self._max_bytes:,} bytes.")
        if int(headers.get("content-length", 0)) > self._max_bytes:
            raise too_large
        parts, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self._max_bytes:
                raise too_large
            more = message.get("more_body", False)
        body = b"".join(parts)
        if is_deeper_than(LEVELS, body):
            raise Refused(422, "too_deep", f"The body nests deeper than {LEVELS} levels.")
        return body


class Refused(Exception):
    """Why a body is not passed on."""

    def __init__(self, status: int, kind: str, detail: str) -> None:
        self.status = status
        self.kind = kind
        self.detail = detail


def is_json(content_type: str) -> bool:
    """Whether a body of this type is JSON in UTF-8."""
    media_type, *parameters = (part.strip() for part in content_type.lower().split(";"))
    charsets = [value.strip('"') for name, _, value in (part.partition("=") for part in parameters) if name == "charset"]
    return media_type == "application/json" and all(charset in UTF_8 for charset in charsets)


def is_deeper_than(levels: int, body: bytes) -> bool:
    """Whether objects and arrays nest deeper; also of what is no JSON, in time proportional to its length."""
    if body.count(b"[") + body.count(b"{") <= levels:
        return False
    brackets = _STRINGS.sub(b"", body).translate(_SQUARE, _NO_BRACKETS)
    steps = ord("\\") - np.frombuffer(brackets, np.int8)  # + 1 for one that opens, - 1 for one that closes
    return bool(steps.size) and int(steps.cumsum(dtype=np.int32).max()) > levels


def _has_body(headers: Headers) -> bool:
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


def _replayed(body: bytes, receive: Receive) -> Receive:
    """What hands the body out once, then waits for the client to go."""
    left: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return left.pop() if left else await receive()

    return replay
