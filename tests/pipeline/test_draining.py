"""What is pending for whom, what a mark means, and that a failure leaves everything waiting."""

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from persona.errors import Busy, LeaseLost, NotFound, StoreUnavailable
from persona.intake.catalogs import load_folder
from persona.intake.drops import take_in_all
from persona.pipeline import lease as leasing
from persona.pipeline.draining import Batch, Outcome, Pipeline
from persona.pipeline.stages import DRAINING_ASSETS, PROJECTIONS, UPSTREAM, downstream
from persona.stores.cache import Cache
from tests.kept_answers import Kept

SINKS = [sink for sink in UPSTREAM if sink != "cache"]


def put(pipeline: Pipeline, *names: str) -> list[str]:
    """Take in one small drop a name; return their ids in that order."""
    ids = []
    for name in names:
        record = {"user_id": f"u_{name}", "message": name, "timestamp": 1}
        (pipeline.settings.drops / f"{name}.jsonl").write_text(json.dumps(record))
        ids += [entry.id for entry in take_in_all(pipeline, run_id=f"intake of {name}").entries]
    return ids


def drain(pipeline: Pipeline, stage: str, **options: Any) -> list[str]:
    """Drain a stage that does nothing; return what it was handed."""
    seen: list[str] = []
    outcome = pipeline.drain(
        stage, lambda batch: seen.extend(entry.id for entry in batch.entries), run_id=f"{stage} run", **options
    )
    assert [entry.id for entry in outcome.entries] == seen
    return seen


def pending(pipeline: Pipeline, stage: str) -> list[str]:
    return [entry.id for entry in pipeline.documents.ledger.pending(stage, upstream=UPSTREAM[stage])]


def test_the_stages_wait_for_each_other_in_one_direction() -> None:
    assert set(DRAINING_ASSETS) == {"catalogs", "raw_conversations", *SINKS}
    for sink, upstream in UPSTREAM.items():
        assert set(upstream) <= set(list(UPSTREAM)[: list(UPSTREAM).index(sink)])
        assert all(sink in downstream(other) for other in upstream)
    assert set(PROJECTIONS) < set(UPSTREAM["cache"])


def test_a_drop_waits_for_each_stage_until_every_stage_before_it_has_applied_it(pipeline: Pipeline) -> None:
    [a] = put(pipeline, "a")
    for number, stage in enumerate(SINKS):
        for later in SINKS[number:]:
            ready = set(UPSTREAM[later]) <= set(SINKS[:number])
            assert pending(pipeline, later) == ([a] if ready else [])
        assert drain(pipeline, stage) == [a]
        assert drain(pipeline, stage) == []
    assert pipeline.documents.ledger.waiting(UPSTREAM) == 0
    assert pipeline.documents.ledger.oldest_waiting(SINKS) is None


def test_everything_that_waits_is_one_batch_oldest_first(pipeline: Pipeline) -> None:
    ids = put(pipeline, "b", "a", "c")
    batches: list[tuple[list[str], list[str]]] = []
    pipeline.drain("embeddings", lambda batch: batches.append((batch.drops, batch.users)), run_id="r")
    assert batches == [(ids, ["u_a", "u_b", "u_c"])]
    later = put(pipeline, "d")
    assert drain(pipeline, "embeddings") == later
    assert drain(pipeline, "intents") == ids + later


def test_named_drops_are_applied_alone_and_again_only_if_asked(pipeline: Pipeline) -> None:
    a, b, c = put(pipeline, "a", "b", "c")
    assert drain(pipeline, "embeddings", drops=[b]) == [b]
    assert drain(pipeline, "embeddings", drops=[b]) == []
    assert drain(pipeline, "embeddings", drops=[b], reapply=True) == [b]
    assert pending(pipeline, "embeddings") == [a, c]
    assert drain(pipeline, "embeddings", reapply=True) == [a, b, c]
    assert pending(pipeline, "embeddings") == []


def test_nothing_is_applied_before_its_upstream_not_even_again(pipeline: Pipeline) -> None:
    a, b = put(pipeline, "a", "b")
    drain(pipeline, "embeddings", drops=[a])
    assert drain(pipeline, "intents", drops=[b]) == []
    assert drain(pipeline, "intents", drops=[a, b], reapply=True) == [a]
    assert drain(pipeline, "intents", reapply=True) == [a]
    drain(pipeline, "embeddings")
    assert pending(pipeline, "intents") == [b]


def test_reapplying_all_hands_each_stage_the_catalogs_that_concern_it(pipeline: Pipeline) -> None:
    (pipeline.settings.catalog / "campaigns.json").write_text('[{"campaign_id": "c"}]')
    (pipeline.settings.catalog / "users.json").write_text('[{"user_id": "u"}]')
    load_folder(pipeline, run_id="r")
    [drop] = put(pipeline, "a")
    kinds = {}
    for stage in SINKS:
        drain(pipeline, stage)
        outcome = pipeline.drain(stage, lambda batch: None, run_id="again", reapply=True)
        kinds[stage] = {entry.catalog or entry.kind for entry in outcome.entries}
    both = {"campaigns", "drop"}
    assert kinds == {
        "embeddings": both, "intents": both, "milvus_collection": both, "neo4j_graph": both, "engagement_metrics": {"drop"},
    }  # fmt: skip
    pipeline.documents.ledger.reopen(["engagement_metrics"])
    assert pending(pipeline, "engagement_metrics") == [drop]


@pytest.mark.parametrize("reapply", [False, True])
def test_an_unknown_drop_is_not_found(pipeline: Pipeline, reapply: bool) -> None:
    [a] = put(pipeline, "a")
    with pytest.raises(NotFound, match="f" * 64):
        drain(pipeline, "embeddings", drops=[a, "f" * 64], reapply=reapply)
    assert pending(pipeline, "embeddings") == [a]


@pytest.mark.parametrize(
    ("fault", "told"),
    [(ValueError("a person's words"), "ValueError"), (StoreUnavailable("milvus", "down"), "milvus is unavailable: down")],
)
def test_a_stage_that_fails_leaves_everything_waiting_and_says_so_in_the_run_history(
    pipeline: Pipeline, fault: Exception, told: str
) -> None:
    ids = put(pipeline, "a", "b")
    before = pipeline.documents.ledger.fingerprint("embeddings")

    def failing(batch: Batch) -> None:
        batch.records = 7
        raise fault

    with pytest.raises(type(fault)):
        pipeline.drain("embeddings", failing, run_id="r")
    assert pending(pipeline, "embeddings") == ids
    assert pipeline.documents.ledger.fingerprint("embeddings") == before
    [row] = pipeline.warehouse.stages("r")
    assert (row.stage, row.status, row.error) == ("embeddings", "failed", told)
    assert drain(pipeline, "embeddings") == ids


def test_the_run_history_counts_what_was_written(pipeline: Pipeline) -> None:
    put(pipeline, "a")
    told: list[tuple[str, int]] = []

    def writing(batch: Batch) -> None:
        batch.records = 5
        batch.progress(5)

    outcome = replace(pipeline, progress=lambda stage, done: told.append((stage, done))).drain("embeddings", writing, run_id="r")
    [row] = pipeline.warehouse.stages("r")
    assert (row.status, row.records, row.error) == ("success", 5, None)
    assert (outcome.records, told) == (5, [("embeddings", 5)])
    assert [entry.name for entry in pipeline.documents.ledger.applied("embeddings", run_id="r")] == ["a.jsonl"]


def test_a_run_that_slept_past_its_lease_marks_nothing(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    [a] = put(pipeline, "a")
    monkeypatch.setattr(leasing, "_renew", lambda *asleep: None)
    pipeline = replace(pipeline, settings=pipeline.settings.model_copy(update={"lease_seconds": 0.3}))

    def sleeping_between_batches(batch: Batch) -> None:
        next(batch.in_chunks(["u_a"], 1))
        time.sleep(0.4)
        next(batch.in_chunks(["u_a"], 1))

    for apply in (sleeping_between_batches, lambda batch: time.sleep(0.4)):
        with pytest.raises(LeaseLost):
            pipeline.drain("embeddings", apply, run_id="r")
        assert pending(pipeline, "embeddings") == [a]


def test_while_one_run_drains_another_is_told_to_wait(pipeline: Pipeline) -> None:
    put(pipeline, "a")
    with pipeline.lease("other", "erasure"), pytest.raises(Busy, match="other"):
        drain(pipeline, "embeddings")
    [row] = pipeline.warehouse.stages("embeddings run")
    assert row.status == "failed" and row.error is not None and "erasure" in row.error


class Evictions:
    """Writes down whose answers are evicted."""

    def __init__(self) -> None:
        self.users: list[list[str]] = []
        self.live = self

    def applied(self, drops: Iterable[str]) -> None:
        assert self.users == [] and list(drops)

    def evict(self, users: Sequence[str]) -> None:
        self.users.append(list(users))


@pytest.mark.parametrize("order", [PROJECTIONS, PROJECTIONS[::-1]])
def test_cached_answers_go_after_the_last_projection_and_once(pipeline: Pipeline, order: tuple[str, ...]) -> None:
    cache = Evictions()
    pipeline = replace(pipeline, cache=cache)  # type: ignore[arg-type]
    put(pipeline, "a", "b")
    for stage in ("embeddings", "intents", *order[:-1]):
        drain(pipeline, stage)
        assert cache.users == []
    drain(pipeline, order[-1])
    assert cache.users == [["u_a", "u_b"]]
    drain(pipeline, order[-1])
    assert len(cache.users) == 1


def test_a_cache_that_is_down_fails_no_stage_and_is_evicted_later(pipeline: Pipeline, closed_port: int) -> None:
    down = replace(pipeline, cache=Cache(redis.Redis(host="127.0.0.1", port=closed_port, retry=Retry(NoBackoff(), 0))))
    put(pipeline, "a")
    for stage in SINKS:
        drain(down, stage)
    assert pipeline.warehouse.stages("engagement_metrics run")[0].status == "success"
    _, version = Kept(pipeline.settings.addresses.redis).read("u_a", "s", "q")
    drain(pipeline, "embeddings")
    assert not Kept(pipeline.settings.addresses.redis).write("u_a", "s", "q", b"stale", version=version, ttl=60)
    assert pipeline.documents.ledger.waiting(UPSTREAM) == 0


def test_fingerprints_tell_what_was_applied_and_not_in_which_order(new_pipeline: Callable[[], Pipeline]) -> None:
    outcomes: list[Outcome] = []
    for names in (["a", "b", "c"], ["c", "a", "b"]):
        pipeline = new_pipeline()
        seen = set()
        for name in names:
            put(pipeline, name)
            outcome = pipeline.drain("embeddings", lambda batch: None, run_id="r")
            seen.add((outcome.fingerprint, outcome.folder_state))
        assert len(seen) == 3
        nothing_new = pipeline.drain("embeddings", lambda batch: None, run_id="r2")
        assert (nothing_new.fingerprint, nothing_new.folder_state) == (outcome.fingerprint, outcome.folder_state)
        intents = pipeline.outcome("intents", 0, 0.0, [])
        assert intents.folder_state not in {state for _, state in seen}
        outcomes.append(outcome)
    assert outcomes[0].fingerprint == outcomes[1].fingerprint
    assert outcomes[0].folder_state == outcomes[1].folder_state
