"""Servers on loopback that take nothing but TLS and known users, with certificates made for them. Each is gone when its block ends."""

import asyncio
import json
import os
import re
import shlex
import shutil
import ssl
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pymongo
import pytest
import redis
import trustme

from persona.local.processes import write_private
from persona.local.servers import Mongod
from tests.platforms import unused_port
from tests.worlds import eventually

DOCUMENT = Path(__file__).parents[2] / "docs" / "operations.md"
SECTION = "Credentials and transport"
PLACEHOLDER = "…"
"""Of a password, in the document."""
ADMIN = "admin"
PASSWORD = "s3cret/of@the:store?"
"""Everybody's. In an address it has to be escaped."""
PATIENCE = 180


@dataclass(frozen=True)
class Certificates:
    """PEM files: of CAs, and of who has a key with it. The server's is for `localhost`, and for no address."""

    ca: Path
    other_ca: Path
    """Which signed none of these."""
    server: Path
    expired: Path
    client: Path
    stranger: Path
    """Whom the other CA vouches for."""

    @classmethod
    def made(cls, folder: Path) -> "Certificates":
        """In this folder."""
        ca, other_ca, long_ago = trustme.CA(), trustme.CA(), datetime.now(UTC) - timedelta(days=9)
        issued = {
            "server": ca.issue_cert("localhost"),
            "expired": ca.issue_cert("localhost", not_before=long_ago, not_after=long_ago + timedelta(days=1)),
            "client": ca.issue_cert("persona@localhost"),
            "stranger": other_ca.issue_cert("persona@localhost"),
        }
        files = {name: folder / f"{name}.pem" for name in ("ca", "other_ca", *issued)}
        ca.cert_pem.write_to_path(files["ca"])
        other_ca.cert_pem.write_to_path(files["other_ca"])
        for name, certificate in issued.items():
            write_private(files[name], certificate.private_key_and_cert_chain_pem.bytes().decode())
        return cls(**files)


def documented(language: str) -> str:
    """What the operations' document says has to be granted, in the language of a server's administrators."""
    section = DOCUMENT.read_text().split(f"## {SECTION}\n")[1].split("\n## ")[0]
    [block] = re.findall(rf"^```{language}\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    return str(block).replace(PLACEHOLDER, PASSWORD)


def login(user: str = "persona", password: str = PASSWORD) -> str:
    """A user and their password as they stand in an address."""
    return f"{user}:{quote(password, safe='')}"


@contextmanager
def mongodb(certificates: Certificates, *, of_clients: bool = False) -> Iterator[int]:
    """A replica set of one that knows an administrator and nobody else; `of_clients`: it takes those who have a certificate."""
    port = unused_port()
    members = [{"_id": 0, "host": f"localhost:{port}"}]
    with tempfile.TemporaryDirectory() as folder:
        argv = [
            *Mongod(Path(folder), Path(folder) / "log", port, PASSWORD).spec().argv,
            "--tlsMode", "requireTLS", "--tlsCertificateKeyFile", certificates.server, "--tlsCAFile", certificates.ca,
            *([] if of_clients else ["--tlsAllowConnectionsWithoutCertificates"]),
        ]  # fmt: skip

        def ready() -> bool:
            options = {"tlsCAFile": str(certificates.ca), "tlsCertificateKeyFile": str(certificates.client)}
            with pymongo.MongoClient("localhost", port, directConnection=True, tls=True, **options) as anyone:
                with suppress(pymongo.errors.OperationFailure):  # it is one already
                    anyone.admin.command("replSetInitiate", {"_id": "persona", "members": members})
                roles = ["userAdminAnyDatabase", "readWriteAnyDatabase"]
                anyone.admin.command("createUser", ADMIN, pwd=PASSWORD, roles=roles)
            return True

        with running(argv, ready):
            yield port


def grant_in_mongodb(client: "pymongo.MongoClient[dict[str, Any]]") -> None:
    """Let `persona` do what is documented."""
    [(database, command)] = re.findall(r'db\.getSiblingDB\("(\w+)"\)\.runCommand\((.*)\)', documented("js"))
    client[database].command(json.loads(command))


@contextmanager
def redis_server(certificates: Certificates, *, of_clients: bool = False) -> Iterator[int]:
    """A Redis that knows an administrator and nobody else; `of_clients`: it takes those who have a certificate."""
    binary, port = _redis_with_tls(), unused_port()
    with tempfile.TemporaryDirectory() as folder:
        configuration, users = Path(folder) / "redis.conf", Path(folder) / "users.acl"
        write_private(users, f"user default off\nuser {ADMIN} on >{PASSWORD} ~* &* +@all\n")
        write_private(
            configuration,
            f"bind 127.0.0.1\nport 0\ntls-port {port}\ntls-cert-file {certificates.server}\ntls-key-file {certificates.server}\n"
            f"tls-ca-cert-file {certificates.ca}\ntls-auth-clients {'yes' if of_clients else 'no'}\n"
            f'aclfile {users}\nsave ""\nappendonly no\ndir {folder}\n',
        )

        def ready() -> object:
            own = {"ssl_certfile": str(certificates.client), "ssl_keyfile": str(certificates.client)}
            with redis.Redis(
                "localhost", port, username=ADMIN, password=PASSWORD, ssl=True, ssl_ca_certs=str(certificates.ca), **own
            ) as client:  # fmt: skip
                return client.ping()

        with running([binary, configuration], ready):
            yield port


def grant_in_redis(client: redis.Redis) -> None:
    """Let `persona` do what is documented."""
    client.execute_command(*shlex.split(documented("redis").replace("\\\n", " ")))


@contextmanager
def postgresql(certificates: Certificates) -> Iterator[int]:
    """A PostgreSQL that knows an administrator, and of `certified` wants a certificate besides the password."""
    programs = _postgresql_programs()
    user = "postgres" if os.geteuid() == 0 else None  # the server refuses to run as root
    port = unused_port()
    with tempfile.TemporaryDirectory() as folder:
        data, password, server = (Path(folder) / name for name in ("data", "password", "server.pem"))
        write_private(password, PASSWORD)
        shutil.copy(certificates.server, server)
        shutil.copy(certificates.ca, Path(folder) / "ca.pem")
        if user:
            for path in (Path(folder), *Path(folder).iterdir()):
                shutil.chown(path, user)
        made = [programs / "initdb", "-D", data, "-U", ADMIN, "-A", "scram-sha-256", "--pwfile", password, "-E", "UTF8"]
        subprocess.run([*made, "--locale=C", "--no-sync"], check=True, stdout=subprocess.DEVNULL, user=user)
        (data / "pg_hba.conf").write_text(
            "hostssl all certified 127.0.0.1/32 scram-sha-256 clientcert=verify-ca\nhostssl all all 127.0.0.1/32 scram-sha-256\n"
        )
        argv = [
            programs / "postgres", "-D", data, "-p", port, "-k", folder, "-F", "-c", "listen_addresses=127.0.0.1", "-c", "ssl=on",
            "-c", f"ssl_cert_file={server}", "-c", f"ssl_key_file={server}", "-c", f"ssl_ca_file={folder}/ca.pem",
        ]  # fmt: skip
        address = f"postgresql://{login(ADMIN)}@localhost:{port}/postgres?sslmode=verify-full&sslrootcert={certificates.ca}"

        def ready() -> bool:
            with psycopg.connect(address):
                return True

        with running(argv, ready, user=user):
            yield port


def grant_in_postgresql(url: str) -> None:
    """Let `persona` do what is documented; `url` is the administrator's, with `{database}` in it."""
    database = "postgres"
    for part in re.split(r"^\\connect (\w+)$", documented("sql"), flags=re.MULTILINE):
        if re.fullmatch(r"\w+", part):
            database = part
            continue
        with psycopg.connect(url.format(database=database), autocommit=True) as connection:
            for statement in filter(None, map(str.strip, part.split(";"))):
                connection.execute(statement.encode())


@contextmanager
def tls_in_front(port: int, certificate: Path) -> Iterator[int]:
    """A port that speaks TLS and passes what is said on to this one, which does not."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.set_alpn_protocols(["h2"])  # gRPC speaks to nobody who does not choose it
    listening: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event, int]] = Future()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        with suppress(OSError):
            await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer))

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while said := await reader.read(1 << 16):
                writer.write(said)
                await writer.drain()
        finally:
            writer.close()

    async def serve() -> None:
        server, ended = await asyncio.start_server(pass_on, "127.0.0.1", 0, ssl=context), asyncio.Event()
        listening.set_result((asyncio.get_running_loop(), ended, server.sockets[0].getsockname()[1]))
        await ended.wait()
        server.close()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
    thread.start()
    loop, ended, ours = listening.result(PATIENCE)
    try:
        yield ours
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(PATIENCE)


@contextmanager
def running(argv: Sequence[object], ready: Callable[[], object], user: str | None = None) -> Iterator[None]:
    """This program for the time of the block; within, it is ready."""
    process = subprocess.Popen(list(map(str, argv)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, user=user)
    try:
        eventually(lambda: process.poll() is not None or ready(), seconds=PATIENCE, what=f"the start of {argv[0]}")
        assert process.poll() is None, f"{argv[0]} ended with {process.returncode}"
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE)


def _redis_with_tls() -> str:
    """The machine's own: the one that comes as a wheel was built without."""
    for folder in os.get_exec_path():
        if binary := shutil.which("redis-server", path=folder):
            nowhere = [binary, "--port", "0", "--tls-port", "0"]  # it ends at once, whether it knows of TLS or not
            said = subprocess.run(nowhere, capture_output=True, text=True, check=False, timeout=10)
            if "Bad directive" not in said.stdout + said.stderr:
                return binary
    pytest.skip("no Redis server with TLS is installed here")


def _postgresql_programs() -> Path:
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    programs = installed[-1] if installed else Path(shutil.which("postgres") or "").parent
    if not (programs / "initdb").exists():
        pytest.skip("no PostgreSQL server is installed here")
    return programs
