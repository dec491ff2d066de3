"""What regret reports: the champion against shadows that were fitted on newer rows."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from retrain.results.base import Decision, Interval, Result, Signal, StageReport, Utc, WindowRegret


class IntervalRegret(Result):
    """The champion's regret on one interval, a figure per training window; none where none could be measured."""

    interval: Interval
    windows: tuple[WindowRegret, ...] = ()
    reason: str
    effective_at: Utc = Field(description="as-of time of the run that measured it")


class RegretReport(StageReport):
    """What the champion lost above newer models, on intervals that neither had seen."""

    decision: Decision = Field(description="measured, blind (no shadow is newer than the champion) or undetermined")
    version: int | None = Field(default=None, description="the champion")
    intervals: tuple[IntervalRegret, ...] = Field(default=(), description="that have labels, oldest first")
    left_out: tuple[str, ...] = Field(default=(), description="intervals whose data or labels are in doubt")
    price: float | None = Field(default=None, description="of one training, `policy.regret.price`")
    sums: dict[str, float] = Field(default={}, description="training window → regret since the last training")
    html: str | None = None

    def facts(self) -> dict[str, Any]:
        """The sum of each window, and the price."""
        return {"regret": self.sums, "price": self.price}

    def signals_of(self, champion: int) -> tuple[Signal, ...]:
        """The regret of each interval that this run has measured, with its figures."""
        return tuple(
            Signal(
                question="regret",
                interval=measured.interval,
                champion=champion,
                verdict="measured" if measured.windows else "undetermined",
                reason=measured.reason,
                effective_at=measured.effective_at,
                regret=measured.windows,
            )
            for measured in self.intervals
            if measured.effective_at == self.effective_at
        )
