"""What diagnose reports: broken data, wrong labels, or a changed world."""

from __future__ import annotations

from pydantic import Field

from retrain.results.base import Decision, Interval, Signal, StageReport

HELD = ("broken", "suspect")
"""Kinds of an interval that nobody learns from until a person has released it."""


class DiagnoseReport(StageReport):
    """Which kind it is: broken data or wrong labels (stop), a changed world (retrain), or nothing."""

    decision: Decision = Field(description="broken, suspect, changed, sound or undetermined: nothing was looked at")
    of: tuple[tuple[Interval, str], ...] = Field(default=(), description="each interval that it says something of")
    open: tuple[Interval, ...] = Field(
        default=(), description="the suspect ones that later intervals may still show to be of a changed world"
    )
    answered: tuple[Interval, ...] = Field(default=(), description="the suspect ones of which that is shown now")
    html: str | None = None

    def answers(self) -> tuple[tuple[str, Interval, str, str], ...]:
        """The kind of each interval that the diagnosis is about."""
        return tuple(("kind", interval, kind, self.decision.reasons[0]) for interval, kind in self.of)

    def signals_of(self, champion: int) -> tuple[Signal, ...]:
        """The kinds as facts, with what later intervals may show, or have shown."""
        doubts = dict.fromkeys(self.open, "open") | dict.fromkeys(self.answered, "answered")
        return tuple(
            signal.model_copy(update={"doubt": doubts.get(signal.interval, "")})
            for signal in super().signals_of(champion)
        )
