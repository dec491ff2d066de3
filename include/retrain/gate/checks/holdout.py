"""The holdout rows, what every model said of them, and how its findings are asked for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pandas as pd
from sklearn.pipeline import Pipeline

from retrain.modeling.metrics import Array
from retrain.results import EvaluateReport, Finding, Fitted, TrainReport
from retrain.spec import Spec
from retrain.state.run import Run

CHAMPION, REFERENCE_CHAMPION = "champion", "reference_champion"
"""Their names among the models of an evaluation."""


@dataclass(frozen=True)
class Holdout:
    """What `behaviour.examine` is given."""

    run: Run
    train: TrainReport
    models: Mapping[str, Pipeline]
    frame: pd.DataFrame
    y: Array
    predictions: Mapping[str, Array]
    block: Array

    @property
    def spec(self) -> Spec:
        return self.run.spec

    @property
    def candidates(self) -> tuple[Fitted, ...]:
        return tuple(one for one in self.train.fitted if one.kind != "baseline")

    @property
    def judged(self) -> tuple[str, ...]:
        """The candidates by name, and the champion where there is one."""
        serving = [CHAMPION] if CHAMPION in self.models else []
        return (*(one.name for one in self.candidates), *serving)


def found(evaluate: EvaluateReport, check: str, model: str) -> Iterator[Finding]:
    """What was found of a model in answer to one question."""
    return (one for one in evaluate.findings if (one.check, one.model) == (check, model))


def finite(value: float | None) -> float | None:
    """A number to compare with, or None.

    >>> finite(0.5), finite(float("nan"))
    (0.5, None)
    """
    return value if value is not None and math.isfinite(value) else None
