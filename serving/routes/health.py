"""Whether the service is alive, ready and well."""

import asyncio
from datetime import UTC, datetime
from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from persona.errors import StoreUnavailable
from persona.settings import StoreName
from serving.guard import StoreHealth
from serving.problems import problems
from serving.scopes import REFUSALS, needs
from serving.services import Services, ServicesDep

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """How the service and its stores are."""

    status: Literal["ok", "degraded", "down"] = Field(
        description="`degraded`: a store is missing, answers go on without it. `down`: none answers, or no campaigns are loaded."
    )
    stores: dict[StoreName, StoreHealth]
    generation: str | None = Field(description="The ranking model in force; null before the first.")
    data_age_s: float | None = Field(description="Age of the newest accepted record, seconds; null where there is none.")


class Alive(BaseModel):
    """Nothing but a sign of life."""

    status: Literal["ok"] = "ok"


@router.get(
    "/health",
    summary="The service and each of its stores",
    dependencies=[needs("read")],
    responses={503: {"description": "Down: nothing can be answered.", "model": Health}, **REFUSALS},
)
async def health(services: ServicesDep, response: Response) -> Health:
    """Asks every store, and answers within two seconds whether they do or not."""
    found = await health_of(services)
    response.status_code = 503 if found.status == "down" else 200
    return found


async def health_of(services: Services) -> Health:
    """How everything is at this moment, found out within two seconds."""
    found = await asyncio.gather(*(guard.health() for guard in services.guards))
    stores = {guard.name: store for guard, store in zip(services.guards, found, strict=True)}
    answering = [store.status == "ok" for store in found]
    current = services.snapshots.current
    snapshot = current.snapshot if current else None
    newest = snapshot.as_of if snapshot else None
    return Health(
        status="down" if snapshot is None or not any(answering) else "ok" if all(answering) else "degraded",
        stores=stores,
        generation=snapshot.generation if snapshot else None,
        data_age_s=round(max((datetime.now(UTC) - newest).total_seconds(), 0.0), 3) if newest else None,
    )


@router.get("/livez", summary="Whether the process is up")
async def livez() -> Alive:
    """Always, as long as there is someone to say it."""
    return Alive()


@router.get("/readyz", summary="Whether a recommendation can be answered now", responses=problems(503))
async def readyz(services: ServicesDep) -> Alive:
    """From the moment that the campaigns and the ranking model are loaded."""
    if services.snapshots.current is None:
        raise StoreUnavailable("mongodb", "the campaigns have not been loaded yet")
    return Alive()
