"""A real Neo4j that takes nothing but TLS, where `PERSONA_TEST_SERVERS` names a folder with its jars. The others: `test_credentials`."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from neo4j import Driver, GraphDatabase, TrustCustomCAs
from neo4j.exceptions import Neo4jError

from persona.errors import StoreRefused, StoreUnavailable
from persona.local.processes import write_private
from persona.settings import Settings
from persona.stores.opening import graph_of
from tests.platforms import unused_port
from tests.servers.secured import PASSWORD, Certificates, running

pytestmark = pytest.mark.slow
SERVERS = Path(os.environ.get("PERSONA_TEST_SERVERS", Path(__file__).parents[2] / ".servers"))
OPENED_TO_IT = ("java.nio", "java.io", "sun.nio.ch", "java.util.concurrent")


@dataclass(frozen=True)
class Access:
    """The server, and how it is addressed."""

    port: int
    ca: Path | None
    scheme: str = "neo4j+s"
    host: str = "localhost"
    user: str = "neo4j"
    password: str = PASSWORD

    @property
    def settings(self) -> Settings:
        return Settings(
            _env_file=None, neo4j_uri=f"{self.scheme}://{self.host}:{self.port}", neo4j_user=self.user, neo4j_password=self.password,
            ca_file=self.ca, store_timeout_seconds=10, mongodb_uri="none", milvus_uri="none", redis_url="none",
        )  # fmt: skip

    def driver(self) -> Driver:
        trust = TrustCustomCAs(str(self.ca))
        who = (self.user, self.password)
        return GraphDatabase.driver(f"bolt://localhost:{self.port}", auth=who, encrypted=True, trusted_certificates=trust)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Access]:
    jars = next(iter(sorted(SERVERS.glob("neo4j-5.*"))), None)
    java = shutil.which("java")
    if jars is None or java is None:
        pytest.skip(f"no Neo4j in {SERVERS}, or no Java")
    certificates = Certificates.made(tmp_path_factory.mktemp("certificates"))
    port = unused_port()
    access = Access(port, certificates.ca)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        pem = certificates.server.read_text()
        key, found, chain = pem.partition("-----BEGIN CERTIFICATE")
        write_private(home / "tls.key", key)
        (home / "tls.crt").write_text(found + chain)
        settings = {
            "server.default_listen_address": "127.0.0.1",
            "server.bolt.listen_address": f"127.0.0.1:{port}",
            "server.bolt.advertised_address": f"localhost:{port}",
            "server.bolt.tls_level": "REQUIRED",
            "dbms.ssl.policy.bolt.enabled": "true",
            "dbms.ssl.policy.bolt.base_directory": home,
            "dbms.ssl.policy.bolt.private_key": "tls.key",
            "dbms.ssl.policy.bolt.public_certificate": "tls.crt",
            "dbms.ssl.policy.bolt.client_auth": "NONE",
            "server.http.enabled": "false",
            "server.https.enabled": "false",
            "dbms.usage_report.enabled": "false",
            "server.memory.pagecache.size": "64m",
            "db.tx_log.preallocate": "false",
        }
        (home / "neo4j.conf").write_text("".join(f"{key}={setting}\n" for key, setting in settings.items()))
        classes = f"{jars}/*"
        environment = {**os.environ, "NEO4J_HOME": folder, "NEO4J_CONF": folder}
        first = [java, "-cp", classes, "org.neo4j.cli.AdminTool", "dbms", "set-initial-password", PASSWORD]
        subprocess.run(first, env=environment, check=True, stdout=subprocess.DEVNULL)
        argv = [
            java, "-Xmx512m", "-XX:+UseSerialGC", *(f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in OPENED_TO_IT),
            "-cp", classes, "org.neo4j.server.CommunityEntryPoint", f"--home-dir={folder}", f"--config-dir={folder}",
        ]  # fmt: skip

        def ready() -> bool:
            with access.driver() as driver:
                driver.verify_connectivity()
            return True

        with running(argv, ready):
            yield access


@pytest.mark.parametrize("scheme", ["neo4j+s", "bolt+s"])
def test_it_is_verified_and_written_to(server: Access, scheme: str) -> None:
    with graph_of(replace(server, scheme=scheme).settings) as graph:
        graph.clear()
        graph.upsert_users(["u_1"])
        assert graph.count("User") == 1


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"ca": None}, "from no CA that is trusted here"),
        ({"host": "127.0.0.1"}, "for another name"),
        ({"scheme": "bolt"}, "ended the connection"),
        ({"scheme": "neo4j"}, "ended the connection"),
    ],
)
def test_what_is_wrong_is_told(server: Access, wrong: dict[str, object], told: str) -> None:
    with pytest.raises(StoreUnavailable, match=told), graph_of(replace(server, **wrong).settings):
        pass


def test_a_wrong_password_is_told(server: Access) -> None:
    with pytest.raises(StoreRefused, match="refused the credentials"), graph_of(replace(server, password="another").settings):
        pass


def test_community_has_users_and_no_roles(server: Access) -> None:
    """Whoever is let in may do everything, so a user of one's own is worth no more than the password of its own."""
    with server.driver() as admin:
        admin.execute_query(
            "CREATE USER persona SET PASSWORD $password CHANGE NOT REQUIRED", password=PASSWORD, database_="system"
        )
        with pytest.raises(Neo4jError, match=r"(?i)unsupported"):
            admin.execute_query("CREATE ROLE writer", database_="system")
    persona = replace(server, user="persona")
    with graph_of(persona.settings) as graph:
        graph.ping()
    with persona.driver() as driver:
        records, _, _ = driver.execute_query("SHOW USERS", database_="system")
        assert {record["user"] for record in records} == {"neo4j", "persona"}
