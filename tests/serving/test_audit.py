"""What is written down of admin calls, and that no secret is written down anywhere."""

import hashlib
import json
import logging
import socket
import stat
from pathlib import Path

import pytest
import structlog
from fastapi.testclient import TestClient

from persona.logs import configure_logs
from persona.settings import Settings
from serving.app import create_app
from tests.serving.conftest import Fakes
from tests.serving.test_keys import KEYS, ask, bearer, operations, setting


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return Settings(_env_file=None, home=settings.home, api_keys=setting(KEYS))


def hashed(user: str) -> str:
    return hashlib.sha256(user.encode()).hexdigest()


def audited(settings: Settings) -> list[dict[str, object]]:
    return [json.loads(line) for line in (settings.home / "logs" / "audit.jsonl").read_text().splitlines()]


def test_admin_calls_are_written_down_with_who_did_them_and_how_they_ended(client: TestClient, settings: Settings) -> None:
    admin = bearer(KEYS["admin"])
    with structlog.testing.capture_logs() as logs:
        client.get("/users/u_1/similar", headers={**admin, "X-Request-ID": "mine"})
        client.get("/users/-/similar?user_id=secret-person", headers=admin)
        client.get("/users/u_1/similar?k=0", headers=admin)
        client.delete("/users/secret-person", headers=bearer(KEYS["read"]))
        client.get("/campaigns/c_2/audience", headers=admin)
        client.get("/recommendations/u_1", headers=bearer(KEYS["read"]))
        client.get("/users/u_1/similar")
    lines = audited(settings)
    assert [
        (line["key"], line["method"], line["route"], line["user"], line["campaign_id"], line["status"]) for line in lines
    ] == [
        ("admin", "GET", "/users/{user_id}/similar", hashed("u_1"), None, 200),
        ("admin", "GET", "/users/{user_id}/similar", hashed("secret-person"), None, 404),
        ("admin", "GET", "/users/{user_id}/similar", hashed("u_1"), None, 422),
        ("read", "DELETE", "/users/{user_id}", hashed("secret-person"), None, 403),
        ("admin", "GET", "/campaigns/{campaign_id}/audience", None, "c_2", 200),
    ]
    assert lines[0]["request_id"] == "mine" and all(line["at"] for line in lines)
    in_log = [line for line in logs if line.get("audit")]
    assert [(line["key"], line["route"], line["status"]) for line in in_log] == [
        (line["key"], line["route"], line["status"]) for line in lines
    ]
    assert "secret-person" not in repr(logs) + repr(lines)
    assert stat.S_IMODE((settings.home / "logs" / "audit.jsonl").stat().st_mode) == 0o600


def test_an_audit_file_that_cannot_be_written_is_told_and_costs_no_answer(client: TestClient, settings: Settings) -> None:
    (settings.home / "logs").write_text("in the way")
    with structlog.testing.capture_logs() as logs:
        assert client.get("/users/u_1/similar", headers=bearer(KEYS["admin"])).status_code == 200
    assert {"admin call", "audit file not written"} <= {line["event"] for line in logs}


PASSWORD = "hunter2"


@pytest.mark.parametrize("stores", ["down", "well"])
def test_no_secret_is_ever_written_or_told(
    fakes: Fakes, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, stores: str
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        there = f"127.0.0.1:{taken.getsockname()[1]}"
        settings = Settings(
            _env_file=None, home=tmp_path, api_keys=setting(KEYS), rate_limit="1000/minute", store_timeout_seconds=1,
            mongodb_uri=f"mongodb://me:{PASSWORD}@{there}/?replicaSet=rs0", milvus_uri=f"http://{there}", milvus_token=f"me:{PASSWORD}",
            neo4j_uri=f"bolt://{there}", neo4j_password=PASSWORD, redis_url=f"redis://:{PASSWORD}@{there}/0",
            warehouse_url=f"postgresql+psycopg://me:{PASSWORD}@{there}/persona",
        )  # fmt: skip
        caplog.set_level(logging.DEBUG)
        configure_logs("DEBUG")
        told = [repr(settings), str(settings), settings.model_dump_json(), repr(settings.keys)]
        try:
            with TestClient(create_app(settings, stores=fakes.openers() if stores == "well" else None)) as client:
                for key in (*KEYS.values(), "a-wrong-guess", None):
                    for method, path, _ in operations(client):
                        answer = ask(client, method, path, key)
                        told += [answer.text, repr(answer.headers)]
        finally:
            structlog.reset_defaults()
    out, err = capfd.readouterr()
    assert '"audit": true' in err and '"event": "wrong key"' in err
    told += [out, err, caplog.text, *(file.read_text() for file in tmp_path.rglob("*") if file.is_file())]
    secrets = [PASSWORD, "a-wrong-guess", *KEYS.values(), *(hashlib.sha256(key.encode()).hexdigest() for key in KEYS.values())]
    for secret in secrets:
        assert not [text for text in told if secret in text], f"{secret} was told"
