"""What surrounds every request: its id, its line in the log, its headers, an answer when nothing gave one. No route's logic."""

import re
import time
import uuid
from urllib.parse import unquote_to_bytes

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.headers import protecting
from serving.problems import problem

log = structlog.get_logger(__name__)

REQUEST_ID = "X-Request-ID"
SANE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")


class Requests:
    """Gives each request an id, tells its end in one line that names the route and never the person, and lets nothing escape."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, with all that."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        given = Headers(scope=scope).get(REQUEST_ID, "")
        request_id = given if SANE.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        started = time.perf_counter()
        status: int | None = None

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID] = request_id
                headers.setdefault("Cache-Control", "no-store")
                headers.raw.extend(protecting(scope))
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
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
                log.info(
                    "request",
                    method=scope["method"],
                    route=getattr(scope.get("route"), "path", None),
                    status=status,
                    duration_ms=round((time.perf_counter() - started) * 1000, 2),
                )
                if audit := scope["state"].get("audit"):
                    audit.tell(scope, status)


def _readable(scope: Scope) -> bool:
    """Whether path and query say the same to everyone: decoding would replace what is not UTF-8, and answer for another id."""
    try:
        for part in (scope.get("raw_path") or b"", scope["query_string"]):
            part.decode("ascii")
            unquote_to_bytes(part).decode()
    except UnicodeDecodeError:
        return False
    return True
