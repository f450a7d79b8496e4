"""The way of a drop into the truth: claim, judge, write. Everything here can be interrupted anywhere and done again."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import orjson
import stamina
import structlog
from pymongo.client_session import ClientSession

from persona.errors import PersonaError, StoreRefused, StoreUnavailable
from persona.intake.blanking import blanked
from persona.intake.claim import Claimed, WatchedFile, claim, settled_files, sync
from persona.intake.inbox import Arrival, arrivals_in, gathered, remove_abandoned
from persona.intake.judge import LOST_COPY, Hold, judge, judge_attempts
from persona.intake.parse import DropFault, raw_records
from persona.intake.records import Erased, to_document, when, whose
from persona.pipeline.draining import Outcome, Pipeline
from persona.pipeline.lease import Lease
from persona.pipeline.reading import read_ahead
from persona.pipeline.stages import DROP_SINKS
from persona.schemas import Reason
from persona.stores._chunks import batches, chunks
from persona.stores.documents import Documents
from persona.stores.documents.ledger import Counts, Entry
from persona.stores.documents.quarantine import Rejected
from persona.stores.documents.records import Conflict
from persona.stores.documents.tombstones import Tombstones

STAGE = "raw_conversations"
CLAIMED_AT_ONCE = 200
BATCH = 5_000
BATCH_BYTES = 32 << 20
PATIENCE_SECONDS = 60.0
KEPT_RECORDS, KEPT_BYTES = 20_000, 64 << 20
"""A drop of up to so much is parsed once; a larger one once to judge it and once to write it."""

Item = dict[str, Any] | Rejected | Erased
"""A document ready to insert, a line that is kept out, or one that is counted and no more."""
T = TypeVar("T")
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Intake:
    """What the drops of one run are taken in with."""

    pipeline: Pipeline
    lease: Lease
    run_id: str
    someone_is_erased: bool
    campaigns: set[str] = field(default_factory=set)
    """Those that are known to be in the catalog."""

    @property
    def documents(self) -> Documents:
        return self.pipeline.documents

    def copy_of(self, entry: Entry) -> Path:
        """Our copy of the drop."""
        return self.pipeline.settings.claimed_drops / entry.id


@dataclass(frozen=True, slots=True)
class Judged:
    """What the first reading of a drop found."""

    read: int
    erased: int
    to_blank: list[int]
    """Lines of erased people that still stand in our copy."""
    rejected: Counter[Reason]
    parsed: list[Item] | None
    """Everything, in order, where it fits in memory."""


def take_in_all(pipeline: Pipeline, *, run_id: str, drops: Sequence[str] = (), reapply: bool = False) -> Outcome:
    """Claim what came in over HTTP and what settled in the watched folder, then judge and write every claimed drop.

    That is the `raw_conversations` stage. With `drops`, only these; with `reapply`, these are read again from their claimed copies
    even if they were accepted or held. Raises `NotFound` for a named drop that never arrived.
    """
    with pipeline.recorded(run_id, STAGE) as count, pipeline.lease(run_id, STAGE) as lease:
        intake = Intake(pipeline, lease, run_id, someone_is_erased=pipeline.documents.tombstones.count() > 0)
        ledger = pipeline.documents.ledger
        claim_settled(pipeline, run_id=run_id)
        named = pipeline.named(drops)
        if reapply:
            ledger.read_again([entry.id for entry in named], what="read again", run_id=run_id)
        taken: list[str] = []
        for claimed in ledger.claimed():
            if drops and claimed.id not in drops:
                continue
            lease.check()
            if not intake.copy_of(claimed).exists():
                _without_copy(intake, claimed)
                continue
            count(count.records + take_in(intake, claimed).accepted)
            taken.append(claimed.id)
        return pipeline.outcome(STAGE, count.records, count.seconds, ledger.get(taken))


def claim_settled(pipeline: Pipeline, *, run_id: str) -> int:
    """Claim what came in over HTTP, and every settled file of the folder whose content has not been claimed.

    Returns how many drops are new to the ledger.
    """
    copies = pipeline.settings.claimed_drops
    for unfinished in copies.glob(".*"):  # what a run that was killed left half-copied; the lease says that nobody copies now
        unfinished.unlink(missing_ok=True)
    return claim_inbox(pipeline, run_id=run_id) + _claim_folder(pipeline, run_id=run_id)


def claim_inbox(pipeline: Pipeline, *, run_id: str) -> int:
    """Gather what came in into drops that the ledger knows by the ids that the senders were told; then it leaves the inbox."""
    inbox, ledger = pipeline.settings.inbox, pipeline.documents.ledger
    remove_abandoned(inbox)
    arrivals = arrivals_in(inbox)
    known = ledger.entries_of([arrival.sha256 for arrival in arrivals])
    ledger.reopen(["cache"], entries=sorted(set(known.values())))  # it came again, and counts at once again until it is applied
    fresh = [arrival for arrival in arrivals if arrival.sha256 not in known]
    new = 0
    for claimed, parts in gathered(fresh, pipeline.settings.claimed_drops):
        made_of = [arrival.sha256 for arrival in parts]
        new += ledger.claim_gathered(claimed.sha256, made_of, name=claimed.name, size=claimed.size, run_id=run_id)
        _leave(parts)
    _leave(arrival for arrival in arrivals if arrival.sha256 in known)
    return new


def _leave(arrivals: Iterable[Arrival]) -> None:
    for arrival in arrivals:
        arrival.path.unlink(missing_ok=True)


def _claim_folder(pipeline: Pipeline, *, run_id: str) -> int:
    settings, ledger = pipeline.settings, pipeline.documents.ledger
    copies = settings.claimed_drops
    files = {str(file.path): file for file in settled_files(settings.drops, settle_seconds=settings.settle_seconds)}
    new = 0
    for paths in chunks(ledger.unseen({path: file.signature for path, file in files.items()}), CLAIMED_AT_ONCE):
        there = {copy.name for copy in copies.glob("[!.]*")}
        claimed = {path: copy for path in paths if (copy := _claimed(files[path], copies))}
        if not claimed:
            continue
        sync(copies)
        new += ledger.claim_all([(copy.sha256, copy.name, copy.size) for copy in claimed.values()], run_id=run_id)
        known = ledger.known_as([copy.sha256 for copy in claimed.values()])
        for sha256, entry in known.items():  # the entry's own copy has this content already, unless it was lost
            (copies / sha256).unlink() if (copies / entry).exists() else (copies / sha256).rename(copies / entry)
        back = [copy.sha256 for copy in claimed.values() if copy.sha256 not in there]
        lost = [entry.id for entry in ledger.get(back) if entry.state in ("accepted", "held")]
        ledger.read_again(lost, what="its copy, which was lost, came back", run_id=run_id)
        ledger.remember_files(
            {path: (files[path].signature, known.get(copy.sha256, copy.sha256)) for path, copy in claimed.items()}
        )
    return new


def _claimed(file: WatchedFile, copies: Path) -> Claimed | None:
    copy = claim(file, copies)
    if copy is None:
        log.warning("drop_not_readable_yet", drop_name=file.path.name)
    return copy


def take_in(intake: Intake, entry: Entry) -> Counts:
    """Judge one claimed drop and, if it is accepted, write it; return what became of its records."""
    ledger = intake.documents.ledger
    crashed = judge_attempts(ledger.begin_attempt(entry.id) - 1)
    try:
        return _keep_out(intake, entry, crashed, Counts()) if crashed else _judge_and_write(intake, entry)
    except BaseException as error:
        # neither a store that is down nor a person who stops the run is the drop's fault
        if isinstance(error, PersonaError) or not isinstance(error, Exception):
            _end_attempt(intake, entry)
        raise


def _end_attempt(intake: Intake, entry: Entry) -> None:
    """Say so, and wait a while for a MongoDB that is away itself: what the drop is not to blame for is not to be held against it."""
    with suppress(PersonaError):
        for attempt in stamina.retry_context(on=StoreUnavailable, attempts=None, timeout=PATIENCE_SECONDS, wait_max=5):
            with attempt:
                intake.documents.ledger.end_attempt(entry.id)


def _judge_and_write(intake: Intake, entry: Entry) -> Counts:
    now = datetime.now(UTC)
    try:
        judged = _judge(_items(intake, entry, now))
        if judged.to_blank:
            _blank(intake, entry, judged.to_blank)
            judged = _judge(_items(intake, entry, now))  # where a line stands is told of the copy that we keep
    except DropFault as fault:
        return _keep_out(intake, entry, Hold(fault.reason, fault.detail), Counts())
    items = _items(intake, entry, now) if judged.parsed is None else judged.parsed
    verdict = None
    if not entry.released and not entry.was_accepted:
        share = intake.pipeline.settings.reject_share
        verdict = judge(judged.read - judged.erased, judged.rejected, reject_share=share)
    if verdict is None:
        return _write(intake, entry, items)
    _quarantine(intake, entry, items)
    counts = Counts(judged.read, quarantined=judged.read - judged.erased, erased=judged.erased)
    return _keep_out(intake, entry, verdict, counts)


def _items(intake: Intake, entry: Entry, now: datetime) -> Iterator[Item]:
    """The records of the drop, judged one by one and in order."""
    tombstones = intake.documents.tombstones
    for batch in _batches(raw_records(intake.copy_of(entry), entry.name), lambda raw: len(raw.raw)):
        items = [to_document(raw, drop=entry.id, now=now) for raw in batch]
        yield from _without_the_erased(items, tombstones, now) if intake.someone_is_erased else items


def _without_the_erased(items: list[Item], tombstones: Tombstones, now: datetime) -> list[Item]:
    """Records of erased people up to the time of their tombstone, and lines that do not validate and may be theirs, only count.

    A line that does not validate and still says that it is later is no different from a record: what comes later is welcome.
    """
    people = [_people_of(item) for item in items]
    times = tombstones.times(set().union(*people))
    if not times:
        return items

    def refused(item: Item, names: set[str]) -> bool:
        if isinstance(item, dict):
            return item["user_id"] in times and item["timestamp"] <= times[item["user_id"]]
        found = times.keys() & names
        at = when(item.raw, now=now) if found and isinstance(item, Rejected) else None
        return any(at is None or at <= times[name] for name in found)

    return [
        Erased(_line_of(item), in_copy=True) if refused(item, names) else item for item, names in zip(items, people, strict=True)
    ]


def _people_of(item: Item) -> set[str]:
    if isinstance(item, dict):
        return {item["user_id"]}
    return whose(item.raw) if isinstance(item, Rejected) else set()


def _judge(items: Iterable[Item]) -> Judged:
    read, erased, size, rejected = 0, 0, 0, Counter[Reason]()
    to_blank: list[int] = []
    kept: list[Item] | None = []
    for item in items:
        read, size = read + 1, size + _size_of(item)
        if isinstance(item, Rejected):
            rejected[item.reason] += 1
        elif isinstance(item, Erased):
            erased += 1
            to_blank += [item.line] if item.in_copy else []
        if kept is not None:
            kept.append(item)
            if len(kept) > KEPT_RECORDS or size > KEPT_BYTES:
                kept = None
    return Judged(read, erased, to_blank, rejected, kept)


def _write(intake: Intake, entry: Entry, items: Iterable[Item]) -> Counts:
    """Write what is valid, quarantine what is not, accept the drop: each batch whole, the last one together with the verdict."""
    stored = intake.documents.records.lines_of(entry.id) if entry.was_accepted else set()
    counts = Counts()
    waiting: list[Item] = []
    for batch in read_ahead(_batches(items, _size_of)):
        if waiting:
            counts = intake.lease.transaction(partial(_part_written, intake, entry, waiting, stored, counts))
            intake.pipeline.progress(f"{STAGE} {entry.name}", counts.read)
        _discover_campaigns(intake, batch)
        waiting = batch

    rest = _line_of(waiting[0]) if waiting else None
    _forget_outdated(intake, entry, before_line=rest)

    def last(session: ClientSession) -> Counts:
        final = _batch_written(intake, entry, waiting, stored, counts, session)
        outdated = intake.documents.quarantine.outdated(entry.id, judged_in=intake.run_id, from_line=rest, session=session)
        _forget(intake, entry, list(outdated), session)
        _accepted(intake, entry, final, "accepted", session)
        return final

    return intake.lease.transaction(last)


def _part_written(
    intake: Intake, entry: Entry, batch: list[Item], stored: set[int], before: Counts, session: ClientSession
) -> Counts:
    """`_batch_written` of a batch that is not the last: whoever finds the drop like this removes what is written of it."""
    if not entry.was_accepted:
        intake.documents.ledger.begin_writing(entry.id, session=session)
    return _batch_written(intake, entry, batch, stored, before, session)


def _batch_written(
    intake: Intake, entry: Entry, batch: list[Item], stored: set[int], before: Counts, session: ClientSession
) -> Counts:
    """Write one batch; return the counts up to its end. A line whose record is stored already stays accepted, whatever it is now."""
    documents = intake.documents
    fresh = [item for item in batch if _line_of(item) not in stored]
    valid = [item for item in fresh if isinstance(item, dict)]
    rejected = [item for item in fresh if isinstance(item, Rejected)]
    accepted, duplicate = len(batch) - len(fresh), 0
    if valid:
        inserted = documents.records.insert(valid, session=session)
        accepted, duplicate = accepted + inserted.accepted, inserted.duplicate
        rejected += [_conflicting(valid[found.index], found) for found in inserted.conflicts]
    _put(intake, entry, rejected, session)
    return Counts(
        read=before.read + len(batch),
        accepted=before.accepted + accepted,
        duplicate=before.duplicate + duplicate,
        quarantined=before.quarantined + len(rejected),
        erased=before.erased + sum(isinstance(item, Erased) for item in fresh),
    )


def _discover_campaigns(intake: Intake, batch: list[Item]) -> None:
    found = {item["campaign_id"] for item in batch if isinstance(item, dict) and "campaign_id" in item} - intake.campaigns
    if found:
        intake.lease.check()
        intake.documents.catalog.discover_campaigns(sorted(found))
        intake.campaigns.update(found)


def _quarantine(intake: Intake, entry: Entry, items: Iterable[Item]) -> None:
    """Keep the lines that do not validate of a drop that is about to be held."""
    for batch in _batches(items, _size_of):
        rejected = [item for item in batch if isinstance(item, Rejected)]
        intake.lease.transaction(partial(_put, intake, entry, rejected))


def _forget_outdated(intake: Intake, entry: Entry, *, before_line: int | None = None) -> None:
    """Take out of quarantine, in parts, what this run has not judged anew; the drop may have millions of lines there."""
    outdated = intake.documents.quarantine.outdated(entry.id, judged_in=intake.run_id, before_line=before_line)
    while lines := list(islice(outdated, BATCH)):
        intake.lease.transaction(partial(_forget, intake, entry, lines))


def _forget(intake: Intake, entry: Entry, lines: Sequence[int], session: ClientSession) -> None:
    intake.documents.quarantine.remove(entry.id, lines, session=session)


def _put(intake: Intake, entry: Entry, rejected: list[Rejected], session: ClientSession) -> None:
    intake.documents.quarantine.put(entry.id, rejected, judged=intake.run_id, session=session)


def _batches(items: Iterable[T], size_of: Callable[[T], int]) -> Iterator[list[T]]:
    """Bounded in bytes too, as a record may have up to 1 MiB."""
    return batches(items, size_of, count=BATCH, size=BATCH_BYTES)


def _size_of(item: Item) -> int:
    if isinstance(item, Erased):
        return 0
    if isinstance(item, Rejected):
        return len(item.raw)
    attributes = item.get("attributes")
    return len(item.get("message", "")) + (len(orjson.dumps(attributes)) if attributes else 0)


def _line_of(item: Item) -> int:
    line: int = item["line"] if isinstance(item, dict) else item.line
    return line


def _conflicting(document: dict[str, Any], conflict: Conflict) -> Rejected:
    detail = (
        "message_id is taken by another record with other content "
        f"(drop {conflict.existing_drop[:12]}, line {conflict.existing_line}); give this one an id of its own."
    )
    return Rejected(line=document["line"], offset=-1, reason=Reason.ID_CONFLICT, detail=detail, raw=_raw_of(document))


def _raw_of(document: dict[str, Any]) -> bytes:
    ours = {"_id", "drop", "line", "digest", "text_hash", "expressive"}
    return orjson.dumps({"message_id": document["_id"], **{key: value for key, value in document.items() if key not in ours}})


def _blank(intake: Intake, entry: Entry, lines: Sequence[int]) -> None:
    """Take the records of erased people out of our copy too."""
    if not lines:
        return
    intake.lease.check()
    try:
        with blanked(intake.copy_of(entry), entry.name, lines) as sha256:
            intake.documents.ledger.add_alias(entry.id, sha256)
            intake.lease.check()  # writing a large copy anew takes its time
    except OSError as error:
        raise StoreRefused(
            f"cannot write our copy of {entry.name} anew: {error.strerror}",
            hint="Make room and leave to write under PERSONA_HOME, then run again.",
        ) from error


def _keep_out(intake: Intake, entry: Entry, hold: Hold, counts: Counts) -> Counts:
    """Hold the drop, unless it was accepted before."""
    if entry.was_accepted:
        return _stay_accepted(intake, entry, hold.reason)
    _forget_outdated(intake, entry)
    intake.lease.transaction(
        lambda session: intake.documents.ledger.hold(
            entry.id, reason=hold.reason, detail=hold.detail, counts=counts, run_id=intake.run_id, session=session
        )
    )
    log.warning("drop_held", drop=entry.id[:12], drop_name=entry.name, reason=hold.reason)
    return counts


def _without_copy(intake: Intake, entry: Entry) -> None:
    """Our copy was lost, say with the disk: the file, if it is still there, is claimed by the next run; else the drop is held."""
    ledger = intake.documents.ledger
    log.warning("claimed_copy_missing", drop=entry.id[:12], drop_name=entry.name)
    file_was_there = ledger.in_a_file([entry.id])
    ledger.forget_files(entry.id)
    if entry.was_accepted or not file_was_there:
        _keep_out(intake, entry, Hold(Reason.CRASHED_RUN, LOST_COPY), Counts())


def _stay_accepted(intake: Intake, entry: Entry, why: str) -> Counts:
    """What was accepted stays accepted where the drop cannot be read again; counts follow what runs that crashed meanwhile had done."""
    documents = intake.documents
    log.warning("drop_not_readable_again", drop=entry.id[:12], drop_name=entry.name, reason=why)
    documents.quarantine.remove(entry.id, documents.records.lines_of(entry.id))
    accepted, quarantined = documents.records.count([entry.id]), documents.quarantine.count([entry.id])
    duplicate = entry.counts.read - entry.counts.erased - accepted - quarantined
    counts = replace(entry.counts, accepted=accepted, quarantined=quarantined, duplicate=duplicate)
    what = f"stays accepted, could not be read again: {why}"
    intake.lease.transaction(lambda session: _accepted(intake, entry, counts, what, session))
    return counts


def _accepted(intake: Intake, entry: Entry, counts: Counts, what: str, session: ClientSession) -> None:
    intake.documents.ledger.accept(entry.id, counts=counts, sinks=DROP_SINKS, run_id=intake.run_id, what=what, session=session)
