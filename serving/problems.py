"""What clients are told when they do not get what they asked for: problem documents (RFC 9457). What is wrong is decided elsewhere."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.types import Scope

from persona.errors import Busy, InvalidInput, LeaseLost, NotFound, PersonaError, StoreUnavailable, TooManyRequests

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER = {"Retry-After": "1"}
RETRY_AFTER_A_RUN = {"Retry-After": "30"}
UNREADABLE = frozenset({"json_invalid"})


class FieldError(BaseModel):
    """One thing that is wrong with one field."""

    field: str
    reason: str


class Problem(BaseModel):
    """A problem document (RFC 9457)."""

    type: str = Field(examples=["urn:persona:problem:invalid"])
    title: str = Field(examples=["Unprocessable Content"])
    status: int = Field(examples=[422])
    detail: str = Field(examples=["The request does not fit the contract: k."])
    instance: str = Field(examples=["/recommendations/u_001"], description="The path that was asked for.")
    request_id: str = Field(examples=["5f2b8c0e9d1a4c7f"], description="As in the header `X-Request-ID` and in the log.")
    errors: list[FieldError] = Field(default_factory=list, description="What is wrong, field by field.")


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problem responses of a route, for its OpenAPI description."""
    return {
        status: {
            "description": _phrase(status),
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in statuses
    }


def problem(
    scope: Scope,
    status: int,
    *,
    kind: str | None = None,
    detail: str = "",
    errors: Sequence[FieldError] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A problem document as a response; without a `kind` the status says it all, and the type is `about:blank`."""
    document = Problem(
        type=f"urn:persona:problem:{kind}" if kind else "about:blank",
        title=_phrase(status),
        status=status,
        detail=detail or HTTPStatus(status).description or _phrase(status),
        instance=quote(scope["path"]),
        request_id=scope["state"]["request_id"],
        errors=list(errors),
    )
    return Response(orjson.dumps(document.model_dump()), status, headers, MEDIA_TYPE)


def answer_with_problems(app: FastAPI) -> None:
    """Make every error of the framework and of the product a problem document. Unforeseen ones are the middleware's."""

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        detail = error.detail if error.detail != _phrase(error.status_code) else ""
        return problem(request.scope, error.status_code, detail=detail, headers=error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        found = error.errors()
        errors = [FieldError(field=".".join(map(str, part["loc"][1:])), reason=part["msg"]) for part in found]
        if any(part["type"] in UNREADABLE for part in found):
            return problem(request.scope, 400, kind="malformed", detail="The request cannot be read.", errors=errors)
        fields = ", ".join(dict.fromkeys(error.field for error in errors))
        return problem(
            request.scope, 422, kind="invalid", detail=f"The request does not fit the contract: {fields}.", errors=errors
        )

    @app.exception_handler(PersonaError)
    async def failed(request: Request, error: PersonaError) -> Response:
        match error:
            case StoreUnavailable():
                return problem(request.scope, 503, kind=error.code, detail=error.message, headers=RETRY_AFTER)
            case Busy() | LeaseLost():
                return problem(request.scope, 503, kind=error.code, detail=error.message, headers=RETRY_AFTER_A_RUN)
            case TooManyRequests():
                wait = {"Retry-After": str(error.retry_after)}
                return problem(request.scope, 429, kind=error.code, detail=error.message, headers=wait)
            case NotFound():
                return problem(request.scope, 404, kind=error.code, detail=error.message)
            case InvalidInput():
                return problem(request.scope, 422, kind=error.code, detail=error.message)
            case _:  # a store that refuses, another model: whoever runs the service can mend it
                return problem(request.scope, 503, kind=error.code, detail=str(error))


def _phrase(status: int) -> str:
    return HTTPStatus(status).phrase
