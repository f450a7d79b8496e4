"""What may be asked for beside an id: the parameters of a query, as every route that takes them understands them."""

from typing import Annotated, Any

from pydantic import AliasChoices, BaseModel, BeforeValidator, Field, StringConstraints

from persona.ranking import recommender
from persona.schemas import Id
from serving.answers import Wanted


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole)]
"""An integer as JSON has it, where 7.0 is one and `true` and "7" are none if the model is strict."""


class Circumstances(BaseModel):
    """What narrows down the choice."""

    channel: Annotated[Id, StringConstraints(to_lower=True)] | None = Field(
        default=None, description="Only campaigns that run on this channel.", examples=["email"]
    )
    exclude: list[Id] = Field(
        default_factory=list, max_length=1000, description="Campaigns to leave out; repeat it for each.", examples=[["c_101"]]
    )


class RecommendationQuery(Circumstances):
    """How many, and of which kind."""

    k: Whole = Field(
        default=5,
        ge=1,
        le=1000,
        validation_alias=AliasChoices("k", "top", "top_k"),
        description="How many campaigns at most. `top` and `top_k` mean the same.",
    )
    explain: bool = Field(default=True, description="Whether each item carries its `evidence`.")

    @property
    def wanted(self) -> Wanted:
        """As `Answers` asks for it."""
        return Wanted(recommender.Query(k=self.k, channel=self.channel, exclude=self.exclude), self.explain)


class WhyQuery(Circumstances):
    """About which campaign."""

    campaign_id: Id = Field(description="The campaign that is asked about.", examples=["c_102"])
