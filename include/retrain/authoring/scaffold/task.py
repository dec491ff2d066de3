"""Proposal for `task` and `target`: what is predicted, by the values of the target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from retrain.authoring.scaffold.column_types import ProfiledColumn
from retrain.authoring.scaffold.contracts import rounded, without_fraction
from retrain.errors import DegenerateTraining, InvalidSpec

YES = ("yes", "y", "true", "t", "1", "positive", "bad", "churned", "left", "fraud", "default", "failed", "late")
"""Texts that are taken as the positive class."""


@dataclass(frozen=True)
class ProposedTask:
    """What is predicted, and why it is taken so."""

    task: str
    target: dict[str, Any]
    why: str


def propose_task(column: ProfiledColumn) -> ProposedTask:
    """The task that the target's values ask for.

    Raises:
        DegenerateTraining: one value only.
        InvalidSpec: a time, or too many texts to be classes.
    """
    counts = column.values.value_counts()
    shares = {value: count / counts.sum() for value, count in counts.items()}
    listed = ", ".join(f"{without_fraction(value)} {share:.0%}" for value, share in list(shares.items())[:10])
    target: dict[str, Any] = {"column": column.name}
    if len(counts) < 2:
        raise DegenerateTraining(
            f"the target {column.name!r} has {len(counts)} value(s)", do="give rows with different outcomes"
        )
    if column.type == "boolean":
        named = ", ".join(f"{str(bool(value)).lower()} {share:.0%}" for value, share in shares.items())
        return ProposedTask("binary", target, f"binary, since {column.name} is true or false: {named}")
    if len(counts) == 2 and column.type == "number":
        high = float(counts.index.max())
        return ProposedTask("binary", {**target, "at_least": high}, f"binary, since there are two values: {listed}")
    if len(counts) == 2 and column.type in ("integer", "category"):
        ordered = sorted(counts.index)
        if column.type == "category":
            ordered.sort(key=lambda value: (str(value).lower() in YES, -shares[value]))
        classes = [without_fraction(value) for value in ordered]
        return ProposedTask(
            "binary",
            {**target, "classes": classes},
            f"binary, since there are two values: {listed}; the last of classes is the positive",
        )
    if column.type == "integer" and len(counts) <= 10 and len(column.values) >= 20 * len(counts):
        target["classes"] = [without_fraction(value) for value in sorted(counts.index)]
        return ProposedTask(
            "multiclass",
            target,
            f"{len(counts)} values: {listed}; if they are amounts: task regression, without classes",
        )
    if column.type == "category" and len(counts) <= 50:
        target["classes"] = sorted(counts.index)
        return ProposedTask("multiclass", target, f"multiclass, since there are {len(counts)} values: {listed}")
    if column.type in ("integer", "number"):
        low, high = rounded(counts.index.min()), rounded(counts.index.max())
        why = f"regression, since it is a number from {low} to {high}; for yes or no: task binary and target.at_least"
        return ProposedTask("regression", target, why)
    raise InvalidSpec(
        f"the target {column.name!r} holds {column.type} with {len(counts)} different values",
        do="name a column of numbers, of yes and no, or of at most 50 classes",
    )
