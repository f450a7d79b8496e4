"""The local stack's verbs: start, stop, look at and wipe the stores, and the same for the platform's own services.

The stores run under `$PERSONA_HOME/run/stores`, the services under `$PERSONA_HOME/run/services`; only stores for which no URL is
set are started. How a server is started is in `servers`, how it is kept alive in `supervisor`.
"""

import json
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import structlog

from persona.errors import PersonaError
from persona.local.group import Group, tail
from persona.local.processes import (
    ProcessSpec,
    State,
    end,
    free_port,
    markers,
    port_is_free,
    read_json,
    write_private,
)
from persona.local.servers import SERVERS, NotReady, Server
from persona.local.supervisor import GRACE_SECONDS
from persona.settings import Settings, StoreName

log = structlog.get_logger(__name__)

Progress = Callable[[str], None]

_READY_SECONDS = 120
SPARE, READY, OUTDATED = "spare", "ready", "outdated"
"""Suffixes of a server's data beside the data in use: being filled, waiting to take its place, replaced."""
# A second death in a row is no accident: say so instead of waiting the whole deadline.
_DEATHS_TO_GIVE_UP = 2


class _SupervisorLost(PersonaError):
    """The supervisor died while its processes were waited for."""


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """How a store or service is, for people and for `status --json`; holds no password."""

    state: State
    url: str | None = None
    pid: int | None = None
    restarts: int = 0
    exit_code: int | None = None


def start_stores(settings: Settings, *, progress: Progress | None = None) -> dict[StoreName, ProcessStatus]:
    """Start the local servers and return once all of them answer; harmless when they already do.

    `progress` is called with the name of each store as it becomes ready. Raises `PersonaError`, with the end of the server's log,
    when one cannot start; then none is left running.
    """
    if not settings.uses_local_servers:
        return stores_status(settings)
    group = _stores(settings)

    def start() -> None:
        servers = _servers(settings, supervised=group.is_supervised())
        try:
            specs = [server.spec() for server in servers]
        except OSError as error:
            group.stop()
            raise PersonaError(
                f"cannot write the configuration of the stores: {error}", hint="Look at the disk's space and permissions."
            ) from error
        _launch(group, specs)
        _await_ready(group, {server.name: server.make_ready for server in servers}, progress)
        addresses = json.dumps({key: text for server in servers for key, text in server.addresses().items()}, indent=1)
        write_private(settings.addresses_file, addresses)

    with group.exclusively():
        _start_over_if_lost(start)
    return stores_status(settings)


def stop_stores(settings: Settings) -> None:
    """Stop the local servers, survivors of a killed supervisor included; harmless when none runs."""
    _stop(_stores(settings))


def wipe_stores(settings: Settings) -> None:
    """Stop the local servers and remove their data, their passwords and their addresses."""
    group = _stores(settings)
    with group.exclusively():
        group.stop()
        for server in SERVERS:
            data = _data(settings, server)
            for folder in (data, *(_beside(data, suffix) for suffix in (SPARE, READY, OUTDATED))):
                shutil.rmtree(folder, ignore_errors=True)
        for path in (settings.addresses_file, _kept_file(settings)):
            path.unlink(missing_ok=True)


@contextmanager
def spare_server(settings: Settings, name: StoreName) -> Iterator[dict[str, str]]:
    """Another, empty server of this kind for the time of the block; yields its addresses, named as in `Settings.addresses`.

    When the block ends well, its data waits for `renew_stores` to take the place of the running server's.
    """
    running = next(server for server in _servers(settings, supervised=True) if server.name == name)
    data, ready = _beside(running.data, SPARE), _beside(running.data, READY)
    for leftover in (data, ready):
        shutil.rmtree(leftover, ignore_errors=True)
    data.mkdir(mode=0o700)
    spare = replace(running, data=data, port=free_port())
    spec = spare.spec()
    with open(spec.log, "ab") as log_file:
        process = subprocess.Popen(
            spec.argv, cwd=spec.cwd, env={**os.environ, **spec.env, **markers(_stores(settings).run_dir)},
            stdin=subprocess.DEVNULL, stdout=log_file, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        _await_spare(process, spare)
        yield spare.addresses()
    finally:
        end([psutil.Process(process.pid)], grace=GRACE_SECONDS)
        process.wait()
    data.rename(ready)


def renew_stores(settings: Settings, *, empty: Collection[StoreName]) -> None:
    """Stop the stores, give each the data of its spare server, or none if it is one of `empty`; forget their logs; start them."""
    group = _stores(settings)
    with group.exclusively():
        group.stop()
        for server in SERVERS:
            data = _data(settings, server)
            ready, outdated = _beside(data, READY), _beside(data, OUTDATED)
            if ready.exists() or server.name in empty:
                shutil.rmtree(outdated, ignore_errors=True)
                if data.exists():
                    data.rename(outdated)
            if ready.exists():
                ready.rename(data)
            shutil.rmtree(outdated, ignore_errors=True)
            if server.name in settings.uses_local_servers:
                for log_file in (settings.home / "logs").glob(f"{server.name}.log*"):
                    log_file.unlink()
    start_stores(settings)


def stores_status(settings: Settings) -> dict[StoreName, ProcessStatus]:
    """How each of the four servers is, without asking it: `external` where a URL is set."""
    children = _stores(settings).children()
    urls = _urls(settings)
    statuses: dict[StoreName, ProcessStatus] = {}
    for server in SERVERS:
        if server.name not in settings.uses_local_servers:
            statuses[server.name] = ProcessStatus("external")
        elif child := children.get(server.name):
            statuses[server.name] = ProcessStatus(
                child.state, urls.get(server.name), child.pid, child.restarts, child.exit_code
            )  # fmt: skip
        else:
            statuses[server.name] = ProcessStatus("stopped")
    return statuses


def start_services(
    settings: Settings, specs: Sequence[ProcessSpec], *, progress: Progress | None = None
) -> dict[str, ProcessStatus]:
    """Keep these processes alive; returns once all are ready. Those that run with the same specs are left alone.

    Raises `PersonaError`, with the end of its log, when one cannot start; then none is left running.
    """
    group = _services(settings)

    def start() -> None:
        _launch(group, specs)
        _await_ready(group, {spec.name: None for spec in specs}, progress)

    with group.exclusively():
        _start_over_if_lost(start)
    return services_status(settings)


def stop_services(settings: Settings) -> None:
    """Stop the services, survivors of a killed supervisor included; harmless when none runs."""
    _stop(_services(settings))


def services_status(settings: Settings) -> dict[str, ProcessStatus]:
    """How each service that was ever started is; `url` is what its readiness is asked of."""
    group = _services(settings)
    urls = {spec.name: spec.ready for spec in group.specs()}
    return {
        name: ProcessStatus(child.state, urls.get(name), child.pid, child.restarts, child.exit_code)
        for name, child in group.children().items()
    }


def running_services(settings: Settings) -> list[ProcessSpec]:
    """What `start_services` needs to start again the services that run now; empty if none does."""
    group = _services(settings)
    return group.specs() if group.is_supervised() else []


def service_port(settings: Settings, name: str, preferred: int) -> int:
    """The port for a service: the one it has, while it runs and prefers the same; else the preferred one or the next free.

    So that starting twice yields the same specs, though the first start took the preferred port.
    """
    path = settings.home / "run" / "ports.json"
    kept = read_json(path) or {}
    mine = kept.get(name, {})
    child = _services(settings).children().get(name)
    if mine.get("preferred") == preferred and child is not None and child.state != "stopped":
        return int(mine["port"])
    port = free_port(preferred)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_private(path, json.dumps({**kept, name: {"preferred": preferred, "port": port}}))
    return port


def _stores(settings: Settings) -> Group:
    return Group(settings.home / "run" / "stores")


def _services(settings: Settings) -> Group:
    return Group(settings.home / "run" / "services")


def _data(settings: Settings, server: type[Server]) -> Path:
    return settings.home / "stores" / server.name


def _beside(data: Path, suffix: str) -> Path:
    return data.with_name(f"{data.name}.{suffix}")


def _await_spare(process: subprocess.Popen[bytes], spare: Server) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while True:
        try:
            return spare.make_ready()
        except NotReady as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise PersonaError(
                    f"a second {spare.name} could not start: {error}. The end of its log:\n{tail(spare.log)}",
                    hint="Look at the disk's space: for a while there are two copies.",
                ) from error
            time.sleep(0.05)


def _kept_file(settings: Settings) -> Path:
    """The ports and passwords that the stores' data was made with."""
    return settings.home / "stores" / "kept.json"


def _urls(settings: Settings) -> Mapping[StoreName, str]:
    try:
        return settings.model_copy().addresses.masked()  # a copy, for it remembers the addresses it has read once
    except PersonaError:
        return {}


def _servers(settings: Settings, *, supervised: bool) -> list[Server]:
    """The servers to run, on the ports and with the passwords of the first start."""
    path = _kept_file(settings)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    kept: dict[str, dict[str, str | int]] = read_json(path) or {}
    if not supervised:
        _stores(settings).stop()  # before looking at the ports: what a killed supervisor left behind still holds them
    servers = []
    for server in SERVERS:
        if server.name not in settings.uses_local_servers:
            continue
        mine = kept.setdefault(server.name, {"port": free_port(), "password": secrets.token_urlsafe(24)})
        if not supervised and not port_is_free(int(mine["port"])):
            taken, mine["port"] = mine["port"], free_port()
            log.warning("port taken by another program, moving", store=server.name, port=taken, new_port=mine["port"])
        data = _data(settings, server)
        if not data.exists() and (ready := _beside(data, READY)).exists():  # cut off between the two renames of `renew_stores`
            ready.rename(data)
        try:
            data.mkdir(exist_ok=True, mode=0o700)
        except OSError as error:
            raise PersonaError(f"{server.name} cannot start: no data directory {data}: {error}") from error
        servers.append(server(data, settings.home / "logs" / f"{server.name}.log", int(mine["port"]), str(mine["password"])))
    write_private(path, json.dumps(kept, indent=1))
    return servers


def _start_over_if_lost(start: Callable[[], None]) -> None:
    """A supervisor killed a moment ago may still look alive when the start begins; then begin again, once."""
    try:
        start()
    except _SupervisorLost:
        start()


def _launch(group: Group, specs: Sequence[ProcessSpec]) -> None:
    if group.is_supervised() and group.specs() == list(specs):
        return
    group.stop()
    group.launch(specs)


def _stop(group: Group) -> None:
    if not group.run_dir.is_dir():
        return
    with group.exclusively():
        group.stop()


def _await_ready(
    group: Group, attempts: Mapping[StoreName, Callable[[], None]] | Mapping[str, None], progress: Progress | None
) -> None:
    """Wait for all at once; when one fails, stop them all and raise."""
    deaths = {name: child.restarts for name, child in group.children().items()}
    deadline = time.monotonic() + _READY_SECONDS
    with ThreadPoolExecutor(max_workers=max(len(attempts), 1), thread_name_prefix="await-ready") as pool:
        waiting = {
            pool.submit(_await_one, group, name, attempt, deaths.get(name, 0), deadline): name
            for name, attempt in attempts.items()
        }
        try:
            for ready in as_completed(waiting):
                ready.result()
                if progress:
                    progress(waiting[ready])
        except BaseException:
            group.stop()
            raise


def _await_one(group: Group, name: str, attempt: Callable[[], None] | None, deaths_before: int, deadline: float) -> None:
    reason = "it does not answer"
    while True:
        child = group.children().get(name)
        if child is None or child.state in ("stopped", "unsupervised"):
            raise _SupervisorLost(f"the supervisor of the {group.run_dir.name} ended before {name} was ready")
        if child.restarts - deaths_before >= _DEATHS_TO_GIVE_UP:
            raise _failure(group, name, f"it ended with exit code {child.exit_code}, again and again")
        if child.state == "running":
            try:
                if attempt:
                    attempt()
                return
            except NotReady as error:
                reason = str(error)
        if time.monotonic() >= deadline:
            raise _failure(group, name, reason)
        time.sleep(0.03)


def _failure(group: Group, name: str, reason: str) -> PersonaError:
    path = next(spec.log for spec in group.specs() if spec.name == name)
    written = tail(path)
    full = any(sign in written for sign in ("No space left", "disk full"))
    taken = any(sign in written for sign in ("already in use", "Address in use"))
    hint = (
        "The disk is full: make room and start again." if full
        else "Another program took its port meanwhile: start again." if taken
        else f"The whole log: {path}"
    )  # fmt: skip
    return PersonaError(f"{name} could not start: {reason}. The end of its log:\n{written}", hint=hint)
