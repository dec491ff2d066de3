"""Proposals for `columns`: types and contracts, and which columns give time and identity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from retrain.authoring.scaffold.column_types import ProfiledColumn
from retrain.authoring.scaffold.contracts import (
    allowed_values,
    max_missing,
    percent,
    rounded,
    value_bounds,
)
from retrain.authoring.scaffold.leakage import suspected_leak
from retrain.authoring.scaffold.profile import Profile
from retrain.authoring.scaffold.task import ProposedTask
from retrain.errors import InvalidSpec, near


@dataclass(frozen=True)
class ProposedColumn:
    """A line of `columns`: the keys of a column, and notes for the comment behind them."""

    keys: dict[str, Any]
    notes: tuple[str, ...]


def column_named(profile: Profile, name: str, option: str) -> ProfiledColumn:
    """The column called `name`.

    Raises:
        InvalidSpec: there is none.
    """
    if name not in profile.columns:
        known = ", ".join(list(profile.columns)[:30])
        raise InvalidSpec(
            f"{profile.path} has no column {name!r}{near(name, profile.columns)}",
            do=f"give {option} as one of: {known[:500]}",
        )
    return profile.columns[name]


def time_column(profile: Profile, name: str) -> str:
    """The column that places a row in time: the one named, or the only one there is.

    Raises:
        InvalidSpec: none or several, or the one named holds no times.
    """
    times = [column.name for column in profile.columns.values() if column.type == "datetime"]
    if not name and len(times) != 1:
        count = f"{len(times)} columns hold times: {', '.join(times[:20])}" if times else "no column holds times"
        raise InvalidSpec(count, do="name the one that places a row in its interval: --time COLUMN")
    column = column_named(profile, name or times[0], "--time")
    if column.type != "datetime":
        wanted = "a timestamp or date column" if profile.kind == "parquet" else "ISO 8601, like 2024-01-31T12:00:00Z"
        raise InvalidSpec(f"{column.name!r} holds {column.type}, not times", do=f"deliver it as {wanted}")
    return column.name


def key_columns(profile: Profile, names: list[str], time: str, target: str) -> tuple[str, ...]:
    """The columns that identify a row: those named, a column without doubles, or a column with the time.

    Raises:
        InvalidSpec: there are none, or those named do not.
    """
    if names:
        chosen = tuple(column_named(profile, name, "--key").name for name in names)
        frame = pd.DataFrame({name: profile.columns[name].values for name in chosen})
        if frame.isna().any(axis=None) or frame.duplicated().any():
            raise InvalidSpec(
                f"{' and '.join(chosen)} do not identify a row: {int(frame.duplicated().sum())} rows stand twice,"
                f" {int(frame.isna().any(axis=1).sum())} have none",
                do="name more columns, --key A --key B, or deliver a unique id",
            )
        return chosen
    able = [
        column
        for column in profile.columns.values()
        if column.name not in (time, target)
        and column.type in ("string", "category", "integer")
        and column.values.notna().all()
    ]
    able.sort(key=lambda column: not column.name.lower().endswith(("id", "key", "uuid", "number", "nr")))
    for column in able:
        if column.values.is_unique:
            return (column.name,)
    for column in able:
        if not pd.DataFrame({0: column.values, 1: profile.columns[time].values}).duplicated().any():
            return (column.name, time)
    raise InvalidSpec(
        f"no column of {profile.path} identifies a row, nor does one together with {time!r}",
        do="name the columns that do, --key A --key B, or deliver a unique id",
    )


def propose_column(
    column: ProfiledColumn, *, profile: Profile, task: ProposedTask, key: tuple[str, ...], time: str, of: pd.Series[Any]
) -> ProposedColumn:
    """The line of one column: its type, its contract with some slack, and notes on its values.

    Args:
        column: the one that the line is for.
        profile: of the files.
        task: what is predicted.
        key: the columns that identify a row.
        time: the column that places a row in time.
        of: (kept rows,) the interval of each row.
    """
    kept, target = column.values, profile.columns[task.target["column"]]
    keys: dict[str, Any] = {"type": column.type}
    notes = list(column.notes)
    distinct = kept.nunique()
    if column.name in key:
        # Digits in text are a name, not an amount; JSON and Parquet say themselves what is a number.
        text = profile.kind == "csv" and column.type != "datetime"
        keys["type"] = "string" if text else column.type.replace("category", "string")
        if len(key) == 1:
            keys["unique"] = True
        return ProposedColumn(
            keys, ("identifies a row" if len(key) == 1 else "identifies a row, with the others of source.key",)
        )
    if column.name == time:
        timeless = int(kept.isna().sum())
        notes += [f"{timeless} rows without a time: their batches will be refused"] if timeless else []
        return ProposedColumn(keys, (*notes, f"{kept.min():%Y-%m-%d %H:%M} to {kept.max():%Y-%m-%d %H:%M}"))
    if column.type in ("integer", "number"):
        keys |= value_bounds(kept, whole=column.type == "integer")
        notes.append(f"{rounded(kept.min())} to {rounded(kept.max())}")
    if column.type == "category":
        classes = task.target.get("classes") if column.name == target.name else None
        notes.append(allowed_values(kept, keys, listed=classes))
    if slack := max_missing(kept, of):
        keys["max_missing"] = slack
        notes += [f"{percent(kept.isna().mean())} empty"] if kept.isna().any() else []
    if column.name == target.name:
        return ProposedColumn(keys, ("the target", *notes))
    if why := suspected_leak(kept, target.values, classes=task.task != "regression"):
        keys["feature"] = False
        notes.append(f"LEAK? {why}; remove feature: false only if it is known at prediction time")
    elif distinct <= 1:
        keys["feature"] = False
        notes.append("constant: nothing to learn from" if distinct else "nothing to learn from")
    elif column.type == "integer" and kept.is_unique and column.name.lower().endswith(("id", "key", "nr", "number")):
        keys["feature"] = False
        notes.append("different in every row: an id")
    elif column.type == "string":
        keys["feature"] = False
    elif column.type == "datetime":
        notes.append("read by the model only through training.date_parts")
    return ProposedColumn(keys, tuple(notes))
