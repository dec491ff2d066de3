"""What is compared, and what counts as drift."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import pandas as pd

from retrain.monitoring.stored_reference import PREDICTION
from retrain.spec import Spec

Kind = Literal["number", "category"]
Role = Literal["feature", "prediction", "target"]
DISTANCE: dict[Kind, str] = {"number": "ks_distance", "category": "jensenshannon"}
"""The statistic of each kind of column, as reports and Evidently name it."""


@dataclass(frozen=True)
class Limits:
    """What counts as drift: more than chance gives, and large enough to matter.

    Attributes:
        min_rows: rows on either side below which nothing is determined.
        sample: values per column and side that the distance is taken of.
        effect: distance below which a change does not matter, however sure it is: between 0 and 1 (0.83 for
            Jensen-Shannon). 0.1 is a shift by a quarter of a standard deviation, or of a binary share from 50 % to
            64 %.
        missing: absolute change of the share of missing values that matters.
        new: share of rows with a category that the reference never had, or that a constant column has lost.
        share: importance of the drifted features among that of the determined ones.
        false_alarms: chance that anything at all is called drifted in a batch in which nothing changed.
        per_column: column → its own `effect`.
    """

    min_rows: int = 200
    sample: int = 5_000
    effect: float = 0.1
    missing: float = 0.1
    new: float = 0.005
    share: float = 0.1
    false_alarms: float = 0.01
    per_column: Mapping[str, float] = field(default_factory=dict)


def limits_of(spec: Spec, kinds: Mapping[str, Kind]) -> Limits:
    """The spec's limits, its thresholds as far as their columns are compared."""
    return Limits(
        min_rows=spec.drift.min_rows,
        sample=spec.drift.sample,
        effect=spec.drift.effect,
        missing=spec.drift.missing,
        share=spec.drift.share,
        false_alarms=spec.drift.false_alarms,
        per_column={name: limit for name, limit in spec.drift.thresholds.items() if name in kinds},
    )


def compared_columns(
    spec: Spec, reference: pd.DataFrame, current: pd.DataFrame
) -> tuple[dict[str, Kind], dict[str, Role]]:
    """The kind of each column that is compared, and the role of those that are no features.

    Args:
        spec: names the features, and those that are not compared.
        reference: the champion's reference.
        current: the batch, with the champion's predictions, and `target` where labels are there.
    """
    kinds: dict[str, Kind] = {
        name: "category" if spec.columns[name].type == "category" else "number"
        for name in spec.features
        if name not in spec.drift.ignore
    }
    roles: dict[str, Role] = {}
    for name in current.columns:
        if name.startswith(PREDICTION) and name in reference.columns:
            kinds[name], roles[name] = "number", "prediction"
    if current["target"].notna().any() and "target" in reference.columns:
        kinds["target"], roles["target"] = ("category" if spec.classes else "number"), "target"
    return kinds, roles
