"""What is compared, and what counts as drift."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["number", "category"]
Role = Literal["feature", "prediction", "target"]
TEST: dict[Kind, str] = {"number": "ks_distance", "category": "jensenshannon"}


@dataclass(frozen=True)
class Limits:
    """What counts as drift: more than chance gives, and large enough to matter.

    `effect` is a distance between 0 and 1 (0.83 for Jensen-Shannon); 0.1 is a shift by a quarter of a standard
    deviation, or of a binary share from 50 % to 64 %. `per_column` replaces it for one column.
    """

    min_rows: int = 200
    """Rows on either side below which nothing is said."""
    sample: int = 5_000
    """Values per column and side that the distance is taken of."""
    effect: float = 0.1
    """Distance below which a change does not matter, however sure it is."""
    missing: float = 0.1
    """Absolute change of the share of missing values that matters."""
    new: float = 0.005
    """Share of rows with a category that the reference never had, or that a constant column has lost."""
    share: float = 0.1
    """Importance of the drifted features among that of the determined ones."""
    false_alarms: float = 0.01
    """Chance that anything at all is called drifted in a batch in which nothing changed."""
    per_column: Mapping[str, float] = field(default_factory=dict)
