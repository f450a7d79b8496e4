"""What a body must be, whatever the route makes of it; and the headers around every answer."""

import json
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from persona.settings import Settings
from serving.app import create_app
from serving.bodies import LEVELS, is_deeper_than
from tests.serving.conftest import Fakes

JSON = {"Content-Type": "application/json"}
MOST = 10_000


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"max_body_bytes": MOST, "cors_origins": ()})


def body_of(size: int) -> bytes:
    return json.dumps({"texts": [], "padding": ""}).encode().ljust(size)


def status(client: TestClient, content: bytes | Iterator[bytes], **headers: str) -> int:
    answer = client.post("/intents", content=content, headers={**JSON, **headers})
    assert answer.headers["content-type"] in ("application/json", "application/problem+json")
    return answer.status_code


def test_a_body_that_is_too_large_is_refused_by_its_length_and_by_what_comes(client: TestClient) -> None:
    def in_pieces(size: int) -> Iterator[bytes]:
        for start in range(0, size, 1_000):
            yield body_of(size)[start : start + 1_000]

    assert status(client, body_of(MOST)) == 422, "as large as allowed, and read: there are no texts"
    assert status(client, in_pieces(MOST)) == 422
    assert status(client, body_of(MOST + 1)) == 413
    assert status(client, in_pieces(MOST + 1)) == 413
    assert client.post("/intents", headers={**JSON, "Content-Length": str(10**15)}).status_code == 413


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("application/json", 422), ("Application/JSON; charset=UTF-8", 422), ('application/json; charset="utf8"', 422),
        ("application/json; charset=utf-16", 415), ("text/plain", 415), ("text/json", 415), ("application/ld+json", 415),
        ("multipart/form-data; boundary=x", 415), ("application/jsonx", 415), ("", 415), (";", 415),
        ("text/plain; application/json", 415),
    ],
)  # fmt: skip
def test_a_body_is_json_by_its_content_type(client: TestClient, content_type: str, expected: int) -> None:
    assert client.post("/intents", content=b"{}", headers={"Content-Type": content_type}).status_code == expected


def test_a_body_without_a_content_type_is_refused_and_no_body_needs_none(client: TestClient) -> None:
    assert client.post("/intents", content=b"{}").status_code == 415
    assert client.post("/intents", content=iter([b"{}"])).status_code == 415
    assert client.post("/intents").status_code == 422
    assert client.request("DELETE", "/livez", content=b"x").status_code == 415


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 5_000, b"[" * 4_000 + b"]" * 4_000, b'{"a":' * 1_500, b'{"texts":' + b"[" * 200 + b"]" * 200 + b"}", b"]" * 9_000,
        b'"' * 9_999, b'\\"' * 4_999, b'{"texts": ["\\ud800"]}', b"1" * 9_999, b'{"texts": [NaN]}', b"\xff\xfe[\x00", b"\x00", b"",
    ],
)  # fmt: skip
def test_a_hostile_body_is_the_senders_mistake(client: TestClient, body: bytes) -> None:
    assert status(client, body) in (400, 422)


def test_how_deep_is_told_without_parsing() -> None:
    assert not is_deeper_than(3, b"[[[]]]" * 1_000)
    assert is_deeper_than(3, b"[[[]]]" * 1_000 + b"[[[[")
    assert is_deeper_than(3, b'[{"a":[{}]}]') and not is_deeper_than(4, b'[{"a":[{}]}]')
    assert not is_deeper_than(1, json.dumps(['[[{{"[\\', "]"]).encode())
    assert not is_deeper_than(1, b'["\\\\", "[[["]') and is_deeper_than(2, b'["\\\\", [[]]]')
    assert not is_deeper_than(LEVELS, b'"' + b"[" * 1_000), "a string that never ends"
    assert not is_deeper_than(LEVELS, b"]" * 1_000)


def test_what_protects_stands_in_every_answer(client: TestClient) -> None:
    for path in ("/livez", "/recommendations/u_1", "/nowhere", "/openapi.json", "/recommendations/%FF"):
        headers = client.get(path).headers
        assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert (headers["x-content-type-options"], headers["x-frame-options"]) == ("nosniff", "DENY")
        assert headers["referrer-policy"] == "no-referrer" and headers["cache-control"] == "no-store"
        assert "strict-transport-security" not in headers and "server" not in headers
    docs = client.get("/docs").headers["content-security-policy"]
    assert "default-src 'none'" in docs and "script-src 'unsafe-inline' https://cdn.jsdelivr.net" in docs
    assert "strict-transport-security" in client.get("https://testserver/livez").headers


ASKED_BY_A_PAGE = {"Origin": "https://app.example.org"}
PREFLIGHT = {**ASKED_BY_A_PAGE, "Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "authorization"}


def test_pages_of_other_origins_may_not_ask(client: TestClient) -> None:
    for answer in (
        client.get("/recommendations/u_1", headers=ASKED_BY_A_PAGE),
        client.options("/recommendations/u_1", headers=PREFLIGHT),
    ):
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_pages_of_listed_origins_may_ask_and_hear_why_not(fakes: Fakes, settings: Settings) -> None:
    listed = settings.model_copy(update={"cors_origins": ("https://app.example.org",)})
    with TestClient(create_app(listed, stores=fakes.openers())) as client:
        preflight = client.options("/recommendations/u_1", headers=PREFLIGHT)
        assert preflight.status_code == 200
        for answer in (preflight, client.get("/livez", headers=ASKED_BY_A_PAGE), client.get("/nowhere", headers=ASKED_BY_A_PAGE)):
            assert answer.headers["access-control-allow-origin"] == "https://app.example.org"
            assert "access-control-allow-credentials" not in answer.headers
        others = client.get("/livez", headers={"Origin": "https://elsewhere.example.org"})
        assert "access-control-allow-origin" not in others.headers
