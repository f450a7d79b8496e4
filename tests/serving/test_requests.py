"""What holds for every request: problem documents, ids, headers, the log, the description; what must not be imported."""

import subprocess
import sys

import pytest
import structlog
from fastapi.testclient import TestClient
from pydantic import BaseModel

from persona.errors import InvalidInput
from persona.schemas import Answer, Audience, SimilarPeople, Why
from serving.run import serve
from tests.serving.conftest import SETTINGS

PROBLEM = ["type", "title", "status", "detail", "instance", "request_id", "errors"]


@pytest.mark.parametrize(
    ("method", "path", "status", "fields"),
    [
        ("GET", "/recommendations/u_1?k=0", 422, ["k"]),
        ("GET", "/recommendations/u_1?top=1001", 422, ["top"]),
        ("GET", "/recommendations/u_1?k=many&explain=perhaps", 422, ["k", "explain"]),
        ("GET", "/recommendations/u_1?exclude=c_1&exclude=", 422, ["exclude.1"]),
        ("GET", "/recommendations/%FF", 400, []),
        ("GET", "/recommendations/-?user_id=%C3%28", 400, []),
        ("GET", "/recommendations/a%2Fb", 404, []),
        ("GET", "/recommendations/", 404, []),
        ("GET", "/nowhere", 404, []),
        ("POST", "/recommendations/u_1", 405, []),
    ],
)
def test_a_failure_is_a_problem_document(client: TestClient, method: str, path: str, status: int, fields: list[str]) -> None:
    response = client.request(method, path, headers={"X-Request-ID": "mine-1"})
    problem = response.json()
    assert (response.status_code, problem["status"]) == (status, status)
    assert response.headers["content-type"] == "application/problem+json"
    assert list(problem) == PROBLEM
    assert problem["request_id"] == "mine-1"
    assert problem["title"] and problem["detail"] and problem["type"]
    assert [error["field"] for error in problem["errors"]] == fields
    assert all(error["reason"] for error in problem["errors"])


def test_what_nobody_foresaw_is_told_without_its_insides(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr("serving.answers._json", lambda *_, **__: 1 / 0)
    response = client.get("/recommendations/u_1")
    assert response.status_code == 500
    assert list(response.json()) == PROBLEM
    assert response.json()["request_id"] == response.headers["x-request-id"]
    assert "division" not in response.text and "Traceback" not in response.text


def test_a_request_keeps_the_id_it_came_with_if_it_is_one(client: TestClient) -> None:
    assert client.get("/livez", headers={"X-Request-ID": "a1:b-2"}).headers["x-request-id"] == "a1:b-2"
    for insane in ("", "a b", "x" * 129, '{"a": 1}', "-"):
        given = client.get("/livez", headers={"X-Request-ID": insane}).headers["x-request-id"]
        assert given != insane and len(given) == 32


def test_every_response_has_the_headers_that_protect(client: TestClient) -> None:
    for path in ("/recommendations/u_1", "/health", "/nowhere"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in headers


def test_the_log_names_the_route_and_never_the_person(client: TestClient) -> None:
    with structlog.testing.capture_logs() as logs:
        client.get("/recommendations/secret-person")
        client.get("/recommendations/-?user_id=secret-person&k=0")
        client.get("/nowhere/secret-person")
    lines = [line for line in logs if line["event"] == "request"]
    assert [(line["route"], line["status"]) for line in lines] == [
        ("/recommendations/{user_id}", 200), ("/recommendations/{user_id}", 422), (None, 404),
    ]  # fmt: skip
    assert "secret-person" not in repr(logs)


def test_the_api_describes_itself(client: TestClient) -> None:
    assert client.get("/docs").status_code == 200
    document = client.get("/openapi.json").json()
    people = {"/users/{user_id}", "/users/{user_id}/export", "/users/{user_id}/similar", "/campaigns/{campaign_id}/audience"}
    offers = {"/recommendations/{user_id}", "/recommendations/{user_id}/why", "/intents"}
    assert set(document["paths"]) == {"/health", "/livez", "/readyz", "/metrics"} | offers | people
    route = document["paths"]["/recommendations/{user_id}"]["get"]
    assert {parameter["name"] for parameter in route["parameters"]} == {"user_id", "k", "channel", "exclude", "explain"}
    assert "application/problem+json" in route["responses"]["422"]["content"]
    assert {"Answer", "Problem", "FieldError", "Health"} <= set(document["components"]["schemas"])
    assert "HTTPValidationError" not in document["components"]["schemas"]


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/recommendations/{user_id}", Answer), ("/recommendations/{user_id}/why", Why),
        ("/users/{user_id}/similar", SimilarPeople), ("/campaigns/{campaign_id}/audience", Audience),
    ],
)  # fmt: skip
def test_its_examples_are_answers(client: TestClient, path: str, answer: type[BaseModel]) -> None:
    described = client.get("/openapi.json").json()["paths"][path]["get"]["responses"]["200"]
    example = described["content"]["application/json"]["example"]
    whole = answer.model_validate({**dict.fromkeys(answer.model_fields), **example})  # FastAPI leaves out what is null
    assert whole.model_dump(mode="json", exclude_none=True) == example


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_without_keys_it_listens_to_this_machine_only(host: str) -> None:
    with pytest.raises(InvalidInput, match="API keys"):
        serve(SETTINGS, host=host)


def test_it_imports_neither_dagster_nor_a_model() -> None:
    heavy = "{'dagster', 'torch', 'sentence_transformers', 'transformers', 'persona_assets', 'opentelemetry.exporter'}"
    loaded = "{*sys.modules}"
    code = f"import sys, serving.run, serving.app; found = {heavy} & {loaded}; sys.exit(repr(found) if found else 0)"
    subprocess.run([sys.executable, "-c", code], check=True)
