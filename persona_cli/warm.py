"""`persona warm`: the answers of those who were active last, computed before they ask."""

import asyncio
from typing import Annotated

import typer

from persona.settings import Settings
from persona.stores.opening import documents_of
from persona_cli.options import Json
from persona_cli.output import emit, steps


def warm(
    users: Annotated[int, typer.Option(min=1, help="How many people, by their newest record.")] = 1_000,
    json: Json = False,
) -> None:
    """Compute answers before they are asked for, as to `GET /recommendations/USER`; those that are kept already stay."""
    from serving.warming import warm as warm_up  # FastAPI takes half a second to import: not for `persona --help`

    settings = Settings()
    with documents_of(settings) as documents:
        active = documents.records.newest_users(users)
    with steps() as step:
        outcomes = asyncio.run(warm_up(settings, active, done=lambda done: step.count("answers", done)))
    counts = {"users": len(active), **{outcome: outcomes[outcome] for outcome in ("computed", "kept", "degraded")}}
    degraded = f", {counts['degraded']:,} without a store and so not kept" if counts["degraded"] else ""
    emit(
        counts, f"{counts['users']:,} people: {counts['computed']:,} answers computed, {counts['kept']:,} kept already{degraded}"
    )
