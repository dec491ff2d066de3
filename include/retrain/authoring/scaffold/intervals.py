"""Proposal for `interval`: how time is cut, by the rows that an interval would have."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from retrain.authoring.scaffold.profile import Profile

PERIODS = {"hour": "h", "day": "D", "week": "W-SUN", "month": "M", "quarter": "Q", "year": "Y"}
ENOUGH_ROWS = 200
ENOUGH_INTERVALS = 6


@dataclass(frozen=True)
class ProposedIntervals:
    """How time is cut into intervals.

    Attributes:
        every: their length, as in the spec.
        start: of the first one.
        end: of the last one, where no more rows are to come.
        rows: rows of each interval that has any, scaled up to all rows passed.
        labelled: those of them with a label.
        fewest: rows of the smallest interval; the first and the last one, which may be cut off, left out.
        block: the longest unit that an interval has at least 15 of, to be resampled as a whole.
        of: (kept rows,) the interval of each row.
    """

    every: str
    start: datetime
    end: datetime | None
    rows: pd.Series[Any]
    fewest: int
    labelled: int
    block: str
    of: pd.Series[Any] = field(repr=False)


def propose_intervals(profile: Profile, time: str, target: str) -> ProposedIntervals:
    """The longest of month, week, day and hour that gives enough intervals with enough rows.

    Where none does: the one of quarter and year, or else the shortest one that has three.

    Args:
        profile: of the files.
        time: the column that places a row in time.
        target: the column with the labels.
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
    return ProposedIntervals(
        every=every,
        start=first.start_time.to_pydatetime().replace(tzinfo=UTC),
        end=(last + 1).start_time.to_pydatetime().replace(tzinfo=UTC) if over else None,
        rows=rows[first:last],
        fewest=fewest,
        labelled=max(int(labelled.min()), 0),
        block=block,
        of=by[every],
    )
