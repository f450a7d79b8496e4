"""Evaluating the candidate from the stores, and keeping what was found beside it: the order of things. All judgement is pure, elsewhere."""

from collections.abc import Sequence
from dataclasses import dataclass

from persona.evaluation.gate import Limits
from persona.evaluation.judging import Tuned, Tuner, TuningQuery, ask, first, judge, tuned
from persona.evaluation.reading import in_force_of, limits_of, read_log
from persona.evaluation.replay import Log
from persona.evaluation.report import Report
from persona.pipeline.draining import Pipeline
from persona.pipeline.stages import CODE_VERSIONS, PROJECTIONS
from persona.ranking.model import PRIOR_WEIGHTS, RankingModel

STAGE = "ranking_evaluation"


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What was found, None without a candidate, and which drops it reflects."""

    report: Report | None
    version: str
    folder_state: str


def evaluate_candidate(pipeline: Pipeline, *, run_id: str) -> Evaluated:
    """Tune the candidate on earlier windows, judge it on the newest, and keep both model and report; nothing where that was done.

    The lease is held while the truth is read and while the report is written, not for the minutes between: drops go on.
    """
    generations, ledger = pipeline.documents.generations, pipeline.documents.ledger
    limits = limits_of(pipeline.settings)
    with pipeline.recorded(run_id, STAGE) as count:
        with pipeline.lease(run_id, STAGE):
            state = ledger.arrivals(applied_by=PROJECTIONS)
            stored, in_force = generations.candidate(), in_force_of(pipeline.documents)
            if stored is None:
                return Evaluated(None, "none", state)
            candidate = RankingModel.model_validate(stored)
            version = f"{candidate.fingerprint}-{CODE_VERSIONS[STAGE]}"
            before = generations.report(candidate.fingerprint)
            if before and _stands(report := Report.model_validate(before), candidate, in_force, limits):
                return Evaluated(report, version, state)
            log = read_log(pipeline.documents)
        model, report = evaluate(log, candidate, in_force, limits)
        with pipeline.lease(run_id, STAGE) as lease:
            newest = generations.candidate()
            if newest and newest["fingerprint"] == candidate.fingerprint:  # else another run has fitted one, and evaluates it
                lease.check()
                generations.put_candidate(model.model_dump())
                generations.put_report(model.fingerprint, report.model_dump())
        count(sum(window.queries for window in report.windows))
        return Evaluated(report, version, state)


def prior(queries: Sequence[TuningQuery]) -> Tuned:
    """The prior's weights, whatever the queries."""
    return Tuned(PRIOR_WEIGHTS, 0, 0.0)


def evaluate(
    log: Log, candidate: RankingModel, in_force: tuple[str, RankingModel] | None, limits: Limits, tune: Tuner = prior
) -> tuple[RankingModel, Report]:
    """The candidate as it is to serve, and the report on it. Without a generation in force, one that does not pass serves from priors."""
    questions = ask(log)
    model, report = judge(questions, tuned(questions, candidate, tune, limits), in_force, limits)
    if in_force is None and not report.verdict.publish:
        model = candidate.model_copy(update={"judged_on": model.judged_on})
    return model, report if in_force else first(model, report)


def _stands(report: Report, candidate: RankingModel, in_force: tuple[str, RankingModel] | None, limits: Limits) -> bool:
    """Whether a report still says what an evaluation now would."""
    name, serving = in_force or (None, None)
    if serving is not None and serving.fingerprint == candidate.fingerprint:  # published; what it was compared with is past
        return True
    return report.weights == candidate.weights and report.in_force == name and report.limits == limits
