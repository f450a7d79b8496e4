"""`persona why`: why a person is offered a campaign, or the rule that keeps it from them."""

from typing import Annotated, Any

import typer
from rich.markup import escape

from persona.ranking.recommender import Query
from persona.settings import Settings
from persona_cli.answering import open_answering
from persona_cli.options import AsOf, Channel, Json
from persona_cli.output import emit

NOT_FIGURES = {"channel", "score", "contribution", "sources"}


def why(
    user_id: Annotated[str, typer.Argument(help="Who.")],
    campaign_id: Annotated[str, typer.Argument(help="Which campaign.")],
    channel: Channel = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Campaigns to leave out.")] = None,
    as_of: AsOf = None,
    json: Json = False,
) -> None:
    """Why this campaign stands where it does for this person, down to drop and line; or why it is not offered."""
    query = Query(channel=channel, exclude=frozenset(exclude or ()), at=as_of)
    with open_answering(Settings()) as here:
        found = here.recommender.why(user_id, campaign_id, query, here.snapshot, here.trail)
    document = found.model_dump(mode="json")
    emit(document, _text(document))


def _text(why: dict[str, Any]) -> str:
    place = f"rank {why['rank']}" if why["offered"] else f"not offered ({why['rule']})"
    score = "" if why["ranking_score"] is None else f", score {why['ranking_score']:.3f}"
    lines = [f"{why['user_id']}, {why['campaign_id']}: {place}{score}", f"  {why['reason']}"]
    for part in why["evidence"]:
        figures = ", ".join(f"{name} {value}" for name, value in part.items() if name not in NOT_FIGURES)
        lines.append(f"  {part['channel']:<22} {part['contribution']:.3f}  {figures}")
        lines += [f"      {_source(source)}" for source in part["sources"]]
    if why["history"]:
        lines.append("  between the two")
        lines += [f"      {source['event']}: {_source(source)}" for source in why["history"]]
    if why["holdout"]:
        lines.append("  held out: offered what does well with everyone")
    if why["degraded"]:
        lines.append(f"  without {', '.join(why['degraded'])}")
    return escape("\n".join(lines))


def _source(source: dict[str, Any]) -> str:
    return f"{source['message_id']}  drop {source['drop']} line {source['line']}, run {source['run_id']}"
