"""A holder of the lease that falls asleep between its check and its write: what it writes when it wakes is refused, or put right.

Run as a program, this is the sleeper: it drains the home of its environment and stops itself where its argument says.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from persona.errors import LeaseLost
from persona.intake.catalogs import load_folder
from persona.intake.drops import take_in_all
from persona.pipeline import sinks
from persona.pipeline.draining import Batch, Pipeline
from persona.schemas import Engagement
from persona.settings import Settings
from persona.stores.documents.embeddings import Embeddings
from persona.stores.documents.records import Records
from persona.stores.graph import Graph
from persona.stores.opening import Stores, open_stores
from persona.stores.vectors import VectorStore
from persona.stores.warehouse import Warehouse
from tests.worlds import (
    Dump,
    HashingEncoder,
    clear,
    content,
    differences,
    environment_of,
    generated,
    graph_session,
    ledger,
    put_drop,
    said,
)

pytestmark = pytest.mark.slow

ENCODER = HashingEncoder(dimension=16)
LEASE_SECONDS = 1
WRITES: dict[str, tuple[type, str]] = {
    "raw_conversations": (Records, "insert"),
    "embeddings": (Embeddings, "put"),
    "intents": (Embeddings, "put_labels"),
    "milvus_collection": (VectorStore, "upsert_users"),
    "neo4j_graph": (Graph, "upsert_engagements"),
    "engagement_metrics": (Warehouse, "insert_facts"),
}
"""Of each stage a write, before which it falls asleep."""
MEANWHILE = [
    said("u_001", "something else altogether", message_id="m_meanwhile_1", minutes=-5),
    said("u_001", "", message_id="m_meanwhile_2", minutes=-6, event="dismiss", campaign_id="c_101"),
    said("u_002", "", message_id="m_meanwhile_3", minutes=-7, event="conversion", campaign_id="c_102", value=3),
]


def run(settings: Settings, *, run_id: str) -> None:
    """Take in and drain everything that waits."""
    with open_stores(settings) as stores:
        pipeline = Pipeline(settings, stores.documents, stores.warehouse, stores.cache)
        load_folder(pipeline, run_id=run_id)
        take_in_all(pipeline, run_id=run_id)
        for stage, apply in _sinks(stores).items():
            pipeline.drain(stage, apply, run_id=run_id)


def _sinks(stores: Stores) -> dict[str, Callable[[Any], None]]:
    return {
        "embeddings": lambda batch: sinks.embed(batch, ENCODER),
        "intents": lambda batch: sinks.label(batch, threshold=0.3),
        "milvus_collection": lambda batch: sinks.index_vectors(batch, stores.vectors),
        "neo4j_graph": lambda batch: sinks.link(batch, stores.graph),
        "engagement_metrics": lambda batch: sinks.count(batch, stores.warehouse),
    }


@contextmanager
def before_first_call(owner: type, verb: str, happens: Callable[[], None]) -> Iterator[None]:
    """Let something happen between whatever comes before the first call of this method and the call itself."""
    write, asleep = getattr(owner, verb), [True]

    def sleeping(*arguments: Any, **options: Any) -> Any:
        if asleep:
            asleep.clear()
            happens()
        return write(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, verb, sleeping)
        yield


@pytest.fixture
def home(stack_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Settings]]:
    """Makes homes with drops that wait, one after the other on the same servers, each beginning with nothing."""
    homes: list[Settings] = []

    def make() -> Settings:
        if homes:
            clear(homes[-1])
        folder = tmp_path / str(len(homes))
        for name, value in environment_of(stack_settings, folder).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("PERSONA_LEASE_SECONDS", str(LEASE_SECONDS))
        homes.append(Settings(_env_file=None))
        generated(homes[-1], messages=24)
        put_drop(homes[-1].drops, "bad.jsonl", ["no record", *({**MEANWHILE[0], "message_id": f"m_{n}"} for n in range(9))])
        return homes[-1]

    yield make
    clear(homes[-1])


@pytest.fixture(scope="module")
def kept() -> Dump:
    """Filled in by the first undisturbed home."""
    return {}


@pytest.fixture
def undisturbed(home: Callable[[], Settings], kept: Dump) -> Dump:
    """What the stores hold when nobody falls asleep."""
    if not kept:
        settings = home()
        run(settings, run_id="r1")
        put_drop(settings.drops, "meanwhile.jsonl", MEANWHILE)
        run(settings, run_id="r2")
        kept |= content(settings)
        assert kept["mongodb:records"] and kept["milvus:users"] and kept["neo4j:relationships"] and kept["warehouse:engagements"]
    return kept


@pytest.mark.parametrize("stage", WRITES)
def test_a_process_that_is_stopped_before_a_write_and_wakes_up_when_another_has_gone_on(
    stage: str, home: Callable[[], Settings], undisturbed: Dump
) -> None:
    settings = home()
    with subprocess.Popen([sys.executable, "-m", __spec__.name, stage], stderr=subprocess.PIPE) as sleeper:
        try:
            _, status = os.waitpid(sleeper.pid, os.WUNTRACED)
            assert os.WIFSTOPPED(status), sleeper.communicate()
            put_drop(settings.drops, "meanwhile.jsonl", MEANWHILE)
            run(settings, run_id="awake")
            sleeper.send_signal(signal.SIGCONT)
            _, said_at_last = sleeper.communicate(timeout=60)
        finally:
            sleeper.kill()
    assert sleeper.returncode == 1 and b"LeaseLost" in said_at_last, said_at_last.decode()
    if stage != "milvus_collection":
        assert differences(undisturbed, content(settings)) == {}
    else:
        assert {name for name, entry in ledger(settings).items() if entry["pending"]} >= {"bad.jsonl"}
    run(settings, run_id="afterwards")
    assert differences(undisturbed, content(settings)) == {}


def test_who_is_forgotten_while_a_writer_of_vectors_sleeps_does_not_come_back(home: Callable[[], Settings]) -> None:
    settings = home()

    def another_forgets_someone() -> None:
        with open_stores(settings) as stores:
            stores.documents.leases.release(_token(stores))
            run(settings, run_id="awake")
            stores.documents.database["records"].delete_many({"user_id": "u_001"})
            stores.vectors.delete_conversations(stores.vectors.conversation_ids_of(["u_001"]))
            stores.vectors.delete_users(["u_001"])

    with before_first_call(VectorStore, "upsert_conversations", another_forgets_someone), pytest.raises(LeaseLost):
        run(settings, run_id="sleeper")
    with open_stores(settings) as stores:
        assert stores.vectors.present_users(["u_001", "u_002"]) == {"u_002"}
        assert stores.vectors.conversation_ids_of(["u_001"]) == set()


def test_a_writer_of_vectors_that_wakes_before_its_successor_has_marked_what_it_wrote(
    home: Callable[[], Settings], undisturbed: Dump
) -> None:
    settings = home()
    written, overtaken = threading.Event(), threading.Event()

    def successor_is_about_to_mark() -> None:
        written.set()
        assert overtaken.wait(60)

    def another_begins() -> None:
        with open_stores(settings) as stores:
            stores.documents.leases.release(_token(stores))
        put_drop(settings.drops, "meanwhile.jsonl", MEANWHILE)
        successor.start()
        assert written.wait(60)

    successor = threading.Thread(target=run, args=(settings,), kwargs={"run_id": "awake"})
    with (
        before_first_call(VectorStore, "upsert_users", another_begins),
        before_first_call(Batch, "leaves_pending", successor_is_about_to_mark),
    ):
        try:
            with pytest.raises(LeaseLost):
                run(settings, run_id="sleeper")
        finally:
            overtaken.set()
            successor.join()
    run(settings, run_id="afterwards")
    assert differences(undisturbed, content(settings)) == {}


def _token(stores: Stores) -> int:
    holder = stores.documents.leases.holder()
    assert holder is not None
    return holder.token


ENGAGEMENT = Engagement(
    user_id="u", campaign_id="c", weight=1, value=0, counts={"click": 1}, first_at_ms=1, last_at_ms=2, last_message_id="m"
)


def test_an_older_token_writes_nothing_into_the_graph_and_the_same_or_a_newer_one_does(stack_settings: Settings) -> None:
    with open_stores(stack_settings) as stores:
        newest = 4 * 10**12
        try:
            assert stores.graph.fenced(newest).upsert_users(["a"]) == 1
            assert stores.graph.fenced(newest).upsert_users(["b"]) == 1
            with pytest.raises(LeaseLost):
                stores.graph.fenced(newest - 1).upsert_engagements([ENGAGEMENT])
            with pytest.raises(LeaseLost):
                stores.graph.fenced(newest - 1).clear()
            assert (stores.graph.count("User"), stores.graph.count("ENGAGED")) == (2, 0)
            assert stores.graph.fenced(newest + 1).upsert_engagements([ENGAGEMENT]) == 1
        finally:
            stores.graph.clear()
            with closing(graph_session(stack_settings)) as session:
                session.run("MATCH (fence:Fence) DELETE fence").consume()


def test_of_many_writers_at_once_none_that_is_overtaken_gets_through(stack_settings: Settings) -> None:
    """Whichever way the transactions interleave: who succeeds had the newest token at that moment."""
    with open_stores(stack_settings) as stores:
        outcomes: list[tuple[int, bool]] = []

        def write(token: int) -> None:
            try:
                stores.graph.fenced(token).upsert_users([f"u_{token}"])
            except LeaseLost:
                outcomes.append((token, False))
            else:
                outcomes.append((token, True))

        threads = [threading.Thread(target=write, args=(token,)) for token in _shuffled(range(1, 13))]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            written = [token for token, through in outcomes if through]
            assert len(outcomes) == 12 and 12 in written
            assert stores.graph.missing_users([f"u_{token}" for token in range(1, 13)]) == sorted(
                f"u_{token}" for token, through in outcomes if not through
            )
        finally:
            stores.graph.clear()


def _shuffled(items: Sequence[int]) -> list[int]:
    return sorted(items, key=lambda number: number * 7 % 13)


def main(stage: str) -> None:
    """Be the sleeper."""
    owner, verb = WRITES[stage]
    with before_first_call(owner, verb, lambda: os.kill(os.getpid(), signal.SIGSTOP)):
        run(Settings(_env_file=None), run_id="sleeper")


if __name__ == "__main__":
    main(sys.argv[1])
