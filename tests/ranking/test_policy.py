"""What may be offered to whom: each rule, its words, and which of two speaks."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from persona.ranking.context import Context, Decision
from persona.ranking.policy import Request, Rule, by_campaign, rule_against
from persona.schemas import Campaign, Customer, FrequencyCap

NOW = datetime(2026, 1, 10, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def campaign(**fields: Any) -> Campaign:
    return Campaign(campaign_id="c_1", **fields)


def decided(
    event: str, campaign_id: str | None = "c_1", *, ago: timedelta = timedelta(days=1), channel: str = "email"
) -> Decision:
    return Decision(event=event, campaign_id=campaign_id, channel=channel, at=NOW - ago)


def rule(offered: Campaign, *decisions: Decision, customer: Customer | None = None, **request: Any) -> Rule | None:
    context = Context(user_id="u_1", customer=customer, decisions=by_campaign(decisions))
    return rule_against(offered, context, Request(**{"at": NOW, **request}))


def customer(**fields: Any) -> Customer:
    return Customer(user_id="u_1", **fields)


def test_nothing_speaks_against_a_plain_campaign() -> None:
    assert rule(campaign()) is None
    assert rule(campaign(), channel="email") is None


@pytest.mark.parametrize(
    "fields",
    [
        {"status": "draft"},
        {"status": "paused"},
        {"status": "ended"},
        {"starts_at": NOW + SECOND},
        {"ends_at": NOW},
        {"ends_at": NOW - SECOND},
    ],
)
def test_a_campaign_that_is_not_running_is_not_offered(fields: dict[str, Any]) -> None:
    assert rule(campaign(**fields)) == Rule.NOT_RUNNING


def test_a_campaign_runs_from_its_start_until_its_end() -> None:
    assert rule(campaign(starts_at=NOW, ends_at=NOW + SECOND)) is None


def test_running_is_judged_at_the_time_asked_about() -> None:
    offered = campaign(starts_at=NOW + timedelta(days=1), ends_at=NOW + timedelta(days=2))
    assert rule(offered, at=NOW + timedelta(days=1, hours=1)) is None
    assert rule(offered, at=NOW + timedelta(days=3)) == Rule.NOT_RUNNING


def test_a_campaign_is_offered_on_its_channels_only() -> None:
    offered = campaign(channels=["email", "push"])
    assert rule(offered, channel="sms") == Rule.OTHER_CHANNEL
    assert rule(offered, channel="push") is None
    assert rule(offered) is None


def test_the_caller_may_exclude() -> None:
    assert rule(campaign(), exclude={"c_1"}) == Rule.EXCLUDED
    assert rule(campaign(), exclude={"c_2"}) is None


def test_a_suppressed_person_is_offered_nothing() -> None:
    assert rule(campaign(), customer=customer(suppressed=True, consent=True)) == Rule.SUPPRESSED


@pytest.mark.parametrize(
    ("consent", "channel", "offered"),
    [
        (True, None, True),
        (True, "email", True),
        (False, None, False),
        (False, "email", False),
        ({"email": True, "sms": False}, "email", True),
        ({"email": True, "sms": False}, "sms", False),
        ({"email": True, "sms": False}, "push", False),
        ({"email": True, "sms": False}, None, True),
        ({"email": False}, None, False),
        ({}, None, False),
    ],
)
def test_consent_is_for_all_or_by_channel(consent: bool | dict[str, bool], channel: str | None, offered: bool) -> None:
    found = rule(campaign(requires_consent=True), customer=customer(consent=consent), channel=channel)
    assert found == (None if offered else Rule.NO_CONSENT)
    assert rule(campaign(), customer=customer(consent=consent), channel=channel) is None


def test_who_never_said_yes_has_not_consented() -> None:
    assert rule(campaign(requires_consent=True)) == Rule.NO_CONSENT
    assert rule(campaign(requires_consent=True), customer=customer()) == Rule.NO_CONSENT


def test_what_was_converted_on_is_not_offered_again_unless_repeats_are_wanted() -> None:
    assert rule(campaign(), decided("conversion")) == Rule.ALREADY_CONVERTED
    assert rule(campaign(), decided("conversion"), repeat_conversions=True) is None
    assert rule(campaign(), decided("conversion", "c_2")) is None


def test_what_was_dismissed_is_not_offered_again() -> None:
    assert rule(campaign(), decided("dismiss")) == Rule.DISMISSED
    assert rule(campaign(), decided("dismiss"), repeat_conversions=True) == Rule.DISMISSED
    assert rule(campaign(), decided("dismiss", "c_2")) is None


def test_unsubscribing_from_a_campaign_concerns_no_other() -> None:
    assert rule(campaign(), decided("unsubscribe")) == Rule.UNSUBSCRIBED
    assert rule(campaign(), decided("unsubscribe", "c_2")) is None


def test_unsubscribing_from_a_channel_concerns_what_can_only_go_out_there() -> None:
    gone = decided("unsubscribe", None, channel="email")
    assert rule(campaign(), gone, channel="email") == Rule.UNSUBSCRIBED
    assert rule(campaign(channels=["email"]), gone) == Rule.UNSUBSCRIBED
    assert rule(campaign(), gone, channel="push") is None
    assert rule(campaign(channels=["email", "push"]), gone) is None
    assert rule(campaign(), gone) is None


def test_unsubscribing_without_campaign_or_channel_concerns_everything() -> None:
    gone = decided("unsubscribe", None, channel="unknown")
    assert rule(campaign(), gone) == Rule.UNSUBSCRIBED
    assert rule(campaign(), gone, channel="push") == Rule.UNSUBSCRIBED


@pytest.mark.parametrize("event", ["impression", "open", "click", "reply", "message"])
def test_mere_contact_decides_nothing(event: str) -> None:
    assert rule(campaign(), *[decided(event)] * 9) is None


def test_the_cap_counts_impressions_of_the_campaign_within_its_days() -> None:
    capped = campaign(frequency_cap=FrequencyCap(count=2, days=7))
    seen = decided("impression", ago=timedelta(days=7))
    old = decided("impression", ago=timedelta(days=7) + SECOND)
    assert rule(capped, seen, seen) == Rule.FREQUENCY_CAP
    assert rule(capped, seen, old, old) is None
    assert rule(capped, seen, decided("impression", "c_2"), decided("click")) is None
    assert rule(campaign(), seen, seen) is None


@pytest.mark.parametrize("event", ["conversion", "dismiss", "unsubscribe", "impression"])
def test_what_a_clock_ahead_of_ours_says_was_decided_counts(event: str) -> None:
    capped = campaign(frequency_cap=FrequencyCap(count=1, days=7))
    assert rule(capped, decided(event, ago=-timedelta(hours=20))) is not None


def test_what_came_after_the_time_asked_about_is_not_known() -> None:
    before, after, everywhere = decided("dismiss", ago=SECOND), decided("dismiss"), decided("unsubscribe", None)
    assert by_campaign([before, after, everywhere], until=before.at - SECOND) == {"c_1": [after], None: [everywhere]}
    assert by_campaign([before, after], until=before.at) == {"c_1": [before, after]}


@pytest.mark.parametrize(
    ("channels", "consent", "gone", "expected"),
    [
        (["email", "sms"], {"email": True}, "email", Rule.UNSUBSCRIBED),
        (["email", "sms"], {"email": True, "sms": True}, "email", None),
        (["email", "sms"], True, "email", None),
        (["email", "sms"], {"push": True}, "email", Rule.NO_CONSENT),
        ([], {"email": True}, "email", Rule.UNSUBSCRIBED),
        ([], {"email": True}, "sms", None),
        ([], True, "email", None),
    ],
)
def test_without_a_channel_asked_for_one_and_the_same_has_consent_and_was_not_unsubscribed_from(
    channels: list[str], consent: bool | dict[str, bool], gone: str, expected: Rule | None
) -> None:
    offered = campaign(requires_consent=True, channels=channels)
    left = decided("unsubscribe", None, channel=gone)
    assert rule(offered, left, customer=customer(consent=consent)) is expected
    apart = [
        rule(offered, left, customer=customer(consent=consent), channel=channel) for channel in channels or ["email", "push"]
    ]
    assert (None in apart) == (expected is None)


def test_of_several_rules_the_first_in_their_order_speaks() -> None:
    offered: dict[str, Any] = {
        "status": "paused", "channels": ["push"], "requires_consent": True, "frequency_cap": FrequencyCap(count=1, days=7),
    }  # fmt: skip
    asked: dict[str, Any] = {"channel": "email", "exclude": {"c_1"}, "customer": customer(suppressed=True)}
    decisions = [decided("conversion"), decided("impression")]
    expected = [
        (Rule.NOT_RUNNING, lambda: offered.update(status="active")),
        (Rule.OTHER_CHANNEL, lambda: offered.update(channels=[])),
        (Rule.EXCLUDED, lambda: asked.update(exclude=())),
        (Rule.SUPPRESSED, lambda: asked.update(customer=customer())),
        (Rule.NO_CONSENT, lambda: asked.update(customer=customer(consent=True))),
        (Rule.FREQUENCY_CAP, decisions.pop),
        (Rule.ALREADY_CONVERTED, decisions.pop),
    ]
    for first, mend in expected:
        assert rule(campaign(**offered), *decisions, **asked) is first
        mend()
    assert rule(campaign(**offered), *decisions, **asked) is None
