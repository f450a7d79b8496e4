"""`persona materialize`: the asset graph in this process."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from persona.errors import Busy, InvalidInput
from persona.pipeline.draining import Pipeline
from persona.pipeline.stages import CODE_VERSIONS
from persona.settings import Settings
from persona_cli.options import Json
from persona_cli.output import emit, steps
from persona_cli.pipeline import open_pipeline

if TYPE_CHECKING:
    from persona_assets.execution import Execution

ASSETS = tuple(stage for stage in CODE_VERSIONS if stage != "cache")


def materialize(
    assets: Annotated[list[str] | None, typer.Argument(help="Assets to materialise; by default all.")] = None,
    json: Json = False,
) -> None:
    """Apply everything that waits, with all checks, and say what was done."""
    if unknown := set(assets or ()) - set(ASSETS):
        raise InvalidInput(f"no such asset: {', '.join(sorted(unknown))}", hint=f"There are: {', '.join(ASSETS)}.")
    settings = Settings()
    with steps() as step:
        step.now("loading the asset graph")
        from persona_assets.execution import execute  # Dagster takes a second to import: not for `persona --help`

        with open_pipeline(settings, progress=step.count) as pipeline:
            execution = execute(settings, pipeline, assets=assets or ASSETS)
            document = _document(pipeline, execution)
    emit(document, _text(document))
    if not execution.success:
        raise typer.Exit(Busy.exit_code if execution.busy else 1)


def _document(pipeline: Pipeline, execution: "Execution") -> dict[str, Any]:
    entries = pipeline.documents.ledger.judged_in(execution.run_id)
    drops = {
        name: sum(getattr(entry.counts, name) for entry in entries)
        for name in ("read", "accepted", "duplicate", "quarantined", "erased")
    }
    return {
        "run_id": execution.run_id,
        "status": "success" if execution.success else "failed",
        "error": execution.error,
        "stages": [
            {"stage": stage.stage, "status": stage.status, "records": stage.records, "seconds": round(stage.seconds, 3)}
            for stage in pipeline.warehouse.stages(execution.run_id)
        ],
        "checks": execution.checks,
        "drops": {**drops, "held": sum(entry.state == "held" for entry in entries)},
    }


def _text(document: dict[str, Any]) -> str:
    failed = [check for check in document["checks"] if not check["passed"]]
    lines = [
        f"{stage['stage']:<20} {stage['records']:>10,} records {stage['seconds']:>8.2f} s  {stage['status']}"
        for stage in document["stages"]
    ]
    drops = document["drops"]
    lines.append(", ".join(f"{drops[name]:,} {name}" for name in drops))
    lines.append(f"{len(document['checks'])} checks, {len(failed)} failed")
    lines += [f"  {check['asset']}: {check['check']}{' (blocking)' if check['blocking'] else ''}" for check in failed]
    if document["error"]:
        lines.append(f"[bold red]failed[/]: {document['error']}")
    return "\n".join(lines)
