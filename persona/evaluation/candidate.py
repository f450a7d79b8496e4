"""Evaluating the candidate from the stores, and keeping what was found beside it: the order of things. All judgement is pure, elsewhere."""

from dataclasses import dataclass
from functools import partial

from persona.evaluation.gate import Limits
from persona.evaluation.judging import Tuner, ask, judge, tuned
from persona.evaluation.reading import in_force_of, limits_of, read_log
from persona.evaluation.replay import Log
from persona.evaluation.report import Report
from persona.pipeline.draining import Pipeline
from persona.pipeline.stages import CODE_VERSIONS, PROJECTIONS
from persona.ranking.model import PRIOR_WEIGHTS, RankingModel
from persona.ranking.tuning import tune

STAGE = "ranking_evaluation"
TUNE: Tuner = partial(tune, prior=PRIOR_WEIGHTS, seed=7)


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
            if before and before["code_version"] == CODE_VERSIONS[STAGE]:
                report = Report.model_validate(before)
                if _stands(report, candidate, in_force, limits):
                    return Evaluated(report, version, state)
            log = read_log(pipeline.documents, fitted_on=candidate.fingerprint)
        model, report = evaluate(log, candidate, in_force, limits)
        with pipeline.lease(run_id, STAGE) as lease:
            newest = generations.candidate()
            if newest and newest["fingerprint"] == candidate.fingerprint:  # else another run has fitted one, and evaluates it
                lease.check()
                generations.put_candidate(model.model_dump())
                generations.put_report(model.fingerprint, report.model_dump() | {"code_version": CODE_VERSIONS[STAGE]})
        count(sum(window.queries for window in report.windows))
        return Evaluated(report, version, state)


def evaluate(
    log: Log, candidate: RankingModel, in_force: tuple[str, RankingModel] | None, limits: Limits, tuner: Tuner = TUNE
) -> tuple[RankingModel, Report]:
    """The candidate as it is to serve, and the report on it.

    Without a generation in force one that loses serves from priors; one that a person is to look at does not serve.
    """
    questions = ask(log)
    serving = in_force[1] if in_force else None
    model, report = judge(questions, tuned(questions, candidate, serving, tuner, limits), in_force, limits)
    if serving or report.verdict.held:
        return model, report
    if report.verdict.publish:
        return model, _first(report, f"{'tuned' if model.tuned_on else 'from priors'}: {report.verdict.reason}")
    from_priors, again = judge(questions, candidate, None, limits) if model.tuned_on else (model, report)
    return from_priors, _first(again, f"from priors; what was tuned {report.verdict.reason}")


def _first(report: Report, reason: str) -> Report:
    """Nothing is in force that could go on serving instead."""
    verdict = report.verdict.model_copy(update={"publish": True, "reason": f"the first generation, {reason}"})
    return report.model_copy(update={"verdict": verdict})


def _stands(report: Report, candidate: RankingModel, in_force: tuple[str, RankingModel] | None, limits: Limits) -> bool:
    """Whether a report still says what an evaluation now would."""
    name, serving = in_force or (None, None)
    if serving is not None and serving.fingerprint == candidate.fingerprint:  # published; what it was compared with is past
        return True
    return report.weights == candidate.weights and report.in_force == name and report.limits == limits
