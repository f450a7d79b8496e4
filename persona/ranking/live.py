"""A person as they are now: what came in counts before the stores have it. Pure; by the projections that the pipeline is made of.

So an answer is the same whether it is made of the truth and what came in, or of the stores once they have all of it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TypeVar

from persona.language.mentions import NameFinder
from persona.projections import conversations
from persona.projections.engagements import engagement_of, expressed_intents, folded, mentions_of
from persona.ranking.context import CameIn, Context, Decision, Decisions
from persona.ranking.policy import by_campaign
from persona.ranking.recommender import BEGINNING, LONGEST_CAP
from persona.ranking.truth import Record, Truth
from persona.schemas import Engagement, Event, ExpressedIntent, Mention, Opening, Vector
from persona.stores.live import Learned, Live

Counted = TypeVar("Counted", ExpressedIntent, Mention)
Labels = Mapping[str, str]
"""The intent that a text shows, by the text's hash."""
Named = Mapping[str, Sequence[str]]
"""The campaigns that a text names, by the text's hash."""
LASTING = frozenset({Event.CONVERSION, Event.DISMISS, Event.UNSUBSCRIBE})


@dataclass(frozen=True)
class Missing:
    """What of a person's words has no vector yet."""

    texts: Mapping[str, str]
    """By hash."""
    openings: Sequence[Opening]

    def __bool__(self) -> bool:
        return bool(self.texts or self.openings)


def merged(stored: Sequence[Record], came_in: Iterable[Record]) -> list[Record]:
    """All records of a person, by time then id, each once: of one that is stored the stored one."""
    each = {record["_id"]: record for record in (*came_in, *stored)}
    return sorted(each.values(), key=lambda record: (record["timestamp"], record["_id"]))


def newest(records: Iterable[Record], at: datetime | None) -> datetime | None:
    """The latest of these times, which is what decay counts from."""
    return max((time for time in (at, *(record["timestamp"] for record in records)) if time is not None), default=None)


def texts_in(live: Live) -> set[str] | None:
    """The hashes of the texts that came in; None where nothing came in that says anything of what the person wants."""
    if not any("text_hash" in record or "intent" in record for record in live.records):
        return None
    return {record["text_hash"] for record in live.records if "text_hash" in record}


def missing(user_id: str, truth: Truth, said: Sequence[Record], live: Live) -> Missing:
    """What is to be encoded, so that the person's profile is what the pipeline will make it; `said` as `truth.said_by` gives it."""
    vectors, openings = vectors_of(truth, live.learned), openings_of(truth, live.learned)
    came_in = [record for record in live.records if "text_hash" in record]
    known = {conversation: what for conversation, (what, _) in openings.items()}
    return Missing(
        {record["text_hash"]: record["message"] for record in came_in if record["text_hash"] not in vectors},
        [
            opening
            for opening in conversations.openings_of(user_id, merged(said, came_in))
            if known.get(opening.conversation_id) != opening.said
        ],
    )


def vectors_of(truth: Truth, learned: Learned) -> dict[str, Vector]:
    """The vectors that there are of a person's texts, by hash."""
    return {**{key: text.vector for key, text in learned.texts.items() if text.model == truth.model}, **truth.vectors}


def openings_of(truth: Truth, learned: Learned) -> dict[str, tuple[str, Vector]]:
    """The vectors of how a person's conversations open, with what is said there; learned later than those that are stored."""
    fresh = {key: (found.said, found.vector) for key, found in learned.openings.items() if found.model == truth.model}
    return {**truth.openings, **fresh}


def context_now(context: Context, truth: Truth, live: Live, finder: NameFinder, *, at: datetime | None) -> Context:
    """The person's context by everything they ever said and did; policy sees what had been decided until `at` (None: all).

    Where no words came in, what the stores say of the person's words holds.
    """
    history = merged(truth.history, live.records)
    labels = {**_labels(live.learned, truth.model), **truth.labels}
    named = {**truth.named, **_named(live.records, finder)}
    done = replace(
        context,
        history=[engagement_of(pair) for pair in folded(history)],
        decisions=_decisions(history, at),
        came_in=[_came_in(record, labels, named) for record in live.records],
    )
    return done if texts_in(live) is None else _with_words(done, history, truth, live, labels, named)


def _with_words(context: Context, history: Sequence[Record], truth: Truth, live: Live, labels: Labels, named: Named) -> Context:
    user_id = str(context.user_id)
    vectors = vectors_of(truth, live.learned)
    encoded = [record for record in history if "text_hash" not in record or record["text_hash"] in vectors]
    profile = conversations.profile_of(user_id, encoded, vectors, openings_of(truth, live.learned))
    return replace(
        context,
        vector=profile.vector if profile else None,
        intents={expressed.intent: expressed for expressed in expressed_intents(history, labels)},
        mentioned={mention.campaign_id: mention for mention in mentions_of([user_id], history, named)[user_id]},
    )


def context_beside(context: Context, live: Live, finder: NameFinder, *, at: datetime | None) -> Context:
    """What came in, on top of what the other stores said, where the truth does not answer.

    They may have some of it already: then it counts twice, until the truth is back. The vector stays as it is stored.
    """
    user_id = str(context.user_id)
    came_in = merged((), live.records)
    expressed = expressed_intents(came_in, _labels(live.learned, None))
    mentioned = mentions_of([user_id], came_in, _named(came_in, finder))[user_id]
    engaged = {engagement.campaign_id: engagement for engagement in context.history}
    for engagement in map(engagement_of, folded(came_in)):
        before = engaged.get(engagement.campaign_id)
        engaged[engagement.campaign_id] = _together(before, engagement) if before else engagement
    decided = _decisions(came_in, at)
    return replace(
        context,
        intents={**context.intents, **{found.intent: _oftener(context.intents.get(found.intent), found) for found in expressed}},
        mentioned={
            **context.mentioned,
            **{found.campaign_id: _oftener(context.mentioned.get(found.campaign_id), found) for found in mentioned},
        },
        history=list(engaged.values()),
        decisions={
            campaign: [*context.decisions.get(campaign, ()), *decided.get(campaign, ())]
            for campaign in {*context.decisions, *decided}
        },
    )


def _came_in(record: Record, labels: Labels, named: Named) -> CameIn:
    words = record.get("text_hash", "")
    return CameIn(record, record.get("intent") or labels.get(words), named.get(words, ()))


def _labels(learned: Learned, model: str | None) -> dict[str, str]:
    return {
        key: text.intent
        for key, text in learned.texts.items()
        if text.intent is not None and (model is None or text.model == model)
    }


def _named(came_in: Iterable[Record], finder: NameFinder) -> dict[str, tuple[str, ...]]:
    return {record["text_hash"]: finder.find(record["message"]) for record in came_in if "text_hash" in record}


def _decisions(history: Iterable[Record], at: datetime | None) -> Decisions:
    now = at or datetime.now(UTC)
    shown_since = now - min(LONGEST_CAP, now - BEGINNING)
    return by_campaign(
        (
            Decision(record["event"], record.get("campaign_id"), record["channel"], record["timestamp"])
            for record in history
            if record["event"] in LASTING or (record["event"] == Event.IMPRESSION and record["timestamp"] >= shown_since)
        ),
        until=at,
    )


def _together(before: Engagement, new: Engagement) -> Engagement:
    later = new if new.last_at_ms >= before.last_at_ms else before
    return Engagement(
        user_id=new.user_id,
        campaign_id=new.campaign_id,
        weight=new.weight if new.weight < 0 else max(before.weight, new.weight),
        value=before.value + new.value,
        counts={event: before.counts.get(event, 0) + new.counts.get(event, 0) for event in {*before.counts, *new.counts}},
        first_at_ms=min(before.first_at_ms, new.first_at_ms),
        last_at_ms=later.last_at_ms,
        last_message_id=later.last_message_id,
    )


def _oftener(before: Counted | None, new: Counted) -> Counted:
    return new if before is None else replace(new, count=before.count + new.count)
