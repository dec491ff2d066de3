"""What measure reports: realised performance on matured labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from retrain.results.base import Decision, Interval, Result, Signal, StageReport


class SliceFall(Result):
    """One value of a slice's column: the realised metric against the expected one."""

    column: str
    value: str
    rows: int
    realised: float | None
    expected: float | None
    fell: bool = False


class RealisedPerformance(Result):
    """The version that answered an interval, once its labels are there."""

    FORMER: ClassVar[Mapping[str, str]] = {"promised": "expected_score"}

    interval: Interval
    version: int
    verdict: Literal["alarm", "calm", "undetermined"]
    reason: str
    rows: int = 0
    coverage: float = 0.0
    value: float | None = None
    low: float | None = None
    high: float | None = None
    expected_score: float | None = None
    expected: float | None = Field(default=None, description="on these very rows, if outcomes followed as expected")
    excess: float | None = Field(default=None, description="realised above expected loss, as a share of the expected")
    excess_low: float | None = None
    outside: tuple[str, ...] = Field(default=(), description="the limits of the spec's gate that it does not keep")
    fell: bool = Field(
        default=True,
        description="of an alarm: whether it fell below what was expected, not only below a limit",
    )
    recomputed: bool = Field(
        default=False, description="whether the answers were computed again, because no scores were on record yet"
    )
    suspect: str = Field(default="", description="why the labels look wrong")
    cause: Literal["", "world", "rate", "noise", "unknown"] = Field(
        default="", description="of a great fall: a changed world, a changed rate of the outcome, or labels in doubt"
    )
    cause_reason: str = ""
    answers: tuple[Interval, ...] = Field(
        default=(), description="intervals with labels in doubt of which it shows that the world had changed there too"
    )
    slices: tuple[SliceFall, ...] = ()


class MeasureReport(StageReport):
    """Realised performance of the champion on the intervals whose labels have matured."""

    decision: Decision = Field(description="alarm, calm or undetermined")
    metric: str = ""
    realised: tuple[RealisedPerformance, ...] = Field(default=(), description="oldest first; the newest decides")
    html: str | None = None

    def facts(self) -> dict[str, Any]:
        """The realised metric of each interval."""
        return {"metric": self.metric, "realised": {score.interval.name: score.value for score in self.realised}}

    def answers(self) -> tuple[tuple[str, Interval, str, str], ...]:
        """The verdict on each interval whose labels are there."""
        return tuple(("realised", score.interval, score.verdict, score.reason) for score in self.realised)

    def signals_of(self, champion: int) -> tuple[Signal, ...]:
        """The verdicts as facts about the version that answered each interval, whichever serves."""
        signals = super().signals_of(champion)
        versions = (score.version for score in self.realised)
        return tuple(
            signal.model_copy(update={"champion": version}) for signal, version in zip(signals, versions, strict=True)
        )
