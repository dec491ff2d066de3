"""What labels reports: what came of the labels of each interval."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from retrain.results.base import Decision, Interval, Result, StageReport


class LabelBatch(Result):
    """The labels of one interval's rows that were delivered apart from them: key columns and target, one row a key."""

    sha256: str
    rows: int
    key: str = Field(description="where the file lies, relative to the store")


class IntervalLabels(Result):
    """The labels of one interval's rows, counted; `labels` is None while it waits for them."""

    interval: Interval
    labels: LabelBatch | None = None
    rows: int = Field(description="rows of the interval's batch")
    labelled: int = Field(default=0, description="rows that have a label")
    empty: int = Field(default=0, description="delivered without a label: missing, and never a no")
    unknown: int = Field(default=0, description="labels that are no class of the target, or not finite; no labels")
    unknown_values: tuple[str, ...] = Field(default=(), description="the first of these labels, by their words")
    duplicates: int = Field(default=0, description="delivered again with the same label; one is kept")
    contradictory: int = Field(default=0, description="keys that came with different labels; they get none")
    strangers: int = Field(default=0, description="labels without a row; left out")
    reason: str = Field(default="", description="why it waits")

    @property
    def coverage(self) -> float:
        """Labelled share of the rows, from 0 to 1."""
        return self.labelled / self.rows if self.rows else 0.0


class LabelsReport(StageReport):
    """The labels that this run looked for, interval by interval."""

    decision: Decision = Field(description="same, joined, or waiting for some")
    matured: int = Field(default=0, description="intervals whose labels should be there by now")
    joined: int = Field(default=0, description="and are, with enough of their rows")
    intervals: tuple[IntervalLabels, ...] = Field(default=(), description="those that this run looked at")

    def facts(self) -> dict[str, Any]:
        """Matured and joined intervals."""
        return {"matured": self.matured, "joined": self.joined}
