"""Processes that serve on one socket, and how they are kept alive. What they serve is `app`'s; how one drains, `protocol`'s."""

import multiprocessing
import os
import signal
import threading
from multiprocessing.process import BaseProcess

import structlog
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors.multiprocess import Multiprocess, Process

from serving.cores import NUMBER

log = structlog.get_logger(__name__)


class Workers(Multiprocess):
    """Keeps so many processes serving on a socket; on SIGTERM or SIGINT they drain."""

    def init_processes(self) -> None:
        """Start them, each knowing which of them it is."""
        self.processes = [self._started(position) for position in range(self.processes_num)]

    def keep_subprocess_alive(self) -> None:
        """Replace whoever has died. The library would also kill a worker that takes more than seconds to start, for ever."""
        for position, worker in enumerate(self.processes):
            if worker.process.is_alive():
                continue
            if worker.exitcode == STARTUP_FAILURE:  # so would the next
                self.should_exit.set()
                return
            log.warning("worker replaced", pid=worker.pid, exit_code=worker.exitcode)
            self.processes[position] = self._started(position)

    def terminate_all(self) -> None:
        """Let go of the socket, so that nobody connects to it once the workers have; then tell them to stop."""
        for sock in self.sockets:
            sock.close()
        super().terminate_all()

    def _started(self, position: int) -> Process:
        process = Process(self.config, self.sockets)
        os.environ[NUMBER] = str(position)  # what is in the environment now is in the new process's
        try:
            process.start()
        finally:
            del os.environ[NUMBER]
        return process


def stop_with_parent() -> None:
    """Let this process stop, as if told to, when the one that started it has died; nothing for a process that nobody watches over."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_outlive, args=(parent,), name="parent", daemon=True).start()


def _outlive(parent: BaseProcess) -> None:
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
