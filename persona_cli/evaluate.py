"""`persona evaluate`: how well the generation in force ranks, beside the field's baselines, on what the stores hold."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from persona.settings import Settings
from persona.stores.opening import documents_of
from persona_cli.options import Json
from persona_cli.output import State, emit, steps

if TYPE_CHECKING:
    from persona.evaluation.report import Report


def evaluate(
    output: Annotated[Path | None, typer.Option(help="Write evaluation.md, .json and .png into this folder.")] = None,
    json: Json = False,
) -> None:
    """Judge the generation in force (before there is one, the candidate) on the newest window, beside all baselines."""
    from persona.evaluation.report import markdown  # SciPy takes half a second to import: not for `persona --help`
    from persona.evaluation.serving import evaluate_serving

    settings = Settings()
    with documents_of(settings) as documents, steps() as step:
        report = evaluate_serving(documents, settings, progress=step.now)
    if output is not None:
        _write(report, output)
    if State.json:
        emit(report.model_dump(mode="json"), "")
    else:
        typer.echo(markdown(report), nl=False)


def _write(report: "Report", folder: Path) -> None:
    from persona.evaluation.report import markdown, picture

    folder.mkdir(parents=True, exist_ok=True)
    picture(report).savefig(folder / "evaluation.png", dpi=120)
    (folder / "evaluation.md").write_text(markdown(report) + "\n![advantage](evaluation.png)\n", encoding="utf-8")
    (folder / "evaluation.json").write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
