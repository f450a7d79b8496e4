"""Export and erasure over HTTP, on real servers."""

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from persona.pipeline.lease import lease
from serving.app import create_app
from serving.routes import people
from tests.privacy.conftest import VERA, Place


@pytest.fixture
def client(place: Place) -> Iterator[TestClient]:
    with TestClient(create_app(place.addressed)) as running:
        yield running


def test_export_erase_and_what_comes_after(place: Place, client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"user_id": VERA}
    document = client.get("/users/-/export", params=asked).json()
    assert document["user_id"] == VERA and len(document["records"]) == 9
    assert document == {**client.get(f"/users/{VERA}/export").json(), "exported_at": document["exported_at"]}
    assert client.get("/recommendations/-", params=asked).json()["known_user"]

    monkeypatch.setattr(people, "LEASE_WAIT_SECONDS", 0.5)
    with lease(place.documents, run_id="a run", purpose="neo4j_graph", seconds=30, wait_seconds=0):
        busy = client.delete("/users/-", params=asked)
    assert busy.status_code == 503 and busy.headers["Retry-After"] and busy.json()["type"].endswith(":busy")
    assert place.documents.tombstones.count() == 0

    erased = client.delete("/users/-", params=asked)
    assert erased.status_code == 200, erased.text
    proof = erased.json()
    assert proof["found"]["records"] == 9 and not any(proof["left"].values()) and VERA not in erased.text
    assert not client.get("/recommendations/-", params=asked).json()["known_user"]
    missing = client.get("/users/-/export", params=asked)
    assert missing.status_code == 404 and missing.json()["type"].endswith(":not_found")
    assert client.delete(f"/users/{VERA}").status_code == 200, "again is harmless"


def test_nobody(client: TestClient) -> None:
    client.get("/recommendations/nobody")  # an answer is kept for whoever was asked for
    for answer in (client.get("/users/nobody/export"), client.delete("/users/nobody")):
        assert answer.status_code == 404
    assert client.delete("/users/-").status_code == 422
