"""What a delivery must be, whatever brings it: the declared columns, their types, no more bytes than allowed."""

from __future__ import annotations

import pyarrow as pa

from retrain.data.sources.typed import type_name
from retrain.errors import BatchTooLarge, DtypeChanged, SchemaChanged
from retrain.spec import Source

BATCH_ROWS = 1 << 16
"""Rows of a piece, where the reader can choose."""


def check_columns(names: list[str], schema: pa.Schema, where: str, *, exact: bool = True) -> None:
    """Refuse columns that are missing, new or doubled, all of them at once; new ones only where it is `exact`.

    Args:
        names: of the delivered columns.
        schema: the declared columns.
        where: file and line, for people.
        exact: whether a column that `schema` does not have is refused.

    Raises:
        SchemaChanged: there are such columns.
    """
    groups = {
        "missing": [name for name in schema.names if name not in names],
        "not declared": [name for name in dict.fromkeys(names) if name not in schema.names],
        "doubled": [name for name in dict.fromkeys(names) if names.count(name) > 1],
    }
    if not exact:
        groups = {what: [name for name in group if name in schema.names] for what, group in groups.items()}
    if differences := [f"{what}: {_bounded(group)}" for what, group in groups.items() if group]:
        raise SchemaChanged(f"{where}: {'; '.join(differences)}", do="correct the delivery, or the spec's columns")


def _bounded(names: list[str]) -> str:
    more = f" … and {len(names) - 20} more" if len(names) > 20 else ""
    return ", ".join(name[:80] for name in names[:20]) + more


def dtype_changed(where: str, column: str, value: object, kind: pa.DataType) -> DtypeChanged:
    """The refusal of a value that is not of its column's declared type."""
    short = repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:59]}…"
    return DtypeChanged(
        f"{where}, column {column!r}: {short} is not of the declared type {type_name(kind)}",
        do="correct the delivery, or the column's type in the spec; a missing value is an empty field",
    )


def check_size(size: int, source: Source, address: str) -> None:
    """Refuse more bytes than `source.max_bytes`.

    Raises:
        BatchTooLarge: there are more.
    """
    if size > source.max_bytes:
        raise BatchTooLarge(
            f"{address} has {size:,} bytes, source.max_bytes is {source.max_bytes:,}",
            do="deliver less, or raise source.max_bytes",
        )
