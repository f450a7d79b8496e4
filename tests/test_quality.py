"""The product against popularity, on made-up people whose later conversions it has not seen; from files to answers, on real stores."""

import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
import pytest

from persona import synthetic
from persona.evaluation.candidate import evaluate_candidate
from persona.intake import catalogs, drops
from persona.language.encoder import Encoder, load_encoder
from persona.pipeline import sinks
from persona.pipeline.draining import Pipeline
from persona.ranking import publication
from persona.ranking.recommender import Query, Recommender, Snapshot, load_snapshot
from persona.settings import Settings, StoreAddresses
from persona.stores.graph import open_graph
from persona.stores.vectors import open_vectors

pytestmark = pytest.mark.slow

END = datetime(2025, 6, 1, tzinfo=UTC)
MESSAGES = 2_000
LEARNT_FROM = 0.7
K = 5


class Split(NamedTuple):
    """A world cut at a moment."""

    earlier: list[dict[str, Any]]
    at: datetime
    later: dict[str, set[str]]
    """What each user converted on for the first time afterwards, by user; only users who were there before."""


class Figures(NamedTuple):
    """Means over users."""

    hit: float
    ndcg: float


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    """The bundled model."""
    return load_encoder(Settings(_env_file=None))


@pytest.mark.parametrize("seed", [1, 2])
def test_offers_foretell_what_people_convert_on_far_better_than_popularity(
    seed: int, pipeline: Pipeline, encoder: Encoder, stack_settings: Settings, tmp_path: Path
) -> None:
    world = synthetic.generate(messages=MESSAGES, seed=seed, end=END)
    split = cut(list(world.records()))
    synthetic.write(world, tmp_path / "whole", pipeline.settings.catalog)
    lines = b"".join(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE) for record in split.earlier)
    (pipeline.settings.drops / "earlier.jsonl").write_bytes(lines)

    # the product is bound by consent, channels and suppression, popularity by nothing but what was taken already
    ours = figures(answers(pipeline, encoder, stack_settings.addresses, split), split.later)
    popularity = figures(most_converted(split), split.later)
    print(f"\nseed {seed}, {len(split.later)} people: Hit@{K} {ours.hit:.3f} against {popularity.hit:.3f}, ", end="")
    print(f"NDCG@{K} {ours.ndcg:.3f} against {popularity.ndcg:.3f}")

    assert len(split.later) > 50
    assert ours.hit > popularity.hit + 0.1
    assert ours.ndcg > popularity.ndcg * 1.4


def cut(records: list[dict[str, Any]]) -> Split:
    """The first records by time, and what those people converted on afterwards and had not before."""
    records.sort(key=lambda record: record["timestamp"])
    length = int(len(records) * LEARNT_FROM)
    earlier, rest = records[:length], records[length:]
    before, known = conversions(earlier), {record["user_id"] for record in earlier}
    later = {user: found - before.get(user, set()) for user, found in conversions(rest).items() if user in known}
    at = datetime.fromisoformat(earlier[-1]["timestamp"])
    return Split(earlier, at, {user: found for user, found in later.items() if found})


def conversions(records: list[dict[str, Any]]) -> dict[str, set[str]]:
    """The campaigns that each user converted on."""
    found: dict[str, set[str]] = defaultdict(set)
    for record in records:
        if record.get("event") == "conversion":
            found[record["user_id"]].add(record["campaign_id"])
    return found


def most_converted(split: Split) -> dict[str, list[str]]:
    """Each user's best-selling campaigns so far, without what the user has taken already."""
    taken = conversions(split.earlier)
    sold = Counter(campaign for found in taken.values() for campaign in found)
    ranked = sorted(sold, key=lambda campaign: (-sold[campaign], campaign))
    return {user: [campaign for campaign in ranked if campaign not in taken[user]][:K] for user in split.later}


def answers(pipeline: Pipeline, encoder: Encoder, addresses: StoreAddresses, split: Split) -> dict[str, list[str]]:
    """What the product offers each user at the moment of the cut."""
    query = Query(k=K, at=split.at)
    with filled(pipeline, encoder, addresses) as (recommender, snapshot):
        offers = {user: recommender.for_user(user, query, snapshot) for user in split.later}
    assert all(answer.generation for answer in offers.values())
    assert not any(answer.degraded for answer in offers.values())
    return {user: [item.campaign_id for item in answer.recommendations] for user, answer in offers.items()}


@contextmanager
def filled(pipeline: Pipeline, encoder: Encoder, addresses: StoreAddresses) -> Iterator[tuple[Recommender, Snapshot]]:
    """The stores with everything from the folders applied and a generation published; empty again afterwards."""
    run = {"run_id": "quality"}
    documents, warehouse, threshold = pipeline.documents, pipeline.warehouse, pipeline.settings.intent_threshold
    version = f"v{random.randrange(10**6, 10**7)}"  # collections of our own on a server that others use too
    documents.database["state"].insert_one({"_id": "collections", "in_use": version, "to_fill": version})
    with (
        open_vectors(addresses.milvus, token=addresses.milvus_token, version=version) as vectors,
        open_graph(addresses.neo4j, user=addresses.neo4j_user, password=addresses.neo4j_password) as graph,
    ):
        graph.clear()
        try:
            catalogs.load_folder(pipeline, **run)
            drops.take_in_all(pipeline, **run)
            pipeline.drain("embeddings", lambda batch: sinks.embed(batch, encoder), **run)
            pipeline.drain("intents", lambda batch: sinks.label(batch, threshold=threshold), **run)
            pipeline.drain("milvus_collection", lambda batch: sinks.index_vectors(batch, vectors), **run)
            pipeline.drain("neo4j_graph", lambda batch: sinks.link(batch, graph), **run)
            pipeline.drain("engagement_metrics", lambda batch: sinks.count(batch, warehouse), **run)
            publication.fit_candidate(pipeline, warehouse, **run)
            evaluate_candidate(pipeline, **run)
            publication.publish_candidate(pipeline, graph, **run)
            yield Recommender(vectors, graph, documents), load_snapshot(documents)
        finally:
            vectors.drop()
            graph.clear()


def figures(offers: dict[str, list[str]], truth: dict[str, set[str]]) -> Figures:
    """Hit@K, and NDCG@K with binary gains and the ideal of min(K, relevant) campaigns."""
    hits = {user: [campaign in truth[user] for campaign in offers[user]] for user in truth}
    ideal = {user: discounted([True] * min(K, len(found))) for user, found in truth.items()}
    return Figures(
        hit=float(np.mean([any(row) for row in hits.values()])),
        ndcg=float(np.mean([discounted(row) / ideal[user] for user, row in hits.items()])),
    )


def discounted(hits: list[bool]) -> float:
    """The sum of hits, each divided by log2(rank + 1)."""
    return float(sum(hit / np.log2(rank + 1) for rank, hit in enumerate(hits, 1)))
