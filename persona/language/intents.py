"""Which sentences stand for an intent, and the version of what is learned from them. How it is learned is `classifier`'s."""

import hashlib
import json
from collections.abc import Iterable, Mapping

from persona.language.classifier import METHOD
from persona.schemas import IntentDefinition


def definition_texts(definition: IntentDefinition) -> list[str]:
    """The sentences that stand for an intent: its examples, its description, and its name in words."""
    name = definition.intent.replace("_", " ").replace("-", " ")
    return list(dict.fromkeys(text for text in (*definition.examples, definition.description, name) if text.strip()))


def version(definitions: Iterable[IntentDefinition], given: Mapping[str, str], encoder_fingerprint: str) -> str:
    """A short hash of all that a classifier depends on; the order of definitions and of given examples does not matter.

    `given` maps the hash of a message to the intent that it is learned to show.
    """
    catalog = sorted((definition.intent, definition_texts(definition)) for definition in definitions)
    inputs = json.dumps([catalog, sorted(given.items()), encoder_fingerprint, METHOD], ensure_ascii=True)
    return hashlib.sha256(inputs.encode()).hexdigest()[:12]
