"""`policy`: when to retrain."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from retrain.spec.base import Duration, Part


class Budget(Part):
    """How many trainings a period may hold."""

    trainings: int = Field(ge=1, description="as many trainings at most")
    per: Duration = Field(description="in a span of this length, on the data's clock")


class Regret(Part):
    """Retrain when what the champion loses above a newer model has paid for a training: `{}` takes the defaults."""

    price: float = Field(
        default=0.03, gt=0, description="of one training: it is worth losing this share of the loss of one interval"
    )
    horizon: int = Field(default=2, ge=0, description="intervals ahead whose expected regret counts as well")
    max_rows: int = Field(
        default=100_000,
        ge=100,
        description="rows that a shadow is fitted on, drawn from its window; with fewer rows than the champion has it"
        " is at a disadvantage, and regret is underestimated",
    )


class Policy(Part):
    """When to retrain. What says no comes first: broken data, no new data, cooldown, budget."""

    combine: Literal["any", "all"] = Field(default="any", description="whether one rule is enough, or all must say yes")
    schedule: int = Field(default=1, ge=0, description="every so many intervals; 0 is never")
    drift: bool = Field(default=True, description="when the data drifted")
    regret: Regret | None = Field(
        default=None, description="when a newer model would have done better, by so much as a training costs"
    )
    performance: bool = Field(default=False, description="when mature labels show that the champion fell")
    estimated: bool = Field(default=False, description="when the performance estimated without labels fell")
    max_age: Duration | None = Field(default=None, description="of the champion's newest training row")
    new_rows: float | None = Field(
        default=None, gt=0, description="mature rows it has not seen, as a share of those it was trained on"
    )
    alarms: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1, le=100)]] = Field(
        default=(1, 1), description="hysteresis: [k, n], a signal counts when k of its last n are alarms"
    )
    cooldown: Duration = Field(default=timedelta(0), description="no training sooner after the last one")
    budget: Budget | None = Field(default=None, description="more trainings have to wait, or be forced")
    min_new_rows: int = Field(default=1, ge=1, description="mature rows that the champion has not seen")

    @model_validator(mode="after")
    def _check_alarms(self) -> Self:
        if self.alarms[0] > self.alarms[1]:
            raise ValueError(f"alarms: {self.alarms[0]} of the last {self.alarms[1]} can never be")
        return self
