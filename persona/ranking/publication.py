"""Fitting a candidate from the stores and putting it in force: the order of things. The fit and the decision are pure, elsewhere."""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime

from persona.pipeline.draining import Pipeline
from persona.pipeline.stages import CODE_VERSIONS, PROJECTIONS
from persona.ranking.generation import Decision, Verdict, decide, generation_id
from persona.ranking.model import RankingModel, fit
from persona.stores.warehouse import Warehouse

GROWTH = 1.2
"""A model is fitted anew when there are this many times the facts it was fitted on."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """The candidate, and which drops it reflects."""

    model: RankingModel
    folder_state: str


@dataclass(frozen=True, slots=True)
class Published:
    """What was decided, and which generation serves now."""

    decision: Decision
    in_force: str | None
    fingerprint: str
    folder_state: str


def fit_is_due(pipeline: Pipeline) -> bool:
    """Whether there is something to fit and no generation, or the facts grew by a fifth since the last candidate."""
    stored = pipeline.documents.generations.candidate()
    facts = pipeline.warehouse.fact_count()
    if stored is None or pipeline.documents.generations.in_force_id() is None:
        return facts > 0 or pipeline.documents.catalog.campaign_count() > 0
    return facts >= GROWTH * max(RankingModel.model_validate(stored).facts, 1)


def fit_candidate(pipeline: Pipeline, warehouse: Warehouse, *, run_id: str) -> Fitted:
    """Fit on everything the projections hold; nothing is written when that is what the last candidate was fitted on."""
    ledger, generations = pipeline.documents.ledger, pipeline.documents.generations
    with pipeline.recorded(run_id, "ranking_model") as count, pipeline.lease(run_id, "ranking_model") as lease:
        inputs = [ledger.fingerprint(projection) for projection in PROJECTIONS] + [CODE_VERSIONS["ranking_model"]]
        fingerprint = hashlib.sha256("\n".join(inputs).encode()).hexdigest()[:16]
        stored = generations.candidate()
        model = RankingModel.model_validate(stored) if stored else None
        if model is None or model.fingerprint != fingerprint:
            model = fit(warehouse.day_buckets(), facts=warehouse.fact_count(), fingerprint=fingerprint)
            lease.check()
            generations.put_candidate(model.model_dump())
            count(len(model.overall))
        return Fitted(model, ledger.arrivals(applied_by=PROJECTIONS))


def publish_candidate(pipeline: Pipeline, *, run_id: str) -> Published:
    """Decide on the candidate and, if it is to serve, put it in force. Without a candidate nothing is published."""
    generations = pipeline.documents.generations
    with pipeline.recorded(run_id, "generation") as count, pipeline.lease(run_id, "generation") as lease:
        in_force, stored = generations.in_force(), generations.candidate()
        state = pipeline.documents.ledger.arrivals(applied_by=PROJECTIONS)
        if stored is None:
            return Published(Decision(False, "no model has been fitted yet"), None, "none", state)
        candidate = RankingModel.model_validate(stored)
        report = generations.report(candidate.fingerprint)
        verdict = Verdict.model_validate(report["verdict"]) if report else None
        serving = (in_force[0], RankingModel.model_validate(in_force[1])) if in_force else None
        decision = decide(candidate, serving, verdict)
        name = in_force[0] if in_force else None
        if decision.publish:
            lease.check()
            name = generation_id(datetime.now(UTC))
            generations.publish(name, stored)
            count(1)
        return Published(decision, name, f"{candidate.fingerprint}-{CODE_VERSIONS['generation']}", state)
