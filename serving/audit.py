"""Who did what under the scope admin: a line in the log and one in a file that stays. What was answered is nobody's business here."""

import hashlib
import os
from datetime import UTC, datetime
from pathlib import Path

import orjson
import structlog
from starlette.requests import Request
from starlette.types import Scope

from serving.auth import Caller

log = structlog.get_logger(__name__)

BY_QUERY = "-"


class Audit:
    """The audit log, `logs/audit.jsonl` under the home. People stand in it by the SHA-256 of their id."""

    def __init__(self, home: Path) -> None:
        self._file = home / "logs" / "audit.jsonl"

    def tell(self, scope: Scope, status: int | None) -> None:
        """Write down the call that has ended with this status; None where it was cut off before one was sent."""
        caller: Caller = scope["state"]["caller"]
        user, campaign = _asked(scope, "user_id"), _asked(scope, "campaign_id")
        line = {
            "key": caller.name,
            "method": scope["method"],
            "route": scope["route"].path,
            "user": hashlib.sha256(user.encode()).hexdigest() if user else None,
            "campaign_id": campaign,
            "status": status,
        }
        log.info("admin call", audit=True, **line)
        whole = {"at": datetime.now(UTC), "request_id": scope["state"]["request_id"], **line}
        try:
            self._append(orjson.dumps(whole, option=orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE))
        except OSError as error:  # the line stands in the log; the answer has left
            log.error("audit file not written", reason=type(error).__name__)

    def _append(self, line: bytes) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        # one write of a line: workers append to the same file
        descriptor = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)


def _asked(scope: Scope, name: str) -> str | None:
    """The id of this name, from the path, or from the query where it does not fit a path."""
    request = Request(scope)
    in_path = request.path_params.get(name)
    found = request.query_params.get(name) if in_path == BY_QUERY else in_path
    return found.strip() if found else None
