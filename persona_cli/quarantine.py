"""`persona quarantine`: what is kept out, why, and what a person does about it."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from persona.errors import InvalidInput, NotFound
from persona.intake import quarantine
from persona.pipeline.draining import Pipeline
from persona.pipeline.lease import Lease
from persona.schemas import Reason
from persona.settings import Settings
from persona.stores.documents.ledger import Entry
from persona.stores.documents.quarantine import Rejected
from persona.stores.opening import documents_of
from persona_cli import output
from persona_cli.options import Json
from persona_cli.output import emit, emit_lines
from persona_cli.pipeline import open_pipeline

SHOWN_LINES = 100
SHOWN_CHARACTERS = 200
APPLIED = "The sensor applies it when the platform is up; else `persona materialize` does."

app = typer.Typer(help="Drops and lines that are kept out: look, replay, release, discard.", no_args_is_help=True)

Drop = Annotated[str, typer.Argument(help="A drop's hash, its first six digits or more, or its file name.")]
Drops = Annotated[list[str], typer.Argument(help="Drops, each by its hash, its first six digits or more, or its file name.")]
ByReason = Annotated[Reason | None, typer.Option("--reason", help="Only what is kept out for this reason.")]


@app.command("list")
def list_(
    drop: Annotated[str, typer.Option("--drop", help="Only this drop.")] = "",
    reason: ByReason = None,
    everything: Annotated[bool, typer.Option("--all", help="Also what was discarded or replaced.")] = False,
    json: Json = False,
) -> None:
    """One row for each drop that is held or has lines in quarantine, with what to do about it."""
    with documents_of(Settings()) as documents:
        rows = quarantine.kept_out(documents, drop=drop, reason=reason, settled=everything)
    if output.State.json:
        emit_lines({**_document(row.entry), "lines": row.reasons, "advice": row.advice} for row in rows)
    else:
        emit({}, "\n".join(_row(row) for row in rows) or "Nothing is kept out.")


@app.command()
def show(
    drop: Drop,
    line: Annotated[int | None, typer.Option("--line", help="Only this line, whole.")] = None,
    json: Json = False,
) -> None:
    """What was done with a drop and when, its counts, and the lines that are kept out of it."""
    with documents_of(Settings()) as documents:
        entry = quarantine.find(documents, drop)
        history = documents.ledger.history(entry.id)
        total = documents.quarantine.count([entry.id])
        if line is None:
            lines = documents.quarantine.of_drop(entry.id, limit=SHOWN_LINES)
        else:
            found = documents.quarantine.line(entry.id, line)
            if found is None:
                raise NotFound(
                    f"line {line} of {entry.name} is not in quarantine", hint="Without `--line` all that are there are shown."
                )
            lines = [found]
    document = {
        **_document(entry),
        "counts": entry.counts.as_dict(),
        "history": [{"what": past.what, "run_id": past.run_id, "at": past.at} for past in history],
        "in_quarantine": total,
        "lines": [_line_document(rejected) for rejected in lines],
    }
    limit = None if line is not None else SHOWN_CHARACTERS
    text = [
        f"[bold]{escape(entry.name)}[/]  {entry.id}  {entry.state}",
        *([f"{entry.reason}: {escape(entry.detail or '')}"] if entry.reason else []),
        ", ".join(f"{count:,} {name}" for name, count in entry.counts.as_dict().items()),
        *(f"  {past.at:%Y-%m-%d %H:%M:%S}  {escape(past.what)}  [dim]{escape(past.run_id)}[/]" for past in history),
        *(_line_text(rejected, limit) for rejected in lines),
        *([f"… and {total - len(lines):,} more"] if line is None and total > len(lines) else []),
    ]
    emit(document, "\n".join(text))


@app.command()
def replay(
    drops: Annotated[list[str] | None, typer.Argument(help="Drops, as in `list`.")] = None,
    reason: ByReason = None,
    mended: Annotated[Path | None, typer.Option("--with", help="The mended file, which takes the drop's place.")] = None,
    json: Json = False,
) -> None:
    """Judge drops again: as they are, after a fix or crashes, or a mended file in place of one."""
    if (not drops) == (reason is None):
        raise InvalidInput("either drops or `--reason` is needed", hint="`persona quarantine list` shows both.")
    if mended and (reason or len(drops or ()) != 1):
        raise InvalidInput("a mended file takes the place of one drop", hint="Name that drop.")
    with _changing("replay") as (pipeline, lease, run_id):
        entries = _found(pipeline, drops or ())
        more: dict[str, Any] = {}
        then = APPLIED
        if reason is not None:
            found = [row.entry for row in quarantine.kept_out(pipeline.documents, reason=reason)]
            entries = [entry for entry in found if quarantine.has_copy(pipeline, entry)]
            if skipped := [entry for entry in found if entry not in entries]:
                more = {"skipped": [_document(entry) for entry in skipped]}
                names = ", ".join(f"{escape(entry.name)} ({entry.id[:12]})" for entry in skipped)
                then = f"{APPLIED} Skipped, as our copy is gone; hand the file in again: {names}."
        if mended:
            more = {"replaced_by": quarantine.replay_mended(pipeline, entries[0], mended, lease, run_id=run_id)}
        else:
            quarantine.replay(pipeline, entries, lease, run_id=run_id)
        _tell("replayed", pipeline, entries, more, then)


@app.command()
def release(drops: Drops, json: Json = False) -> None:
    """Let in what validates of held drops, however much does not."""
    with _changing("release") as (pipeline, lease, run_id):
        entries = _found(pipeline, drops)
        quarantine.release(pipeline, entries, lease, run_id=run_id)
        _tell("released", pipeline, entries, {}, APPLIED)


@app.command()
def discard(
    drops: Drops,
    line: Annotated[int | None, typer.Option("--line", help="Only this line of one drop.")] = None,
    json: Json = False,
) -> None:
    """Set aside for good what is kept out of these drops; the ledger keeps it, and `replay` brings it back."""
    if line is not None and len(drops) != 1:
        raise InvalidInput("a line belongs to one drop", hint="Name that drop.")
    with _changing("discard") as (pipeline, lease, run_id):
        entries = _found(pipeline, drops)
        lines = quarantine.discard(pipeline, entries, lease, line=line, run_id=run_id)
        _tell("discarded", pipeline, entries, {"settled": lines}, "`persona quarantine list --all` still shows it.")


@contextmanager
def _changing(verb: str) -> Iterator[tuple[Pipeline, Lease, str]]:
    run_id = f"quarantine-{uuid.uuid4()}"
    with open_pipeline(Settings()) as pipeline, pipeline.lease(run_id, f"quarantine {verb}") as lease:
        yield pipeline, lease, run_id


def _found(pipeline: Pipeline, drops: list[str] | tuple[()]) -> list[Entry]:
    found = [quarantine.find(pipeline.documents, drop) for drop in drops]
    return list({entry.id: entry for entry in found}.values())


def _tell(what: str, pipeline: Pipeline, entries: list[Entry], more: dict[str, Any], then: str) -> None:
    now = pipeline.documents.ledger.get([entry.id for entry in entries])
    lines = [f"{what}: {escape(entry.name)} ({entry.id[:12]}), now {entry.state}" for entry in now]
    emit(
        {what: [_document(entry) for entry in now], **more, "then": then},
        "\n".join([*lines, then] if lines else ["Nothing to do."]),
    )


def _document(entry: Entry) -> dict[str, Any]:
    return {
        "drop": entry.id, "name": entry.name, "state": entry.state, "reason": entry.reason, "detail": entry.detail,
        "at": entry.changed_at,
    }  # fmt: skip


def _row(row: quarantine.KeptOut) -> str:
    entry = row.entry
    lines = ", ".join(f"{count:,} {reason}" for reason, count in row.reasons.items())
    state = f"{entry.state}: {entry.reason}" if entry.reason else entry.state
    return "\n".join(
        [
            f"[bold]{entry.id[:12]}[/]  {escape(entry.name)}  {state}  {entry.changed_at:%Y-%m-%d %H:%M:%S}",
            *([f"  lines: {lines}"] if lines else []),
            *([f"  {escape(entry.detail)}"] if entry.detail else []),
            f"  {escape(row.advice)}",
        ]
    )


def _line_document(rejected: Rejected) -> dict[str, Any]:
    settled = rejected.settled
    return {
        "line": rejected.line, "offset": rejected.offset, "reason": rejected.reason, "detail": rejected.detail,
        "text": rejected.raw.decode("utf-8", "replace"),
        "settled": {"how": settled.how, "at": settled.at, "run_id": settled.run_id, "by": settled.by} if settled else None,
    }  # fmt: skip


def _line_text(rejected: Rejected, limit: int | None) -> str:
    text = rejected.raw.decode("utf-8", "replace")
    shown = text if limit is None or len(text) <= limit else f"{text[:limit]}…"
    settled = f" [dim]({rejected.settled.how})[/]" if rejected.settled else ""
    return f"line {rejected.line}: {rejected.reason}{settled}: {escape(rejected.detail)}\n  {escape(shown)}"
