"""Proposal for `interval`: how time is cut, by the files' names or by the rows that an interval would have."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from retrain.authoring.scaffold.profile import Profile
from retrain.data.sources import render
from retrain.results import Interval
from retrain.spec import BY_INTERVAL
from retrain.spec.intervals import Intervals

PERIODS = {"hour": "h", "day": "D", "week": "W-SUN", "month": "M", "quarter": "Q", "year": "Y"}
ENOUGH_ROWS = 200
ENOUGH_INTERVALS = 6
ENOUGH_BLOCKS = 12
"""A little more than `gate.min_blocks`: not every interval has a row on each of its days."""
MOST_HELD_OUT = 4


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
        block: the unit that is resampled as a whole.
        holdout: how many of them judge, so that there are enough blocks.
        of: (kept rows,) the interval of each row.
    """

    every: str
    start: datetime
    end: datetime | None
    rows: pd.Series[Any]
    fewest: int
    labelled: int
    block: str
    holdout: int
    of: pd.Series[Any] = field(repr=False)


def propose_intervals(profile: Profile, time: str, target: str) -> ProposedIntervals:
    """The one that the files are named by; else the longest of month, week, day and hour that has enough.

    Enough intervals, with enough rows; where none has: the one of quarter and year, or else the shortest one that has
    three.

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
    every = _named_by(profile, by) or next((every for every, least in tried if good(every, least)), None)
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
    block, holdout = _judged_on(every, by, len(rows))
    return ProposedIntervals(
        every=every,
        start=first.start_time.to_pydatetime().replace(tzinfo=UTC),
        end=(last + 1).start_time.to_pydatetime().replace(tzinfo=UTC) if over else None,
        rows=rows[first:last],
        fewest=fewest,
        labelled=max(int(labelled.min()), 0),
        block=block,
        holdout=holdout,
        of=by[every],
    )


def _named_by(profile: Profile, by: Mapping[str, pd.Series[Any]]) -> str | None:
    """The longest interval of which each has a file of its own, by the template that names the files."""
    if re.search(r"(?<!\{)\{(start|end)\b", profile.path):
        for every in reversed(list(by)):
            # A period knows its place in the calendar; the template is for moments.
            seen = [period.start_time.to_pydatetime().replace(tzinfo=UTC) for period in by[every].dropna().unique()]
            length = Intervals(every=every, start=min(seen))
            names = {render(profile.path, Interval(start=start, end=length.end_of(start))) for start in seen}
            if len(names) == len(seen) == profile.files:
                return every
    return None


def _judged_on(every: str, by: Mapping[str, pd.Series[Any]], intervals: int) -> tuple[str, int]:
    """The block, and how many intervals judge, so that they have enough of them.

    The default for such intervals, a few more of them where days are missing, or smaller blocks.
    """
    default = {"block": "day", "holdout": 1, **BY_INTERVAL.get(every, {})}
    for unit, least in ((default["block"], default["holdout"]), ("hour", 1)):
        if unit in by and unit != every:
            each = float(by[unit].groupby(by[every]).nunique().median())
            holdout = max(least, math.ceil(ENOUGH_BLOCKS / max(each, 1.0)))
            if holdout <= max(least, min(MOST_HELD_OUT, intervals // 4)):
                return unit, holdout
    return "row", 1
