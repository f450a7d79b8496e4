"""What is kept out of the truth, and what a person can do about it. What is done is written down here; the next run judges again."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pymongo.client_session import ClientSession

from persona.errors import InvalidInput, NotFound
from persona.intake.claim import claim, sync, watched
from persona.intake.judge import LOST_COPY
from persona.pipeline.draining import Pipeline
from persona.pipeline.lease import Lease
from persona.schemas import Reason
from persona.stores.documents import Documents
from persona.stores.documents.ledger import Entry

SHORTEST_PREFIX = 6


@dataclass(frozen=True, slots=True)
class KeptOut:
    """A drop that is held, or some of whose lines are in quarantine."""

    entry: Entry
    reasons: dict[str, int]
    """The lines in quarantine, by reason; settled ones only where they were asked for."""
    advice: str


def find(documents: Documents, drop: str) -> Entry:
    """The drop with this hash, beginning of a hash (at least six digits) or file name.

    Raises `NotFound` where there is none, `InvalidInput` where there are several.
    """
    found = documents.ledger.drops_called(drop)
    candidates = [entry for entry in found if entry.name == drop or len(drop) >= SHORTEST_PREFIX]
    if not candidates:
        raise NotFound(f"no drop is called {drop}", hint="`persona quarantine list --all` shows the drops and their hashes.")
    if len(candidates) > 1:
        which = ", ".join(f"{entry.id[:12]} ({entry.name})" for entry in candidates[:5])
        raise InvalidInput(f"{len(candidates)} drops are called {drop}: {which}", hint="Give more of the hash.")
    return candidates[0]


def kept_out(documents: Documents, *, drop: str = "", reason: Reason | None = None, settled: bool = False) -> list[KeptOut]:
    """The drops that are held or have lines in quarantine, oldest first; with `settled` also what somebody has dealt with."""
    ledger = documents.ledger
    lines = documents.quarantine.by_drop(settled=settled)
    entries = {entry.id: entry for entry in ledger.all_of("drop", states=["held", *(["discarded"] if settled else [])])}
    entries |= {entry.id: entry for entry in ledger.get([found for found in lines if found not in entries])}
    if drop:
        wanted = find(documents, drop).id
        entries = {wanted: entries[wanted]} if wanted in entries else {}
    rows = [
        KeptOut(entry, lines.get(entry.id, {}), advice(entry))
        for entry in entries.values()
        if reason is None or reason in (entry.reason, *lines.get(entry.id, ()))
    ]
    return sorted(rows, key=lambda row: (str(row.entry.changed_at), row.entry.id))


def replay(pipeline: Pipeline, entries: Sequence[Entry], lease: Lease, *, run_id: str) -> None:
    """Let these drops be judged again from our copies, as they are: after a fix, or with new attempts after crashes.

    Raises `NotFound`, and does nothing, where our copy of one is gone.
    """
    _copies_are_there(pipeline, entries)
    ids = [entry.id for entry in entries]
    lease.check()
    pipeline.documents.quarantine.unsettle(ids)
    pipeline.documents.ledger.read_again(ids, what="replayed", run_id=run_id)


def replay_mended(pipeline: Pipeline, entry: Entry, file: Path, lease: Lease, *, run_id: str) -> str:
    """Claim the mended file as a drop of its own that takes this one's place; return its id.

    What was accepted of the old one stays and is a duplicate in the new one. Raises `InvalidInput` for a file that cannot be read or
    whose content is known already, and for a drop that has not been judged yet.
    """
    if entry.state == "claimed":
        raise InvalidInput(
            f"{entry.name} ({entry.id[:12]}) waits to be judged",
            hint="`persona materialize` judges it; then see what is kept out.",
        )
    try:
        claimed = claim(watched(file), pipeline.settings.claimed_drops)
    except OSError as error:
        raise InvalidInput(f"cannot read {file}: {error.strerror}", hint="Name the mended file.") from None
    if claimed is None:
        raise InvalidInput(f"{file} cannot be read, or is being written", hint="Let it be whole and readable, then run again.")
    documents = pipeline.documents
    known = documents.ledger.known_as([claimed.sha256]).get(claimed.sha256, claimed.sha256)
    if known != claimed.sha256:
        claimed.path.unlink()
    if known == entry.id:
        raise InvalidInput(f"{file} is the drop as it came", hint="Mend it first; without `--with` it is judged again as it is.")
    if documents.ledger.get([known]):
        raise InvalidInput(
            f"{file} has come already, as drop {known[:12]}",
            hint=f"`persona quarantine discard {entry.id[:12]}` settles the old one.",
        )

    def work(session: ClientSession) -> None:
        documents.ledger.replace(entry.id, claimed.sha256, name=claimed.name, size=claimed.size, run_id=run_id, session=session)

    sync(pipeline.settings.claimed_drops)
    lease.transaction(work)
    # after it: there may be millions of lines, and a transaction has a minute; interrupted here, `discard` settles them
    documents.quarantine.settle(entry.id, how="replayed", run_id=run_id, by=claimed.sha256)
    return claimed.sha256


def release(pipeline: Pipeline, entries: Sequence[Entry], lease: Lease, *, run_id: str) -> None:
    """Let in what validates of these held drops, however much does not; one held for crashes gets new attempts.

    Raises `InvalidInput`, and does nothing, where one is not held or cannot be read at all.
    """
    for entry in entries:
        if entry.state != "held":
            raise InvalidInput(
                f"{entry.name} ({entry.id[:12]}) is not held but {entry.state}", hint="`persona quarantine list` shows what is."
            )
        if not entry.counts.read and entry.reason != Reason.CRASHED_RUN:
            raise InvalidInput(
                f"{entry.name} ({entry.id[:12]}) cannot be read at all ({entry.reason}): there is nothing to let in",
                hint=f"{entry.detail} Then `persona quarantine replay {entry.id[:12]} --with FILE`.",
            )
    _copies_are_there(pipeline, entries)
    lease.check()
    ledger = pipeline.documents.ledger
    for judged in (True, False):  # of what nobody has judged yet a person does not know what they would let in
        ids = [entry.id for entry in entries if bool(entry.counts.read) is judged]
        ledger.read_again(ids, what="released", run_id=run_id, released=judged)


def discard(pipeline: Pipeline, entries: Sequence[Entry], lease: Lease, *, line: int | None = None, run_id: str) -> int:
    """Set aside what is kept out of these drops, or one line of it; the ledger keeps it. Returns how many lines that were.

    Raises `NotFound`, and does nothing, for a line that is not in quarantine.
    """
    documents = pipeline.documents
    if line is not None:
        for entry in entries:
            if documents.quarantine.line(entry.id, line) is None:
                raise NotFound(
                    f"line {line} of {entry.name} ({entry.id[:12]}) is not in quarantine",
                    hint=f"`persona quarantine show {entry.id[:12]}` lists what is.",
                )
    lease.check()
    if line is None:
        documents.ledger.discard([entry.id for entry in entries], run_id=run_id)
    return sum(documents.quarantine.settle(entry.id, how="discarded", run_id=run_id, line=line) for entry in entries)


def has_copy(pipeline: Pipeline, entry: Entry) -> bool:
    """Whether our copy of the drop is there to be read."""
    return (pipeline.settings.claimed_drops / entry.id).exists()


def _copies_are_there(pipeline: Pipeline, entries: Sequence[Entry]) -> None:
    for entry in entries:
        if not has_copy(pipeline, entry):
            raise NotFound(
                f"our copy of {entry.name} ({entry.id[:12]}) is gone", hint="Hand the file in again: `persona ingest FILE`."
            )


def advice(entry: Entry) -> str:
    """What a person can do about a drop that is kept out, whole or in part."""
    command, drop = "persona quarantine", entry.id[:12]
    if entry.state == "discarded":
        return f"Nothing; `{command} replay {drop}` brings it back."
    if entry.state == "held" and entry.detail == LOST_COPY:
        return f"Hand the file in again: `persona ingest FILE`; or `{command} discard {drop}`."
    if entry.state == "held" and entry.reason == Reason.CRASHED_RUN:
        return f"Look into those logs, then `{command} replay {drop}`, or mend it: `{command} replay {drop} --with FILE`."
    mend = f"Mend it, then `{command} replay {drop} --with FILE`; or `{command} discard {drop}`."
    if entry.state == "held" and entry.counts.read:
        return f"{mend} `{command} release {drop}` lets in what validates."
    return mend
