"""What comes in over HTTP: judged, written so that nothing can take it away, made to count at once. What it means is not decided here."""

import asyncio
import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from persona.errors import Conflict, PersonaError, StoreUnavailable
from persona.intake import inbox
from persona.intake.arrivals import Arrived, Refused, judged
from persona.stores.documents import Documents
from serving.guard import Guard
from serving.live import LiveAnswers

WRITTEN_AT_ONCE = 32 << 20


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a request's records."""

    drop: str | None
    """None where none was taken."""
    accepted: int
    refused: list[Refused]


class Ingestion:
    """Takes records in; when it says so, they outlive this process and this machine's power."""

    def __init__(self, documents: Guard[Documents], live: LiveAnswers, folder: Path) -> None:
        self._documents = documents
        self._live = live
        self._writer = _Writer(folder)

    async def take_in(self, body: bytes, *, caller: str, key: str | None) -> Taken:
        """Take the records of a request in; with a `key` of the caller's, once however often it is sent.

        Raises `Malformed`, `InvalidInput`, `Conflict` where the key came with another body before, `NoRoom` and `StoreRefused` where
        nothing can be written.
        """
        now = _now()
        named = hashlib.sha256(f"{caller}\x00{key}".encode()).hexdigest() if key else ""
        arrived = await asyncio.to_thread(judged, body, at=now, now=now, ids_from=named)
        if not arrived.records:
            return Taken(None, 0, arrived.refused)
        if named:
            arrived = await self._as_first_said(named, body, arrived, now)
        drop = await self._writer.keep(arrived.lines)
        await self._live.put(arrived.records, drop=drop)
        return Taken(drop, len(arrived.records), arrived.refused)

    async def close(self) -> None:
        """Write what waits to be written."""
        await self._writer.close()

    async def _as_first_said(self, named: str, body: bytes, arrived: Arrived, now: datetime) -> Arrived:
        """The same records as when the key came first; while MongoDB does not answer, their ids alone say that they are."""
        digest = hashlib.sha256(body).hexdigest()
        try:
            first = await self._documents.ask(lambda documents: documents.idempotency.first(named, digest, at=now))
        except StoreUnavailable:
            return arrived
        if first.digest != digest:
            raise Conflict("this Idempotency-Key came with another body before", hint="Use a key for one body only.")
        return arrived if first.at == now else await asyncio.to_thread(judged, body, at=first.at, now=now, ids_from=named)


class _Writer:
    """One file at a time: while it is written, what comes in gathers for the next."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="inbox")
        self._waiting: list[tuple[bytes, asyncio.Future[str]]] = []
        self._task: asyncio.Task[None] | None = None

    async def keep(self, lines: bytes) -> str:
        """Return the drop's id when the lines are safe."""
        kept = asyncio.get_running_loop().create_future()
        self._waiting.append((lines, kept))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._write())
        return await asyncio.shield(kept)

    async def close(self) -> None:
        if self._task is not None:
            await self._task
        self._thread.shutdown(wait=False)

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch = self._next()
            lines = b"".join(lines for lines, _ in batch)
            try:
                drop = await loop.run_in_executor(self._thread, inbox.keep, lines, self._folder)
            except PersonaError as error:
                for _, kept in batch:
                    kept.set_exception(error)
            else:
                for _, kept in batch:
                    kept.set_result(drop)

    def _next(self) -> list[tuple[bytes, "asyncio.Future[str]"]]:
        size, count = 0, 0
        while count < len(self._waiting) and (not count or size + len(self._waiting[count][0]) <= WRITTEN_AT_ONCE):
            size += len(self._waiting[count][0])
            count += 1
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        return batch


def _now() -> datetime:
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)  # MongoDB keeps milliseconds
