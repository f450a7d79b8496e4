"""Routes that name people: whom to show a campaign, who is like whom. For the team; no answer to a customer comes from here."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import StringConstraints

from persona.ranking import people, recommender
from persona.schemas import Audience, Id, SimilarPeople
from serving.problems import problems
from serving.routes.ids import asked_campaign, asked_user
from serving.scopes import REFUSALS, needs
from serving.services import ServicesDep

router = APIRouter(tags=["audiences"], dependencies=[needs("admin")], responses=REFUSALS)

HowMany = Annotated[int, Query(ge=1, le=people.MOST, description="How many people at most.")]
SIMILAR_EXAMPLE = {"user_id": "u_001", "similar": [{"user_id": "u_017", "rank": 1, "similarity": 0.87}]}
AUDIENCE_EXAMPLE = {
    "campaign_id": "c_102",
    "audience": [{"user_id": "u_001", "rank": 1, "score": 0.81}],
    "generation": "g_20260101T000000000Z",
    "degraded": [],
}


@router.get(
    "/users/{user_id}/similar",
    summary="People with similar conversations",
    responses={200: {"content": {"application/json": {"example": SIMILAR_EXAMPLE}}}, **problems(400, 404, 422, 503)},
)
async def similar(user_id: Annotated[str, Depends(asked_user)], services: ServicesDep, k: HowMany = 10) -> SimilarPeople:
    """Nearest first; empty for someone who is known and never said anything."""
    return await asyncio.to_thread(services.people.similar, user_id, k=k)


@router.get(
    "/campaigns/{campaign_id}/audience",
    summary="Whom to show this campaign",
    description=(
        "Only who may be offered it, by the score that it has in their own answers. Everyone's ranking is made for it, "
        f"{people.MOST} people at most in each of three ways of finding them, so it takes seconds: audiences are made one after the "
        "other, and whoever would wait for too many others is told to come back (503)."
    ),
    responses={200: {"content": {"application/json": {"example": AUDIENCE_EXAMPLE}}}, **problems(400, 404, 422, 503)},
)
async def audience(
    campaign_id: Annotated[str, Depends(asked_campaign)],
    services: ServicesDep,
    k: HowMany = 20,
    channel: Annotated[
        Annotated[Id, StringConstraints(to_lower=True)] | None, Query(description="Only who may be asked on this channel.")
    ] = None,
) -> Audience:
    """Asked for in the line of those who want an audience."""
    current = await services.snapshots.catch_up()
    question = recommender.Query(k=k, channel=channel)
    return await services.audiences.take(lambda: services.people.audience(campaign_id, question, current.snapshot))
