"""The application: what is mounted where. Routes are in `routes`, what they stand on in `services`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.telemetry import TelemetryConfig

from persona.settings import Settings
from serving import traces
from serving.logs import log_json
from serving.middleware import Requests
from serving.problems import Problem, answer_with_problems
from serving.routes import audiences, health, intents, metrics, people, recommendations
from serving.services import open_services
from serving.stores import StoreOpeners, openers
from serving.telemetry import app_version
from serving.workers import stop_with_parent

# its spans and logs would hold addresses and what did not validate: ids and words of people
NOTHING_OF_THE_FRAMEWORKS: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}
DESCRIPTION = """
Campaign recommendations that explain themselves, from what people said and did.

A store that is down costs its part of the answer and is named under `degraded`; the answer itself fails only when nothing is left
to answer from. Errors are problem documents (RFC 9457). Every response carries `X-Request-ID`: send one to find it in the log.
"""


def create_app(settings: Settings, *, stores: StoreOpeners | None = None) -> FastAPI:
    """The service over the stores that the settings name, or over `stores`. Nothing is connected before the lifespan begins."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with traces.sent(settings):
            async with open_services(settings, stores or openers(settings)) as app.state.services:
                yield

    app = FastAPI(
        title="Persona",
        version=app_version(),
        description=DESCRIPTION,
        lifespan=lifespan,
        redirect_slashes=False,
        redoc_url=None,
        telemetry=NOTHING_OF_THE_FRAMEWORKS,
    )
    app.add_middleware(Requests)
    answer_with_problems(app)
    app.include_router(recommendations.router)
    app.include_router(intents.router)
    app.include_router(people.router)
    app.include_router(audiences.router)
    app.include_router(health.router)
    app.include_router(metrics.router)
    app.openapi = lambda: _described(app)  # type: ignore[method-assign]
    return app


def application() -> FastAPI:
    """The service of a process that does nothing else: set up by the environment, ended with the process that started it."""
    settings = Settings()
    log_json(settings.log_level)
    stop_with_parent()
    return create_app(settings)


def _described(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document; problem documents are not returned through the framework, so their schema is added by hand."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        schemas = document["components"]["schemas"]
        problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= problem.pop("$defs") | {"Problem": problem}
        app.openapi_schema = document
    return app.openapi_schema
