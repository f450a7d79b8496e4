"""The answer's contract, what the cache may and may not do to it, and what every kind of question gets."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient
from pydantic import TypeAdapter, ValidationError

from persona.schemas import FrequencyCap, Id
from serving.app import create_app
from tests.serving.conftest import SETTINGS, Fakes, eventually


def test_an_answer_has_the_keys_of_the_contract_in_their_order(client: TestClient) -> None:
    response = client.get("/recommendations/u_1")
    answer = response.json()
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert list(answer) == [
        "user_id", "retrieval_source", "recommendations", "generation", "as_of", "known_user", "degraded", "holdout",
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
    fakes.neo4j.meanwhile = lambda: fakes.redis.evict(["u_1"])
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


def test_an_answer_is_kept_no_longer_than_until_a_cap_lets_a_campaign_go(client: TestClient, fakes: Fakes) -> None:
    capped = {"frequency_cap": FrequencyCap(count=2, days=1)}
    fakes.mongodb.all_campaigns = [campaign.model_copy(update=capped) for campaign in fakes.mongodb.all_campaigns]
    fakes.mongodb.catalog_version = 2
    fakes.redis.epoch += 1
    day = timedelta(days=1) - timedelta(seconds=60)
    now = datetime.now(UTC)
    shown = [
        ("c_1", day + timedelta(seconds=50)),
        ("c_1", day),
        ("c_1", timedelta(0)),
        ("c_2", day),
        ("c_3", 3 * day),
        ("c_3", day),
    ]
    fakes.mongodb.decided = [
        {"event": "impression", "campaign_id": campaign, "channel": "email", "timestamp": now - ago} for campaign, ago in shown
    ]
    assert offered(client) == ["c_2", "c_3", "c_4"]
    assert 40 < fakes.redis.ttls[-1] <= 60


# -- the catalog ------------------------------------------------------------------------------------------------------


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service looks by itself for what has changed when it starts, and never again."""
    monkeypatch.setattr("serving.snapshots.REFRESH_SECONDS", 3600)


def pause(fakes: Fakes, campaign: str) -> None:
    mongodb = fakes.mongodb
    paused = {"status": "paused"}
    mongodb.all_campaigns = [
        one.model_copy(update=paused) if one.campaign_id == campaign else one for one in mongodb.all_campaigns
    ]
    mongodb.catalog_version += 1


def offered(client: TestClient, **query: object) -> list[str]:
    return [item["campaign_id"] for item in client.get("/recommendations/u_1", params=query).json()["recommendations"]]


def test_a_campaign_is_out_of_cached_answers_as_soon_as_its_pause_is_announced(
    unhurried: None, client: TestClient, fakes: Fakes
) -> None:
    assert "c_2" in offered(client) and "c_2" in offered(client)
    assert client.get("/recommendations/u_1").json()["retrieval_source"] == "cache"
    pause(fakes, "c_2")
    fakes.redis.epoch += 1
    answers = [client.get("/recommendations/u_1").json() for _ in range(2)]
    assert [answer["retrieval_source"] for answer in answers] == ["computed", "cache"]
    assert all("c_2" not in {item["campaign_id"] for item in answer["recommendations"]} for answer in answers)


def test_answers_that_are_never_cached_ask_for_the_catalog_themselves(unhurried: None, client: TestClient, fakes: Fakes) -> None:
    assert "c_2" in offered(client, exclude="c_1")
    pause(fakes, "c_2")
    assert client.get("/recommendations/u_1/why?campaign_id=c_2").json()["rule"] == "not_running"
    pause(fakes, "c_3")
    assert offered(client, exclude="c_1") == ["c_4"]


def test_without_redis_the_catalog_is_asked_for_every_time(unhurried: None, client: TestClient, fakes: Fakes) -> None:
    assert "c_2" in offered(client)
    fakes.redis.down = True
    pause(fakes, "c_2")
    assert "c_2" not in offered(client)


def test_a_catalog_that_cannot_be_loaded_costs_nobody_their_answer(unhurried: None, client: TestClient, fakes: Fakes) -> None:
    before = offered(client)
    fakes.mongodb.down = True
    fakes.redis.epoch += 1
    for _ in range(2):  # what was kept may hold what has been paused meanwhile
        answer = client.get("/recommendations/u_1").json()
        assert [item["campaign_id"] for item in answer["recommendations"]] == before
        assert (answer["retrieval_source"], answer["degraded"]) == ("computed", ["mongodb"])
    fakes.mongodb.down = False
    pause(fakes, "c_2")
    eventually(lambda: "c_2" not in offered(client))


def test_one_announcement_is_one_look(unhurried: None, client: TestClient, fakes: Fakes) -> None:
    offered(client)
    looks = fakes.mongodb.looks
    fakes.redis.epoch += 1
    with ThreadPoolExecutor(8) as people:
        list(people.map(lambda _: offered(client), range(40)))
    assert fakes.mongodb.looks == looks + 1


# -- why ------------------------------------------------------------------------------------------------------------------


def test_why_has_its_keys_in_their_order_and_agrees_with_the_answer(client: TestClient) -> None:
    first = client.get("/recommendations/u_1").json()["recommendations"][0]
    response = client.get("/recommendations/u_1/why", params={"campaign_id": first["campaign_id"]})
    why = response.json()
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
    assert list(why) == [
        "user_id", "campaign_id", "offered", "rank", "ranking_score", "rule", "reason", "evidence", "history", "generation", "as_of",
        "known_user", "degraded", "holdout",
    ]  # fmt: skip
    assert (why["offered"], why["rule"]) == (True, None)
    assert {name: why[name] for name in ("rank", "ranking_score", "reason")} == {
        name: first[name] for name in ("rank", "ranking_score", "reason")
    }
    assert [part["channel"] for part in why["evidence"]] == [part["channel"] for part in first["evidence"]]
    assert all("sources" in part for part in why["evidence"])


def test_the_next_answer_is_the_one_that_why_explained_though_others_have_moved_it(client: TestClient, fakes: Fakes) -> None:
    before = client.get("/recommendations/u_1?k=1").json()["recommendations"]
    fakes.neo4j.favourite = "c_4"  # a drop that touches other people only evicts nobody else
    assert client.get("/recommendations/u_1?k=1").json()["recommendations"] == before
    why = client.get("/recommendations/u_1/why", params={"campaign_id": "c_2"}).json()
    [offer] = client.get("/recommendations/u_1?k=1").json()["recommendations"]
    assert offer["ranking_score"] == why["ranking_score"] != before[0]["ranking_score"]
    fakes.redis.down = True
    assert client.get("/recommendations/u_1/why", params={"campaign_id": "c_2"}).json() == why | {"degraded": ["redis"]}


def test_why_not_names_what_the_caller_asked_for(client: TestClient) -> None:
    for query, rule in ({"exclude": "c_3"}, "excluded"), ({}, None):
        why = client.get("/recommendations/u_1/why", params={"campaign_id": "c_3", **query}).json()
        assert (why["rule"], why["offered"]) == (rule, rule is None)


def test_why_is_asked_of_ids_that_do_not_fit_a_path(client: TestClient) -> None:
    why = client.get("/recommendations/-/why", params={"user_id": "team/anna", "campaign_id": " c_1 "}).json()
    assert (why["user_id"], why["campaign_id"], why["known_user"]) == ("team/anna", "c_1", False)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("u_1/why?campaign_id=c_99", 404),
        ("u_1/why", 422),
        ("u_1/why?campaign_id=", 422),
        ("u_1/why?campaign_id=%00", 422),
        ("-/why?campaign_id=c_1", 422),
    ],
)
def test_asked_why_about_nothing_there_is_a_problem(client: TestClient, path: str, status: int) -> None:
    response = client.get(f"/recommendations/{path}")
    assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json")


def test_who_is_held_out_is_told_so_cached_or_not(fakes: Fakes) -> None:
    settings = SETTINGS.model_copy(update={"holdout_percent": 100})
    with TestClient(create_app(SETTINGS, stores=fakes.openers())) as client:
        assert client.get("/recommendations/u_1").json()["holdout"] is False
    with TestClient(create_app(settings, stores=fakes.openers())) as client:  # on the same cache
        answers = [client.get("/recommendations/u_1").json() for _ in range(2)]
        assert [(answer["holdout"], answer["retrieval_source"]) for answer in answers] == [(True, "computed"), (True, "cache")]
        evidence = [part for answer in answers for item in answer["recommendations"] for part in item["evidence"]]
        assert {part["channel"] for part in evidence} == {"engagement"}


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
