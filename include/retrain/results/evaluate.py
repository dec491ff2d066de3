"""What evaluate reports: every model measured on the same holdout rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from retrain.results.base import CurrentName, Decision, Interval, Result, StageReport


class MetricEstimate(Result):
    """A metric with its interval."""

    value: float | None
    low: float | None = None
    high: float | None = None


class PairedGain(Result):
    """The gain of `model` over `against` on the same rows, with its interval; above zero is better."""

    model: str
    against: CurrentName
    metric: str
    gain: float
    low: float
    high: float
    within_low: float = Field(description="of the gain and what `gate.margin` grants, a share of the other's score")
    within_high: float
    level: float
    blocks: int
    resamples: int


class Slice(Result):
    """The models on the holdout rows with one value of a column."""

    column: str
    value: str
    rows: int
    scores: dict[CurrentName, float | None] = Field(description="the primary metric per model; None where undefined")


class Finding(Result):
    """A measurement of a model other than its metrics, for the gate to judge."""

    check: Literal["calibration", "overfit", "leak", "fairness", "case", "size", "limit"]
    model: str
    about: str = Field(default="", description="which column, group, feature or case")
    value: float | None = Field(description="None: undefined on these rows")
    low: float | None = None
    high: float | None = None
    rows: int = 0
    text: str = Field(default="", description="what was measured, for people")


class EvaluateReport(StageReport):
    """Candidates, champion and baselines, measured on the same holdout rows."""

    FORMER: ClassVar[Mapping[str, str]] = {"looks": "earlier_analyses", "sealed": "holdout"}

    decision: Decision = Field(description="measured, or inconclusive")
    level: float | None = Field(
        default=None, description="chance of a wrong promotion that each comparison of this interim analysis may have"
    )
    earlier_analyses: int = Field(default=0, description="earlier interim analyses of these holdout rows")
    lost: str = Field(default="", description="why the reference champion could not be scored")
    findings: tuple[Finding, ...] = ()
    holdout: tuple[Interval, ...] = ()
    rows: int = 0
    blocks: int = 0
    metrics: dict[CurrentName, dict[str, MetricEstimate]] = Field(default={}, description="model → metric → value")
    paired: tuple[PairedGain, ...] = ()
    slices: tuple[Slice, ...] = ()
    importance: dict[CurrentName, dict[str, float]] = Field(
        default={}, description="model → feature → mean loss of score"
    )
    unknown_categories: dict[str, int] = Field(default={}, description="rows with a category no model has seen")
    plots: tuple[str, ...] = ()
    tables: tuple[str, ...] = Field(default=(), description="CSV files for `dvc plots`")
