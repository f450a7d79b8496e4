"""Processes that serve on one socket, and how they are kept alive. What they serve is `app`'s; how one drains, `protocol`'s."""

import multiprocessing
import os
import signal
import threading
from multiprocessing.process import BaseProcess

import structlog
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors.multiprocess import Multiprocess, Process

log = structlog.get_logger(__name__)


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
