"""What estimate reports: performance without labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from retrain.results.base import Decision, Interval, StageReport


class EstimateReport(StageReport):
    """Performance without labels: the metric on these rows, if outcomes follow the features as they did."""

    FORMER: ClassVar[Mapping[str, str]] = {"promised": "expected_score"}

    decision: Decision = Field(description="alarm, calm or undetermined")
    metric: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    expected_score: float | None = Field(default=None, description="on the holdout rows that the champion was gated on")
    version: int | None = None
    rows: int = 0
    reliable: bool | None = Field(default=None, description="whether earlier estimates held; None: too few to tell")
    html: str | None = None

    def facts(self) -> dict[str, Any]:
        """The estimate with its interval, and the version that it is about."""
        estimate = {"estimated": self.value, "low": self.low, "high": self.high}
        return {"metric": self.metric, "version": self.version, **estimate}

    def answers(self) -> tuple[tuple[str, Interval, str, str], ...]:
        """The verdict on the estimated performance."""
        return (("estimated", self.interval, self.decision.verdict, self.decision.reasons[0]),)
