"""Checks on vectors and intents."""

from collections.abc import Iterator
from itertools import islice

import dagster as dg
import numpy as np

from persona.pipeline import anomalies
from persona.pipeline.stages import downstream
from persona.schemas import Vector
from persona.stores.documents import Documents
from persona.stores.warehouse import Warehouse
from persona_assets.assets.language import embeddings, intents
from persona_assets.assets.learning import lessons
from persona_assets.checks.results import all_sound, noticed

HISTORY = 30
TEXTS = 5_000


@dg.asset_check(asset=embeddings, blocking=True)
def vectors_are_sound(documents: dg.ResourceParam[Documents]) -> dg.AssetCheckResult:
    """Every text of the run's drops has a vector: finite, of the model's dimension, not zero."""
    hashes = _texts_to_check(documents, "embeddings")
    model = documents.embeddings.model()
    checked, faults = 0, list[str]()
    while chunk := list(islice(hashes, TEXTS)):
        checked += len(chunk)
        vectors = documents.embeddings.get(chunk)
        faults += [key for key in chunk if key not in vectors]
        faults += [
            key
            for key, vector in vectors.items()
            if model is None or len(vector) != model[1] or not np.isfinite(vector).all() or not vector.any()
        ]
    return all_sound(checked, faults, faults)


@dg.asset_check(asset=embeddings)
def centroid_has_not_drifted(
    context: dg.AssetCheckExecutionContext, documents: dg.ResourceParam[Documents], warehouse: dg.ResourceParam[Warehouse]
) -> dg.AssetCheckResult:
    """The mean vector of the run's texts, against the runs before: people talk of what they used to."""
    run_id = context.run.run_id
    drops = [entry.id for entry in documents.ledger.applied("embeddings", run_id=run_id) if entry.kind == "drop"]
    centroid = _centroid(documents, drops)
    finding = anomalies.centroid_drift(centroid, documents.embeddings.centroids_before(run_id, limit=HISTORY))
    if centroid is not None:
        documents.embeddings.remember_centroid(run_id, centroid)
    return noticed(
        finding, warehouse, run_id=run_id, asset="embeddings", check_name="centroid_has_not_drifted",
        description="Cosine distance from the mean vector of earlier runs.",
    )  # fmt: skip


@dg.asset_check(asset=intents)
def most_messages_show_an_intent(
    context: dg.AssetCheckExecutionContext, documents: dg.ResourceParam[Documents], warehouse: dg.ResourceParam[Warehouse]
) -> dg.AssetCheckResult:
    """The share of the run's texts in which no intent of the catalog was found; nothing to find without a catalog of intents."""
    drops = [entry.id for entry in documents.ledger.applied("intents", run_id=context.run.run_id) if entry.kind == "drop"]
    texts, labelled = 0, 0
    hashes = documents.records.text_hashes_of(drops) if drops and documents.catalog.intents() else iter(())
    while chunk := list(islice(hashes, TEXTS)):
        texts, labelled = texts + len(chunk), labelled + len(documents.embeddings.labels(chunk))
    finding = anomalies.share_without_intent(texts, labelled)
    return noticed(
        finding, warehouse, run_id=context.run.run_id, asset="intents", check_name="most_messages_show_an_intent",
        description="Share of texts without an intent.",
    )  # fmt: skip


@dg.asset_check(asset=intents, blocking=True)
def every_text_is_labelled(documents: dg.ResourceParam[Documents]) -> dg.AssetCheckResult:
    """Every text of the run's drops was looked at by the classifier in force, with or without a find."""
    version = documents.embeddings.label_version()
    hashes = _texts_to_check(documents, "intents")
    checked, unlabelled = 0, list[str]()
    while version and (chunk := list(islice(hashes, TEXTS))):
        checked += len(chunk)
        unlabelled += sorted(set(chunk) - documents.embeddings.labelled(chunk, version=version))
    if any(entry.catalog == "intents" for entry in documents.ledger.pending("intents", upstream=())):
        unlabelled = []  # a catalog that came in meanwhile has everything labelled anew on its turn
    return all_sound(checked, unlabelled, unlabelled)


@dg.asset_check(asset=lessons)
def every_lesson_is_in_the_truth(documents: dg.ResourceParam[Documents]) -> dg.AssetCheckResult:
    """Nothing is learned from but messages that someone was recorded with and that were given an intent."""
    held = documents.classifiers.lessons().keys()
    strays = sorted(held - {key for key, _, _ in documents.records.given_intents()})
    return all_sound(len(held), strays, strays)


def _centroid(documents: Documents, drops: list[str]) -> Vector | None:
    """The mean vector of the texts of these drops; None where they have none."""
    sums, texts = list[Vector](), 0
    hashes = documents.records.text_hashes_of(drops) if drops else iter(())
    while chunk := list(islice(hashes, TEXTS)):
        if vectors := list(documents.embeddings.get(chunk).values()):
            sums.append(np.sum(vectors, axis=0))
            texts += len(vectors)
    return np.sum(sums, axis=0) / texts if texts else None


def _texts_to_check(documents: Documents, asset: str) -> Iterator[str]:
    entries = documents.ledger.to_check(asset, downstream=downstream(asset))
    drops = [entry.id for entry in entries if entry.kind == "drop"]
    return documents.records.text_hashes_of(drops) if drops else iter(())
