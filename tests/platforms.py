"""Whole platforms in homes of their own: what `persona up` starts, asked from outside and ended for good."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import orjson
import psutil
import pytest

from persona.local.processes import INSTANCE_VARIABLE, marked, markers
from persona.settings import Settings

STORE_URLS = (
    "MONGODB_URI",
    "MILVUS_URI",
    "MILVUS_HOST",
    "NEO4J_URI",
    "REDIS_URL",
    "WAREHOUSE_URL",
    "SQLITE_PATH",
    "PERSONA_DAGSTER_STORAGE_URL",
)
RUNS = "{runsOrError{... on Runs{results{runId status jobName}}}}"
ASSETS = """
{assetNodes{assetKey{path} staleStatus isExecutable assetChecksOrError{... on AssetChecks{checks{
  name executionForLatestMaterialization{status}}}}}}
"""


class Platform:
    """A home, its folders and its ports."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            "PERSONA_HOME": str(folder / "home"),
            "PERSONA_DROPS": str(folder / "drops"),
            "PERSONA_CATALOG": str(folder / "catalog"),
            "PERSONA_SETTLE_SECONDS": "0.5",
            "PERSONA_SENSOR_SECONDS": "2",
            "PERSONA_API_PORT": str(unused_port()),
            "PERSONA_DAGSTER_PORT": str(unused_port()),
            "PYTHONPATH": str(Path(__file__).parents[1]),
        }

    @property
    def settings(self) -> Settings:
        with pytest.MonkeyPatch.context() as patch:
            for name in STORE_URLS:
                patch.delenv(name, raising=False)
            for name, value in self.environment.items():
                patch.setenv(name, value)
            return Settings(_env_file=None)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """`persona …` as a process."""
        inherited = {name: value for name, value in os.environ.items() if name not in STORE_URLS}
        return subprocess.Popen(
            [sys.executable, "-m", "persona_cli.main", *arguments], cwd=self.folder, env={**inherited, **self.environment},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def persona(self, *arguments: str, timeout: float = 330) -> Any:
        """Run `persona … --json` to its end, which has to be a good one; return the document."""
        with self.start(*arguments, "--json") as process:
            out, err = process.communicate(timeout=timeout)
        assert process.returncode == 0, (out.decode(), err.decode()[-3000:], self.logs())
        return orjson.loads(out) if out.strip() else None

    def logs(self) -> str:
        """The end of every log, for a failed test's message."""
        ends = (f"{log.name}: {log.read_text(errors='replace')[-1500:]}" for log in (self.folder / "home" / "logs").glob("*.log"))
        return "\n".join(ends)

    def processes(self) -> list[psutil.Process]:
        """Every living process of the platform: by its marks, and by the mark of the home alone."""
        run = self.settings.home / "run"
        found = {process.pid: process for group in ("stores", "services") for process in marked(run / group)}
        instance = markers(run / "stores")[INSTANCE_VARIABLE]
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                ended = process.status() == psutil.STATUS_ZOMBIE
                if not ended and process.pid != os.getpid() and process.environ().get(INSTANCE_VARIABLE) == instance:
                    found[process.pid] = process
        return list(found.values())

    def kill_everything(self) -> int:
        """SIGKILL to every process, supervisors first, until none is left; return how many there were."""
        killed = 0
        while alive := self.processes():
            for process in sorted(alive, key=lambda process: process.pid):
                with suppress(psutil.Error):
                    process.kill()
                    killed += 1
            psutil.wait_procs(alive, timeout=2)
        return killed

    # -- asking ---------------------------------------------------------------------------------------------------------

    def get(self, path: str, **parameters: Any) -> Any:
        """A JSON answer of the API."""
        response = httpx.get(f"http://127.0.0.1:{self.environment['PERSONA_API_PORT']}{path}", params=parameters, timeout=20)
        response.raise_for_status()
        return response.json()

    def ask_dagster(self, query: str, **variables: Any) -> Any:
        """The data of a GraphQL query."""
        site = f"http://127.0.0.1:{self.environment['PERSONA_DAGSTER_PORT']}/graphql"
        answer = httpx.post(site, json={"query": query, "variables": variables}, timeout=60).json()
        assert not answer.get("errors"), answer["errors"]
        return answer["data"]

    def runs(self) -> list[tuple[str, str, str]]:
        """Id, status and job of each run, newest first."""
        found = self.ask_dagster(RUNS)["runsOrError"]["results"]
        return [(run["runId"], run["status"], run["jobName"]) for run in found]

    def assets(self) -> dict[str, dict[str, Any]]:
        """What the UI shows of each asset."""
        return {node["assetKey"]["path"][0]: node for node in self.ask_dagster(ASSETS)["assetNodes"]}


@contextmanager
def platform_in(folder: Path) -> Iterator[Platform]:
    """A platform of which nothing is left running, whatever happens."""
    platform = Platform(folder)
    try:
        yield platform
    finally:
        platform.kill_everything()


def unused_port() -> int:
    """A port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
