"""The servers of production for the time of some tests: started under a supervisor like the local ones, ended for good."""

import secrets
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from pydantic import SecretStr

from persona.local.group import Group, tail
from persona.local.processes import ChildState, ProcessSpec, free_port
from persona.local.servers import NotReady, Server
from persona.settings import Settings, StoreName
from tests.servers.production import PRODUCTION, NotInstalled

READY_SECONDS = 120
"""Neo4j takes 20 on a quiet machine for a new store."""
ATTEMPTS = 2
"""Another process may have begun to listen on a port that was chosen."""


@dataclass(frozen=True)
class Running:
    """Servers that answer; `missing` says of the others what would bring them."""

    home: Path
    addresses: dict[str, str]
    missing: dict[StoreName, str] = field(default_factory=dict)

    @property
    def group(self) -> Group:
        return Group(self.home / "run" / "stores")

    def children(self) -> dict[str, ChildState]:
        """How each server's process is, by the store's name."""
        return self.group.children()

    def environment(self) -> dict[str, str]:
        """The variables that put these servers in the place of the local ones."""
        variables = {
            "MONGODB_URI": "mongodb", "MILVUS_URI": "milvus", "MILVUS_TOKEN": "milvus_token", "NEO4J_URI": "neo4j",
            "NEO4J_USER": "neo4j_user", "NEO4J_PASSWORD": "neo4j_password", "REDIS_URL": "redis", "WAREHOUSE_URL": "warehouse",
        }  # fmt: skip
        return {variable: self.addresses[name] for variable, name in variables.items() if name in self.addresses}

    def settings(self, home: Path) -> Settings:
        """Of another home, on these servers; its warehouse is a file, as the tests that want PostgreSQL say so."""
        found = self.addresses
        return Settings(
            _env_file=None,
            home=home,
            mongodb_uri=SecretStr(found["mongodb"]) if "mongodb" in found else None,
            milvus_uri=found.get("milvus"),
            milvus_token=SecretStr(found.get("milvus_token", "")),
            neo4j_uri=found.get("neo4j"),
            neo4j_user=found.get("neo4j_user", "neo4j"),
            neo4j_password=SecretStr(found.get("neo4j_password", "")),
            redis_url=SecretStr(found["redis"]) if "redis" in found else None,
        )


@contextmanager
def production_servers(home: Path, kinds: Sequence[type[Server]] = PRODUCTION) -> Iterator[Running]:
    """Those of the servers that are installed here, each with a port and a password of its own."""
    for attempt in range(ATTEMPTS):
        servers, specs, running = _chosen(home / str(attempt), kinds)
        try:
            running.group.launch(specs)
            for server in servers:
                _await(server)
            break
        except BaseException as error:
            running.group.stop()
            if not isinstance(error, TimeoutError) or attempt + 1 == ATTEMPTS:
                raise
    try:
        yield running
    finally:
        running.group.stop()


def _chosen(home: Path, kinds: Sequence[type[Server]]) -> tuple[list[Server], list[ProcessSpec], Running]:
    servers, specs, missing = list[Server](), list[ProcessSpec](), dict[StoreName, str]()
    for kind in kinds:
        server = kind(home / "stores" / kind.name, home / "logs" / f"{kind.name}.log", free_port(), secrets.token_hex(12))
        server.data.mkdir(parents=True)
        try:
            specs.append(server.spec())
            servers.append(server)
        except NotInstalled as error:
            missing[kind.name] = str(error)
    running = Running(home, {key: text for server in servers for key, text in server.addresses().items()}, missing)
    running.group.run_dir.mkdir(parents=True)
    return servers, specs, running


def _await(server: Server) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            return server.make_ready()
        except NotReady as error:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{server.name} did not start: {error}\n{tail(server.log)}") from error
            time.sleep(0.2)


def postgresql_database(server: str) -> str:
    """The address of a new database on the server."""
    name = f"t{uuid.uuid4().hex[:12]}"
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} ENCODING 'UTF8' TEMPLATE template0")  # type: ignore[arg-type]
    return f"{server}/{name}"
