"""`quality`: when a batch is sound."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from retrain.spec.base import Duration, Part, Severity


class NamedExpectation(Part):
    """Any Great Expectations expectation by its own name."""

    expect: str = Field(description="its name, like expect_column_median_to_be_between")
    severity: Severity = Field(default="stop", description="stop quarantines the batch, warn is only reported")
    args: dict[str, Any] = Field(default={}, description="its own arguments, column among them")


class Quality(Part):
    """What a sound batch looks like; a breach with severity stop quarantines it."""

    min_rows: int = Field(gt=0, description="row floor: fewer rows stop the batch")
    max_rows: int | None = Field(default=None, description="row ceiling: more rows stop the batch")
    freshness: Duration | None = Field(
        default=None, description="the newest row may be at most this much older than the interval's end"
    )
    expectations: tuple[NamedExpectation, ...] = Field(default=(), description="besides those that columns imply")
    failing_rows: int = Field(default=200, ge=0, le=10_000, description="how many failing rows are kept as evidence")
