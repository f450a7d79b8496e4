"""The Big List of Naughty Strings, in every field that takes people's strings: what comes back is what went in, or is in quarantine."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pymongo
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import create_engine, text

from persona.logs import configure_logs
from persona.settings import Settings
from persona.stores.opening import Stores, open_stores
from serving.app import create_app
from tests.cli.conftest import command_in
from tests.worlds import clear, ledger, put_drop, said, whole_answer

DATA = Path(os.environ.get("PERSONA_TEST_DATA", "../shared/data")).resolve() / "blns" / "blns.json"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA.is_file(), reason=f"the strings are not at {DATA}: set PERSONA_TEST_DATA"),
]

EXPORTED = 40
"""One in so many is exported over HTTP: an export reads every claimed copy."""

RECORDS: dict[str, Callable[[int, str], dict[str, Any]]] = {
    "message": lambda number, string: said(f"message {number}", string),
    "user_id": lambda number, string: said(string, f"it is {number}", campaign_id="c_all"),
    "campaign_id": lambda number, string: said(f"campaign {number}", "", campaign_id=string, event="click"),
    "intent": lambda number, string: said(f"intent {number}", f"hello {number}", intent=string),
}


@dataclass(frozen=True)
class Naughty:
    """Where everything is that went in."""

    settings: Settings
    stores: Stores
    api: TestClient
    strings: list[str]
    records: dict[tuple[str, int], dict[str, Any]]
    """Accepted, by the field under test and the string's number."""
    quarantined: dict[tuple[str, int], dict[str, Any]]

    def accepted(self, field: str) -> dict[int, str]:
        """The strings that were accepted in this field, as they are to come back."""
        numbers = [number for number in range(len(self.strings)) if (field, number) in self.records]
        return {number: self.strings[number] if field == "message" else self.strings[number].strip() for number in numbers}


@pytest.fixture(scope="module")
def naughty(stack_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Naughty]:
    persona = command_in(tmp_path_factory.mktemp("blns"), stack_settings)
    clear(persona.settings)
    strings: list[str] = json.loads(DATA.read_text())
    for field, record in RECORDS.items():
        put_drop(persona.settings.drops, f"{field}.jsonl", (record(number, string) for number, string in enumerate(strings)))
    done = persona("materialize", "--json")
    assert done.code == 0 and done.json["drops"]["held"] == 0, done.out
    settings = persona.settings
    fields = {entry["_id"]: name.removesuffix(".jsonl") for name, entry in ledger(settings).items()}
    with pymongo.MongoClient(settings.addresses.mongodb) as client:
        database = client[settings.mongodb_database]
        records = {(fields[row["drop"]], row["line"] - 1): row for row in database["records"].find()}
        quarantined = {(fields[row["drop"]], row["line"] - 1): row for row in database["quarantine"].find()}
    configure_logs("ERROR")
    with open_stores(settings) as stores, TestClient(create_app(settings)) as api:
        yield Naughty(settings, stores, api, strings, records, quarantined)
    clear(settings)


def test_every_string_is_kept_as_it_is_or_is_in_quarantine(naughty: Naughty) -> None:
    assert len(naughty.records) + len(naughty.quarantined) == len(RECORDS) * len(naughty.strings)
    assert len(naughty.quarantined) <= 4 * len(RECORDS)
    for (_, number), line in naughty.quarantined.items():
        string = naughty.strings[number]
        assert not string.strip() or len(string) > 256 or "\0" in string, (string, line["reason"])
        assert line["reason"] in ("invalid_field", "missing_field") and line["detail"]
    for field in RECORDS:
        assert {number: naughty.records[field, number][field] for number in naughty.accepted(field)} == naughty.accepted(field)


def test_every_store_knows_them_by_the_same_name(naughty: Naughty) -> None:
    for user in naughty.accepted("user_id").values():
        assert naughty.stores.vectors.user_vector(user) is not None, user
        assert [engagement.campaign_id for engagement in naughty.stores.graph.history_of(user)] == ["c_all"], user
    for number, campaign in naughty.accepted("campaign_id").items():
        assert [tie.campaign_id for tie in naughty.stores.graph.history_of(f"campaign {number}")] == [campaign]
    for number, intent in naughty.accepted("intent").items():
        assert intent in [tie.intent for tie in naughty.stores.graph.intents_of(f"intent {number}")]
    engine = create_engine(naughty.settings.addresses.warehouse)
    with engine.connect() as connection:
        pairs = {tuple(row) for row in connection.execute(text("SELECT user_id, campaign_id FROM engagements"))}
    engine.dispose()
    expected = {(user, "c_all") for user in naughty.accepted("user_id").values()}
    assert pairs == expected | {(f"campaign {number}", name) for number, name in naughty.accepted("campaign_id").items()}


def test_every_user_is_known_over_http(naughty: Naughty) -> None:
    campaigns = {*naughty.accepted("campaign_id").values(), "c_all"}
    offered: set[str] = set()
    for user in naughty.accepted("user_id").values():
        asked = {"user_id": user, "k": 50}
        answer = whole_answer(lambda asked=asked: naughty.api.get("/recommendations/-", params=asked))
        assert (answer["user_id"], answer["known_user"]) == (user, True)
        offered |= {offer["campaign_id"] for offer in answer["recommendations"]}
    assert offered and offered <= campaigns


def test_what_is_exported_over_http_is_what_went_in(naughty: Naughty) -> None:
    for field in RECORDS:
        for number, string in list(naughty.accepted(field).items())[::EXPORTED]:
            user = naughty.records[field, number]["user_id"]
            answer = naughty.api.get("/users/-/export", params={"user_id": user})
            assert answer.status_code == 200, (user, answer.text)
            assert answer.json()["user_id"] == user
            assert string in [record[field] for record in answer.json()["records"]], user
