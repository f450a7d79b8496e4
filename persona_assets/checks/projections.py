"""Checks that the projections hold what the truth says, for the drops that the latest run applied."""

from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter

import dagster as dg

from persona.pipeline.stages import downstream
from persona.projections.conversations import conversation_ids_of
from persona.stores.documents import Documents
from persona.stores.graph import Graph
from persona.stores.vectors import VectorStore
from persona.stores.warehouse import Warehouse
from persona_assets.assets.projections import (
    engagement_metrics,
    milvus_collection,
    neo4j_graph,
)
from persona_assets.checks.results import SAMPLE, all_sound

USERS = 2_000


@dg.asset_check(asset=milvus_collection, blocking=True)
def vectors_agree_with_the_truth(
    documents: dg.ResourceParam[Documents], vectors: dg.ResourceParam[VectorStore]
) -> dg.AssetCheckResult:
    """Every touched user who said something has a vector; their conversations are there, and no others of theirs."""
    vectors = vectors.at(documents.embeddings.collections_to_fill())
    users = documents.records.users_of(_drops(documents, "milvus_collection"))
    checked, missing, remains = 0, 0, 0
    for some in _in_parts(users):
        found = _compare_conversations(documents, vectors, some)
        if found[1:] != (0, 0):  # a drop that came in meanwhile is another run's to reflect
            touched_since = set(documents.records.users_of(_waiting(documents, "milvus_collection")))
            settled = [user for user in some if user not in touched_since]
            found = _compare_conversations(documents, vectors, settled)
        checked, missing, remains = checked + found[0], missing + found[1], remains + found[2]
    return dg.AssetCheckResult(
        passed=not missing and not remains,
        severity=dg.AssetCheckSeverity.ERROR,
        metadata={"checked": checked, "missing": missing, "remains": remains},
    )


@dg.asset_check(asset=neo4j_graph, blocking=True)
def engagements_agree_with_the_truth(
    documents: dg.ResourceParam[Documents], graph: dg.ResourceParam[Graph]
) -> dg.AssetCheckResult:
    """Every (user, campaign) pair of the run's drops is a relationship, and every touched user a node."""
    drops = _drops(documents, "neo4j_graph")
    checked, missing_pairs, missing_users = 0, list[tuple[str, str]](), list[str]()
    for users in _in_parts(documents.records.users_of(drops)):
        pairs = list(documents.records.pairs_of(drops, users))
        missing_pairs += graph.missing_engagements(pairs)
        missing_users += graph.missing_users(users)
        checked += len(pairs) + len(users)
    return all_sound(checked, [*missing_pairs, *missing_users], sorted({campaign for _, campaign in missing_pairs}))


@dg.asset_check(asset=neo4j_graph, blocking=True)
def every_relationship_has_both_ends(
    documents: dg.ResourceParam[Documents], graph: dg.ResourceParam[Graph]
) -> dg.AssetCheckResult:
    """No relationship of a touched user ends at something that is not a known campaign or intent."""
    users = documents.records.users_of(_drops(documents, "neo4j_graph"))
    return all_sound(len(users), graph.incomplete_ends(users, limit=SAMPLE))


@dg.asset_check(asset=engagement_metrics, blocking=True)
def facts_agree_with_the_truth(
    documents: dg.ResourceParam[Documents], warehouse: dg.ResourceParam[Warehouse]
) -> dg.AssetCheckResult:
    """The warehouse holds one fact for every record of the run's drops that names a campaign."""
    drops = _drops(documents, "engagement_metrics")
    expected, found = documents.records.count_engagements(drops), warehouse.facts_of_drops(drops)
    return dg.AssetCheckResult(
        passed=expected == found, severity=dg.AssetCheckSeverity.ERROR, metadata={"expected": expected, "found": found}
    )


@dg.asset_check(asset=engagement_metrics, blocking=True)
def buckets_equal_facts(documents: dg.ResourceParam[Documents], warehouse: dg.ResourceParam[Warehouse]) -> dg.AssetCheckResult:
    """Every day bucket that the run's facts fell into holds what its facts add up to."""
    drops = _drops(documents, "engagement_metrics")
    mismatches = warehouse.bucket_mismatches(drops, limit=SAMPLE)
    return all_sound(len(drops), mismatches, [f"{mismatch.day} {mismatch.campaign_id}" for mismatch in mismatches])


def _compare_conversations(documents: Documents, vectors: VectorStore, users: list[str]) -> tuple[int, int, int]:
    """How many vectors these users are to have, how many of them are missing, and how many are there that ought not to be."""
    speakers = documents.records.expressive_among(users)
    histories = groupby(documents.records.histories(speakers), itemgetter("user_id"))
    threads = {user: conversation_ids_of(user, list(history)) for user, history in histories}
    with_vector = {user for user, conversations in threads.items() if conversations}
    expected = {conversation for conversations in threads.values() for conversation in conversations}
    present = vectors.conversation_ids_of(speakers)
    missing = len(expected - present) + len(with_vector - vectors.present_users(with_vector))
    return len(expected) + len(with_vector), missing, len(present - expected)


def _in_parts(users: list[str]) -> Iterator[list[str]]:
    return (users[start : start + USERS] for start in range(0, len(users), USERS))


def _waiting(documents: Documents, asset: str) -> list[str]:
    waiting = documents.ledger.claimed() + documents.ledger.pending(asset, upstream=())
    return [entry.id for entry in waiting if entry.kind == "drop"]


def _drops(documents: Documents, asset: str) -> list[str]:
    entries = documents.ledger.to_check(asset, downstream=downstream(asset))
    return [entry.id for entry in entries if entry.kind == "drop"]
