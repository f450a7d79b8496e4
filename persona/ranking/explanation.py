"""Reasons in plain words, from the evidence. Pure."""

from collections.abc import Mapping
from typing import Any


def reason_for(evidence: list[dict[str, Any]]) -> str:
    """One sentence from the strongest evidence, with the second where there is one that says something."""
    sentences = [_sentence(part) for part in evidence[:1] + [part for part in evidence[1:2] if part.get("conversions") != 0]]
    return "; ".join([sentences[0], *(sentence[0].lower() + sentence[1:] for sentence in sentences[1:])]) + "."


def _sentence(part: Mapping[str, Any]) -> str:
    match part["channel"]:
        case "similar_users":
            return f"People with similar conversations engaged with this ({_count(part['users'], 'person', 'people')})"
        case "similar_conversations":
            return (
                f"Similar conversations named or led to this ({_count(part['conversations'], 'conversation', 'conversations')})"
            )
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
