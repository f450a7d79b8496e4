"""What the warehouse is promised to do, on SQLite and, where one is installed, on PostgreSQL."""

import multiprocessing
import os
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from multiprocessing.synchronize import Event
from pathlib import Path
from threading import Barrier

import pytest
from sqlalchemy import create_engine, inspect, text

from persona.errors import LeaseLost, PersonaError, StoreRefused, StoreUnavailable
from persona.schemas import DayBucket, Fact
from persona.stores.warehouse import StageRun, Warehouse, open_warehouse
from tests.stores.conftest import NAUGHTY_IDS

DAY = 86_400_000
NOON = 20_000 * DAY + DAY // 2
STARTED = datetime(2026, 3, 1, 12, 30, 0, 123456, tzinfo=UTC)


def fact(n: int, *, drop: str = "d_1", user: str | None = None, event: str | None = None) -> Fact:
    return Fact(
        message_id=f"m_{n}",
        drop=drop,
        user_id=user or f"u_{n % 11}",
        campaign_id=f"c_{n % 5}",
        event=event or ("click", "conversion", "impression")[n % 3],
        channel=("email", "sms")[n % 2],
        intent=None if n % 4 else "renew",
        value=None if n % 3 else n / 8,
        at_ms=NOON + (n % 9 - 4) * DAY,
    )


def buckets_of(facts: list[Fact]) -> list[DayBucket]:
    cells: defaultdict[tuple[str, str, str, str], list[float]] = defaultdict(list)
    for one in facts:
        day = datetime.fromtimestamp(one.at_ms / 1000, UTC).date().isoformat()
        cells[day, one.campaign_id, one.channel, one.event].append(one.value or 0)
    return [DayBucket(*cell, n=len(values), value=sum(values)) for cell, values in sorted(cells.items())]


def execute(url: str, statement: str) -> None:
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        connection.execute(text(statement))
    engine.dispose()


def indexed(url: str) -> list[tuple[str | None, ...]]:
    """Of each index the table and the columns."""
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    found = inspect(engine).get_multi_indexes()
    engine.dispose()
    return sorted((table, *index["column_names"]) for (_, table), indexes in found.items() for index in indexes)


def test_writing_twice_is_writing_once(warehouse: Warehouse) -> None:
    facts = [fact(n) for n in range(1_000)]
    assert [warehouse.insert_facts(facts), warehouse.insert_facts(facts)] == [1_000, 0]
    assert warehouse.fact_count() == 1_000
    assert warehouse.day_buckets() == buckets_of(facts)


def test_once_a_newer_token_wrote_an_older_one_writes_nothing(warehouse: Warehouse) -> None:
    assert warehouse.fenced(7).insert_facts([fact(1)]) == 1
    assert warehouse.fenced(8).insert_facts([fact(2)]) == 1
    assert warehouse.fenced(8).insert_facts([fact(2)]) == 0
    for overtaken in (lambda: warehouse.fenced(7).insert_facts([fact(3)]), lambda: warehouse.fenced(7).begin_beside()):
        with pytest.raises(LeaseLost):
            overtaken()
    assert warehouse.fact_count() == 2
    assert warehouse.insert_facts([fact(3)]) == 1


def test_of_many_tokens_at_once_none_that_is_overtaken_gets_through(warehouse: Warehouse) -> None:
    barrier = Barrier(8)

    def write(token: int) -> int | None:
        barrier.wait()
        try:
            return warehouse.fenced(token).insert_facts([fact(token)])
        except LeaseLost:
            return None

    with ThreadPoolExecutor(8) as pool:
        written = list(pool.map(write, range(8)))
    assert written[-1] == 1
    assert warehouse.fact_count() == written.count(1)


def test_buckets_equal_facts_whatever_overlaps(warehouse: Warehouse) -> None:
    facts = [fact(n) for n in range(3_000)]
    new = [warehouse.insert_facts(facts[start:stop]) for start, stop in ((0, 1_500), (500, 2_500), (2_000, 3_000), (0, 3_000))]
    assert new == [1_500, 1_000, 500, 0]
    assert warehouse.day_buckets() == buckets_of(facts)
    assert warehouse.bucket_mismatches(["d_1"], limit=10) == []
    some_day = warehouse.day_buckets()[40].day
    assert warehouse.day_buckets(since_day=some_day) == [bucket for bucket in buckets_of(facts) if bucket.day >= some_day]


def test_of_two_facts_with_one_id_the_first_counts(warehouse: Warehouse) -> None:
    first, second = fact(1), replace(fact(1), campaign_id="c_other")
    assert warehouse.insert_facts([first, second]) == 1
    assert warehouse.insert_facts([second]) == 0
    assert warehouse.day_buckets() == buckets_of([first])


def test_a_failure_leaves_neither_facts_nor_buckets(warehouse: Warehouse) -> None:
    with pytest.raises(PersonaError):
        warehouse.insert_facts([fact(1), replace(fact(2), campaign_id=None)])  # type: ignore[arg-type]
    assert (warehouse.fact_count(), warehouse.day_buckets()) == (0, [])
    assert warehouse.insert_facts([fact(1), fact(2)]) == 2


def test_more_than_one_statement_can_hold(warehouse: Warehouse) -> None:
    facts = [replace(fact(n), user_id=f"u_{n}", drop=f"d_{n}") for n in range(40_000)]
    assert warehouse.insert_facts(facts) == 40_000
    assert warehouse.refresh_users(one.user_id for one in facts) == 40_000
    assert warehouse.facts_of_drops([one.drop for one in facts]) == 40_000
    assert warehouse.bucket_mismatches([one.drop for one in facts[:5_000]], limit=3) == []


def test_any_id_comes_back_unchanged(warehouse: Warehouse) -> None:
    facts = [Fact(text, text, text, text, "click", text, text, 1.0, NOON) for text in NAUGHTY_IDS]
    assert warehouse.insert_facts(facts) == len(NAUGHTY_IDS)
    buckets = warehouse.day_buckets()
    assert sorted(bucket.campaign_id for bucket in buckets) == sorted(NAUGHTY_IDS)
    assert all(bucket.channel == bucket.campaign_id for bucket in buckets)
    assert [warehouse.facts_of_drops([text]) for text in NAUGHTY_IDS] == [1] * len(NAUGHTY_IDS)
    assert warehouse.refresh_users(NAUGHTY_IDS) == len(NAUGHTY_IDS)
    assert warehouse.bucket_mismatches(NAUGHTY_IDS, limit=5) == []


def test_a_persons_totals_follow_their_facts(warehouse: Warehouse, warehouse_url: str) -> None:
    mine = [fact(n, user="me") for n in range(9)]
    warehouse.insert_facts([*mine, *(fact(n) for n in range(9, 50))])
    for _ in range(2):
        assert warehouse.refresh_users(["me", "nobody"]) == 1
    engine = create_engine(warehouse_url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.connect() as connection:
        row = connection.execute(text("SELECT * FROM user_engagement")).mappings().one()
    engine.dispose()
    times = [one.at_ms for one in mine]
    assert dict(row) == {
        "user_id": "me",
        "events": 9,
        "conversions": 3,
        "first_at_ms": min(times),
        "last_at_ms": max(times),
        "value": sum(one.value or 0 for one in mine),
    }


def test_a_bucket_that_says_something_else_is_found_where_the_drop_touches_it(warehouse: Warehouse, warehouse_url: str) -> None:
    warehouse.insert_facts([fact(1, drop="mine"), replace(fact(2, drop="other"), campaign_id="c_else")])
    execute(warehouse_url, "UPDATE engagement_by_day SET n = n + 1")
    execute(
        warehouse_url,
        "INSERT INTO engagement_by_day "
        "SELECT day, campaign_id, 'voice', event, 2, 0 FROM engagement_by_day WHERE campaign_id = 'c_1'",
    )
    found = warehouse.bucket_mismatches(["mine"], limit=10)
    assert [(one.campaign_id, one.channel, one.facts, one.bucket) for one in found] == [
        ("c_1", "sms", 1, 2),
        ("c_1", "voice", 0, 2),
    ]
    assert len(warehouse.bucket_mismatches(["mine", "other"], limit=2)) == 2


def test_an_index_that_an_older_version_did_not_make_is_made_and_no_other_twice(warehouse: Warehouse, warehouse_url: str) -> None:
    every = indexed(warehouse_url)
    warehouse.begin_beside()
    warehouse.use_beside()  # after which indexes have other names
    assert indexed(warehouse_url) == every
    for index in ("pipeline_runs_by_stage", "anomalies_by_time"):
        execute(warehouse_url, f"DROP INDEX {index}")
    assert len(indexed(warehouse_url)) == len(every) - 2
    for _ in range(2):
        with open_warehouse(warehouse_url):
            assert indexed(warehouse_url) == every


def test_days_are_utc_days_in_any_century(warehouse: Warehouse) -> None:
    instants = {"1969-12-31": -1, "1970-01-01": 0, "1998-04-22": 893_289_599_999, "2026-03-01": 1_772_323_200_000}
    warehouse.insert_facts([replace(fact(n), at_ms=at_ms) for n, at_ms in enumerate(instants.values())])
    assert [bucket.day for bucket in warehouse.day_buckets()] == list(instants)


def test_an_empty_warehouse_answers(warehouse: Warehouse) -> None:
    assert (warehouse.fact_count(), warehouse.day_buckets()) == (0, [])
    assert warehouse.insert_facts([]) == 0 and warehouse.facts_of_drops([]) == 0 and warehouse.refresh_users([]) == 0


def test_the_run_history_is_replaced_stage_by_stage_and_outlives_the_facts(warehouse: Warehouse) -> None:
    stages = [StageRun("r_2", stage, "success", 7, STARTED + timedelta(seconds=n), 1.5, None) for n, stage in enumerate("abc")]
    for stage in (replace(stages[0], run_id="r_1", started_at=STARTED - timedelta(days=1)), *stages):
        for status in ("failed", stage.status):
            warehouse.record_stage(
                stage.run_id,
                stage.stage,
                status=status,
                records=stage.records,
                started_at=stage.started_at,
                seconds=stage.seconds,
                error="it broke" if status == "failed" else None,
            )
    for n in range(3):
        warehouse.record_anomaly(
            "r_2", "asset", "check", severity="WARN", value=n, threshold=None, at=STARTED + timedelta(seconds=n)
        )
    warehouse.begin_beside()
    warehouse.use_beside()
    assert warehouse.stages("r_2") == stages
    assert [(one.value, one.at) for one in warehouse.anomalies(2)] == [
        (2, STARTED + timedelta(seconds=2)),
        (1, STARTED + timedelta(seconds=1)),
    ]


def _insert_until(url: str, stop: Event, started: Event) -> None:
    with open_warehouse(url) as store:
        n = 0
        while not stop.is_set():
            store.insert_facts([fact(m) for m in range(n, n + 2_000)])
            started.set()
            n += 2_000


def test_a_reader_reads_whole_transactions_while_another_process_writes(warehouse: Warehouse, warehouse_url: str) -> None:
    processes = multiprocessing.get_context("spawn")
    stop, started = processes.Event(), processes.Event()
    writer = processes.Process(target=_insert_until, args=(warehouse_url, stop, started))
    writer.start()
    try:
        assert started.wait(30)
        slowest, counts = 0.0, []
        for _ in range(30):
            began = time.monotonic()
            counts.append(sum(bucket.n for bucket in warehouse.day_buckets()))
            slowest = max(slowest, time.monotonic() - began)
            time.sleep(0.02)
    finally:
        stop.set()
        writer.join(30)
    assert writer.exitcode == 0
    assert slowest < 2
    assert counts == sorted(counts) and not any(count % 2_000 for count in counts)


def test_two_writers_with_the_same_facts_count_them_once(warehouse_url: str) -> None:
    facts = [fact(n) for n in range(4_000)]

    def insert(_: int) -> int:
        with open_warehouse(warehouse_url) as store:
            return sum(store.insert_facts(facts[start : start + 500]) for start in range(0, 4_000, 500))

    with ThreadPoolExecutor(3) as pool:
        assert sum(pool.map(insert, range(3))) == 4_000
    with open_warehouse(warehouse_url) as store:
        assert store.day_buckets() == buckets_of(facts)


def test_many_that_open_a_new_file_at_once_all_open_it(tmp_path: Path) -> None:
    together = Barrier(8)

    def opened(file: Path) -> int:
        together.wait(timeout=30)
        with open_warehouse(f"sqlite:///{file}") as store:
            return store.fact_count()

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(opened, [tmp_path / f"{n // 8}.sqlite" for n in range(320)])) == {0}


def test_a_server_that_is_down_or_mute_is_told_in_time(closed_port: int, mute_port: int) -> None:
    for port in (closed_port, mute_port):
        began = time.monotonic()
        with pytest.raises(StoreUnavailable), open_warehouse(f"postgresql://u@127.0.0.1:{port}/d", timeout_seconds=2):
            pass
        assert time.monotonic() - began < 5


def test_a_writer_that_never_ends_stops_other_writers_alone_and_is_told_in_time(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'w.sqlite'}"
    with open_warehouse(url, timeout_seconds=0.3) as store:
        engine = create_engine(url, isolation_level="AUTOCOMMIT")
        with engine.connect() as other:
            other.exec_driver_sql("BEGIN IMMEDIATE")
            began = time.monotonic()
            with pytest.raises(StoreUnavailable):
                store.insert_facts([fact(1)])
            assert time.monotonic() - began < 3
            with open_warehouse(url, timeout_seconds=0.3) as reader:
                assert reader.fact_count() == store.fact_count() == 0
            other.exec_driver_sql("ROLLBACK")
        engine.dispose()
        assert store.insert_facts([fact(1)]) == 1


def test_a_file_that_is_no_database_or_cannot_be_made_is_a_refusal(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("this is not a database, " * 100)
    for place in (tmp_path / "text", tmp_path / "text" / "below" / "a file"):
        with pytest.raises(StoreRefused) as refused, open_warehouse(f"sqlite:///{place}"):
            pass
        assert refused.value.hint


def test_a_full_disk_is_a_refusal_and_nothing_is_half_written(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'w.sqlite'}"
    with open_warehouse(url) as store:
        store.insert_facts([fact(n) for n in range(100)])
        store._writer.dispose()
        with store._writer.connect() as connection:
            connection.exec_driver_sql("PRAGMA max_page_count = 1")
        with pytest.raises(StoreRefused) as refused:
            store.insert_facts([fact(n) for n in range(100, 20_000)])
        assert refused.value.hint
        assert (store.fact_count(), sum(bucket.n for bucket in store.day_buckets())) == (100, 100)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write any file")
def test_a_read_only_file_is_a_refusal(tmp_path: Path) -> None:
    file = tmp_path / "w.sqlite"
    with open_warehouse(f"sqlite:///{file}"):
        pass
    file.chmod(0o444)
    with pytest.raises(StoreRefused), open_warehouse(f"sqlite:///{file}") as store:
        store.insert_facts([fact(1)])


# -- rebuilt beside what is in use ----------------------------------------------------------------------------------------


def test_what_is_filled_beside_is_seen_by_nobody_until_it_takes_the_place_of_what_is_in_use(
    warehouse: Warehouse, warehouse_url: str
) -> None:
    right, wrong = [fact(n) for n in range(200)], [fact(n, drop="wrong") for n in range(150, 300)]
    for _ in range(2):  # as the next rebuild finds what the last one made
        warehouse.begin_beside()
        warehouse.use_beside()
        warehouse.insert_facts(wrong)
        warehouse.begin_beside()
        warehouse.beside().insert_facts(wrong)  # and left, when it died
        warehouse.begin_beside()
        assert warehouse.has_beside()
        beside = warehouse.beside()
        assert [beside.insert_facts(right[:120]), beside.insert_facts(right)] == [120, 80]
        beside.refresh_users({one.user_id for one in right})
        assert (warehouse.fact_count(), warehouse.facts_of_drops(["d_1"]), beside.fact_count()) == (150, 0, 200)
        assert warehouse.day_buckets() == buckets_of(wrong)
        with open_warehouse(warehouse_url) as reader:
            assert reader.fact_count() == 150
            warehouse.use_beside()
            assert (reader.fact_count(), reader.day_buckets()) == (200, buckets_of(right))
        assert not warehouse.has_beside()
        assert warehouse.bucket_mismatches(["d_1"], limit=5) == []
        assert warehouse.insert_facts([*right, fact(900)]) == 1


def test_readers_find_either_while_one_takes_the_place_of_the_other(warehouse: Warehouse, warehouse_url: str) -> None:
    old, new = [fact(n) for n in range(30)], [fact(n) for n in range(100, 140)]
    warehouse.insert_facts(old)
    ended = Barrier(2)
    seen: set[int] = set()

    def reading() -> None:
        with open_warehouse(warehouse_url) as reader:
            ended.wait()
            until = time.monotonic() + 1.5
            while time.monotonic() < until:
                seen.add(sum(bucket.n for bucket in reader.day_buckets()))
                reader.fact_count()

    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(reading)
        ended.wait()
        for facts in (new, old, new, old, new):
            warehouse.begin_beside()
            warehouse.beside().insert_facts(facts)
            warehouse.use_beside()
            time.sleep(0.1)
        reader.result()
    assert seen == {len(old), len(new)}


def test_who_is_removed_is_removed_from_what_a_rebuild_fills_too(warehouse: Warehouse) -> None:
    facts = [fact(n) for n in range(60)]
    warehouse.begin_beside()
    for tables in (warehouse, warehouse.beside()):
        tables.insert_facts(facts)
        tables.refresh_users(["u_1", "u_2"])
    warehouse.remove_user("u_1")
    assert warehouse.count_of("u_1") == 0
    warehouse.use_beside()
    assert warehouse.day_buckets() == buckets_of([one for one in facts if one.user_id != "u_1"])
    assert warehouse.count_of("u_1") == 0 < warehouse.count_of("u_2")


def test_an_overtaken_rebuild_neither_begins_nor_swaps(warehouse: Warehouse) -> None:
    warehouse.fenced(8).begin_beside()
    for overtaken in (
        lambda: warehouse.fenced(7).begin_beside(),
        lambda: warehouse.fenced(7).beside().insert_facts([fact(1)]),
        lambda: warehouse.fenced(7).use_beside(),
    ):
        with pytest.raises(LeaseLost):
            overtaken()
    assert warehouse.has_beside() and warehouse.beside().fact_count() == 0
