"""Commands on a home that has been filled once: the contract's documents, and what asking for the wrong thing is answered with."""

import hashlib
import json
from typing import Any

import pytest

from persona_cli.materialize import ASSETS
from tests.cli.conftest import Answer, Command

Filled = tuple[Command, Answer]
ANSWER = {"user_id", "retrieval_source", "recommendations", "generation", "as_of", "known_user", "degraded"}
OFFER = {"campaign_id", "ranking_score", "reason", "rank", "evidence"}


def offers(answer: dict[str, Any]) -> list[str]:
    assert set(answer) >= ANSWER
    assert all(set(offer) >= OFFER for offer in answer["recommendations"])
    assert [offer["rank"] for offer in answer["recommendations"]] == [*range(1, len(answer["recommendations"]) + 1)]
    return [offer["campaign_id"] for offer in answer["recommendations"]]


def test_materialize_says_what_it_did(filled: Filled) -> None:
    _, done = filled
    assert done.code == 0, done.err
    said = done.json
    assert set(said) == {"run_id", "status", "error", "stages", "checks", "drops"}
    assert (said["status"], said["error"]) == ("success", None)
    assert {stage["stage"] for stage in said["stages"]} == set(ASSETS)
    assert all(set(stage) == {"stage", "status", "records", "seconds"} for stage in said["stages"])
    assert {stage["status"] for stage in said["stages"]} == {"success"}
    assert all(set(check) == {"asset", "check", "passed", "blocking"} for check in said["checks"])
    assert all(check["passed"] for check in said["checks"]) and any(check["blocking"] for check in said["checks"])
    assert set(said["drops"]) == {"read", "accepted", "duplicate", "quarantined", "erased", "held"}
    assert said["drops"]["read"] == said["drops"]["accepted"] > 0
    assert "loading the asset graph" in done.err


def test_recommend_answers_like_http(filled: Filled) -> None:
    persona, _ = filled
    done = persona("recommend", "u_001", "nobody we know", "--k", "3", "--json")
    assert done.code == 0, done.err
    known, unknown = done.lines
    assert len(offers(known)) == len(offers(unknown)) == 3
    assert (known["user_id"], known["known_user"]) == ("u_001", True)
    assert (unknown["user_id"], unknown["known_user"]) == ("nobody we know", False)


def test_recommend_takes_files_of_users_and_of_texts(filled: Filled) -> None:
    persona, _ = filled
    users, texts, answers = (persona.folder / name for name in ("users.txt", "texts.jsonl", "answers.jsonl"))
    users.write_bytes(b"\xef\xbb\xbfu_001\n\nu_002\n")  # some editors mark their files, and the mark is in nobody's id
    asked = [{"id": 7, "texts": ["I want to save for a house"]}, {"id": "b", "texts": ["hello", "a new phone, please"]}]
    texts.write_text("\n".join(json.dumps(line) for line in asked))
    done = persona("recommend", "--users", str(users), "--texts", str(texts), "--output", str(answers), "--k", "2")
    assert (done.code, done.out) == (0, ""), done.err
    found = [json.loads(line) for line in answers.read_text().splitlines()]
    assert [answer["user_id"] for answer in found] == ["u_001", "u_002", None, None]
    assert [answer["id"] for answer in found[2:]] == [7, "b"]
    assert all(len(offers(answer)) == 2 for answer in found)


def test_recommend_as_of_a_time_excluding_some(filled: Filled) -> None:
    persona, _ = filled
    now = offers(persona("recommend", "u_001", "--json").lines[0])
    done = persona("recommend", "u_001", "--json", "--as-of", "2026-05-31T12:00:00", "--exclude", now[0], "--channel", "email")
    assert done.code == 0, done.err
    assert done.lines[0]["as_of"] == "2026-05-31T12:00:00Z"
    assert now[0] not in offers(done.lines[0])
    first = done.lines[0]["recommendations"][0]
    why = persona(
        "why",
        "u_001",
        first["campaign_id"],
        "--json",
        "--as-of",
        "2026-05-31T12:00:00",
        "--exclude",
        now[0],
        "--channel",
        "email",
    )
    assert (why.json["as_of"], why.json["ranking_score"]) == ("2026-05-31T12:00:00Z", first["ranking_score"])
    assert persona("recommend", "u_001", "--json", "--as-of", "0001-01-01").code == 0


def test_why_agrees_with_the_answer_and_goes_back_to_drop_line_and_run(filled: Filled) -> None:
    persona, materialized = filled
    (drop,) = persona.settings.drops.glob("*.jsonl")
    lines = drop.read_text().splitlines()
    told = 0
    for offer in persona("recommend", "u_001", "--k", "3", "--json").lines[0]["recommendations"]:
        done = persona("why", "u_001", offer["campaign_id"], "--json")
        assert done.code == 0, done.err
        why = done.json
        assert (why["offered"], why["rule"]) == (True, None)
        assert [why[name] for name in ("rank", "ranking_score", "reason")] == [
            offer[name] for name in ("rank", "ranking_score", "reason")
        ]
        assert [{key: part[key] for key in of} for part, of in zip(why["evidence"], offer["evidence"], strict=True)] == offer[
            "evidence"
        ]
        for source in [source for part in why["evidence"] for source in part["sources"]] + why["history"]:
            told += 1
            assert json.loads(lines[source["line"] - 1])["user_id"] == "u_001"
            assert source["drop"] == hashlib.sha256(drop.read_bytes()).hexdigest()
            assert source["run_id"] == materialized.json["run_id"]
    assert told > 0


def test_why_not_names_the_rule(filled: Filled) -> None:
    persona, _ = filled
    why = persona("why", "u_001", "c_101", "--exclude", "c_101", "--json").json
    assert (why["offered"], why["rank"], why["rule"]) == (False, None, "excluded")
    done = persona("why", "u_001", "c_101", "--exclude", "c_101")
    assert done.out.splitlines()[0].startswith("u_001, c_101: not offered (excluded), score ")
    assert "Not offered: excluded by the caller." in done.out


def test_nobody_is_told_another_persons_id_or_words(filled: Filled) -> None:
    persona, _ = filled
    records = [json.loads(line) for drop in persona.settings.drops.glob("*.jsonl") for line in drop.read_text().splitlines()]
    people = {record["user_id"] for record in records}
    for person in sorted(people):
        answer = persona("recommend", person, "--k", "12", "--json").out
        told = answer + "".join(
            persona("why", person, offer["campaign_id"], "--json").out for offer in json.loads(answer)["recommendations"][::4]
        )
        assert not [other for other in people - {person} if other in told]
        assert not [record["message"] for record in records if record.get("message") and record["message"] in told]


def test_an_audience_is_made_of_people_who_are_offered_the_campaign(filled: Filled) -> None:
    persona, _ = filled
    campaign = offers(persona("recommend", "u_001", "--json").lines[0])[0]
    done = persona("audience", campaign, "--k", "3", "--json")
    assert done.code == 0, done.err
    members = done.json["audience"]
    assert done.json["campaign_id"] == campaign
    assert [set(member) for member in members] == [{"user_id", "rank", "score"}] * len(members)
    assert [member["rank"] for member in members] == [1, 2, 3]
    for member in members:
        assert persona("why", member["user_id"], campaign, "--json").json["ranking_score"] == member["score"]


def test_people_read_words(filled: Filled) -> None:
    persona, _ = filled
    done = persona("recommend", "u_001", "--k", "2")
    assert done.code == 0
    assert done.out.splitlines()[0].startswith("u_001") and "  1. c_" in done.out and "{" not in done.out


def test_status_masks_passwords(filled: Filled) -> None:
    persona, _ = filled
    done = persona("status", "--json")
    assert done.code == 0, done.err
    said = done.json
    assert set(said) >= {"home", "services", "stores"}
    assert set(said["services"]) >= {"api", "dagster"}
    assert all(set(service) == {"state", "url", "pid"} for service in said["services"].values())
    assert set(said["stores"]) == {"mongodb", "milvus", "neo4j", "warehouse", "redis"}
    assert all(set(store) == {"state", "url"} for store in said["stores"].values())
    assert said["home"] == persona.environment["PERSONA_HOME"]
    secrets = {persona.environment["NEO4J_PASSWORD"], persona.settings.addresses.mongodb.split(":")[2].split("@")[0]}
    assert not [secret for secret in secrets if secret in done.out + done.err]


def test_status_says_where_dagsters_history_is(filled: Filled) -> None:
    persona, _ = filled
    assert persona("status", "--json").json["dagster_storage"].startswith("sqlite:///")


def test_doctor_finds_nothing_amiss(filled: Filled) -> None:
    persona, _ = filled
    done = persona("doctor", "--json")
    assert (done.code, done.json["ok"]) == (0, True), done.out
    examined = {finding["what"] for finding in done.json["findings"]}
    assert examined >= {"python", "disk", "model", "mongodb", "milvus", "neo4j", "warehouse", "redis"}


@pytest.mark.parametrize(
    ("arguments", "exit_code", "code", "words"),
    [
        (["frobnicate"], 2, "invalid_input", "frobnicate"),
        (["recommend", "u_001", "--k", "0"], 2, "invalid_input", "--k"),
        (["recommend"], 2, "invalid_input", "nobody"),
        (["materialize", "nonsense"], 2, "invalid_input", "nonsense"),
        (["rebuild", "catalogs"], 2, "invalid_input", "catalogs"),
        (["recommend", "--users", "no-such-file"], 3, "not_found", "no-such-file"),
        (["ingest", "no-such-file"], 3, "not_found", "no-such-file"),
        (["catalog", "no-such-file"], 3, "not_found", "no-such-file"),
        (["why", "u_001", "no-such-campaign"], 3, "not_found", "no-such-campaign"),
        (["audience", "no-such-campaign"], 3, "not_found", "no-such-campaign"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_document(
    filled: Filled, arguments: list[str], exit_code: int, code: str, words: str
) -> None:
    persona, _ = filled
    done = persona(*arguments, "--json")
    assert (done.code, done.error["code"]) == (exit_code, code), done.out
    assert words in done.error["message"]


def test_a_setting_that_makes_no_sense_is_named(filled: Filled) -> None:
    persona, _ = filled
    done = persona("status", "--json", PERSONA_SETTLE_SECONDS="soon")
    assert (done.code, done.error["code"]) == (2, "invalid_input")
    assert "PERSONA_SETTLE_SECONDS" in done.error["message"]


def test_people_read_what_went_wrong_on_stderr(filled: Filled) -> None:
    persona, _ = filled
    done = persona.process("materialize", "nonsense")
    assert (done.code, done.out) == (2, "")
    assert "no such asset: nonsense" in done.err and "raw_conversations" in done.err and "Traceback" not in done.err
