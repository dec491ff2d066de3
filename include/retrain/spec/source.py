"""`source`: where batches come from."""

from __future__ import annotations

import codecs
import re
from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from retrain.spec.base import ColumnName, Duration, Part

Sign = Annotated[str, Field(min_length=1, max_length=1)]
"""One character."""


class CsvDialect(Part):
    """How CSV files are written, in the words of pandas' `read_csv`; nothing of it is guessed in a run."""

    sep: Sign = Field(default=",", description='what separates fields; tab is "\\t"')
    decimal: Literal[".", ","] = Field(default=".", description="the decimal sign of numbers")
    thousands: Sign | None = Field(default=None, description="what groups the digits of numbers, three by three")
    quotechar: Sign = Field(default='"', description="what stands around a text that holds a separator")
    encoding: str = Field(default="utf-8", description="latin-1, cp1252, utf-16 and whatever Python reads")
    comment: Sign | None = Field(default=None, description="lines that begin with it are skipped")
    skiprows: int = Field(default=0, ge=0, description="lines to skip before the header")
    na_values: tuple[str, ...] = Field(default=(), description="words for a missing value, besides an empty field")

    @field_validator("encoding")
    @classmethod
    def _check_encoding(cls, name: str) -> str:
        try:
            if not codecs.lookup(name)._is_text_encoding:
                raise LookupError
        except LookupError:
            raise ValueError(f"{name!r} is no encoding of text") from None
        return name

    @model_validator(mode="after")
    def _check_signs_differ(self) -> Self:
        if len({self.sep, self.quotechar, self.comment}) < 3:
            raise ValueError("sep, quotechar and comment must be different signs")
        if self.thousands == self.decimal:
            raise ValueError("decimal and thousands must be different signs")
        return self


class Delivery(Part):
    """Where something is delivered: files, or a SQL query."""

    path: str | None = Field(default=None, description="file, glob or template with {start} and {end}; any fsspec URL")
    format: Literal["csv", "jsonl", "parquet"] | None = Field(default=None, description="by default from the suffix")
    csv: CsvDialect = Field(default=CsvDialect(), description="how CSV files are written, in pandas' words")
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
