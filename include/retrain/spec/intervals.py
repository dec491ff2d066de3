"""`interval`: how time is cut into the half-open UTC spans of a model's batches."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from pydantic import Field

from retrain.errors import InvalidInterval
from retrain.results import Interval
from retrain.spec.base import Every, Moment, Part, as_moment


class Intervals(Part):
    """The intervals of the model: half-open UTC spans."""

    every: Every = Field(description="weeks begin on Monday")
    start: Moment = Field(description="start of the first interval")
    end: Moment | None = Field(default=None, description="no interval starts at or after this moment")

    def floor(self, moment: datetime) -> datetime:
        """The newest start of such a span at or before `moment`, a time in UTC."""
        day = moment.replace(hour=0, minute=0, second=0, microsecond=0)
        if self.every == "hour":
            return moment.replace(minute=0, second=0, microsecond=0)
        if self.every == "day":
            return day
        if self.every == "week":
            return day - timedelta(days=day.weekday())
        month = {"month": day.month, "quarter": (day.month - 1) // 3 * 3 + 1, "year": 1}[self.every]
        return day.replace(month=month, day=1)

    def end_of(self, start: datetime) -> datetime:
        """The end of the interval that begins at `start`, which is the start of the following one."""
        if self.every in ("hour", "day", "week"):
            return start + timedelta(**{f"{self.every}s": 1})
        months = start.year * 12 + start.month - 1 + {"month": 1, "quarter": 3, "year": 12}[self.every]
        return start.replace(year=months // 12, month=months % 12 + 1)

    def at(self, moment: str | datetime) -> Interval:
        """The interval that begins at `moment`, a date or a time in UTC.

        Raises:
            InvalidInterval: not the start of an interval of this model.
        """
        try:
            start = as_moment(moment)
        except ValueError:
            start = None
        if start is None or self.floor(start) != start:
            raise InvalidInterval(
                f"{moment} is not the start of a {self.every}",
                do=f"give --interval as the start of a {self.every} in UTC, like {self.start:%Y-%m-%d}",
            )
        if start < self.start or (self.end and start >= self.end):
            raise InvalidInterval(
                f"{moment} lies outside this model's intervals",
                do=f"first interval: {self.start:%Y-%m-%d}, last before: {self.end or 'none'}",
            )
        return Interval(start=start, end=self.end_of(start))

    def until(self, end: datetime) -> Iterator[Interval]:
        """Every interval that has ended by `end`, oldest first.

        >>> quarters = Intervals(every="quarter", start="2024-01-01", end="2024-07-01")
        >>> [interval.name for interval in quarters.until(as_moment("2030-01-01"))]
        ['2024-01-01', '2024-04-01']
        """
        start = self.start
        while (stop := self.end_of(start)) <= end and not (self.end and start >= self.end):
            yield Interval(start=start, end=stop)
            start = stop
