"""What people say and do, as it comes in."""

from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Header, Request, Response
from pydantic import BaseModel, Field

from persona.intake.arrivals import MOST
from persona.schemas import Reason
from serving.auth import Caller
from serving.problems import FieldError, problem, problems
from serving.scopes import REFUSALS, needs
from serving.services import ServicesDep

router = APIRouter(tags=["ingestion"], dependencies=[needs("ingest")], responses=REFUSALS)

MESSAGE = {"user_id": "u_001", "message": "Do you have trail running shoes?", "channel": "chat"}
CONVERSION = {"user_id": "u_001", "event": "conversion", "campaign_id": "c_102", "channel": "email", "value": 89.0}
RECORD: dict[str, Any] = {
    "type": "object",
    "required": ["user_id"],
    "properties": {
        "user_id": {"type": ["string", "integer"]},
        "message": {"type": "string"},
        "timestamp": {"description": "ISO 8601 (no zone: UTC), or epoch seconds or milliseconds; now, where there is none."},
        "message_id": {"type": ["string", "integer"], "description": "The same one twice is one."},
        "conversation_id": {"type": ["string", "integer"]},
        "campaign_id": {"type": ["string", "integer"]},
        "intent": {"type": "string"},
        "channel": {"type": "string"},
        "event": {"type": "string", "description": "`message` where there is none, which then needs a `message`."},
        "value": {"type": "number"},
    },
    "description": "A record as in a drop; any other field is kept.",
}


def _body(example: dict[str, Any]) -> dict[str, Any]:
    schema = {"oneOf": [RECORD, {"type": "array", "items": {}, "minItems": 1, "maxItems": MOST}]}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema, "example": example}}}}


class RefusedRecord(BaseModel):
    """A record that is not taken."""

    index: int = Field(description="Its place among those that were sent, from 0.")
    reason: Reason
    detail: str


class TakenIn(BaseModel):
    """What became of the records. Those that were accepted outlive a crash and a power cut, and count for the next answer."""

    drop: str = Field(description="The drop that they are part of, as in the pipeline's ledger.")
    accepted: int
    rejected: list[RefusedRecord]


EXAMPLE = {"drop": "9f2c…", "accepted": 1, "rejected": []}
RESPONSES: dict[int | str, dict[str, Any]] = {
    202: {"content": {"application/json": {"example": EXAMPLE}}},
    **problems(400, 409, 413, 415, 422, 503, 507),
}
IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1, max_length=256, description="Sent again with the same body, it changes nothing; with another, it is a 409."
    ),
]


@router.post(
    "/conversations",
    summary="Take messages in",
    status_code=202,
    response_model=TakenIn,
    responses=RESPONSES,
    openapi_extra=_body(MESSAGE),
)
async def conversations(request: Request, services: ServicesDep, idempotency_key: IdempotencyKey = None) -> Response:
    """One record or up to 1,000. Messages may come with events among them, and the other way round."""
    return await _taken_in(request, services, idempotency_key)


@router.post(
    "/events",
    summary="Take events in",
    status_code=202,
    response_model=TakenIn,
    responses=RESPONSES,
    openapi_extra=_body(CONVERSION),
)
async def events(request: Request, services: ServicesDep, idempotency_key: IdempotencyKey = None) -> Response:
    """One record or up to 1,000: impression, open, click, reply, conversion, unsubscribe, dismiss."""
    return await _taken_in(request, services, idempotency_key)


async def _taken_in(request: Request, services: ServicesDep, key: str | None) -> Response:
    caller: Caller = request.state.caller
    taken = await services.ingestion.take_in(await request.body(), caller=caller.name, key=key)
    if taken.drop is None:
        errors = [FieldError(field=str(refused.index), reason=f"{refused.reason}: {refused.detail}") for refused in taken.refused]
        return problem(request.scope, 422, kind="invalid", detail="None of the records is valid.", errors=errors)
    rejected = [{"index": refused.index, "reason": refused.reason, "detail": refused.detail} for refused in taken.refused]
    document = {"drop": taken.drop, "accepted": taken.accepted, "rejected": rejected}
    return Response(orjson.dumps(document), 202, media_type="application/json")
