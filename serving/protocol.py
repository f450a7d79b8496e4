"""A connection: how it drains when the service stops, and what is told to whoever sends no HTTP that can be read. Requests go by."""

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from serving.middleware import REQUEST_ID, new_id
from serving.problems import problem

LAST_CHANCE_SECONDS = 0.5
"""How long a connection without a request under way is left open when the service stops: one may be on its way."""
UNREADABLE = "This is not HTTP, or its address is longer than 64 KiB."


class Http(HttpToolsProtocol):
    """Over it every refusal is a problem document; when the service stops, what is on its way is still answered."""

    _stopping = False

    def shutdown(self) -> None:
        """Close after the answer under way; where there is none, after one more, or soon."""
        self._stopping = True
        if self._is_idle():
            self.loop.call_later(LAST_CHANCE_SECONDS, self._close_if_idle)
        else:
            super().shutdown()

    def on_headers_complete(self) -> None:
        """A request has arrived: the last one, if the service stops."""
        super().on_headers_complete()
        if self._stopping and self.cycle is not None:
            self.cycle.keep_alive = False

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _close_if_idle(self) -> None:
        if self._is_idle():
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Refuse what has no path and no headers yet, and hang up."""
        request_id = new_id()
        refusal = problem({"path": "", "state": {"request_id": request_id}}, 400, kind="malformed", detail=UNREADABLE)
        headers = [*refusal.raw_headers, (REQUEST_ID, request_id.encode()), (b"connection", b"close")]
        lines = [b"%b: %b\r\n" % header for header in headers]
        self.transport.write(b"".join([STATUS_LINE[400], *lines, b"\r\n", bytes(refusal.body)]))
        self.transport.close()
