"""What a supervised process is, which processes are ours, and how they are ended. Starts nothing; knows no server."""

import json
import os
import random
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import psutil

INSTANCE_VARIABLE = "PERSONA_INSTANCE"
GROUP_VARIABLE = "PERSONA_GROUP"
LOOPBACK = "127.0.0.1"

# Below the ports that systems hand to outgoing connections (Linux from 32768, macOS from 49152): a kept port stays free.
_KEEPABLE_PORTS = range(20_000, 32_000)
_GIVEN: set[int] = set()

State = Literal["starting", "running", "restarting", "stopped", "unsupervised", "external"]


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """One process to keep alive.

    `ready` is a `http://` URL that answers below 400, a `tcp://host:port` that accepts, or None: ready once it stays up. `env` is
    added to the supervisor's own environment. Nothing secret belongs in `argv`: every user of the machine can read it.
    """

    name: str
    argv: tuple[str, ...]
    cwd: Path
    log: Path
    env: Mapping[str, str] = field(default_factory=dict)
    ready: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {**asdict(self), "argv": list(self.argv), "cwd": str(self.cwd), "log": str(self.log), "env": dict(self.env)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(**{**fields, "argv": tuple(fields["argv"]), "cwd": Path(fields["cwd"]), "log": Path(fields["log"])})


@dataclass(frozen=True, slots=True)
class ChildState:
    """How one supervised process is. `create_time` tells it from a later process with the same pid; `exit_code` is its last."""

    state: State
    pid: int | None = None
    create_time: float | None = None
    restarts: int = 0
    exit_code: int | None = None


def markers(run_dir: Path) -> dict[str, str]:
    """The environment that every process of this run directory carries, and its descendants inherit.

    The instance follows from the absolute path, so that a copied home is another instance, and the processes of a home that was
    deleted while they ran are still found by the next one in its place.
    """
    home = run_dir.resolve().parent.parent
    return {INSTANCE_VARIABLE: str(uuid.uuid5(uuid.NAMESPACE_URL, home.as_uri())), GROUP_VARIABLE: run_dir.name}


def marked(run_dir: Path) -> list[psutil.Process]:
    """The living processes of this user that carry the run directory's markers, the calling process excepted."""
    wanted = markers(run_dir).items()
    found = []
    for process in psutil.process_iter():
        try:
            if (
                process.pid != os.getpid()
                and process.uids().real == os.getuid()
                and process.status() != psutil.STATUS_ZOMBIE
                and wanted <= process.environ().items()
            ):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def recorded(pid: int | None, create_time: float | None) -> psutil.Process | None:
    """The living process that was recorded so, or None when it is gone or another has its pid."""
    if pid is None:
        return None
    try:
        process = psutil.Process(pid)
        same = process.create_time() == create_time
    except psutil.Error:
        return None
    return process if same and _is_alive(process) else None


def end(processes: Iterable[psutil.Process], *, grace: float) -> None:
    """Ask the processes to leave, and kill those that have not after `grace` seconds."""
    alive = list(processes)
    for process in alive:
        _signal(process.terminate)
    alive = _await_end(alive, seconds=grace)
    for process in alive:
        _signal(process.kill)
    _await_end(alive, seconds=5)


def _await_end(processes: list[psutil.Process], *, seconds: float) -> list[psutil.Process]:
    """Those still alive after this time. A zombie has ended: in a container, nobody may ever reap it."""
    deadline = time.monotonic() + seconds
    while (processes := [process for process in processes if _is_alive(process)]) and time.monotonic() < deadline:
        time.sleep(0.02)
    return processes


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _signal(send: Callable[[], None]) -> None:
    with suppress(psutil.Error):
        send()


def free_port(preferred: int | None = None) -> int:
    """The preferred loopback port if it is free, else the next free one above it; a random one where none is preferred.

    No random one is given twice: its server may not have begun to listen yet.
    """
    candidates: Iterable[int] = (
        (port for port in random.sample(_KEEPABLE_PORTS, len(_KEEPABLE_PORTS)) if port not in _GIVEN)
        if preferred is None
        else range(preferred, 65_536)
    )
    for port in candidates:
        if port_is_free(port):
            _GIVEN.add(port)
            return port
    raise OSError(f"no free port from {preferred or _KEEPABLE_PORTS.start} on")


def port_is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def write_private(path: Path, text: str) -> None:
    """Replace the file atomically; only its owner can read it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def read_json(path: Path) -> Any:
    """The document, or None where there is no such file."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
