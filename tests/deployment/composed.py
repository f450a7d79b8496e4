"""docker-compose.yml as a Compose implementation reads it, and what its services would run."""

import hashlib
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from podman_compose import rec_subs

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.yml"
VARIABLE = re.compile(r"(?<!\$)\$\{(?P<name>\w+)(?P<otherwise>:[?-])(?P<word>[^}]*)\}")
STORES = {"mongodb", "milvus", "neo4j", "redis", "postgres"}
ONCE = {"mongodb-init", "migrate", "pipeline"}
"""Services that do one thing and end."""

Service = dict[str, Any]


def used() -> dict[str, set[tuple[str, str]]]:
    """Every variable that the file interpolates, with what becomes of it where it is not set: (`:?` or `:-`, the word after it)."""
    found: dict[str, set[tuple[str, str]]] = {}
    for match in VARIABLE.finditer(FILE.read_text()):
        found.setdefault(match["name"], set()).add((match["otherwise"], match["word"]))
    return found


SECRETS = sorted(name for name, ways in used().items() if any(otherwise == ":?" for otherwise, _ in ways))
API_KEY = "a key that opens the API"
GIVEN = {name: f"{name.lower().replace('_', '-')}-7b3d" for name in SECRETS} | {
    "PERSONA_API_KEYS": f"tests:read+ingest+admin:{hashlib.sha256(API_KEY.encode()).hexdigest()}"
}
"""Something for each of them."""


def composed(environment: Mapping[str, str]) -> dict[str, Any]:
    """The file with these variables set and no others. Raises `ValueError` where one that must be is not."""
    document: dict[str, Any] = rec_subs(yaml.safe_load(FILE.read_text()), dict(environment))
    return document


@cache
def with_secrets() -> dict[str, Any]:
    """The file with something for each secret and all else left to its default; to be read, not to be changed."""
    return composed(GIVEN)


def services() -> dict[str, Service]:
    """The services by name."""
    found: dict[str, Service] = with_secrets()["services"]
    return found


def ours() -> dict[str, Service]:
    """The services that are made of our image."""
    return {name: service for name, service in services().items() if "build" in service}


def command_of(service: Service) -> list[str]:
    """What a container of ours runs: the image's entry point or the service's own, and its arguments."""
    return [*service.get("entrypoint", ["persona"]), *service.get("command", [])]


def environment_of(service: Service) -> dict[str, str]:
    """What is set in the container; what is only passed on where it is set, left out."""
    return {name: value for name, value in service["environment"].items() if value is not None}
