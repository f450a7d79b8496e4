"""What each stage does with a batch: read the truth, compute the projection, write the store. Every one can be repeated.

The computing is in `projections` and `language`, the queries are in `stores`; here is only the order.
"""

import time
from collections.abc import Iterator, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import chain, groupby, islice
from operator import itemgetter
from typing import Any

from persona.language.encoder import Encoder
from persona.language.intents import definition_texts
from persona.language.mentions import NameFinder
from persona.pipeline.draining import Batch
from persona.pipeline.labelling import labeller_of
from persona.pipeline.lease import Lease
from persona.pipeline.reading import read_ahead
from persona.projections.conversations import OPENING_CHARACTERS, conversations_of, openings_of, profile_of
from persona.projections.engagements import engagement_of, expressed_intents, fact_of, mentions_of
from persona.schemas import Conversation, UserProfile, Vectors
from persona.stores._chunks import chunks
from persona.stores.documents import Documents
from persona.stores.documents.embeddings import text_hash
from persona.stores.graph import Graph
from persona.stores.vectors import VectorStore
from persona.stores.warehouse import Warehouse

TEXTS = 4_096
USERS = 1_000
READERS_LEAVE_SECONDS = 5.0
"""Serving looks every second which collections are in use; then the questions that are under way have to end."""
FACTS = 10_000
CAMPAIGNS = 50
MADE_OF_MENTIONS = ("milvus_collection", "neo4j_graph", "cache")
"""What is to be computed anew where other campaigns are found in a text."""
MADE_OF_LABELS = ("neo4j_graph", "cache")


def embed(batch: Batch, encoder: Encoder) -> None:
    """Give every distinct text of the batch a vector, and every conversation that it touched one of how it opens."""
    texts = _texts(batch)
    first = next(texts, None)
    if first is None:  # not even the model is needed, and it takes seconds to load
        return
    batch.documents.embeddings.agree_on(encoder.fingerprint, encoder.dimension)
    _embed_texts(batch, encoder, chain([first], texts))
    for users in batch.in_chunks(batch.users, USERS):
        _embed_openings(batch, encoder, users)


def _embed_texts(batch: Batch, encoder: Encoder, texts: Iterator[tuple[str, str]]) -> None:
    """Messages, campaigns, examples of intents: shortest first, each once."""
    stored = batch.documents.embeddings
    with ThreadPoolExecutor(1, thread_name_prefix="embeddings-writer") as writer:
        written: Future[None] | None = None
        while chunk := dict(islice(texts, TEXTS)):
            present = stored.present(list(chunk))
            missing = {key: text for key, text in chunk.items() if key not in present}
            vectors = encoder.encode(list(missing.values()))
            if written:
                written.result()
            batch.lease.check()
            written = writer.submit(_keep, batch, list(missing), vectors, encoder.fingerprint)
            batch.records += len(missing)
            batch.progress(batch.records)
        if written:
            written.result()


def _embed_openings(batch: Batch, encoder: Encoder, users: list[str]) -> None:
    stored = batch.documents.conversations
    speakers = batch.documents.records.expressive_among(users)
    messages = batch.documents.records.messages_of(speakers, characters=OPENING_CHARACTERS)
    due = [opening for user, said in groupby(messages, itemgetter("user_id")) for opening in openings_of(user, list(said))]
    known = stored.said(speakers)
    vanished = known.keys() - {opening.conversation_id for opening in due}
    missing = [opening for opening in due if known.get(opening.conversation_id) != opening.said]
    for some in chunks(missing, TEXTS):
        vectors = encoder.encode([opening.words for opening in some])
        batch.lease.transaction(partial(stored.put, some, vectors))
        batch.records += len(some)
        batch.progress(batch.records)
    if vanished:
        batch.lease.transaction(partial(stored.remove, vanished))


def label(batch: Batch, *, threshold: float) -> None:
    """Find what the texts of the batch mean: which campaigns they name, and which intent they show."""
    _find_mentions(batch)
    _infer_intents(batch, threshold=threshold)


def _find_mentions(batch: Batch) -> None:
    """Find the campaigns that the texts of the batch name; those of every accepted drop where the catalog's names have changed."""
    stored, finder = batch.documents.embeddings, finder_of(batch.documents)
    drops = batch.drops
    if changed := stored.mention_version() != finder.version:
        drops = drops_that_name_others(batch.documents, batch.lease, finder)
        let_wait_for_mentions(batch.documents, drops)
    find_mentions_in(batch.documents, batch.lease, finder, drops)
    if changed:
        batch.lease.transaction(lambda session: stored.set_mention_version(finder.version, session=session))


def _infer_intents(batch: Batch, *, threshold: float) -> None:
    """Infer the intent of every text of the batch from its vector; of every stored text where the catalog or the method changed."""
    stored = batch.documents.embeddings
    labeller = labeller_of(batch.documents, batch.lease, threshold=threshold)
    if labeller is None:  # no catalog yet, or one that came in after this batch was embedded: on its turn every text is labelled
        return
    changed = stored.label_version() != labeller.version
    hashes = (key for key, _ in stored.scan()) if changed else batch.documents.records.text_hashes_of(batch.drops)
    while chunk := list(islice(hashes, TEXTS)):
        batch.lease.check()
        vectors = stored.get(set(chunk) - stored.labelled(chunk, version=labeller.version))
        batch.records += batch.lease.transaction(partial(labeller.put_labels, batch.documents, vectors))
        batch.progress(batch.records)
    if changed:
        batch.documents.ledger.reopen(MADE_OF_LABELS, kinds=["drop"])
        batch.lease.transaction(lambda session: stored.set_label_version(labeller.version, session=session))


def index_vectors(batch: Batch, vectors: VectorStore) -> None:
    """Bring users, conversations and campaigns in Milvus up to the truth, for the users that the batch touched."""
    documents = batch.documents
    model = documents.embeddings.model()
    if model is None:
        return
    current = vectors.at(documents.embeddings.collections_to_fill())  # as it is under the lease, not as it was at the run's start
    current.prepare(model[1], rows=documents.embeddings.count())
    if batch.has_catalog("campaigns"):
        batch.lease.check()
        with batch.overtakable():
            batch.records += index_campaigns(documents, current)
    for users in batch.in_chunks(batch.users, USERS):
        with batch.overtakable(partial(_forget_strangers, batch, current, users)):
            batch.records += index_users(documents, current, users)
        batch.progress(batch.records)
    current.await_visible()
    if not batch.leaves_pending():
        batch.lease.transaction(lambda session: documents.embeddings.use_filled_collections(session=session))
    drop_retired_collections(documents, vectors)


def link(batch: Batch, graph: Graph) -> None:
    """Bring users, engagements, mentions, expressed intents and campaigns in the graph up to the truth."""
    graph = graph.fenced(batch.lease.token)
    documents = batch.documents
    known: set[str] = set()
    if batch.has_catalog("campaigns", "intents"):
        campaigns = documents.catalog.campaigns()
        batch.lease.check()
        batch.records += graph.upsert_campaigns(campaigns)
        known = {campaign.campaign_id for campaign in campaigns}
    for users in batch.in_chunks(batch.users, USERS):
        touched = set(documents.records.pairs_of(batch.drops, users))
        unknown = {campaign for _, campaign in touched} - known
        batch.records += graph.upsert_campaigns(documents.catalog.campaigns_by_id(unknown))
        batch.records += link_users(documents, graph, users, touched=touched)
        known |= unknown
        batch.progress(batch.records)
    if batch.has_catalog("campaigns", "intents"):
        graph.delete_lone_intents()


def count(batch: Batch, warehouse: Warehouse) -> None:
    """Insert the facts of the batch; day buckets grow by what was really inserted, users' sums are computed anew."""
    warehouse = warehouse.fenced(batch.lease.token)
    facts = map(fact_of, batch.documents.records.engagements_of_drops(batch.drops))
    for chunk in read_ahead(iter(lambda: list(islice(facts, FACTS)), [])):
        batch.lease.check()
        batch.records += warehouse.insert_facts(chunk)
        batch.progress(batch.records)
    for users in batch.in_chunks(batch.users, FACTS):
        warehouse.refresh_users(users)


# -- the same for any users, whichever store is filled: what a rebuild is made of ------------------------------------------


def finder_of(documents: Documents) -> NameFinder:
    """What finds the names of the catalog in force."""
    return NameFinder(documents.catalog.campaigns())


def find_mentions_in(documents: Documents, lease: Lease, finder: NameFinder, drops: Sequence[str]) -> None:
    """Store which campaigns the texts of these drops name."""
    texts = documents.records.texts_of(drops) if drops else iter(())
    while chunk := dict(islice(texts, TEXTS)):
        lease.check()
        named = {key: finder.find(text) for key, text in chunk.items()}
        lease.transaction(partial(documents.embeddings.put_mentions, named))


def drops_that_name_others(documents: Documents, lease: Lease, finder: NameFinder) -> list[str]:
    """The accepted drops with a text in which other campaigns are found than are stored.

    Ask, and let them wait for what is made of mentions, before anything found is stored: a text may be in several drops, and whoever
    is interrupted leaves none of them behind.
    """
    outdated: list[str] = []
    for entry in documents.ledger.all_of("drop", states=["accepted"]):
        lease.check()
        if _names_others(documents, finder, entry.id):
            outdated.append(entry.id)
    return outdated


def let_wait_for_mentions(documents: Documents, drops: Sequence[str]) -> None:
    """Let what is made of mentions be made of these drops anew."""
    documents.ledger.reopen(MADE_OF_MENTIONS, kinds=["drop"], entries=drops)


def _names_others(documents: Documents, finder: NameFinder, drop: str) -> bool:
    texts = documents.records.texts_of([drop])
    while chunk := dict(islice(texts, TEXTS)):
        stored = documents.embeddings.mentions(chunk)
        if any(finder.find(text) != stored.get(key, ()) for key, text in chunk.items()):
            return True
    return False


def index_users(documents: Documents, vectors: VectorStore, users: list[str]) -> int:
    """Make these users' profiles and conversations in Milvus what the truth says; return how many there are."""
    profiles: list[UserProfile] = []
    conversations: list[Conversation] = []
    speakers = documents.records.expressive_among(users)
    histories = [(user, list(history)) for user, history in groupby(_histories(documents, speakers), itemgetter("user_id"))]
    stored = documents.embeddings.get(
        {record["text_hash"] for _, history in histories for record in history if "text_hash" in record}
    )
    named = documents.embeddings.mentions(stored)
    openings = documents.conversations.openings(speakers)
    for user, everything in histories:
        # a drop that has come in but is not embedded yet brings its texts with its own turn
        history = [record for record in everything if "text_hash" not in record or record["text_hash"] in stored]
        profile = profile_of(user, history, stored, openings)
        if profile:
            profiles.append(profile)
            conversations += conversations_of(user, history, stored, named, openings)
    vanished = vectors.conversation_ids_of(speakers) - {conversation.conversation_id for conversation in conversations}
    written = vectors.upsert_conversations(conversations) + vectors.upsert_users(profiles)
    if vanished:
        vectors.delete_conversations(sorted(vanished))
    return written


def index_campaigns(documents: Documents, vectors: VectorStore) -> int:
    """Make the campaigns in Milvus what the catalog says; return how many have words."""
    texts = {campaign.campaign_id: text_hash(campaign.text) for campaign in documents.catalog.campaigns() if campaign.text}
    stored = documents.embeddings.get(set(texts.values()))
    return vectors.upsert_campaigns({campaign: stored[key] for campaign, key in texts.items() if key in stored})


def drop_retired_collections(documents: Documents, vectors: VectorStore) -> None:
    """Remove the collections that are out of use, once everybody who read them has had the time to notice."""
    for version, seconds in documents.embeddings.retired_collections().items():
        time.sleep(max(0.0, READERS_LEAVE_SECONDS - seconds))
        vectors.at(version).drop()
        documents.embeddings.forget_collections(version)


def link_users(documents: Documents, graph: Graph, users: list[str], *, touched: Set[tuple[str, str]] | None = None) -> int:
    """Make what ties these users what the truth says; return how many ties were written.

    With `touched`, of the (user, campaign) pairs only these are looked at; without, what is not due is removed.
    """
    records = documents.records
    graph.upsert_users(users)
    pairs = records.folded_pairs(users)
    speakers = records.expressive_among(users)
    history = list(_histories(documents, speakers))
    texts = {record["text_hash"] for record in history if "text_hash" in record}
    expressed = expressed_intents(history, documents.embeddings.labels(texts))
    whose = users if touched is None else speakers
    written = graph.replace_engagements(users, [engagement_of(pair) for pair in pairs], touched=touched)
    written += graph.replace_mentioned(mentions_of(whose, history, documents.embeddings.mentions(texts)))
    return written + graph.replace_expressed(whose, expressed)


def count_users(documents: Documents, warehouse: Warehouse, users: list[str]) -> int:
    """Insert every fact of these users that is not there, and compute their totals anew; return how many facts were new."""
    records = documents.records.engagements_of(users)
    written = 0
    while chunk := list(islice(records, FACTS)):
        written += warehouse.insert_facts([fact_of(record) for record in chunk])
    warehouse.refresh_users(users)
    return written


def relate(lease: Lease, documents: Documents, graph: Graph) -> int:
    """Tie campaigns that go together by the generation in force, and no others; return how many ties there are."""
    generation = documents.generations.in_force_id() or ""
    of_campaigns = documents.relations.of(documents.generations.fingerprint_of(generation) or "")
    written = 0
    while chunk := list(islice(of_campaigns, CAMPAIGNS)):
        lease.check()
        relations = {related[0].campaign_id: related for _, related in chunk}
        written += graph.fenced(lease.token).replace_relations(relations, generation=generation, run_id=chunk[0][0])
    graph.fenced(lease.token).forget_relations(but=[generation])
    return written


def _keep(batch: Batch, hashes: list[str], vectors: Vectors, model: str) -> None:
    stored = batch.documents.embeddings
    batch.lease.transaction(lambda session: stored.put(hashes, vectors, model=model, session=session))


def _forget_strangers(batch: Batch, vectors: VectorStore, users: list[str]) -> None:
    """Remove what a run that was overtaken wrote of people who have been erased meanwhile: no drop brings them up again."""
    strangers = set(users) - set(batch.documents.records.expressive_among(users))
    vectors.delete_conversations(vectors.conversation_ids_of(strangers))
    vectors.delete_users(strangers)


def _texts(batch: Batch) -> Iterator[tuple[str, str]]:
    if batch.has_catalog("campaigns"):
        texts = {campaign.text for campaign in batch.documents.catalog.campaigns() if campaign.text}
        yield from ((text_hash(text), text) for text in sorted(texts, key=len))
    if batch.has_catalog("intents"):
        texts = {text for definition in batch.documents.catalog.intents() for text in definition_texts(definition)}
        yield from ((text_hash(text), text) for text in sorted(texts, key=len))
    if batch.drops:
        yield from batch.documents.records.texts_of(batch.drops)


def _histories(documents: Documents, users: list[str]) -> Iterator[dict[str, Any]]:
    return documents.records.histories(users) if users else iter(())
