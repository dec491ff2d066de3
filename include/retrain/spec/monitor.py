"""`scoring` and `monitor`: how the champion scores each interval, and how it is watched."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from retrain.spec.base import Every, Part


class Scoring(Part):
    """How each interval's rows are scored by the champion of their time."""

    rejected: Literal["stop", "quarantine", "abstain"] = Field(
        default="quarantine",
        description="a row that breaks its columns' contract: stop scores nothing, quarantine sets the row aside,"
        " abstain keeps it without a score; counted either way",
    )


class Monitor(Part):
    """How the champion is watched between trainings."""

    every: Every | None = Field(default=None, description="schedule of the monitor; by default each interval")
    margin: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.03, description="how much worse than expected counts, as a share of the expected score"
    )
    level: Annotated[float, Field(gt=0, lt=0.5)] = Field(
        default=0.01, description="chance that a measurement on mature labels calls a champion fallen that did not fall"
    )
    min_rows: int = Field(default=200, ge=20, description="labelled rows below which nothing is said")
