"""The holdout rows with every model's predictions, which checks measure; and how they read the findings back."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pandas as pd
from sklearn.pipeline import Pipeline

from retrain.modeling.metrics import Array
from retrain.results import EvaluateReport, Finding, FittedModel, TrainReport
from retrain.spec import Spec
from retrain.state.run import Run

CHAMPION, REFERENCE_CHAMPION = "champion", "reference_champion"
"""Their names among the models of an evaluation."""


@dataclass(frozen=True)
class Holdout:
    """What findings are measured on.

    Attributes:
        run: whose store has the training rows and the models' files.
        train: the candidates and baselines.
        models: name → fitted pipeline; candidates, baselines, and `champion` where there is one.
        frame: (n) rows that judge, with inputs, slices and protected columns.
        y: (n,) outcomes.
        predictions: name → (n,) or (n, k) predictions.
        block: (n,) codes 0 … k-1 of the blocks of rows that depend on each other.
        with_baselines: whether a baseline may be promoted, and is examined like a candidate.
    """

    run: Run
    train: TrainReport
    models: Mapping[str, Pipeline]
    frame: pd.DataFrame
    y: Array
    predictions: Mapping[str, Array]
    block: Array
    with_baselines: bool = False

    @property
    def spec(self) -> Spec:
        """The model spec of the run."""
        return self.run.spec

    @property
    def candidates(self) -> tuple[FittedModel, ...]:
        """The fitted models that may be promoted."""
        return tuple(fitted for fitted in self.train.fitted if self.with_baselines or fitted.kind != "baseline")

    @property
    def judged(self) -> tuple[str, ...]:
        """The candidates by name, and the champion where there is one."""
        serving = [CHAMPION] if CHAMPION in self.models else []
        return (*(candidate.name for candidate in self.candidates), *serving)


def findings_of(evaluate: EvaluateReport, check: str, model: str) -> Iterator[Finding]:
    """The findings of one check about one model."""
    return (finding for finding in evaluate.findings if (finding.check, finding.model) == (check, model))


def finite(value: float | None) -> float | None:
    """A number to compare with, or None.

    >>> finite(0.5), finite(float("nan"))
    (0.5, None)
    """
    return value if value is not None and math.isfinite(value) else None
