"""`drift`: when a batch counts as drifted."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from retrain.spec.base import ColumnName, Part, Share


class Drift(Part):
    """How a batch is compared with the rows that the champion was trained on."""

    min_rows: int = Field(default=200, ge=20, description="below: undetermined")
    sample: int = Field(default=5_000, ge=200, le=100_000, description="rows per side for the statistic")
    false_alarms: Annotated[float, Field(gt=0, le=0.2)] = Field(
        default=0.01, description="chance that a batch in which nothing changed is called drifted"
    )
    effect: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.1, description="smaller distances are no drift, however sure they are"
    )
    block: Literal["row", "hour", "day", "week", "interval"] | None = Field(
        default=None, description="rows of one block depend; by default the group, or evaluation.block"
    )
    share: Share = Field(default=0.1, description="importance of the drifted features that makes the batch drifted")
    missing: Share = Field(default=0.1, description="absolute change of the missing share that is drift")
    thresholds: dict[ColumnName, float] = Field(default={}, description="per column, instead of the default")
    ignore: tuple[ColumnName, ...] = Field(default=(), description="columns that are not compared")
