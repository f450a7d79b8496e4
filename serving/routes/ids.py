"""Ids in paths. Some do not fit one: they come in the query, where the path says `-`."""

from collections.abc import Callable
from typing import Annotated

from fastapi import Path, Query
from fastapi.exceptions import RequestValidationError

from persona.schemas import Id

SEE_QUERY = "-"
"""The path segment that stands for the query's parameter of the same name."""


def id_asked_for(name: str, *, what: str, example: str, odd: str) -> Callable[[str, str | None], str]:
    """A dependency on the id of this name: from the path, or from the query where the path says so. `odd` fits no path."""

    def asked(
        in_path: Annotated[
            Id, Path(alias=name, description=f"{what}; `-` for an id that does not fit a path.", examples=[example])
        ],
        in_query: Annotated[Id | None, Query(alias=name, description="The id, where the path says `-`.", examples=[odd])] = None,
    ) -> str:
        if in_path != SEE_QUERY:
            return in_path
        if in_query is None:
            raise RequestValidationError(
                [{"type": "missing", "loc": ("query", name), "msg": "Required where the path says -", "input": None}]
            )
        return in_query

    return asked


asked_user = id_asked_for("user_id", what="Who is meant", example="u_001", odd="team/anna")
asked_campaign = id_asked_for("campaign_id", what="The campaign", example="c_102", odd="spring/2026")
