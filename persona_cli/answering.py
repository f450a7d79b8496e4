"""What commands that answer in this process stand on: the same stores and code as over HTTP."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from persona.ranking.people import People
from persona.ranking.recommender import Recommender, Rules, Snapshot, load_snapshot
from persona.ranking.tracing import Trail
from persona.settings import Settings
from persona.stores.documents import Documents
from persona.stores.opening import documents_of, graph_of, vectors_of


@dataclass(frozen=True)
class Answering:
    """The recommender, and what it answers from."""

    documents: Documents
    recommender: Recommender
    snapshot: Snapshot
    trail: Trail
    people: People


@contextmanager
def open_answering(settings: Settings) -> Iterator[Answering]:
    """On the stores that the settings name, as they are now. Raises `StoreUnavailable`."""
    with (
        documents_of(settings) as documents,
        vectors_of(settings, version=documents.embeddings.collections_in_use()) as vectors,
        graph_of(settings) as graph,
    ):
        recommender = Recommender(vectors, graph, documents, Rules.of(settings))
        people = People(recommender, vectors, graph, documents.embeddings, documents.records)
        trail = Trail(documents.records, documents.ledger)
        yield Answering(documents, recommender, load_snapshot(documents), trail, people)
