"""What train reports: the fitted candidates and baselines, and the holdout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from retrain.results.base import Interval, Result, StageReport, Utc
from retrain.results.champion import Configuration


class FittedModel(Result):
    """A fitted pipeline in the run's workspace."""

    name: str = Field(description="recalibrated, refresh, new, changed, naive or simple")
    kind: Literal["recalibrated", "refresh", "new", "baseline"]
    configuration: Configuration
    training: str = Field(description="digest of the training rows")
    intervals: tuple[Interval, ...]
    rows: int
    key: str
    digest: str
    inner_score: float | None = Field(default=None, description="mean of the primary metric over the inner folds")


class TrainReport(StageReport):
    """The fitted candidates and baselines, and the holdout that is kept back for the judgement."""

    FORMER: ClassVar[Mapping[str, str]] = {"sealed": "holdout"}

    fitted: tuple[FittedModel, ...]
    holdout: tuple[Interval, ...]
    judged_from: Utc | None = Field(
        default=None, description="start of the holdout rows that judge, where a candidate was fitted on those before"
    )
    search: tuple[dict[str, Any], ...] = Field(default=(), description="every configuration tried, with its scores")
    unlabelled: int = Field(default=0, description="rows without a label, left out")
    seed: int
    notes: tuple[str, ...] = ()
