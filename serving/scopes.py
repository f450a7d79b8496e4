"""What a caller may do: each route says which scope it needs, and the rate limit is counted there. Who asks is `auth`'s."""

from typing import Any

from fastapi import FastAPI, HTTPException, Request, params
from fastapi.openapi.models import HTTPBearer
from fastapi.routing import iter_route_contexts
from fastapi.security import SecurityScopes
from fastapi.security.base import SecurityBase

from persona.keys import Scope
from serving.auth import OPEN, Caller
from serving.problems import problems
from serving.services import Services

REFUSALS = problems(401, 403, 429)
"""What every route that needs a key may answer."""


class Bearer(SecurityBase):
    """The dependency of every route that needs a key, and how OpenAPI shows it."""

    def __init__(self) -> None:
        self.model = HTTPBearer(description="An API key, as `persona keys new` makes it.")
        self.scheme_name = "key"

    async def __call__(self, request: Request, needed: SecurityScopes) -> Caller:
        """The caller, who has these scopes and has not asked too often. Raises 403 or `TooManyRequests`."""
        services: Services = request.app.state.services
        caller: Caller = request.state.caller
        if "admin" in needed.scopes:
            request.state.audit = services.audit
        if not caller.scopes.issuperset(needed.scopes):
            scopes = " ".join(needed.scopes)
            challenge = f'Bearer error="insufficient_scope", scope="{scopes}"'
            raise HTTPException(403, f"This needs a key with the scope {scopes}.", {"WWW-Authenticate": challenge})
        await services.limits.admit(caller)
        return caller


BEARER = Bearer()


def needs(scope: Scope) -> params.Security:
    """The dependency of a route, or of all of a router, that only keys of this scope may use."""
    return params.Security(BEARER, scopes=[scope])


def refuse_undeclared(app: FastAPI) -> None:
    """Raise `ValueError` where a route neither needs a scope nor is open: it would answer to any key."""
    for route in iter_route_contexts(app.routes):
        declared = any(dependency.dependency is BEARER for dependency in getattr(route, "dependencies", ()))
        if not declared and route.path not in OPEN:
            raise ValueError(f"the route {route.path} declares no scope")


def without_keys(document: dict[str, Any]) -> None:
    """Take what an OpenAPI document says of keys out of it, where none are set."""
    document["components"].pop("securitySchemes", None)
    for path in document["paths"].values():
        for operation in path.values():
            operation.pop("security", None)
