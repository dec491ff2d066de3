"""`gate`: what a candidate must show on the holdout rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from retrain.spec.base import ColumnName, Part, Share


class Fairness(Part):
    """What the groups of protected columns may be treated differently by; each asked only where columns are named."""

    columns: tuple[ColumnName, ...] = Field(default=(), description="protected; they need not be features")
    demographic_parity: Share | None = Field(
        default=None, description="largest difference of the share answered yes between groups"
    )
    equalized_odds: Share | None = Field(
        default=None, description="largest difference of true or false positive rate between groups"
    )
    margin: Share = Field(default=0.05, description="how much larger than the champion's a difference may be")
    min_rows: int = Field(default=100, ge=20, description="smaller groups are not judged")


class Bound(Part):
    """Where a metric has to lie."""

    min: float | None = Field(default=None, description="at least; of a score, of which a greater one is better")
    max: float | None = Field(default=None, description="at most; of a loss, of which a smaller one is better")

    def excess(self, value: float) -> float:
        """How far a value lies outside; it is allowed up to 0.

        >>> Bound(min=0.5).excess(0.75), Bound(max=2.0).excess(3.0)
        (-0.25, 1.0)
        """
        below = [] if self.min is None else [self.min - value]
        above = [] if self.max is None else [value - self.max]
        return max([*below, *above])

    def __str__(self) -> str:
        parts = [] if self.min is None else [f"at least {self.min:g}"]
        parts += [] if self.max is None else [f"at most {self.max:g}"]
        return " and ".join(parts)


class Limit(Bound):
    """Where a metric has to lie over all rows, of one class, and on every value of a column."""

    classes: dict[str | int | bool, Bound] = Field(
        default={}, description="class → the same of that class against the rest; of precision, recall, specificity, f1"
    )
    slices: dict[ColumnName, Bound] = Field(
        default={}, description="column of `evaluation.slices` → the same on each of its values with enough rows"
    )


@dataclass(frozen=True)
class LimitedMetric:
    """One bound of `gate.limits`.

    Attributes:
        metric: its name.
        bound: where it has to lie.
        label: the class that is asked about, where it is one.
        column: the column whose values are asked about one by one.
    """

    metric: str
    bound: Bound
    label: str | None = None
    column: str | None = None

    @property
    def about(self) -> str:
        """What is bounded, for people."""
        of = "" if self.label is None else f" of {self.label}"
        return f"{self.metric}{of}{'' if self.column is None else f' by {self.column}'}"


class Gate(Part):
    """What a candidate must show on the holdout rows."""

    metric: str = Field(
        description="the primary metric; by default log_loss, for regression rmse. binary: log_loss, brier, roc_auc,"
        " average_precision; multiclass: log_loss, balanced_accuracy, f1_macro; regression: rmse, mae, r2"
    )
    margin: Annotated[float, Field(ge=0, lt=0.5)] = Field(
        default=0.01,
        description="how much worse newer rows may make the champion at face value, as a share of its score",
    )
    level: Annotated[float, Field(gt=0, lt=0.5)] = Field(
        default=0.05,
        description="chance of a wrong promotion that a holdout interval may cost, over all its interim analyses",
    )
    min_rows: int = Field(default=500, ge=20, description="labelled rows that judge; fewer are inconclusive")
    min_blocks: int = Field(default=10, ge=2, description="blocks of rows that judge a new configuration")
    slice_margin: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.1, description="how much worse a slice may be, as a share of the champion's score there"
    )
    slice_min_rows: int = Field(default=200, ge=20, description="smaller slices are not judged")
    refit_bound: Annotated[float, Field(gt=0)] = Field(
        default=0.1, description="how far the refit's mean prediction may lie from the gated candidate's"
    )
    calibration: Share | None = Field(
        default=0.1,
        description="expected calibration error, of numbers the mean error in standard deviations, above which a"
        " candidate must not be shown to be; null asks nothing",
    )
    overfit: Share | None = Field(
        default=None,
        description="how much better it may score on its training rows than on holdout rows, as a share of the latter",
    )
    leak: bool = Field(default=True, description="stop what is too good to be true, or one feature alone nearly is")
    cases: str | None = Field(
        default=None, description="`NAME.cases.yaml` beside the spec: rows, and what a candidate must answer to them"
    )
    fairness: Fairness = Fairness()
    limits: dict[str, Limit] = Field(
        default={},
        description="metric → where it has to lie for a model to serve, the first one too; a champion outside is an"
        " alarm. Beside the primary metrics: accuracy, precision, recall, specificity, f1, ece; roc_auc_ovr;"
        " median_ae, mape, bias",
    )

    @property
    def limited(self) -> tuple[LimitedMetric, ...]:
        """Every bound of `limits`, in their order."""
        bounds: list[LimitedMetric] = []
        for metric, limit in self.limits.items():
            bounds += [LimitedMetric(metric, limit)] if str(limit) else []
            bounds += [LimitedMetric(metric, bound, label=str(name)) for name, bound in limit.classes.items()]
            bounds += [LimitedMetric(metric, bound, column=column) for column, bound in limit.slices.items()]
        return tuple(bounds)
