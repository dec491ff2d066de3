"""The type to declare for a column, so that `ingest` reads every value of the profiled files.

Text is tried with the very function that reads batches (`of_text`); JSON and Parquet keep what they come with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from retrain.data.sources import UTC_MICROSECONDS, Mismatch, of_text
from retrain.errors import DtypeChanged
from retrain.spec import CsvDialect

MISSING_WORDS = {"na", "n/a", "nan", "null", "none", "nil", "-", "?", "."}


@dataclass(frozen=True)
class ProfiledColumn:
    """One column of a profile.

    Attributes:
        name: as delivered.
        type: the spec's type for it.
        values: (kept rows,) in that type; numbers, whole ones and booleans too, are floats, missing is NaN.
        notes: what a person should know.
    """

    name: str
    type: str
    values: pd.Series[Any]
    notes: tuple[str, ...] = ()


def profile_column(name: str, array: pa.Array, kind: str, dialect: CsvDialect | None = None) -> ProfiledColumn:
    """A delivered column in the type that `ingest` would read it as.

    Args:
        name: of the column.
        array: (kept rows,) as the file has it.
        kind: of the file: csv, jsonl or parquet.
        dialect: how numbers are written in CSV.

    Raises:
        DtypeChanged: there is none.
    """
    arrow = array.type
    if pa.types.is_string(arrow) or pa.types.is_large_string(arrow):
        return _text(name, array.cast(pa.string()), kind, dialect)
    if pa.types.is_boolean(arrow):
        return ProfiledColumn(name, "boolean", _pandas(array, "boolean"))
    if pa.types.is_integer(arrow) and arrow != pa.uint64():
        return ProfiledColumn(name, "integer", _pandas(array, "integer"))
    if pa.types.is_floating(arrow):
        return ProfiledColumn(name, "number", _pandas(array, "number"))
    if pa.types.is_timestamp(arrow) or pa.types.is_date(arrow):
        return ProfiledColumn(name, "datetime", _pandas(array.cast(UTC_MICROSECONDS, safe=False), "datetime"))
    raise DtypeChanged(
        f"column {name!r} is of the type {arrow}",
        do="deliver integers, floats, booleans, times or texts; or leave it out",
    )


def _pandas(array: pa.Array, kind: str) -> pd.Series[Any]:
    if kind in ("integer", "boolean"):
        array = array.cast(pa.int8() if kind == "boolean" else pa.int64()).cast(pa.float64(), safe=False)
    return cast("pd.Series[Any]", array.to_pandas())


def _text(name: str, column: pa.Array, kind: str, dialect: CsvDialect | None) -> ProfiledColumn:
    words = pc.unique(column.drop_null())
    if not len(words):
        return ProfiledColumn(name, "string", column.to_pandas(), ("empty in every row",))
    for type_ in _types_to_try(words, kind):
        try:
            return ProfiledColumn(name, type_, _pandas(of_text(column, _ARROW[type_], dialect), type_))
        except Mismatch:
            continue
    notes: list[str] = []
    stand_ins = pc.is_in(pc.utf8_lower(pc.utf8_trim_whitespace(column)), pa.array(sorted(MISSING_WORDS)))
    if (count := pc.sum(stand_ins).as_py() or 0) and count < len(column) - column.null_count:
        blank = pc.if_else(pc.fill_null(stand_ins, False), pa.scalar(None, pa.string()), column)
        rest = _text(name, blank, kind, dialect)
        if rest.type not in ("category", "string"):
            word = next(text for text in words.to_pylist() if text.strip().lower() in MISSING_WORDS)
            notes.append(f"{word} is not an empty field: with empty fields in its place this would be {rest.type}")
    present = len(column) - column.null_count
    length = pc.mean(pc.utf8_length(column)).as_py()
    few = len(words) <= max(50, min(1000, present / 20)) and len(words) <= max(2, present / 2)
    if few and length <= 60:
        return ProfiledColumn(name, "category", column.to_pandas(), tuple(notes))
    why = "free text" if length > 25 else "an id, or too many to learn from"
    notes.append(f"{len(words)} different texts in {present} rows: {why}")
    return ProfiledColumn(name, "string", column.to_pandas(), tuple(notes))


_ARROW = {"boolean": pa.bool_(), "integer": pa.int64(), "number": pa.float64(), "datetime": UTC_MICROSECONDS}


def _types_to_try(words: pa.Array, kind: str) -> tuple[str, ...]:
    """The types to try on text: in JSON only a time hides in it, in CSV everything does."""
    if kind == "jsonl":
        return ("datetime",)
    if kind == "parquet":
        return ()
    # 00420 and numbers of more digits than 64 bits hold are names written in digits.
    if pc.any(pc.match_substring_regex(words, r"^\s*[+-]?(0\d|\d{19,}\s*$)")).as_py():
        return ("datetime",)
    digits = pc.all(pc.match_substring_regex(words, r"^\s*[01]\s*$")).as_py()
    return (
        ("integer", "number", "datetime")
        if digits and len(words) != 2
        else ("boolean", "integer", "number", "datetime")
    )
