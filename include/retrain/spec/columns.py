"""`columns` and `target`: what a batch holds, and what of it is predicted."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, StrictInt, StrictStr

from retrain.spec.base import ColumnName, Part, Severity, Share


class Column(Part):
    """A column's declared type and its contract."""

    type: Literal["integer", "number", "category", "string", "boolean", "datetime"] = Field(
        description="nothing is guessed: a value of another type refuses the batch; strings are never features"
    )
    feature: bool = Field(default=True, description="whether the model may read it")
    min: float | None = Field(default=None, description="smallest allowed number")
    max: float | None = Field(default=None, description="largest allowed number")
    values: tuple[StrictStr | StrictInt, ...] | None = Field(default=None, description="the only allowed values")
    pattern: str | None = Field(default=None, description="regular expression that texts must match")
    unique: bool = Field(default=False, description="no value twice within a batch")
    max_missing: Share = Field(default=0.0, description="share of rows that may be empty")
    severity: Severity = Field(default="stop", description="what a breach of this column's contract does")
    description: str = Field(default="", description="for people: meaning and unit")


class Target(Part):
    """What is predicted. A number becomes a yes/no question with `at_least`."""

    column: ColumnName = Field(description="the column that holds the outcome; empty is no label, and never a no")
    at_least: float | None = Field(default=None, description="from this value on the answer is yes")
    classes: tuple[str | int | bool, ...] | None = Field(default=None, description="in order; the last is the positive")
