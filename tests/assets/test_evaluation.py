"""What is published and what is not, through the real assets on real stores; and that a replay is what the stores are."""

from functools import partial
from typing import Any

import numpy as np
import pytest

from persona.evaluation import candidate
from persona.evaluation.judging import Tuned
from persona.evaluation.reading import read_log
from persona.evaluation.replay import Query, Replay
from persona.projections.conversations import profile_of
from persona.ranking.channels import CHANNELS, Candidates, Sources
from persona.ranking.context import Context
from persona.ranking.model import PRIOR_WEIGHTS
from persona.ranking.recommender import Query as Request
from persona.ranking.recommender import Recommender, load_snapshot
from persona.schemas import Answer
from persona.stores.opening import open_stores
from persona_assets.execution import Execution
from tests.assets.conftest import World, failed_checks
from tests.evaluation.logs import EVENTS, LAST, did, talk
from tests.worlds import generated, put_drop

PEOPLE = 600
POISON = [did(f"bot_{n}", LAST * (1 + 0.08 * n / 300), "conversion", "c_19") for n in range(300)]


def drop(world: World, name: str, records: list[dict[str, Any]]) -> None:
    put_drop(
        world.settings.drops,
        name,
        [
            {key: value for key, value in record.items() if key not in ("_id", "text_hash", "timestamp")}
            | {"message_id": record["_id"], "timestamp": record["timestamp"].isoformat()}
            for record in records
        ],
    )


def in_force(world: World) -> str | None:
    with world.pipeline() as pipeline:
        return pipeline.documents.generations.in_force_id()


def answer(world: World, user: str) -> Answer:
    with open_stores(world.settings) as stores:
        recommender = Recommender(stores.vectors, stores.graph, stores.documents)
        return recommender.for_user(user, Request(k=10), load_snapshot(stores.documents))


def offers(world: World, user: str) -> list[tuple[str, float]]:
    return [(offer.campaign_id, offer.ranking_score) for offer in answer(world, user).recommendations]


def quality(done: Execution) -> bool:
    return next(check["passed"] for check in done.checks if check["check"] == "recommendation_quality")


@pytest.fixture
def first(world: World) -> str:
    """A world that talks, and its first generation."""
    drop(world, "talk.jsonl", talk(people=PEOPLE))
    done = world.succeed()
    assert quality(done)
    found = in_force(world)
    assert found and world.metadata("generation")["published"]
    return found


def test_a_poisoned_drop_is_not_published_and_what_serves_goes_on(world: World, first: str) -> None:
    reason = world.metadata("ranking_evaluation")["reason"]
    assert "the first generation" in reason and "priors" in reason
    before = offers(world, "a stranger")
    drop(world, "poison.jsonl", POISON)
    done = world.succeed()
    assert in_force(world) == first == answer(world, "a stranger").generation
    assert offers(world, "a stranger") == before and "c_19" not in [campaign for campaign, _ in before[:5]]
    assert not quality(done) and "recommendation_quality" in failed_checks(done)
    shown = world.metadata("generation")
    assert shown["published"] is False and "c_19" in shown["reason"] and "for a person" in shown["reason"]
    assert "c_19" in world.metadata("ranking_evaluation")["report"]
    with world.pipeline() as pipeline:
        anomaly = pipeline.warehouse.anomalies(1)[0]
    assert (anomaly.asset, anomaly.check_name, anomaly.severity) == ("ranking_evaluation", "recommendation_quality", "WARN")
    assert anomaly.value and anomaly.threshold and anomaly.value > anomaly.threshold

    again = world.succeed("ranking_model", "ranking_evaluation", "generation")  # and it stays so
    assert in_force(world) == first and not quality(again)


def test_a_model_that_loses_is_refused_and_the_next_good_one_published(
    world: World, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop(world, "more.jsonl", talk(EVENTS + 40, people=PEOPLE)[2 * EVENTS :])
    bad = {channel: float(channel == "engagement") for channel in CHANNELS}
    with monkeypatch.context() as patch:
        patch.setattr(candidate, "evaluate", partial(candidate.evaluate, tuner=lambda queries: Tuned(bad, len(queries), 0.1)))
        done = world.succeed()
    assert not quality(done) and in_force(world) == first
    shown = world.metadata("ranking_evaluation")
    assert "loses more than" in shown["reason"] and not shown["passed"]
    assert 0 <= shown["ndcg@5"] <= 1 and shown["advantage"].startswith("![") and "| decayed popularity |" in shown["report"]

    drop(world, "yet-more.jsonl", talk(EVENTS + 80, people=PEOPLE)[2 * EVENTS + 80 :])
    done = world.succeed()
    assert quality(done), world.metadata("ranking_evaluation")["reason"]
    with world.pipeline() as pipeline:
        published = pipeline.documents.generations.in_force()
    assert published and published[0] != first and published[1]["weights"] == PRIOR_WEIGHTS
    assert published[1]["judged_on"]["engaged"]


def test_too_little_to_judge_is_published_from_priors_and_said(world: World) -> None:
    generated(world.settings)
    done = world.succeed()
    assert quality(done) and in_force(world)
    shown = world.metadata("ranking_evaluation")
    assert (shown["dagster/row_count"], shown["tuned_on"]) == (0, 0) and "prior" in shown["report"]


def test_a_candidate_that_was_not_compared_is_not_published(world: World) -> None:
    generated(world.settings)
    world.succeed("raw_conversations", "embeddings", "intents", "engagement_metrics", "ranking_model")
    world.succeed("generation")
    assert in_force(world) is None and "ranking_evaluation" in world.metadata("generation")["reason"]


def test_a_replay_of_everything_is_what_the_stores_hold(world: World) -> None:
    """The product's channels propose the same from the real stores as from memory, to everybody."""
    generated(world.settings, messages=200)
    world.succeed()
    with open_stores(world.settings) as stores:
        documents, snapshot = stores.documents, load_snapshot(stores.documents)
        assert snapshot.as_of
        log = read_log(documents)
        now_ms = round(snapshot.as_of.timestamp() * 1000)
        replay = Replay(log, now_ms + 1)
        assert sorted(log.day_buckets(now_ms + 1), key=str) == sorted(
            (bucket.__class__(bucket.day, bucket.campaign_id, bucket.channel, bucket.event, bucket.n, 0.0) for bucket in
             stores.warehouse.day_buckets()), key=str,
        )  # fmt: skip
        compared = 0
        for user in log.users.all[:12]:
            vector = stores.vectors.user_vector(user)
            context = Context(
                user_id=user,
                vector=vector,
                intents={intent.intent: intent for intent in stores.graph.intents_of(user)},
                history=stores.graph.history_of(user),
                mentioned={mention.campaign_id: mention for mention in stores.graph.mentions_of(user)},
            )
            sources = Sources(
                vectors=stores.vectors, graph=stores.graph, knowledge=snapshot.knowledge, now_ms=now_ms, channel=None,
            )  # fmt: skip
            theirs = {name: channel(context, sources) for name, channel in CHANNELS.items()}
            query = Query(user, now_ms, context, "", frozenset(), frozenset(), warm=True)
            ours = replay.proposals(query, snapshot.model)
            assert {name: scores(found) for name, found in ours.items()} == {
                name: scores(found) for name, found in theirs.items()
            }
            compared += sum(map(len, theirs.values()))
            begin, end = log.begins[log.users.numbers[user] :][:2].tolist()
            profile = profile_of(user, list(log.records(range(begin, end))), log.vectors, log.openings)
            assert (profile is None) == (vector is None)
            if profile is not None:
                np.testing.assert_allclose(profile.vector, vector, atol=1e-5)
        assert compared > 100


def scores(candidates: Candidates) -> dict[str, tuple[float, Any]]:
    return {found.campaign_id: (round(float(found.score), 4), str(sorted(found.evidence.items()))[:12]) for found in candidates}
