"""The store calls that answers are made of: noted as the drivers get them, and made again with the drivers alone.

Whatever the service asks of its stores is what it is measured against, so nothing here knows a query.
"""

import asyncio
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from unittest.mock import patch

import httpx
import neo4j
import numpy as np
import redis
import redis.asyncio
from neo4j import GraphDatabase
from pymilvus import MilvusClient
from pymongo import MongoClient, monitoring

from persona.settings import Settings
from persona.stores import documents
from serving import snapshots
from serving.app import create_app

AT_ONCE = 4
"""Calls of one answer, at most."""
OF_THE_SESSION = ("lsid", "$db", "$clusterTime", "$readPreference", "txnNumber")
"""What a MongoDB driver adds to every command."""
NEVER = 1e9


@dataclass(frozen=True, slots=True)
class Call:
    """What one driver was asked."""

    store: str
    what: str
    """Of its kind, for people."""
    arguments: Any
    began: float
    ended: float


@dataclass
class Notes:
    """Collects calls, from whichever thread they are made."""

    calls: list[Call] = field(default_factory=list)

    def take(self) -> list[Call]:
        """All that came since it was asked last, in the order in which they began."""
        taken, self.calls = self.calls, []
        return sorted(taken, key=lambda call: call.began)


def calls_of(settings: Settings, paths: Sequence[str]) -> list[list[Call]]:
    """What the service asks of its stores to answer each of these paths, one after the other."""
    notes = Notes()
    with patch.object(snapshots, "REFRESH_SECONDS", NEVER), noting(notes):
        return asyncio.run(_answered(settings, paths, notes))


async def _answered(settings: Settings, paths: Sequence[str], notes: Notes) -> list[list[Call]]:
    app = create_app(settings)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://benchmark") as client,
    ):
        for path in paths[:20]:  # the first connections are made, the first plans are
            (await client.get(path)).raise_for_status()
        notes.take()
        answered = []
        for path in paths[20:]:
            whole = not (await client.get(path)).raise_for_status().json()["degraded"]
            calls = notes.take()
            if whole:
                answered.append(calls)
        return answered


# -- noting -----------------------------------------------------------------------------------------------------------------


@contextmanager
def noting(notes: Notes) -> Iterator[None]:
    """Note what the drivers are asked, by clients that are opened within the block."""
    with ExitStack() as stack:
        listened_to = partial(MongoClient, event_listeners=[_Commands(notes)])
        stack.enter_context(patch.object(documents, "MongoClient", listened_to))
        for owner, verb, of in (
            (MilvusClient, "search", _of_milvus), (MilvusClient, "query", _of_milvus), (MilvusClient, "get", _of_milvus),
            (redis.Redis, "execute_command", _of_redis),
        ):  # fmt: skip
            stack.enter_context(patch.object(owner, verb, _noted(getattr(owner, verb), of(verb), notes)))
        for owner, verb in ((redis.client.Pipeline, "execute"), (redis.asyncio.client.Pipeline, "execute")):
            stack.enter_context(patch.object(owner, verb, _noted(getattr(owner, verb), _of_pipeline, notes)))
        asked = redis.asyncio.Redis.execute_command
        stack.enter_context(patch.object(redis.asyncio.Redis, "execute_command", _noted(asked, _of_redis(""), notes)))
        queries = threading.local()
        stack.enter_context(patch.object(neo4j.ManagedTransaction, "run", _remembered(neo4j.ManagedTransaction.run, queries)))
        stack.enter_context(patch.object(neo4j.Session, "execute_read", _read(neo4j.Session.execute_read, queries, notes)))
        stack.enter_context(patch.object(neo4j.Session, "run", _run(neo4j.Session.run, notes)))
        yield


class _Commands(monitoring.CommandListener):
    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._begun: dict[int, tuple[float, dict[str, Any]]] = {}

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        command = {key: value for key, value in event.command.items() if key not in OF_THE_SESSION}
        self._begun[event.request_id] = time.perf_counter(), command

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        began, command = self._begun.pop(event.request_id)
        if command:  # the driver shows nobody what it says to be let in
            what = f"{event.command_name} {command[event.command_name]}"
            self._notes.calls.append(Call("mongodb", what, (event.database_name, command), began, time.perf_counter()))

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        self._begun.pop(event.request_id, None)


Described = Callable[[tuple[Any, ...], dict[str, Any]], tuple[str, str, Any]]


def _noted(verb: Callable[..., Any], described: Described, notes: Notes) -> Callable[..., Any]:
    def ask(*arguments: Any, **named: Any) -> Any:
        told = described(arguments, named)
        began = time.perf_counter()
        answer = verb(*arguments, **named)
        if asyncio.iscoroutine(answer):
            return _awaited(answer, told, began, notes)
        notes.calls.append(Call(*told, began, time.perf_counter()))
        return answer

    return ask


async def _awaited(answer: Any, told: tuple[str, str, Any], began: float, notes: Notes) -> Any:
    found = await answer
    notes.calls.append(Call(*told, began, time.perf_counter()))
    return found


def _of_milvus(verb: str) -> Described:
    def described(arguments: tuple[Any, ...], named: dict[str, Any]) -> tuple[str, str, Any]:
        _, collection, *others = arguments
        return "milvus", f"{verb} {collection.partition('_')[0]}", (verb, (collection, *others), named)

    return described


def _of_redis(_: str) -> Described:
    def described(arguments: tuple[Any, ...], named: dict[str, Any]) -> tuple[str, str, Any]:
        return "redis", str(arguments[1]), [arguments[1:]]

    return described


def _of_pipeline(arguments: tuple[Any, ...], named: dict[str, Any]) -> tuple[str, str, Any]:
    commands = [command.args if hasattr(command, "args") else command[0] for command in arguments[0].command_stack]
    return "redis", f"{len(commands)} in a pipeline", commands


def _remembered(run: Callable[..., Any], queries: threading.local) -> Callable[..., Any]:
    def remember(transaction: Any, query: str, parameters: Mapping[str, Any] | None = None, **named: Any) -> Any:
        queries.asked = query, {**(parameters or {}), **named}
        return run(transaction, query, parameters, **named)

    return remember


def _read(execute: Callable[..., Any], queries: threading.local, notes: Notes) -> Callable[..., Any]:
    """With the time in which the answer is read."""

    def read(session: Any, *arguments: Any, **named: Any) -> Any:
        began = time.perf_counter()
        answer = execute(session, *arguments, **named)
        query, parameters = queries.asked
        notes.calls.append(Call("neo4j", _matched(query), (query, parameters, True), began, time.perf_counter()))
        return answer

    return read


def _run(run: Callable[..., Any], notes: Notes) -> Callable[..., Any]:
    """Without a transaction that is opened and closed; the answer is read at once."""

    def ask(session: Any, query: neo4j.Query, parameters: Mapping[str, Any]) -> list[neo4j.Record]:
        began = time.perf_counter()
        answer = list(run(session, query, parameters))
        notes.calls.append(Call("neo4j", _matched(query.text), (query.text, parameters, False), began, time.perf_counter()))
        return answer

    return ask


def _matched(query: str) -> str:
    lines = [line for line in query.strip().splitlines() if line.startswith("MATCH")]
    return lines[0] if lines else query


# -- making them again ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Timed:
    """How long answers' calls took."""

    per_second: float
    p50_ms: float
    p99_ms: float


class Drivers:
    """The drivers of a home's stores."""

    def __init__(self, settings: Settings) -> None:
        addresses = settings.addresses
        self._mongodb: MongoClient[dict[str, Any]] = MongoClient(addresses.mongodb)
        self._milvus = MilvusClient(uri=addresses.milvus, token=addresses.milvus_token, dedicated=True)
        self._neo4j = GraphDatabase.driver(addresses.neo4j, auth=(addresses.neo4j_user, addresses.neo4j_password))
        self._redis = redis.Redis.from_url(addresses.redis)
        self._database = settings.neo4j_database

    def __enter__(self) -> "Drivers":
        return self

    def __exit__(self, *_: object) -> None:
        self._mongodb.close()
        self._milvus.close()
        self._neo4j.close()
        self._redis.close()

    def forget_answers(self) -> None:
        """So that what is asked for is computed."""
        for keys in _some(self._redis.scan_iter("persona:answers:*", count=1_000)):
            self._redis.delete(*keys)

    def make(self, call: Call) -> None:
        """Ask the same, and read the answer."""
        if call.store == "mongodb":
            database, command = call.arguments
            self._mongodb[database].command(command)
        elif call.store == "milvus":
            verb, arguments, named = call.arguments
            for hits in getattr(self._milvus, verb)(*arguments, **named):
                list(hits)  # what is JSON, or a vector, is decoded when it is read
        elif call.store == "neo4j":
            query, parameters, in_transaction = call.arguments
            with self._neo4j.session(database=self._database, default_access_mode=neo4j.READ_ACCESS) as session:
                if in_transaction:
                    session.execute_read(lambda transaction: list(transaction.run(query, parameters)))
                else:
                    list(session.run(query, parameters))
        else:
            self._on_redis(call.arguments)

    def _on_redis(self, commands: Sequence[Sequence[Any]]) -> None:
        if len(commands) == 1:
            self._redis.execute_command(*commands[0])
            return
        with self._redis.pipeline(transaction=False) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            pipeline.execute()


def one_after_the_other(drivers: Drivers, calls: Sequence[Call], took: dict[str, list[float]]) -> None:
    """Make the calls of one answer; `took` collects milliseconds by kind of call."""
    for call in calls:
        began = time.perf_counter()
        drivers.make(call)
        took[f"{call.store}: {call.what}"].append((time.perf_counter() - began) * 1e3)


def as_they_were(drivers: Drivers, calls: Sequence[Call], threads: ThreadPoolExecutor) -> None:
    """Make the calls of one answer: each as soon as those have ended that had ended when it was begun by the service."""
    begun: list[Future[None]] = []
    for call in calls:
        for other, future in zip(calls, begun, strict=False):
            if other.ended <= call.began:
                future.result()
        begun.append(threads.submit(drivers.make, call))
    for future in begun:
        future.result()


def timed(answers: Sequence[Sequence[Call]], make: Callable[[Sequence[Call]], None], *, clients: int) -> Timed:
    """Have so many clients make the calls of these answers, each those of one answer after the other."""
    seconds: list[float] = []

    def client(number: int) -> None:
        for calls in answers[number::clients]:
            began = time.perf_counter()
            make(calls)
            seconds.append(time.perf_counter() - began)

    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as threads:
        for done in [threads.submit(client, number) for number in range(clients)]:
            done.result()
    elapsed = time.perf_counter() - began
    p50, p99 = np.percentile(seconds, [50, 99]) * 1e3
    return Timed(len(seconds) / elapsed, float(p50), float(p99))


def by_kind() -> dict[str, list[float]]:
    """For `one_after_the_other`."""
    return defaultdict(list)


def _some(keys: Iterator[Any], size: int = 1_000) -> Iterator[list[Any]]:
    part: list[Any] = []
    for key in keys:
        part.append(key)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part
