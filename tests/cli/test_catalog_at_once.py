"""What a catalog takes out is out of every answer over HTTP, cached or not, as soon as the command that loads it has ended."""

import json
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from serving.app import create_app
from tests.cli.conftest import Command
from tests.serving.conftest import eventually
from tests.worlds import generated

PEOPLE = ["u_001", "u_002", "nobody we know"]


@pytest.fixture
def api(persona: Command, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """The service over a filled home; once it is up it looks for nothing new by itself."""
    generated(persona.settings)
    assert persona("materialize", "--json").code == 0
    monkeypatch.setattr("serving.snapshots.REFRESH_SECONDS", 3600)
    with TestClient(create_app(persona.settings)) as running:
        eventually(lambda: running.get("/health").json()["status"] == "ok", within=20)
        yield running


def offered(api: TestClient, person: str, **query: object) -> list[str]:
    answer = api.get(f"/recommendations/{person}", params={"k": 12, **query}).json()
    return [item["campaign_id"] for item in answer["recommendations"]]


def with_status(persona: Command, campaign: str, status: str, folder: str) -> str:
    """The generated campaigns, this one with another status, as a file in a folder of the home."""
    campaigns = json.loads((persona.settings.catalog / "campaigns.json").read_text())
    changed = [{**one, "status": status} if one["campaign_id"] == campaign else one for one in campaigns]
    file = persona.folder / folder / "campaigns.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(changed))
    return str(file)


def test_a_paused_campaign_is_out_of_the_very_next_answer(persona: Command, api: TestClient) -> None:
    first = next(campaign for campaign in offered(api, PEOPLE[0]) if all(campaign in offered(api, person) for person in PEOPLE))
    for person in PEOPLE:
        eventually(lambda person=person: api.get(f"/recommendations/{person}?k=12").json()["retrieval_source"] == "cache")
        assert first in offered(api, person)

    loaded = persona("catalog", with_status(persona, first, "paused", "by hand"), "--json")
    assert loaded.code == 0, loaded.out
    assert [first in offered(api, person, **query) for person in PEOPLE for query in ({}, {}, {"exclude": "c"})] == [False] * 9
    assert api.get("/recommendations/u_001/why", params={"campaign_id": first}).json()["rule"] == "not_running"

    loaded = persona("catalog", with_status(persona, first, "active", "by hand"), "--json")
    assert loaded.code == 0, loaded.out
    assert all(first in offered(api, person) for person in PEOPLE)

    with_status(persona, first, "paused", persona.settings.catalog.name)
    done = persona("materialize", "catalogs", "--json")
    assert done.code == 0, done.out
    assert not any(first in offered(api, person) for person in PEOPLE)
