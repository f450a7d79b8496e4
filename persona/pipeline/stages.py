"""The stages of draining and what each waits for. Names and order only."""

PROJECTIONS = ("milvus_collection", "neo4j_graph", "engagement_metrics")
UPSTREAM: dict[str, tuple[str, ...]] = {
    "embeddings": (),
    "intents": ("embeddings",),
    "milvus_collection": ("embeddings", "intents"),
    "neo4j_graph": ("embeddings", "intents"),
    "engagement_metrics": ("embeddings", "intents"),
    "cache": ("embeddings", "intents", *PROJECTIONS),
}
"""Each sink of an accepted drop, with every sink that must have applied an entry before it."""

DROP_SINKS = tuple(UPSTREAM)
CATALOG_SINKS = {
    "campaigns": ("embeddings", "intents", "milvus_collection", "neo4j_graph"),
    "intents": ("embeddings", "intents", "neo4j_graph"),
    "users": (),
}
"""What waits for each catalog. Serving keeps answers by the catalog's version, so none is evicted."""

DRAINING_ASSETS = ("catalogs", "raw_conversations", *(sink for sink in UPSTREAM if sink != "cache"))
"""What `drops_job` materialises, upstream first."""

CODE_VERSIONS = {
    "catalogs": "1",
    "raw_conversations": "1",
    "embeddings": "2",
    "intents": "2",
    "milvus_collection": "3",
    "neo4j_graph": "3",
    "engagement_metrics": "1",
    "cache": "1",
    "lessons": "1",
    "ranking_model": "4",
    "ranking_evaluation": "1",
    "generation": "1",
}
"""Moves when what an asset computes from the same input changes: what an older version applied then waits for it again."""


def downstream(sink: str) -> tuple[str, ...]:
    """Every sink that waits for this one, directly or not."""
    return tuple(other for other, upstream in UPSTREAM.items() if sink in upstream)
