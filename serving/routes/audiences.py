"""Routes that name people: whom to show a campaign, who is like whom. For the team; no answer to a customer comes from here."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query
from fastapi.exceptions import RequestValidationError
from pydantic import StringConstraints

from persona.ranking import recommender
from persona.schemas import Audience, Id, SimilarPeople
from serving.problems import problems
from serving.routes.recommendations import SEE_QUERY, asked_user
from serving.services import ServicesDep

router = APIRouter(tags=["audiences"])

HowMany = Annotated[int, Query(ge=1, le=100, description="How many people at most.")]


def asked_campaign(
    campaign_id: Annotated[Id, Path(description="The campaign; `-` for an id that does not fit a path.", examples=["c_102"])],
    named: Annotated[Id | None, Query(alias="campaign_id", description="The id, where the path says `-`.")] = None,
) -> str:
    """The id from the path, or from the query where the path says so."""
    if campaign_id != SEE_QUERY:
        return campaign_id
    if named is None:
        raise RequestValidationError(
            [{"type": "missing", "loc": ("query", "campaign_id"), "msg": "Required where the path says -", "input": None}]
        )
    return named


@router.get("/users/{user_id}/similar", summary="People with similar conversations", responses=problems(400, 404, 422, 503))
async def similar(user_id: Annotated[str, Depends(asked_user)], services: ServicesDep, k: HowMany = 10) -> SimilarPeople:
    """Nearest first; empty for someone who is known and never said anything."""
    return await asyncio.to_thread(services.people.similar, user_id, k=k)


@router.get("/campaigns/{campaign_id}/audience", summary="Whom to show this campaign", responses=problems(400, 404, 422, 503))
async def audience(
    campaign_id: Annotated[str, Depends(asked_campaign)],
    services: ServicesDep,
    k: HowMany = 20,
    channel: Annotated[
        Annotated[Id, StringConstraints(to_lower=True)] | None, Query(description="Only who may be asked on this channel.")
    ] = None,
) -> Audience:
    """Only who may be offered it, by the score that it has in their own answers. Everyone's ranking is made: the more, the longer."""
    current = await services.snapshots.catch_up()
    question = recommender.Query(k=k, channel=channel)
    return await asyncio.to_thread(services.people.audience, campaign_id, question, current.snapshot)
