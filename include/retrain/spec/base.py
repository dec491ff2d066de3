"""What every section of the spec is made of: the frozen base class and the types of single values."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

LONGEST = timedelta(days=36_500)
YEARS = range(1900, 2201)
"""Beyond them a duration or a date is a slip of the pen, and no library here counts on."""


class Part(BaseModel):
    """A section of the spec: frozen, and it refuses keys that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


def as_duration(value: object) -> timedelta:
    """A duration as the spec writes it.

    Raises:
        ValueError: not a whole number with m, h, d or w, or longer than `LONGEST`.

    >>> as_duration("12h"), as_duration("2w")
    (datetime.timedelta(seconds=43200), datetime.timedelta(days=14))
    """
    if isinstance(value, str) and (match := re.fullmatch(r"(\d+)\s*(m|h|d|w)", value)):
        unit = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}[match[2]]
        if len(match[1]) > 8 or (duration := timedelta(**{unit: int(match[1])})) > LONGEST:
            raise ValueError(f"{value!r} is longer than {LONGEST.days} d")
        return duration
    if isinstance(value, timedelta):
        return value
    raise ValueError(f"{value!r} is not a duration like 30m, 12h, 2d or 1w")


def as_moment(value: object) -> datetime:
    """A date or time in UTC; one without a zone is taken as UTC.

    Raises:
        ValueError: not a date, or in none of `YEARS`.

    >>> as_moment("2024-01-31T01:00+02:00")
    datetime.datetime(2024, 1, 30, 23, 0, tzinfo=datetime.timezone.utc)
    """
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime.combine(value, time())
    if isinstance(value, datetime):
        if value.year not in YEARS:
            raise ValueError(f"{value} lies outside the years {YEARS[0]} to {YEARS[-1]}")
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    raise ValueError(f"{value!r} is not a date")


Duration = Annotated[timedelta, BeforeValidator(as_duration)]
Moment = Annotated[datetime, BeforeValidator(as_moment)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,62}$")]
ColumnName = Annotated[str, Field(min_length=1, max_length=128)]
Share = Annotated[float, Field(ge=0, le=1)]
Severity = Literal["stop", "warn"]
Every = Literal["hour", "day", "week", "month", "quarter", "year"]

CRON: dict[Every, str] = {
    "hour": "0 * * * *",
    "day": "0 0 * * *",
    "week": "0 0 * * 1",
    "month": "0 0 1 * *",
    "quarter": "0 0 1 1,4,7,10 *",
    "year": "0 0 1 1 *",
}
"""The first minute of each interval."""
