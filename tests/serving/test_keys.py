"""Who is let in where keys are set, who is not, and what each key may do; also while Redis is down."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import structlog
from fastapi import FastAPI
from fastapi.testclient import TestClient
from limits import RateLimitItemPerHour, RateLimitItemPerSecond

from persona.keys import ApiKey, Scope
from persona.settings import Settings
from serving import attempts
from serving.app import create_app
from serving.attempts import Attempts
from serving.auth import OPEN
from serving.scopes import refuse_undeclared
from tests.serving.conftest import Fakes, eventually

KEYS = {name: f"the-{name}-key" for name in get_args(Scope)}
"""One for each scope."""
ADDRESS = "192.0.2.7"


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def setting(keys: dict[str, str]) -> str:
    return ",".join(f"{name}:{name}:{hashlib.sha256(key.encode()).hexdigest()}" for name, key in keys.items())


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return Settings(_env_file=None, home=settings.home, api_keys=setting(KEYS))


@pytest.fixture
def app(fakes: Fakes, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> FastAPI:
    monkeypatch.setattr(attempts, "FAILURES", RateLimitItemPerHour(20))  # however slow the machine, it does not end meanwhile
    return create_app(settings, stores=fakes.openers())


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, client=(ADDRESS, 50_000)) as running:
        yield running


def operations(client: TestClient) -> Iterator[tuple[str, str, str]]:
    """Method, path and scope of every operation that needs one."""
    for path, methods in client.get("/openapi.json").json()["paths"].items():
        for method, operation in methods.items():
            if path in OPEN:
                assert "security" not in operation
            else:
                [[scope]] = [needed["key"] for needed in operation["security"]]
                yield method.upper(), path.format(user_id="u_1", campaign_id="c_1"), scope


def ask(client: TestClient, method: str, path: str, key: str | None = None) -> Any:
    body = {"json": {}} if method == "POST" else {}
    return client.request(method, path, headers=bearer(key) if key else {}, **body)


@pytest.mark.parametrize("redis_is_down", [False, True])
def test_nothing_but_what_is_open_answers_without_the_right_key(
    client: TestClient, fakes: Fakes, monkeypatch: pytest.MonkeyPatch, redis_is_down: bool
) -> None:
    monkeypatch.setattr(attempts, "FAILURES", RateLimitItemPerSecond(10_000))
    fakes.redis.down = redis_is_down
    for path in OPEN:
        assert client.get(path).status_code == 200
    asked = list(operations(client))
    assert {scope for _, _, scope in asked} >= {"read", "admin"}
    nowhere = [("GET", path, "") for path in ("/", "/nowhere", "/docs/oauth2-redirect", "/redoc", "/livez/", "//livez", "/LIVEZ")]
    for method, path, _ in [*asked, *nowhere]:
        for headers in (
            {}, bearer("wrong"), bearer(""), bearer(KEYS["read"] + "x"), {"Authorization": KEYS["read"]},
            {"Authorization": f"Basic {KEYS['read']}"}, {"X-Forwarded-For": "127.0.0.1", "X-Api-Key": KEYS["read"]},
        ):  # fmt: skip
            refused = client.request(method, path, headers=headers)
            assert refused.status_code == 401, (method, path, headers)
            assert refused.headers["www-authenticate"] == "Bearer"
            assert refused.headers["content-type"] == "application/problem+json"
    for query in (f"?key={KEYS['read']}", f"?access_token={KEYS['read']}"):
        assert client.get(f"/recommendations/u_1{query}").status_code == 401
    assert client.get("/recommendations/u_1", headers={"Authorization": f"bearer  {KEYS['read']}"}).status_code == 200


@pytest.mark.parametrize("redis_is_down", [False, True])
def test_a_key_of_another_scope_is_refused(client: TestClient, fakes: Fakes, redis_is_down: bool) -> None:
    fakes.redis.down = redis_is_down
    for method, path, needed in operations(client):
        for scope, key in KEYS.items():
            answer = ask(client, method, path, key)
            if scope == needed:
                assert answer.status_code not in (401, 403, 429), (method, path, answer.text)
            else:
                assert answer.status_code == 403 and needed in answer.json()["detail"]
                assert f'scope="{needed}"' in answer.headers["www-authenticate"]
    assert client.get("/nowhere", headers=bearer(KEYS["ingest"])).status_code == 404


def test_who_names_people_needs_the_scope_admin(client: TestClient) -> None:
    by_scope: dict[str, set[str]] = {}
    for method, path, scope in operations(client):
        by_scope.setdefault(scope, set()).add(f"{method} {path}")
    assert by_scope["admin"] == {
        "DELETE /users/u_1", "GET /users/u_1/export", "GET /users/u_1/similar", "GET /campaigns/c_1/audience",
    }  # fmt: skip


def test_every_route_declares_a_scope_or_is_open(app: FastAPI) -> None:
    refuse_undeclared(app)

    @app.get("/forgotten")
    def forgotten() -> None: ...

    with pytest.raises(ValueError, match="/forgotten"):
        refuse_undeclared(app)


@pytest.mark.parametrize(("redis_is_down", "times"), [(False, 50), (True, 1_000)])
def test_a_thousand_keys_tried(app: FastAPI, client: TestClient, fakes: Fakes, redis_is_down: bool, times: int) -> None:
    fakes.redis.down = redis_is_down
    assert client.get("/recommendations/u_1", headers=bearer(KEYS["read"])).status_code == 200
    with structlog.testing.capture_logs() as logs:
        tried = [client.get("/recommendations/u_1", headers=bearer(f"guess-{number}")) for number in range(times)]
    found = Counter(answer.status_code for answer in tried)
    assert found == {401: attempts.FAILURES.amount, 429: times - attempts.FAILURES.amount}
    assert all(1 <= int(answer.headers["retry-after"]) <= 3_600 for answer in tried if answer.status_code == 429)
    assert sum(line["event"] == "wrong key" for line in logs) == attempts.FAILURES.amount
    assert "guess" not in repr(logs)

    assert client.get("/recommendations/u_1", headers=bearer(KEYS["read"])).status_code == 200, "it came from there before"
    lucky = client.get("/users/u_1/similar", headers=bearer(KEYS["admin"]))
    assert lucky.status_code == 429, "a guess that is right is told from one that is wrong"
    elsewhere = TestClient(app, client=("192.0.2.8", 50_000))
    assert elsewhere.get("/users/u_1/similar", headers=bearer(KEYS["admin"])).status_code == 200
    assert client.get("/livez").status_code == 200


def test_what_a_header_says_of_the_address_counts_for_nothing(client: TestClient) -> None:
    for number in range(attempts.FAILURES.amount):
        client.get(
            "/health", headers={**bearer("wrong"), "X-Forwarded-For": f"198.51.100.{number}", "Forwarded": f"for={number}"}
        )
    assert client.get("/health", headers={**bearer("wrong"), "X-Forwarded-For": "203.0.113.1"}).status_code == 429


def test_who_failed_too_often_may_try_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "FAILURES", RateLimitItemPerSecond(2))
    failed = Attempts()
    for _ in range(2):
        assert not failed.too_many(ADDRESS)
        failed.failed(ADDRESS)
    assert failed.too_many(ADDRESS) and not failed.let_in(ADDRESS, "read") and failed.seconds_left(ADDRESS) == 1
    eventually(lambda: failed.let_in(ADDRESS, "read"))


@pytest.mark.parametrize(
    ("address", "also", "not_"),
    [
        ("2001:db8::1", "2001:db8::ffff:2", "2001:db8:0:1::1"),
        ("::ffff:192.0.2.1", "192.0.2.1", "::ffff:192.0.2.2"),
        ("unknown", "unknown", "192.0.2.1"),
    ],
)
def test_addresses_of_one_network_count_as_one(address: str, also: str, not_: str) -> None:
    failed = Attempts()
    for _ in range(attempts.FAILURES.amount):
        failed.failed(address)
    assert failed.too_many(also) and not failed.too_many(not_)


def test_every_key_is_compared_whichever_was_sent(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def compare(stored: bytes, sent: bytes) -> bool:
        compared.append((stored, sent))
        return stored == sent

    monkeypatch.setattr("serving.auth.hmac.compare_digest", compare)
    for key in (*KEYS.values(), "wrong"):
        client.get("/health", headers=bearer(key))
    assert len(compared) == len(KEYS) * (len(KEYS) + 1)
    assert {len(part) for pair in compared for part in pair} == {hashlib.sha256().digest_size}


def test_without_keys_there_is_nothing_to_send(fakes: Fakes, tmp_path: Path) -> None:
    app = create_app(Settings(_env_file=None, home=tmp_path), stores=fakes.openers())
    with TestClient(app) as client:
        assert client.get("/users/u_1/similar").status_code == 200
        document = client.get("/openapi.json").json()
    assert "securitySchemes" not in document["components"] and '"security"' not in json.dumps(document)


def test_the_description_says_how_to_send_a_key(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    for method, path, _ in operations(client):
        if "u_1" not in path and "c_1" not in path:
            assert {"401", "403", "429"} <= set(document["paths"][path][method.lower()]["responses"])


def test_a_key_is_not_shown_by_its_object() -> None:
    key = ApiKey("shop", frozenset({"read"}), b"\x01" * 32)
    assert "01" not in repr(key) and "x01" not in str(key)
