"""The application: what is mounted where. Routes are in `routes`, what they stand on in `services`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.openapi.utils import get_openapi
from fastapi.telemetry import TelemetryConfig

from persona.settings import Settings
from serving import traces
from serving.auth import Keys
from serving.bodies import Bodies
from serving.cores import stay_on_one
from serving.logs import log_json
from serving.memory import collect_seldom, keep_what_there_is
from serving.middleware import REQUEST_ID, Requests
from serving.problems import Problem, answer_with_problems
from serving.routes import audiences, health, ingestion, intents, metrics, people, recommendations
from serving.scopes import refuse_undeclared, without_keys
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
        swagger_ui_oauth2_redirect_url=None,
        telemetry=NOTHING_OF_THE_FRAMEWORKS,
    )
    # from the innermost to the outermost: a browser asks without a key whether it may ask at all
    app.add_middleware(Bodies, max_bytes=settings.max_body_bytes)
    app.add_middleware(Keys, keys=settings.keys)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key", REQUEST_ID.decode()],
            expose_headers=["Retry-After", REQUEST_ID.decode()],
        )
    app.add_middleware(Requests)
    answer_with_problems(app)
    app.include_router(recommendations.router)
    app.include_router(intents.router)
    app.include_router(ingestion.router)
    app.include_router(people.router)
    app.include_router(audiences.router)
    app.include_router(health.router)
    app.include_router(metrics.router)
    refuse_undeclared(app)
    app.openapi = lambda: _described(app, keys=bool(settings.keys))  # type: ignore[method-assign]
    return app


def application() -> FastAPI:
    """The service of a process that does nothing else: set up by the environment, ended with the process that started it."""
    settings = Settings()
    log_json(settings.log_level)
    stop_with_parent()
    stay_on_one()
    app = create_app(settings)
    keep_what_there_is()
    collect_seldom()
    return app


def _described(app: FastAPI, *, keys: bool) -> dict[str, Any]:
    """The OpenAPI document; problem documents are not returned through the framework, so their schema is added by hand."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        schemas = document["components"]["schemas"]
        problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= problem.pop("$defs") | {"Problem": problem}
        if not keys:
            without_keys(document)
        app.openapi_schema = document
    return app.openapi_schema
