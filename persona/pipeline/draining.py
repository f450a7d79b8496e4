"""Draining: hand a stage everything that is pending for it as one batch under the lease, and mark the batch when the stage is done."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, partial

import structlog
from pymongo.client_session import ClientSession

from persona.errors import LeaseLost, NotFound, PersonaError, StoreRefused, StoreUnavailable
from persona.pipeline.lease import Lease, lease
from persona.pipeline.stages import CATALOG_SINKS, CODE_VERSIONS, UPSTREAM
from persona.settings import Settings
from persona.stores.cache import Cache
from persona.stores.documents import Documents
from persona.stores.documents.ledger import Entry
from persona.stores.warehouse import Warehouse

Progress = Callable[[str, int], None]
RESTORE = "restore"
"""The purpose for which the lease is to be had while a restore has not come to its end, and what stands for it among the rebuilds."""
REMOVED_AT_ONCE = 5_000
log = structlog.get_logger()


@dataclass
class Batch:
    """What one stage applies in one run. The stage adds what it wrote to `records`."""

    stage: str
    run_id: str
    entries: list[Entry]
    lease: Lease
    documents: Documents
    progress: Callable[[int], None] = lambda done: None
    """Called with the number of records written so far."""
    records: int = 0

    @cached_property
    def drops(self) -> list[str]:
        """The drops of the batch."""
        return [entry.id for entry in self.entries if entry.kind == "drop"]

    def has_catalog(self, *names: str) -> bool:
        """Whether the batch brings one of these catalogs."""
        return any(entry.catalog in names for entry in self.entries)

    @cached_property
    def users(self) -> list[str]:
        """The users that the drops of the batch touched."""
        return self.documents.records.users_of(self.drops) if self.drops else []

    def leaves_pending(self) -> bool:
        """Whether something will still wait for the stage when this batch is applied."""
        ours = {entry.id for entry in self.entries}
        return any(entry.id not in ours for entry in self.documents.ledger.pending(self.stage, upstream=()))

    def in_chunks(self, items: Sequence[str], size: int) -> Iterator[list[str]]:
        """The items in chunks, with the lease checked before each: the way every stage writes."""
        for start in range(0, len(items), size):
            self.lease.check()
            yield list(items[start : start + size])

    @contextmanager
    def overtakable(self, amend: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Around writes to a store that cannot be fenced: raise `LeaseLost` where the lease is lost by their end, however they end.

        Before, `amend` puts right what the next run would not, and the batch is let wait for the stage again: also where who has
        the lease now computed it before these writes, and marks it only after them.
        """
        try:
            yield
        finally:
            try:
                self.lease.check()
            except LeaseLost:
                try:
                    amend()
                finally:
                    newest = self.documents.leases.newest_token()
                    self.documents.ledger.overtake(self.stage, [entry.id for entry in self.entries], token=newest)
                raise


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a stage did, for whoever reports it."""

    stage: str
    records: int
    seconds: float
    entries: list[Entry]
    fingerprint: str
    """Of everything the stage ever applied, and of its code."""
    folder_state: str
    """Of the drops that what the stage holds reflects."""


@dataclass(frozen=True)
class Pipeline:
    """The stores that draining itself needs, and the settings of the lease."""

    settings: Settings
    documents: Documents
    warehouse: Warehouse
    cache: Cache
    progress: Progress = lambda stage, done: None
    """Called with a stage's name and how many records it has written."""

    @contextmanager
    def lease(self, run_id: str, purpose: str, *, wait_seconds: float | None = None) -> Iterator[Lease]:
        """Hold the pipeline's lease for the time of the block; wait for it as long as the settings say, or as long as said here.

        Raises `StoreRefused` where the truth is half restored, unless it is to be restored.
        """
        seconds = self.settings.lease_seconds
        wait = self.settings.lease_wait_seconds if wait_seconds is None else wait_seconds
        with lease(self.documents, run_id=run_id, purpose=purpose, seconds=seconds, wait_seconds=wait) as held:
            if purpose != RESTORE and self.documents.rebuilds.run_of(RESTORE):
                raise StoreRefused("a restore did not come to its end", hint="Run `persona restore DIR` again.")
            self._remove_half_written(held)
            yield held

    def _remove_half_written(self, held: Lease) -> None:
        """Take out what a run that ended half-way had written of a drop: nothing may be computed from it, and it claims no ids."""
        drops = self.documents.ledger.half_written()
        if not drops:
            return

        def remove(session: ClientSession) -> int:
            removed = self.documents.records.remove_drops(drops, limit=REMOVED_AT_ONCE, session=session)
            if not removed:
                self.documents.ledger.end_writing(drops, session=session)
            return removed

        while held.transaction(remove):
            pass

    def announce(self, run_id: str) -> None:
        """Let serving look what has changed before its next answer; where Redis does not answer, serving asks MongoDB by itself."""
        try:
            self.cache.announce()
        except (StoreUnavailable, StoreRefused) as error:
            log.warning("change_not_announced", run_id=run_id, error=error.message)

    def drain(
        self, stage: str, apply: Callable[[Batch], None], *, run_id: str, drops: Sequence[str] = (), reapply: bool = False
    ) -> Outcome:
        """Let `apply` work on everything pending for the stage, then mark it applied; the run's history gets a row either way.

        Pending is also what an older version of the stage's code applied. With `drops`, only these; with `reapply`, these (or all)
        even if they were applied. Raises `NotFound` for an unknown drop.
        """
        with self.recorded(run_id, stage) as count, self.lease(run_id, stage) as held:
            self.documents.ledger.reopen_outdated(stage, code_version=CODE_VERSIONS[stage])
            batch = Batch(
                stage, run_id, self._entries(stage, drops, reapply), held, self.documents, partial(self.progress, stage)
            )
            if batch.entries:
                apply(batch)
                self._mark(stage, batch)
            self._evict(held, run_id)
            count(batch.records)
            return self.outcome(stage, batch.records, count.seconds, batch.entries)

    @contextmanager
    def recorded(self, run_id: str, stage: str) -> Iterator["StageClock"]:
        """Write the stage's row of the run history when the block ends, well or not."""
        clock = StageClock()
        started = datetime.now(UTC)
        try:
            yield clock
        except BaseException as error:
            # only our own messages are known to hold no person's words
            reason = error.message if isinstance(error, PersonaError) else type(error).__name__
            self._record(run_id, stage, "failed", clock, started, reason)
            raise
        self._record(run_id, stage, "success", clock, started, None)

    def outcome(self, stage: str, records: int, seconds: float, entries: list[Entry]) -> Outcome:
        """What a stage has done in a run, with the versions of what it holds now."""
        fingerprint = f"{self.documents.ledger.fingerprint(stage)}-{CODE_VERSIONS[stage]}"
        behind = [sink for sink in UPSTREAM if sink == stage]
        return Outcome(stage, records, seconds, entries, fingerprint, self.documents.ledger.arrivals(applied_by=behind))

    def _record(self, run_id: str, stage: str, status: str, clock: "StageClock", started: datetime, error: str | None) -> None:
        self.warehouse.record_stage(
            run_id=run_id,
            stage=stage,
            status=status,
            records=clock.records,
            started_at=started,
            seconds=clock.seconds,
            error=error,
        )
        log.info("stage_ended", run_id=run_id, stage=stage, status=status, records=clock.records, seconds=round(clock.seconds, 3))

    def named(self, drops: Sequence[str]) -> list[Entry]:
        """What the ledger says of these drops; raises `NotFound` for one that it does not know."""
        entries = self.documents.ledger.get(drops)
        if unknown := set(drops) - {entry.id for entry in entries}:
            raise NotFound(
                f"no such drop in the ledger: {', '.join(sorted(unknown))}", hint="A drop's id is its content's SHA-256."
            )
        return entries

    def _entries(self, stage: str, drops: Sequence[str], reapply: bool) -> list[Entry]:
        ledger = self.documents.ledger
        named = self.named(drops)
        if not reapply:
            waiting = ledger.pending(stage, upstream=UPSTREAM[stage])
            return [entry for entry in waiting if not drops or entry.id in drops]
        if not drops:
            catalogs = ledger.all_of("catalog", states=["loaded"])
            named = ledger.all_of("drop", states=["accepted"])
            named += [entry for entry in catalogs if stage in CATALOG_SINKS.get(entry.catalog or "", ())]
        too_early = {entry.id for sink in UPSTREAM[stage] for entry in ledger.pending(sink, upstream=())}
        return [entry for entry in named if entry.state in ("accepted", "loaded") and entry.id not in too_early]

    def _mark(self, stage: str, batch: Batch) -> None:
        ids = [entry.id for entry in batch.entries]
        batch.lease.transaction(
            lambda session: self.documents.ledger.mark(
                stage, ids, run_id=batch.run_id, token=batch.lease.token, code_version=CODE_VERSIONS[stage], session=session
            )
        )

    def _evict(self, held: Lease, run_id: str) -> None:
        """Drop the cached answers of users whose drops every projection has applied, and what of these counts from elsewhere."""
        entries = self.documents.ledger.pending("cache", upstream=UPSTREAM["cache"])
        if not entries:
            return
        batch = Batch("cache", run_id, entries, held, self.documents)
        try:
            self.cache.live.applied(name for entry in entries for name in (entry.id, *entry.aliases))
            for users in batch.in_chunks(batch.users, 10_000):
                self.cache.evict(users)
        except (
            StoreUnavailable,
            StoreRefused,
        ) as error:  # answers expire by themselves; a cache that is down is no reason to fail a run
            log.warning("cache_not_evicted", run_id=run_id, error=error.message)
            return
        self._mark("cache", batch)


class StageClock:
    """Counts a stage's records and seconds while it runs."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self.records = 0

    def __call__(self, records: int) -> None:
        """Set what was written so far."""
        self.records = records

    @property
    def seconds(self) -> float:
        """Since the stage began."""
        return time.perf_counter() - self._started
