"""What the classifier of intents promises: the nearest meaning wins, none is an answer, probabilities are fair, the same from storage."""

import subprocess
import sys

import numpy as np
import pytest

from persona.language.answers import shown, shown_by_each
from persona.language.classifier import IntentClassifier, IntentGuess
from persona.language.encoder import load_encoder
from persona.language.intents import definition_texts
from persona.schemas import IntentDefinition, Vectors
from persona.settings import Settings
from persona.synthetic import generate

THRESHOLD = 0.35


def unit(rows: object) -> Vectors:
    vectors = np.asarray(rows, dtype=np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


def clouds(intents: int, each: int, *, seed: int = 0, spread: float = 0.8, dimension: int = 32) -> dict[str, Vectors]:
    """So many examples of each of these intents, scattered about a direction of its own."""
    centres = unit(np.random.default_rng(99).normal(size=(60, dimension)))[:intents]
    dice = np.random.default_rng(seed)
    noise = spread / np.sqrt(dimension)
    return {f"i{n:02d}": unit(centre + noise * dice.normal(size=(each, dimension))) for n, centre in enumerate(centres)}


EXAMPLES = {"north": unit([(0, 1, 0), (0.1, 1, 0), (0.6, 0.8, 0)]), "east": unit([(1, 0, 0)])}


def test_what_is_near_to_an_intent_shows_it_and_what_is_far_from_all_shows_none() -> None:
    classifier = IntentClassifier.fit(EXAMPLES)
    north, east, none = classifier.classify(unit([(0, 1, 0), (1, 0.02, 0), (0, 0, 1)]), THRESHOLD)
    assert north is not None and north.intent == "north" and north.probability > 0.8
    assert east is not None and east.intent == "east"
    assert none is None


def test_rows_lack_to_one_what_none_has() -> None:
    classifier = IntentClassifier.fit(EXAMPLES)
    assert classifier.intents == ("east", "north")
    near, far = classifier.probabilities(unit([(0, 1, 0), (0, 0, 1)])).sum(axis=1)
    assert 1 > near > 0.9 and far < 0.1


@pytest.mark.parametrize("order", [("b", "a", "c"), ("c", "b", "a")])
def test_ties_go_to_the_first_name_in_any_order(order: tuple[str, ...]) -> None:
    same = unit([(1, 0)])
    [guess] = IntentClassifier.fit(dict.fromkeys(order, same)).classify(same, 0.1)
    assert guess is not None and guess.intent == "a"


def test_without_intents_nothing_is_shown() -> None:
    nothing = np.zeros((0, 3), dtype=np.float32)
    vector = unit([(1, 0, 0)])
    for classifier in (IntentClassifier.fit({}), IntentClassifier.fit({"a": nothing})):
        assert classifier.classify(vector, THRESHOLD) == [None]
        assert IntentClassifier.from_arrays(classifier.arrays()).intents == ()
        assert shown(classifier, vector, k=3, threshold=THRESHOLD) == {"intent": None, "intents": []}
    assert IntentClassifier.fit(EXAMPLES).classify(nothing, THRESHOLD) == []


def test_one_intent_of_one_example_is_enough_to_know_it_again() -> None:
    classifier = IntentClassifier.fit({"only": unit([(1, 0, 0)])})
    assert [bool(guess) for guess in classifier.classify(unit([(1, 0.1, 0), (0, 1, 0)]), THRESHOLD)] == [True, False]


def test_stored_and_taken_back_it_is_the_same() -> None:
    classifier = IntentClassifier.fit(clouds(5, 8))
    again = IntentClassifier.from_arrays(classifier.arrays())
    messages = np.concatenate(list(clouds(5, 3, seed=1).values()))
    assert again.intents == classifier.intents
    np.testing.assert_array_equal(again.probabilities(messages), classifier.probabilities(messages))


def test_probabilities_are_fair_on_messages_it_has_not_seen() -> None:
    classifier = IntentClassifier.fit(clouds(20, 30, spread=1.6))
    messages = clouds(20, 100, seed=1, spread=1.6)
    probabilities = classifier.probabilities(np.concatenate(list(messages.values())))
    truth = np.repeat(np.arange(20), 100)
    right, confidence = probabilities.argmax(axis=1) == truth, probabilities.max(axis=1)
    assert 0.5 < right.mean() < 0.99  # hard enough to say something
    for low, high in ((0.2, 0.5), (0.5, 0.8), (0.8, 1.0)):
        those = (confidence >= low) & (confidence < high)
        assert those.sum() > 30
        assert abs(right[those].mean() - confidence[those].mean()) < 0.15


def test_messages_of_intents_it_was_not_told_of_are_less_likely_to_show_any() -> None:
    everything = clouds(30, 20, spread=1.2)
    known = {name: vectors for name, vectors in everything.items() if name < "i20"}
    messages = clouds(30, 20, seed=1, spread=1.2)
    likeliest = IntentClassifier.fit(known).probabilities(np.concatenate(list(messages.values()))).max(axis=1)
    of_known, of_others = likeliest[: 20 * 20], likeliest[20 * 20 :]
    assert (of_known[:, None] > of_others[None, :]).mean() > 0.95


def test_what_would_be_said_without_an_example_is_what_is_said_without_it() -> None:
    """The closed form of leaving out, against fitting again; fewer examples than landmarks, so that both are exact."""
    from persona.language import classifier as module

    examples = clouds(4, 6)
    stacked, counts = np.concatenate(list(examples.values())), np.full(4, 6)
    alone, truth, whole = module._Ridge(stacked, counts, np.arange(24)).left_out()
    left = {**examples, "i01": examples["i01"][1:]}
    expected = IntentClassifier.fit(left)._scores(examples["i01"][:1])[0]
    np.testing.assert_allclose(alone[6], expected, atol=2e-3)
    assert truth[6] == 1
    without = IntentClassifier.fit({name: vectors for name, vectors in examples.items() if name != "i01"})
    np.testing.assert_allclose(np.delete(whole[6:12], 1, axis=1), without._scores(examples["i01"]), atol=2e-3)
    assert np.isneginf(whole[6:12, 1]).all()


def test_several_texts_show_what_one_of_them_shows() -> None:
    classifier = IntentClassifier.fit(EXAMPLES)
    north, nothing = unit([(0, 1, 0)]), unit([(0, 0, 1)])
    together = shown(classifier, np.concatenate([nothing, north]), k=2, threshold=THRESHOLD)
    assert together["intent"] == "north"
    assert [found["intent"] for found in together["intents"]] == ["north", "east"]
    each = shown_by_each(classifier, np.concatenate([nothing, north]), k=1, threshold=THRESHOLD)
    assert [found["intent"] for found in each] == [None, "north"]
    assert each[1]["intents"][0]["probability"] == together["intents"][0]["probability"]
    assert len(each[0]["intents"]) == 1  # also where none is shown it is said what was nearest


def test_generated_talk_is_understood_and_small_talk_is_left_alone() -> None:
    encoder = load_encoder(Settings(_env_file=None))  # type: ignore[call-arg]
    world = generate(messages=800)
    definitions = [IntentDefinition.model_validate(entry) for entry in world.intent_catalog()]
    classifier = IntentClassifier.fit({each.intent: encoder.encode(definition_texts(each)) for each in definitions})
    labelled = [(record["message"], record["intent"]) for record in world.records() if "intent" in record]
    guesses = classifier.classify(encoder.encode([text for text, _ in labelled]), THRESHOLD)
    right = [guess is not None and guess.intent == intent for guess, (_, intent) in zip(guesses, labelled, strict=True)]
    assert np.mean(right) > 0.95
    chatter = ["thanks, that is all for today", "Invoice 4711 arrived twice.", "haha yes, lovely indeed", "is anybody there?"]
    assert classifier.classify(encoder.encode(chatter), THRESHOLD) == [None] * len(chatter)


def test_a_guess_names_intent_and_probability() -> None:
    [guess] = IntentClassifier.fit(EXAMPLES).classify(unit([(0, 1, 0)]), THRESHOLD)
    assert isinstance(guess, IntentGuess) and 0 < guess.probability < 1


def test_importing_it_loads_no_torch() -> None:
    code = "import sys, persona.language.classifier, persona.language.answers; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
