"""One group of columns at a time, from a frame or from a Parquet file, as dtypes that GX is fast on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

_NULLABLE: dict[pa.DataType, pd.api.extensions.ExtensionDtype] = {
    pa.int8(): pd.Int8Dtype(),
    pa.int16(): pd.Int16Dtype(),
    pa.int32(): pd.Int32Dtype(),
    pa.int64(): pd.Int64Dtype(),
    pa.uint8(): pd.UInt8Dtype(),
    pa.uint16(): pd.UInt16Dtype(),
    pa.uint32(): pd.UInt32Dtype(),
    pa.uint64(): pd.UInt64Dtype(),
    pa.bool_(): pd.BooleanDtype(),
}

Reading: TypeAlias = Literal["typed", "encoded", "plain"]
"""As the batch has it; strings dictionary-encoded; or as the dtype that GX has a vectorised path for."""

_FLOATS = (pd.Float32Dtype, pd.Float64Dtype)
_INTEGERS = (pd.Int8Dtype, pd.Int16Dtype, pd.Int32Dtype, pd.Int64Dtype, pd.UInt8Dtype, pd.UInt16Dtype, pd.UInt32Dtype)


def _vectorised(column: pd.Series[Any], *, keep_encoded: bool) -> pd.Series[Any]:
    """`column` as the dtype for which GX has a vectorised path, where no value is changed by it."""
    dtype = column.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        text = pd.api.types.is_object_dtype(dtype.categories) or pd.api.types.is_string_dtype(dtype.categories)
        return column if keep_encoded and text else column.astype(object)
    if pd.api.types.is_datetime64_dtype(dtype):
        try:
            return column.astype("datetime64[ns]")
        except pd.errors.OutOfBoundsDatetime:
            return column
    if isinstance(dtype, _FLOATS):
        return column.astype("float64")
    if isinstance(dtype, _INTEGERS):
        if not column.hasnans:
            return column.astype("int64")
        # Beyond this a float would no longer hold the integer.
        exact = column.dropna().between(-(2**53), 2**53).all()
        return column.astype("float64") if exact else column
    if isinstance(dtype, np.dtype) and dtype.itemsize < 8 and dtype.kind in "iuf":
        return column.astype("float64" if dtype.kind == "f" else "int64")
    return column


def _frame(columns: Mapping[str, pd.Series[Any]], reading: Reading, rows: int) -> pd.DataFrame:
    converted = columns
    if reading != "typed":
        converted = {name: _vectorised(each, keep_encoded=reading == "encoded") for name, each in columns.items()}
    return pd.DataFrame(converted, index=pd.RangeIndex(rows), copy=False)


class BatchReader(Protocol):
    """A batch of which columns and rows are read as they are needed."""

    columns: list[str]
    rows: int

    def names(self) -> pd.DataFrame:
        """Column names and row count, for expectations that read no value."""

    def part(self, columns: Sequence[str], reading: Reading) -> pd.DataFrame:
        """Some columns; the index is the position in the batch."""

    def take(self, rows: Sequence[int]) -> pd.DataFrame:
        """Whole rows by position, in this order."""


def reader_of(batch: pd.DataFrame | Path) -> BatchReader:
    """The reader of a frame, or of a Parquet file."""
    return ParquetReader(batch) if isinstance(batch, Path) else FrameReader(batch)


class FrameReader:
    """A batch that is a frame in memory."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self._frame = frame.copy(deep=False)
        self._frame.index = pd.RangeIndex(len(frame))
        self.columns, self.rows = list(frame.columns), len(frame)

    def names(self) -> pd.DataFrame:
        """Column names and row count."""
        return self._frame

    def part(self, columns: Sequence[str], reading: Reading) -> pd.DataFrame:
        """Some columns; the index is the position in the batch."""
        return _frame({name: self._frame[name] for name in columns}, reading, self.rows)

    def take(self, rows: Sequence[int]) -> pd.DataFrame:
        """Whole rows by position, in this order."""
        return self._frame.iloc[list(rows)]


class ParquetReader:
    """A batch in a Parquet file, of which no more than what is asked for is in memory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with pq.ParquetFile(path) as file:
            self._schema, self.rows = file.schema_arrow, file.metadata.num_rows
        self.columns = list(self._schema.names)

    def names(self) -> pd.DataFrame:
        """Column names and row count, without a value."""
        nothing = np.broadcast_to(np.int8(0), self.rows)
        return pd.DataFrame(dict.fromkeys(self.columns, nothing), copy=False)

    def part(self, columns: Sequence[str], reading: Reading) -> pd.DataFrame:
        """Some columns; the index is the position in the batch."""
        text = [each for each in columns if pa.types.is_string(self._schema.field(each).type)]
        with pq.ParquetFile(self._path, read_dictionary=text if reading == "encoded" else []) as file:
            table = file.read(columns=list(columns))
        return _frame({name: _series(table.column(name)) for name in columns}, reading, self.rows)

    def take(self, rows: Sequence[int]) -> pd.DataFrame:
        """Whole rows by position, in this order."""
        taken, kept, start = list[pa.Table](), list[int](), 0
        with pq.ParquetFile(self._path) as file:
            for group in range(file.num_row_groups):
                end = start + file.metadata.row_group(group).num_rows
                if inside := sorted({row for row in rows if start <= row < end}):
                    taken.append(file.read_row_group(group).take(pa.array([row - start for row in inside])))
                    kept += inside
                start = end
        table = pa.concat_tables(taken or [self._schema.empty_table()])
        frame = _frame({each: _series(table.column(each)) for each in self.columns}, "typed", len(table))
        return frame.set_axis(pd.Index(kept, dtype="int64")).loc[list(rows)]


def _series(column: pa.ChunkedArray) -> pd.Series[Any]:
    series: pd.Series[Any] = column.to_pandas(
        types_mapper=_NULLABLE.get if column.null_count else None, date_as_object=False
    )
    return series
