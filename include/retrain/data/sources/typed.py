"""Text and Python values as the declared types, without a guess and without a silent cast.

| declared | text | from a database |
|---|---|---|
| integer | `12`, `12.0`; not `12.5` | int, numeric or float without decimals |
| number | `12`, `1.5e3`, `inf`; `nan` is missing | int, float, numeric |
| boolean | true/false, yes/no, 1/0 in any case | bool, 1/0 |
| datetime | ISO 8601 to the microsecond; without a zone it is UTC; a date alone is midnight | datetime, date, text |
| string, category | any | text, uuid, int |

An empty field is missing. Categories stay plain strings here; the writer encodes them.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from retrain.spec import CsvDialect

UTC_MICROSECONDS = pa.timestamp("us", tz="UTC")
_ZONED = r"[T ]\d\d\S*(Z|[+-]\d\d(:?\d\d)?)$"
_TRUE, _FALSE = pa.array(["true", "yes", "1"]), pa.array(["false", "no", "0"])


class Mismatch(Exception):
    """A value that is not of its declared type, and its place in the column."""

    def __init__(self, index: int, value: object) -> None:
        super().__init__(index, value)
        self.index = index
        self.value = value


def value_type(kind: pa.DataType) -> pa.DataType:
    """The type of a column's values, without dictionary encoding."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def type_name(kind: pa.DataType) -> str:
    """The name of a type in the spec."""
    names = {pa.int64(): "integer", pa.float64(): "number", pa.bool_(): "boolean", UTC_MICROSECONDS: "datetime"}
    return names.get(kind, "category" if pa.types.is_dictionary(kind) else "string")


def of_text(column: pa.Array, kind: pa.DataType, dialect: CsvDialect | None = None) -> pa.Array:
    """Convert text to `kind`.

        >>> of_text(pa.array(["1", "2.0", None]), pa.int64()).to_pylist()
        [1, 2, None]
        >>> of_text(pa.array(["1", "2.5"]), pa.int64())
        Traceback (most recent call last):
        retrain.data.sources.typed.Mismatch: (1, '2.5')
        >>> of_text(pa.array(["1.234,5"]), pa.float64(), CsvDialect(decimal=",", thousands=".")).to_pylist()
        [1234.5]

    Args:
        column: of texts.
        kind: the declared type.
        dialect: how numbers are written; by default with a point and nothing between digits.

    Raises:
        Mismatch: the first value that is not one.
    """
    kind = value_type(kind)
    if pa.types.is_string(kind):
        return column
    cast = {pa.int64(): _integer, pa.float64(): _number, pa.bool_(): _boolean, UTC_MICROSECONDS: _datetime}[kind]
    written = _plain(column, dialect) if dialect and kind in (pa.int64(), pa.float64()) else column
    try:
        return cast(written)
    except pa.ArrowInvalid:
        trimmed = pc.utf8_trim_whitespace(written)
        trimmed = pc.if_else(pc.equal(trimmed, ""), None, trimmed)
    try:
        return cast(trimmed)
    except pa.ArrowInvalid:
        index = _first(trimmed, cast)
        raise Mismatch(index, column[index].as_py()) from None


def _plain(column: pa.Array, dialect: CsvDialect) -> pa.Array:
    """Numbers with a point and nothing between digits; what the dialect does not write becomes no number."""
    group, point = dialect.thousands, dialect.decimal
    if group:
        digits = rf"^\s*[+-]?\d{{1,3}}({re.escape(group)}\d{{3}})+({re.escape(point)}\d*)?\s*$"
        grouped = pc.match_substring_regex(column, digits)
        column = pc.if_else(grouped, pc.replace_substring(column, group, ""), column)
    if point != ".":
        column = pc.replace_substring(pc.replace_substring(column, ".", "?"), point, ".")
    return column


def _integer(column: pa.Array) -> pa.Array:
    # Arrow reads 0x1F as a number.
    if pc.any(pc.match_substring(column, "x", ignore_case=True)).as_py():
        raise pa.ArrowInvalid("hexadecimal")
    try:
        return pc.cast(column, pa.int64())
    except pa.ArrowInvalid:
        return pc.cast(pc.replace_substring_regex(column, r"^(\s*[+-]?\d+)\.0*(\s*)$", r"\1\2"), pa.int64())


def _number(column: pa.Array) -> pa.Array:
    return without_nan(pc.cast(column, pa.float64()))


def _boolean(column: pa.Array) -> pa.Array:
    lower = pc.utf8_lower(column)
    true = pc.is_in(lower, _TRUE)
    if not pc.all(pc.or_(pc.or_(true, pc.is_in(lower, _FALSE)), pc.is_null(column))).as_py():
        raise pa.ArrowInvalid("not a boolean")
    return pc.if_else(pc.is_null(column), None, true)


def _datetime(column: pa.Array) -> pa.Array:
    zoned = pc.match_substring_regex(column, _ZONED)
    if pc.all(zoned).as_py():
        return pc.cast(column, UTC_MICROSECONDS)
    naive = pc.cast(pc.cast(pc.if_else(zoned, None, column), pa.timestamp("us")), UTC_MICROSECONDS)
    return pc.coalesce(pc.cast(pc.if_else(zoned, column, None), UTC_MICROSECONDS), naive)


def without_nan(column: pa.Array) -> pa.Array:
    """NaN as missing: the two are one thing in every frame downstream."""
    return pc.if_else(pc.is_nan(column), None, column)


def _first(column: pa.Array, cast: Callable[[pa.Array], pa.Array]) -> int:
    """Where the first value lies that cannot be cast, by halving."""
    low, high = 0, len(column)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            cast(column.slice(low, middle - low))
            low = middle
        except pa.ArrowInvalid:
            high = middle
    return low


def of_values(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Convert a database's values to `kind`.

        >>> of_values([1, None, Decimal("2")], pa.int64()).to_pylist()
        [1, None, 2]

    Raises:
        Mismatch: the first value that is not one.
    """
    kind = value_type(kind)
    present = set(map(type, values)) - {type(None)}
    fast, slow = _TAKES[kind]
    if present <= fast:
        return _array(values, kind)
    converted = list(values)
    for index, value in enumerate(values):
        if value is not None and type(value) not in fast:
            converted[index] = slow(value)
            if converted[index] is None:
                raise Mismatch(index, value)
    return _array(converted, kind)


def _array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    try:
        array = pa.array(values, kind)
    except (pa.ArrowInvalid, OverflowError):
        index = next(place for place, value in enumerate(values) if not _fits(value, kind))
        raise Mismatch(index, values[index]) from None
    return without_nan(array) if pa.types.is_floating(kind) else array


def _fits(value: Any, kind: pa.DataType) -> bool:
    try:
        pa.scalar(value, kind)
    except (pa.ArrowInvalid, OverflowError):
        return False
    return True


def _as_integer(value: Any) -> int | None:
    return int(value) if isinstance(value, Decimal | float) and value % 1 == 0 else None


def _as_number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | Decimal) and not isinstance(value, bool) else None


def _as_boolean(value: Any) -> bool | None:
    return bool(value) if type(value) is int and value in (0, 1) else None


def _as_datetime(value: Any) -> datetime | None:
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day)
    if not isinstance(value, str):
        return None
    try:
        parsed: datetime | None = of_text(pa.array([value]), UTC_MICROSECONDS)[0].as_py()
    except Mismatch:
        return None
    return parsed


def _as_string(value: Any) -> str | None:
    return str(value) if isinstance(value, uuid.UUID) or type(value) is int else None


_TAKES: dict[pa.DataType, tuple[set[type], Callable[[Any], Any]]] = {
    pa.int64(): ({int}, _as_integer),
    pa.float64(): ({float}, _as_number),
    pa.bool_(): ({bool}, _as_boolean),
    UTC_MICROSECONDS: ({datetime}, _as_datetime),
    pa.string(): ({str}, _as_string),
}
