"""The fault drill: under constant load each store hangs, is killed and comes back, and people are answered all the while."""

import asyncio
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from persona.local.group import Group
from persona.local.processes import read_json
from persona.settings import Settings, StoreName
from persona.stores import opening
from persona.stores.vectors import VectorStore
from tests.serving.service import Service, service_in
from tests.worlds import eventually

pytestmark = pytest.mark.slow

RATE = 20
"""Questions a second: what is left of two cores while a server starts on them answers as many."""
FAULT_SECONDS = 3.0
CALM_SECONDS = 1.0
"""Before each fault and at the end: what the same load takes without one, on this machine, busy as it is."""
ANSWERED, P99_SECONDS, RECOVERED_SECONDS, TRUTH_SECONDS = 0.999, 0.25, 10.0, 2.0
ADDED_SECONDS = 0.2
"""What a fault may add where the machine is too busy for `P99_SECONDS`: the wait for a store, then for the same one in suspicion."""
SERVERS: tuple[StoreName, ...] = ("redis", "milvus", "mongodb", "neo4j")
"""Those that answers are made from. No answer reads the warehouse, which may be a file."""
USERS = [f"u_{number:03}" for number in range(1, 51)]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one question went; a `status` of 0 is no answer at all."""

    at: float
    took: float
    status: int
    degraded: Collection[str]


class Load:
    """Questions at a constant rate, whether those before them have been answered or not."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._ended = threading.Event()
        self.outcomes: list[Outcome] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=lambda: asyncio.run(self._ask_all()))
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()

    def during(self, fault: "Fault") -> list[Outcome]:
        return [outcome for outcome in self.outcomes if fault.began <= outcome.at < fault.whole]

    def without(self, faults: Sequence["Fault"]) -> list[Outcome]:
        def met_one(outcome: Outcome) -> bool:
            return any(outcome.at < fault.whole and outcome.at + outcome.took > fault.began for fault in faults)

        return [outcome for outcome in self.outcomes if not met_one(outcome)]

    async def _ask_all(self) -> None:
        questions = questions_of(self._service.document())
        limits = httpx.Limits(max_connections=None, keepalive_expiry=2)  # sooner than the server hangs up on those who are idle
        async with httpx.AsyncClient(
            base_url=self._service.url, headers=self._service.headers, limits=limits, timeout=30
        ) as http:
            started, asked = time.monotonic(), list[asyncio.Task[None]]()
            for number in count():
                await asyncio.sleep(max(started + number / RATE - time.monotonic(), 0))
                if self._ended.is_set():
                    break
                method, path, body = questions[number % len(questions)](number)
                asked.append(asyncio.create_task(self._ask(http.build_request(method, path, json=body), http)))
            await asyncio.gather(*asked)

    async def _ask(self, question: httpx.Request, http: httpx.AsyncClient) -> None:
        at = time.monotonic()
        try:
            response = await http.send(question)
            status, degraded = response.status_code, response.json().get("degraded", [])
        except httpx.TransportError:
            status, degraded = 0, []
        self.outcomes.append(Outcome(at, time.monotonic() - at, status, degraded))


Question = tuple[str, str, Any]


def questions_of(document: dict[str, Any]) -> Sequence[Callable[[int], Question]]:
    """What is asked in turn: for answers that are kept, for ones that are not, and what else a public service is asked all day."""
    asked: list[Callable[[int], Question]] = [
        lambda number: ("GET", f"/recommendations/{USERS[number % 7]}", None),
        lambda number: ("GET", f"/recommendations/{USERS[number % 50]}?exclude=c_{number}", None),
        lambda number: ("GET", f"/recommendations/stranger-{number}", None),
    ]
    if "post" in document["paths"].get("/recommendations", {}):
        asked.append(lambda number: ("POST", "/recommendations", {"texts": [f"When will my card number {number} be here?"]}))
    if "/events" in document["paths"]:
        asked.append(
            lambda number: ("POST", "/events", {"user_id": f"visitor-{number % 5}", "event": "open", "campaign_id": "c_101"})
        )
    return asked


@dataclass(frozen=True, slots=True)
class Fault:
    """Of these stores: when it began, when they answered again, and when people got whole answers again."""

    what: str
    stores: Collection[StoreName]
    began: float
    over: float
    whole: float

    def row(self, outcomes: Sequence[Outcome]) -> str:
        return f"{row(self.what, outcomes)}{self.whole - self.over:>9.1f} s"


@pytest.fixture(scope="module")
def service(stack_settings: Settings, stores_group: Group, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    strange = [name for name in SERVERS if name not in stores_group.children()]
    if strange:
        pytest.skip(f"not a server of ours: {', '.join(strange)}")
    with service_in(tmp_path_factory.mktemp("drill"), stack_settings) as running:
        yield running


def test_people_are_answered_while_every_store_hangs_and_dies_and_comes_back(service: Service, stores_group: Group) -> None:
    load, faults = Load(service), list[Fault]()
    with load.running():
        for name in SERVERS:
            faults.append(drilled(f"{name} hangs", [name], hung(stores_group, name), service))
            faults.append(drilled(f"{name} dies", [name], killed(stores_group, [name]), service))
        faults.append(drilled("all die", SERVERS, killed(stores_group, SERVERS), service))
        time.sleep(CALM_SECONDS)
    calm = load.without(faults)
    limit = max(P99_SECONDS, p99(calm) + ADDED_SECONDS)
    head = f"{'':<18}{'asked':>6}{'not 2xx':>9}{'p99':>12}{'slowest':>12}{'recovered':>11}"
    table = "\n".join([head, row("no fault", calm), *(fault.row(load.during(fault)) for fault in faults)])
    print(table)
    failed = [outcome.status for outcome in load.outcomes if not is_good(outcome)]
    assert len(failed) <= (1 - ANSWERED) * len(load.outcomes), f"{failed}\n{table}"
    for fault in faults:
        outcomes = load.during(fault)
        assert any(set(fault.stores) <= set(outcome.degraded) for outcome in outcomes), f"nobody was told that {fault.what}"
        assert p99(outcomes) < limit, table
        assert fault.whole - fault.over < RECOVERED_SECONDS, table
    assert service.process.poll() is None, "the service was restarted"


def drilled(what: str, stores: Collection[StoreName], fault: AbstractContextManager[None], service: Service) -> Fault:
    """Have it happen, and wait until it is forgotten; what the service says of itself meanwhile is the truth."""
    time.sleep(CALM_SECONDS)
    with service.client() as http:
        began = time.monotonic()
        with fault:
            time.sleep(FAULT_SECONDS / 2)
            asked = time.monotonic()
            health = http.get("/health").json()
            assert time.monotonic() - asked < TRUTH_SECONDS
            assert {name for name, store in health["stores"].items() if store["status"] == "down"} >= set(stores), health
            assert http.get("/readyz").status_code == 200
            time.sleep(FAULT_SECONDS / 2)
        for name in stores:
            eventually(partial(answers, service.settings, name), seconds=60, what=f"the return of {name}")
        over = time.monotonic()
        eventually(lambda: is_whole(http), seconds=60, what=f"a whole answer after {what}")
        return Fault(what, stores, began, over, time.monotonic())


def is_whole(http: httpx.Client) -> bool:
    answer = http.get(f"/recommendations/{USERS[0]}", params={"exclude": "c_101"}).json()
    return bool(answer["degraded"] == [] and http.get("/health").json()["status"] == "ok")


def answers(settings: Settings, name: StoreName) -> bool:
    """Whether the store itself does, whatever the service thinks of it; it raises where not."""
    impatient = settings.model_copy(update={"store_timeout_seconds": 1.0})
    openers: dict[str, Callable[[], AbstractContextManager[Any]]] = {
        "mongodb": lambda: opening.documents_of(impatient),
        "milvus": lambda: opening.vectors_of(impatient, version="v1"),
        "neo4j": lambda: opening.graph_of(impatient),
        "redis": lambda: opening.cache_of(impatient),
    }
    with openers[name]() as opened:
        opened.ping()
        if isinstance(opened, VectorStore):  # it takes calls long before it has loaded what it is to search
            opened.warm()
    return True


@contextmanager
def hung(stores: Group, name: StoreName) -> Iterator[None]:
    """The server neither answers nor refuses, as long as the block lasts."""
    server = process_of(stores, name)
    processes = [server, *server.children(recursive=True)]
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            process.resume()


@contextmanager
def killed(stores: Group, names: Collection[StoreName]) -> Iterator[None]:
    """The servers are gone, and whoever would bring them back at once is kept from it as long as the block lasts."""
    supervisor = psutil.Process(read_json(stores.run_dir / "state.json")["pid"])
    supervisor.suspend()
    try:
        for name in names:
            process_of(stores, name).kill()
        yield
    finally:
        supervisor.resume()


def process_of(stores: Group, name: StoreName) -> psutil.Process:
    return psutil.Process(stores.children()[name].pid)


def row(what: str, outcomes: Sequence[Outcome]) -> str:
    failed = sum(not is_good(outcome) for outcome in outcomes)
    slowest = max(outcome.took for outcome in outcomes)
    return f"{what:<18}{len(outcomes):>6}{failed:>9}{1000 * p99(outcomes):>9.0f} ms{1000 * slowest:>9.0f} ms"


def is_good(outcome: Outcome) -> bool:
    return 200 <= outcome.status < 300


def p99(outcomes: Sequence[Outcome]) -> float:
    return float(np.quantile([outcome.took for outcome in outcomes], 0.99))
