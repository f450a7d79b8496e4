"""The way of a drop into the truth: claim, judge, write. Everything here can be interrupted anywhere and done again."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import structlog

from persona.errors import PersonaError
from persona.intake.claim import Claimed, claim, settled_files
from persona.intake.judge import Hold, judge, judge_attempts
from persona.intake.parse import DropFault, raw_records
from persona.intake.records import to_document
from persona.pipeline.draining import Outcome, Pipeline
from persona.pipeline.lease import Lease
from persona.pipeline.stages import DROP_SINKS
from persona.schemas import Reason
from persona.stores.documents import Documents
from persona.stores.documents.ledger import Counts, Entry
from persona.stores.documents.quarantine import Rejected

BATCH = 5_000
BATCH_BYTES = 32 << 20
KEPT_RECORDS, KEPT_BYTES = 20_000, 64 << 20
"""A drop of up to so much is parsed once; a larger one once to judge it and once to write it."""

Item = dict[str, Any] | Rejected
"""A document ready to insert, or a line that is kept out."""
Progress = Callable[[str, int], None]
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Judged:
    """What the first reading of a drop found."""

    read: int
    rejected: Counter[Reason]
    parsed: list[Item] | None
    """Everything, in order, where it fits in memory."""


def take_in_all(pipeline: Pipeline, *, run_id: str, drops: Sequence[str] = (), reapply: bool = False) -> Outcome:
    """Claim what has settled in the watched folder, then judge and write every claimed drop; the `raw_conversations` stage.

    With `drops`, only these; with `reapply`, these are read again from their claimed copies even if they were accepted or held.
    Raises `NotFound` for a named drop that never arrived.
    """
    settings, documents, stage = pipeline.settings, pipeline.documents, "raw_conversations"
    with pipeline.recorded(run_id, stage) as count, pipeline.lease(run_id, stage) as lease:
        claim_settled(documents, settings.drops, settings.claimed_drops, settle_seconds=settings.settle_seconds, run_id=run_id)
        named = pipeline.named(drops)
        if reapply:
            documents.ledger.read_again([entry.id for entry in named])
        entries: list[Entry] = []
        for claimed in documents.ledger.claimed():
            if drops and claimed.id not in drops:
                continue
            lease.check()
            if not (
                settings.claimed_drops / claimed.id
            ).exists():  # lost, say with the power; the source, if it is there, is claimed anew
                documents.ledger.forget_files(claimed.id)
                log.warning("claimed_copy_missing", drop=claimed.id[:12], drop_name=claimed.name)
                continue
            entries.append(
                take_in(
                    documents,
                    claimed,
                    settings.claimed_drops,
                    lease,
                    reject_share=settings.reject_share,
                    now=datetime.now(UTC),
                    run_id=run_id,
                    progress=lambda name, read: pipeline.progress(f"{stage} {name}", read),
                )
            )
            count(sum(entry.counts.accepted for entry in entries))
        return pipeline.outcome(stage, count.records, count.seconds, entries)


def claim_settled(documents: Documents, folder: Path, copies: Path, *, settle_seconds: float, run_id: str) -> int:
    """Claim every settled file of the folder whose content has not been claimed; return how many are new to the ledger."""
    for unfinished in copies.glob(".*"):  # what a run that was killed left half-copied; the lease says that nobody copies now
        unfinished.unlink(missing_ok=True)
    files = {str(file.path): file for file in settled_files(folder, settle_seconds=settle_seconds)}
    new = 0
    for path in documents.ledger.unseen({path: file.signature for path, file in files.items()}):
        claimed = claim(files[path], copies)
        if claimed is None:
            log.warning("drop_not_readable_yet", drop_name=files[path].path.name)
            continue
        new += documents.ledger.claim(claimed.sha256, name=claimed.name, size=claimed.size, run_id=run_id)
        documents.ledger.remember_file(path, files[path].signature, claimed.sha256)
    return new


def take_in(
    documents: Documents,
    entry: Entry,
    copies: Path,
    lease: Lease,
    *,
    reject_share: float,
    now: datetime,
    run_id: str,
    progress: Progress,
) -> Entry:
    """Judge one claimed drop and, if it is accepted, write it; return what the ledger then says of it."""
    crashed = judge_attempts(documents.ledger.begin_attempt(entry.id) - 1)
    try:
        if crashed:
            documents.records.remove_drop(entry.id)  # what the crashed runs had written: a held drop claims no ids
            _hold(documents, entry, crashed, Counts(), run_id)
        else:
            _judge_and_write(
                documents, entry, copies, lease, reject_share=reject_share, now=now, run_id=run_id, progress=progress
            )
    except BaseException as error:
        # neither a store that is down nor a person who stops the run is the drop's fault
        if isinstance(error, PersonaError) or not isinstance(error, Exception):
            documents.ledger.end_attempt(entry.id)
        raise
    return documents.ledger.get([entry.id])[0]


def _judge_and_write(
    documents: Documents,
    entry: Entry,
    copies: Path,
    lease: Lease,
    *,
    reject_share: float,
    now: datetime,
    run_id: str,
    progress: Progress,
) -> None:
    drop = Claimed(sha256=entry.id, name=entry.name, size=entry.size, path=copies / entry.id)
    try:
        judged = _judge(drop, now)
    except DropFault as fault:
        _hold(documents, entry, Hold(fault.reason, fault.detail), Counts(), run_id)
        return
    verdict = judge(judged.read, judged.rejected, reject_share=reject_share)
    parsed = judged.parsed if judged.parsed is not None else _parsed(drop, now)
    if verdict:
        _quarantine(documents, drop, parsed, lease)
        _hold(documents, entry, verdict, Counts(read=judged.read, quarantined=judged.read), run_id)
        return
    counts = _write(documents, drop, parsed, lease, progress)
    lease.transaction(
        lambda session: documents.ledger.accept(entry.id, counts=counts, sinks=DROP_SINKS, run_id=run_id, session=session)
    )


def _parsed(drop: Claimed, now: datetime) -> Iterator[Item]:
    for raw in raw_records(drop.path, drop.name):
        yield to_document(raw, drop=drop.sha256, now=now)


def _judge(drop: Claimed, now: datetime) -> Judged:
    read, size, rejected = 0, 0, Counter[Reason]()
    kept: list[Item] | None = []
    for raw in raw_records(drop.path, drop.name):
        item = to_document(raw, drop=drop.sha256, now=now)
        read, size = read + 1, size + len(raw.raw)
        if isinstance(item, Rejected):
            rejected[item.reason] += 1
        if kept is not None:
            kept.append(item)
            if len(kept) > KEPT_RECORDS or size > KEPT_BYTES:
                kept = None
    return Judged(read, rejected, kept)


def _write(
    documents: Documents,
    drop: Claimed,
    parsed: Iterable[Item],
    lease: Lease,
    progress: Progress,
) -> Counts:
    documents.quarantine.clear(drop.sha256)
    known: set[str] = set()
    counts = Counts()
    for batch in _batches(parsed):
        lease.check()
        valid = [item for item in batch if isinstance(item, dict)]
        rejected = [item for item in batch if isinstance(item, Rejected)]
        campaigns = {item["campaign_id"] for item in valid if "campaign_id" in item} - known
        documents.catalog.discover_campaigns(sorted(campaigns))
        known |= campaigns
        inserted = documents.records.insert(valid) if valid else None
        if inserted:
            rejected += [_conflicting(valid[conflict.index], conflict.existing_line) for conflict in inserted.conflicts]
        documents.quarantine.put(drop.sha256, rejected)
        counts = Counts(
            read=counts.read + len(batch),
            accepted=counts.accepted + (inserted.accepted if inserted else 0),
            duplicate=counts.duplicate + (inserted.duplicate if inserted else 0),
            quarantined=counts.quarantined + len(rejected),
        )
        progress(drop.name, counts.read)
    return counts


def _quarantine(documents: Documents, drop: Claimed, parsed: Iterable[Item], lease: Lease) -> None:
    documents.quarantine.clear(drop.sha256)
    for batch in _batches(parsed):
        lease.check()
        documents.quarantine.put(drop.sha256, [item for item in batch if isinstance(item, Rejected)])


def _batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Bounded in number and, as a record may have up to 1 MiB, in bytes."""
    batch: list[Item] = []
    size = 0
    for item in items:
        batch.append(item)
        size += len(item.raw) if isinstance(item, Rejected) else len(item.get("message", "")) + _size(item.get("attributes"))
        if len(batch) == BATCH or size > BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _size(attributes: dict[str, Any] | None) -> int:
    return len(orjson.dumps(attributes)) if attributes else 0


def _conflicting(document: dict[str, Any], existing_line: int) -> Rejected:
    detail = (
        f"message_id is taken by another record with other content (line {existing_line} of the drop that came first); "
        "give this one an id of its own."
    )
    return Rejected(line=document["line"], offset=-1, reason=Reason.ID_CONFLICT, detail=detail, raw=_raw_of(document))


def _raw_of(document: dict[str, Any]) -> bytes:
    ours = {"_id", "drop", "line", "digest", "text_hash", "expressive"}
    return orjson.dumps({"message_id": document["_id"], **{key: value for key, value in document.items() if key not in ours}})


def _hold(documents: Documents, entry: Entry, hold: Hold, counts: Counts, run_id: str) -> None:
    documents.ledger.hold(entry.id, reason=hold.reason, detail=hold.detail, counts=counts, run_id=run_id)
    log.warning("drop_held", drop=entry.id[:12], drop_name=entry.name, reason=hold.reason)
