"""How well intents are told, beside logistic regression on the same vectors: `python -m benchmarks.intents`.

Three figures on the test messages of banking77: accuracy when all of train is known, when ten examples an intent are, and how well
the messages of a fifth of the intents, left out of training, are told from the rest (area under the ROC curve of the likeliest
intent's probability). The last two are means over draws. Both are given the same texts: the examples and, as the product does, each
intent's name in words; what ten examples are worth without it is shown too. Nothing is chosen here: settings were chosen on a part
of train.
"""

import argparse
import gzip
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import orjson
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from persona.language.classifier import IntentClassifier
from persona.language.encoder import load_encoder
from persona.language.intents import definition_texts
from persona.schemas import IntentDefinition, Vectors
from persona.settings import Settings

console = Console(width=110)
DRAWS = 3
EACH = 10
LEFT_OUT = 0.2
BINS = 15
GOALS = {"all of train": 0.93, f"{EACH} examples an intent": 0.855, "a fifth of the intents left out": 0.91}

Examples = Mapping[str, Vectors]
Judged = tuple[NDArray[np.str_], NDArray[np.float64], NDArray[np.bool_]]
"""Of each message: the likeliest intent, its probability, and whether an intent is said to be shown."""


def main() -> None:
    """Measure, print, and with `--check` exit 1 where a goal is missed."""
    default = Path(os.environ.get("PERSONA_TEST_DATA", "../shared/data")) / "banking77"
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data", type=Path, default=default, help="the folder with train.jsonl.gz and test.jsonl.gz")
    arguments.add_argument("--check", action="store_true", help="exit 1 where a goal is missed")
    options = arguments.parse_args()

    settings = Settings()
    encoder = load_encoder(settings)
    (texts, intents), (test_texts, truth) = read(options.data / "train.jsonl.gz"), read(options.data / "test.jsonl.gz")
    vectors, test = encoder.encode(texts), encoder.encode(test_texts)
    names = {intent: encoder.encode(definition_texts(IntentDefinition(intent=intent))) for intent in sorted(set(intents))}

    def with_names(examples: Examples) -> Examples:
        return {intent: np.concatenate([found, names[intent]]) for intent, found in examples.items()}

    def ours(examples: Examples) -> Judged:
        classifier = IntentClassifier.fit(examples)
        probabilities = classifier.probabilities(test)
        shown = [guess is not None for guess in classifier.classify(test, settings.intent_threshold)]
        return np.array(classifier.intents)[probabilities.argmax(axis=1)], probabilities.max(axis=1), np.array(shown)

    def logistic_regression(examples: Examples) -> Judged:
        labels = np.concatenate([[intent] * len(found) for intent, found in examples.items()])
        fitted = LogisticRegression(C=10, max_iter=1_000).fit(np.concatenate(list(examples.values())), labels)
        probabilities = fitted.predict_proba(test)
        return fitted.classes_[probabilities.argmax(axis=1)], probabilities.max(axis=1), np.full(len(test), True)

    table = Table("", "accuracy or AUROC", "goal", "logistic regression", title="banking77, test", title_justify="left")
    missed = False
    for name, measure in (
        ("all of train", known),
        (f"{EACH} examples an intent", few),
        ("a fifth of the intents left out", left_out),
    ):
        found, beside = (
            measure(lambda examples, judge=judge: judge(with_names(examples)), vectors, intents, truth)
            for judge in (ours, logistic_regression)
        )
        table.add_row(name, f"{found:.4f}", f"{GOALS[name]}", f"{beside:.4f}")
        missed |= found < GOALS[name]
    unnamed = [few(judge, vectors, intents, truth) for judge in (ours, logistic_regression)]
    table.add_row(f"{EACH} examples, no names", f"{unnamed[0]:.4f}", "", f"{unnamed[1]:.4f}")
    console.print(table)
    report_all(ours, with_names(by_intent(vectors, intents)), truth)
    if options.check and missed:
        raise SystemExit(1)


def read(file: Path) -> tuple[list[str], NDArray[np.str_]]:
    """The texts of a file and their intents."""
    rows = [orjson.loads(line) for line in gzip.decompress(file.read_bytes()).splitlines()]
    return [row["text"] for row in rows], np.array([row["intent"] for row in rows])


def known(judge: Callable[[Examples], Judged], vectors: Vectors, intents: NDArray[np.str_], truth: NDArray[np.str_]) -> float:
    """Accuracy with every example."""
    return float((judge(by_intent(vectors, intents))[0] == truth).mean())


def few(judge: Callable[[Examples], Judged], vectors: Vectors, intents: NDArray[np.str_], truth: NDArray[np.str_]) -> float:
    """Mean accuracy with few examples an intent, drawn at random."""
    found = []
    for draw in range(DRAWS):
        dice = np.random.default_rng(draw)
        drawn = {intent: dice.permutation(some)[:EACH] for intent, some in by_intent(vectors, intents).items()}
        found.append((judge(drawn)[0] == truth).mean())
    return float(np.mean(found))


def left_out(judge: Callable[[Examples], Judged], vectors: Vectors, intents: NDArray[np.str_], truth: NDArray[np.str_]) -> float:
    """Mean area under the ROC curve, messages of known intents against those of intents that were left out at random."""
    found, examples = [], by_intent(vectors, intents)
    for draw in range(DRAWS):
        order = np.random.default_rng(draw).permutation(sorted(examples))
        rest = order[int(len(order) * LEFT_OUT) :].tolist()
        found.append(roc_auc_score(np.isin(truth, rest), judge({intent: examples[intent] for intent in rest})[1]))
    return float(np.mean(found))


def report_all(judge: Callable[[Examples], Judged], examples: Examples, truth: NDArray[np.str_]) -> None:
    """With every example: how far probabilities are from the truth, what abstaining costs, and how long it takes."""
    started = time.perf_counter()
    intent, probability, shown = judge(examples)
    seconds, right = time.perf_counter() - started, intent == truth
    bins = np.minimum((probability * BINS).astype(int), BINS - 1)
    off = sum(abs(right[bins == n].mean() - probability[bins == n].mean()) * (bins == n).mean() for n in np.unique(bins))
    console.print(
        f"all of train: expected calibration error {off:.3f} over {BINS} bins; {1 - shown.mean():.1%} of the messages are said to show "
        f"none, accuracy is {(right & shown).mean():.4f} if those count as wrong; fitted and asked in {seconds:.1f} s"
    )


def by_intent(vectors: Vectors, intents: NDArray[np.str_]) -> Examples:
    """The vectors of each intent."""
    return {str(intent): vectors[intents == intent] for intent in np.unique(intents)}


if __name__ == "__main__":
    main()
