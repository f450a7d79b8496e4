"""Which sentences stand for an intent, and that the version moves with whatever a classifier depends on."""

from persona.language.intents import definition_texts, version
from persona.schemas import IntentDefinition


def test_an_intent_is_its_examples_its_description_and_its_name_in_words() -> None:
    assert definition_texts(IntentDefinition(intent="lost_card")) == ["lost card"]
    described = IntentDefinition(intent="lost_card", description="A card is gone.", examples=["Where is my card?", " "])
    assert definition_texts(described) == ["Where is my card?", "A card is gone.", "lost card"]


def test_the_version_moves_with_whatever_a_classifier_depends_on() -> None:
    one, two = IntentDefinition(intent="a", examples=["x"]), IntentDefinition(intent="b", examples=["y"])
    first = version([one, two], {"t1": "a", "t2": "b"}, "model@1/384")
    assert first == version([two, one], {"t2": "b", "t1": "a"}, "model@1/384")
    others = {
        version([one], {"t1": "a", "t2": "b"}, "model@1/384"),
        version([one, two], {"t1": "a", "t2": "b"}, "model@2/384"),
        version([one, two], {"t1": "a"}, "model@1/384"),
        version([one, two], {"t1": "a", "t2": "a"}, "model@1/384"),
        version([one, IntentDefinition(intent="b", examples=["z"])], {"t1": "a", "t2": "b"}, "model@1/384"),
    }
    assert len(others) == 5 and first not in others
