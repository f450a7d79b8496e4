"""Where servers keep what has been deleted for a while, and what removes it there. What is erased is decided elsewhere."""

from persona.settings import Settings, StoreName

SCRUB = "`persona erase --scrub`"
LOCAL: dict[StoreName, str] = {
    "mongodb": "MongoDB's oplog, journal, free pages and log",
    "milvus": "deleted rows in Milvus' files",
    "neo4j": "Neo4j's transaction log, free pages and log",
}
ELSEWHERE: dict[StoreName, tuple[str, str]] = {
    "mongodb": (
        "MongoDB's oplog, journal, free pages and log",
        "time, as the oplog and the logs turn over; `compact` on each member rewrites its files",
    ),
    "milvus": (
        "deleted rows in Milvus' segments and its message queue",
        "a compaction of the collections, then Milvus' retention",
    ),
    "neo4j": ("Neo4j's transaction logs and query log", "a checkpoint, then `db.tx_log.rotation.retention_policy`"),
    "redis": ("Redis' append-only file or dump, if it writes one", "BGREWRITEAOF, or SAVE"),
}


def residue_of(settings: Settings, *, scrubbed: bool = False) -> list[dict[str, str]]:
    """For each store, where the deleted may still lie on disk and what removes it; the local servers' files unless `scrubbed`."""
    local = settings.uses_local_servers
    residue = [
        {"where": where, "removed_by": removed_by} for store, (where, removed_by) in ELSEWHERE.items() if store not in local
    ]
    if settings.warehouse_url is not None:
        residue.append(
            {"where": "dead rows and write-ahead log of the warehouse", "removed_by": "VACUUM FULL, then the log's retention"}
        )
    if not scrubbed:
        residue += [{"where": where, "removed_by": SCRUB} for store, where in LOCAL.items() if store in local]
        if settings.warehouse_url is None:
            residue.append({"where": "the warehouse's free pages and write-ahead log", "removed_by": SCRUB})
    return residue
