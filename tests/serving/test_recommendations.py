"""The answer's contract, what the cache may and may not do to it, and what every kind of question gets."""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient
from pydantic import TypeAdapter, ValidationError

from persona.schemas import Id
from tests.serving.conftest import Fakes, eventually


def test_an_answer_has_the_keys_of_the_contract_in_their_order(client: TestClient) -> None:
    response = client.get("/recommendations/u_1")
    answer = response.json()
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert list(answer) == [
        "user_id", "retrieval_source", "recommendations", "generation", "as_of", "known_user", "degraded",
    ]  # fmt: skip
    assert list(answer["recommendations"][0]) == ["campaign_id", "ranking_score", "reason", "rank", "evidence"]
    assert answer["user_id"] == "u_1"
    assert answer["retrieval_source"] == "computed"
    assert answer["generation"] == "g_1"
    assert answer["as_of"] == "2026-01-01T00:00:00Z"
    assert answer["known_user"] is True
    assert answer["degraded"] == []
    assert answer["recommendations"][0]["campaign_id"] == "c_2"
    assert [item["rank"] for item in answer["recommendations"]] == [1, 2, 3, 4]
    assert all(item["evidence"] for item in answer["recommendations"])


def test_someone_unknown_gets_what_does_well(client: TestClient) -> None:
    answer = client.get("/recommendations/nobody").json()
    assert answer["known_user"] is False
    assert [item["campaign_id"] for item in answer["recommendations"]] == ["c_1", "c_2", "c_3", "c_4"]


@pytest.mark.parametrize("name", ["k", "top", "top_k"])
def test_k_has_three_names(client: TestClient, name: str) -> None:
    assert len(client.get("/recommendations/u_1", params={name: 2}).json()["recommendations"]) == 2


def test_excluded_campaigns_are_left_out_and_the_answer_is_not_cached(client: TestClient, fakes: Fakes) -> None:
    for _ in range(2):
        answer = client.get("/recommendations/u_1", params={"exclude": ["c_2", "c_3"]}).json()
        assert [item["campaign_id"] for item in answer["recommendations"]] == ["c_1", "c_4"]
        assert answer["retrieval_source"] == "computed"
    assert not fakes.redis.kept


def test_without_explanation_items_carry_no_evidence(client: TestClient) -> None:
    for source in ("computed", "cache"):
        answer = client.get("/recommendations/u_1?explain=false").json()
        assert answer["retrieval_source"] == source
        assert list(answer["recommendations"][0]) == ["campaign_id", "ranking_score", "reason", "rank"]


# -- the cache --------------------------------------------------------------------------------------------------------


def test_the_same_question_is_answered_from_the_cache_with_the_same_answer(client: TestClient, fakes: Fakes) -> None:
    computed, cached = (client.get("/recommendations/u_1").json() for _ in range(2))
    assert (computed["retrieval_source"], cached["retrieval_source"]) == ("computed", "cache")
    assert cached == {**computed, "retrieval_source": "cache"}
    assert list(cached) == list(computed)
    assert client.get("/recommendations/u_1?top=5&explain=true").json() == cached
    for question in ("?k=6", "?channel=email", "?explain=false"):
        assert client.get(f"/recommendations/u_1{question}").json()["retrieval_source"] == "computed"


def test_bytes_leave_the_cache_untouched(client: TestClient, fakes: Fakes) -> None:
    client.get("/recommendations/u_1")
    (key,) = fakes.redis.kept
    fakes.redis.kept[key] = b'{"any":   "bytes"}'
    assert client.get("/recommendations/u_1").content == b'{"any":   "bytes"}'


def test_an_answer_computed_before_an_eviction_is_never_kept_after_it(client: TestClient, fakes: Fakes) -> None:
    fakes.neo4j.meanwhile = lambda: fakes.redis.evict("u_1")
    for _ in range(2):
        assert client.get("/recommendations/u_1").json()["retrieval_source"] == "computed"
    fakes.neo4j.meanwhile = lambda: None
    assert [client.get("/recommendations/u_1").json()["retrieval_source"] for _ in range(2)] == ["computed", "cache"]


def test_a_new_generation_or_catalog_is_answered_from_anew(client: TestClient, fakes: Fakes) -> None:
    client.get("/recommendations/u_1")
    fakes.mongodb.generation = "g_2"
    eventually(lambda: client.get("/recommendations/u_1").json()["generation"] == "g_2")
    client.get("/recommendations/u_1")
    fakes.mongodb.all_campaigns = fakes.mongodb.all_campaigns[2:]
    fakes.mongodb.catalog_version = 2
    eventually(
        lambda: [item["campaign_id"] for item in client.get("/recommendations/u_1").json()["recommendations"]] == ["c_3", "c_4"]
    )


def test_an_answer_is_kept_no_longer_than_until_a_campaign_starts_or_ends(client: TestClient, fakes: Fakes) -> None:
    client.get("/recommendations/u_1")
    first, *others = fakes.mongodb.all_campaigns
    ending = first.model_copy(update={"ends_at": datetime.now(UTC) + timedelta(seconds=60)})
    fakes.mongodb.all_campaigns = [ending, *others]
    fakes.mongodb.catalog_version = 2
    eventually(lambda: client.get("/recommendations/u_1").json()["retrieval_source"] == "computed")
    assert fakes.redis.ttls[0] == 300
    assert 40 < fakes.redis.ttls[-1] <= 60


# -- ids --------------------------------------------------------------------------------------------------------------


def test_an_id_that_does_not_fit_a_path_comes_as_a_parameter(client: TestClient) -> None:
    for user_id in ("team/anna", "..", "-", "a?b#c", "  x  "):
        response = client.get("/recommendations/-", params={"user_id": user_id})
        assert (response.status_code, response.json()["user_id"]) == (200, user_id.strip())
    assert client.get("/recommendations/-").json()["errors"][0]["field"] == "user_id"


@pytest.mark.parametrize("path", ["%00", "a%00b", "%20", "x" * 257, "-?user_id=", "-?user_id=%00"])
def test_an_id_beyond_the_contract_is_invalid(client: TestClient, path: str) -> None:
    response = client.get(f"/recommendations/{path}")
    assert response.status_code == 422
    assert [error["field"] for error in response.json()["errors"]] == ["user_id"]


def test_naughty_strings_are_ids_like_any_other(client: TestClient) -> None:
    file = Path(os.environ.get("PERSONA_TEST_DATA", "../shared/data")) / "blns" / "blns.json"
    if not file.exists():
        pytest.skip(f"no naughty strings at {file.parent}")
    valid = TypeAdapter(Id)
    for string in json.loads(file.read_text()):
        try:
            expected = valid.validate_python(string)
        except ValidationError:
            expected = None
        addresses = [f"-?user_id={quote(string, safe='')}"]
        if not {"/"} & set(string) and string not in {"", ".", "..", "-"}:
            addresses.append(quote(string, safe=""))
        for address in addresses:
            response = client.get(f"/recommendations/{address}")
            if expected is None:
                assert response.status_code == 422, string
            else:
                assert (response.status_code, response.json()["user_id"]) == (200, expected), string
