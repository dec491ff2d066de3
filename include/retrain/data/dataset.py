"""The rows of accepted batches as typed frames.

Everything that trains, scores or compares reads its rows here: digests are checked, only the columns
asked for are read, and a declared type becomes one pandas type.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from retrain.results import AcceptedBatch, Context, Interval, LabelBatch
from retrain.spec import Column, Spec
from retrain.state.run import Run
from retrain.state.store import json_digest


def arrow_schema(spec: Spec) -> pa.Schema:
    """The schema in which batches are published."""
    return _schema(spec.delivered)


def labels_schema(spec: Spec) -> pa.Schema:
    """The schema in which labels that come apart are published: the key, then the target."""
    return _schema({name: spec.columns[name] for name in (*spec.source.key, spec.target.column)})


def _schema(columns: Mapping[str, Column]) -> pa.Schema:
    types = {
        "integer": pa.int64(),
        "number": pa.float64(),
        "category": pa.dictionary(pa.int32(), pa.string()),
        "string": pa.string(),
        "boolean": pa.bool_(),
        "datetime": pa.timestamp("us", tz="UTC"),
    }
    return pa.schema([(name, types[column.type]) for name, column in columns.items()])


def to_frame(table: pa.Table) -> pd.DataFrame:
    """Turn a published table into a frame for models: numbers and booleans as float64, categories as category.

    Integers beyond 2**53 are rounded as any model rounds them; keys that must be exact are read apart.

    >>> to_frame(pa.table({"a": pa.array([1, None]), "b": pa.array([True, None])})).dtypes.astype(str).tolist()
    ['float64', 'float64']
    >>> float(to_frame(pa.table({"a": pa.array([2**60 + 1])}))["a"][0]) == 2.0**60
    True
    """
    fields = [
        field.with_type(pa.float64()) if pa.types.is_integer(field.type) or pa.types.is_boolean(field.type) else field
        for field in table.schema
    ]
    columns = [
        column.cast(pa.int8()).cast(pa.float64())
        if pa.types.is_boolean(column.type)
        else column.cast(field.type, safe=False)
        for column, field in zip(table.columns, fields, strict=True)
    ]
    frame: pd.DataFrame = pa.table(columns, schema=pa.schema(fields)).unify_dictionaries().to_pandas()
    return frame


def read(
    run: Run, accepted: Sequence[AcceptedBatch], columns: Iterable[str] | None = None, *, ordered: bool = True
) -> pd.DataFrame:
    """Read the rows of batches, ordered by time and key; labels that came apart are joined by key.

    A label that has not come is null, and so is every label of a batch whose labels have not been taken yet.

    Args:
        run: the spec, and the store that holds the files.
        accepted: the batches.
        columns: their names; all by default.
        ordered: else they come as they lie in the files, without the key: sorting texts costs more than reading.

    Raises:
        SnapshotCorrupt: a file is not the one that was accepted.
        MissingInput: a file is gone.
    """
    spec = run.spec
    order = [spec.source.time, *spec.source.key] if ordered else []
    wanted = list(dict.fromkeys([*(columns if columns is not None else spec.columns), *order]))
    schema, target = _schema(spec.columns), spec.target.column
    tables = []
    for batch in accepted:
        apart = target in wanted and (spec.labels.source != "same" or batch.labels is not None)
        needed = {*wanted} - {target} | {*spec.source.key} if apart else {*wanted}
        with run.store.verified(batch.batch.key, batch.batch.sha256) as path:
            here = [name for name in pq.read_schema(path).names if name in needed]
            # Named, or pyarrow spells every category out before it encodes it again: four times the work.
            encoded = [name for name in here if pa.types.is_dictionary(schema.field(name).type)]
            table = pq.read_table(path, columns=here, read_dictionary=encoded)
        present = {name: table[name] for name in here}
        if apart and batch.labels is not None:
            present[target] = _labels(run, batch.labels, table)
        # A column that the spec gained later is missing in older batches: it is empty there.
        tables.append(
            pa.table(
                {
                    name: present[name] if name in present else pa.nulls(table.num_rows, schema.field(name).type)
                    for name in wanted
                }
            )
        )
    if not tables:
        return to_frame(schema.empty_table().select(wanted))
    frame = to_frame(pa.concat_tables(tables, promote_options="permissive"))
    return frame.sort_values(order, kind="stable", ignore_index=True) if ordered else frame


def _labels(run: Run, labels: LabelBatch, table: pa.Table) -> pa.ChunkedArray:
    """The label of each row of a batch, null where there is none."""
    key, target = run.spec.source.key, run.spec.target.column
    with run.store.verified(labels.key, labels.sha256) as path:
        known = pq.read_table(path, columns=[*key, target])
    places = match(table, known, key)
    return known.unify_dictionaries()[target].take(pa.array(places, mask=places < 0))


def identify(table: pa.Table, key: Sequence[str]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Number the rows, (n,), the same for the same key; -1 where a part of the key is missing.

    >>> identify(pa.table({"a": ["x", "y", "x", None], "b": [1, 1, 1, 1]}), ["a", "b"]).tolist()
    [0, 1, 0, -1]
    """
    numbers = np.zeros(len(table), dtype=np.int64)
    missing = np.zeros(len(table), dtype=bool)
    for name in key:
        column = table[name].combine_chunks()
        column = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
        codes = column.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        missing |= codes < 0
        # Numbered anew after each column, so that no product of many columns can overflow.
        numbers = pd.factorize(numbers * (len(column.dictionary) + 1) + codes)[0]
    return np.where(missing, -1, numbers).astype(np.int64)


def match(table: pa.Table, labels: pa.Table, key: Sequence[str]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Find for each row of `table`, (n,), the place of its key in `labels`, or -1; a missing key matches nothing.

    Args:
        table: with the columns of the key.
        labels: with the columns of the key; no key twice.
        key: names of columns.

    >>> match(pa.table({"id": ["a", "b", None]}), pa.table({"id": [None, "b"]}), ["id"]).tolist()
    [-1, 1, -1]
    """
    kinds = [(name, _value_type(table.schema.field(name).type)) for name in key]
    both = pa.concat_tables([part.select(list(key)).cast(pa.schema(kinds)) for part in (labels, table)])
    numbers = identify(both, key)
    places = np.full(len(both) + 1, -1, dtype=np.int64)
    there = np.flatnonzero(numbers[: len(labels)] >= 0)
    places[numbers[there]] = there
    return places[numbers[len(labels) :]]


def _value_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def outcome(spec: Spec, frame: pd.DataFrame) -> pd.Series[float]:
    """The label of each row, (n,): the class's place in `spec.classes`, or the number; NaN where there is none."""
    values = frame[spec.target.column]
    if spec.task == "regression":
        return values.astype(float)
    if spec.target.at_least is not None:
        return (values >= spec.target.at_least).astype(float).where(values.notna())
    if spec.columns[spec.target.column].type == "boolean":
        codes = {float(bool(name)): place for place, name in enumerate(spec.classes)}
    elif spec.columns[spec.target.column].type == "integer":
        codes = {float(name): place for place, name in enumerate(spec.classes)}
    else:
        codes = {str(name): place for place, name in enumerate(spec.classes)}  # type: ignore[misc]
    if not pd.api.types.is_numeric_dtype(values.dtype):
        values = values.astype(object)
    return values.map(codes).astype(float)


def mature(context: Context, spec: Spec) -> tuple[AcceptedBatch, ...]:
    """The batches whose labels are there, oldest first; where labels come apart, not before they have been taken."""
    apart = spec.labels.source != "same"
    return tuple(
        batch
        for batch in context.accepted
        if batch.mature_at <= context.effective_at and (batch.labels is not None or not apart)
    )


def split(context: Context, spec: Spec) -> tuple[tuple[AcceptedBatch, ...], tuple[AcceptedBatch, ...]]:
    """The batches whose labels are there, oldest first: those to train on, and the newest ones, held out to judge.

    With too few batches the training part is empty; the stages say so.
    """
    batches = mature(context, spec)
    cut = max(len(batches) - spec.evaluation.holdout, 0)
    return batches[:cut], batches[cut:]


def training_digest(accepted: Iterable[AcceptedBatch]) -> str:
    """The digest of a set of training batches, by content; labels that came apart are part of it."""
    return json_digest(
        [
            [batch.batch.sha256, batch.labels.sha256] if batch.labels is not None else batch.batch.sha256
            for batch in accepted
        ]
    )


def intervals(accepted: Iterable[AcceptedBatch]) -> tuple[Interval, ...]:
    """The intervals of these batches."""
    return tuple(batch.batch.interval for batch in accepted)


def sample(frame: pd.DataFrame, rows: int, seed: int) -> pd.DataFrame:
    """Draw at most `rows` rows, the same ones for the same seed, in their order."""
    if len(frame) <= rows:
        return frame
    chosen = np.random.default_rng(seed).choice(len(frame), size=rows, replace=False)
    return frame.iloc[np.sort(chosen)]
