"""What may be offered to whom: the rules that take a campaign out, in their order. Pure."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Self

from persona.ranking.context import Context, Decision
from persona.schemas import Campaign, Customer, Event

UNKNOWN_CHANNEL = "unknown"
"""What a record without a channel has: an unsubscribe on it concerns everything."""


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
    if campaign.requires_consent and not _consents(context.customer, campaign, channel):
        return Rule.NO_CONSENT
    return _decided_against(campaign, context, request)


def _running(campaign: Campaign, at: datetime) -> bool:
    begun = campaign.starts_at is None or campaign.starts_at <= at
    over = campaign.ends_at is not None and campaign.ends_at <= at
    return campaign.status == "active" and begun and not over


def _decided_against(campaign: Campaign, context: Context, request: Request) -> Rule | None:
    until_now = [decision for decision in context.decisions if decision.at <= request.at]
    ours = [decision for decision in until_now if decision.campaign_id == campaign.campaign_id]
    events = {decision.event for decision in ours}
    everywhere = {
        decision.channel for decision in until_now if decision.event == Event.UNSUBSCRIBE and decision.campaign_id is None
    }
    if Event.UNSUBSCRIBE in events or _unsubscribed(everywhere, campaign, request.channel):
        return Rule.UNSUBSCRIBED
    if Event.DISMISS in events:
        return Rule.DISMISSED
    if campaign.frequency_cap and _impressions(ours, request.at, campaign.frequency_cap.days) >= campaign.frequency_cap.count:
        return Rule.FREQUENCY_CAP
    if Event.CONVERSION in events and not request.repeat_conversions:
        return Rule.ALREADY_CONVERTED
    return None


def _impressions(decisions: Sequence[Decision], at: datetime, days: float) -> int:
    return sum(decision.event == Event.IMPRESSION and at - decision.at <= timedelta(days=days) for decision in decisions)


def _consents(customer: Customer | None, campaign: Campaign, asked: str | None) -> bool:
    if customer is None:
        return False
    if asked is None and campaign.channels:
        return any(customer.consents_to(channel) for channel in campaign.channels)
    return customer.consents_to(asked)


def _unsubscribed(channels: Collection[str], campaign: Campaign, asked: str | None) -> bool:
    """Whether unsubscribes without a campaign, each from its channel or from everything, leave no way to offer this one."""
    if UNKNOWN_CHANNEL in channels:
        return True
    return asked in channels if asked is not None else bool(campaign.channels) and set(campaign.channels) <= set(channels)
