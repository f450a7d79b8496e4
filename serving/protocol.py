"""What is told to whoever sends no HTTP that can be read: a problem document, like any other refusal. Readable requests go by."""

import uuid

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from serving.middleware import REQUEST_ID
from serving.problems import problem

UNREADABLE = "This is not HTTP, or its address is longer than 64 KiB."


class Http(HttpToolsProtocol):
    """A connection over which every refusal is a problem document."""

    def send_400_response(self, msg: str) -> None:
        """Refuse what has no path and no headers yet, and hang up."""
        request_id = uuid.uuid4().hex
        refusal = problem({"path": "", "state": {"request_id": request_id}}, 400, kind="malformed", detail=UNREADABLE)
        headers = [*refusal.raw_headers, (REQUEST_ID.lower().encode(), request_id.encode()), (b"connection", b"close")]
        lines = [b"%b: %b\r\n" % header for header in headers]
        self.transport.write(b"".join([STATUS_LINE[400], *lines, b"\r\n", bytes(refusal.body)]))
        self.transport.close()
