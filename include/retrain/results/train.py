"""What train reports: the fitted candidates and baselines, and the holdout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from retrain.results.base import Interval, Result, StageReport, Utc
from retrain.results.champion import Configuration

CandidateKind = Literal["refresh", "recalibrated", "new", "baseline"]
"""What a fitted model is: the champion's configuration on newer rows, the champion with its calibration refitted, a
configuration of its own, or a baseline."""


class ChainLink(Result):
    """A candidate as it was fitted at an earlier cut of the holdout: it answers the rows from there to the next cut."""

    until: Utc = Field(description="the cut: it was fitted on rows before, and answers rows from here on")
    key: str
    digest: str
    rows: int


class FittedModel(Result):
    """A fitted pipeline in the run's workspace; of a candidate that is forward chained, the one of the last cut."""

    name: str = Field(description="refresh, recalibrated, new, changed, naive or simple")
    kind: CandidateKind
    configuration: Configuration
    training: str = Field(description="digest of the training rows")
    intervals: tuple[Interval, ...]
    rows: int
    key: str
    digest: str
    inner_score: float | None = Field(default=None, description="mean of the primary metric over the inner folds")
    chain: tuple[ChainLink, ...] = Field(default=(), description="the same at the earlier cuts, oldest first")

    @property
    def renews(self) -> bool:
        """Whether it is what serves already, with newer rows."""
        return self.kind in ("refresh", "recalibrated")

    @property
    def answers_from(self) -> Utc:
        """The first moment whose rows no model of its chain was fitted on."""
        return self.chain[0].until if self.chain else self.intervals[-1].end


class TrainReport(StageReport):
    """The fitted candidates and baselines, and the holdout that is kept back for the judgement."""

    FORMER: ClassVar[Mapping[str, str]] = {"sealed": "holdout"}

    fitted: tuple[FittedModel, ...]
    holdout: tuple[Interval, ...]
    judged_from: Utc | None = Field(
        default=None, description="the first cut of the holdout: earlier rows teach, later ones judge; None: all judge"
    )
    search: tuple[dict[str, Any], ...] = Field(default=(), description="every configuration tried, with its scores")
    unlabelled: int = Field(default=0, description="rows without a label, left out")
    seed: int
    notes: tuple[str, ...] = ()
