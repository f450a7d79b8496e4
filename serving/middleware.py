"""What surrounds every request: its id, its line in the log, its figures and trace, its headers, an answer when nothing gave one.

No route's logic. It is passed by every request, the cheapest ones included: headers are read and added as the bytes they are.
"""

import random
import re
import time
from collections.abc import Iterable
from urllib.parse import unquote_to_bytes

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars, reset_contextvars

from serving import telemetry, traces
from serving.headers import protecting
from serving.problems import problem

log = structlog.get_logger(__name__)

REQUEST_ID = b"x-request-id"
SANE = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
NOT_KEPT = (b"cache-control", b"no-store")
"""Where a route says nothing else."""
# told apart, not secret. Seeded by the system, which is not asked for each: whoever asks it lets other threads go first
_ids = random.Random()  # noqa: S311


class Requests:
    """Gives each request an id, tells its end in one line that names the route and never the person, and lets nothing escape."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, with all that."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        started = time.perf_counter()
        request_id = _id_of(scope["headers"])
        scope.setdefault("state", {})["request_id"] = request_id
        status: int | None = None

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message.get("headers", ()), (REQUEST_ID, request_id.encode()), *protecting(scope)]
                if all(name != NOT_KEPT[0] for name, _ in headers):
                    headers.append(NOT_KEPT)
                message["headers"] = headers
            await send(message)

        bound = bind_contextvars(request_id=request_id)
        span = traces.request_begun(scope["method"], scope["headers"])
        try:
            if _readable(scope):
                await self._app(scope, receive, sending)
            else:
                refusal = problem(scope, 400, kind="malformed", detail="The address is not percent-encoded UTF-8.")
                await refusal(scope, receive, sending)
        except Exception:
            log.exception("request failed")
            if status is None:
                await problem(scope, 500)(scope, receive, sending)
        finally:
            seconds = time.perf_counter() - started
            method, route = scope["method"], getattr(scope.get("route"), "path", None)
            telemetry.requested(method, route, status, seconds)
            if span is not None:
                traces.request_ended(span, method=method, route=route, status=status, request_id=request_id)
            log.info("request", method=method, route=route, status=status, duration_ms=round(seconds * 1000, 2))
            if audit := scope["state"].get("audit"):
                audit.tell(scope, status)
            reset_contextvars(**bound)


def _id_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The id that the request came with, if it is one; else a new one."""
    for name, given in headers:
        if name == REQUEST_ID:
            return given.decode() if SANE.fullmatch(given) else new_id()
    return new_id()


def new_id() -> str:
    """Of a request that came without one."""
    return f"{_ids.getrandbits(128):032x}"


def _readable(scope: Scope) -> bool:
    """Whether path and query say the same to everyone: decoding would replace what is not UTF-8, and answer for another id."""
    try:
        for part in (scope.get("raw_path") or b"", scope["query_string"]):
            part.decode("ascii")
            if b"%" in part:
                unquote_to_bytes(part).decode()
    except UnicodeDecodeError:
        return False
    return True
