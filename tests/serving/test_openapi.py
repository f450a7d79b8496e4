"""The service does what its OpenAPI document says, and no body makes it fail. Whatever routes the document has are walked."""

import json
import os
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from http.client import HTTPResponse
from itertools import cycle
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from persona.settings import Settings
from tests.serving.service import DEADLINE, Service, service_in

DATA = Path(os.environ.get("PERSONA_TEST_DATA", "../shared/data")).resolve()
STRINGS, SUITE = DATA / "blns" / "blns.json", DATA / "jsontestsuite" / "test_parsing.zip"

EXAMPLES = 10
"""That schemathesis makes for each operation, beside the document's own and the edges of every field."""
FREED = "/users/{user_id}/export"
"""Where somebody who was erased is gone; every other route answers strangers too."""
TAKEN_IN = ("/conversations", "/events")
"""Where a body that fits the schema may hold no valid record (422: of times, ids and texts the intake demands more than a schema says),
or come with the `Idempotency-Key` of another (409)."""
CONFIG = f"""
[[operations]]
exclude-path = "{FREED}"
checks.use_after_free.enabled = false
""" + "".join(
    f"""
[[operations]]
include-path = "{path}"
checks.positive_data_acceptance.expected-statuses = ["2xx", 409, 422]
"""
    for path in TAKEN_IN
)
ODD = [
    b"", b"\xff\xfe", b"\xef\xbb\xbf{}", b"[" * 100_000, b'{"a":' * 100_000, b"1e999", b"-0", b"9" * 5_000, b"NaN", b'"\\ud800"',
    b'{"texts": ["\\ud800"]}', b'{"texts": ["\\u0000"], "k": 1e400}', b'{"k": ' + b"9" * 5_000 + b"}", b'{"texts": {}, "texts": 1}',
]  # fmt: skip

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def service(stack_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with service_in(tmp_path_factory.mktemp("openapi"), stack_settings, messages=60, **{DEADLINE: "5"}) as running:
        yield running


def test_schemathesis_finds_no_failure_with_all_its_checks(service: Service, tmp_path: Path) -> None:
    config = tmp_path / "schemathesis.toml"
    config.write_text(CONFIG)
    done = subprocess.run(
        [
            sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run", f"{service.url}/openapi.json",
            "--checks", "all", "--max-examples", str(EXAMPLES), "--seed", "1", "--continue-on-failure", "--no-color",
            "--generation-database", "none", "--header", f"Authorization: {service.headers['Authorization']}",
        ],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
    assert "Traceback" not in service.log


@pytest.mark.parametrize("of_a_drop", [False, True])
def test_somebody_who_was_erased_is_found_no_more_and_answered_like_a_stranger(service: Service, of_a_drop: bool) -> None:
    user = "u_002" if of_a_drop else "eve"
    event = {"user_id": user, "campaign_id": "c_101", "event": "click", "timestamp": "2026-01-01T00:00:00Z"}
    with service.client() as http:
        assert http.post("/events", json=event).status_code == 202
        assert http.get(FREED.format(user_id=user)).status_code == 200
        assert http.delete(f"/users/{user}").status_code == 200
        assert http.get(FREED.format(user_id=user)).status_code == 404
        answer = http.get(f"/recommendations/{user}").json()
        assert answer["known_user"] is False and answer["recommendations"]


@pytest.mark.skipif(not STRINGS.is_file(), reason=f"the strings are not at {STRINGS}: set PERSONA_TEST_DATA")
def test_no_naughty_string_makes_a_route_fail(service: Service) -> None:
    strings: list[str] = json.loads(STRINGS.read_text())
    with service.client() as http:
        routes = posted(service.document())
        for route, string in zip(cycle(routes), strings):  # parsed alike by all: JSONTestSuite goes to each
            is_answered_or_refused(http, route, string.encode())
        for route, example in routes.items():
            for string in strings:
                is_answered_or_refused(http, route, json.dumps(with_string(example, string)).encode())
    assert "Traceback" not in service.log


@pytest.mark.skipif(not SUITE.is_file(), reason=f"JSONTestSuite is not at {SUITE}: set PERSONA_TEST_DATA")
def test_no_body_makes_a_route_fail(service: Service) -> None:
    with zipfile.ZipFile(SUITE) as suite:
        files = [suite.read(name) for name in suite.namelist() if name.endswith(".json")]
    assert len(files) > 300
    with service.client() as http:
        for route in posted(service.document()):
            for body in [*files, *ODD]:
                is_answered_or_refused(http, route, body)
            for kind in ("", "text/plain", "application/json; charset=utf-16", "multipart/form-data", "application/\x7f"):
                is_answered_or_refused(http, route, b"{}", content_type=kind)
    assert "Traceback" not in service.log


@pytest.mark.parametrize(
    "sent", [b"GET /livez?" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x00", b"GET / HTTP/one\r\n\r\n"]
)
def test_what_is_no_http_is_refused_with_a_problem_document_too(service: Service, sent: bytes) -> None:
    address = urlsplit(service.url)
    with socket.create_connection((address.hostname, address.port or 0), timeout=10) as connection:
        connection.sendall(sent)
        response = HTTPResponse(connection)
        response.begin()
        problem = json.loads(response.read())
    assert (response.status, problem["status"]) == (400, 400)
    assert response.getheader("content-type") == "application/problem+json"
    assert response.getheader("x-request-id") == problem["request_id"]


def is_answered_or_refused(http: httpx.Client, route: str, body: bytes, *, content_type: str = "application/json") -> None:
    response = http.post(route, content=body, headers={"Content-Type": content_type})
    assert response.status_code < 500, (route, body[:200], response.text)
    if response.status_code >= 400:
        assert response.headers["content-type"] == "application/problem+json", (route, body[:200])
        assert response.json()["status"] == response.status_code


def posted(document: dict[str, Any]) -> dict[str, Any]:
    """The routes that take a JSON body, and a body that each takes."""
    return {
        path: example_of(operations["post"]["requestBody"]["content"]["application/json"]["schema"], document)
        for path, operations in document["paths"].items()
        if "requestBody" in operations.get("post", {})
    }


def example_of(schema: dict[str, Any], document: dict[str, Any]) -> Any:
    """A value that fits this schema, with every property of an object."""
    match schema:
        case {"$ref": reference}:
            return example_of(document["components"]["schemas"][reference.rpartition("/")[2]], document)
        case {"examples": [example, *_]} | {"example": example} | {"default": example}:
            return example
        case {"anyOf": [choice, *_]} | {"oneOf": [choice, *_]}:
            return example_of(choice, document)
        case {"properties": properties}:
            return {name: example_of(part, document) for name, part in properties.items()}
        case {"items": items}:
            return [example_of(items, document)]
        case {"type": [kind, *_]}:
            return example_of({"type": kind}, document)
        case _:
            return {"integer": 1, "number": 1.0, "boolean": True, "object": {}}.get(schema.get("type", ""), "x")


def with_string(value: Any, string: str) -> Any:
    """The same value with this string in the place of every other."""
    match value:
        case str():
            return string
        case list():
            return [with_string(part, string) for part in value]
        case dict():
            return {name: with_string(part, string) for name, part in value.items()}
        case _:
            return value
