"""A service over stores of a few lines each, whose every fault a test can choose. Real servers: `test_real_stores`."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
from fastapi.testclient import TestClient
from numpy.typing import NDArray

from persona.errors import StoreUnavailable
from persona.ranking.model import RankingModel, fit
from persona.schemas import (
    Campaign,
    Customer,
    DayBucket,
    NeighbourVote,
    Relation,
    SimilarConversation,
    Ties,
    Vector,
)
from persona.settings import Settings
from persona.stores.documents.idempotency import Said
from persona.stores.documents.ledger import Entry
from persona.stores.kept_answers import Found, Question
from persona.stores.live import Live
from serving.app import create_app
from serving.stores import StoreOpeners

SETTINGS = Settings(_env_file=None, deadline_seconds=5)
NEWEST = datetime(2026, 1, 1, tzinfo=UTC)
NEWEST_MS = round(NEWEST.timestamp() * 1000)
MODEL = fit(
    [DayBucket(day="2026-01-01", campaign_id="c_1", channel="email", event="click", n=3, value=0.0)], facts=3, fingerprint="f"
)


class FakeStore:
    """Answers, refuses or hangs, as told."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.down = False
        self.fault: Exception | None = None
        self.asked = 0
        self.opened_times = 0
        self.thawed = threading.Event()
        self.thawed.set()

    def answer(self) -> None:
        self.asked += 1
        assert self.thawed.wait(60)
        if self.fault:
            raise self.fault
        if self.down:
            raise StoreUnavailable(self.name, "told to be down")

    def ping(self) -> None:
        self.answer()

    def cut_off(self) -> None:
        """Whoever waits for an answer now waits on; whoever asks from now on gets one."""
        self.thawed = threading.Event()
        self.thawed.set()

    @contextmanager
    def opened(self) -> Iterator[Any]:
        self.opened_times += 1
        self.answer()
        yield self


class FakeVectors(FakeStore):
    def at(self, version: str) -> "FakeVectors":
        return self

    def user_vector(self, user_id: str) -> Vector | None:
        self.answer()
        return np.array([1, 0], np.float32) if user_id == "u_1" else None

    def similar_users(self, vector: Vector, *, limit: int, exclude: str | None) -> list[tuple[str, float]]:
        self.answer()
        return [("u_2", 0.9)]

    def similar_conversations(self, vector: Vector, *, limit: int, exclude_user: str | None) -> list[SimilarConversation]:
        self.answer()
        return [SimilarConversation(0.9, {"c_2": 1.0})]


class FakeGraph(FakeStore):
    meanwhile: Callable[[], None] = staticmethod(lambda: None)
    favourite = "c_2"
    """Of everybody else."""

    def ties_of(self, user_id: str) -> Ties:
        self.answer()
        self.meanwhile()
        return Ties([], [], [])

    def campaigns_of(
        self, neighbours: Mapping[str, float], *, now_ms: int, half_life_days: float, limit: int
    ) -> list[NeighbourVote]:
        self.answer()
        return [NeighbourVote(self.favourite, 1.0, 1)]

    def interested_in(self, campaign_id: str, *, limit: int) -> list[str]:
        self.answer()
        return ["u_1", "u_3"]


@dataclass
class FakeLive:
    """Redis' part for what came in."""

    cache: "FakeCache"
    records: dict[str, dict[str, Any]] = field(default_factory=dict)

    def put(self, records: Sequence[Mapping[str, Any]], *, drop: str) -> None:
        self.cache.evict([record["user_id"] for record in records])
        for record in records:
            self.records.setdefault(record["user_id"], {})[record["_id"]] = {**record, "drop": drop}

    def of(self, user_id: str) -> Live:
        self.cache.answer()
        return Live(list(self.records.get(user_id, {}).values()))

    def is_whole(self) -> bool:
        self.cache.answer()
        return True

    def set_whole(self) -> None:
        self.cache.answer()

    def applied(self, drops: Collection[str]) -> None:
        self.cache.answer()


@dataclass
class FakeCache(FakeStore):
    kept: dict[tuple[str, str, str], bytes] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    ttls: list[float] = field(default_factory=list)
    epoch: int = 0
    at_it: set[str] = field(default_factory=set)
    """Whose answers another process computes."""
    passed: list[str] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    """How many questions each had."""
    counted: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        super().__init__("redis")
        self.live = FakeLive(self)

    async def look_up(self, questions: Sequence[Question]) -> list[Found]:
        await self.answered()
        self.batches.append(len(questions))
        return [self.found(question) for question in questions]

    async def answered(self) -> None:
        """As `answer`, without stopping the event loop."""
        while not self.thawed.is_set():
            await asyncio.sleep(0.01)
        self.answer()

    def found(self, question: Question) -> Found:
        user_id, scope, field, counted = question
        answer = self.kept.get((user_id, scope, field))
        count = self.count(*counted) if counted else 0
        return Found(answer, self.version(user_id), answer is None and user_id not in self.at_it, count, live=True)

    async def pass_turn(self, question: Question) -> None:
        await self.answered()
        self.passed.append(question.user_id)

    @asynccontextmanager
    async def reader(self) -> AsyncIterator[Any]:
        yield self

    async def keep(self, question: Question, payload: bytes, *, version: str, ttl: float) -> bool:
        await self.answered()
        if version != self.version(question.user_id):
            return False
        self.ttls.append(ttl)
        self.kept[question.user_id, question.scope, question.field] = payload
        return True

    def count(self, bucket: str, seconds: int) -> int:
        self.answer()
        self.counted[bucket] += 1
        return self.counted[bucket]

    def version(self, user_id: str) -> str:
        return f"{self.epoch}:{self.versions.get(user_id, 0)}"

    def evict(self, user_ids: Sequence[str]) -> None:
        self.answer()
        for user_id in user_ids:
            self.versions[user_id] = self.versions.get(user_id, 0) + 1
        self.kept = {key: payload for key, payload in self.kept.items() if key[0] not in user_ids}


class FakeRelations:
    def of(self, fingerprint: str) -> Iterator[tuple[str, list[Relation]]]:
        return iter(())


class FakeLedger:
    def get(self, entries: Sequence[str]) -> list[Entry]:
        return []

    def claimed(self) -> list[Entry]:
        return []

    def pending(self, sink: str, *, upstream: Sequence[str]) -> list[Entry]:
        return []


class FakeDocuments(FakeStore):
    """Its parts are itself: MongoDB is up or down as a whole."""

    def __init__(self) -> None:
        super().__init__("mongodb")
        self.generation = "g_1"
        self.catalog_version = 1
        self.all_campaigns = [Campaign(campaign_id=f"c_{number}", name=f"Campaign {number}") for number in range(1, 5)]
        self.looks = 0
        self.stored = 0
        self.decided: list[dict[str, Any]] = []
        self.gone: dict[str, set[tuple[str | None, str]]] = {}
        self.classifier: tuple[str, str, dict[str, NDArray[Any]]] | None = None
        """Version, fingerprint of the encoder, arrays."""
        self.records = self.catalog = self.generations = self.embeddings = self.conversations = self
        self.tombstones = self.idempotency = self
        self.erased: dict[str, datetime] = {}
        self.said: dict[str, Said] = {}
        self.history: list[dict[str, Any]] = []
        self.ledger = FakeLedger()
        self.relations = FakeRelations()
        self.classifiers = FakeClassifiers(self)

    def policy_of(self, user_id: str, *, impressions_since: datetime) -> tuple[list[dict[str, Any]], Customer | None]:
        self.answer()
        return self.decided, None

    def newest_timestamp(self) -> datetime | None:
        self.answer()
        return NEWEST

    def history_of(self, user_id: str) -> list[dict[str, Any]]:
        self.answer()
        return [record for record in self.history if record["user_id"] == user_id]

    def times(self, users: Sequence[str]) -> dict[str, datetime]:
        self.answer()
        return {user: at for user, at in self.erased.items() if user in users}

    def first(self, key: str, digest: str, *, at: datetime) -> Said:
        self.answer()
        return self.said.setdefault(key, Said(digest, at))

    def labels(self, hashes: set[str]) -> dict[str, str]:
        self.answer()
        return {}

    def mentions(self, hashes: set[str]) -> dict[str, tuple[str, ...]]:
        self.answer()
        return {}

    def openings(self, users: Sequence[str]) -> dict[str, tuple[str, Vector]]:
        self.answer()
        return {}

    def count(self) -> int:
        self.answer()
        return self.stored

    def unsubscribed(self) -> dict[str, set[tuple[str | None, str]]]:
        self.answer()
        return self.gone

    def newest_messages(self, user_id: str, *, limit: int) -> list[dict[str, Any]]:
        self.answer()
        return []

    def between(self, user_id: str, campaign_id: str, *, limit: int) -> list[dict[str, Any]]:
        self.answer()
        return []

    def get(self, hashes: set[str]) -> dict[str, Vector]:
        self.answer()
        return dict.fromkeys(hashes, np.array([1, 0], np.float32))

    def known_among(self, users: Sequence[str]) -> set[str]:
        self.answer()
        return {"u_1", "u_2"} & set(users)

    def suppressed(self) -> frozenset[str]:
        self.answer()
        return frozenset()

    def version(self) -> int:
        self.answer()
        return self.catalog_version

    def campaigns(self) -> list[Campaign]:
        self.answer()
        return self.all_campaigns

    def collections_in_use(self) -> str:
        self.answer()
        return "v1"

    collections_to_fill = collections_in_use

    def present(self, hashes: Sequence[str]) -> set[str]:
        self.answer()
        return set(hashes)

    def model(self) -> tuple[str, int] | None:
        self.answer()
        return (self.classifier[1], 48) if self.classifier else None

    def in_force_id(self) -> str | None:
        self.answer()
        self.looks += 1
        return self.generation

    def in_force(self) -> tuple[str, dict[str, Any]] | None:
        self.answer()
        return self.generation, RankingModel.model_dump(MODEL)


@dataclass(frozen=True)
class FakeClassifiers:
    """The part of `FakeDocuments` whose verbs have other parts' names."""

    store: FakeDocuments

    def version(self) -> str | None:
        self.store.answer()
        return self.store.classifier[0] if self.store.classifier else None

    def arrays(self, version: str) -> dict[str, NDArray[Any]] | None:
        self.store.answer()
        return self.store.classifier[2] if self.store.classifier and self.store.classifier[0] == version else None


class Fakes:
    """The five stores, by name."""

    def __init__(self) -> None:
        self.mongodb = FakeDocuments()
        self.milvus = FakeVectors("milvus")
        self.neo4j = FakeGraph("neo4j")
        self.warehouse = FakeStore("warehouse")
        self.redis = FakeCache()

    @property
    def all(self) -> list[FakeStore]:
        return [self.mongodb, self.milvus, self.neo4j, self.warehouse, self.redis]

    def openers(self) -> StoreOpeners:
        return StoreOpeners(
            documents=self.mongodb.opened,
            vectors=self.milvus.opened,
            graph=self.neo4j.opened,
            warehouse=self.warehouse.opened,
            cache=self.redis.opened,
            answers=self.redis.reader,
        )


@pytest.fixture(autouse=True)
def plain_logs() -> Iterator[None]:
    """A traceback in colours takes longer than a store may."""
    structlog.configure(processors=[structlog.processors.format_exc_info, structlog.processors.KeyValueRenderer()])
    yield
    structlog.reset_defaults()


@pytest.fixture
def fakes() -> Iterator[Fakes]:
    """The stores, all well; whatever hangs is let go at the end."""
    stores = Fakes()
    yield stores
    for store in stores.all:
        store.thawed.set()


@pytest.fixture
def deadline() -> float:
    """What is tested is the answer, however busy the machine is; tests of deadlines have their own."""
    return SETTINGS.deadline_seconds


@pytest.fixture
def settings(tmp_path: Path, deadline: float) -> Settings:
    """Those of a service in a home of its own, where it may write."""
    return SETTINGS.model_copy(update={"home": tmp_path, "deadline_seconds": deadline})


@pytest.fixture
def client(fakes: Fakes, settings: Settings) -> Iterator[TestClient]:
    """The running service over `fakes`."""
    with TestClient(create_app(settings, stores=fakes.openers())) as running:
        yield running


def eventually(holds: Callable[[], bool], *, within: float = 10) -> None:
    """Wait until it holds."""
    deadline = time.monotonic() + within
    while not holds():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.05)
