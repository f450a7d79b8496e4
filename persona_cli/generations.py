"""`persona generations`: the ranking models that were published, which one serves, and putting another in its place."""

import uuid
from typing import Annotated, Any

import typer
from rich.markup import escape

from persona.errors import NotFound
from persona.ranking import publication
from persona.ranking.model import RankingModel
from persona.ranking.publication import Swapped
from persona.settings import Settings
from persona.stores.documents import Documents
from persona.stores.documents.generations import Generation
from persona.stores.opening import documents_of, graph_of
from persona_cli import output
from persona_cli.options import Json
from persona_cli.output import emit, emit_lines
from persona_cli.pipeline import open_pipeline

SHOWN_CAMPAIGNS = 10
CANDIDATE = "candidate"

app = typer.Typer(help="Published ranking models: look, put one in force, go back.", no_args_is_help=True)


@app.command("list")
def list_(json: Json = False) -> None:
    """What is kept, newest first: when it was published, on what, why, and which one serves; before them the fitted candidate."""
    with documents_of(Settings()) as documents:
        rows = [_document(generation, documents) for generation in _kept(documents)]
    if output.State.json:
        emit_lines(rows)
    else:
        emit({}, "\n".join(map(_row, rows)) or "Nothing has been published yet.")


@app.command()
def show(
    generation: Annotated[str, typer.Argument(help="Its id, or `candidate`. Without it, the one that serves.")] = "",
    json: Json = False,
) -> None:
    """What one generation holds: its weights, what it was fitted on, and the campaigns that do best by it."""
    with documents_of(Settings()) as documents:
        found = _found(documents, generation)
        document = _document(found, documents)
    model = RankingModel.model_validate(found.model)
    best = sorted(model.overall.items(), key=lambda item: (-item[1].engagement, item[0]))[:SHOWN_CAMPAIGNS]
    document |= {
        "weights": model.weights,
        "half_life_days": model.half_life_days,
        "fingerprint": model.fingerprint,
        "related_campaigns": model.relations.model_dump(),
        "best_campaigns": [{"campaign_id": campaign, **figures.model_dump()} for campaign, figures in best],
    }
    learned = model.relations
    text = [
        _row(document),
        f"  half-life {model.half_life_days:g} days; weights: "
        + ", ".join(f"{channel} {weight:.3g}" for channel, weight in model.weights.items()),
        f"  related campaigns: {learned.left_out}"
        if learned.left_out
        else f"  related campaigns: {learned.relations:,} pairs of {learned.campaigns:,} campaigns, learned from {learned.people:,} people",
        *(
            f"  {escape(campaign)}  engagement {figures.engagement:.2f}, {figures.conversions:,} conversions"
            for campaign, figures in best
        ),
    ]
    emit(document, "\n".join(text))


@app.command()
def publish(
    generation: Annotated[
        str | None, typer.Argument(help="Its id. Without it, the candidate, whatever was decided on it.")
    ] = None,
    json: Json = False,
) -> None:
    """Put a generation in force by hand: an older one, or the candidate."""
    settings, run_id = Settings(), f"generations-{uuid.uuid4()}"
    with open_pipeline(settings) as pipeline, graph_of(settings) as graph:
        _tell(publication.publish_by_hand(pipeline, graph, generation if generation != CANDIDATE else None, run_id=run_id))


@app.command()
def rollback(json: Json = False) -> None:
    """Put the generation in force that served before, and do not publish this one again by itself."""
    settings, run_id = Settings(), f"generations-{uuid.uuid4()}"
    with open_pipeline(settings) as pipeline, graph_of(settings) as graph:
        _tell(publication.roll_back(pipeline, graph, run_id=run_id))


def _kept(documents: Documents) -> list[Generation]:
    """The candidate, where it is in no generation, and every generation, newest first."""
    stored, kept = documents.generations.candidate(), documents.generations.all()
    if stored is None or stored["fingerprint"] in {generation.model["fingerprint"] for generation in kept}:
        return kept
    return [Generation(CANDIDATE, stored, None, documents.generations.refusal() or "not decided on yet", False), *kept]


def _found(documents: Documents, generation: str) -> Generation:
    wanted = generation or documents.generations.in_force_id()
    found = next((kept for kept in _kept(documents) if kept.id == wanted), None)
    if found is None:
        missing = f"there is no generation {wanted}" if wanted else "nothing has been published yet"
        raise NotFound(missing, hint="`persona generations list` shows those that are kept.")
    return found


def _document(generation: Generation, documents: Documents) -> dict[str, Any]:
    model = RankingModel.model_validate(generation.model)
    return {
        "generation": generation.id,
        "in_force": generation.id == documents.generations.in_force_id(),
        "published_at": generation.at,
        "reason": generation.reason,
        "withdrawn": generation.withdrawn,
        "facts": model.facts,
        "newest_day": model.newest_day,
        "campaigns": len(model.overall),
    }


def _row(row: dict[str, Any]) -> str:
    marks = [f"[green]{name.replace('_', ' ')}[/]" for name in ("in_force", "withdrawn") if row[name]]
    when = f"published {row['published_at']:%Y-%m-%d %H:%M:%S}" if row["published_at"] else "not published"
    return "\n".join(
        [
            "  ".join([f"[bold]{row['generation']}[/]", when, *marks]),
            f"  on {row['facts']:,} facts about {row['campaigns']:,} campaigns up to {row['newest_day'] or 'no day'}",
            *([f"  {escape(row['reason'])}"] if row["reason"] else []),
        ]
    )


def _tell(swapped: Swapped) -> None:
    instead = f", instead of {swapped.instead_of}" if swapped.instead_of else ""
    emit(
        {"generation": swapped.generation, "instead_of": swapped.instead_of},
        f"{swapped.generation} is in force{instead}; services answer from it within seconds.",
    )
