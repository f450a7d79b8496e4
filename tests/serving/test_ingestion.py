"""Records over HTTP: what is promised with a 202, what is refused and how, and that they count for the next answer."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from persona.intake import inbox
from persona.schemas import FrequencyCap
from serving.app import create_app
from tests.serving.conftest import SETTINGS, Fakes

CONVERTED = {"user_id": "u_1", "event": "conversion", "campaign_id": "c_2"}


@pytest.fixture
def client(fakes: Fakes, tmp_path: Path) -> Iterator[TestClient]:
    with TestClient(create_app(SETTINGS.model_copy(update={"home": tmp_path}), stores=fakes.openers())) as running:
        yield running


def offered(client: TestClient, user: str = "u_1") -> list[str]:
    return [item["campaign_id"] for item in client.get(f"/recommendations/{user}").json()["recommendations"]]


def lines(home: Path) -> list[dict[str, Any]]:
    found = [arrival.path.read_bytes().splitlines() for arrival in inbox.arrivals_in(home / "inbox")]
    return [json.loads(line) for part in found for line in part]


def test_what_was_accepted_is_on_disk_and_counts_for_the_next_answer(client: TestClient, tmp_path: Path) -> None:
    assert "c_2" in offered(client) and "c_2" in offered(client)  # the second from the cache
    response = client.post("/events", json=CONVERTED)
    assert response.status_code == 202, response.text
    document = response.json()
    assert list(document) == ["drop", "accepted", "rejected"]
    assert (document["accepted"], document["rejected"]) == (1, [])
    [arrival] = inbox.arrivals_in(tmp_path / "inbox")
    assert arrival.sha256 == document["drop"]
    assert "c_2" not in offered(client) and "c_2" in offered(client, "u_2")
    why = client.get("/recommendations/u_1/why?campaign_id=c_2").json()
    assert why["rule"] == "already_converted"
    converted = why["history"][0]
    assert [converted[part] for part in ("event", "drop", "line", "run_id")] == ["conversion", document["drop"], None, None]


@pytest.mark.parametrize("event", ["dismiss", "unsubscribe"])
def test_a_no_counts_at_once(client: TestClient, event: str) -> None:
    client.post("/events", json=[{**CONVERTED, "event": event}, {"user_id": "u_3", "event": "unsubscribe"}])
    assert "c_2" not in offered(client)
    assert offered(client, "u_3") == []


def test_one_who_was_unknown_is_known_by_what_they_did(client: TestClient) -> None:
    assert not client.get("/recommendations/new").json()["known_user"]
    client.post("/events", json={**CONVERTED, "user_id": "new"})
    assert client.get("/recommendations/new").json()["known_user"]


def test_decay_counts_from_what_came_in_last(client: TestClient) -> None:
    at = "2026-03-01T00:00:00Z"
    client.post("/events", json={**CONVERTED, "timestamp": at})
    assert client.get("/recommendations/u_1").json()["as_of"] == at
    assert client.get("/recommendations/u_2").json()["as_of"] == "2026-01-01T00:00:00Z"


def test_what_the_store_has_counts_once(client: TestClient, fakes: Fakes) -> None:
    shown = {"user_id": "u_1", "event": "impression", "campaign_id": "c_2", "message_id": "m_1", "channel": "email"}
    fakes.mongodb.all_campaigns[1].frequency_cap = FrequencyCap(count=2, days=300)
    client.post("/events", json=shown)
    [record] = fakes.redis.live.records["u_1"].values()
    fakes.mongodb.history = [{**record, "drop": "d"}]
    engaged = client.get("/recommendations/u_1").json()
    assert "c_2" in [item["campaign_id"] for item in engaged["recommendations"]]


@pytest.mark.parametrize("path", ["/events", "/conversations"])
def test_messages_and_events_may_come_together_and_each_bad_one_is_named(client: TestClient, path: str) -> None:
    response = client.post(path, json=[CONVERTED, {"user_id": "u_1"}, {"user_id": "u_2", "message": "hello"}, 7])
    assert response.status_code == 202
    assert response.json()["accepted"] == 2
    assert [(part["index"], part["reason"]) for part in response.json()["rejected"]] == [
        (1, "missing_field"),
        (3, "not_an_object"),
    ]


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400), (b"{", 400), (b"[1, 2", 400), (b"\xff", 400), (b"[]", 422), (b"{}", 422), (b"null", 422), (b'"text"', 422),
        (b"[" * 100_000, 422), (b"[" * 100_000 + b"]" * 100_000, 422), (b'[{"user_id": "u", "message": ""}]', 422),
        (json.dumps([CONVERTED] * 1_001).encode(), 422), (b'{"user_id": "' + b"u" * 257 + b'", "message": "m"}', 422),
    ],
)  # fmt: skip
def test_what_cannot_be_taken_is_refused_and_leaves_nothing(
    client: TestClient, tmp_path: Path, content: bytes, status: int
) -> None:
    response = client.post("/events", content=content, headers={"Content-Type": "application/json"})
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert lines(tmp_path) == []


def test_a_key_makes_it_once_however_often_it_is_sent(client: TestClient, tmp_path: Path) -> None:
    key = {"Idempotency-Key": "k-1"}
    said = {"user_id": "u_1", "message": "hello"}
    answers = [client.post("/conversations", json=[said, said], headers=key).json() for _ in range(3)]
    assert answers[0] == answers[1] == answers[2]
    assert len({line["message_id"] for line in lines(tmp_path)}) == 2
    assert len({line["timestamp"] for line in lines(tmp_path)}) == 1
    assert client.post("/conversations", json=CONVERTED, headers=key).status_code == 409
    assert client.post("/conversations", json=CONVERTED, headers={"Idempotency-Key": "k-2"}).status_code == 202


def test_a_refused_body_does_not_use_up_its_key(client: TestClient) -> None:
    key = {"Idempotency-Key": "k"}
    assert client.post("/events", json={"user_id": "u_1"}, headers=key).status_code == 422
    assert client.post("/events", json=CONVERTED, headers=key).status_code == 202


def test_without_mongodb_it_is_accepted_and_counts(client: TestClient, fakes: Fakes, tmp_path: Path) -> None:
    fakes.mongodb.down = True
    answers = [client.post("/events", json=CONVERTED, headers={"Idempotency-Key": "k"}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 202]
    assert len({line["message_id"] for line in lines(tmp_path)}) == 1
    answer = client.get("/recommendations/u_1").json()
    assert "c_2" not in [item["campaign_id"] for item in answer["recommendations"]]
    assert "mongodb" in answer["degraded"]


def test_without_redis_it_counts_in_this_process_and_says_so(client: TestClient, fakes: Fakes) -> None:
    fakes.redis.down = True
    assert client.post("/events", json=CONVERTED).status_code == 202
    answer = client.get("/recommendations/u_1").json()
    assert "c_2" not in [item["campaign_id"] for item in answer["recommendations"]]
    assert answer["degraded"] == ["redis"]


def test_what_an_erased_person_did_before_does_not_come_back_and_what_they_do_now_does(client: TestClient, fakes: Fakes) -> None:
    fakes.mongodb.erased = {"u_1": datetime(2026, 1, 1, tzinfo=UTC)}
    client.post("/events", json={**CONVERTED, "timestamp": "2025-12-31T00:00:00Z"})
    assert "u_1" not in fakes.redis.live.records
    client.post("/events", json=CONVERTED)
    assert "c_2" not in offered(client)


def test_a_full_disk_is_a_507_and_nothing_counts(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("persona.intake.inbox.os.fsync", full)
    response = client.post("/events", json=CONVERTED)
    assert (response.status_code, response.json()["type"]) == (507, "urn:persona:problem:no_room")
    assert "c_2" in offered(client)


def test_requests_that_come_together_share_a_file(client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, first = inbox.keep, threading.Event()

    def slow(content: bytes, folder: Path) -> str:
        if not first.is_set():
            first.set()
            threading.Event().wait(0.5)
        return real(content, folder)

    monkeypatch.setattr(inbox, "keep", slow)
    with ThreadPoolExecutor(9) as threads:
        sent = [threads.submit(client.post, "/events", json=CONVERTED)]
        assert first.wait(5)
        sent += [threads.submit(client.post, "/events", json={**CONVERTED, "user_id": f"u_{n}"}) for n in range(8)]
        drops = {response.result().json()["drop"] for response in sent}
    assert len(drops) < 9
    assert drops == {arrival.sha256 for arrival in inbox.arrivals_in(tmp_path / "inbox")}
    assert len(lines(tmp_path)) == 9
