"""From what was seen to a proposal: what each key of the spec should say, and why."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from retrain.errors import DegenerateTraining, InvalidSpec
from retrain.scaffold.leaks import suspicion
from retrain.scaffold.look import Look, Seen
from retrain.spec import near

PERIODS = {"hour": "h", "day": "D", "week": "W-SUN", "month": "M", "quarter": "Q", "year": "Y"}
ENOUGH_ROWS = 200
ENOUGH_INTERVALS = 6
YES = ("yes", "y", "true", "t", "1", "positive", "bad", "churned", "left", "fraud", "default", "failed", "late")


@dataclass(frozen=True)
class Column:
    """A line of `columns`."""

    keys: dict[str, Any]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Question:
    """What is predicted, and why it is taken so."""

    task: str
    target: dict[str, Any]
    why: str


@dataclass(frozen=True)
class Spans:
    """The intervals.

    Attributes:
        rows: rows of each interval that has any, scaled up to all rows passed.
        labelled: those of them with a label.
        fewest: rows of the smallest interval; the first and the last one, which may be cut off, left out.
        block: the longest unit that an interval has at least 15 of, to be resampled as a whole.
    """

    every: str
    start: datetime
    end: datetime | None
    rows: pd.Series[Any]
    fewest: int
    labelled: int
    block: str
    of: pd.Series[Any] = field(repr=False)


def column_of(look: Look, name: str, option: str) -> Seen:
    """The column called `name`.

    Raises:
        InvalidSpec: there is none.
    """
    if name not in look.columns:
        known = ", ".join(list(look.columns)[:30])
        raise InvalidSpec(f"{look.path} has no column {name!r}{near(name, look.columns)}", do=f"give {option} as one of: {known[:500]}")
    return look.columns[name]


def time_of(look: Look, name: str) -> str:
    """The column that places a row in time: the one named, or the only one there is."""
    times = [seen.name for seen in look.columns.values() if seen.type == "datetime"]
    if not name and len(times) != 1:
        found = f"{len(times)} columns hold times: {', '.join(times[:20])}" if times else "no column holds times"
        raise InvalidSpec(found, do="name the one that places a row in its interval: --time COLUMN")
    seen = column_of(look, name or times[0], "--time")
    if seen.type != "datetime":
        wanted = "a timestamp or date column" if look.kind == "parquet" else "ISO 8601, like 2024-01-31T12:00:00Z"
        raise InvalidSpec(f"{seen.name!r} holds {seen.type}, not times", do=f"deliver it as {wanted}")
    return seen.name


def key_of(look: Look, names: list[str], time: str, target: str) -> tuple[str, ...]:
    """The columns that identify a row: those named, a column without doubles, or a column with the time."""
    if names:
        chosen = tuple(column_of(look, name, "--key").name for name in names)
        frame = pd.DataFrame({name: look.columns[name].values for name in chosen})
        if frame.isna().any(axis=None) or frame.duplicated().any():
            raise InvalidSpec(
                f"{' and '.join(chosen)} do not identify a row: {int(frame.duplicated().sum())} rows stand twice,"
                f" {int(frame.isna().any(axis=1).sum())} have none",
                do="name more columns, --key A --key B, or deliver a unique id",
            )
        return chosen
    able = [
        seen
        for seen in look.columns.values()
        if seen.name not in (time, target) and seen.type in ("string", "category", "integer") and seen.values.notna().all()
    ]
    able.sort(key=lambda seen: not seen.name.lower().endswith(("id", "key", "uuid", "number", "nr")))
    for seen in able:
        if seen.values.is_unique:
            return (seen.name,)
    for seen in able:
        if not pd.DataFrame({0: seen.values, 1: look.columns[time].values}).duplicated().any():
            return (seen.name, time)
    raise InvalidSpec(
        f"no column of {look.path} identifies a row, nor does one together with {time!r}",
        do="name the columns that do, --key A --key B, or deliver a unique id",
    )


def question(seen: Seen) -> Question:
    """The task that the target's values ask for.

    Raises:
        DegenerateTraining: one value only.
        InvalidSpec: a time, or too many texts to be classes.
    """
    counts = seen.values.value_counts()
    shares = {value: count / counts.sum() for value, count in counts.items()}
    listed = ", ".join(f"{_plain(value)} {share:.0%}" for value, share in list(shares.items())[:10])
    target: dict[str, Any] = {"column": seen.name}
    if len(counts) < 2:
        raise DegenerateTraining(f"the target {seen.name!r} has {len(counts)} value(s)", do="give rows with different outcomes")
    if seen.type == "boolean":
        named = ", ".join(f"{str(bool(value)).lower()} {share:.0%}" for value, share in shares.items())
        return Question("binary", target, f"binary, since {seen.name} is true or false: {named}")
    if len(counts) == 2 and seen.type == "number":
        high = float(counts.index.max())
        return Question("binary", {**target, "at_least": high}, f"binary, since there are two values: {listed}")
    if len(counts) == 2 and seen.type in ("integer", "category"):
        ordered = sorted(shares) if seen.type == "integer" else sorted(shares, key=lambda v: (str(v).lower() in YES, -shares[v]))
        classes = [_plain(value) for value in ordered]
        return Question(
            "binary", {**target, "classes": classes}, f"binary, since there are two values: {listed}; the last of classes is the positive"
        )
    if seen.type == "integer" and len(counts) <= 10 and len(seen.values) >= 20 * len(counts):
        target["classes"] = [_plain(value) for value in sorted(shares)]
        return Question("multiclass", target, f"{len(counts)} values: {listed}; if they are amounts: task regression, without classes")
    if seen.type == "category" and len(counts) <= 50:
        target["classes"] = sorted(shares)
        return Question("multiclass", target, f"multiclass, since there are {len(counts)} values: {listed}")
    if seen.type in ("integer", "number"):
        low, high = _short(counts.index.min()), _short(counts.index.max())
        why = f"regression, since {seen.name} is a number from {low} to {high}; for yes or no: task binary and target.at_least"
        return Question("regression", target, why)
    raise InvalidSpec(
        f"the target {seen.name!r} holds {seen.type} with {len(counts)} different values",
        do="name a column of numbers, of yes and no, or of at most 50 classes",
    )


def spans(look: Look, time: str, target: str) -> Spans:
    """The longest of month, week, day and hour that gives enough intervals with enough rows.

    Where none does: the one of quarter and year, or else the shortest one that has three.
    """
    scale = look.rows / look.kept
    moments = look.columns[time].values.dt.tz_convert("UTC").dt.tz_localize(None)
    by = {every: moments.dt.to_period(code) for every, code in PERIODS.items()}
    counted = {every: periods.value_counts().sort_index() * scale for every, periods in by.items()}

    def good(every: str, least: int) -> bool:
        return len(counted[every]) >= least and counted[every].median() >= ENOUGH_ROWS

    tried = [("month", ENOUGH_INTERVALS), ("week", ENOUGH_INTERVALS), ("day", ENOUGH_INTERVALS), ("hour", ENOUGH_INTERVALS)]
    tried += [("quarter", 4), ("year", 4), ("month", 3), ("week", 3), ("day", 3), ("hour", 3)]
    every = next((every for every, least in tried if good(every, least)), None)
    every = every or next((every for every in reversed(PERIODS) if len(counted[every]) >= 3), "hour")
    rows = counted[every]
    middle = rows[1:-1] if len(rows) > 2 else rows
    fewest = int(middle.min())
    first, last = rows.index[0], rows.index[-1]
    # A first or last interval that the file cuts off would be quarantined for its few rows.
    if len(rows) > 3 and rows.iloc[0] < fewest / 2:
        first = rows.index[1]
    if len(rows) > 3 and rows.iloc[-1] < fewest / 2:
        last = rows.index[-2]
    over = (last + 1).end_time.tz_localize(UTC) < datetime.now(UTC)
    labels = look.columns[target].values.notna()
    labelled = (labels.groupby(by[every]).sum() * scale).reindex(middle.index)
    units = ("day", "hour") if every in ("week", "month", "quarter", "year") else ("hour",)
    block = next((unit for unit in units if by[unit].groupby(by[every]).nunique().median() >= 15), "row")
    return Spans(
        every=every,
        start=first.start_time.to_pydatetime().replace(tzinfo=UTC),
        end=(last + 1).start_time.to_pydatetime().replace(tzinfo=UTC) if over else None,
        rows=rows[first:last],
        fewest=fewest,
        labelled=max(int(labelled.min()), 0),
        block=block,
        of=by[every],
    )


def column(seen: Seen, *, look: Look, asked: Question, key: tuple[str, ...], time: str, of: pd.Series[Any]) -> Column:
    """The line of one column: its type, its contract with some slack, and what was seen."""
    values, target = seen.values, look.columns[asked.target["column"]]
    keys: dict[str, Any] = {"type": seen.type}
    notes = list(seen.notes)
    distinct = values.nunique()
    if seen.name in key:
        # Digits in text are a name, not an amount; JSON and Parquet say themselves what is a number.
        keys["type"] = "string" if look.kind == "csv" and seen.type != "datetime" else seen.type.replace("category", "string")
        if len(key) == 1:
            keys["unique"] = True
        return Column(keys, (*notes, "identifies a row" if len(key) == 1 else "identifies a row, with the others of source.key"))
    if seen.name == time:
        missing = int(values.isna().sum())
        notes += [f"{missing} rows without a time: their batches will be refused"] if missing else []
        return Column(keys, (*notes, f"{values.min():%Y-%m-%d %H:%M} to {values.max():%Y-%m-%d %H:%M}"))
    if seen.type in ("integer", "number"):
        keys |= _bounds(values, whole=seen.type == "integer")
        notes.append(f"{_short(values.min())} to {_short(values.max())}")
    if seen.type == "category":
        notes.append(_values(values, keys, listed=asked.target.get("classes") if seen.name == target.name else None))
    if slack := _missing(values, of):
        keys["max_missing"] = slack
        notes += [f"{_percent(values.isna().mean())} empty"] if values.isna().any() else []
    if seen.name == target.name:
        return Column(keys, ("the target", *notes))
    if why := suspicion(values, target.values, classes=asked.task != "regression"):
        keys["feature"] = False
        notes.append(f"LEAK? {why}; remove feature: false only if it is known at prediction time")
    elif distinct <= 1:
        keys["feature"] = False
        notes.append("constant: nothing to learn from" if distinct else "nothing to learn from")
    elif seen.type == "integer" and values.is_unique and seen.name.lower().endswith(("id", "key", "nr", "number")):
        keys["feature"] = False
        notes.append("different in every row: an id")
    elif seen.type == "string":
        keys["feature"] = False
    elif seen.type == "datetime":
        notes.append("read by the model only through training.date_parts")
    return Column(keys, tuple(notes))


# --- contracts -------------------------------------------------------------------------------------


def _bounds(values: pd.Series[Any], *, whole: bool) -> dict[str, Any]:
    """Half the seen range as slack on both sides; what was never negative stays so, a share stays a share."""
    finite = values[values.abs() != math.inf].dropna()
    if finite.empty:
        return {}
    low, high = float(finite.min()), float(finite.max())
    if not whole and low >= 0 and high <= 1:
        return {"min": 0, "max": 1}
    slack = max((high - low) / 2, abs(high) / 10, 1.0 if whole else 0.0)
    least = 0.0 if low >= 0 else _outward(low - slack, math.floor)
    most = 0.0 if high <= 0 else _outward(high + slack, math.ceil)
    return {"min": _short(least), "max": _short(most)}


def _outward(value: float, way: Any) -> float:
    """Two digits of a number, away from what was seen.

    >>> _outward(123.4, math.ceil), _outward(-0.0312, math.floor)
    (130.0, -0.032)
    """
    if value == 0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(abs(value))) - 1)
    return float(f"{way(round(value / unit, 6)) * unit:.2g}")


def _missing(values: pd.Series[Any], of: pd.Series[Any]) -> float:
    """The largest empty share of an interval, half as much again and a point."""
    empty = values.isna()
    if not empty.any():
        return 0.01 if len(values) >= 1000 else 0.05
    worst = float(empty.groupby(of).mean().max())
    return min(1.0, math.ceil(worst * 150 + 1) / 100)


def _values(values: pd.Series[Any], keys: dict[str, Any], listed: list[Any] | None) -> str:
    """A small set whose values are all well known is closed; another one stays open."""
    counts = values.value_counts()
    if listed is not None or (2 <= len(counts) <= 12 and counts.min() >= max(5, len(values) / 1000)):
        keys["values"] = listed or sorted(counts.index)
        return f"{len(counts)} values"
    shown = ", ".join(str(value)[:20] for value in counts.index[:5])
    return f"{len(counts)} value{'s' if len(counts) > 1 else ''}, open: {shown}{', …' if len(counts) > 5 else ''}"


def _short(value: Any) -> Any:
    """A number as a person writes it."""
    number = float(f"{float(value):.6g}")
    return int(number) if number.is_integer() and abs(number) < 1e15 else number


def _percent(share: float) -> str:
    return "under 1%" if 0 < share < 0.01 else f"{share:.0%}"


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value
