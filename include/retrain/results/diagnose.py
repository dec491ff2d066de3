"""What diagnose reports: broken data, wrong labels, or a changed world."""

from __future__ import annotations

from pydantic import Field

from retrain.results.base import Decision, Interval, StageReport

HELD = ("broken", "suspect")
"""Kinds of an interval that nobody learns from until a person has released it."""


class DiagnoseReport(StageReport):
    """Which kind it is: broken data or wrong labels (stop), a changed world (retrain), or nothing."""

    decision: Decision = Field(description="broken, suspect, changed or sound")
    of: tuple[tuple[Interval, str], ...] = Field(default=(), description="each interval that it says something of")
    html: str | None = None

    def answers(self) -> tuple[tuple[str, Interval, str, str], ...]:
        """The kind of each interval that the diagnosis is about."""
        return tuple(("kind", interval, kind, self.decision.reasons[0]) for interval, kind in self.of)
