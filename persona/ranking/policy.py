"""What may be offered to whom: the rules that take a campaign out, in their order. Pure."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Self

from persona.ranking.context import Context, Decision, Decisions
from persona.schemas import Campaign, Customer, Event

UNKNOWN_CHANNEL = "unknown"
"""What a record without a channel has: an unsubscribe on it concerns everything."""
ELSEWHERE = ""
"""Any channel that neither a consent nor an unsubscribe names."""


class Rule(StrEnum):
    """Why a campaign is not offered: a stable code, and its sentence for people."""

    sentence: str

    def __new__(cls, code: str, sentence: str) -> Self:
        rule = str.__new__(cls, code)
        rule._value_ = code
        rule.sentence = sentence
        return rule

    NOT_RUNNING = "not_running", "the campaign is not running"
    OTHER_CHANNEL = "other_channel", "the campaign does not run on this channel"
    EXCLUDED = "excluded", "excluded by the caller"
    SUPPRESSED = "suppressed", "the person is suppressed"
    NO_CONSENT = "no_consent", "the person has not consented"
    UNSUBSCRIBED = "unsubscribed", "the person has unsubscribed"
    DISMISSED = "dismissed", "the person dismissed it"
    FREQUENCY_CAP = "frequency_cap", "the frequency cap is reached"
    ALREADY_CONVERTED = "already_converted", "the person has already converted"
    NOT_PROPOSED = "not_proposed", "no channel proposes it for this person"
    """No rule of policy, and the only other way not to be offered."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the caller asked for, as far as policy is concerned."""

    at: datetime
    channel: str | None = None
    exclude: Collection[str] = ()
    repeat_conversions: bool = False


def by_campaign(decisions: Iterable[Decision], *, until: datetime | None = None) -> Decisions:
    """What had been decided `until` then; None: everything that is stored, also by a clock that is ahead of ours."""
    decided: defaultdict[str | None, list[Decision]] = defaultdict(list)
    for decision in decisions:
        if until is None or decision.at <= until:
            decided[decision.campaign_id].append(decision)
    return dict(decided)


def rule_against(campaign: Campaign, context: Context, request: Request) -> Rule | None:
    """The first rule that keeps this campaign from this person; None when it may be offered."""
    channel = request.channel
    if not _running(campaign, request.at):
        return Rule.NOT_RUNNING
    if channel is not None and campaign.channels and channel not in campaign.channels:
        return Rule.OTHER_CHANNEL
    if campaign.campaign_id in request.exclude:
        return Rule.EXCLUDED
    if context.customer is not None and context.customer.suppressed:
        return Rule.SUPPRESSED
    ways = _ways(campaign, context.customer, channel)
    if campaign.requires_consent:
        ways = {way for way in ways if context.customer is not None and context.customer.consents_to(way)}
        if not ways:
            return Rule.NO_CONSENT
    return _decided_against(campaign, ways, context, request)


def next_release(campaigns: Mapping[str, Campaign], decisions: Decisions, at: datetime) -> datetime | None:
    """When the first of the frequency caps that are reached lets a campaign go; None where none is reached."""
    releases: list[datetime] = []
    for campaign_id, decided in decisions.items():
        campaign = None if campaign_id is None else campaigns.get(campaign_id)
        if campaign is None or campaign.frequency_cap is None:
            continue
        cap = campaign.frequency_cap
        shown = sorted(_shown(decided, at, cap.days))
        if len(shown) >= cap.count:
            releases.append(shown[-cap.count] + timedelta(days=cap.days))
    return min(releases, default=None)


def _running(campaign: Campaign, at: datetime) -> bool:
    begun = campaign.starts_at is None or campaign.starts_at <= at
    over = campaign.ends_at is not None and campaign.ends_at <= at
    return campaign.status == "active" and begun and not over


def _ways(campaign: Campaign, customer: Customer | None, asked: str | None) -> set[str]:
    """The channels that it could be offered on: one of them has to pass every rule about channels."""
    if asked is not None:
        return {asked}
    if campaign.channels:
        return set(campaign.channels)
    return {ELSEWHERE, *(customer.consent if customer and isinstance(customer.consent, dict) else ())}


def _decided_against(campaign: Campaign, ways: Collection[str], context: Context, request: Request) -> Rule | None:
    ours = context.decisions.get(campaign.campaign_id, ())
    events = {decision.event for decision in ours}
    left = {decision.channel for decision in context.decisions.get(None, ()) if decision.event == Event.UNSUBSCRIBE}
    if Event.UNSUBSCRIBE in events or UNKNOWN_CHANNEL in left or left.issuperset(ways):
        return Rule.UNSUBSCRIBED
    if Event.DISMISS in events:
        return Rule.DISMISSED
    cap = campaign.frequency_cap
    if cap and len(_shown(ours, request.at, cap.days)) >= cap.count:
        return Rule.FREQUENCY_CAP
    if Event.CONVERSION in events and not request.repeat_conversions:
        return Rule.ALREADY_CONVERTED
    return None


def _shown(decisions: Sequence[Decision], at: datetime, days: float) -> list[datetime]:
    """When, of those times that count for a cap."""
    return [each.at for each in decisions if each.event == Event.IMPRESSION and at - each.at <= timedelta(days=days)]
