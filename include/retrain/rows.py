"""The rows of accepted batches as typed frames.

Everything that trains, scores or compares reads its rows here: digests are checked, only the columns
asked for are read, and a declared type becomes one pandas type.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from retrain.results import Accepted, Context, Interval
from retrain.run import Run
from retrain.spec import Spec
from retrain.workspace import digest_of


def arrow_schema(spec: Spec) -> pa.Schema:
    """The schema in which batches are published."""
    types = {
        "integer": pa.int64(),
        "number": pa.float64(),
        "category": pa.dictionary(pa.int32(), pa.string()),
        "string": pa.string(),
        "boolean": pa.bool_(),
        "datetime": pa.timestamp("us", tz="UTC"),
    }
    return pa.schema([(name, types[column.type]) for name, column in spec.columns.items()])


def to_frame(table: pa.Table) -> pd.DataFrame:
    """A published table for models: numbers and booleans as float64, categories as category.

    >>> to_frame(pa.table({"a": pa.array([1, None]), "b": pa.array([True, None])})).dtypes.astype(str).tolist()
    ['float64', 'float64']
    """
    fields = [
        field.with_type(pa.float64()) if pa.types.is_integer(field.type) or pa.types.is_boolean(field.type) else field
        for field in table.schema
    ]
    columns = [
        column.cast(pa.int8()).cast(pa.float64()) if pa.types.is_boolean(column.type) else column.cast(field.type)
        for column, field in zip(table.columns, fields, strict=True)
    ]
    frame: pd.DataFrame = pa.table(columns, schema=pa.schema(fields)).unify_dictionaries().to_pandas()
    return frame


def read(
    run: Run, accepted: Sequence[Accepted], columns: Iterable[str] | None = None, *, ordered: bool = True
) -> pd.DataFrame:
    """The rows of these batches, ordered by time and key.

    Args:
        ordered: else they come as they lie in the files, without the key: sorting texts costs more than reading.

    Raises:
        SnapshotCorrupt: a file is not the one that was accepted.
        MissingInput: a file is gone.
    """
    spec = run.spec
    order = [spec.source.time, *spec.source.key] if ordered else []
    wanted = list(dict.fromkeys([*(columns if columns is not None else spec.columns), *order]))
    schema = arrow_schema(spec)
    tables = []
    for one in accepted:
        with run.store.verified(one.batch.key, one.batch.sha256) as path:
            present = set(pq.read_schema(path).names)
            here = [name for name in wanted if name in present]
            # Named, or pyarrow spells every category out before it encodes it again: four times the work.
            encoded = [name for name in here if pa.types.is_dictionary(schema.field(name).type)]
            table = pq.read_table(path, columns=here, read_dictionary=encoded)
        # A column that the spec gained later is missing in older batches: it is empty there.
        tables.append(
            pa.table(
                {
                    name: table[name] if name in present else pa.nulls(table.num_rows, schema.field(name).type)
                    for name in wanted
                }
            )
        )
    if not tables:
        return to_frame(schema.empty_table().select(wanted))
    frame = to_frame(pa.concat_tables(tables, promote_options="permissive"))
    return frame.sort_values(order, kind="stable", ignore_index=True) if ordered else frame


def outcome(spec: Spec, frame: pd.DataFrame) -> pd.Series[float]:
    """The label of each row: the class's place in `spec.classes`, or the number; NaN where there is none."""
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


def split(context: Context, spec: Spec) -> tuple[tuple[Accepted, ...], tuple[Accepted, ...]]:
    """The batches whose labels are there, oldest first: those to train on, and the newest ones, sealed to judge.

    With too few batches the training part is empty; the stages say so.
    """
    mature = tuple(one for one in context.accepted if one.mature_at <= context.effective_at)
    cut = max(len(mature) - spec.evaluation.sealed, 0)
    return mature[:cut], mature[cut:]


def training_digest(accepted: Iterable[Accepted]) -> str:
    """The digest of a set of training batches, by content."""
    return digest_of([one.batch.sha256 for one in accepted])


def intervals(accepted: Iterable[Accepted]) -> tuple[Interval, ...]:
    return tuple(one.batch.interval for one in accepted)


def sample(frame: pd.DataFrame, rows: int, seed: int) -> pd.DataFrame:
    """At most `rows` rows, the same ones for the same seed, in their order."""
    if len(frame) <= rows:
        return frame
    chosen = np.random.default_rng(seed).choice(len(frame), size=rows, replace=False)
    return frame.iloc[np.sort(chosen)]
