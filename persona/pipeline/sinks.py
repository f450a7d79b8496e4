"""What each stage does with a batch: read the truth, compute the projection, write the store. Every one can be repeated.

The computing is in `projections` and `language`, the queries are in `stores`; here is only the order.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby, islice
from operator import itemgetter
from typing import Any

import numpy as np

from persona.language import intents
from persona.language.encoder import Encoder
from persona.pipeline.draining import Batch
from persona.projections.conversations import conversations_of, profile_of
from persona.projections.engagements import engagement_of, expressed_intents, fact_of
from persona.schemas import Conversation, IntentDefinition, UserProfile, Vectors
from persona.stores.documents.embeddings import text_hash
from persona.stores.graph import Graph
from persona.stores.vectors import VectorStore
from persona.stores.warehouse import Warehouse

TEXTS = 4_096
USERS = 1_000
FACTS = 10_000


def embed(batch: Batch, encoder: Encoder) -> None:
    """Give every distinct text of the batch a vector: messages, campaigns, examples of intents. Shortest first, each once."""
    stored = batch.documents.embeddings
    stored.agree_on(encoder.fingerprint, encoder.dimension)
    texts = _texts(batch)
    with ThreadPoolExecutor(1, thread_name_prefix="embeddings-writer") as writer:
        written: Future[None] | None = None
        while chunk := dict(islice(texts, TEXTS)):
            present = stored.present(list(chunk))
            missing = {key: text for key, text in chunk.items() if key not in present}
            vectors = encoder.encode(list(missing.values()))
            if written:
                written.result()
            batch.lease.check()
            written = writer.submit(stored.put, list(missing), vectors, model=encoder.fingerprint)
            batch.records += len(missing)
            batch.progress(batch.records)
        if written:
            written.result()


def label(batch: Batch, *, threshold: float) -> None:
    """Infer the intent of every text of the batch from its vector; of every stored text where the catalog or the method changed."""
    stored = batch.documents.embeddings
    definitions = batch.documents.catalog.intents()
    model = stored.model()
    if not definitions or model is None:
        return
    examples = _example_vectors(batch, definitions)
    if examples is None:  # a catalog that came in after this batch was embedded; on its turn every text is labelled anew
        return
    version = intents.version(definitions, model[0], threshold)
    classifier = intents.NearestExamples.fit(examples, threshold=threshold)
    changed = stored.label_version() != version
    hashes = (key for key, _ in stored.scan()) if changed else batch.documents.records.text_hashes_of(batch.drops)
    while chunk := list(islice(hashes, TEXTS)):
        batch.lease.check()
        vectors = stored.get(set(chunk) - stored.labelled(chunk, version=version))
        if not vectors:
            continue
        guesses = classifier.classify(np.stack(list(vectors.values())))
        labels = {key: (guess.intent, guess.score) if guess else (None, 0.0) for key, guess in zip(vectors, guesses, strict=True)}
        stored.put_labels(labels, version=version)
        batch.records += len(labels)
        batch.progress(batch.records)
    if changed:
        batch.documents.ledger.reopen(["neo4j_graph"], kinds=["drop"])
        stored.set_label_version(version)


def index_vectors(batch: Batch, vectors: VectorStore) -> None:
    """Bring users, conversations and campaigns in Milvus up to the truth, for the users that the batch touched."""
    model = batch.documents.embeddings.model()
    if model is None:
        return
    vectors = vectors.at(
        batch.documents.embeddings.collections_to_fill()
    )  # as it is under the lease, not as it was at the run's start
    vectors.prepare(model[1])
    if batch.has_catalog("campaigns"):
        batch.lease.check()
        batch.records += vectors.upsert_campaigns(_campaign_vectors(batch))
    for users in batch.in_chunks(batch.users, USERS):
        profiles: list[UserProfile] = []
        conversations: list[Conversation] = []
        speakers = batch.documents.records.expressive_among(users)
        histories = [(user, list(history)) for user, history in groupby(_histories(batch, speakers), itemgetter("user_id"))]
        stored = batch.documents.embeddings.get(
            {record["text_hash"] for _, history in histories for record in history if "text_hash" in record}
        )
        for user, everything in histories:
            # a drop that came in after this batch was embedded brings its texts with its own turn
            history = [record for record in everything if "text_hash" not in record or record["text_hash"] in stored]
            profile = profile_of(user, history, stored)
            if profile:
                profiles.append(profile)
                conversations += conversations_of(user, history, stored)
        vanished = vectors.conversation_ids_of(speakers) - {conversation.conversation_id for conversation in conversations}
        batch.records += vectors.upsert_conversations(conversations) + vectors.upsert_users(profiles)
        if vanished:
            vectors.delete_conversations(sorted(vanished))
        batch.progress(batch.records)
    if not batch.leaves_pending():
        outdated = batch.documents.embeddings.use_filled_collections()
        if outdated:
            vectors.at(outdated).drop()


def link(batch: Batch, graph: Graph) -> None:
    """Bring users, engagements, expressed intents and campaigns in the graph up to the truth."""
    records = batch.documents.records
    if batch.has_catalog("campaigns", "intents"):
        batch.lease.check()
        batch.records += graph.upsert_campaigns(batch.documents.catalog.campaigns())
    touched = set(records.pairs_of(batch.drops)) if batch.drops else set()
    for users in batch.in_chunks(batch.users, USERS):
        graph.upsert_users(users)
        pairs = (pair for pair in records.folded_pairs(users) if (pair["_id"]["user_id"], pair["_id"]["campaign_id"]) in touched)
        batch.records += graph.upsert_engagements([engagement_of(pair) for pair in pairs])
        speakers = records.expressive_among(users)
        history = list(_histories(batch, speakers))
        inferred = batch.documents.embeddings.labels({record["text_hash"] for record in history if "text_hash" in record})
        batch.records += graph.replace_expressed(speakers, expressed_intents(history, inferred))
        batch.progress(batch.records)


def count(batch: Batch, warehouse: Warehouse) -> None:
    """Insert the facts of the batch; day buckets grow by what was really inserted, users' sums are computed anew."""
    records = batch.documents.records.engagements_of_drops(batch.drops)
    while chunk := list(islice(records, FACTS)):
        batch.lease.check()
        batch.records += warehouse.insert_facts([fact_of(record) for record in chunk])
        batch.progress(batch.records)
    for users in batch.in_chunks(batch.users, FACTS):
        warehouse.refresh_users(users)


def _texts(batch: Batch) -> Iterator[tuple[str, str]]:
    if batch.has_catalog("campaigns"):
        texts = {campaign.text for campaign in batch.documents.catalog.campaigns() if campaign.text}
        yield from ((text_hash(text), text) for text in sorted(texts, key=len))
    if batch.has_catalog("intents"):
        texts = {text for definition in batch.documents.catalog.intents() for text in intents.definition_texts(definition)}
        yield from ((text_hash(text), text) for text in sorted(texts, key=len))
    if batch.drops:
        yield from batch.documents.records.texts_of(batch.drops)


def _example_vectors(batch: Batch, definitions: list[IntentDefinition]) -> dict[str, Vectors] | None:
    hashes = {definition.intent: [text_hash(text) for text in intents.definition_texts(definition)] for definition in definitions}
    wanted = {key for keys in hashes.values() for key in keys}
    stored = batch.documents.embeddings.get(wanted)
    if wanted - set(stored):
        return None
    return {intent: np.stack([stored[key] for key in keys]) for intent, keys in hashes.items()}


def _campaign_vectors(batch: Batch) -> dict[str, Any]:
    texts = {campaign.campaign_id: text_hash(campaign.text) for campaign in batch.documents.catalog.campaigns() if campaign.text}
    stored = batch.documents.embeddings.get(set(texts.values()))
    return {campaign: stored[key] for campaign, key in texts.items() if key in stored}


def _histories(batch: Batch, users: list[str]) -> Iterator[dict[str, Any]]:
    return batch.documents.records.histories(users) if users else iter(())
