"""`python -m tests.servers fetch` brings what no package manager installs; `run COMMAND…` runs a command on the servers of production."""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.servers.production import FOLDER, MILVUS_VERSION, NEO4J_VERSION
from tests.servers.running import production_servers

POM = """<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>persona</groupId><artifactId>neo4j</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.neo4j</groupId><artifactId>neo4j</artifactId><version>{version}</version></dependency>
    <dependency><groupId>org.neo4j.app</groupId><artifactId>neo4j-server</artifactId><version>{version}</version></dependency>
  </dependencies>
</project>
"""
COPY_DEPENDENCIES = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies"


def fetch_neo4j() -> None:
    """Its jars from Maven Central, which Maven checks; 123 MB."""
    jars = FOLDER / f"neo4j-{NEO4J_VERSION}"
    if (jars / f"neo4j-server-{NEO4J_VERSION}.jar").exists():
        return
    if not shutil.which("mvn"):
        print("Neo4j is not fetched: there is no mvn (`apt-get install maven`)", file=sys.stderr)
        return
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "pom.xml").write_text(POM.format(version=NEO4J_VERSION))
        subprocess.run(
            ["mvn", "-B", "-q", "-ntp", "-f", folder, COPY_DEPENDENCIES, "-DincludeScope=runtime", f"-DoutputDirectory={jars}"],
            check=True,
        )


def unpack_milvus() -> None:
    """Its programs, which lie compressed in the wheel."""
    try:
        import milvus
    except ImportError:
        print("Milvus is not unpacked: its wheel is for Linux on x86_64", file=sys.stderr)
        return
    milvus._initialize_data_files(str(FOLDER / f"milvus-{MILVUS_VERSION}"))


def main() -> None:
    """Fetch, or run a command."""
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("fetch", help="what is not there yet")
    run = verbs.add_parser("run", help="a command with the servers' addresses in its environment")
    run.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    if arguments.verb == "fetch":
        FOLDER.mkdir(exist_ok=True)
        fetch_neo4j()
        unpack_milvus()
        return
    with tempfile.TemporaryDirectory(prefix="persona-servers-") as folder, production_servers(Path(folder)) as running:
        for reason in running.missing.values():
            print(f"not there: {reason}", file=sys.stderr)
        raise SystemExit(subprocess.run(arguments.command, env={**os.environ, **running.environment()}, check=False).returncode)


if __name__ == "__main__":
    main()
