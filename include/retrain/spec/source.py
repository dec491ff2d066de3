"""`source`: where batches come from."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Literal, Self

from pydantic import Field, model_validator

from retrain.spec.base import ColumnName, Duration, Part


class Delivery(Part):
    """Where something is delivered: files, or a SQL query."""

    path: str | None = Field(default=None, description="file, glob or template with {start} and {end}; any fsspec URL")
    format: Literal["csv", "jsonl", "parquet"] | None = Field(default=None, description="by default from the suffix")
    sql: str | None = Field(default=None, description="a query with the bound values :start and :end")
    url: str | None = Field(default=None, description="SQLAlchemy URL; ${NAME} is read from the environment")
    connection: str | None = Field(default=None, description="Airflow connection id, instead of url")

    @model_validator(mode="after")
    def _check_one_place(self) -> Self:
        if (self.path is None) == (self.sql is None):
            raise ValueError("give either path or sql")
        if self.sql is not None and (self.url is None) == (self.connection is None):
            raise ValueError("sql needs either url or connection")
        return self


class Source(Delivery):
    """Where batches come from: files, or a SQL query."""

    time: ColumnName = Field(description="the column that places a row in its interval")
    key: tuple[ColumnName, ...] = Field(min_length=1, description="the columns that identify a row")
    wait: Duration = Field(default=timedelta(0), description="how long after the interval's end a batch may come")
    max_rows: int = Field(default=100_000_000, gt=0, description="more rows refuse the delivery")
    max_bytes: int = Field(default=50_000_000_000, gt=0, description="more bytes, unpacked too, refuse the delivery")

    @model_validator(mode="after")
    def _check_query_is_bounded(self) -> Self:
        if self.sql is not None and not re.search(r":start\b", self.sql):
            raise ValueError("the query must use the bound values :start and :end")
        return self
