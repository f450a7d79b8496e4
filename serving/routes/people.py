"""What is held on a person: handed out, or erased."""

import asyncio
import uuid
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Response

from persona.privacy import erasure, holdings
from persona.settings import Settings
from persona.stores.opening import open_stores
from serving.problems import problems
from serving.routes.ids import asked_user
from serving.scopes import REFUSALS, needs
from serving.services import ServicesDep

router = APIRouter(tags=["people"], dependencies=[needs("admin")], responses=REFUSALS)

LEASE_WAIT_SECONDS = 30.0
"""How long an erasure waits for a run that is writing before it tells the client to come back."""
EXPORT = "export"
GONE = "Not found from now on."
PROOF = {
    "erasure": "3f0c…",
    "user": "9d1e…",
    "at": "2026-01-01T00:00:00Z",
    "found": {"records": 12, "drops": 12, "milvus": 3},
    "left": {"records": 0, "drops": 0, "milvus": 0},
    "drops": [{"drop": "ab12…", "lines": [3, 7], "emptied": False}],
    "sources": [{"file": "monday.jsonl", "rewritten": True, "why": ""}],
    "mentions": [],
    "mentions_in_all": 0,
    "backups": [],
    "residue": [{"where": "MongoDB's oplog, journal, free pages and log", "removed_by": "`persona erase --scrub`"}],
}


@router.get(
    "/users/{user_id}/export",
    operation_id=EXPORT,
    summary="Everything held on this person",
    responses={200: {"description": "One document, from every store and claimed drop."}, **problems(400, 404, 422, 503)},
)
async def export(user_id: Annotated[str, Depends(asked_user)], services: ServicesDep) -> Response:
    """Records, lines in quarantine, drops, the customer's entry, vectors, relations, facts and totals."""
    document = await asyncio.to_thread(_export, user_id, services.settings)
    return Response(document, media_type="application/json")


@router.delete(
    "/users/{user_id}",
    summary="Erase this person everywhere, with the proof of it",
    responses={
        200: {
            "description": "The proof: nothing is `left`.",
            "content": {"application/json": {"example": PROOF}},
            "links": {"export": {"operationId": EXPORT, "parameters": {"user_id": "$request.path.user_id"}, "description": GONE}},
        },
        500: {"description": "Something is `left`: ask again.", "content": {"application/json": {"example": PROOF}}},
        **problems(400, 404, 422, 503),
    },
)
async def erase(user_id: Annotated[str, Depends(asked_user)], services: ServicesDep) -> Response:
    """Every store, claimed drop and watched file; older drops do not bring the person back, new contact is welcome.

    While a run is writing this waits, and after half a minute answers 503 with `Retry-After`.
    """
    proof = await asyncio.to_thread(_erase, user_id, services.settings)
    return Response(orjson.dumps(proof), 200 if erasure.is_complete(proof) else 500, media_type="application/json")


# Rare and slow: they open the stores for themselves rather than queue among those who wait for an answer.


def _export(user_id: str, settings: Settings) -> bytes:
    with open_stores(settings) as stores:
        return orjson.dumps(holdings.export(user_id, settings, stores), default=str)


def _erase(user_id: str, settings: Settings) -> dict[str, Any]:
    patient = settings.model_copy(update={"lease_wait_seconds": LEASE_WAIT_SECONDS})
    with open_stores(settings) as stores:
        return erasure.erase(user_id, patient, stores, run_id=f"erase-{uuid.uuid4()}")
