"""What drift reports: every column against its reference."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from retrain.results.base import Decision, Interval, Result, StageReport


class ColumnDrift(Result):
    """One column of the current batch against the reference."""

    column: str
    role: Literal["feature", "prediction", "target"] = "feature"
    test: str = Field(description="the statistic's name, or missing / new categories / constant")
    verdict: Literal["drift", "stable", "undetermined"]
    statistic: float | None = None
    threshold: float | None = Field(default=None, description="from where on the statistic is drift")
    p_value: float | None = Field(default=None, description="chance of such a statistic where nothing changed")
    weight: float | None = Field(default=None, description="the feature's part of all importance; None if unknown")
    reason: str


class DriftReport(StageReport):
    """The batch against the champion's reference rows, and against the batch before."""

    decision: Decision = Field(description="drift, stable, undetermined, or broken: data that nobody should train on")
    columns: tuple[ColumnDrift, ...] = Field(default=(), description="against the champion's reference")
    recent: tuple[ColumnDrift, ...] = Field(default=(), description="features against the previous interval's batch")
    broken: tuple[str, ...] = Field(default=(), description="columns that look broken, not changed, and the evidence")
    share: float | None = Field(default=None, description="importance of the drifted among the determined features")
    reference_rows: int = 0
    current_rows: int = 0
    html: str | None = None
    recent_html: str | None = None

    def answers(self) -> tuple[tuple[str, Interval, str, str], ...]:
        """Drift or calm; and that the interval is broken, where it is."""
        verdict, reason = self.decision.verdict, self.decision.reasons[0]
        alarm = {"drift": "alarm", "stable": "calm"}.get(verdict, "undetermined")
        broken = (("kind", self.interval, "broken", reason),) if verdict == "broken" else ()
        return (("drift", self.interval, alarm, reason), *broken)
