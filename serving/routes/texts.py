"""The texts that a question may bring."""

from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints

CHARACTERS = 100_000
"""Of all texts of a question together: what is encoded in seconds."""


def _not_too_much(texts: list[str]) -> list[str]:
    if (characters := sum(map(len, texts))) > CHARACTERS:
        raise ValueError(f"{characters:,} characters are more than the {CHARACTERS:,} that a question may have in all its texts")
    return texts


Texts = Annotated[
    list[Annotated[str, StringConstraints(min_length=1)]],
    AfterValidator(_not_too_much),
    Field(
        min_length=1,
        max_length=1_000,
        description=f"At most {CHARACTERS:,} characters together.",
        examples=[["When will my new card be here?"]],
    ),
]
