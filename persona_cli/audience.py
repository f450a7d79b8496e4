"""`persona audience`: whom to show a campaign."""

from typing import Annotated, Any

import typer
from rich.markup import escape

from persona.ranking.people import MOST
from persona.ranking.recommender import Query
from persona.settings import Settings
from persona_cli.answering import open_answering
from persona_cli.options import Channel, Json
from persona_cli.output import emit, steps


def audience(
    campaign_id: Annotated[str, typer.Argument(help="Which campaign.")],
    k: Annotated[int, typer.Option(min=1, max=MOST, help="How many people.")] = 20,
    channel: Channel = None,
    json: Json = False,
) -> None:
    """The people whom this campaign suits best, among those who may be offered it."""
    query = Query(k=k, channel=channel)
    with open_answering(Settings()) as here, steps() as step:
        step.now("asking people's rankings")
        document = here.people.audience(campaign_id, query, here.snapshot).model_dump(mode="json")
    emit(document, _text(document))


def _text(document: dict[str, Any]) -> str:
    lines = [f"{document['campaign_id']}: {len(document['audience'])} people"]
    lines += [f"  {member['rank']}. {member['user_id']}  {member['score']:.3f}" for member in document["audience"]]
    return escape("\n".join(lines))
