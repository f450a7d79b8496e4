"""Judging what serves, for whoever asks: the generation in force beside every baseline. Nothing is kept or published."""

from collections.abc import Callable
from importlib.util import find_spec

from persona.errors import NotFound, PersonaError
from persona.evaluation.baselines import CONTENDERS, SQUARE
from persona.evaluation.judging import ask, judge
from persona.evaluation.reading import in_force_of, limits_of, read_log
from persona.evaluation.report import Report
from persona.ranking.model import RankingModel
from persona.ranking.relations import LARGEST
from persona.settings import Settings
from persona.stores.documents import Documents

LIBRARIES = ("implicit", "sklearn", "threadpoolctl")
"""What some baselines are made of; nothing else needs them."""


def evaluate_serving(documents: Documents, settings: Settings, *, progress: Callable[[str], None] = lambda step: None) -> Report:
    """The generation in force, before there is one the candidate, as it does in the newest window; `progress` is told each step.

    Its weights, which were tuned on earlier windows, are taken as they are; its half-life is chosen as it would have been then.
    Raises `NotFound` without a model, `PersonaError` where the baselines' libraries are not installed.
    """
    if missing := [library for library in LIBRARIES if find_spec(library) is None]:
        raise PersonaError(f"not installed: {', '.join(missing)}", hint="pip install 'persona[evaluation]'")
    name, model = in_force_of(documents) or ("the candidate", None)
    stored = documents.generations.candidate()
    if model is None and stored is None:
        raise NotFound("no model has been fitted yet", hint="`persona materialize` fits one.")
    progress("reading everything that happened")
    log = read_log(documents, words=True)
    progress("drawing queries")
    questions = ask(log)
    progress("ranking with every method, each tuned on earlier windows")
    limits = limits_of(settings)
    contenders, notes = CONTENDERS, list[str]()
    if len(log.campaigns.all) > LARGEST:
        contenders = {name: settings for name, settings in CONTENDERS.items() if name not in SQUARE}
        notes = [
            f"More than {LARGEST:,} campaigns: {' and '.join(sorted(SQUARE))} would need a matrix of all by all, and are left out."
        ]
    _, report = judge(questions, model or RankingModel.model_validate(stored), None, limits, contenders)
    return report.model_copy(update={"model": name, "notes": [*report.notes, *notes]})
