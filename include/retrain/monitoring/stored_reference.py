"""The champion's reference as it is stored: a sample of the rows that it was fitted on, and facts of all of them.

Refit makes it (`reference`); drift compares later batches with it, and scoring counts what training had not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from retrain.data import row_contract
from retrain.results import Champion
from retrain.state.run import Run

PREDICTION = "prediction"
"""Begins the names of the columns of predictions; only holdout rows have one."""
TIME, INTERVAL, GROUP = "__time", "__interval", "__group"
"""Columns that are no features: blocks of rows are made of them."""


@dataclass(frozen=True)
class Reference:
    """The champion's reference.

    Attributes:
        frame: a sample of its training rows.
        known: category column → every category of all its training rows; a column with too many to list is left out.
        weights: feature → importance; None where it was not measured.
    """

    frame: pd.DataFrame
    known: dict[str, set[str]]
    weights: dict[str, float] | None


def load_reference(run: Run, champion: Champion) -> Reference:
    """Read the champion's reference.

    Raises:
        MissingInput: it is not in the store.
    """
    with run.store.local(f"{champion.reference}/reference.parquet") as path:
        frame = pd.read_parquet(path)
    facts = json.loads(run.store.read(f"{champion.reference}/reference.json"))
    known = {
        name: set(column["categories"])
        for name, column in facts["columns"].items()
        if column.get("categories") is not None and not column.get("capped")
    }
    return Reference(frame, known, facts.get("importance"))


def load_column_facts(run: Run, champion: Champion) -> dict[str, Any]:
    """Facts per column of the rows that the champion was fitted on; empty where there are none."""
    key = f"{champion.reference}/reference.json"
    return dict(json.loads(run.store.read(key))["columns"]) if run.store.exists(key) else {}


def unknown_categories(frame: pd.DataFrame, facts: Mapping[str, Any]) -> dict[str, int]:
    """Rows per column with a category that training had not; a column with too many to list is left out."""
    counted = {}
    for name, column in sorted(facts.items()):
        if name in frame and "categories" in column and not column["capped"]:
            known = column["categories"]
            counted[name] = int((~row_contract.each_text(frame[name], known.__contains__)).sum())
    return {name: count for name, count in counted.items() if count}


def share_outside(values: NDArray[np.float64], facts: Mapping[str, Any]) -> float | None:
    """The share of (n,) values outside the range that training had; None where the range is not known.

    >>> share_outside(np.array([0.5, 2.0]), {"min": 0.0, "max": 1.0})
    0.5
    """
    if "min" not in facts:
        return None
    return float(((values < facts["min"]) | (values > facts["max"])).mean())
