"""Servers that the local stack does not have, started for tests: PostgreSQL."""

import os
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest


@contextmanager
def postgresql_server(home: Path) -> Iterator[str]:
    """The address of a PostgreSQL server, without a database's name; its files are in `home`."""
    if given := os.environ.get("TEST_POSTGRESQL_URL"):
        yield given.rstrip("/")
        return
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    programs = installed[-1] if installed else Path(shutil.which("postgres") or "").parent
    if not (programs / "initdb").exists():
        pytest.skip("no PostgreSQL server is installed here")
    # The server refuses to run as root.
    user = "postgres" if os.geteuid() == 0 else None
    data = home / "data"
    if user:
        for folder in (home, *home.parents):
            if folder.owner() == "root" and folder.name.startswith(("pytest-", "popen-")):
                folder.chmod(0o755)
        shutil.chown(home, user)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    subprocess.run(
        [programs / "initdb", "-D", data, "-U", "tester", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"],
        check=True,
        stdout=subprocess.DEVNULL,
        user=user,
    )
    server = subprocess.Popen(
        [programs / "postgres", "-D", data, "-p", str(port), "-c", "listen_addresses=127.0.0.1", "-k", data, "-F"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        user=user,
    )
    try:
        ready = [str(programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
        deadline = time.monotonic() + 30
        while subprocess.run(ready, check=False).returncode:
            assert server.poll() is None and time.monotonic() < deadline, "PostgreSQL did not start"
            time.sleep(0.1)
        yield f"postgresql://tester@127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(30)


def postgresql_database(server: str) -> str:
    """The address of a new database on the server."""
    name = f"t{uuid.uuid4().hex[:12]}"
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} ENCODING 'UTF8' TEMPLATE template0")
    return f"{server}/{name}"
