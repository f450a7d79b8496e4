"""What to offer a person, and why."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response
from pydantic import ConfigDict

from persona.ranking import recommender
from persona.schemas import Answer, Why
from serving.problems import problems
from serving.routes.cached import CachedRoute
from serving.routes.ids import asked_user
from serving.routes.queries import RecommendationQuery, WhyQuery
from serving.routes.texts import Texts
from serving.scopes import REFUSALS, needs
from serving.services import ServicesDep

router = APIRouter(tags=["recommendations"], dependencies=[needs("read")], responses=REFUSALS)
cached = APIRouter(route_class=CachedRoute)

EXAMPLE = {
    "user_id": "u_001",
    "retrieval_source": "computed",
    "recommendations": [
        {
            "campaign_id": "c_102",
            "ranking_score": 0.81,
            "reason": "People with similar conversations engaged with this (12 people).",
            "rank": 1,
            "evidence": [{"channel": "similar_users", "score": 1.0, "contribution": 0.81, "users": 12}],
        }
    ],
    "generation": "g_20260101T000000000Z",
    "as_of": "2026-01-01T00:00:00Z",
    "known_user": True,
    "degraded": [],
    "holdout": False,
}
WHY_EXAMPLE = {
    "user_id": "u_001",
    "campaign_id": "c_102",
    "offered": True,
    "rank": 1,
    "ranking_score": 0.81,
    "rule": None,
    "reason": "It answers the intent “running”, expressed once.",
    "evidence": [
        {
            "channel": "intents",
            "score": 1.0,
            "contribution": 0.81,
            "intent": "running",
            "messages": 1,
            "message_id": "m_5f2b…",
            "sources": [
                {
                    "message_id": "m_5f2b…",
                    "drop": "ab12…",
                    "line": 7,
                    "run_id": "3f0c…",
                    "at": "2026-01-01T00:00:00Z",
                }
            ],
        }
    ],
    "history": [],
    "generation": "g_20260101T000000000Z",
    "as_of": "2026-01-01T00:00:00Z",
    "known_user": True,
    "degraded": [],
    "holdout": False,
}


class TextsQuestion(RecommendationQuery):
    """What someone says, and what is wanted for it."""

    model_config = ConfigDict(strict=True)  # `true` is no number

    texts: Texts


@cached.get(
    "/recommendations/{user_id}",
    summary="What to offer this person now, and why",
    response_model=Answer,
    responses={
        200: {
            "description": "Best first. Someone unknown gets what does well now, with `known_user` false.",
            "content": {"application/json": {"example": EXAMPLE}},
        },
        **problems(400, 422, 503),
    },
)
async def recommendations(
    user_id: Annotated[str, Depends(asked_user)], query: Annotated[RecommendationQuery, Query()], services: ServicesDep
) -> Response:
    """Campaigns that this person may be offered: running, consented to, not capped, not already decided on."""
    return Response(await services.answers.for_user(user_id, query.wanted), media_type="application/json")


router.include_router(cached)


@router.post(
    "/recommendations",
    summary="What to offer someone who says this",
    response_model=Answer,
    responses={
        200: {
            "description": "As for a person of whom nothing but these texts is known; `user_id` is null.",
            "content": {"application/json": {"example": {**EXAMPLE, "user_id": None}}},
        },
        **problems(400, 413, 415, 422, 503),
    },
)
async def recommendations_for_texts(question: TextsQuestion, services: ServicesDep) -> Response:
    """By what is like the texts, what answers their intents and what they name; nothing is kept.

    503 also where too many texts wait to be read already.
    """
    wanted = recommender.Query(k=question.k, channel=question.channel, exclude=question.exclude)
    return Response(
        await services.texts.for_texts(question.texts, wanted, explain=question.explain), media_type="application/json"
    )


@router.get(
    "/recommendations/{user_id}/why",
    summary="Why this person is offered a campaign, or why not",
    response_model=Why,
    responses={
        200: {
            "description": "The evidence down to drop, line and run; or the `rule` that keeps the campaign out.",
            "content": {"application/json": {"example": WHY_EXAMPLE}},
        },
        **problems(400, 404, 422, 503),
    },
)
async def why(
    user_id: Annotated[str, Depends(asked_user)], query: Annotated[WhyQuery, Query()], services: ServicesDep
) -> Response:
    """Ranked as for an answer with the same `channel` and `exclude`; only the person's own messages are named."""
    question = recommender.Query(channel=query.channel, exclude=query.exclude)
    return Response(await services.answers.why(user_id, query.campaign_id, question), media_type="application/json")
