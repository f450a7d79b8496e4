"""What intent inference promises: the nearest examples decide, far texts get none, and the version moves with its inputs."""

import numpy as np

from persona.language.encoder import load_encoder
from persona.language.intents import IntentGuess, NearestExamples, definition_texts, version
from persona.schemas import IntentDefinition, Vectors
from persona.settings import Settings
from persona.synthetic import generate


def unit(*rows: tuple[float, ...]) -> Vectors:
    vectors = np.array(rows, dtype=np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


EXAMPLES = {"north": unit((0, 1, 0), (0.1, 1, 0), (1, 0.9, 0)), "east": unit((1, 0, 0))}


def test_the_nearest_examples_decide() -> None:
    classifier = NearestExamples.fit(EXAMPLES, threshold=0.5)
    north, east, none = classifier.classify(unit((0, 1, 0), (1, 0.05, 0), (0, 0, 1)))
    assert north is not None and north.intent == "north" and north.score > 0.99
    assert east is not None and east.intent == "east"
    assert none is None


def test_scores_are_means_over_the_two_nearest() -> None:
    classifier = NearestExamples.fit(EXAMPLES, threshold=0.5)
    assert classifier.intents == ("east", "north")
    query = unit((0, 1, 0))
    expected = np.sort(EXAMPLES["north"] @ query[0])[-2:].mean()
    np.testing.assert_allclose(classifier.scores(query), [[0.0, expected]], atol=1e-6)


def test_ties_go_to_the_first_name_in_any_order() -> None:
    same = unit((1, 0))
    for order in (("b", "a", "c"), ("c", "b", "a")):
        assert NearestExamples.fit(dict.fromkeys(order, same), 0.5).classify(same) == [IntentGuess("a", 1.0)]


def test_an_empty_catalog_abstains() -> None:
    nothing = np.zeros((0, 3), dtype=np.float32)
    assert NearestExamples.fit({}, 0.5).classify(unit((1, 0, 0))) == [None]
    assert NearestExamples.fit({"a": nothing}, 0.5).classify(unit((1, 0, 0))) == [None]
    assert NearestExamples.fit(EXAMPLES, 0.5).classify(nothing) == []


def test_a_name_stands_in_where_there_are_no_examples() -> None:
    assert definition_texts(IntentDefinition(intent="lost_card")) == ["lost card"]
    described = IntentDefinition(intent="lost_card", description="A card is gone.")
    assert definition_texts(described) == ["A card is gone.", "lost card"]
    with_examples = IntentDefinition(intent="lost_card", description="A card is gone.", examples=["Where is my card?", " "])
    assert definition_texts(with_examples) == ["Where is my card?", "A card is gone."]


def test_the_version_moves_with_whatever_a_label_depends_on() -> None:
    one, two = IntentDefinition(intent="a", examples=["x"]), IntentDefinition(intent="b", examples=["y"])
    first = version([one, two], "model@1/384", 0.45)
    assert first == version([two, one], "model@1/384", 0.45)
    others = {
        version([one], "model@1/384", 0.45),
        version([one, two], "model@2/384", 0.45),
        version([one, two], "model@1/384", 0.5),
        version([one, IntentDefinition(intent="b", examples=["z"])], "model@1/384", 0.45),
    }
    assert len(others) == 4 and first not in others


def test_generated_talk_is_understood_and_small_talk_is_left_alone() -> None:
    encoder = load_encoder(Settings(_env_file=None))  # type: ignore[call-arg]
    world = generate(messages=800)
    definitions = [IntentDefinition.model_validate(entry) for entry in world.intent_catalog()]
    classifier = NearestExamples.fit({each.intent: encoder.encode(definition_texts(each)) for each in definitions})
    labelled = [(record["message"], record["intent"]) for record in world.records() if "intent" in record]
    guesses = classifier.classify(encoder.encode([text for text, _ in labelled]))
    right = [guess is not None and guess.intent == intent for guess, (_, intent) in zip(guesses, labelled, strict=True)]
    assert np.mean(right) > 0.85
    chatter = ["thanks, that is all for today", "Invoice 4711 arrived twice.", "haha yes, lovely indeed", "is anybody there?"]
    assert classifier.classify(encoder.encode(chatter)) == [None] * len(chatter)
