"""What ties a person to a campaign or an intent, folded from their records. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from persona.schemas import Engagement, Event, ExpressedIntent, Fact, Mention

EVENT_WEIGHTS: dict[Event, float] = {
    Event.IMPRESSION: 0.05,
    Event.OPEN: 0.2,
    Event.MESSAGE: 0.4,
    Event.CLICK: 0.5,
    Event.REPLY: 0.7,
    Event.CONVERSION: 1.0,
    Event.DISMISS: -1.0,
    Event.UNSUBSCRIBE: -1.0,
}
"""How strongly an event ties a person to a campaign, in [-1, 1]."""
MENTION_WEIGHT = 1.0
"""How strongly naming a campaign ties a conversation to it, on the scale of the events: people name what they care for."""
NEGATIVE = frozenset({Event.DISMISS, Event.UNSUBSCRIBE})
EVENT_NAMES = tuple(event.value for event in Event)


def folded(history: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The (user, campaign) pairs of these records, each folded as `Records.folded_pairs` folds those that are stored."""
    pairs: dict[tuple[str, str], dict[str, Any]] = {}
    for record in history:
        if "campaign_id" not in record:
            continue
        key, at = (record["user_id"], record["campaign_id"]), record["timestamp"]
        last = {"at": at, "message_id": record["_id"]}
        pair = pairs.setdefault(
            key,
            {
                "_id": dict(zip(("user_id", "campaign_id"), key, strict=True)), **dict.fromkeys(EVENT_NAMES, 0), "value": 0,
                "first_at": at, "last": last, "last_negative_at": None, "last_positive_at": None,
            },
        )  # fmt: skip
        sign = "last_negative_at" if record["event"] in NEGATIVE else "last_positive_at"
        pair[record["event"]] += 1
        pair["value"] += record.get("value", 0)
        pair["first_at"] = min(pair["first_at"], at)
        pair["last"] = max(pair["last"], last, key=lambda end: (end["at"], end["message_id"]))
        pair[sign] = at if pair[sign] is None else max(pair[sign], at)
    return list(pairs.values())


def engagement_of(pair: Mapping[str, Any]) -> Engagement:
    """One folded (user, campaign) pair, as `Records.folded_pairs` gives it.

    The strongest event counts; a dismiss or an unsubscribe that nothing came after makes the tie negative.
    """
    counts = {name: pair[name] for name in EVENT_NAMES if pair[name]}
    return Engagement(
        user_id=pair["_id"]["user_id"],
        campaign_id=pair["_id"]["campaign_id"],
        weight=_weight(counts, pair["last_positive_at"], pair["last_negative_at"]),
        value=float(pair["value"]),
        counts=counts,
        first_at_ms=_ms(pair["first_at"]),
        last_at_ms=_ms(pair["last"]["at"]),
        last_message_id=pair["last"]["message_id"],
    )


def expressed_intents(history: Iterable[Mapping[str, Any]], inferred: Mapping[str, str]) -> list[ExpressedIntent]:
    """The intents each user expressed; `history` by user and time, `inferred` maps text hash to intent. A given intent wins."""
    folded: dict[tuple[str, str], ExpressedIntent] = {}
    for record in history:
        intent = record.get("intent") or inferred.get(record.get("text_hash", ""))
        if intent is None:
            continue
        key = (record["user_id"], intent)
        before = folded.get(key)
        folded[key] = ExpressedIntent(
            user_id=record["user_id"],
            intent=intent,
            count=(before.count if before else 0) + 1,
            last_at_ms=_ms(record["timestamp"]),
            last_message_id=record["_id"],
        )
    return list(folded.values())


def mentions_of(
    users: Iterable[str], history: Iterable[Mapping[str, Any]], named: Mapping[str, Sequence[str]]
) -> dict[str, list[Mention]]:
    """The campaigns that each of these users' messages name, by user id.

    `history` is by user and time, `named` maps text hash to the ids of the campaigns in the text. Who named none has an empty list.
    """
    folded: dict[str, dict[str, Mention]] = {user: {} for user in users}
    for record in history:
        of_user = folded[record["user_id"]]
        for campaign in named.get(record.get("text_hash", ""), ()):
            before = of_user.get(campaign)
            of_user[campaign] = Mention(
                campaign_id=campaign,
                count=(before.count if before else 0) + 1,
                last_at_ms=_ms(record["timestamp"]),
                last_message_id=record["_id"],
            )
    return {user: list(mentions.values()) for user, mentions in folded.items()}


def fact_of(record: Mapping[str, Any]) -> Fact:
    """The warehouse's row of a record that names a campaign. Only a given intent is a fact: an inferred one may change."""
    return Fact(
        message_id=record["_id"],
        drop=record["drop"],
        user_id=record["user_id"],
        campaign_id=record["campaign_id"],
        event=record["event"],
        channel=record["channel"],
        intent=record.get("intent"),
        value=record.get("value"),
        at_ms=_ms(record["timestamp"]),
    )


def _weight(counts: Mapping[str, int], last_positive_at: datetime | None, last_negative_at: datetime | None) -> float:
    if last_negative_at is not None and (last_positive_at is None or last_negative_at >= last_positive_at):
        return -1.0
    return max(EVENT_WEIGHTS[Event(name)] for name in counts)


def _ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)
