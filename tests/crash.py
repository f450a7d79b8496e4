"""The crash harness, `python -m tests.crash --kills N`: a platform that is killed at random moments while drops arrive.

At the end it has to hold what an undisturbed one holds, row by row. What is killed is the run, or one of the servers, which its supervisor
brings back; now and then a run is stopped past its lease while another goes on, and woken. The run is `persona materialize`, in a child
forked from a process that has imported everything, with an encoder of a few lines: vectors are compared digit by digit.
"""

import argparse
import gzip
import json
import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random
from typing import Any, Self

import psutil
import pymongo
import redis
from fastapi.testclient import TestClient
from pymongo.errors import PyMongoError

from persona import synthetic
from persona.local.stack import stores_status
from persona.logs import configure_logs
from persona.pipeline.stages import CODE_VERSIONS
from persona.settings import Settings, StoreName
from serving.app import create_app
from tests.platforms import STORE_URLS, Platform, platform_in
from tests.worlds import NEWEST, Dump, HashingEncoder, content, eventually

SERVERS: tuple[StoreName, ...] = ("mongodb", "milvus", "neo4j", "redis")
STOPPED = "stopped run"
WEIGHTS = {"run": 6, **dict.fromkeys(SERVERS, 1), "run and mongodb": 0.5}
"""How often each is killed."""
KILLS_PER_STOP = 8
STAGES = tuple(stage for stage in CODE_VERSIONS if stage != "cache")
LEASE_SECONDS = 3
LONGEST_RUN = 180
MESSAGES = 250
"""In each drop, and the events that follow them."""
ATTEMPTS_LEFT_ALONE = 2
"""A third crash on the same drop in a row would rightly hold it: the run after two of them is left to end."""
PRELOADED = ["persona_assets.execution", "persona_cli.main", "tests.worlds", "matplotlib.pyplot", "sentence_transformers"]


@dataclass(frozen=True)
class Arrival:
    """Something that comes in: a drop, or new catalogs."""

    name: str
    content: bytes
    catalogs: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Hit:
    """One blow, and what the run did then."""

    target: str
    stage: str
    """What held the lease at that moment."""
    seconds: float
    """How long the run had been under way."""
    ending: str


@dataclass
class Result:
    """What a harness found."""

    kills: int = 0
    stops: int = 0
    runs: int = 0
    seconds: float = 0
    records: int = 0
    hits: list[Hit] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    """What the runs said that failed."""
    lost: dict[str, int] = field(default_factory=dict)
    doubled: dict[str, int] = field(default_factory=dict)
    sample: dict[str, list[str]] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return not (any(self.lost.values()) or any(self.doubled.values()) or self.complaints)


# -- what arrives ---------------------------------------------------------------------------------------------------------


def arrivals(seed: int, count: int) -> list[Arrival]:
    """Catalogs, then drops in the order of their names, with clicks, late messages, copies, conflicts, broken lines and broken files.

    Half-way come new catalogs.
    """
    rng = Random(f"{seed}/arrivals")
    world = synthetic.generate(messages=MESSAGES * count, users=12 * count, campaigns=36, seed=seed, end=NEWEST)
    records = list(world.records())
    parts: list[list[dict[str, Any]]] = [[] for _ in range(count)]
    for index, record in enumerate(records):
        late = rng.randint(1, 3) if rng.random() < 0.15 else 0
        parts[min(index * count // len(records) + late, count - 1)].append(record)
    arriving = [Arrival("catalogs", b"", _catalogs(world, changed=False))]
    sent: list[dict[str, Any]] = []
    for number, part in enumerate(parts):
        again = rng.sample(sent, k=min(len(sent), len(part) // 20))
        conflicting = [{**record, "message": "another thing was said", "channel": "voice"} for record in again[:2]]
        lines = [json.dumps(record) for record in part + again + conflicting]
        lines += ['{"user_id": "u_001", "message": "cut o', '{"message": "whose?"}', '{"user_id": "u_002", "message": NaN}']
        rng.shuffle(lines)
        data = ("\n".join(lines) + "\n").encode()
        zipped = number % 4 == 3
        name = f"{number:03d}-a.jsonl{'.gz' if zipped else ''}"
        drop = Arrival(name, gzip.compress(data, mtime=0) if zipped else data)
        arriving.append(drop)
        if number % 5 == 1:
            arriving.append(Arrival(f"{number:03d}-b-again.jsonl{'.gz' if zipped else ''}", drop.content))
        if number % 6 == 2:
            arriving.append(Arrival(f"{number:03d}-c-broken.jsonl", b'{"user_id":\n' * 40 + data[:400]))
        if number % 9 == 4:
            arriving.append(Arrival(f"{number:03d}-d-cut.jsonl.gz", gzip.compress(data, mtime=0)[:-200]))
        if number == count // 2:
            arriving.append(Arrival("new catalogs", b"", _catalogs(world, changed=True)))
        sent += part
    return arriving


def _catalogs(world: synthetic.Synthetic, *, changed: bool) -> dict[str, bytes]:
    campaigns, intents = world.campaign_catalog(), world.intent_catalog()
    if changed:
        campaigns = [
            {**campaign, "description": f"Now new: {campaign['description']}"} for campaign in campaigns[::2]
        ] + campaigns[1::2]
        intents = [{**intent, "examples": intent["examples"][:-2]} for intent in intents]
    users = list(world.customers())
    return {
        f"{name}.json": json.dumps(rows).encode()
        for name, rows in (("campaigns", campaigns), ("intents", intents), ("users", users))
    }


def deliver(platform: Platform, arrival: Arrival) -> None:
    """Put it where it is looked for, whole at once."""
    settings = platform.settings
    files = {settings.catalog / name: data for name, data in arrival.catalogs.items()} or {
        settings.drops / arrival.name: arrival.content
    }
    for path, data in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}")
        unfinished.write_bytes(data)
        unfinished.replace(path)


def nothing() -> None:
    """The preparation of an ordinary run."""


# -- the run --------------------------------------------------------------------------------------------------------------


class Run:
    """`persona materialize` in a process of its own."""

    def __init__(
        self, folder: Path, environment: Mapping[str, str], number: int, *, prepare: Callable[[], None] = nothing
    ) -> None:
        """`prepare` is called in the process before anything else."""
        self._files = [folder / "runs" / f"{number:04d}.{kind}" for kind in ("out", "err")]
        self._files[0].parent.mkdir(exist_ok=True)
        arguments = (str(folder), dict(environment), *map(str, self._files), prepare)
        self.process: BaseProcess = _forking().Process(target=_materialize, args=arguments, daemon=True)
        self.process.start()
        self.began = time.monotonic()

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def kill(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def ends(self, *, within: float) -> bool:
        self.process.join(within)
        return self.process.exitcode is not None

    def ending(self) -> tuple[str, dict[str, float]]:
        """`success`, `killed`, or the sentence it ended with; and the seconds of each stage."""
        if self.process.exitcode == -signal.SIGKILL:
            return "killed", {}
        try:
            document = json.loads(self._files[0].read_text())
        except ValueError:
            return f"exit {self.process.exitcode} without a word: {self._files[1].read_text()[-300:]}", {}
        if document.get("status") == "success":
            return "success", {stage["stage"]: stage["seconds"] for stage in document["stages"]}
        error = document.get("error")
        return str(error["message"] if isinstance(error, dict) else error), {}


def _forking() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def _materialize(folder: str, environment: dict[str, str], out: str, err: str, prepare: Callable[[], None]) -> None:
    os.chdir(folder)
    for name in STORE_URLS:
        os.environ.pop(name, None)
    prepare()
    os.environ.update(environment)
    for path, descriptor in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), descriptor)
    from persona_assets import resources
    from persona_cli.main import main

    resources.LazyEncoder = lambda settings: HashingEncoder(settings.embedding_model)  # type: ignore[assignment, misc, return-value]
    sys.argv = ["persona", "materialize", "--json"]
    main()


# -- the blows ------------------------------------------------------------------------------------------------------------


class Harness:
    """Deals the blows to one platform."""

    def __init__(
        self, platform: Platform, arriving: Sequence[Arrival], rng: Random, result: Result, *, verbose: bool = False
    ) -> None:
        self._platform = platform
        self._settings = platform.settings
        self._waiting = list(arriving)
        self._rng = rng
        self._result = result
        self._verbose = verbose
        self._truth = pymongo.MongoClient[dict[str, Any]](
            self._settings.addresses.mongodb, serverSelectionTimeoutMS=500, timeoutMS=2000
        )
        self._seconds: dict[str, float] = {}
        """How long each stage took lately, and under "run" the whole."""
        self._last = "success"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._truth.close()

    def deal(self, kills: int) -> None:
        """So many kills, with everything delivered by and by."""
        while self._result.kills < kills:
            left = kills - self._result.kills
            self._arrive(self._rng.randint(0, 2 * len(self._waiting) // left + 1) if left > 1 else len(self._waiting))
            if self._crashes() >= ATTEMPTS_LEFT_ALONE:
                self._to_its_end(self._start())
                continue
            if self._result.kills > KILLS_PER_STOP * self._result.stops:
                self._stop(self._start())
            else:
                self._kill(self._start(), self._rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0])
        while self._waiting:
            self._arrive(len(self._waiting))
            self.drain()

    def drain(self) -> None:
        """Run, once all servers answer, until nothing waits any more."""
        eventually(self._all_run, seconds=120, what="the return of all servers")
        for _ in range(6):
            if self._to_its_end(self._start()) == "success" and not self._waits():
                return
        raise AssertionError(f"something waits after six runs; the last said: {self._last}")

    def _all_run(self) -> bool:
        return {status.state for status in stores_status(self._settings).values()} == {"running"}

    def _kill(self, run: Run, target: str) -> None:
        stage = self._moment(run)
        under_way = time.monotonic() - run.began
        if target != "run" and not self._kill_server("mongodb" if target == "run and mongodb" else target):
            self._to_its_end(run)
            return
        if target.startswith("run"):
            if run.ends(within=0):
                self._to_its_end(run)
                return
            run.kill(signal.SIGKILL)
        self._result.kills += 1
        self._hit(Hit(target, stage, round(under_way, 2), self._to_its_end(run)))

    def _moment(self, run: Run) -> str:
        """Wait for a random moment of the run, or of one of its stages; return what holds the lease then. It may end before."""
        stage = self._rng.choice([None, *STAGES])
        if stage is None:
            run.ends(within=self._rng.uniform(0, self._seconds.get("run", 5)))
            return self._stage()
        while self._stage() != stage:
            if run.ends(within=0.004):
                return "between"
        run.ends(within=self._rng.uniform(0, self._seconds.get(stage, 0.2)))
        return stage

    def _kill_server(self, name: str) -> bool:
        pid = stores_status(self._settings)[name].pid  # type: ignore[index]
        if pid is None:  # still on its way back from the last one
            return False
        with suppress(psutil.Error):
            psutil.Process(pid).kill()
            return True
        return False

    def _stop(self, run: Run) -> None:
        """SIGSTOP while it holds the lease, until another run has been going on for a while."""
        self._moment(run)
        while not (stage := self._stopped(run)):
            if run.ends(within=0.004):
                self._to_its_end(run)
                return
        under_way = time.monotonic() - run.began
        self._arrive(1)
        other = self._start()
        other.ends(within=self._rng.uniform(LEASE_SECONDS + 0.5, LEASE_SECONDS + 1.5 * self._seconds.get("run", 5)))
        run.kill(signal.SIGCONT)
        self._result.stops += 1
        self._hit(Hit(STOPPED, stage, round(under_way, 2), f"{self._to_its_end(run)} | {self._to_its_end(other)}"))

    def _stopped(self, run: Run) -> str:
        """The stage in which it was stopped, holding the lease; empty, and it goes on, where it held none."""
        run.kill(signal.SIGSTOP)
        holder = self._holder()
        if holder.get("pid") == run.pid:
            return str(holder["purpose"])
        run.kill(signal.SIGCONT)
        return ""

    def _start(self) -> Run:
        self._result.runs += 1
        return Run(self._platform.folder, self._platform.environment, self._result.runs)

    def _to_its_end(self, run: Run) -> str:
        if not run.ends(within=LONGEST_RUN):
            self._result.complaints.append(f"run {self._result.runs} had not ended after {LONGEST_RUN} s")
            run.kill(signal.SIGKILL)
            run.ends(within=10)
        self._last, seconds = run.ending()
        if self._last == "success":
            self._seconds |= seconds | {"run": time.monotonic() - run.began}
        elif self._last != "killed":
            self._result.failures[self._last] += 1
        return self._last

    def _arrive(self, count: int) -> None:
        for _ in range(min(count, len(self._waiting))):
            if self._waiting[0].catalogs and self._last != "success":
                return  # what it replaces has to have been applied, as it is in the undisturbed platform
            self._last = ""
            deliver(self._platform, self._waiting.pop(0))

    def _hit(self, hit: Hit) -> None:
        self._result.hits.append(hit)
        if self._verbose:
            line = f"{self._result.kills:>4}  {hit.target:<16} {hit.stage:<18} {hit.seconds:>6.2f} s  {hit.ending[:100]}"
            print(line, file=sys.stderr, flush=True)

    def _crashes(self) -> int:
        """The most runs in a row that died over one drop."""
        with suppress(PyMongoError):
            return max((entry["attempts"] for entry in self._database["ledger"].find({"state": "claimed"})), default=0)
        return 0

    def _waits(self) -> bool:
        return self._database["ledger"].find_one({"$or": [{"state": "claimed"}, {"pending.0": {"$exists": True}}]}) is not None

    def _stage(self) -> str:
        """What holds the lease."""
        return str(self._holder().get("purpose", "between"))

    def _holder(self) -> dict[str, Any]:
        with suppress(PyMongoError):
            lease = self._database["leases"].find_one({"_id": "pipeline"})
            return (lease or {}).get("holder") or {}
        return {}

    @property
    def _database(self) -> Any:
        return self._truth[self._settings.mongodb_database]


# -- the comparison -------------------------------------------------------------------------------------------------------


def held(platform: Platform) -> Dump:
    """Everything the platform's stores and folders say, and what it answers to everyone after a flush of Redis."""
    settings = platform.settings
    copies = sorted(path.name for path in settings.claimed_drops.iterdir())
    return content(settings) | {"files:claimed": copies} | {"redis:answers": _answers(settings)}


def _answers(settings: Settings) -> list[str]:
    with pymongo.MongoClient(settings.addresses.mongodb) as client:
        people = sorted(client[settings.mongodb_database]["records"].distinct("user_id"))
    answers = []
    configure_logs("ERROR")
    with redis.Redis.from_url(settings.addresses.redis) as cache, TestClient(create_app(settings)) as api:

        def computed(person: str) -> dict[str, Any] | None:
            cache.flushall()  # each time: one that Redis was late to say it keeps is called degraded, and kept
            return _whole(api, person, "computed")

        for person in people:
            first = eventually(lambda person=person: computed(person), seconds=60, what="a whole answer")
            again = eventually(lambda person=person: _whole(api, person, "cache"), seconds=60, what="the same from the cache")
            assert again["recommendations"] == first["recommendations"]
            offers = [
                {**offer, "evidence": None, "ranking_score": round(offer["ranking_score"], 6)}
                for offer in first["recommendations"]
            ]
            answers.append(json.dumps({"user": person, "known": first["known_user"], "as_of": first["as_of"], "offers": offers}))
    return answers


def _whole(api: TestClient, person: str, source: str) -> dict[str, Any] | None:
    """The answer, unless a store was too slow for it or it comes from elsewhere."""
    answer: dict[str, Any] = api.get(f"/recommendations/{person}", params={"k": 10}).json()
    return answer if answer["retrieval_source"] == source and not answer["degraded"] else None


def _fit_anew(platform: Platform) -> None:
    """Whether a model is published depends on those before it: let both platforms have but one, fitted on everything."""
    settings = platform.settings
    with pymongo.MongoClient(settings.addresses.mongodb) as client:
        database = client[settings.mongodb_database]
        database["state"].delete_many({"_id": {"$in": ["candidate", "generation"]}})
        database["generations"].drop()


def compared(disturbed: Dump, undisturbed: Dump, result: Result) -> None:
    """Count, store by store, the rows that only one of the two holds."""
    for name in sorted({*disturbed, *undisturbed}):
        there, due = Counter(disturbed.get(name, [])), Counter(undisturbed.get(name, []))
        store = name.split(":")[0]
        result.lost[store] = result.lost.get(store, 0) + (due - there).total()
        result.doubled[store] = result.doubled.get(store, 0) + (there - due).total()
        rows = [f"- {row[:400]}" for row in list(due - there)[:3]] + [f"+ {row[:400]}" for row in list(there - due)[:3]]
        if rows:
            result.sample[name] = rows


@contextmanager
def _platform(folder: Path) -> Iterator[Platform]:
    with platform_in(folder) as platform:
        folder.mkdir(parents=True)
        settings = {
            "SETTLE_SECONDS": "0",
            "LEASE_SECONDS": str(LEASE_SECONDS),
            "LEASE_WAIT_SECONDS": "30",
            "LOG_LEVEL": "WARNING",
        }
        platform.environment |= {f"PERSONA_{name}": value for name, value in settings.items()}
        platform.persona("stores", "up")
        try:
            yield platform
        finally:
            platform.persona("stores", "down")


def crash(kills: int, *, seed: int, folder: Path, verbose: bool = False) -> Result:
    """Kill so often, compare, and say what was found."""
    result, began = Result(), time.monotonic()
    arriving = arrivals(seed, max(4, kills // 2))
    with (
        _platform(folder / "disturbed") as platform,
        Harness(platform, arriving, Random(f"{seed}/blows"), result, verbose=verbose) as harness,
    ):
        harness.deal(kills)
        result.seconds = time.monotonic() - began
        _fit_anew(platform)
        harness.drain()
        survived = held(platform)
    undisturbed = Result()
    with _platform(folder / "undisturbed") as platform, Harness(platform, arriving, Random(seed), undisturbed) as harness:
        harness.deal(0)
        _fit_anew(platform)
        harness.drain()
        due = held(platform)
    result.complaints += undisturbed.complaints
    result.records = len(due["mongodb:records"])
    compared(survived, due, result)
    return result


# -- the command ----------------------------------------------------------------------------------------------------------


def table(result: Result) -> str:
    """For people."""
    targets = Counter(hit.target for hit in result.hits)
    stages = Counter(hit.stage for hit in result.hits)
    endings = Counter(
        "well" if ending == "success" else "failed"
        for hit in result.hits
        if not hit.target.startswith("run")
        for ending in hit.ending.split(" | ")
    )
    lines = [
        f"{'hit':<18}{'times':>6}",
        *(f"{target:<18}{targets[target]:>6}" for target in (*WEIGHTS, STOPPED) if targets[target]),
    ]
    lines += ["", f"{'while':<22}{'times':>6}", *(f"{stage:<22}{times:>6}" for stage, times in stages.most_common())]
    lines += ["", f"{'store':<12}{'lost':>8}{'doubled':>8}"]
    lines += [f"{store:<12}{result.lost[store]:>8}{result.doubled[store]:>8}" for store in result.lost]
    lines += [
        "",
        f"runs that lost a server or were stopped: {endings['well']} ended well, {endings['failed']} failed. What they said:",
    ]
    lines += [f"{times:>6}  {sentence[:150]}" for sentence, times in result.failures.most_common()]
    lines += ["", *(f"{name} {row}" for name, rows in result.sample.items() for row in rows), *result.complaints]
    lines.append(
        f"{result.kills} kills, {result.stops} stopped runs, {result.runs} runs, {result.records:,} records, {result.seconds:.0f} s: "
        f"{sum(result.lost.values())} lost, {sum(result.doubled.values())} doubled"
    )
    return "\n".join(lines)


def main() -> None:
    """Kill, compare, print; exit 1 on any difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument(
        "--folder", type=Path, help="where both homes are made, to be looked at afterwards; by default a temporary one"
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="crash-") as temporary:
        result = crash(arguments.kills, seed=arguments.seed, folder=arguments.folder or Path(temporary), verbose=True)
    print(json.dumps(asdict(result)) if arguments.json else table(result))
    sys.exit(0 if result.good else 1)


if __name__ == "__main__":
    main()
