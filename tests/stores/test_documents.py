"""The truth on a real MongoDB: what goes in comes out, what is asked twice is answered alike, what fails says so in our words."""

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from pymongo.client_session import ClientSession

from persona.errors import EmbeddingMismatch, StoreRefused, StoreUnavailable
from persona.ranking.model import fit
from persona.ranking.recommender import load_snapshot
from persona.schemas import Campaign, Event, Opening, Reason, Relation
from persona.settings import Settings
from persona.stores.documents import Documents, open_documents
from persona.stores.documents.embeddings import text_hash
from persona.stores.documents.ledger import Counts
from persona.stores.documents.quarantine import Rejected
from tests.stores.conftest import NAUGHTY_IDS
from tests.tables import COLUMNS

AT = datetime(2025, 6, 1, 12, tzinfo=UTC)


def record(key: str, *, drop: str = "d1", line: int = 1, hours: float = 0, **fields: Any) -> dict[str, Any]:
    at = AT + timedelta(hours=hours)
    return {
        "_id": key, "user_id": "u", "timestamp": at, "event": "message", "channel": "chat", "digest": key, "drop": drop, "line": line,
        **fields,
    }  # fmt: skip


def said(key: str, text: str, **fields: Any) -> dict[str, Any]:
    return record(key, message=text, text_hash=text_hash(text), expressive=True, **fields)


# -- the server ---------------------------------------------------------------------------------------------------------


def test_a_server_that_is_not_there_is_unavailable_within_the_timeout(closed_port: int) -> None:
    began = time.monotonic()
    with (
        pytest.raises(StoreUnavailable, match="mongodb"),
        open_documents(f"mongodb://127.0.0.1:{closed_port}", "t", timeout_seconds=0.5),
    ):
        pytest.fail("opened")
    assert time.monotonic() - began < 5


def test_opening_again_finds_everything(stack_settings: Settings, documents: Documents) -> None:
    documents.records.insert([record("m")])
    with open_documents(stack_settings.addresses.mongodb, documents.database.name, timeout_seconds=10) as again:
        again.ping()
        assert again.records.count(["d1"]) == 1
        assert again.records.newest_timestamp() == AT


def test_a_refusal_is_told_without_the_servers_words(documents: Documents) -> None:
    secret = "what a person said"
    with pytest.raises(StoreRefused) as raised:
        documents.records.insert([record("m", x={"a" * 10: secret * 1_000_000})])
    assert secret not in str(raised.value)


def test_a_transaction_happens_whole_or_not_at_all(documents: Documents) -> None:
    documents.ledger.claim_all([("d", "d.json", 1)], run_id="r")

    def accept_and_fail(session: ClientSession) -> None:
        documents.ledger.accept("d", counts=Counts(read=1, accepted=1), sinks=["s"], run_id="r", session=session)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        documents.transaction(accept_and_fail)
    assert documents.ledger.get(["d"])[0].state == "claimed"
    assert documents.ledger.pending("s", upstream=()) == []


# -- records ------------------------------------------------------------------------------------------------------------


def test_each_record_of_a_batch_is_accepted_or_duplicate_or_in_conflict(documents: Documents) -> None:
    insert = documents.records.insert
    first = insert([record("a"), record("b", line=2), record("a", line=3), record("b", line=4, digest="other")])
    assert (first.accepted, first.duplicate) == (2, 1)
    assert [(conflict.index, conflict.existing_drop, conflict.existing_line) for conflict in first.conflicts] == [(3, "d1", 2)]
    again = insert([record("a"), record("b", line=2), record("a", line=3), record("b", line=4, digest="other")])
    assert (again.accepted, again.duplicate, len(again.conflicts)) == (2, 1, 1)
    elsewhere = insert([record("a", drop="d2"), record("c", drop="d2")])
    assert (elsewhere.accepted, elsewhere.duplicate) == (1, 1)
    assert documents.records.count() == 3


def test_what_a_set_of_drops_touched(documents: Documents) -> None:
    records = documents.records
    records.insert(
        [
            said("m1", "longer text", user_id="b", campaign_id="c1"),
            said("m2", "text", user_id="a"),
            said("m3", "text", user_id="a", campaign_id="c1"),
            record("m4", user_id="a", event="click", campaign_id="c1"),
            said("m5", "else", user_id="z", campaign_id="c9", drop="d2"),
        ]
    )
    assert records.users_of(["d1"]) == ["a", "b"] and records.users_of(["d1", "d2"]) == ["a", "b", "z"]
    assert sorted(records.pairs_of(["d1"], ["a", "b", "z"])) == [("a", "c1"), ("b", "c1")]
    assert list(records.pairs_of(["d1"], ["b"])) == [("b", "c1")] and list(records.pairs_of(["d1"], ["z"])) == []
    assert list(records.texts_of(["d1"])) == [(text_hash("text"), "text"), (text_hash("longer text"), "longer text")]
    assert set(records.text_hashes_of(["d2"])) == {text_hash("else")}
    assert sorted(found["_id"] for found in records.engagements_of_drops(["d1"])) == ["m1", "m3", "m4"]
    assert (records.count_engagements(["d1"]), records.count_engagements()) == (3, 4)
    assert (records.count_users(), records.count_speakers(), records.count_pairs()) == (3, 3, 3)
    assert records.users_of([]) == [] and records.flawed_of(["d1", "d2"], limit=9) == []


@pytest.mark.parametrize("name", NAUGHTY_IDS)
def test_any_id_finds_its_own_and_no_others(documents: Documents, name: str) -> None:
    documents.records.insert(
        [said("mine", "x", user_id=name, campaign_id=name), said("other", "y", user_id="other", campaign_id="c")]
    )
    assert [found["_id"] for found in documents.records.histories([name])] == ["mine"]
    assert [pair["_id"] for pair in documents.records.folded_pairs([name])] == [{"user_id": name, "campaign_id": name}]
    assert documents.records.expressive_among([name, "nobody"]) == [name]
    documents.catalog.discover_campaigns([name])
    assert [campaign.campaign_id for campaign in documents.catalog.campaigns_by_id([name])] == [name]


def test_pairs_are_folded_over_every_record_of_the_pair(documents: Documents) -> None:
    events = [("impression", 0), ("click", 1), ("dismiss", 2), ("conversion", 3), ("unsubscribe", 2.5)]
    documents.records.insert(
        [record(f"m{hours}", event=event, hours=hours, campaign_id="c", value=0.5) for event, hours in events]
        + [record("n", event="dismiss", campaign_id="d"), record("o", event="click", campaign_id="e")]
    )
    pairs = {pair["_id"]["campaign_id"]: pair for pair in documents.records.folded_pairs(["u"])}
    folded = pairs["c"]
    assert {event.value: folded[event.value] for event in Event if folded[event.value]} == {event: 1 for event, _ in events}
    assert (folded["value"], folded["first_at"], folded["last"]) == (2.5, AT, {"at": AT + timedelta(hours=3), "message_id": "m3"})
    assert folded["last_positive_at"] == AT + timedelta(hours=3)
    assert folded["last_negative_at"] == AT + timedelta(hours=2.5)
    assert (pairs["d"]["last_positive_at"], pairs["d"]["last_negative_at"]) == (None, AT)
    assert (pairs["e"]["last_positive_at"], pairs["e"]["last_negative_at"]) == (AT, None)


def test_histories_come_by_person_then_time_then_id(documents: Documents) -> None:
    documents.records.insert([record("b"), record("a"), record("c", hours=-1), record("z", user_id="a", hours=9)])
    assert [found["_id"] for found in documents.records.histories(["u", "a"])] == ["z", "c", "a", "b"]


def test_messages_come_in_the_order_of_histories_cut_where_they_are_long(documents: Documents) -> None:
    documents.records.insert(
        [said("b", "a b\N{GRINNING FACE}cd"), said("a", "ab"), record("c", campaign_id="c"), said("z", "", user_id="v")]
    )
    found = list(documents.records.messages_of(["u", "w"], characters=4))
    assert [(message["_id"], message["message"], message["characters"]) for message in found] == [
        ("a", "ab", 2),
        ("b", "a b\N{GRINNING FACE}", 6),
    ]


def test_what_policy_looks_at_is_every_lasting_decision_and_recent_impressions(documents: Documents) -> None:
    documents.records.insert(
        [record(f"{event}{hours}", event=event.value, hours=hours, campaign_id="c") for event in Event for hours in (-100, 0)]
    )
    found = {decision["_id"] for decision in documents.records.decisions_of("u", impressions_since=AT - timedelta(hours=1))}
    lasting = {f"{event}{hours}" for event in ("conversion", "dismiss", "unsubscribe") for hours in (-100, 0)}
    assert found == lasting | {"impression0"}


def test_only_who_expressed_something_is_someone(documents: Documents) -> None:
    assert documents.records.someone() is None and documents.records.newest_timestamp() is None
    documents.records.insert([record("m", event="click")])
    assert documents.records.someone() is None
    documents.records.insert([said("n", "x", user_id="speaker")])
    assert documents.records.someone() == "speaker"


# -- ledger and quarantine ----------------------------------------------------------------------------------------------


def test_counts_are_balanced_when_every_record_is_accounted_for() -> None:
    assert Counts(read=10, accepted=4, duplicate=3, quarantined=2, erased=1).balanced
    assert not Counts(read=10, accepted=4).balanced


def test_a_file_is_unseen_until_its_present_content_has_been_claimed(documents: Documents) -> None:
    ledger = documents.ledger
    assert ledger.unseen({"/a": "1", "/b": "1"}) == ["/a", "/b"]
    ledger.remember_file("/a", "1", "d")
    assert ledger.unseen({"/a": "1", "/b": "1"}) == ["/b"]
    ledger.remember_file("/a", "2", "d")
    assert ledger.unseen({"/a": "1"}) == ["/a"] and ledger.unseen({}) == []


def test_content_is_claimed_once(documents: Documents) -> None:
    assert documents.ledger.claim_all([("d", "a.json", 1)], run_id="r1") == 1
    assert documents.ledger.claim_all([("d", "b.json", 1)], run_id="r2") == 0
    [entry] = documents.ledger.claimed()
    assert (entry.name, entry.run_id, entry.state, entry.attempts) == ("a.json", "r1", "claimed", 0)


def test_what_was_accepted_meanwhile_cannot_be_held(documents: Documents) -> None:
    ledger = documents.ledger
    ledger.claim_all([("d", "a.json", 1)], run_id="r1")
    documents.transaction(lambda session: ledger.accept("d", counts=Counts(1, 1), sinks=["s"], run_id="r2", session=session))
    ledger.hold("d", reason="invalid_json", detail="", counts=Counts(), run_id="r1")
    assert ledger.get(["d"])[0].state == "accepted"
    assert [entry.id for entry in ledger.judged_in("r2")] == ["d"]


def test_marks_take_sinks_off_and_reopening_puts_those_back_that_had_marked(documents: Documents) -> None:
    ledger = documents.ledger
    for name in ("a", "b"):
        ledger.claim_all([(name, name, 1)], run_id="r")
        documents.transaction(
            lambda session, name=name: ledger.accept(name, counts=Counts(), sinks=["s", "t"], run_id="r", session=session)
        )
    documents.transaction(lambda session: ledger.mark("s", ["a"], run_id="r1", token=1, code_version="1", session=session))
    assert [entry.id for entry in ledger.pending("t", upstream=["s"])] == ["a"]
    assert [entry.id for entry in ledger.applied("s")] == ["a"] == [entry.id for entry in ledger.applied("s", run_id="r1")]
    before = ledger.fingerprint("s")
    ledger.reopen(["s", "t"])
    assert [entry.id for entry in ledger.pending("s", upstream=())] == ["a", "b"]
    assert ledger.pending("t", upstream=["s"]) == [] == ledger.applied("s")
    documents.transaction(lambda session: ledger.mark("s", ["a"], run_id="r2", token=2, code_version="1", session=session))
    assert ledger.fingerprint("s") == before
    assert (ledger.count("accepted"), ledger.count("held")) == (2, 0)


def test_rejected_lines_come_back_in_order_with_their_bytes(documents: Documents) -> None:
    lines = [Rejected(line=n, offset=n * 10, reason=Reason.INVALID_JSON, detail="why", raw=bytes(range(256))) for n in (12, 3, 7)]
    documents.quarantine.put("d", lines)
    documents.quarantine.put("d", lines)
    documents.quarantine.put("e", [Rejected(line=1, offset=0, reason=Reason.TOO_LARGE, detail="", raw=b"x" * 200_000)])
    assert documents.quarantine.of_drop("d") == sorted(lines, key=lambda rejected: rejected.line)
    assert len(documents.quarantine.of_drop("e")[0].raw) == 65_536
    assert documents.quarantine.by_drop() == {"d": {"invalid_json": 3}, "e": {"too_large": 1}}
    assert (documents.quarantine.count(["d"]), documents.quarantine.count([])) == (3, 0)
    assert list(documents.quarantine.outdated("d", judged_in="r", from_line=7)) == [7, 12]
    assert documents.quarantine.remove("d", [3, 7, 12]) == 3
    assert documents.quarantine.of_drop("d") == [] and documents.quarantine.count(["e"]) == 1


def test_what_is_open_is_counted_without_looking_at_what_is_settled(documents: Documents) -> None:
    quarantine = documents.quarantine
    lines = [Rejected(line=n, offset=n, reason=Reason.INVALID_JSON, detail="why", raw=b"{") for n in range(20)]
    quarantine.put("d", lines)
    quarantine.put("e", lines[:1])
    assert quarantine.settle("d", how="discarded", run_id="r") == 20 and quarantine.settle("d", how="discarded", run_id="r") == 0
    quarantine.put("d", lines)
    assert (quarantine.count_open(), quarantine.by_drop()) == (1, {"e": {"invalid_json": 1}})
    plan = documents.database.command("explain", {"find": "quarantine", "filter": {"open": True}})["executionStats"]
    assert (plan["totalKeysExamined"], plan["totalDocsExamined"]) == (1, 1)
    quarantine.unsettle(["d"])
    assert quarantine.count_open() == 21


# -- embeddings ---------------------------------------------------------------------------------------------------------


def test_vectors_come_back_bit_by_bit(documents: Documents) -> None:
    stored = documents.embeddings
    vectors = np.random.default_rng(1).normal(size=(3, 8)).astype(np.float32)
    stored.put(["a", "b", "c"], vectors, model="m")
    stored.put(["a"], vectors[:1], model="m")
    stored.put([], np.zeros((0, 8), np.float32), model="m")
    found = stored.get(["c", "a", "unknown"])
    assert set(found) == {"a", "c"} and np.array_equal(found["c"], vectors[2])
    assert stored.present(["a", "x"]) == {"a"} and stored.count() == 3
    assert [key for key, _ in stored.scan()] == ["a", "b", "c"]


def test_a_text_that_has_a_vector_keeps_it_and_does_not_abort_the_transaction(documents: Documents) -> None:
    vectors = np.eye(3, dtype=np.float32)
    documents.embeddings.put(["a", "b"], vectors[:2], model="m")
    documents.transaction(lambda session: documents.embeddings.put(["c", "b"], vectors[[2, 0]], model="m", session=session))
    kept = documents.embeddings.get(["a", "b", "c"])
    assert {key: int(vector.argmax()) for key, vector in kept.items()} == {"a": 0, "b": 1, "c": 2}


def test_equal_texts_share_a_key_and_different_ones_do_not() -> None:
    texts = ["a", "A", "a ", "", "\x00", "é", "e\u0301", "\U0001f600"]
    assert len({text_hash(text) for text in texts}) == len(texts)
    assert text_hash("a") == text_hash("a")


def test_vectors_of_another_model_are_refused_until_all_are_forgotten(documents: Documents) -> None:
    stored = documents.embeddings
    assert stored.model() is None
    stored.agree_on("m1", 8)
    stored.agree_on("m1", 8)
    for other in (("m2", 8), ("m1", 9)):
        with pytest.raises(EmbeddingMismatch, match="m1"):
            stored.agree_on(*other)
    stored.put(["a"], np.ones((1, 8), np.float32), model="m1")
    stored.put_labels({"a": ("i", 0.9)}, version="v1")
    stored.set_label_version("v1")
    stored.put_mentions({"a": ["c"]})
    stored.set_mention_version("n1")
    stored.forget_all()
    assert (stored.model(), stored.label_version(), stored.count(), stored.labels(["a"])) == (None, None, 0, {})
    assert (stored.mention_version(), stored.mentions(["a"])) == (None, {})
    stored.agree_on("m2", 9)


def test_labels_are_kept_with_the_version_of_what_inferred_them(documents: Documents) -> None:
    stored = documents.embeddings
    stored.put_labels({"a": ("refund", 0.9), "b": (None, 0.0)}, version="v1")
    assert stored.labels(["a", "b", "c"]) == {"a": "refund"}
    assert stored.labelled(["a", "b", "c"], version="v1") == {"a", "b"}
    assert stored.labelled(["a"], version="v2") == set()
    stored.put_labels({"a": (None, 0.1)}, version="v2")
    assert stored.labels(["a"]) == {}


def test_what_a_text_names_is_replaced_and_goes_with_the_text(documents: Documents) -> None:
    stored = documents.embeddings
    stored.put(["a"], np.zeros((1, 3), np.float32), model="m")
    stored.put_mentions({"a": ["c_1", "c_2"], "b": ["c_1"], "c": []})
    assert stored.mentions(["a", "b", "c", "d"]) == {"a": ("c_1", "c_2"), "b": ("c_1",)}
    stored.put_mentions({"a": ["c_3"], "c": ["c_1"]})
    assert stored.mentions(["a", "b", "c"]) == {"a": ("c_3",), "b": ("c_1",), "c": ("c_1",)}
    stored.put_mentions({"c": []})
    [stray] = stored.stray_mentions()
    assert stray == ["b"] and stored.forget_mentions(stray) == 1
    stored.remove(["a"])
    assert documents.database["mentions"].count_documents({}) == 0


def test_what_an_older_version_of_the_code_applied_waits_again(documents: Documents) -> None:
    ledger = documents.ledger
    drops = [f"{number:064x}" for number in range(3)]
    ledger.claim_all([(drop, f"{drop}.json", 1) for drop in drops], run_id="r")

    def work(session: Any) -> None:
        for drop in drops:
            ledger.accept(drop, counts=Counts(), sinks=["intents", "cache"], run_id="r", session=session)
        ledger.mark("intents", drops[:1], run_id="r", token=1, code_version="1", session=session)
        ledger.mark("intents", drops[1:2], run_id="r", token=1, code_version="2", session=session)

    documents.transaction(work)
    ledger.reopen_outdated("intents", code_version="2")
    assert {entry.id for entry in ledger.pending("intents", upstream=())} == {drops[0], drops[2]}
    ledger.reopen_outdated("embeddings", code_version="2")
    assert ledger.pending("embeddings", upstream=()) == []


def test_serving_reads_the_old_collections_until_their_successors_are_full(documents: Documents) -> None:
    stored = documents.embeddings
    in_use = stored.collections_in_use()
    assert stored.collections_to_fill() == in_use and stored.use_filled_collections() is None
    stored.begin_new_collections()
    stored.begin_new_collections()
    filling = stored.collections_to_fill()
    assert (stored.collections_in_use(), filling != in_use) == (in_use, True)
    assert stored.use_filled_collections() == in_use
    assert (stored.collections_in_use(), stored.collections_to_fill()) == (filling, filling)
    assert stored.use_filled_collections() is None


def test_collections_are_named_until_they_have_been_dropped(documents: Documents) -> None:
    stored = documents.embeddings
    in_use = stored.collections_in_use()
    assert (stored.collections_named(), stored.beside(), stored.retired_collections()) == ([in_use], None, {})
    died = stored.begin_beside()
    beside = stored.begin_beside()
    assert (stored.beside(), stored.collections_in_use(), stored.collections_to_fill()) == (beside, in_use, in_use)
    assert beside != died and stored.collections_named() == sorted([in_use, beside])
    documents.transaction(lambda session: stored.use_beside(session=session))
    assert (stored.beside(), stored.collections_in_use(), stored.collections_to_fill()) == (None, beside, beside)
    assert stored.collections_named() == sorted([in_use, beside])
    [(retired, seconds)] = stored.retired_collections().items()
    assert retired == in_use and 0 <= seconds < 5
    stored.forget_collections(retired)
    assert stored.collections_named() == [beside]


def test_no_suffix_is_given_to_collections_twice(documents: Documents) -> None:
    stored = documents.embeddings
    given = [stored.collections_in_use()]
    for _ in range(2):
        given.append(stored.begin_beside())
        stored.forget_collections(given[-1])
        stored.begin_new_collections()
        given.append(stored.collections_to_fill())
        stored.use_filled_collections()
        stored.forget_collections(given[-1])
    assert len(set(given)) == len(given)


def test_what_another_model_had_begun_to_fill_is_retired_with_what_is_in_use(documents: Documents) -> None:
    stored = documents.embeddings
    in_use = stored.collections_in_use()
    stored.begin_new_collections()
    abandoned = stored.collections_to_fill()
    stored.begin_new_collections()
    assert (set(stored.retired_collections()), stored.collections_in_use()) == ({abandoned}, in_use)
    stored.use_filled_collections()
    assert set(stored.retired_collections()) == {abandoned, in_use}


def test_labels_of_other_versions_and_of_texts_without_a_vector_are_forgotten(documents: Documents) -> None:
    stored = documents.embeddings
    stored.put(["a", "b"], np.zeros((2, 3), np.float32), model="m")
    stored.put_labels({"a": ("x", 1.0), "c": ("x", 1.0)}, version="new")
    stored.put_labels({"b": ("x", 1.0)}, version="old")
    [outdated] = stored.outdated_labels("new")
    assert stored.forget_labels(outdated) == 2 and list(stored.outdated_labels("new")) == []
    assert stored.labels(["a", "b", "c"]) == {"a": "x"}


def test_users_come_in_order_each_once(documents: Documents) -> None:
    users = ["", "a", "b", "\U0001f600", "zz", "\uffee"]
    documents.records.insert([{**record(f"{user} {number}"), "user_id": user} for user in users for number in range(3)])
    for limit in (1, 4, 100):
        listed, page = [], [""]
        while page := documents.records.users_after(page[-1], limit=limit):
            listed += page
        assert sorted(listed) == sorted(users[1:]) and len(listed) == len(users) - 1
    assert documents.records.known_among(["a", "nobody", "zz"]) == {"a", "zz"}


def test_users_come_by_their_newest_record_each_once(documents: Documents) -> None:
    hours = {"a": (5, 1), "b": (4, 9), "c": (7,)}
    documents.records.insert(
        [record(f"m{user}{at}", user_id=user, hours=at, line=at) for user, times in hours.items() for at in times]
    )
    assert documents.records.newest_users(100) == ["b", "c", "a"]
    assert documents.records.newest_users(2) == ["b", "c"]


def test_what_was_applied_since_a_token(documents: Documents) -> None:
    ledger = documents.ledger
    for number, key in enumerate("abc"):
        ledger.claim_all([(key, key, 1)], run_id="r")
        documents.transaction(
            lambda session, key=key: ledger.accept(key, counts=Counts(), sinks=["s"], run_id="r", session=session)
        )
        documents.transaction(
            lambda session, key=key, token=number: ledger.mark(
                "s", [key], run_id="r", token=token, code_version="1", session=session
            )
        )
    assert [sorted(ledger.applied_since("s", token)) for token in (0, 1, 2)] == [["b", "c"], ["c"], []]
    assert ledger.applied_since("other", 0) == []


def test_what_was_overtaken_waits_until_it_is_marked_under_a_later_lease(documents: Documents) -> None:
    ledger = documents.ledger

    def waiting_when_marked(token: int) -> list[str]:
        documents.transaction(
            lambda session: ledger.mark("s", ["a", "b"], run_id="r", token=token, code_version="1", session=session)
        )
        return [entry.id for entry in ledger.pending("s", upstream=())]

    for key in "ab":
        ledger.claim_all([(key, key, 1)], run_id="r")
        documents.transaction(
            lambda session, key=key: ledger.accept(key, counts=Counts(), sinks=["s"], run_id="r", session=session)
        )
    ledger.overtake("s", ["a", "unknown"], token=5)  # while it waits
    assert [waiting_when_marked(token) for token in (5, 6)] == [["a"], []]
    ledger.overtake("s", ["a"], token=7)  # when it had been marked
    assert [waiting_when_marked(token) for token in (7, 8)] == [["a"], []]


def test_one_run_rebuilds_an_asset_the_latest(documents: Documents) -> None:
    rebuilds = documents.rebuilds
    assert rebuilds.begin("a", run_id="r1", token=1) is None
    assert rebuilds.begin("a", run_id="r2", token=2) == "r1"
    assert (rebuilds.run_of("a"), rebuilds.run_of("b")) == ("r2", None)
    rebuilds.end("a")
    assert rebuilds.run_of("a") is None


def test_centroids_of_other_runs_newest_first(documents: Documents) -> None:
    for number, run in enumerate(["r1", "r2", "r3", "r1"]):
        documents.embeddings.remember_centroid(run, np.full(2, number, np.float32))
        time.sleep(0.005)
    assert [vector.tolist() for vector in documents.embeddings.centroids_before("r2", limit=5)] == [[3, 3], [2, 2]]
    assert len(documents.embeddings.centroids_before("r9", limit=1)) == 1


# -- generations --------------------------------------------------------------------------------------------------------


def test_one_generation_is_in_force_and_a_candidate_serves_nobody(documents: Documents) -> None:
    generations = documents.generations
    assert (generations.candidate(), generations.in_force_id(), generations.in_force()) == (None, None, None)
    generations.put_candidate({"weights": [1.5]})
    assert generations.candidate() == {"weights": [1.5]} and generations.in_force() is None
    generations.publish("g_1", {"weights": [1.5]})
    generations.publish("g_2", {"weights": [2.5]})
    assert generations.in_force() == ("g_2", {"weights": [2.5]})


def test_rolling_back_undoes_what_was_put_in_force_last_as_often_as_there_is_something_before(documents: Documents) -> None:
    generations = documents.generations
    assert generations.former() is None
    for number in range(1, 5):
        generations.publish(f"g_{number}", {"fingerprint": f"f_{number}"}, reason=f"reason {number}")
    generations.put_in_force("g_2")
    assert (generations.in_force_id(), generations.former()) == ("g_2", "g_4")
    steps = []
    while generations.former():
        generations.roll_back()
        steps.append(generations.in_force_id())
    assert steps == ["g_4", "g_3", "g_1"]
    assert generations.withdrawn() == {"f_2", "f_3", "f_4"}
    generations.put_in_force("g_3")
    assert generations.withdrawn() == {"f_2", "f_4"}
    assert [(each.id, each.reason, each.withdrawn) for each in generations.all()] == [
        ("g_4", "reason 4", True), ("g_3", "reason 3", False), ("g_2", "reason 2", True), ("g_1", "reason 1", False),
    ]  # fmt: skip


def test_old_generations_are_forgotten_and_never_the_one_that_serves(documents: Documents) -> None:
    generations = documents.generations
    for number in range(1, 6):
        generations.publish(f"g_{number}", {"fingerprint": f"f_{number}"})
    generations.put_in_force("g_1")
    generations.put_candidate({"fingerprint": "f_6"})
    generations.forget_old(keep=2)
    assert [each.id for each in generations.all()] == ["g_5", "g_4", "g_1"]
    assert generations.fingerprints() == {"f_6", "f_5", "f_4", "f_1"}
    generations.roll_back()
    generations.roll_back()
    assert (generations.in_force_id(), generations.former()) == ("g_4", None)


def test_why_a_candidate_was_refused_is_forgotten_with_it(documents: Documents) -> None:
    generations = documents.generations
    assert generations.refusal() is None
    generations.put_candidate({"fingerprint": "f_1"})
    generations.refuse_candidate("it loses")
    assert generations.refusal() == "it loses"
    generations.put_candidate({"fingerprint": "f_2"})
    assert generations.refusal() is None


def test_relations_are_kept_by_model(documents: Documents) -> None:
    theirs = [Relation("a", "b", 0.5, 9), Relation("a", "c", 0.25, 3), Relation("b", "a", 0.75, 9)]
    for _ in range(2):
        documents.relations.put("f_1", theirs, run_id="r_1")
    documents.relations.put("f_2", theirs[2:], run_id="r_2")
    assert list(documents.relations.of("f_1")) == [("r_1", theirs[:2]), ("r_1", theirs[2:])]
    assert [documents.relations.count(each) for each in ("f_1", "f_2", "f_3")] == [3, 1, 0]
    documents.relations.keep_only({"f_2", "f_3"})
    assert [documents.relations.count(each) for each in ("f_1", "f_2")] == [0, 1]


def test_how_a_conversation_opens_is_kept_until_it_opens_otherwise_or_is_no_more(documents: Documents) -> None:
    stored = documents.conversations
    theirs = [Opening(name, f"u_{name}", f"said {name}", "words") for name in ("a", "b")]
    stored.put(theirs, np.eye(2, 3, dtype=np.float32))
    stored.put([replace(theirs[0], said="more")], np.full((1, 3), 0.5, dtype=np.float32))
    assert stored.said(["u_a", "u_b", "u_c"]) == {"a": "more", "b": "said b"}
    assert {name: vector.tolist() for name, (_, vector) in stored.everything().items()} == {"a": [0.5] * 3, "b": [0, 1, 0]}
    assert stored.openings(["u_a"]).keys() == {"a"}
    stored.remove({"a"})
    assert (stored.count_of("u_a"), stored.count_of("u_b")) == (0, 1)
    stored.remove_user("u_b")
    assert stored.everything() == {}


def test_the_report_of_a_candidate_is_kept_with_those_of_what_was_published(documents: Documents) -> None:
    generations = documents.generations
    generations.put_report("f_1", {"tuned_on": 1})
    generations.publish("g_1", {"fingerprint": "f_1"})
    generations.put_report("f_2", {"tuned_on": 2})
    generations.put_report("f_3", {"tuned_on": 3})
    assert [generations.report(name) for name in ("f_1", "f_2", "f_3")] == [{"tuned_on": 1}, None, {"tuned_on": 3}]


def test_everything_can_be_replayed_and_words_only_where_they_are_asked_for(documents: Documents) -> None:
    documents.records.insert(
        [said("m_1", "hello", intent="greeting"), said("m_2", "hello", hours=1), record("m_3", event="click", campaign_id="c")]
    )
    table = documents.records.replayable()
    assert set(table.schema) == set(COLUMNS)
    found = {row["_id"]: {field: value for field, value in row.items() if value is not None} for row in table.to_pylist()}
    assert set(found) == {"m_1", "m_2", "m_3"}
    assert set(found["m_1"]) == {"_id", "user_id", "timestamp", "event", "channel", "text_hash", "intent", "characters"}
    assert found["m_1"]["characters"] == 5
    assert found["m_3"]["campaign_id"] == "c"
    words = documents.records.replayable(words=True)
    assert words["message"].to_pylist().count("hello") == 2
    assert set(words.drop_columns("message").schema) == set(COLUMNS)


def test_what_was_read_of_one_state_is_handed_on_once_and_for_no_other_state(documents: Documents) -> None:
    records, read = documents.records, documents.records.replayable()
    assert records.handed_on("state") is None
    records.hand_on("state", read)
    assert records.handed_on("state") is read
    assert records.handed_on("state") is None
    records.hand_on("state", read)
    assert records.handed_on("another") is None
    assert records.handed_on("state") is None


def test_databases_do_not_see_each_other(new_documents: Callable[[], Documents]) -> None:
    ours, theirs = new_documents(), new_documents()
    ours.records.insert([record("m")])
    ours.ledger.claim_all([("d", "a", 1)], run_id="r")
    assert theirs.records.count() == 0 and theirs.ledger.claimed() == []


def test_who_unsubscribed_from_what_is_known_of_everybody(documents: Documents) -> None:
    gone = {"event": "unsubscribe"}
    documents.records.insert(
        [
            record("m1", **gone), record("m2", **gone | {"campaign_id": "c_1"}), record("m3", hours=1, **gone), record("m4"),
            record("m5", user_id="v", **gone | {"channel": "unknown"}), record("m6", user_id="w", event="dismiss", campaign_id="c_1"),
        ]
    )  # fmt: skip
    assert documents.records.unsubscribed() == {"u": {(None, "chat"), ("c_1", "chat")}, "v": {(None, "unknown")}}
    assert load_snapshot(documents).unsubscribed == documents.records.unsubscribed()


def put_texts(documents: Documents, *texts: str, at: float = 1.0) -> None:
    documents.embeddings.put([text_hash(text) for text in texts], np.full((len(texts), 2), at, np.float32), model="m")


def test_a_snapshot_reads_the_campaigns_texts_as_soon_as_they_have_vectors(documents: Documents) -> None:
    documents.catalog.put_campaigns([Campaign(campaign_id=name, name=f"Offer {name}") for name in ("a", "b")])
    put_texts(documents, "Offer a")
    first = load_snapshot(documents)
    assert (first.words.campaigns, first.words.unread) == (["a"], {text_hash("Offer b")})
    same = load_snapshot(documents, before=first)
    assert same.words is first.words and same.knowledge is first.knowledge
    put_texts(documents, "Offer b")
    then = load_snapshot(documents, before=same)
    assert (then.words.campaigns, then.words.unread) == (["a", "b"], set())
    assert then.campaigns is first.campaigns


def test_while_another_models_vectors_are_made_a_snapshot_keeps_those_that_peoples_are_compared_with(
    documents: Documents,
) -> None:
    documents.catalog.put_campaigns([Campaign(campaign_id="a", name="Offer a")])
    put_texts(documents, "Offer a")
    before = load_snapshot(documents)
    documents.embeddings.begin_new_collections()
    documents.embeddings.forget_all()
    put_texts(documents, "Offer a", at=-1.0)
    meanwhile = load_snapshot(documents, before=before)
    assert meanwhile.words is before.words
    assert load_snapshot(documents).words.campaigns == []
    documents.embeddings.use_filled_collections()
    after = load_snapshot(documents, before=meanwhile)
    [(_, cosine)] = after.words.similar_campaigns(np.ones(2, np.float32), limit=1)
    assert cosine == pytest.approx(-1)


def test_a_snapshot_holds_the_relations_of_the_generation_in_force(documents: Documents) -> None:
    for name, weight in (("g_1", 0.5), ("g_2", 0.25)):
        documents.relations.put(name, [Relation("a", "b", weight, 3)], run_id=f"run of {name}")
        documents.generations.publish(name, fit([], facts=0, fingerprint=name).model_dump())
    second = load_snapshot(documents)
    documents.generations.put_in_force("g_1")
    first = load_snapshot(documents, before=second)
    for snapshot, weight, run_id in ((first, 0.5, "run of g_1"), (second, 0.25, "run of g_2")):
        [vote] = snapshot.relations.related_campaigns({"a": 1.0}, limit=9)
        assert (vote.campaign_id, vote.score, vote.support, vote.run_id) == ("b", weight, 3, run_id)
    documents.generations.publish("g_3", first.model.model_dump())
    assert load_snapshot(documents, before=first).relations is first.relations


def test_where_a_persons_records_came_from_is_told_of_that_person_alone(documents: Documents) -> None:
    records = documents.records
    records.insert(
        [
            record("m1", hours=1, text_hash="t", message="words", line=7),
            record("m2", hours=3, text_hash="t", message="words", drop="d2"),
            record("c1", hours=2, event="click", campaign_id="c_1"),
            record("c2", hours=2, event="click", campaign_id="c_2"),
            record("all", hours=4, event="unsubscribe"),
            record("seen", hours=1, event="impression", campaign_id="c_2"),
            record("other", hours=9, user_id="v", text_hash="t", message="words", event="click", campaign_id="c_1"),
        ]
    )

    def ids(found: list[dict[str, Any]]) -> list[str]:
        assert not any("message" in one or "user_id" in one for one in found)
        return [one["_id"] for one in found]

    assert ids(records.newest_messages("u", limit=9)) == ["m2", "m1"]
    assert ids(records.newest_messages("u", limit=1)) == ["m2"]
    assert ids(records.between("u", "c_1", limit=9)) == ["all", "c1"]
    assert ids(records.done_with("u", "c_2")) == ["c2"]
    found = records.newest_messages("u", limit=9)[-1]
    assert (found["drop"], found["line"], found["event"]) == ("d1", 7, "message")


def test_which_messages_name_a_campaign_or_show_an_intent_is_told_of_one_person_alone(documents: Documents) -> None:
    gold, lost = text_hash("the gold card"), text_hash("I lost it")
    documents.embeddings.put_mentions({gold: ["c_0", "c_1"]})
    documents.embeddings.put_labels({gold: ("buy", 0.9), lost: (None, 0.1)}, version="v")
    records = documents.records
    records.insert(
        [
            said("m1", "the gold card"), said("m2", "the gold card", hours=2), said("m3", "I lost it", hours=1),
            said("m4", "the gold card", hours=3, intent="ask"), said("other", "the gold card", user_id="v"),
            record("m5", hours=4, event="click", campaign_id="c_1", intent="buy"), said("m6", "never read", hours=5),
        ]
    )  # fmt: skip
    assert [found["_id"] for found in records.naming("u", "c_1", limit=9)] == ["m4", "m2", "m1"]
    assert [found["_id"] for found in records.naming("u", "c_1", limit=2)] == ["m4", "m2"]
    assert records.naming("u", "c_2", limit=9) == []
    assert [found["_id"] for found in records.expressing("u", "buy", limit=9)] == ["m5", "m2", "m1"]
    assert [found["_id"] for found in records.expressing("u", "ask", limit=9)] == ["m4"]
    assert set(records.naming("u", "c_1", limit=1)[0]) == {"_id", "timestamp", "event", "drop", "line"}
