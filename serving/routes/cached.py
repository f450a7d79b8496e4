"""The short way of a route whose answer may be kept: no validation of what was valid before, no thread. What it asks is `Answers`."""

from collections.abc import Callable, Coroutine
from functools import lru_cache
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError
from starlette.datastructures import QueryParams
from starlette.types import Scope

from persona.schemas import Id
from serving.answers import Wanted
from serving.auth import Caller
from serving.limits import Admission
from serving.routes.ids import SEE_QUERY
from serving.routes.queries import RecommendationQuery
from serving.services import Services

QUERIES = 1_000
"""Ways of asking that are remembered: clients ask for the same in the same words."""
FOR_THE_FRAMEWORK = ("exclude", "user_id")
"""An answer without some campaigns is not kept; a person in the query is meant by a path that does not say who."""
NEEDED = "read"
"""The scope of whoever may ask; the framework tells the others."""
A_PERSON = TypeAdapter(Id)


class CachedRoute(APIRoute):
    """`/recommendations/{user_id}`. Whatever is not plainly a question whose answer may be kept goes the framework's way."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """What FastAPI calls for each request."""
        by_the_framework = super().get_route_handler()

        async def handle(request: Request) -> Response:
            user_id, wanted = person_in(request.scope), wanted_in(request.scope["query_string"])
            caller: Caller = request.scope["state"]["caller"]
            if user_id is None or wanted is None or NEEDED not in caller.scopes:
                return await by_the_framework(request)
            services: Services = request.app.state.services
            answer = await services.answers.for_user(user_id, wanted, Admission(services.limits, caller))
            return Response(answer, media_type="application/json")

        return handle


def person_in(scope: Scope) -> str | None:
    """Who is meant by the path; None where it does not say, or says nonsense."""
    try:
        user_id = A_PERSON.validate_python(scope["path_params"]["user_id"])
    except ValidationError:
        return None
    return None if user_id == SEE_QUERY else user_id


@lru_cache(QUERIES)
def wanted_in(query_string: bytes) -> Wanted | None:
    """What is asked for; None where the query does not fit the contract, or the answer is not to be kept."""
    parameters = QueryParams(query_string)
    if any(name in parameters for name in FOR_THE_FRAMEWORK):
        return None
    try:
        return RecommendationQuery.model_validate(dict(parameters)).wanted
    except ValidationError:
        return None
