"""One supervised group of processes from the outside: launch it, look at it, stop it, find what a killed one left behind."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

import persona
from persona.errors import Busy, PersonaError
from persona.local.processes import (
    ChildState,
    ProcessSpec,
    end,
    marked,
    markers,
    read_json,
    recorded,
    write_private,
)
from persona.local.supervisor import GRACE_SECONDS, is_locked, take_lock

_TAIL_LINES = 8


class Group:
    """The processes under one run directory, `$PERSONA_HOME/run/<group>`."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self._log = run_dir.parent.parent / "logs" / f"{run_dir.name}-supervisor.log"

    @contextmanager
    def exclusively(self) -> Iterator[None]:
        """One start or stop at a time, over all processes. Raises `Busy` when another takes longer than two minutes."""
        self.run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = take_lock(self.run_dir / "start.lock", patience=120)
        if lock is None:
            raise Busy(f"another process is starting or stopping the {self.run_dir.name} of {self.run_dir.parent.parent}")
        try:
            yield
        finally:
            os.close(lock)

    def is_supervised(self) -> bool:
        """Whether a supervisor is alive."""
        return is_locked(self.run_dir / "supervisor.lock")

    def specs(self) -> list[ProcessSpec]:
        """What was launched last; empty if nothing ever was."""
        return [ProcessSpec.from_json(fields) for fields in read_json(self.run_dir / "specs.json") or []]

    def children(self) -> dict[str, ChildState]:
        """How each process is. Where the supervisor is gone: `unsupervised` for those it left behind, else `stopped`."""
        document = self._state()
        children = {name: ChildState(**fields) for name, fields in document.get("children", {}).items()}
        if self.is_supervised():
            return children
        return {
            name: replace(child, state="unsupervised")
            if recorded(child.pid, child.create_time)
            else replace(child, state="stopped", pid=None, create_time=None)
            for name, child in children.items()
        }

    def launch(self, specs: Sequence[ProcessSpec]) -> None:
        """Start a supervisor over these processes; returns once it is up, not once they are ready.

        Raises `PersonaError` when it does not come up.
        """
        self._log.parent.mkdir(parents=True, exist_ok=True)
        for spec in specs:
            spec.cwd.mkdir(parents=True, exist_ok=True)
            spec.log.parent.mkdir(parents=True, exist_ok=True)
        write_private(self.run_dir / "specs.json", json.dumps([spec.to_json() for spec in specs], indent=1))
        (self.run_dir / "state.json").unlink(missing_ok=True)
        with self._log.open("w") as log:
            # Started in the package's own root, `-m` finds it from a checkout and from an installation alike.
            subprocess.run(
                [sys.executable, "-m", "persona.local.supervisor", "--detach", str(self.run_dir)],
                cwd=Path(persona.__file__).parents[1], env={**os.environ, **markers(self.run_dir)}, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, check=False, timeout=30,
            )  # fmt: skip
        give_up = time.monotonic() + 15
        while not self._state():
            if time.monotonic() >= give_up:
                self.stop()
                raise PersonaError(f"the supervisor of the {self.run_dir.name} did not come up\n{tail(self._log)}")
            time.sleep(0.01)

    def stop(self) -> None:
        """End the supervisor, its processes, and whatever a killed supervisor left behind. Harmless when nothing runs."""
        document = self._state()
        supervisor = recorded(document.get("pid"), document.get("create_time"))
        if supervisor is not None:
            end([supervisor], grace=GRACE_SECONDS + 10)
        left = [recorded(child["pid"], child["create_time"]) for child in document.get("children", {}).values()]
        end([process for process in left if process is not None], grace=GRACE_SECONDS)
        for _ in range(2):  # one that was being started while the others were ended shows in the next round
            end(marked(self.run_dir), grace=GRACE_SECONDS)
        if survivors := marked(self.run_dir):
            pids = ", ".join(str(process.pid) for process in survivors)
            raise PersonaError(f"cannot end these processes of the {self.run_dir.name}: {pids}", hint=f"kill -9 {pids}")
        self._mark_stopped()

    def processes(self) -> list[psutil.Process]:
        """Every living process of the group, the supervisor and all descendants included."""
        return marked(self.run_dir)

    def _mark_stopped(self) -> None:
        document = self._state()
        if document:
            stopped = {
                name: {**child, "state": "stopped", "pid": None, "create_time": None}
                for name, child in document["children"].items()
            }
            with suppress(FileNotFoundError):
                write_private(self.run_dir / "state.json", json.dumps({**document, "children": stopped}, indent=1))

    def _state(self) -> dict[str, Any]:
        """What the supervisor wrote; nothing if a supervisor of another home did, as in a copied home."""
        document = read_json(self.run_dir / "state.json") or {}
        return document if document.get("instance") == markers(self.run_dir) else {}


def tail(log: Path) -> str:
    """The log's last lines, indented for an error message."""
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    return "\n".join(f"  {line[:400]}" for line in lines[-_TAIL_LINES:]) or "  (its log is empty)"
