"""`evaluation`: how the holdout rows judge, and by which metrics."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from retrain.spec.base import ColumnName, Part

METRICS: dict[str, dict[str, bool]] = {
    "binary": {"log_loss": False, "brier": False, "roc_auc": True, "average_precision": True},
    "multiclass": {"log_loss": False, "balanced_accuracy": True, "f1_macro": True},
    "regression": {"rmse": False, "mae": False, "r2": True},
}
"""Primary metrics per task, and whether greater is better. Accuracy is not one: it hides the rare class."""

COMPANIONS = {"log_loss": "brier", "rmse": "mae"}
"""A loss without a bound → one that a few enormous errors cannot decide, where the task has it."""

OF_A_CLASS = ("precision", "recall", "specificity", "f1")
"""Metrics that can be asked of one class against the rest."""
_CLASSIFIED: dict[str, bool | None] = {"balanced_accuracy": True, "accuracy": True, **dict.fromkeys(OF_A_CLASS, True)}
LIMITED: dict[str, dict[str, bool | None]] = {
    "binary": {**METRICS["binary"], **_CLASSIFIED, "ece": False},
    "multiclass": {**METRICS["multiclass"], **_CLASSIFIED, "roc_auc_ovr": True},
    "regression": {**METRICS["regression"], "median_ae": False, "mape": False, "bias": None},
}
"""Metrics per task that `gate.limits` may name, and whether greater is better; None: the nearer to 0."""

BY_INTERVAL: dict[str, dict[str, Any]] = {
    "hour": {"block": "row"},
    "day": {"block": "hour"},
    "week": {"holdout": 2},
}
"""Defaults where an interval is shorter than a month: a holdout has enough blocks for `gate.min_blocks`."""


class Evaluation(Part):
    """How the holdout rows judge."""

    block: Literal["hour", "day", "week", "row"] = Field(
        default="day",
        description="rows that may hang together, resampled as a whole; by default row where intervals are hours, hour"
        " where they are days, else day",
    )
    resamples: int = Field(default=1000, ge=200, le=100_000, description="bootstrap resamples of the blocks")
    slices: tuple[ColumnName, ...] = Field(default=(), description="columns whose values are also judged one by one")
    holdout: int = Field(
        default=1, ge=1, le=12, description="newest mature intervals that judge; by default 2 weeks, else 1"
    )
    golden_rows: int = Field(default=20, ge=1, le=1000, description="rows whose answers travel with the model")
