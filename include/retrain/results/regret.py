"""What regret reports: the champion against shadows that were fitted on newer rows."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from retrain.results.base import Decision, Signal, StageReport


class RegretReport(StageReport):
    """What the champion lost above newer models, on intervals that neither had seen."""

    decision: Decision = Field(description="measured, blind (no shadow is newer than the champion) or undetermined")
    version: int | None = Field(default=None, description="the champion")
    measured: tuple[Signal, ...] = Field(
        default=(), description="each interval that has labels, oldest first, those of earlier runs as well"
    )
    left_out: tuple[str, ...] = Field(default=(), description="intervals whose data or labels are in doubt")
    price: float | None = Field(default=None, description="of one training, `policy.regret.price`")
    sums: dict[str, float] = Field(
        default={},
        description="training window → regret since the last training, over the newest intervals that make most of it,"
        " in losses of one interval",
    )
    html: str | None = None

    def facts(self) -> dict[str, Any]:
        """The sum of each window, and the price."""
        return {"regret": self.sums, "price": self.price}

    def signals_of(self, champion: int) -> tuple[Signal, ...]:
        """The regret of each interval that a run of this moment has measured."""
        return tuple(signal for signal in self.measured if signal.effective_at == self.effective_at)
