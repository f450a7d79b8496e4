"""What Prometheus reads. What is counted is in `serving.telemetry`."""

import asyncio

from fastapi import APIRouter, Request, Response

from serving import telemetry
from serving.routes.health import health_of
from serving.services import ServicesDep

router = APIRouter(tags=["health"])

EXAMPLE = 'persona_answers_total{source="cache"} 4711.0\n'


@router.get(
    "/metrics",
    summary="Figures for Prometheus",
    response_class=Response,
    responses={
        200: {
            "description": "In the format that `Accept` prefers: text or OpenMetrics.",
            "content": {"text/plain": {"example": EXAMPLE}},
        }
    },
)
async def metrics(services: ServicesDep, request: Request) -> Response:
    """Of all workers. Asks every store whether it is there, as `/health` does, so that nothing is told that is no longer true."""
    health = await health_of(services)
    telemetry.look({name: store.status == "ok" for name, store in health.stores.items()}, age_seconds=health.data_age_s)
    body, content_type = await asyncio.to_thread(telemetry.written, request.headers.get("accept", ""))
    return Response(body, headers={"content-type": content_type})
