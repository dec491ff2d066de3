"""From what was seen to a proposal: what each key of the spec should say, and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from retrain.authoring.scaffold.contracts import bounds, missing, percent, plain, short, values
from retrain.authoring.scaffold.kinds import Seen
from retrain.authoring.scaffold.leaks import suspicion
from retrain.authoring.scaffold.looking import Profile
from retrain.errors import DegenerateTraining, InvalidSpec, near

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


def column_of(profile: Profile, name: str, option: str) -> Seen:
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


def time_of(profile: Profile, name: str) -> str:
    """The column that places a row in time: the one named, or the only one there is."""
    times = [seen.name for seen in profile.columns.values() if seen.type == "datetime"]
    if not name and len(times) != 1:
        found = f"{len(times)} columns hold times: {', '.join(times[:20])}" if times else "no column holds times"
        raise InvalidSpec(found, do="name the one that places a row in its interval: --time COLUMN")
    seen = column_of(profile, name or times[0], "--time")
    if seen.type != "datetime":
        wanted = "a timestamp or date column" if profile.kind == "parquet" else "ISO 8601, like 2024-01-31T12:00:00Z"
        raise InvalidSpec(f"{seen.name!r} holds {seen.type}, not times", do=f"deliver it as {wanted}")
    return seen.name


def key_columns(profile: Profile, names: list[str], time: str, target: str) -> tuple[str, ...]:
    """The columns that identify a row: those named, a column without doubles, or a column with the time."""
    if names:
        chosen = tuple(column_of(profile, name, "--key").name for name in names)
        frame = pd.DataFrame({name: profile.columns[name].values for name in chosen})
        if frame.isna().any(axis=None) or frame.duplicated().any():
            raise InvalidSpec(
                f"{' and '.join(chosen)} do not identify a row: {int(frame.duplicated().sum())} rows stand twice,"
                f" {int(frame.isna().any(axis=1).sum())} have none",
                do="name more columns, --key A --key B, or deliver a unique id",
            )
        return chosen
    able = [
        seen
        for seen in profile.columns.values()
        if seen.name not in (time, target)
        and seen.type in ("string", "category", "integer")
        and seen.values.notna().all()
    ]
    able.sort(key=lambda seen: not seen.name.lower().endswith(("id", "key", "uuid", "number", "nr")))
    for seen in able:
        if seen.values.is_unique:
            return (seen.name,)
    for seen in able:
        if not pd.DataFrame({0: seen.values, 1: profile.columns[time].values}).duplicated().any():
            return (seen.name, time)
    raise InvalidSpec(
        f"no column of {profile.path} identifies a row, nor does one together with {time!r}",
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
    listed = ", ".join(f"{plain(value)} {share:.0%}" for value, share in list(shares.items())[:10])
    target: dict[str, Any] = {"column": seen.name}
    if len(counts) < 2:
        raise DegenerateTraining(
            f"the target {seen.name!r} has {len(counts)} value(s)", do="give rows with different outcomes"
        )
    if seen.type == "boolean":
        named = ", ".join(f"{str(bool(value)).lower()} {share:.0%}" for value, share in shares.items())
        return Question("binary", target, f"binary, since {seen.name} is true or false: {named}")
    if len(counts) == 2 and seen.type == "number":
        high = float(counts.index.max())
        return Question("binary", {**target, "at_least": high}, f"binary, since there are two values: {listed}")
    if len(counts) == 2 and seen.type in ("integer", "category"):
        ordered = sorted(counts.index)
        if seen.type == "category":
            ordered.sort(key=lambda value: (str(value).lower() in YES, -shares[value]))
        classes = [plain(value) for value in ordered]
        return Question(
            "binary",
            {**target, "classes": classes},
            f"binary, since there are two values: {listed}; the last of classes is the positive",
        )
    if seen.type == "integer" and len(counts) <= 10 and len(seen.values) >= 20 * len(counts):
        target["classes"] = [plain(value) for value in sorted(counts.index)]
        return Question(
            "multiclass",
            target,
            f"{len(counts)} values: {listed}; if they are amounts: task regression, without classes",
        )
    if seen.type == "category" and len(counts) <= 50:
        target["classes"] = sorted(counts.index)
        return Question("multiclass", target, f"multiclass, since there are {len(counts)} values: {listed}")
    if seen.type in ("integer", "number"):
        low, high = short(counts.index.min()), short(counts.index.max())
        why = f"regression, since it is a number from {low} to {high}; for yes or no: task binary and target.at_least"
        return Question("regression", target, why)
    raise InvalidSpec(
        f"the target {seen.name!r} holds {seen.type} with {len(counts)} different values",
        do="name a column of numbers, of yes and no, or of at most 50 classes",
    )


def spans(profile: Profile, time: str, target: str) -> Spans:
    """The longest of month, week, day and hour that gives enough intervals with enough rows.

    Where none does: the one of quarter and year, or else the shortest one that has three.
    """
    scale = profile.rows / profile.kept
    moments = profile.columns[time].values.dt.tz_convert("UTC").dt.tz_localize(None)
    by = {every: moments.dt.to_period(code) for every, code in PERIODS.items()}
    counted = {every: periods.value_counts().sort_index() * scale for every, periods in by.items()}

    def good(every: str, least: int) -> bool:
        return len(counted[every]) >= least and counted[every].median() >= ENOUGH_ROWS

    tried = [
        ("month", ENOUGH_INTERVALS),
        ("week", ENOUGH_INTERVALS),
        ("day", ENOUGH_INTERVALS),
        ("hour", ENOUGH_INTERVALS),
    ]
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
    labels = profile.columns[target].values.notna()
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


def column(
    seen: Seen, *, profile: Profile, asked: Question, key: tuple[str, ...], time: str, of: pd.Series[Any]
) -> Column:
    """The line of one column: its type, its contract with some slack, and what was seen."""
    kept, target = seen.values, profile.columns[asked.target["column"]]
    keys: dict[str, Any] = {"type": seen.type}
    notes = list(seen.notes)
    distinct = kept.nunique()
    if seen.name in key:
        # Digits in text are a name, not an amount; JSON and Parquet say themselves what is a number.
        keys["type"] = (
            "string" if profile.kind == "csv" and seen.type != "datetime" else seen.type.replace("category", "string")
        )
        if len(key) == 1:
            keys["unique"] = True
        return Column(
            keys, ("identifies a row" if len(key) == 1 else "identifies a row, with the others of source.key",)
        )
    if seen.name == time:
        timeless = int(kept.isna().sum())
        notes += [f"{timeless} rows without a time: their batches will be refused"] if timeless else []
        return Column(keys, (*notes, f"{kept.min():%Y-%m-%d %H:%M} to {kept.max():%Y-%m-%d %H:%M}"))
    if seen.type in ("integer", "number"):
        keys |= bounds(kept, whole=seen.type == "integer")
        notes.append(f"{short(kept.min())} to {short(kept.max())}")
    if seen.type == "category":
        notes.append(values(kept, keys, listed=asked.target.get("classes") if seen.name == target.name else None))
    if slack := missing(kept, of):
        keys["max_missing"] = slack
        notes += [f"{percent(kept.isna().mean())} empty"] if kept.isna().any() else []
    if seen.name == target.name:
        return Column(keys, ("the target", *notes))
    if why := suspicion(kept, target.values, classes=asked.task != "regression"):
        keys["feature"] = False
        notes.append(f"LEAK? {why}; remove feature: false only if it is known at prediction time")
    elif distinct <= 1:
        keys["feature"] = False
        notes.append("constant: nothing to learn from" if distinct else "nothing to learn from")
    elif seen.type == "integer" and kept.is_unique and seen.name.lower().endswith(("id", "key", "nr", "number")):
        keys["feature"] = False
        notes.append("different in every row: an id")
    elif seen.type == "string":
        keys["feature"] = False
    elif seen.type == "datetime":
        notes.append("read by the model only through training.date_parts")
    return Column(keys, tuple(notes))
