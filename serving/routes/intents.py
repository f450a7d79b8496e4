"""Which intents texts show."""

import orjson
from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from serving.problems import problems
from serving.routes.queries import Whole
from serving.routes.texts import Texts
from serving.scopes import REFUSALS, needs
from serving.services import ServicesDep

router = APIRouter(tags=["intents"], dependencies=[needs("read")], responses=REFUSALS)

ONE = {"intent": "card_arrival", "intents": [{"intent": "card_arrival", "probability": 0.93}]}


class Likely(BaseModel):
    """An intent, and how likely it is shown; what all of them lack to 1 is the probability of none."""

    intent: str
    probability: float = Field(ge=0, le=1)


class Shown(BaseModel):
    """The intent that is shown, None where it is none of those that are known; and the likeliest ones."""

    intent: str | None
    intents: list[Likely]


class IntentsAnswer(Shown):
    """Of the texts together, where each intent is as likely as in the text that shows it most; and of each by itself."""

    texts: list[Shown]


class IntentsQuestion(BaseModel):
    """What was said."""

    model_config = ConfigDict(strict=True)  # `true` is no number

    texts: Texts
    k: Whole = Field(default=5, ge=1, le=1_000, description="How many intents, likeliest first.")


@router.post(
    "/intents",
    summary="Which intents texts show, or none of these",
    response_model=IntentsAnswer,
    responses={200: {"content": {"application/json": {"example": {**ONE, "texts": [ONE]}}}}, **problems(400, 413, 415, 422, 503)},
)
async def intents(question: IntentsQuestion, services: ServicesDep) -> Response:
    """By the classifier that labels people's messages: learned from the catalog's examples and from given intents, calibrated.

    503 also where too many questions wait already, and where the settings name another model than the stored vectors come from.
    """
    answer = await services.intents.of(question.texts, k=question.k)
    return Response(orjson.dumps(answer), media_type="application/json")
