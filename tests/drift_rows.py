"""Rows for the tests of drift: flights, and days that have a level of their own."""

from __future__ import annotations

import numpy as np
import pandas as pd

from retrain.monitoring.drift import Kind, Role

KINDS: dict[str, Kind] = {"delay": "number", "price": "number", "carrier": "category", "score": "number"}
ROLES: dict[str, Role] = {"score": "prediction"}


def flights(seed: int, rows: int = 600) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "delay": rng.normal(size=rows),
            "price": rng.lognormal(sigma=2, size=rows),
            "carrier": rng.choice(["AA", "B6", "DL", "UA"], rows, p=[0.4, 0.3, 0.2, 0.1]),
            "score": rng.random(rows),
        }
    )


def days(rng: np.random.Generator, count: int, rows: int = 40, effect: float = 0.5) -> pd.DataFrame:
    """Rows of so many days, each with a level of its own."""
    day = np.repeat(np.arange(count), rows)
    x = rng.normal(size=len(day)) + effect * rng.normal(size=count)[day]
    level = rng.normal(size=len(day)) + effect * rng.normal(size=count)[day]
    kind = np.array(["a", "b", "c", "d"])[np.searchsorted([-1, 0, 1], level)]
    y = np.where(rng.random(len(day)) < 0.1 + 0.2 * (rng.random(count) < 0.1)[day], np.nan, x**2)
    return pd.DataFrame({"day": day, "x": x, "kind": kind, "y": y})
