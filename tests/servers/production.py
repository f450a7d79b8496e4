"""How each server of production is started for tests, and what it takes to have it. Nothing here starts one or keeps it alive."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import ClassVar

import psycopg

from persona.local import servers
from persona.local.processes import LOOPBACK, ProcessSpec, free_port, write_private
from persona.local.servers import NotReady, Server

FOLDER = Path(os.environ.get("PERSONA_TEST_SERVERS", Path(__file__).parents[2] / ".servers"))
"""What `make test-servers` fetches and unpacks: Neo4j's jars, Milvus' programs."""
NEO4J_VERSION, NEO4J_MAIN = "5.26.30", "org.neo4j.server.CommunityEntryPoint"
MILVUS_VERSION = "2.3.5"


class NotInstalled(Exception):
    """The server is not on this machine; the message says what brings it."""


class ReplicaSet(servers.Mongod):
    """MongoDB with authentication, as a replica set of one."""


class MilvusStandalone(Server):
    """Milvus with its own etcd and message queue inside, and authentication.

    This version listens on every interface: it has no setting for another than its ports.
    """

    name = "milvus"
    _ROOT: ClassVar[str] = "root"
    _FIRST_PASSWORD: ClassVar[str] = "Milvus"

    def spec(self) -> ProcessSpec:
        programs = FOLDER / f"milvus-{MILVUS_VERSION}" / "bin"
        if not (programs / "milvus").exists():
            raise NotInstalled(f"Milvus: `python -m tests.servers fetch` unpacks it into {programs.parent}")
        import milvus

        config = milvus.MilvusServerConfig(data_dir=str(self.data), **self._free_ports())
        config.set("authorization_enabled", True)
        config.set("system_log_path", "")
        config.resolve()
        configuration = self.data / "configs" / "milvus.yaml"
        configuration.write_text(
            configuration.read_text().replace("\netcd:\n", f"\netcd:\n  config:\n    path: {self._etcd()}\n", 1)
        )
        environment = {
            "DEPLOY_MODE": "STANDALONE",
            "METRICS_PORT": str(free_port()),
            "MILVUS_RUN_DIR": str(self.data / "run"),
            "LD_LIBRARY_PATH": str(programs),
        }
        return self._spec(programs / "milvus", "run", "standalone", env=environment)

    def _free_ports(self) -> dict[str, int]:
        inner = (
            "root_coord",
            "proxy_internal",
            "query_coord",
            "query_node",
            "index_coord",
            "index_node",
            "data_coord",
            "data_node",
        )
        return {"proxy_port": self.port} | {f"{part}_port": free_port() for part in inner}

    def _etcd(self) -> Path:
        """The configuration of the etcd inside: with its own ports, two servers of ours can run at once."""
        clients, peers = (f"http://{LOOPBACK}:{free_port()}" for _ in range(2))
        settings = {
            "name": "default", "initial-cluster": f"default={peers}",
            "listen-client-urls": clients, "advertise-client-urls": clients,
            "listen-peer-urls": peers, "initial-advertise-peer-urls": peers,
        }  # fmt: skip
        path = self.data / "configs" / "etcd.yaml"
        path.write_text("".join(f"{key}: {setting}\n" for key, setting in settings.items()))
        return path

    def make_ready(self) -> None:
        from pymilvus import MilvusClient, MilvusException

        for password in (self.password, self._FIRST_PASSWORD):
            try:
                client = MilvusClient(self.addresses()["milvus"], token=f"{self._ROOT}:{password}", timeout=2, dedicated=True)
            except MilvusException as error:
                failure = error
                continue
            try:
                client.list_collections(timeout=2)
                if password != self.password:
                    client.update_password(self._ROOT, password, self.password, timeout=2)
                return
            except MilvusException as error:
                raise NotReady(str(error)) from error
            finally:
                client.close()
        raise NotReady(str(failure)) from failure

    def addresses(self) -> dict[str, str]:
        return {"milvus": f"http://{LOOPBACK}:{self.port}", "milvus_token": f"{self._ROOT}:{self.password}"}


class Neo4j(servers.ArcadeDB):
    """Neo4j Community, of the long-term support line."""

    _USER: ClassVar[str] = "neo4j"

    def spec(self) -> ProcessSpec:
        jars = FOLDER / f"neo4j-{NEO4J_VERSION}"
        java = shutil.which("java")
        if java is None or not (jars / f"neo4j-server-{NEO4J_VERSION}.jar").exists():
            raise NotInstalled(f"Neo4j: Java 17 or 21, and `python -m tests.servers fetch`, which needs Maven, into {jars}")
        configuration = self.data / "conf"
        configuration.mkdir(exist_ok=True)
        settings = {
            "server.default_listen_address": LOOPBACK,
            "server.bolt.listen_address": f"{LOOPBACK}:{self.port}",
            "server.bolt.advertised_address": f"{LOOPBACK}:{self.port}",
            "server.http.enabled": "false",
            "server.https.enabled": "false",
            "dbms.usage_report.enabled": "false",
            "server.memory.pagecache.size": "64m",
            "db.tx_log.rotation.retention_policy": "keep_none",
            "db.tx_log.preallocate": "false",  # half a gigabyte otherwise
        }
        write_private(configuration / "neo4j.conf", "".join(f"{key}={setting}\n" for key, setting in settings.items()))
        classes = f"{jars}/*"
        if not (self.data / "data" / "dbms").exists():
            subprocess.run(
                [java, "-XX:TieredStopAtLevel=1", "-cp", classes, "org.neo4j.cli.AdminTool",
                 "dbms", "set-initial-password", self.password],
                env={**os.environ, "NEO4J_HOME": str(self.data), "NEO4J_CONF": str(configuration)},
                check=True, stdout=subprocess.DEVNULL,
            )  # fmt: skip
        return self._spec(
            java, "-Xms256m", "-Xmx1g", "-XX:+UseSerialGC",
            *(f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in OPENED_TO_NEO4J),
            "-Dio.netty.tryReflectionSetAccessible=true", "-Dlog4j2.disable.jmx=true",
            "-cp", classes, NEO4J_MAIN, f"--home-dir={self.data}", f"--config-dir={configuration}",
        )  # fmt: skip


OPENED_TO_NEO4J = ("java.nio", "java.io", "sun.nio.ch", "java.util.concurrent")


class Redis(servers.Redis):
    """Redis 7, as Debian has it."""

    def spec(self) -> ProcessSpec:
        program = shutil.which("redis-server")
        if program is None:
            raise NotInstalled("Redis: `apt-get install redis-server`, of version 7 or later")
        argv = super().spec().argv
        return self._spec(program, *argv[1:])


class PostgreSQL(Server):
    """PostgreSQL, with a database for the warehouse and one for Dagster."""

    name = "warehouse"
    _USER: ClassVar[str] = "persona"

    def spec(self) -> ProcessSpec:
        programs = postgresql_programs()
        account = self._account()
        if not (self.data / "PG_VERSION").exists():
            self._let_in(account)
            secret = self.data.with_name("warehouse.password")
            write_private(secret, self.password)
            if account:
                shutil.chown(secret, account[-1])
            subprocess.run(
                [*account, programs / "initdb", "-D", self.data, "-U", self._USER, "-A", "scram-sha-256", "--pwfile", secret,
                 "-E", "UTF8", "--locale=C", "--no-sync"],
                check=True, stdout=subprocess.DEVNULL,
            )  # fmt: skip
        return self._spec(
            *account, programs / "postgres", "-D", self.data, "-p", str(self.port), "-c", f"listen_addresses={LOOPBACK}", "-k", "",
        )  # fmt: skip

    @staticmethod
    def _account() -> list[str]:
        """What to run it with: the server refuses to be root."""
        return [] if os.geteuid() else ["setpriv", "--clear-groups", "--regid", "postgres", "--reuid", "postgres"]

    def _let_in(self, account: list[str]) -> None:
        if account:
            shutil.chown(self.data, account[-1])
            for folder in self.data.parents:
                if folder.stat().st_uid == 0 and not folder.stat().st_mode & 0o001:
                    folder.chmod(folder.stat().st_mode | 0o011)

    def make_ready(self) -> None:
        try:
            with psycopg.connect(f"{self._server}/postgres", connect_timeout=2, autocommit=True) as connection:
                known = {name for (name,) in connection.execute("SELECT datname FROM pg_database")}
                for database in {"persona", "persona_dagster"} - known:
                    connection.execute(f"CREATE DATABASE {database} TEMPLATE template0")  # type: ignore[arg-type]
        except psycopg.Error as error:
            raise NotReady(str(error)) from error

    @property
    def _server(self) -> str:
        return f"postgresql://{self._USER}:{self.password}@{LOOPBACK}:{self.port}"

    def addresses(self) -> dict[str, str]:
        return {"postgresql": self._server, "warehouse": f"{self._server}/persona", "dagster": f"{self._server}/persona_dagster"}


def postgresql_programs() -> Path:
    """The folder with `initdb` and `postgres`."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    programs = installed[-1] if installed else Path(shutil.which("postgres") or "").parent
    if not (programs / "initdb").exists():
        raise NotInstalled("PostgreSQL: `apt-get install postgresql`")
    return programs


PRODUCTION: tuple[type[Server], ...] = (ReplicaSet, MilvusStandalone, Neo4j, Redis, PostgreSQL)
