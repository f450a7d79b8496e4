"""Fitting a candidate from the stores and putting it in force: the order of things. The fit and the decision are pure, elsewhere."""

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from pymongo.client_session import ClientSession

from persona.errors import NotFound
from persona.pipeline import sinks
from persona.pipeline.draining import Pipeline
from persona.pipeline.lease import Lease
from persona.pipeline.stages import CODE_VERSIONS, PROJECTIONS
from persona.projections.histories import EVER, Histories
from persona.ranking.days import Days
from persona.ranking.decay import choose_half_life
from persona.ranking.generation import Decision, Verdict, decide, generation_id
from persona.ranking.model import RankingModel, fit
from persona.ranking.relations import Rows, learn, rows_of
from persona.stores.documents import Documents
from persona.stores.graph import Graph
from persona.stores.warehouse import Warehouse

GROWTH = 1.2
"""A model is fitted anew when there are this many times the facts it was fitted on."""
KEPT = 10
"""Published generations, the newest, that can be put in force again."""


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


@dataclass(frozen=True, slots=True)
class Swapped:
    """What a person put in force."""

    generation: str
    instead_of: str | None


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
        # part of the fingerprint: an erasure takes facts away and leaves the ledger's drops as they are
        facts = warehouse.fact_count()
        inputs = [ledger.fingerprint(projection) for projection in PROJECTIONS] + [str(facts), CODE_VERSIONS["ranking_model"]]
        fingerprint = hashlib.sha256("\n".join(inputs).encode()).hexdigest()[:16]
        stored = generations.candidate()
        model = RankingModel.model_validate(stored) if stored else None
        if model is None or model.fingerprint != fingerprint:
            with ThreadPoolExecutor(1, thread_name_prefix="histories") as reading:  # MongoDB is read beside the warehouse
                histories = reading.submit(_histories_of_everybody, pipeline.documents, fingerprint)
                buckets = Days.of(warehouse.day_buckets())
                half_life = choose_half_life(buckets)
                model = fit(buckets, facts=facts, fingerprint=fingerprint, half_life_days=half_life)
            learned = learn(_rows_of(histories.result(), model))
            model = model.model_copy(update={"relations": learned.summary})
            lease.check()
            pipeline.documents.relations.put(fingerprint, learned.relations, run_id=run_id)
            lease.check()
            generations.put_candidate(model.model_dump())
            _forget_relations(pipeline, lease)
            count(len(model.overall))
        return Fitted(model, ledger.arrivals(applied_by=PROJECTIONS))


def publish_candidate(pipeline: Pipeline, graph: Graph, *, run_id: str) -> Published:
    """Decide on the candidate and, if it is to serve, put it in force. Without a candidate nothing is published."""
    generations = pipeline.documents.generations
    with pipeline.recorded(run_id, "generation") as count, pipeline.lease(run_id, "generation") as lease:
        in_force, stored = generations.in_force(), generations.candidate()
        state = pipeline.documents.ledger.arrivals(applied_by=PROJECTIONS)
        name = in_force[0] if in_force else None
        if stored is None:
            return Published(Decision(False, "no model has been fitted yet"), name, "none", state)
        candidate = RankingModel.model_validate(stored)
        report = generations.report(candidate.fingerprint)
        verdict = Verdict.model_validate(report["verdict"]) if report else None
        serving = (in_force[0], RankingModel.model_validate(in_force[1])) if in_force else None
        decision = decide(candidate, serving, verdict, withdrawn=generations.withdrawn())
        if decision.publish:
            name = _publish(pipeline, lease, candidate, decision.reason)
            pipeline.announce(run_id)
            count(1)
        elif serving is None or candidate.fingerprint != serving[1].fingerprint:  # what serves is no refused candidate
            lease.check()
            generations.refuse_candidate(decision.reason)
        _show_relations(pipeline, graph, lease)
        return Published(decision, name, f"{candidate.fingerprint}-{CODE_VERSIONS['generation']}", state)


# -- by hand ----------------------------------------------------------------------------------------------------------------


def publish_by_hand(pipeline: Pipeline, graph: Graph, generation: str | None, *, run_id: str) -> Swapped:
    """Put a kept generation in force, or the candidate where none is named, whatever was decided on it.

    Raises `NotFound` where there is no such generation, or no candidate.
    """
    generations = pipeline.documents.generations
    with _by_hand(pipeline, graph, run_id, "publish") as lease:
        serving = generations.in_force_id()
        if generation is not None:
            found = generations.get(generation)
            if found is None:
                raise NotFound(
                    f"there is no generation {generation}", hint="`persona generations list` shows those that are kept."
                )
            _swap(pipeline, lease, lambda session: generations.put_in_force(generation, session=session))
            return Swapped(generation, serving)
        stored = generations.candidate()
        if stored is None:
            raise NotFound("no model has been fitted yet", hint="`persona materialize` fits one.")
        refusal = generations.refusal()
        reason = f"published by hand, though: {refusal}" if refusal else "published by hand"
        return Swapped(_publish(pipeline, lease, RankingModel.model_validate(stored), reason), serving)


def roll_back(pipeline: Pipeline, graph: Graph, *, run_id: str) -> Swapped:
    """Put the generation in force that served before; the one that is withdrawn is not published again but by hand.

    Raises `NotFound` where none served before.
    """
    generations = pipeline.documents.generations
    with _by_hand(pipeline, graph, run_id, "rollback") as lease:
        serving, former = generations.in_force_id(), generations.former()
        found = generations.get(former) if former else None
        if found is None:
            raise NotFound("no generation served before", hint="`persona generations list` shows those that are kept.")
        _swap(pipeline, lease, lambda session: generations.roll_back(session=session))
        return Swapped(found.id, serving)


# -- in one order -----------------------------------------------------------------------------------------------------------


def _publish(pipeline: Pipeline, lease: Lease, model: RankingModel, reason: str) -> str:
    """Put the model in force as a generation of its own; return its id."""
    generations = pipeline.documents.generations
    name = generation_id(datetime.now(UTC))
    _swap(pipeline, lease, lambda session: generations.publish(name, model.model_dump(), reason=reason, session=session))
    return name


def _swap(pipeline: Pipeline, lease: Lease, swap: Callable[[ClientSession], None]) -> None:
    """Let another generation serve, and forget what nobody can go back to."""
    lease.transaction(swap)
    lease.transaction(lambda session: pipeline.documents.generations.forget_old(keep=KEPT, session=session))
    _forget_relations(pipeline, lease)


def _show_relations(pipeline: Pipeline, graph: Graph, lease: Lease) -> None:
    """Let the graph show what goes together by the generation in force, where it does not yet: answers do not wait for it."""
    documents = pipeline.documents
    generation = documents.generations.in_force_id() or ""
    fingerprint = documents.generations.fingerprint_of(generation) or ""
    if graph.count_relations(generation) != documents.relations.count(fingerprint):
        sinks.relate(lease, documents, graph)


def _forget_relations(pipeline: Pipeline, lease: Lease) -> None:
    """Remove the relations of models that are neither the candidate's nor of a kept generation."""
    kept = pipeline.documents.generations.fingerprints()
    lease.transaction(lambda session: pipeline.documents.relations.keep_only(kept, session=session))


@contextmanager
def _by_hand(pipeline: Pipeline, graph: Graph, run_id: str, verb: str) -> Iterator[Lease]:
    with pipeline.recorded(run_id, f"generations {verb}") as count, pipeline.lease(run_id, f"generations {verb}") as lease:
        yield lease
        pipeline.announce(run_id)
        count(1)
        _show_relations(pipeline, graph, lease)


def _histories_of_everybody(documents: Documents, fingerprint: str) -> Histories:
    """What relations are learned from, of the truth; its records are kept for the evaluation."""
    records = documents.records.replayable()
    documents.records.hand_on(fingerprint, records)
    return Histories(records, documents.embeddings.mentions())


def _rows_of(histories: Histories, model: RankingModel) -> Rows:
    ties = histories.ties_before(EVER, histories.talks_before(EVER))
    now_ms = round(model.as_of.timestamp() * 1000)
    return rows_of(ties, histories.campaigns.all, now_ms=now_ms, half_life_days=model.taste_half_life_days)
