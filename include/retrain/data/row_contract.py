"""The contract of a single row, which scoring checks before a model answers it.

`validate` holds a whole batch against its contract with Great Expectations; these are the same rules, row by row, as
far as they speak of one row.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from retrain.data import dataset
from retrain.spec import Column, Spec


def breaches(spec: Spec, lead: pa.Table, frame: pd.DataFrame) -> dict[str, NDArray[Any]]:
    """Find which rows break which rule: rule → (n,) booleans, of the rules that some row breaks.

    Key and time are there and the key is no other row's. Of the other columns those rules count whose breach
    stops a batch, and that speak of one row. A category that a model does not know breaks none of them.

    Args:
        spec: key, time, and the rules of the columns.
        lead: (n) key and time, as delivered.
        frame: (n) columns that a model reads, as `dataset.read` gives them.
    """
    return {rule: mask for rule, mask in _rules(spec, lead, frame) if mask.any()}


def _rules(spec: Spec, lead: pa.Table, frame: pd.DataFrame) -> Iterator[tuple[str, NDArray[Any]]]:
    for name in lead.column_names:
        yield f"{name}: missing", lead[name].is_null().to_numpy()
    yield f"{', '.join(spec.source.key)}: repeated", repeated(lead, spec.source.key)
    for name, values in frame.items():
        for rule, mask in _of_column(spec.columns[str(name)], values):
            yield f"{name}: {rule}", mask


def _of_column(column: Column, values: pd.Series[Any]) -> Iterator[tuple[str, NDArray[Any]]]:
    """The rules of a column that speak of one row; the same as `validate` has for the batch."""
    if column.type == "number":
        # Whatever the severity: no model takes it.
        yield "not finite", np.isinf(values.to_numpy())
    if column.severity != "stop":
        return
    if column.max_missing == 0:
        yield "missing", values.isna().to_numpy()
    if column.type in ("integer", "number"):
        finite = values.where(np.isfinite(values))
        if column.min is not None:
            yield f"below {column.min:g}", (finite < column.min).to_numpy()
        if column.max is not None:
            yield f"above {column.max:g}", (finite > column.max).to_numpy()
    if column.type == "integer" and column.values is not None:
        yield "not one of its values", (values.notna() & ~values.isin(column.values)).to_numpy()
    if column.type in ("category", "string"):
        if column.values is not None:
            allowed = {str(value) for value in column.values}
            yield "not one of its values", ~each_text(values, allowed.__contains__)
        if column.pattern is not None:
            pattern = re.compile(column.pattern)
            yield "does not match its pattern", ~each_text(values, lambda text: bool(pattern.search(text)))


def each_text(values: pd.Series[Any], good: Callable[[str], bool]) -> NDArray[Any]:
    """Whether each text is good (n,), judged once per distinct text; a missing one is.

    >>> each_text(pd.Series(["a", None, "b"]), {"a"}.__contains__).tolist()
    [True, True, False]
    """
    coded = values.astype("category").cat
    return np.asarray([*(good(str(text)) for text in coded.categories), True], dtype=bool)[coded.codes.to_numpy()]


def repeated(table: pa.Table, key: Sequence[str]) -> NDArray[Any]:
    """Which rows share their key with another one (n,); a missing key is shared with nobody.

    >>> repeated(pa.table({"id": ["a", "b", "a", None, None]}), ["id"]).tolist()
    [True, False, True, False, False]
    """
    numbers = dataset.identify(table, key)
    there = numbers >= 0
    shared = np.bincount(numbers[there], minlength=1) > 1
    return np.where(there, shared[numbers], False)
