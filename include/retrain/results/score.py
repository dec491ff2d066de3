"""What score reports: the scores of an interval, and how far they meet the labels."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from retrain.results.base import Decision, Result, StageReport


class Disparity(Result):
    """A row on which champion and challenger differ, with the score of each."""

    key: tuple[str, ...]
    champion: float
    shadow: float


class Disagreement(Result):
    """How the challenger's scores of the same rows differ from the champion's.

    Of a multiclass model the score is the probability of the class that the champion names.
    """

    version: int = Field(description="of the challenger")
    rows: int
    mean_champion: float
    mean_shadow: float
    mean_absolute: float = Field(description="mean of |challenger - champion|")
    correlation: float | None = Field(description="Spearman; None where one of the two is constant")
    decided_otherwise: float | None = Field(
        description="share of rows with another answer: on the other side of 0.5, or another class; None for numbers"
    )
    quantiles: dict[str, float] = Field(description="of challenger - champion")
    furthest: tuple[Disparity, ...] = Field(default=(), description="the rows that differ most")


class ScoreReport(StageReport):
    """The scores of an interval's rows, and the rows that were set aside."""

    decision: Decision = Field(description="scored, found (scored before), or skipped")
    version: int | None = Field(default=None, description="of the champion of that time")
    rows: int = 0
    scored: int = 0
    answered: dict[str, int] = Field(default={}, description="version → rows that got its answer")
    rejected: dict[str, int] = Field(default={}, description="breach → rows; a row may break two rules")
    unknown_categories: dict[str, int] = Field(default={}, description="rows with a category that training had not")
    outside: float | None = Field(
        default=None, description="regression: share of scores outside the range of the target in training"
    )
    key: str | None = Field(default=None, description="where the scores lie, relative to the store")
    sha256: str | None = None
    data: str | None = Field(default=None, description="SHA-256 of the batch that was scored")
    quarantined: str | None = Field(default=None, description="where the rows lie that were set aside")
    alias_moved: str | None = Field(default=None, description="how the champion alias differs from the ledger")
    library_skew: tuple[str, ...] = Field(
        default=(), description="libraries that the version pins and that are installed in other versions"
    )
    shadow: Disagreement | None = None
    html: str | None = None

    def facts(self) -> dict[str, Any]:
        """Rows, scored rows and the version that scored."""
        return {"rows": self.rows, "scored": self.scored, "version": self.version}


class Coverage(Result):
    """How far scores and labels of an interval meet. What is missing is counted, and is never a no."""

    predictions: int = Field(description="rows with a score")
    labels: int = Field(description="rows with a label")
    both: int
    unlabelled: int = Field(description="scores without a label (yet)")
    unpredicted: int = Field(description="labels of rows without a score: set aside, abstained, or of a later revision")
    gone: int = Field(default=0, description="scores whose row is not in the batch any more; among the unlabelled")

    @property
    def share(self) -> float:
        """Labelled share of the scores."""
        return self.both / self.predictions if self.predictions else 0.0
