"""Processes that serve on one socket: how one drains when it is told to stop, how several are kept alive. What they serve is `app`'s."""

import multiprocessing
import os
import signal
import threading
from multiprocessing.process import BaseProcess

import structlog
from uvicorn.config import STARTUP_FAILURE
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.supervisors.multiprocess import Multiprocess, Process

log = structlog.get_logger(__name__)

LAST_CHANCE_SECONDS = 0.5
"""How long a connection without a request under way is left open when the service stops: one may be on its way."""


class Draining(HttpToolsProtocol):
    """A connection that, when the service stops, still answers what is on its way, and says that it closes."""

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


class Workers(Multiprocess):
    """Keeps so many processes serving on a socket; on SIGTERM or SIGINT they drain."""

    def keep_subprocess_alive(self) -> None:
        """Replace whoever has died. The library would also kill a worker that takes more than seconds to start, for ever."""
        for position, worker in enumerate(self.processes):
            if worker.process.is_alive():
                continue
            if worker.exitcode == STARTUP_FAILURE:  # so would the next
                self.should_exit.set()
                return
            log.warning("worker replaced", pid=worker.pid, exit_code=worker.exitcode)
            self.processes[position] = Process(self.config, self.sockets)
            self.processes[position].start()

    def terminate_all(self) -> None:
        """Let go of the socket, so that nobody connects to it once the workers have; then tell them to stop."""
        for sock in self.sockets:
            sock.close()
        super().terminate_all()


def stop_with_parent() -> None:
    """Let this process stop, as if told to, when the one that started it has died; nothing for a process that nobody watches over."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_outlive, args=(parent,), name="parent", daemon=True).start()


def _outlive(parent: BaseProcess) -> None:
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
