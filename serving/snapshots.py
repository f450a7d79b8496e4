"""The snapshot that answers rest on, kept fresh in the background. How one is loaded is in `persona.ranking`."""

import asyncio
import time
from bisect import bisect_right
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

import structlog

from persona.errors import StoreUnavailable
from persona.ranking.recommender import Snapshot, load_snapshot
from persona.stores.documents import Documents
from serving import telemetry
from serving.guard import Guard

log = structlog.get_logger(__name__)

REFRESH_SECONDS = 1.0
CATCH_UP_SECONDS = 1.0
"""How long the first answers after a catalog has changed wait to hear of it: longer than for a store, which costs only its channel."""


@dataclass(frozen=True, slots=True)
class Current:
    """The snapshot in use, and when the set of running campaigns changes by itself."""

    snapshot: Snapshot
    changes: tuple[datetime, ...]
    """Every start and end of a campaign, in order."""
    collections: str
    """The version of the vector collections in use: a rebuild changes it."""
    records: int
    """How many there were: one that comes in late is not the newest, and may say who unsubscribed."""

    @property
    def scope(self) -> str:
        """What an answer must have been computed under to be served again."""
        return f"{self.snapshot.generation}:{self.snapshot.catalog_version}:{self.collections}"

    @property
    def marks(self) -> "Marks":
        """What moves when there is something newer."""
        return self.snapshot.generation, self.snapshot.catalog_version, self.snapshot.as_of, self.records, self.collections

    def next_change(self, after: datetime) -> datetime | None:
        """When the next campaign starts or ends; None where none will."""
        following = bisect_right(self.changes, after)
        return self.changes[following] if following < len(self.changes) else None


class Snapshots:
    """Keeps the newest snapshot that could be loaded; the old one while MongoDB is down."""

    def __init__(self, documents: Guard[Documents], *, patience: float) -> None:
        self._documents = documents
        self._patience = patience
        self._one_at_a_time = asyncio.Lock()
        self._seen: str | None = None
        self.current: Current | None = None
        self.attempted = asyncio.Event()
        """Set when the first attempt to load one has ended, well or not."""

    async def keep(self) -> None:
        """Refresh for ever. A failure leaves the snapshot as it is: why MongoDB does not answer is the guard's to tell."""
        await self._documents.attempted.wait()
        while True:
            try:
                await self.refresh()
            except StoreUnavailable:
                log.debug("snapshot kept", reason="mongodb does not answer")
            self.attempted.set()
            await asyncio.sleep(REFRESH_SECONDS)

    async def catch_up(self, epoch: str | None = None) -> Current:
        """The snapshot, no older than this epoch of the cache; without one, no older than the catalog is now.

        It is not loaded again while the epoch stays the same. Where MongoDB does not answer it is the one that there is, and
        says that it may be outdated; raises `StoreUnavailable` where there is none.
        """
        caught_up = True
        if epoch is None or epoch != self._seen:
            try:
                if epoch is not None or await self._catalog_moved():
                    await self.refresh(epoch)
            except StoreUnavailable:
                caught_up = False
        if self.current is None:
            raise StoreUnavailable("mongodb", "the campaigns have not been loaded yet")
        if caught_up:
            return self.current
        return replace(self.current, snapshot=replace(self.current.snapshot, may_be_outdated=True))

    async def _catalog_moved(self) -> bool:
        version = await self._documents.ask(lambda documents: documents.catalog.version())
        return self.current is None or version != self.current.snapshot.catalog_version

    async def refresh(self, epoch: str | None = None) -> None:
        """Load the snapshot anew if anything it rests on has moved, once for all who ask for this epoch. Raises `StoreUnavailable`."""
        async with self._one_at_a_time:
            if epoch is not None and epoch == self._seen:
                return
            patience = self._documents.deadline if epoch is None else CATCH_UP_SECONDS
            if self.current is None or await self._documents.ask(partial(_moved, self.current), deadline=patience):
                # A large catalog takes longer than one question may.
                before, started = self.current.snapshot if self.current else None, time.perf_counter()
                self.current = await self._documents.ask(partial(_load, before=before), deadline=self._patience)
                _tell_loaded(self.current.snapshot, before, time.perf_counter() - started)
            self._seen = epoch or self._seen


def _tell_loaded(snapshot: Snapshot, before: Snapshot | None, seconds: float) -> None:
    old = before.generation if before else None
    telemetry.snapshot_loaded(seconds, campaigns=len(snapshot.campaigns), before=old, generation=snapshot.generation)
    log.info(
        "snapshot loaded",
        generation=snapshot.generation,
        catalog_version=snapshot.catalog_version,
        campaigns=len(snapshot.campaigns),
    )


Marks = tuple[str | None, int, datetime | None, int, str]


def _moved(current: Current, documents: Documents) -> bool:
    """Whether anything is newer, or a campaign's text has been read since."""
    unread = current.snapshot.words.unread
    return _marks(documents) != current.marks or bool(unread and documents.embeddings.present(sorted(unread)))


def _marks(documents: Documents) -> Marks:
    return (
        documents.generations.in_force_id(),
        documents.catalog.version(),
        documents.records.newest_timestamp(),
        documents.records.count(),
        documents.embeddings.collections_in_use(),
    )


def _load(documents: Documents, *, before: Snapshot | None) -> Current:
    records = documents.records.count()
    snapshot = load_snapshot(documents, before=before)
    collections = snapshot.words.collections or documents.embeddings.collections_in_use()
    times = (time for campaign in snapshot.campaigns.values() for time in (campaign.starts_at, campaign.ends_at))
    return Current(snapshot, tuple(sorted(time for time in times if time is not None)), collections, records)
