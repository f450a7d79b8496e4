"""What happened, countable with SQL: facts, day buckets, people's totals, the pipeline's history. SQLite or PostgreSQL.

Facts are a projection of MongoDB and can be rebuilt; the run history and anomalies are kept here alone. Nothing is decided here.
"""

import re
import secrets
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, Self, TypeVar

import stamina
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Engine,
    Float,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    RowMapping,
    Table,
    Text,
    TextClause,
    bindparam,
    create_engine,
    event,
    inspect,
    make_url,
    quoted_name,
    text,
)
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    ProgrammingError,
)
from sqlalchemy.schema import CreateTable

from persona.errors import PersonaError, StoreRefused, StoreUnavailable
from persona.schemas import DayBucket, Fact
from persona.stores._chunks import chunks
from persona.stores._connecting import GRANTS, Terms
from persona.stores.fencing import lease_lost

T = TypeVar("T")

TABLES = MetaData()
FACT_COLUMNS = ("message_id", "drop_id", "user_id", "campaign_id", "event", "channel", "intent", "value", "at_ms", "day")


def _fact_columns() -> list[Column[Any]]:
    return [
        Column("message_id", Text, primary_key=True),
        Column("drop_id", Text, nullable=False),
        Column("user_id", Text, nullable=False),
        Column("campaign_id", Text, nullable=False),
        Column("event", Text, nullable=False),
        Column("channel", Text, nullable=False),
        Column("intent", Text),
        Column("value", Float(53)),
        Column("at_ms", BigInteger, nullable=False),
        Column("day", Text, nullable=False),
    ]


Table(
    "engagements",
    TABLES,
    *_fact_columns(),
    Index("engagements_by_drop", "drop_id"),
    Index("engagements_by_user", "user_id"),
    Index("engagements_by_day", "day", "campaign_id"),
)
INCOMING = Table("incoming", MetaData(), *_fact_columns(), prefixes=["TEMPORARY"])
"""Where facts wait, within one connection, to be told new from known."""
TOUCHED = Table(
    "touched",
    MetaData(),
    *(Column(name, Text, nullable=False) for name in ("day", "campaign_id", "channel", "event")),
    prefixes=["TEMPORARY"],
)
"""Where the cells of a person's facts wait, within one connection, to be counted anew."""

Table(
    "engagement_by_day",
    TABLES,
    Column("day", Text, nullable=False),
    Column("campaign_id", Text, nullable=False),
    Column("channel", Text, nullable=False),
    Column("event", Text, nullable=False),
    Column("n", BigInteger, nullable=False),
    Column("value", Float(53), nullable=False),
    PrimaryKeyConstraint("day", "campaign_id", "channel", "event"),
    sqlite_with_rowid=False,
)
Table(
    "user_engagement",
    TABLES,
    Column("user_id", Text, primary_key=True),
    Column("events", BigInteger, nullable=False),
    Column("conversions", BigInteger, nullable=False),
    Column("first_at_ms", BigInteger, nullable=False),
    Column("last_at_ms", BigInteger, nullable=False),
    Column("value", Float(53), nullable=False),
    sqlite_with_rowid=False,
)
Table(
    "pipeline_runs",
    TABLES,
    Column("run_id", Text, nullable=False),
    Column("stage", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("records", BigInteger, nullable=False),
    Column("started_at", Text, nullable=False),
    Column("seconds", Float(53), nullable=False),
    Column("error", Text),
    PrimaryKeyConstraint("run_id", "stage"),
    Index("pipeline_runs_by_stage", "stage", "started_at"),
)
Table(
    "anomalies",
    TABLES,
    Column("anomaly_id", Integer, primary_key=True),
    Column("run_id", Text, nullable=False),
    Column("asset", Text, nullable=False),
    Column("check_name", Text, nullable=False),
    Column("severity", Text, nullable=False),
    Column("value", Float(53)),
    Column("threshold", Float(53)),
    Column("at", Text, nullable=False),
    Index("anomalies_by_time", "at", "anomaly_id"),
)
Table(
    "fence",
    TABLES,
    Column("name", Text, primary_key=True),
    Column("token", BigInteger, nullable=False),
)

EMPTY_INCOMING = text("DELETE FROM incoming")

DROP_KNOWN = text("""
DELETE FROM incoming
WHERE EXISTS (SELECT 1 FROM engagements WHERE engagements.message_id = incoming.message_id)
""")

INSERT_NEW = text(f"INSERT INTO engagements ({', '.join(FACT_COLUMNS)}) SELECT {', '.join(FACT_COLUMNS)} FROM incoming")

# SQLite wants the WHERE to tell the conflict clause from a join.
GROW_BUCKETS = text("""
INSERT INTO engagement_by_day (day, campaign_id, channel, event, n, value)
SELECT day, campaign_id, channel, event, count(*), coalesce(sum(value), 0) FROM incoming WHERE true
GROUP BY day, campaign_id, channel, event
ON CONFLICT (day, campaign_id, channel, event) DO UPDATE
SET n = engagement_by_day.n + excluded.n, value = engagement_by_day.value + excluded.value
""")

FORGET_USERS = text("DELETE FROM user_engagement WHERE user_id IN :ids").bindparams(bindparam("ids", expanding=True))

SUM_USERS = text("""
INSERT INTO user_engagement (user_id, events, conversions, first_at_ms, last_at_ms, value)
SELECT user_id, count(*), sum(CASE WHEN event = 'conversion' THEN 1 ELSE 0 END), min(at_ms), max(at_ms), coalesce(sum(value), 0)
FROM engagements WHERE user_id IN :ids
GROUP BY user_id
""").bindparams(bindparam("ids", expanding=True))

FACTS_OF_USER = text(f"SELECT {', '.join(FACT_COLUMNS)} FROM engagements WHERE user_id = :user_id ORDER BY at_ms, message_id")
TOTALS_OF_USER = text("SELECT * FROM user_engagement WHERE user_id = :user_id")
COUNT_OF_USER = text("""
SELECT count(*) AS n FROM engagements WHERE user_id = :user_id
UNION ALL SELECT count(*) FROM user_engagement WHERE user_id = :user_id
""")

EMPTY_TOUCHED = text("DELETE FROM touched")

REMOVE_USER = (
    text("""
INSERT INTO touched (day, campaign_id, channel, event)
SELECT DISTINCT day, campaign_id, channel, event FROM engagements WHERE user_id = :user_id
"""),
    text("DELETE FROM engagements WHERE user_id = :user_id"),
    text("DELETE FROM user_engagement WHERE user_id = :user_id"),
    text("""
DELETE FROM engagement_by_day
WHERE (day, campaign_id, channel, event) IN (SELECT day, campaign_id, channel, event FROM touched)
"""),
    text("""
INSERT INTO engagement_by_day (day, campaign_id, channel, event, n, value)
SELECT day, campaign_id, channel, event, count(*), coalesce(sum(value), 0) FROM engagements
WHERE (day, campaign_id, channel, event) IN (SELECT day, campaign_id, channel, event FROM touched)
GROUP BY day, campaign_id, channel, event
"""),
)

DAY_BUCKETS = text("""
SELECT day, campaign_id, channel, event, n, value FROM engagement_by_day
WHERE day >= :since_day
ORDER BY day, campaign_id, channel, event
""")

EVENTS_BY_DAY = text("""
SELECT day, event, sum(n) AS n FROM engagement_by_day
WHERE day >= coalesce((SELECT min(day) FROM (SELECT DISTINCT day FROM engagement_by_day ORDER BY day DESC LIMIT :days) AS newest), '')
GROUP BY day, event
ORDER BY day, event
""")


FACT_COUNT = text("SELECT count(*) AS count FROM engagements")

FACTS_OF_DROPS = text("SELECT count(*) AS count FROM engagements WHERE drop_id IN :ids").bindparams(
    bindparam("ids", expanding=True)
)

BUCKET_MISMATCHES = text("""
WITH cells AS (SELECT DISTINCT day, campaign_id FROM engagements WHERE drop_id IN :ids),
sides AS (
    SELECT facts.day, facts.campaign_id, facts.channel, facts.event, 1 AS facts, 0 AS bucket,
           coalesce(facts.value, 0) AS facts_value, 0 AS bucket_value
    FROM engagements AS facts JOIN cells ON cells.day = facts.day AND cells.campaign_id = facts.campaign_id
    UNION ALL
    SELECT buckets.day, buckets.campaign_id, buckets.channel, buckets.event, 0, buckets.n, 0, buckets.value
    FROM engagement_by_day AS buckets JOIN cells ON cells.day = buckets.day AND cells.campaign_id = buckets.campaign_id
)
SELECT day, campaign_id, channel, event, sum(facts) AS facts, sum(bucket) AS bucket,
       sum(facts_value) AS facts_value, sum(bucket_value) AS bucket_value
FROM sides
GROUP BY day, campaign_id, channel, event
HAVING sum(facts) <> sum(bucket)
    OR abs(sum(facts_value) - sum(bucket_value)) > 0.000001 * (1 + abs(sum(facts_value)) + abs(sum(bucket_value)))
ORDER BY day, campaign_id, channel, event
LIMIT :limit
""").bindparams(bindparam("ids", expanding=True))

RECORD_STAGE = text("""
INSERT INTO pipeline_runs (run_id, stage, status, records, started_at, seconds, error)
VALUES (:run_id, :stage, :status, :records, :started_at, :seconds, :error)
ON CONFLICT (run_id, stage) DO UPDATE
SET status = excluded.status, records = excluded.records, started_at = excluded.started_at, seconds = excluded.seconds,
    error = excluded.error
""")

STAGES = text("""
SELECT run_id, stage, status, records, started_at, seconds, error FROM pipeline_runs
WHERE run_id = :run_id
ORDER BY started_at, stage
""")

RECORDS_OF_STAGE = text("""
SELECT records FROM pipeline_runs
WHERE stage = :stage AND status = 'success' AND records > 0 AND run_id <> :except_run
ORDER BY started_at DESC LIMIT :limit
""")

RECORD_ANOMALY = text("""
INSERT INTO anomalies (run_id, asset, check_name, severity, value, threshold, at)
VALUES (:run_id, :asset, :check_name, :severity, :value, :threshold, :at)
""")

RECENT_ANOMALIES = text("""
SELECT run_id, asset, check_name, severity, value, threshold, at FROM anomalies ORDER BY at DESC, anomaly_id DESC LIMIT :limit
""")

RAISE_FENCE = text("""
INSERT INTO fence (name, token) VALUES ('pipeline', :token)
ON CONFLICT (name) DO UPDATE SET token = excluded.token WHERE fence.token <= excluded.token
""")

FACT_TABLES = ("engagements", "engagement_by_day", "user_engagement")
FACT_TABLE = re.compile(rf"\b({'|'.join(FACT_TABLES)})\b")
HISTORY = {
    "pipeline_runs": text("SELECT run_id, stage, status, records, started_at, seconds, error FROM pipeline_runs"),
    "anomalies": text("SELECT run_id, asset, check_name, severity, value, threshold, at FROM anomalies"),
}
"""What is kept here alone; everything else is computed from the truth."""

TAKE_IN_RUN = text("""
INSERT INTO pipeline_runs (run_id, stage, status, records, started_at, seconds, error)
VALUES (:run_id, :stage, :status, :records, :started_at, :seconds, :error)
ON CONFLICT (run_id, stage) DO NOTHING
""")

TAKE_IN_ANOMALY = text("""
INSERT INTO anomalies (run_id, asset, check_name, severity, value, threshold, at)
SELECT :run_id, :asset, :check_name, :severity, CAST(:value AS DOUBLE PRECISION), CAST(:threshold AS DOUBLE PRECISION), :at
WHERE NOT EXISTS (SELECT 1 FROM anomalies WHERE run_id = :run_id AND asset = :asset AND check_name = :check_name AND at = :at)
""")

BESIDE = "persona_beside"
"""The execution option with which every statement means the tables that a rebuild fills: `engagements_beside` and so on."""

PING = text("SELECT 1 FROM pipeline_runs WHERE 1 = 0")

IDS_PER_CALL = 1_000
WRITES = "persona_writes"
WRITE_ATTEMPTS = 4

# PostgreSQL's names for what passes by itself and for what does not.
SQLSTATES_THAT_PASS = frozenset({"40001", "40P01", "55P03"})
SQLSTATES_OF_REFUSAL = ("25006", "28", "42501", "53100", "3D000")
SQLITE_CODES_OF_REFUSAL = frozenset({"SQLITE_FULL", "SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_NOTADB", "SQLITE_CORRUPT"})
DISK_FULL = frozenset({"SQLITE_FULL", "SQLITE_IOERR_SHMSIZE", "53100"})
LACKING_RIGHTS = "42501"
REFUSED_CREDENTIALS = "authentication failed"
TERMS = Terms(
    "warehouse",
    "WAREHOUSE_URL",
    encrypted="put `sslmode=verify-full` into WAREHOUSE_URL",
    ca="`sslrootcert` in WAREHOUSE_URL",
    certificate="`sslcert` and `sslkey` in WAREHOUSE_URL name ours and its key",
)


@dataclass(frozen=True, slots=True)
class BucketMismatch:
    """A day bucket that does not say what the facts say."""

    day: str
    campaign_id: str
    channel: str
    event: str
    facts: int
    bucket: int
    facts_value: float
    bucket_value: float


@dataclass(frozen=True, slots=True)
class StageRun:
    """One stage of one run of the pipeline."""

    run_id: str
    stage: str
    status: str
    records: int
    started_at: datetime
    seconds: float
    error: str | None


@dataclass(frozen=True, slots=True)
class Anomaly:
    """A check's figure beyond its threshold."""

    run_id: str
    asset: str
    check_name: str
    severity: str
    value: float | None
    threshold: float | None
    at: datetime


class Warehouse:
    """Facts and totals of one database."""

    def __init__(self, engine: Engine, *, token: int | None = None) -> None:
        self._reader = engine
        self._writer = engine.execution_options(**{WRITES: True})
        self._token = token

    def fenced(self, token: int) -> Self:
        """The same database for the holder of the lease with this token: once a newer token wrote, writes raise `LeaseLost`."""
        return type(self)(self._reader, token=token)

    def beside(self) -> Self:
        """The same verbs for facts, day buckets and totals on the tables that a rebuild fills; see `begin_beside`."""
        return type(self)(self._reader.execution_options(**{BESIDE: True}), token=self._token)

    # -- facts ----------------------------------------------------------------------------------------------------------

    def insert_facts(self, facts: Sequence[Fact]) -> int:
        """Insert the facts not known by message id and grow the day buckets by them, all or nothing; return how many were new."""
        rows = [_fact_row(fact) for fact in {fact.message_id: fact for fact in reversed(facts)}.values()]
        if not rows:
            return 0

        def insert(connection: Connection) -> int:
            connection.execute(CreateTable(INCOMING, if_not_exists=True))
            connection.execute(EMPTY_INCOMING)
            connection.execute(INCOMING.insert(), rows)
            connection.execute(DROP_KNOWN)
            inserted = connection.execute(INSERT_NEW).rowcount
            connection.execute(GROW_BUCKETS)
            connection.execute(EMPTY_INCOMING)
            return inserted

        return self._write(insert)

    def refresh_users(self, user_ids: Iterable[str]) -> int:
        """Compute these people's totals anew from their facts; those without facts have none. Return the number of totals."""
        wanted = sorted(set(user_ids))

        def refresh(connection: Connection) -> int:
            refreshed = 0
            for part in chunks(wanted, IDS_PER_CALL):
                connection.execute(FORGET_USERS, {"ids": part})
                refreshed += connection.execute(SUM_USERS, {"ids": part}).rowcount
            return refreshed

        return self._write(refresh)

    def begin_beside(self) -> None:
        """Make the tables that a rebuild fills, empty, in place of those that an earlier one has left."""
        tables = MetaData()
        for name in FACT_TABLES:
            table = TABLES.tables[name].to_metadata(tables, name=_beside(name))
            for index in table.indexes:  # an index keeps its name when its table is renamed, and is found by no name of ours
                index.name = quoted_name(f"{index.name}_{secrets.token_hex(4)}", quote=None)

        def begin(connection: Connection) -> None:
            for name in FACT_TABLES:
                connection.execute(text(f"DROP TABLE IF EXISTS {_beside(name)}"))
            tables.create_all(connection)

        self._write(begin)

    def has_beside(self) -> bool:
        """Whether a rebuild is filling tables of its own, or has left them."""
        with _translated():
            return inspect(self._reader).has_table(_beside(FACT_TABLES[0]))

    def use_beside(self) -> None:
        """Put the tables that a rebuild filled in the place of those in use, all at once; whoever reads sees either."""

        def use(connection: Connection) -> None:
            for name in FACT_TABLES:
                connection.execute(text(f"DROP TABLE {name}"))
                connection.execute(text(f"ALTER TABLE {_beside(name)} RENAME TO {name}"))

        self._write(use)

    def day_buckets(self, since_day: str | None = None) -> list[DayBucket]:
        """Every day bucket from `since_day` (ISO date, inclusive) on, in order of day, campaign, channel, event."""
        with _translated(), self._reader.connect() as connection:
            # by position: of half a million rows each by name takes as long as all the rest
            return [DayBucket(*row) for row in connection.execute(DAY_BUCKETS, {"since_day": since_day or ""})]

    def events_by_day(self, days: int) -> list[tuple[str, str, int]]:
        """(ISO day, event, how many) of the newest `days` days with events, in order."""
        return [(row["day"], row["event"], int(row["n"])) for row in self._read(EVENTS_BY_DAY, days=days)]

    def fact_count(self) -> int:
        """How many facts there are."""
        return int(self._read(FACT_COUNT)[0]["count"])

    # -- checking -------------------------------------------------------------------------------------------------------

    def facts_of_drops(self, drops: Iterable[str]) -> int:
        """How many facts came with these drops."""
        return sum(int(self._read(FACTS_OF_DROPS, ids=part)[0]["count"]) for part in chunks(sorted(set(drops)), IDS_PER_CALL))

    def bucket_mismatches(self, drops: Iterable[str], *, limit: int) -> list[BucketMismatch]:
        """Up to `limit` buckets that differ from the facts, among the (day, campaign) cells that these drops touch."""
        found: dict[BucketMismatch, None] = {}
        for part in chunks(sorted(set(drops)), IDS_PER_CALL):
            found |= dict.fromkeys(BucketMismatch(**row) for row in self._read(BUCKET_MISMATCHES, ids=part, limit=limit))
            if len(found) >= limit:
                break
        return list(found)[:limit]

    # -- one person -----------------------------------------------------------------------------------------------------

    def everything_of(self, user_id: str) -> dict[str, list[dict[str, Any]]]:
        """This person's facts and totals, by table."""
        return {
            "engagements": [dict(row) for row in self._read(FACTS_OF_USER, user_id=user_id)],
            "user_engagement": [dict(row) for row in self._read(TOTALS_OF_USER, user_id=user_id)],
        }

    def count_of(self, user_id: str) -> int:
        """How many facts and totals are this person's."""
        return sum(int(row["n"]) for tables in self._every_tables() for row in tables._read(COUNT_OF_USER, user_id=user_id))

    def remove_user(self, user_id: str) -> None:
        """Remove this person's facts and totals, and count the day buckets that they were in anew, all or nothing."""

        def remove(connection: Connection) -> None:
            connection.execute(CreateTable(TOUCHED, if_not_exists=True))
            connection.execute(EMPTY_TOUCHED)
            for statement in REMOVE_USER:
                connection.execute(statement, {"user_id": user_id})
            connection.execute(EMPTY_TOUCHED)

        for tables in self._every_tables():
            tables._write(remove)

    def _every_tables(self) -> list[Self]:
        return [self, self.beside()] if self.has_beside() else [self]

    # -- the pipeline's history -----------------------------------------------------------------------------------------

    def record_stage(
        self,
        run_id: str,
        stage: str,
        *,
        status: str,
        records: int,
        started_at: datetime,
        seconds: float,
        error: str | None = None,
    ) -> None:
        """Write how a stage of a run went, in place of what was written for it before. `started_at` is aware."""
        row = {"run_id": run_id, "stage": stage, "status": status, "records": records, "started_at": _iso(started_at)}
        self._write(lambda connection: connection.execute(RECORD_STAGE, {**row, "seconds": seconds, "error": error}))

    def stages(self, run_id: str) -> list[StageRun]:
        """The stages of a run in the order they began."""
        return [_stage(row) for row in self._read(STAGES, run_id=run_id)]

    def records_of_stage(self, stage: str, *, except_run: str, limit: int) -> list[int]:
        """How many records the newest successful other runs of this stage wrote, runs without any left out; newest first."""
        return [int(row["records"]) for row in self._read(RECORDS_OF_STAGE, stage=stage, except_run=except_run, limit=limit)]

    def record_anomaly(
        self,
        run_id: str,
        asset: str,
        check_name: str,
        *,
        severity: str,
        value: float | None,
        threshold: float | None,
        at: datetime,
    ) -> None:
        """Write that a check's figure was beyond its threshold at `at` (aware)."""
        row = {"run_id": run_id, "asset": asset, "check_name": check_name, "severity": severity, "at": _iso(at)}
        self._write(lambda connection: connection.execute(RECORD_ANOMALY, {**row, "value": value, "threshold": threshold}))

    def anomalies(self, limit: int) -> list[Anomaly]:
        """The newest anomalies, newest first."""
        return [Anomaly(**{**row, "at": datetime.fromisoformat(row["at"])}) for row in self._read(RECENT_ANOMALIES, limit=limit)]

    def compact(self) -> None:
        """Let no deleted row be left in SQLite's files; PostgreSQL has its own ways."""
        if self._reader.dialect.name != "sqlite":
            return
        with _translated(), self._reader.connect() as connection:
            statements: Any = connection.connection.dbapi_connection  # neither may run inside a transaction
            try:
                statements.execute("VACUUM")
                statements.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            except sqlite3.Error as error:
                raise StoreRefused(
                    f"the warehouse refused: {error}", hint="Make room on its disk; end who else reads it."
                ) from None

    def history(self) -> dict[str, list[dict[str, Any]]]:
        """Every row of the run history and of the anomalies, by table, as `take_in_history` wants them."""
        return {table: [dict(row) for row in self._read(statement)] for table, statement in HISTORY.items()}

    def take_in_history(self, history: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """Add another warehouse's history; what is here already stays as it is."""

        def take_in(connection: Connection) -> None:
            for table, statement in (("pipeline_runs", TAKE_IN_RUN), ("anomalies", TAKE_IN_ANOMALY)):
                for row in history[table]:
                    connection.execute(statement, dict(row))

        self._write(take_in)

    def ensure_tables(self) -> None:
        """Make the tables and indexes that are missing; where none is, nothing is written and no writer waited for."""
        found = inspect(self._reader)
        tables = set(found.get_table_names())
        indexed = {
            (table, *index["column_names"])  # by columns, as a rebuild leaves other names
            for (_, table), indexes in found.get_multi_indexes(filter_names=list(TABLES.tables)).items()
            for index in indexes
        }
        missing = [
            index
            for table in TABLES.sorted_tables
            for index in table.indexes
            if table.name in tables and (table.name, *index.columns.keys()) not in indexed
        ]
        if missing or not tables.issuperset(TABLES.tables):
            with self._writer.begin() as connection:
                TABLES.create_all(connection)
                for index in missing:
                    index.create(connection)

    def ping(self) -> None:
        """Return when the database answers and has its tables; raise `StoreUnavailable` or `StoreRefused`."""
        self._read(PING)

    # -- one transaction each -------------------------------------------------------------------------------------------

    def _read(self, statement: TextClause, **parameters: Any) -> Sequence[RowMapping]:
        with _translated(), self._reader.connect() as connection:
            return connection.execute(statement, parameters).mappings().all()

    def _write(self, work: Callable[[Connection], T]) -> T:
        with _translated():
            for attempt in stamina.retry_context(
                on=_passes_by_itself, attempts=WRITE_ATTEMPTS, wait_initial=0.05, wait_jitter=0.05, wait_max=1
            ):
                with attempt, self._writer.begin() as connection:
                    if self._token is not None and not connection.execute(RAISE_FENCE, {"token": self._token}).rowcount:
                        raise lease_lost()
                    return work(connection)
        raise AssertionError("unreachable: the last attempt returns or raises")


@contextmanager
def open_warehouse(url: str, *, timeout_seconds: float = 10) -> Iterator[Warehouse]:
    """Connect within `timeout_seconds`, make sure of the tables, hand the store out, close.

    `url` is `sqlite:///path` (the folder is made) or `postgresql://…`. Raises `StoreUnavailable` or `StoreRefused`.
    """
    with TERMS.readable(ArgumentError):
        engine = _engine(url, timeout_seconds)
    try:
        warehouse = Warehouse(engine)
        with _translated():
            for attempt in stamina.retry_context(
                on=_lost_a_race, attempts=WRITE_ATTEMPTS, wait_initial=0.05, wait_jitter=0.05, wait_max=1
            ):
                with attempt:
                    warehouse.ensure_tables()
        yield warehouse
    finally:
        engine.dispose()


def _engine(url: str, timeout_seconds: float) -> Engine:
    address = make_url(url)
    if address.drivername == "postgresql":
        address = address.set(drivername="postgresql+psycopg")
    driver_arguments: Mapping[str, Mapping[str, Any]] = {
        "sqlite": {"timeout": timeout_seconds},
        "postgresql": {
            "connect_timeout": max(2, round(timeout_seconds)),  # libpq takes whole seconds, two at least
            "options": f"-c lock_timeout={int(timeout_seconds * 1000)} -c TimeZone=UTC",
        },
    }
    engine = create_engine(
        address,
        connect_args=dict(driver_arguments[address.get_backend_name()]),
        # Two processes that insert the same fact at once: the later one starts over rather than count it twice.
        isolation_level="SERIALIZABLE",
        hide_parameters=True,
        pool_pre_ping=True,
    )
    event.listen(engine, "before_cursor_execute", _on_tables_beside, retval=True)
    if address.get_backend_name() == "sqlite" and address.database:
        _let_readers_read_while_one_writes(engine, Path(address.database), timeout_seconds)
    return engine


def _on_tables_beside(
    connection: Connection, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool
) -> tuple[str, Any]:
    if connection.get_execution_options().get(BESIDE):
        statement = FACT_TABLE.sub(lambda name: _beside(name[0]), statement)
    return statement, parameters


def _beside(table: str) -> str:
    return f"{table}_beside"


def _let_readers_read_while_one_writes(engine: Engine, file: Path, timeout_seconds: float) -> None:
    """SQLite's own settings: a write-ahead log, and writers that queue at BEGIN instead of failing half-way."""

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # BEGIN is ours, below
        # SQLite's own timeout does not wait here: of two that open a new file at once, one is refused straight away.
        for attempt in stamina.retry_context(
            on=_is_busy, attempts=None, timeout=timeout_seconds, wait_initial=0.01, wait_jitter=0.05, wait_max=0.2
        ):
            with attempt:
                connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA wal_autocheckpoint = 16384")  # 64 MB: copying the log back after each batch halves the speed
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute("PRAGMA cache_size = -65536")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get(WRITES) else "BEGIN")

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreRefused(f"the warehouse's folder cannot be made: {error.strerror}", hint="Check SQLITE_PATH.") from None


@lru_cache(maxsize=4096)
def _day(epoch_day: int) -> str:
    return (datetime(1970, 1, 1) + timedelta(days=epoch_day)).date().isoformat()


def _fact_row(fact: Fact) -> dict[str, Any]:
    return {
        "message_id": fact.message_id,
        "drop_id": fact.drop,
        "user_id": fact.user_id,
        "campaign_id": fact.campaign_id,
        "event": fact.event,
        "channel": fact.channel,
        "intent": fact.intent,
        "value": fact.value,
        "at_ms": fact.at_ms,
        "day": _day(fact.at_ms // 86_400_000),
    }


def _iso(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="microseconds")


def _stage(row: RowMapping) -> StageRun:
    return StageRun(**{**row, "started_at": datetime.fromisoformat(row["started_at"])})


def _passes_by_itself(error: Exception) -> bool:
    return isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) in SQLSTATES_THAT_PASS


def _is_busy(error: Exception) -> bool:
    return isinstance(error, sqlite3.OperationalError) and error.sqlite_errorname == "SQLITE_BUSY"


def _lost_a_race(error: Exception) -> bool:
    """Another process was making the same tables; what it has made by then is found on the next attempt."""
    return isinstance(error, ProgrammingError | IntegrityError) or _passes_by_itself(error) or "already exists" in str(error)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        raise _in_our_words(error) from None


def _in_our_words(error: DBAPIError) -> PersonaError:
    # Codes rather than messages where there are codes: a message may quote a row.
    sqlite_code: str = getattr(error.orig, "sqlite_errorname", "")
    sqlstate: str = getattr(error.orig, "sqlstate", None) or ""
    what = sqlite_code or sqlstate or str(error.orig).partition("\n")[0]
    if what in DISK_FULL:
        return StoreRefused("the warehouse's disk is full", hint="Free space on its volume, then run again.")
    if REFUSED_CREDENTIALS in str(error.orig):
        return StoreRefused("the warehouse refused the credentials", hint="Check the user and the password in WAREHOUSE_URL.")
    if not isinstance(error, OperationalError | InterfaceError) or _is_refusal(sqlite_code, sqlstate):
        hint = GRANTS if sqlstate == LACKING_RIGHTS else "Check its disk, its file's rights and WAREHOUSE_URL."
        return StoreRefused(f"the warehouse refused: {what}", hint=hint)
    return TERMS.fault(error) or StoreUnavailable("warehouse", what)


def _is_refusal(sqlite_code: str, sqlstate: str) -> bool:
    return any(sqlite_code.startswith(code) for code in SQLITE_CODES_OF_REFUSAL) or sqlstate.startswith(SQLSTATES_OF_REFUSAL)
