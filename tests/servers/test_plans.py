"""Every query that the stores hold, explained or watched on filled servers: none reads all there is, but those that are about all of it.

A query that is added is found by itself: constants are enumerated from their modules, methods from their classes, and what a test
has no parameter for, or nobody calls, fails it. What is read whole stands in a list with its reason, and goes from it when it is not.
"""

import ast
import dataclasses
import inspect
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial, wraps
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import pymongo
import pytest
import sqlalchemy
from neo4j import GraphDatabase
from pymongo.database import Database
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent
from sqlalchemy import Connection, Engine, TextClause, bindparam, text
from sqlalchemy.schema import CreateTable

from persona import synthetic
from persona.intake.inbox import keep
from persona.local.stack import start_stores, stop_stores
from persona.pipeline.audit import compare_stores
from persona.schemas import Campaign, Engagement, ExpressedIntent, Mention, Relation
from persona.stores import documents as truth
from persona.stores import graph, warehouse
from persona.stores.documents import Documents
from persona.stores.opening import open_stores
from tests.cli.conftest import Answer, Command, command_in
from tests.servers.production import Neo4j, PostgreSQL, ReplicaSet
from tests.servers.running import Running, postgresql_database, production_servers
from tests.worlds import NEWEST, clear, put_drop, said

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]  # whole runs, one after the other
T = TypeVar("T")
Whole = Mapping[str, str]
"""What reads all there is, to the reason why it may."""


@pytest.fixture(scope="module")
def servers(production: Running | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Those that explain: the session's where it has them, else some of their own."""
    if production is not None:
        yield production
        return
    with production_servers(tmp_path_factory.mktemp("plans"), [ReplicaSet, Neo4j, PostgreSQL]) as running:
        yield running


def assert_only(found: Mapping[str, Any], expected: Whole) -> None:
    """That this is read whole and nothing else."""
    more = sorted(f"{name}: {found[name]}" for name in found.keys() - expected.keys())
    assert not more, "\n".join(["these read everything, for want of an index, of another query, or of a reason:", *more])
    assert expected.keys() - found.keys() == set(), "these do not read everything any more: take them off the list"


def constants(module: ModuleType, kind: type[T]) -> Iterator[tuple[str, T]]:
    """The module's UPPER_CASE values of this kind, and those in its tuples and mappings, by name."""
    for name, value in vars(module).items():
        if name.isupper():
            several = value if isinstance(value, Mapping) else dict(enumerate(value)) if isinstance(value, tuple) else None
            among = [(name, value)] if several is None else [(f"{name}[{key}]", each) for key, each in several.items()]
            yield from ((each_name, each) for each_name, each in among if isinstance(each, kind))


def strings_but_constants(module: ModuleType, like: str) -> list[str]:
    """Where else in the product such a string is written than among this module's constants."""
    home, found = Path(str(module.__file__)), []
    root = home.parents[2]
    for path in (
        path for package in ("persona", "persona_assets", "persona_cli", "serving") for path in (root / package).rglob("*.py")
    ):
        tree = ast.parse(path.read_text())
        meant: list[ast.AST] = [
            node for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        ]
        meant += [node for node in tree.body if isinstance(node, ast.Assign | ast.AnnAssign) and path == home]
        passed = {inner for node in meant for inner in ast.walk(node)}
        found += [
            f"{path.relative_to(root)}:{node.lineno}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and node not in passed
            and re.search(like, node.value)
        ]
    return found


# -- Neo4j ----------------------------------------------------------------------------------------------------------------

NO_QUERIES = r"READ_ACCESS|WRITE_ACCESS|GRANTS|VERIFIED|FORBIDDEN|EVENTS\[\d\]"
GRAPH_PARAMETERS: Mapping[str, Any] = {
    "rows": [], "user_ids": ["u_1"], "user_id": "u_1", "campaign_id": "c_1", "limit": 5, "last": "u_5", "batch": 5_000, "generation": "g",
    "token": 1,
}  # fmt: skip
OF_THE_WHOLE_GRAPH: Whole = {
    "CAMPAIGN_IDS": "a rebuild looks for campaigns that are none",
    "DELETE_LONE_INTENTS": "intents are hundreds; asked when a catalog comes or goes",
    "FORGET_OTHER_RELATED": "relations are of 20,000 campaigns at most, a hundred each; after a model is shown",
    "COUNT_RELATED": "the same; once a run of `generation`, and by the audit",
    "CLEAR_STEPS[0]": "removes everything",
    "CLEAR_STEPS[1]": "removes everything",
    "CLEAR_STEPS[2]": "removes everything",
}


def test_neo4j_scans_nothing(servers: Running) -> None:
    if "neo4j" in servers.missing:
        pytest.skip(servers.missing["neo4j"])
    assert strings_but_constants(graph, r"\b(MATCH|MERGE|UNWIND)\b") == []
    at = servers.addresses
    access = at["neo4j"], at["neo4j_user"], at["neo4j_password"]
    with (
        graph.open_graph(access[0], user=access[1], password=access[2]) as store,
        GraphDatabase.driver(access[0], auth=access[1:]) as driver,
    ):
        store.clear()
        fill_graph(store)
        driver.execute_query("CALL db.awaitIndexes(60)")
        driver.execute_query("CALL db.prepareForReplanning(60)")
        scans = {}
        for name, query in constants(graph, str):
            if re.fullmatch(NO_QUERIES, name):
                continue
            wanted = set(re.findall(r"\$(\w+)", query))
            assert wanted <= GRAPH_PARAMETERS.keys(), f"{name} has parameters to which GRAPH_PARAMETERS gives no value"
            assert looked_up(query) == named_indexes(query), f"{name} leaves it to statistics how to look somebody up"
            plan = driver.execute_query("EXPLAIN " + query, {key: GRAPH_PARAMETERS[key] for key in wanted}).summary.plan
            assert plan, f"{name} is no query, or has no plan"
            # of nodes by label, of relationships by type, of all of them, of whole indexes
            if found := [operator for operator in operators(plan) if "Scan" in operator]:
                scans[name] = found
        store.clear()
    assert_only(scans, OF_THE_WHOLE_GRAPH)


def looked_up(query: str) -> set[tuple[str, ...]]:
    """What is matched by its id: variable, label, property."""
    return set(re.findall(r"(?<!MERGE )\((\w*):(\w+) \{(\w+_id|intent): ", query))


def named_indexes(query: str) -> set[tuple[str, ...]]:
    return set(re.findall(r"USING INDEX SEEK (\w+):(\w+)\((\w+)\)", query))


def operators(plan: Mapping[str, Any]) -> Iterator[str]:
    yield plan["operatorType"]
    for inner in plan.get("children", ()):
        yield from operators(inner)


def fill_graph(store: graph.Graph) -> None:
    people, campaigns, intents = (
        [f"{kind}_{number}" for number in range(n)] for kind, n in (("u", 2_000), ("c", 200), ("i", 20))
    )
    store.upsert_campaigns(
        [Campaign(campaign_id=key, name=key, intents=[intents[number % 20]]) for number, key in enumerate(campaigns)]
    )
    engaged = [
        Engagement(user, campaigns[(number * 7 + more * 13) % 200], 1.0, 0.0, {"click": 1}, 1, 2, "m")
        for number, user in enumerate(people)
        for more in range(8)
    ]
    store.replace_engagements(people, engaged)
    store.replace_expressed(
        people, [ExpressedIntent(user, intents[number % 20], 1, 1, "m") for number, user in enumerate(people)]
    )
    store.replace_mentioned({user: [Mention(campaigns[number % 200], 1, 1, "m")] for number, user in enumerate(people)})
    related = {
        key: [Relation(key, campaigns[(number + more) % 200], 0.5, 3) for more in range(1, 20)]
        for number, key in enumerate(campaigns)
    }
    store.replace_relations(related, generation="g", run_id="r")


# -- SQL ------------------------------------------------------------------------------------------------------------------

SQL_PARAMETERS: Mapping[str, Any] = {
    "ids": ["u_1", "d_1"], "user_id": "u_1", "since_day": "2025-01-199", "days": 30, "limit": 5, "run_id": "r_5", "stage": "s_1",
    "except_run": "r_7", "status": "success", "records": 1, "started_at": "t_7", "seconds": 1.0, "error": None, "asset": "a",
    "check_name": "c", "severity": "ERROR", "value": 1.0, "threshold": 2.0, "at": "t_7", "token": 3,
}  # fmt: skip
FACTS, RUNS = 200_000, 20_000
NUMBERS = "WITH RECURSIVE numbers(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n < {most})"
FILLED = (
    f"{NUMBERS.format(most=FACTS - 1)} INSERT INTO engagements "
    "(message_id, drop_id, user_id, campaign_id, event, channel, value, at_ms, day) SELECT 'm_' || n, 'd_' || n / 1000, "
    "'u_' || n % 20000, 'c_' || n % 997, 'click', 'email', 1.0, n, '2025-01-' || n / 1000 FROM numbers",
    "INSERT INTO engagement_by_day SELECT day, campaign_id, channel, event, count(*), sum(value) FROM engagements GROUP BY 1, 2, 3, 4",
    "INSERT INTO user_engagement SELECT user_id, count(*), 0, min(at_ms), max(at_ms), sum(value) FROM engagements GROUP BY 1",
    f"{NUMBERS.format(most=RUNS - 1)} INSERT INTO pipeline_runs (run_id, stage, status, records, started_at, seconds) "
    "SELECT 'r_' || n, 's_' || n % 9, 'success', 1, 't_' || n, 1.0 FROM numbers",
    f"{NUMBERS.format(most=RUNS - 1)} INSERT INTO anomalies (run_id, asset, check_name, severity, at) "
    "SELECT 'r_' || n, 'a', 'c', 'ERROR', 't_' || n FROM numbers",
)
ON_THE_WAY = ("INSERT INTO incoming SELECT * FROM engagements WHERE drop_id = 'd_7'", warehouse.REMOVE_USER[0].text)
"""What is in the temporary tables when their statements run."""
OF_WHOLE_TABLES: Whole = {
    "FACT_COUNT": "counts everything; once a run of `engagement_metrics`, a fit and an audit",
    "HISTORY[pipeline_runs]": "a backup takes all of it",
    "HISTORY[anomalies]": "a backup takes all of it",
}
AS_SQLITE_SAYS: Whole = {
    "EVENTS_BY_DAY": "the newest days in the key's order, until there are enough",
    "RECENT_ANOMALIES": "the newest in the index's order, until there are enough",
    "PING": "its condition is never true",
}
"""SQLite calls these scans, too: it does not say where one ends."""
NO_TABLES = {"incoming", "touched", "cells", "sides", "newest", "CONSTANT"}
"""What else SQLite scans: what one transaction brings, and what a query itself makes."""


def test_postgresql_scans_no_table(servers: Running) -> None:
    if "warehouse" in servers.missing:
        pytest.skip(servers.missing["warehouse"])
    scans = {}
    url = postgresql_database(servers.addresses["postgresql"])
    with filled_warehouse(url.replace("postgresql", "postgresql+psycopg", 1)) as connection:
        begins = first_columns(connection.engine)
        planned = explained(connection, "EXPLAIN (FORMAT JSON)")
        connection.execute(text("SET enable_seqscan = off"))
        # A table that is shown in both has no index that could serve. In the first alone: what is chosen by guesses about so small a
        # table. In the second alone: what becomes of the rest, where one scan that cannot be avoided costs more than anything.
        for name, plans in explained(connection, "EXPLAIN (FORMAT JSON)").items():
            found = [list(read_whole(rows[0][0][0]["Plan"], begins)) for rows in (planned[name], plans)]
            if all(found):
                scans[name] = found
    assert_only(scans, OF_WHOLE_TABLES)


def test_sqlite_scans_no_table(tmp_path: Path) -> None:
    assert strings_but_constants(warehouse, r"\b(SELECT|INSERT INTO|UPDATE|DELETE FROM)\b") == []
    with filled_warehouse(f"sqlite:///{tmp_path / 'warehouse.sqlite'}") as connection:
        plans = explained(connection, "EXPLAIN QUERY PLAN")
    scans = {
        name: found
        for name, rows in plans.items()
        if (found := [step for *_, step in rows if step.startswith("SCAN ") and step.split()[1] not in NO_TABLES])
    }
    assert_only(scans, {**OF_WHOLE_TABLES, **AS_SQLITE_SAYS})


@contextmanager
def filled_warehouse(url: str) -> Iterator[Connection]:
    """A connection in the midst of writing."""
    with warehouse.open_warehouse(url):
        engine = sqlalchemy.create_engine(url)
    with engine.begin() as connection:
        for statement in FILLED:
            connection.execute(text(statement))
        if engine.dialect.name == "postgresql":  # which does so by itself
            connection.execute(text("ANALYZE"))
    with engine.connect() as connection:
        for table in (warehouse.INCOMING, warehouse.TOUCHED):
            connection.execute(CreateTable(table))
        for statement in ON_THE_WAY:
            connection.execute(text(statement), {"user_id": "u_7"})
        yield connection
    engine.dispose()


def explained(connection: Connection, explain: str) -> dict[str, list[Any]]:
    """What the server says of each statement, by the statement's name."""
    plans = {}
    for name, statement in constants(warehouse, TextClause):
        wanted = statement.compile().params.keys()
        assert wanted <= SQL_PARAMETERS.keys(), f"{name} has parameters to which SQL_PARAMETERS gives no value"
        lists: list[Any] = [bindparam(key, expanding=True) for key in wanted if isinstance(SQL_PARAMETERS[key], list)]
        query = text(f"{explain} {statement.text}").bindparams(*lists)
        plans[name] = list(connection.execute(query, {key: SQL_PARAMETERS[key] for key in wanted}))
    return plans


def first_columns(engine: Engine) -> dict[str | None, str | None]:
    """Of each index, keys included: what cannot be found by its first column is found by reading the index whole."""
    found = sqlalchemy.inspect(engine)
    indexes = {index["name"]: index["column_names"][0] for several in found.get_multi_indexes().values() for index in several}
    return indexes | {key["name"]: key["constrained_columns"][0] for key in found.get_multi_pk_constraint().values() if key}


def read_whole(plan: Mapping[str, Any], begins: Mapping[str | None, str | None], *, ends: bool = False) -> Iterator[str]:
    """Tables and indexes that this plan reads whole, unless in an order in which it `ends` when it has enough."""
    kind, index, condition = plan["Node Type"], plan.get("Index Name"), plan.get("Index Cond", "")
    ends = kind == "Limit" or (ends and kind not in ("Sort", "Hash", "Aggregate", "ModifyTable"))
    temporary = plan.get("Relation Name") in (warehouse.INCOMING.name, warehouse.TOUCHED.name)
    if (kind == "Seq Scan" or (index and f"{begins.get(index)} " not in condition and not ends)) and not temporary:
        yield index or plan["Relation Name"]
    for inner in plan.get("Plans", ()):
        yield from read_whole(inner, begins, ends=ends)


# -- MongoDB --------------------------------------------------------------------------------------------------------------

PARTS: list[Any] = [
    field.type for field in dataclasses.fields(Documents) if getattr(field.type, "__module__", "").startswith(truth.__name__)
]
ASK_NOTHING = {
    "Documents.session": "the driver makes one by itself",
    "Records.hand_on": "kept in memory",
    "Records.handed_on": "kept in memory",
    "Records.replayable": "asks from threads of its own",
}
PROFILE, PROFILE_BYTES = "system.profile", 256 << 20
LARGE, MOST = 40, 0.25
"""Of a collection of so many documents a question about little may look at such a share, whatever its plan is called."""
OF_WHOLE_COLLECTIONS: Whole = {
    # a fit and an evaluation are made of everything; they are made daily, and when the facts have grown by a fifth
    "records find {text_hash {$exists}}": "what a model is fitted to: those without words",
    "records find {text_hash {$gte}}": "the same: those with words",
    "mentions find {}": "the same: what they name",
    "labels find {intent {$ne}}": "an evaluation replays everything: what was meant",
    "embeddings find {}": "the same: the vectors of what was said",
    "openings find {}": "the same: the vectors of how conversations open",
    "relations find {_id {$gte, $lt}} by _id": "all of one model's; those of eleven are kept",
    "relations aggregate $match{fingerprint ·} $group": "the same, counted",
    # what is known of everything is known by a hash of it: the time grows with the drops, 0.6 s for 100,000
    "ledger find {marks.* {$exists}, pending {$ne}} by _id": "the fingerprint of all that an asset has applied, once a run",
    "ledger find {kind ·, state {$ne}, pending {$nin}} by _id": "the fingerprint of all that has arrived, once a run and a sensor's tick",
    # small
    "campaigns find {} by _id": "the catalog, when its version has moved: at most thousands",
    "lessons find {}": "what the classifier learns from: at most thousands",
    "lessons remove {}": "the same, to be replaced",
    "generations distinct {}": "ten generations are kept",
    "generations distinct {withdrawn ·}": "the same",
    "classifier remove {version {$ne}}": "a classifier is a few documents",
    "classifier aggregate $match{version {$ne}} $group": "the same",
    "backups find {at {$lt}} by at": "a document for each backup there ever was",
    "erasures find {user ·} by at": "a document for each erasure, looked up by a person",
    # rare
    "centroids remove {vector {$in}}": "an erasure; a document for each run",
    "quarantine aggregate $match{} $group $sort": "`quarantine list --all`",
    "ledger find {kind ·} by _id": "every drop, for a backup",
    "ledger find {_id {$in}}": "every drop that there is a copy of: an erasure looks into each",
    "ledger find {kind ·, state {$in}} by claimed_at, _id": "an erasure looks at every drop's name",
    "files find {_id {$in}}": "every file in the watched folder, of which the sensor asks at each tick",
    # a rebuild visits everything
    "labels find {version {$ne}}": "a rebuild looks for what others left",
    "labels aggregate $lookup $match{vector ·} $project": "the same",
    "mentions aggregate $lookup $match{vector ·} $project": "the same",
    "openings remove {}": "a rebuild begins with nothing",
    # the audit counts everything, once a day
    "records aggregate $match{campaign_id {$exists}} $group $count": "distinct pairs",
    "records aggregate $match{campaign_id {$gte}} $group": "engagements",
    "records aggregate $match{text_hash {$exists}} $group $count": "those who spoke",
    "records aggregate $match{text_hash {$gte}} $group $lookup $unwind $unwind $group $count": "mentions",
}
COPYING = ("find {}", "aggregate $match{} $group", "remove {}")
"""What a backup and a restore do with every collection: take it, count it, empty it."""


class Watch(CommandListener):
    """Which of the truth's methods were called, and which of them have asked the server something."""

    def __init__(self) -> None:
        self.called: set[str] = set()
        self.asking: set[str] = set()
        self._thread = threading.local()

    def started(self, event: CommandStartedEvent) -> None:
        self.asking.update(self._under_way())

    def succeeded(self, event: CommandSucceededEvent) -> None:
        pass

    def failed(self, event: CommandFailedEvent) -> None:
        pass

    def _under_way(self) -> tuple[str, ...]:
        methods: tuple[str, ...] = getattr(self._thread, "methods", ())
        return methods

    @contextmanager
    def _in(self, method: str) -> Iterator[None]:
        before = self._under_way()
        self._thread.methods = (*before, method)
        try:
            yield
        finally:
            self._thread.methods = before

    def watched(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def generating(*args: Any, **kwargs: Any) -> Iterator[Any]:
            self.called.add(name)
            found = function(*args, **kwargs)
            while True:
                with self._in(name):
                    try:
                        item = next(found)
                    except StopIteration:
                        return
                yield item

        @wraps(function)
        def calling(*args: Any, **kwargs: Any) -> Any:
            self.called.add(name)
            with self._in(name):
                return function(*args, **kwargs)

        return generating if inspect.isgeneratorfunction(function) else calling


METHODS = {
    f"{part.__name__}.{name}": (part, name)
    for part in (Documents, *PARTS)
    for name, member in vars(part).items()
    if inspect.isfunction(member) and not name.startswith("_")
}
"""Every public one of the truth and of its parts."""


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    """On all that is asked of the truth from now on."""
    watch = Watch()
    for name, (part, method) in METHODS.items():
        monkeypatch.setattr(part, method, watch.watched(name, vars(part)[method]))
    monkeypatch.setattr(truth, "MongoClient", partial(pymongo.MongoClient, event_listeners=[watch]))
    return watch


@pytest.fixture
def persona(servers: Running, tmp_path: Path) -> Iterator[Command]:
    """The command on these servers, and on local ones for what is not asked here."""
    stack = servers.settings(tmp_path / "stack")
    start_stores(stack)
    try:
        command = command_in(tmp_path, stack)
        clear(command.settings)
        yield command
        clear(command.settings)
    finally:
        stop_stores(stack)


def test_mongodb_reads_no_collection_whole(persona: Command, watch: Watch) -> None:
    settings = persona.settings
    with pymongo.MongoClient[dict[str, Any]](settings.addresses.mongodb) as client:
        database = client[settings.mongodb_database]
        with profiled(database) as filling:
            fill(persona)
        with profiled(database) as moving:
            move(persona)
        with profiled(database) as asking:
            ask(persona)
        size = {name: database[name].estimated_document_count() for name in database.list_collection_names() if name != PROFILE}
        unused = [
            f"{name}: {index['name']}"
            for name in size
            for index in database[name].aggregate([{"$indexStats": {}}])
            if not index["accesses"]["ops"] and "expireAfterSeconds" not in index["spec"]
        ]
    assert METHODS.keys() - watch.called == set(), "nobody calls them here: let `ask_the_rest` do so"
    assert watch.called - watch.asking == ASK_NOTHING.keys(), "they were called with nothing to ask for"
    scanning = [entry for entry in (*filling, *moving, *asking) if "COLLSCAN" in entry["planSummary"]]
    ill_fitting = [
        entry
        for entry in asking
        if size.get(collection_of(entry), 0) >= LARGE and looked_at(entry) > MOST * size[collection_of(entry)]
    ]
    whole = {question(entry): f"{looked_at(entry)}: {entry['planSummary']}" for entry in (*scanning, *ill_fitting)}
    copying = {question(entry) for entry in moving if question(entry).partition(" ")[2] in COPYING}
    assert_only(
        {name: plan for name, plan in whole.items() if name not in copying - OF_WHOLE_COLLECTIONS.keys()}, OF_WHOLE_COLLECTIONS
    )
    assert unused == [], "indexes that no query uses"


@contextmanager
def profiled(database: Database[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Let the server write down how it answers; what it has written is in the list when the block has ended."""
    entries: list[dict[str, Any]] = []
    database.create_collection(PROFILE, capped=True, size=PROFILE_BYTES)
    database.command("profile", 2)
    yield entries
    database.command("profile", 0)
    assert database.command("collstats", PROFILE)["size"] < 0.9 * PROFILE_BYTES, "the first entries may have been overwritten"
    entries += database[PROFILE].find({"planSummary": {"$exists": True}})
    database.drop_collection(PROFILE)


def looked_at(entry: Mapping[str, Any]) -> int:
    """Documents, or keys of an index."""
    return max(int(entry.get("docsExamined", 0)), int(entry.get("keysExamined", 0)))


def collection_of(entry: Mapping[str, Any]) -> str:
    return str(entry["ns"]).partition(".")[2].removeprefix("restoring.")


def question(entry: Mapping[str, Any]) -> str:
    """What was asked, without values."""
    asked = entry.get("originatingCommand") or entry["command"]
    verb = entry["op"] if entry["op"] in ("update", "remove") else next(iter(asked))
    stages = asked.get("pipeline") or [{"": asked.get("filter", asked.get("query", asked.get("q", {})))}]
    shapes = " ".join(name + (shape(stage) if name in ("", "$match") else "") for each in stages for name, stage in each.items())
    order = f" by {', '.join(asked['sort'])}" if asked.get("sort") else ""
    return re.sub(r"\bmarks\.\w+", "marks.*", f"{collection_of(entry)} {verb} {shapes}{order}")


def shape(value: Any) -> str:
    if isinstance(value, Mapping):
        inner = [key if key.startswith("$") and key not in ("$or", "$and") else f"{key} {shape(of)}" for key, of in value.items()]
        return f"{{{', '.join(inner)}}}"
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        return f"[{', '.join(sorted({shape(each) for each in value}))}]"
    return "·"


def fill(persona: Command) -> None:
    """Whole stores: filled, computed anew, compared."""
    settings = persona.settings
    world = synthetic.generate(messages=400, users=100, campaigns=60, end=NEWEST)
    synthetic.write(world, settings.drops, settings.catalog, drops=45)
    put_drop(settings.drops, "mixed.jsonl", [said("vera", "a loan please", campaign_id="c_101", event="click"), "{"])
    done(persona("materialize", "--json"))
    for asset in ("embeddings", "intents", "milvus_collection", "neo4j_graph", "engagement_metrics"):
        done(persona("rebuild", asset))
    with open_stores(settings) as stores:
        compare_stores(stores.documents, stores.vectors, stores.graph, stores.warehouse)
    done(persona("quarantine", "list", "--all"))


def move(persona: Command) -> None:
    """Put away and put back."""
    folder = str(persona.folder / "backup")
    done(persona("backup", folder))
    done(persona("restore", folder, "--replace"))


def ask(persona: Command) -> None:
    """What concerns a person, a drop, a line, a campaign, a run: each of them little of what there is."""
    settings = persona.settings
    keep(json.dumps(said("wim", "hello", campaign_id="c_101")).encode() + b"\n", settings.inbox)
    records: list[Any] = [
        said("vera", "and a card", campaign_id="c_102", event="conversion"),
        said("wim", "hello", intent="greeting"),
        "{",
        "}",
    ]
    put_drop(settings.drops, "more.jsonl", [*records, *records, said("zoe", "bye", event="unsubscribe")])
    for name in ("mend.jsonl", "release.jsonl"):
        put_drop(settings.drops, name, ["{", "{", said("vera", f"kept out with the others of {name}")])
    (settings.catalog / "bad.json").write_text("[1]")
    done(persona("materialize", "--json"))
    mended = put_drop(persona.folder / "mended", "good.jsonl", [said("vera", "let in with the others")])
    for command in (
        ("quarantine", "show", "more.jsonl", "--line", "3"), ("quarantine", "discard", "more.jsonl", "--line", "3"),
        ("quarantine", "replay", "mend.jsonl", "--with", str(mended)), ("quarantine", "release", "release.jsonl"),
        ("quarantine", "discard", "mixed.jsonl"), ("generations", "publish"), ("recommend", "u_002"), ("why", "u_002", "c_101"),
        ("audience", "c_101"), ("export", "vera"), ("generations", "list"), ("generations", "show"), ("generations", "rollback"),
        ("erase", "vera"), ("materialize", "--json"),
    ):  # fmt: skip
        done(persona(*command))
    with open_stores(settings) as stores:
        ask_the_rest(stores.documents)


def ask_the_rest(documents: Documents) -> None:
    """What only another process, an accident or a person's eyes ask."""
    ledger, records = documents.ledger, documents.records
    drop, user = ledger.ids("drop")[0], records.newest_users(1)[0]
    documents.ping()
    documents.leases.renew(0, seconds=1)
    documents.backups.forget("nowhere", at=NEWEST)
    documents.classifiers.version()
    documents.conversations.remove(["none"])
    documents.embeddings.forget_labels(["none"])
    documents.erasures.of_tombstone("none")
    documents.generations.refuse_candidate("not good enough")
    documents.idempotency.first("key", "digest", at=NEWEST)
    documents.transaction(lambda session: ledger.begin_writing(drop, session=session))
    documents.transaction(lambda session: records.remove_drops([drop], limit=1, session=session))
    documents.transaction(lambda session: ledger.end_writing([drop], session=session))
    ledger.end_attempt(drop)
    ledger.forget_files(drop)
    ledger.overtake("neo4j_graph", [drop], token=documents.leases.newest_token())
    ledger.waiting(["neo4j_graph"])
    documents.quarantine.of_drop(drop)
    documents.quarantine.unsettle([drop])
    records.done_with(user, "c_101")
    records.expressing(user, "gaming", limit=5)
    records.history_of(user)
    records.lines_of(drop)
    records.naming(user, "c_101", limit=5)
    records.someone()
    documents.tombstones.keys()


def done(answer: Answer) -> None:
    assert answer.code == 0, answer.out + answer.err
