"""A world for a whole platform: an environment of its own, drops to put into it, and everything its stores hold, to be compared."""

import json
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pymongo
from neo4j import GraphDatabase
from pymilvus import MilvusClient
from sqlalchemy import create_engine, inspect, text

from persona import synthetic
from persona.schemas import Vectors
from persona.settings import Settings

NEWEST = datetime(2026, 6, 1, tzinfo=UTC)
PROVENANCE = {
    "run_id", "at", "claimed_at", "loaded_at", "history", "marks", "attempts", "fingerprint", "generation", "version_at", "judged",
    "overtaken",
}  # fmt: skip
"""What says when and by which run something came about; it differs between two worlds that hold the same."""
NO_CONTENT = {"anomalies", "centroids", "classifier", "files", "state", "generations", "relations", "reports", "fence"}
LEARNED = '"type": "RELATED"'
"""In the row of a relationship between campaigns."""

Dump = dict[str, list[str]]


class HashingEncoder:
    """Exact and instant: equal texts have equal vectors, texts that share words have near ones."""

    def __init__(self, name: str = "words", dimension: int = 48) -> None:
        self.fingerprint = f"{name}@1/{dimension}"
        self.dimension = dimension

    def encode(self, texts: Iterable[str]) -> Vectors:
        rows = [
            np.sum([self._direction(word) for word in {"", *some.lower().split()}], axis=0, dtype=np.float64) for some in texts
        ]
        if not rows:
            return np.zeros((0, self.dimension), dtype=np.float32)
        found = np.stack(rows)
        return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)

    def _direction(self, word: str) -> Vectors:
        return np.random.default_rng(list(f"{self.fingerprint}/{word}".encode())).normal(size=self.dimension)


def environment_of(stack: Settings, folder: Path) -> dict[str, str]:
    """The environment of a home in `folder` on the servers of `stack`, with a database and a warehouse of its own."""
    addresses = stack.addresses
    return {
        "PERSONA_HOME": str(folder / "home"),
        "PERSONA_DROPS": str(folder / "drops"),
        "PERSONA_CATALOG": str(folder / "catalog"),
        "PERSONA_SETTLE_SECONDS": "0",
        "DAGSTER_HOME": str(folder / "home" / "dagster"),
        "MONGODB_URI": addresses.mongodb,
        "MONGODB_DATABASE": f"t{uuid.uuid4().hex[:12]}",
        "MILVUS_URI": addresses.milvus,
        "MILVUS_TOKEN": addresses.milvus_token,
        "NEO4J_URI": addresses.neo4j,
        "NEO4J_USER": addresses.neo4j_user,
        "NEO4J_PASSWORD": addresses.neo4j_password,
        "REDIS_URL": addresses.redis,
        "SQLITE_PATH": str(folder / "warehouse.sqlite"),
    }


def clear(settings: Settings) -> None:
    """Empty this world's database, graph, collections and warehouse."""
    addresses = settings.addresses
    with pymongo.MongoClient(addresses.mongodb) as client:
        client.drop_database(settings.mongodb_database)
    with graph_session(settings) as session:
        session.run("MATCH ()-[tie]->() DELETE tie").consume()
        session.run("MATCH (node) DELETE node").consume()
    with closing(MilvusClient(addresses.milvus, token=addresses.milvus_token, dedicated=True)) as client:
        for name in client.list_collections():
            client.drop_collection(name)
    if settings.sqlite_path:
        for suffix in ("", "-wal", "-shm"):
            settings.sqlite_path.with_name(settings.sqlite_path.name + suffix).unlink(missing_ok=True)


def graph_session(settings: Settings) -> Any:
    """A session on the graph; it closes its driver with itself."""
    addresses = settings.addresses
    driver = GraphDatabase.driver(addresses.neo4j, auth=(addresses.neo4j_user, addresses.neo4j_password))
    session = driver.session(database=settings.neo4j_database)
    close = session.close

    def close_both() -> None:
        close()
        driver.close()

    session.close = close_both
    return session


# -- what is put in -------------------------------------------------------------------------------------------------------


def generated(settings: Settings, *, messages: int = 24, drops: int = 1, seed: int = 7) -> list[Path]:
    """Write a small generated world, the same for the same arguments, into the folders that the settings name."""
    world = synthetic.generate(messages=messages, users=max(2, messages // 4), campaigns=12, seed=seed, end=NEWEST)
    return synthetic.write(world, settings.drops, settings.catalog, drops=drops)


def put_drop(folder: Path, name: str, records: Iterable[Mapping[str, Any] | str]) -> Path:
    """Write records, and lines that are none, as a JSON-lines drop, whole at once."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    unfinished = folder / f".{name}"
    unfinished.write_text("\n".join(lines) + "\n")
    return unfinished.replace(folder / name)


def said(user: str, message: str, *, minutes: float = 0, **fields: Any) -> dict[str, Any]:
    """A record, so many minutes before the newest time of the generated ones."""
    return {"user_id": user, "message": message, "timestamp": (NEWEST - timedelta(minutes=minutes)).isoformat(), **fields}


# -- what is held ---------------------------------------------------------------------------------------------------------


def everything(settings: Settings) -> Dump:
    """Every document, row, node, relationship and vector, leases and the history of runs excepted."""
    return _documents(settings) | _tables(settings) | _graph(settings) | _vectors(settings)


def content(settings: Settings, *, vectors: bool = True) -> Dump:
    """What the stores say of people, conversations and campaigns, whenever and by whichever run it was written.

    What was learned from it is left out: it is as of the time of the last fit. `learned` has that.
    Without `vectors` only whose they are: a real model's last digits depend on which texts it is given together, as those of any
    score do.
    """
    left_out = PROVENANCE | {"score"} | (set() if vectors else {"vector"})
    kept = {
        name: [_without(left_out, row) for row in rows if LEARNED not in row]
        for name, rows in everything(settings).items()
        if name.split(":")[1] not in NO_CONTENT
    }
    return {name: sorted(rows) for name, rows in kept.items()}


def learned(settings: Settings) -> Dump:
    """The relations in force, in the truth and in the graph."""
    with pymongo.MongoClient(settings.addresses.mongodb) as client:
        database = client[settings.mongodb_database]
        state = database["state"].find_one({"_id": "generation"}) or {"generation": None}
        generation = database["generations"].find_one({"_id": state["generation"]}) or {"model": {"fingerprint": None}}
        truth = [
            _row({"from": found["campaign_id"], "to": other, "weight": weight, "support": support, "run_id": found["run_id"]})
            for found in database["relations"].find({"fingerprint": generation["model"]["fingerprint"]})
            for other, weight, support in found["related"]
        ]
    graph = [_row(row) for row in related(settings, state["generation"])]
    return {"mongodb:relations": sorted(truth), "neo4j:RELATED": sorted(graph)}


def related(settings: Settings, generation: str) -> list[dict[str, Any]]:
    """A generation's relations as the graph has them, by their campaigns."""
    with graph_session(settings) as session:
        rows = session.run(
            "MATCH (a:Campaign)-[r:RELATED]->(b:Campaign) WHERE r.generation = $generation RETURN a.campaign_id AS from, "
            "b.campaign_id AS to, r.weight AS weight, r.support AS support, r.run_id AS run_id",
            generation=generation,
        )
        return sorted((row.data() for row in rows), key=itemgetter("from", "to"))


def addressed(settings: Settings) -> dict[str, list[str]]:
    """Each intent that campaigns address, to their ids, as the graph has it."""
    with graph_session(settings) as session:
        rows = session.run(
            "MATCH (campaign:Campaign)-[:ADDRESSES]->(intent:Intent) RETURN intent.intent AS intent, "
            "collect(campaign.campaign_id) AS campaigns"
        )
        return {row["intent"]: sorted(row["campaigns"]) for row in rows}


def ledger(settings: Settings) -> dict[str, dict[str, Any]]:
    """The entries of the ledger by their file's name."""
    with pymongo.MongoClient(settings.addresses.mongodb, tz_aware=True) as client:
        return {entry["name"]: entry for entry in client[settings.mongodb_database]["ledger"].find()}


def differences(before: Dump, after: Dump) -> dict[str, list[str]]:
    """Store by store, what is in one and not in the other; empty when they hold the same."""
    found = {
        name: [f"- {row[:300]}" for row in sorted(set(before.get(name, [])) - set(after.get(name, [])))]
        + [f"+ {row[:300]}" for row in sorted(set(after.get(name, [])) - set(before.get(name, [])))]
        + ([f"{len(before.get(name, []))} rows, then {len(after.get(name, []))}"] if _sizes_differ(name, before, after) else [])
        for name in sorted({*before, *after})
    }
    return {name: rows[:6] for name, rows in found.items() if rows}


def _sizes_differ(name: str, before: Dump, after: Dump) -> bool:
    return len(before.get(name, [])) != len(after.get(name, []))


def _documents(settings: Settings) -> Dump:
    with pymongo.MongoClient(settings.addresses.mongodb, tz_aware=True) as client:
        database = client[settings.mongodb_database]
        return {
            f"mongodb:{name}": sorted(_row(document) for document in database[name].find())
            for name in database.list_collection_names()
            if name != "leases"
        }


def _tables(settings: Settings) -> Dump:
    engine = create_engine(settings.addresses.warehouse)
    try:
        with engine.connect() as connection:
            return {
                f"warehouse:{table}": sorted(
                    _row(dict(row)) for row in connection.execute(text(f"SELECT * FROM {table}")).mappings()
                )
                for table in inspect(engine).get_table_names()
                if table != "pipeline_runs"
            }
    finally:
        engine.dispose()


def _graph(settings: Settings) -> Dump:
    with graph_session(settings) as session:
        nodes = [
            _row({"labels": sorted(row["labels"]), **row["properties"]})
            for row in session.run("MATCH (n) WHERE NOT n:Fence RETURN labels(n) AS labels, properties(n) AS properties")
        ]
        ties = [
            _row({"from": row["a"], "to": row["b"], "type": row["type"], **row["properties"]})
            for row in session.run(
                "MATCH (a)-[r]->(b) RETURN properties(a) AS a, properties(b) AS b, type(r) AS type, properties(r) AS properties"
            )
        ]
    return {"neo4j:nodes": sorted(nodes), "neo4j:relationships": sorted(ties)}


def _vectors(settings: Settings) -> Dump:
    addresses = settings.addresses
    dump: Dump = {}
    with closing(MilvusClient(addresses.milvus, token=addresses.milvus_token, dedicated=True)) as client:
        for name in client.list_collections():
            rows = client.query(name, filter='id != ""', output_fields=["*"], limit=16_000, consistency_level="Strong")
            dump[f"milvus:{name.rsplit('_', 1)[0]}"] = sorted(_row(row) for row in rows)
    return dump


def campaign_vectors(settings: Settings, version: str) -> dict[str, list[float]]:
    """By campaign id, as this version of the collections has them."""
    addresses = settings.addresses
    with closing(MilvusClient(addresses.milvus, token=addresses.milvus_token, dedicated=True)) as client:
        fields = ["campaign_id", "vector"]
        rows = client.query(f"campaigns_{version}", filter='id != ""', output_fields=fields, consistency_level="Strong")
    return {row["campaign_id"]: _plain(row["vector"]) for row in rows}


def _row(values: Mapping[str, Any]) -> str:
    return json.dumps(_plain(values), sort_keys=True, default=str)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float | np.floating):
        return round(float(value), 6)
    if isinstance(value, list | tuple | set):
        return [_plain(entry) for entry in value]
    with suppress(ValueError):
        if isinstance(value, str) and value[:1] == "{":  # a JSON field of Milvus
            return _plain(json.loads(value))
    return value


def _without(left_out: set[str], row: str) -> str:
    values = json.loads(row)
    applied = {"applied": sorted(values["marks"])} if "marks" in values else {}
    return _row({key: entry for key, entry in values.items() if key not in left_out} | applied)


def eventually(happens: Callable[[], Any], *, seconds: float, what: str = "it") -> Any:
    """The first true answer within so many seconds; what raises on the way counts as not yet."""
    deadline = time.monotonic() + seconds
    while True:
        error: Exception | None = None
        try:
            if answer := happens():
                return answer
        except Exception as raised:
            error = raised
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds:g} s ({error!r})"
        time.sleep(0.2)


def whole_answer(ask: Callable[[], Any]) -> dict[str, Any]:
    """The first response without a store that was too slow for the deadline, as one may be on a busy machine; each has to be a 200."""

    def settled() -> Any:
        response = ask()
        return response if response.status_code != 200 or not response.json()["degraded"] else None

    response = eventually(settled, seconds=20, what="a whole answer")
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer
