"""What is said about an offer: its evidence, and the reason in plain words. Pure."""

from collections.abc import Mapping
from typing import Any

from persona.ranking.fusion import Fused
from persona.ranking.policy import Rule
from persona.schemas import Campaign

DIVERSITY = "diversity"


def evidence_of(fused: Fused, *, moved_down: int = 0) -> list[dict[str, Any]]:
    """Each channel's part in the score, strongest first, and last how many places it was moved down for variety."""
    moved = [{"channel": DIVERSITY, "score": 0.0, "contribution": 0.0, "moved_down": moved_down}] if moved_down else []
    return [*fused.evidence, *moved]


def reason_for(evidence: list[dict[str, Any]], campaigns: Mapping[str, Campaign]) -> str:
    """One sentence from the strongest evidence, with the second where there is one that says something.

    Campaigns that the evidence names are called as in `campaigns`, by their id where they have no name.
    """
    second = [part for part in evidence[1:2] if part.get("conversions") != 0 and part["channel"] != DIVERSITY]
    sentences = [_sentence(part, campaigns) for part in evidence[:1] + second]
    return "; ".join([sentences[0], *(sentence[0].lower() + sentence[1:] for sentence in sentences[1:])]) + "."


def reason_against(rule: Rule) -> str:
    """One sentence from what keeps a campaign out."""
    return f"Not offered: {rule.sentence}."


def _sentence(part: Mapping[str, Any], campaigns: Mapping[str, Campaign]) -> str:
    match part["channel"]:
        case "similar_users":
            return f"People with similar conversations engaged with this ({_count(part['users'], 'person', 'people')})"
        case "similar_conversations":
            return (
                f"Similar conversations named or led to this ({_count(part['conversations'], 'conversation', 'conversations')})"
            )
        case "related":
            known = campaigns.get(part["because"])
            name = known.name if known and known.name else part["because"]
            return f"It goes together with “{name}” ({_count(part['support'], 'person', 'people')} engaged with both)"
        case "intents":
            return f"It answers the intent “{part['intent'].replace('_', ' ')}”, expressed {_times(part['messages'])}"
        case "mentions":
            return f"You mentioned it {_times(part['messages'])}"
        case "content":
            return f"Its description is close to what was said (similarity {part['similarity']:.2f})"
        case "engagement" if part["conversions"]:
            return f"It does well with everyone now ({_count(part['conversions'], 'conversion', 'conversions')})"
        case _:
            return "Nothing speaks against it, and little is known yet"


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
