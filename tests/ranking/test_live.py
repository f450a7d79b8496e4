"""However a person's records are split between the truth and what came in, they are the same person."""

import json
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from persona.intake.arrivals import live_record
from persona.intake.parse import RawRecord
from persona.intake.records import to_document
from persona.language.mentions import NameFinder
from persona.projections.conversations import openings_of
from persona.projections.engagements import engagement_of, folded
from persona.ranking.context import Context
from persona.ranking.live import context_beside, context_now, merged, missing, newest, texts_in
from persona.ranking.truth import Truth
from persona.schemas import Campaign
from persona.stores.documents import Documents
from persona.stores.live import Learned, LearnedOpening, LearnedText, Live
from tests.pipeline.conftest import CAMPAIGNS, ENCODER, INTENTS, history

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MODEL = ENCODER.fingerprint
FINDER = NameFinder([Campaign(campaign_id=key, name=f"Offer {key}") for key in CAMPAIGNS])
NOBODY = Context("u_1")


def documents_of(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    raws = [json.dumps(record).encode() for record in records]
    judged = [to_document(RawRecord(line, 0, raw, len(raw)), drop="d", now=NOW) for line, raw in enumerate(raws, 1)]
    return [document for document in judged if isinstance(document, dict)]


STORED = documents_of(history(messages=200))
RECORDS = merged((), [live_record(document) for document in STORED if document["user_id"] == "u_1"])
TEXTS = {record["text_hash"]: record["message"] for record in RECORDS if "message" in record}
VECTORS = dict(zip(TEXTS, ENCODER.encode(TEXTS.values()), strict=True))
LABELS = {key: intent for key, text in TEXTS.items() for intent in INTENTS if intent in text}
OPENINGS = {
    opening.conversation_id: (opening.said, ENCODER.encode([opening.words])[0])
    for opening in openings_of("u_1", [record for record in RECORDS if "message" in record])
}


def truth(records: list[dict[str, Any]]) -> Truth:
    texts = {record["text_hash"] for record in records if "text_hash" in record}
    said = [record for record in records if "message" in record]
    return Truth(
        records,
        MODEL,
        {key: VECTORS[key] for key in texts},
        {key: LABELS[key] for key in texts if key in LABELS},
        {key: FINDER.find(TEXTS[key]) for key in texts},
        {key: OPENINGS[key] for key in (opening.conversation_id for opening in openings_of("u_1", said)) if key in OPENINGS},
    )  # fmt: skip


def live(records: list[dict[str, Any]]) -> Live:
    texts = {record["text_hash"] for record in records if "text_hash" in record}
    learned = {key: LearnedText(MODEL, LABELS.get(key), VECTORS[key]) for key in texts}
    return Live(records, Learned(learned, {key: LearnedOpening(MODEL, *found) for key, found in OPENINGS.items()}))


def plain(context: Context) -> Any:
    vector = None if context.vector is None else np.round(context.vector, 6).tolist()
    engaged = sorted(
        (tie.campaign_id, tie.weight, tuple(sorted(tie.counts.items())), tie.last_message_id) for tie in context.history
    )
    decided = {key: sorted((each.event, each.at) for each in found) for key, found in context.decisions.items()}
    return vector, dict(sorted(context.intents.items())), dict(sorted(context.mentioned.items())), engaged, decided


@pytest.mark.parametrize(("end", "begin"), [(0, 0), (7, 7), (25, 20), (len(RECORDS) - 1, len(RECORDS) - 1), (len(RECORDS), 3)])
def test_the_context_is_that_of_all_records(end: int, begin: int) -> None:
    whole = plain(context_now(NOBODY, truth(RECORDS), live(RECORDS), FINDER, at=NOW))
    assert all(whole)
    stored = context_now(NOBODY, truth(RECORDS[:end]), live(RECORDS[:end]), FINDER, at=NOW)
    assert plain(context_now(stored, truth(RECORDS[:end]), live(RECORDS[begin:]), FINDER, at=NOW)) == whole


def test_events_alone_leave_what_the_stores_say_of_words() -> None:
    said = Context("u_1", vector=VECTORS[next(iter(VECTORS))])
    clicks = [record for record in RECORDS if "text_hash" not in record and "intent" not in record]
    assert texts_in(Live(clicks)) is None
    found = context_now(said, Truth(RECORDS), Live(clicks), FINDER, at=NOW)
    assert found.vector is said.vector and found.history


def test_words_without_a_vector_count_by_what_they_name_and_are_missing() -> None:
    named = next(record for record in reversed(RECORDS) if "message" in record and FINDER.find(record["message"]))
    others = [record for record in RECORDS if record.get("text_hash") != named["text_hash"]]
    came_in = Live([named])
    found = context_now(NOBODY, truth(others), came_in, FINDER, at=NOW)
    [campaign] = FINDER.find(named["message"])
    before = context_now(NOBODY, truth(others), live(others), FINDER, at=NOW).mentioned.get(campaign)
    assert found.mentioned[campaign].count == (before.count if before else 0) + 1
    said = [record for record in others if "message" in record]
    assert missing("u_1", truth(others), said, came_in).texts == {named["text_hash"]: named["message"]}


def test_beside_the_other_stores_what_came_in_adds_up() -> None:
    half = len(RECORDS) // 2
    stored = context_now(NOBODY, truth(RECORDS[:half]), live(RECORDS[:half]), FINDER, at=NOW)
    found = context_beside(stored, live(RECORDS[half:]), FINDER, at=NOW)
    whole = context_now(NOBODY, truth(RECORDS), live(RECORDS), FINDER, at=NOW)
    assert plain(found)[1:3] == plain(whole)[1:3] and plain(found)[4] == plain(whole)[4]
    counts = {tie.campaign_id: dict(tie.counts) for tie in found.history}
    assert {key: {event: n for event, n in count.items() if n} for key, count in counts.items()} == {
        tie.campaign_id: dict(tie.counts) for tie in whole.history
    }


def test_time_moves_on_with_what_came_in_and_never_back() -> None:
    assert newest(RECORDS, None) == newest(RECORDS, RECORDS[0]["timestamp"]) == RECORDS[-1]["timestamp"]
    assert newest(RECORDS, NOW) == NOW and newest([], None) is None


def test_folding_here_is_folding_there(documents: Documents) -> None:
    documents.records.insert(STORED)
    for user in ("u_0", "u_1", "u_2"):
        here = {pair["_id"]["campaign_id"]: engagement_of(pair) for pair in folded(documents.records.history_of(user))}
        there = {pair["_id"]["campaign_id"]: engagement_of(pair) for pair in documents.records.folded_pairs([user])}
        assert here == there and here
