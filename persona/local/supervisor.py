"""The resident supervisor: `python -m persona.local.supervisor RUN_DIR` keeps the processes of RUN_DIR/specs.json alive.

Generic: it knows no server and no service. Who starts and stops it is in `group`.
"""

import argparse
import fcntl
import json
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

import psutil

from persona.local.processes import (
    ChildState,
    ProcessSpec,
    State,
    end,
    marked,
    markers,
    read_json,
    write_private,
)

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # our own loopback is not asked for through a proxy
GRACE_SECONDS = 20.0
_FIRST_DELAY = 0.25
_LONGEST_DELAY = 30.0
_STEADY_SECONDS = 30.0
# A process without a probe counts as ready once it has not died at once.
_UNPROBED_SECONDS = 1.0
_LARGEST_LOG = 8 << 20


class _Child:
    """One process through its starts: what is known of it, and when it is due again."""

    def __init__(self, spec: ProcessSpec, run_dir: Path) -> None:
        self.spec = spec
        self._run_dir = run_dir
        self._environment = {**os.environ, **spec.env, **markers(run_dir)}
        self.process: subprocess.Popen[bytes] | None = None
        self._create_time: float | None = None
        self._state: State = "starting"
        self._restarts = -1
        self._exit_code: int | None = None
        self._delay = _FIRST_DELAY
        self._started = 0.0
        self._due = 0.0

    @property
    def settled(self) -> bool:
        """Whether it runs and has answered, so that it need not be looked at often."""
        return self._state == "running"

    def recorded(self) -> ChildState:
        pid = self.process.pid if self.process else None
        return ChildState(self._state, pid, self._create_time, max(self._restarts, 0), self._exit_code)

    def tend(self) -> None:
        """Notice a death, start it when due, notice that it has become ready."""
        now = time.monotonic()
        if self.process is not None and self.process.poll() is not None:
            self._exit_code = self.process.returncode
            self._end_rest_of_session(self.process.pid)
            self._put_off(now)
        if self.process is None and now >= self._due:
            self._start(now)
        elif self._state == "starting" and self._is_ready(now):
            self._state = "running"

    def stopped(self) -> None:
        self.process, self._create_time, self._state = None, None, "stopped"

    def _start(self, now: float) -> None:
        first = self._restarts < 0
        self._restarts += 1
        self._started = now
        try:
            _cap_log(self.spec.log, 0 if first else _LARGEST_LOG)
            with _append(self.spec.log) as log:
                self.process = self._popen(log)
        except OSError:  # no such program, or no room for its log: to be tried again like a death
            self._put_off(now)
            return
        self._state = "starting"
        with suppress(psutil.Error):
            self._create_time = psutil.Process(self.process.pid).create_time()

    def _popen(self, log: IO[bytes]) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                self.spec.argv, cwd=self.spec.cwd, env=self._environment, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        except OSError as error:
            log.write(f"cannot start {self.spec.argv[0]}: {error}\n".encode())
            raise

    def _is_ready(self, now: float) -> bool:
        return now - self._started >= _UNPROBED_SECONDS if self.spec.ready is None else _answers(self.spec.ready)

    def _put_off(self, now: float) -> None:
        if now - self._started >= _STEADY_SECONDS:
            self._delay = _FIRST_DELAY
        self.process, self._create_time, self._state, self._due = None, None, "restarting", now + self._delay
        self._delay = min(2 * self._delay, _LONGEST_DELAY)

    def _end_rest_of_session(self, session: int) -> None:
        """What a dead process left behind may still hold its port or its files."""
        left = []
        for process in marked(self._run_dir):
            with suppress(OSError):
                if os.getsid(process.pid) == session:
                    left.append(process)
        end(left, grace=2)


class Supervisor:
    """Keeps the processes of one run directory alive until it is told to stop, or the directory is gone."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._stop = threading.Event()
        self._written = ""
        specs = [ProcessSpec.from_json(fields) for fields in read_json(run_dir / "specs.json")]
        self._children = {spec.name: _Child(spec, run_dir) for spec in specs}

    def run(self) -> None:
        """Supervise; returns once every process has left."""
        signal.signal(signal.SIGTERM, lambda *_: self._stop.set())
        signal.signal(signal.SIGINT, lambda *_: self._stop.set())
        try:
            while not self._stop.is_set() and self._run_dir.is_dir():
                for child in self._children.values():
                    child.tend()
                self._write_state()
                self._stop.wait(0.2 if all(child.settled for child in self._children.values()) else 0.03)
        finally:
            self._end_all()

    def _end_all(self) -> None:
        children: list[psutil.Process] = []
        for child in self._children.values():
            if child.process is not None and child.process.poll() is None:
                with suppress(psutil.Error):
                    children.append(psutil.Process(child.process.pid))
        end(children, grace=GRACE_SECONDS)
        end(marked(self._run_dir), grace=5)
        for child in self._children.values():
            child.stopped()
        self._write_state()

    def _write_state(self) -> None:
        state = {
            "pid": os.getpid(),
            "create_time": psutil.Process().create_time(),
            "instance": markers(self._run_dir),
            "children": {name: asdict(child.recorded()) for name, child in self._children.items()},
        }
        text = json.dumps(state, indent=1)
        if text != self._written:
            with suppress(OSError):  # a full disk is no reason to stop what runs: it is written as soon as there is room
                write_private(self._run_dir / "state.json", text)
                self._written = text


def _answers(ready: str) -> bool:
    try:
        if ready.startswith("tcp://"):
            address = urlsplit(ready)
            socket.create_connection((address.hostname, address.port), timeout=1).close()
        else:
            DIRECT.open(ready, timeout=1).close()
    except (OSError, ValueError):
        return False
    return True


def _append(log: Path) -> IO[bytes]:
    return os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab", buffering=0)


def _cap_log(log: Path, largest: int) -> None:
    """Set a log larger than this aside, in place of the one set aside before."""
    if log.exists() and log.stat().st_size > largest:
        os.replace(log, log.with_name(f"{log.name}.1"))


def take_lock(path: Path, *, patience: float) -> int | None:
    """An exclusive lock on this file, held until the descriptor is closed or the process ends; None if it stays taken."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    give_up = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except OSError:
            if time.monotonic() >= give_up:
                os.close(descriptor)
                return None
            time.sleep(0.02)


def is_locked(path: Path) -> bool:
    """Whether somebody holds the lock on this file."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two who look at once do not mistake each other for it
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def main() -> None:
    """Keep the processes of a run folder alive."""
    parser = argparse.ArgumentParser(description="Keep the processes of RUN_DIR/specs.json alive.")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--detach", action="store_true", help="return at once and go on in the background")
    arguments = parser.parse_args()
    # The fork gives the supervisor to init, so that whoever started it is left with no zombie.
    if arguments.detach and os.fork():
        os._exit(0)
    # Whoever asks `is_locked` holds the lock for a moment: hence some patience.
    if take_lock(arguments.run_dir / "supervisor.lock", patience=2) is None:
        raise SystemExit(f"{arguments.run_dir} has a supervisor already")
    Supervisor(arguments.run_dir).run()


if __name__ == "__main__":
    main()
