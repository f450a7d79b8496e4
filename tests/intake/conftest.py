"""How the tests of the intake put drops in, and look at what became of them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from persona.intake.drops import take_in_all
from persona.pipeline.draining import Outcome, Pipeline
from persona.stores.documents import Documents
from persona.stores.documents.ledger import Entry

RUNS = (f"run_{number}" for number in range(10**9))


def message(number: int, **fields: Any) -> dict[str, Any]:
    return {"user_id": f"u_{number % 3}", "message": f"message {number}", "timestamp": 1_700_000_000 + number, **fields}


def drop(pipeline: Pipeline, name: str, lines: Sequence[Any]) -> Path:
    """A settled file of JSON lines; a string is a line as it stands."""
    path = pipeline.settings.drops / name
    path.write_text("".join(f"{record if isinstance(record, str) else json.dumps(record)}\n" for record in lines))
    return path


def take_in(pipeline: Pipeline, **options: Any) -> Outcome:
    return take_in_all(pipeline, run_id=next(RUNS), **options)


def ledger(pipeline: Pipeline) -> dict[str, Entry]:
    entries = pipeline.documents.ledger
    return {entry.name: entry for entry in entries.get(entries.ids("drop"))}


def stored(documents: Documents) -> dict[str, dict[str, Any]]:
    return {record["_id"]: record for record in documents.database["records"].find()}


def counts(entry: Entry) -> tuple[int, int, int, int, int]:
    return tuple(entry.counts.as_dict().values())  # type: ignore[return-value]
