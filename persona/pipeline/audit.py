"""Whether whole stores agree with the truth. Costs what there is; the checks after each run look at that run's drops alone."""

from dataclasses import dataclass

from persona.stores.documents import Documents
from persona.stores.graph import Graph
from persona.stores.vectors import VectorStore
from persona.stores.warehouse import Warehouse


@dataclass(frozen=True, slots=True)
class Comparison:
    """One count in the truth and in a projection."""

    what: str
    asset: str
    expected: int
    found: int

    @property
    def agrees(self) -> bool:
        """Whether the projection holds as much as the truth."""
        return self.expected == self.found


def compare_stores(documents: Documents, vectors: VectorStore, graph: Graph, warehouse: Warehouse) -> list[Comparison]:
    """Every count that has to be the same in MongoDB and a projection."""
    records = documents.records
    generation = documents.generations.in_force_id() or ""
    fingerprint = documents.generations.fingerprint_of(generation) or ""
    return [
        Comparison("users with a vector", "milvus_collection", records.count_speakers(), vectors.count("users")),
        Comparison("users", "neo4j_graph", records.count_users(), graph.count("User")),
        Comparison("engaged pairs", "neo4j_graph", records.count_pairs(), graph.count("ENGAGED")),
        Comparison("related campaigns", "neo4j_graph", documents.relations.count(fingerprint), graph.count_relations(generation)),
        Comparison("mentioned campaigns", "neo4j_graph", records.count_mentions(), graph.count("MENTIONED")),
        Comparison("facts", "engagement_metrics", records.count_engagements(), warehouse.fact_count()),
        Comparison(
            "events in day buckets",
            "engagement_metrics",
            warehouse.fact_count(),
            sum(bucket.n for bucket in warehouse.day_buckets()),
        ),
    ]
