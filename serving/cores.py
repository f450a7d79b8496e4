"""Which cores this process runs on. Python runs one thread of a process at a time, and a core that it is handed to has to wake up first.

Kept on one core, threads that hand each other short pieces of work take a third less time for them. Other processes, the stores
among them, have all the cores.
"""

import os
import socket
import sys
import zlib

NUMBER = "PERSONA_WORKER"
"""Tells a process which of several it is."""


def stay_on_one() -> None:
    """Keep this thread, and those that it starts, on one core: each worker on another."""
    if sys.platform == "linux":
        # containers number their processes alike, and may have the same cores: their names tell them apart
        first = zlib.crc32(socket.gethostname().encode())
        core = _ALL[(first + int(os.environ.get(NUMBER, os.getpid()))) % len(_ALL)]
        os.sched_setaffinity(0, {core})


def run_on_any() -> None:
    """Let this thread, and those that it starts, run on all cores: what computes for seconds does so without Python."""
    if sys.platform == "linux":
        os.sched_setaffinity(0, _ALL)


_ALL = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []
