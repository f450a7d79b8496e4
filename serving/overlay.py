"""What came in and is not in every store yet, for every worker: in Redis, in this process while Redis is down. What it means: `live`."""

import asyncio
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from persona.errors import StoreUnavailable
from persona.intake.arrivals import live_records
from persona.intake.inbox import GATHERED, arrivals_in
from persona.ranking.recommender import Degraded
from persona.settings import Settings
from persona.stores._chunks import chunks
from persona.stores.cache import Cache
from persona.stores.documents import Documents
from persona.stores.documents.ledger import Entry
from persona.stores.live import Learned, Live
from serving.guard import Guard

log = structlog.get_logger(__name__)

KEEP_SECONDS = 1.0
"""How often it is made sure that Redis still has all of it."""
HELD = 100_000
"""Records that are held in memory while Redis is down; what comes in beyond that counts when it is back."""
PUT_AT_ONCE = 1_000

Record = Mapping[str, Any]
CameIn = Callable[[Degraded], Live]
"""Waits for what came in of somebody."""


class Overlay:
    """Records by person, with what was learned from their words."""

    def __init__(self, settings: Settings, documents: Guard[Documents], cache: Guard[Cache]) -> None:
        self._settings = settings
        self._documents = documents
        self._cache = cache
        self._held = _Held()
        self._filled = False

    async def put(self, records: Sequence[Record], *, drop: str) -> None:
        """Let these records of a drop that is safe count from now on, in every worker; only in this one while Redis is down."""
        try:
            erased = await self._documents.ask(lambda documents: _erased(documents, records))
        except StoreUnavailable:
            erased = {}
        welcome = _welcome(records, erased)
        try:
            await self._cache.ask(lambda cache: cache.live.put(welcome, drop=drop))
        except StoreUnavailable:
            self._held.put(welcome, drop=drop)

    def begin(self, user_id: str) -> CameIn:
        """Begin to ask what came in of this person; what is returned waits for it."""
        shared = self._cache.begin(lambda cache: cache.live.of(user_id))
        return lambda degraded: self._held.beside(user_id, degraded.unless(shared, Live()))

    def held(self, user_id: str) -> CameIn:
        """What this process alone has, as it came in while Redis was down."""
        return lambda degraded: self._held.beside(user_id, Live())

    def of(self, user_id: str, degraded: Degraded) -> Live:
        """What came in of this person."""
        return self.begin(user_id)(degraded)

    def learn(self, user_id: str, learned: Learned) -> None:
        """Keep what was learned from this person's words."""
        try:
            self._cache.call(lambda cache: cache.live.learn(user_id, learned))
        except StoreUnavailable:
            self._held.learn(user_id, learned)

    async def keep(self) -> None:
        """Fill Redis with what no store has yet, at the start and whenever it has lost something. Runs for ever."""
        await self._documents.attempted.wait()
        while True:
            try:
                whole = await self._cache.ask(lambda cache: cache.live.is_whole())
                if not (whole and self._filled) or self._held.count:
                    held = self._held.count
                    await asyncio.to_thread(self._fill)
                    self._filled = True
                    if self._held.count == held:  # nothing came in meanwhile that may have been too late
                        self._held = _Held()
            except StoreUnavailable as error:
                log.debug("what came in is not shared", reason=error.message)
            await asyncio.sleep(KEEP_SECONDS)

    def _fill(self) -> None:
        """All of it stands in files: in the inbox, or in copies of drops that some store has not applied."""
        now, inbox, copies = datetime.now(UTC), self._settings.inbox, self._settings.claimed_drops
        filled = {arrival.sha256: self._put_copy(arrival.sha256, arrival.path, now) for arrival in arrivals_in(inbox)}
        for entry in self._documents.call(_unapplied):  # asked after the inbox was looked at: what left it meanwhile is here
            filled[entry.id] = self._put_copy(entry.id, copies / entry.id, now)
        self._cache.call(lambda cache: cache.live.set_whole())
        waiting = {arrival.sha256 for arrival in arrivals_in(inbox)}
        waiting |= {name for entry in self._documents.call(_unapplied) for name in (entry.id, *entry.aliases)}
        self._cache.call(lambda cache: cache.live.applied(filled.keys() - waiting))
        if any(filled.values()):
            log.info("what came in is shared", drops=len(filled), records=sum(filled.values()))

    def _put_copy(self, drop: str, copy: Path, now: datetime) -> int:
        records = list(live_records(copy, f"{drop}.jsonl", now=now))
        return sum(self._put_again(part, drop) for part in chunks(records, PUT_AT_ONCE))

    def _put_again(self, records: Sequence[Record], drop: str) -> int:
        erased = self._documents.call(lambda documents: _erased(documents, records))
        welcome = _welcome(records, erased)
        self._cache.call(lambda cache: cache.live.put(welcome, drop=drop))
        return len(welcome)


class _Held:
    """The same in memory, for all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._records: defaultdict[str, dict[str, Record]] = defaultdict(dict)
        self._learned: dict[str, Learned] = {}
        self.count = 0

    def put(self, records: Iterable[Record], *, drop: str) -> None:
        with self._lock:
            for record in records:
                if self.count < HELD:
                    self._records[record["user_id"]][record["_id"]] = {**record, "drop": drop}
                    self.count += 1

    def learn(self, user_id: str, learned: Learned) -> None:
        with self._lock:
            if user_id in self._records:
                self._learned[user_id] = self._learned.get(user_id, Learned()) | learned

    def beside(self, user_id: str, shared: Live) -> Live:
        if user_id not in self._records:
            return shared
        with self._lock:
            held, learned = list(self._records[user_id].values()), self._learned.get(user_id, Learned())
        return Live([*shared.records, *held], shared.learned | learned)


def _unapplied(documents: Documents) -> list[Entry]:
    """The drops that came in over HTTP and that not every store has."""
    ledger = documents.ledger
    entries = [*ledger.claimed(), *ledger.pending("cache", upstream=())]
    return [entry for entry in entries if entry.kind == "drop" and entry.name.startswith(GATHERED)]


def _erased(documents: Documents, records: Iterable[Record]) -> dict[str, datetime]:
    return documents.tombstones.times({record["user_id"] for record in records})


def _welcome(records: Iterable[Record], erased: Mapping[str, datetime]) -> list[Record]:
    """Without what people did before they were erased: no store will take it."""
    return [record for record in records if record["user_id"] not in erased or record["timestamp"] > erased[record["user_id"]]]
