"""The words that come with an offer."""

from typing import Any

import pytest

from persona.ranking.explanation import reason_for
from persona.schemas import Campaign

CAMPAIGNS = {"c_1": Campaign(campaign_id="c_1", name="By the sea"), "c_2": Campaign(campaign_id="c_2")}


@pytest.mark.parametrize(
    ("evidence", "sentence"),
    [
        ({"channel": "similar_users", "users": 1}, "People with similar conversations engaged with this (1 person)."),
        ({"channel": "similar_users", "users": 12}, "People with similar conversations engaged with this (12 people)."),
        (
            {"channel": "similar_conversations", "conversations": 1},
            "Similar conversations named or led to this (1 conversation).",
        ),
        (
            {"channel": "similar_conversations", "conversations": 2},
            "Similar conversations named or led to this (2 conversations).",
        ),
        (
            {"channel": "related", "because": "c_1", "support": 12},
            "It goes together with “By the sea” (12 people engaged with both).",
        ),
        ({"channel": "related", "because": "c_2", "support": 2}, "It goes together with “c_2” (2 people engaged with both)."),
        ({"channel": "related", "because": "gone", "support": 2}, "It goes together with “gone” (2 people engaged with both)."),
        (
            {"channel": "intents", "intent": "family_holidays", "messages": 1},
            "It answers the intent “family holidays”, expressed once.",
        ),
        ({"channel": "intents", "intent": "running", "messages": 3}, "It answers the intent “running”, expressed 3 times."),
        ({"channel": "mentions", "messages": 1, "message_id": "m_1"}, "You mentioned it once."),
        ({"channel": "mentions", "messages": 3}, "You mentioned it 3 times."),
        ({"channel": "content", "similarity": 0.416}, "Its description is close to what was said (similarity 0.42)."),
        ({"channel": "engagement", "conversions": 1}, "It does well with everyone now (1 conversion)."),
        ({"channel": "engagement", "conversions": 7}, "It does well with everyone now (7 conversions)."),
        ({"channel": "engagement", "conversions": 0}, "Nothing speaks against it, and little is known yet."),
    ],
)
def test_each_channel_says_why_in_a_sentence(evidence: dict[str, Any], sentence: str) -> None:
    assert reason_for([evidence], CAMPAIGNS) == sentence


def test_the_strongest_two_make_one_sentence() -> None:
    evidence = [
        {"channel": "similar_users", "users": 2},
        {"channel": "content", "similarity": 0.5},
        {"channel": "engagement", "conversions": 7},
    ]
    assert reason_for(evidence, CAMPAIGNS) == (
        "People with similar conversations engaged with this (2 people); "
        "its description is close to what was said (similarity 0.50)."
    )


def test_that_nothing_is_known_is_no_second_reason() -> None:
    evidence = [{"channel": "content", "similarity": 0.5}, {"channel": "engagement", "conversions": 0}]
    assert reason_for(evidence, CAMPAIGNS) == "Its description is close to what was said (similarity 0.50)."
