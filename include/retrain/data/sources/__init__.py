"""Where batches and labels come from: files and databases, as one typed Parquet file.

Rows are read in pieces, so that ten million fit beside everything else; every value has its declared type or
the delivery is refused with the place where it has not. What is asked of a batch beyond that is `validate`'s.

Only this folder knows file formats and SQL drivers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from retrain.data.sources import files, formats, sql
from retrain.data.sources.address import render, shown
from retrain.data.sources.files import Found
from retrain.data.sources.typed import plain
from retrain.errors import BatchMissing, BatchTooLarge, EmptyBatch, OutOfInterval, SourceUnavailable
from retrain.results import Interval
from retrain.spec import LabelSource, Source

GROUP_ROWS = 1 << 17


@dataclass(frozen=True)
class Delivered:
    """A delivery as typed Parquet.

    Attributes:
        digest: SHA-256 of the delivered bytes; for SQL of the rows, whatever their order.
        address: for people, without secrets.
    """

    file: Path
    rows: int
    digest: str
    address: str


def find(source: Source, interval: Interval, root: Path, folder: Path) -> Found | None:
    """The delivered files of an interval and their digest, without reading them; None for SQL.

    Args:
        root: where relative paths begin.
        folder: an empty folder for files that are brought from elsewhere.

    Raises:
        BatchMissing: nothing has been delivered yet.
        SourceRefused, SourceUnavailable, BatchTooLarge: see `files.find`.
    """
    if source.sql is not None:
        return None
    found = files.find(source, interval, root, folder)
    if found is None:
        raise _missing(f"nothing lies at {shown(render(source.path or '', interval))}", source, interval)
    return found


def deliver(
    source: Source, interval: Interval, root: Path, schema: pa.Schema, folder: Path, found: Found | None = None
) -> Delivered:
    """Read the batch of an interval into one Parquet file in `folder`; the same delivery gives the same bytes.

    Rows of other intervals are an error where the interval has a delivery of its own, and are left out where a
    file holds several.

    Args:
        schema: the declared columns in order; dictionaries are categories.
        found: what `find` returned, if it was called.

    Raises:
        BatchMissing: nothing has been delivered yet.
        EmptyBatch: a file of the interval's own without rows.
        OutOfInterval: rows without a time, or of another interval.
        BatchTooLarge: more rows or bytes than the spec allows.
        RaggedRow, SchemaChanged, DtypeChanged: with column, line and value.
        SourceRefused, SourceUnavailable: the source cannot be read, or not now.
    """
    target = folder / "batch.parquet"
    if source.sql is not None:
        url = sql.address(source, root)
        seen = _RowDigest()
        kept = _within(
            seen.over(sql.read(source, url, interval, schema)), source, interval, selects=":end" not in source.sql
        )
        rows = _write(kept, schema, target, source)
        if not rows:
            raise _missing(f"{sql.shown(url)} has no rows", source, interval)
        return Delivered(target, rows, seen.hexdigest(), sql.shown(url))
    found = found or find(source, interval, root, folder)
    assert found is not None
    pieces = chain.from_iterable(formats.read(file, source, schema) for file in found.files)
    rows = _write(_within(pieces, source, interval, selects=found.selects), schema, target, source)
    _unchanged(found)
    if not rows:
        if found.selects:
            raise _missing(f"{found.address} has no rows of {interval}", source, interval)
        raise EmptyBatch(f"{found.address} has no rows", do="deliver the batch again")
    return Delivered(target, rows, found.digest, found.address)


def deliver_labels(
    labels: LabelSource, source: Source, interval: Interval, root: Path, schema: pa.Schema, folder: Path
) -> Delivered:
    """Read the labels of an interval's rows into one Parquet file in `folder`, as they were delivered.

    Columns that `schema` does not have are ignored: label systems export more than the outcome. Which rows the
    labels belong to is the caller's question; there may be none.

    Args:
        source: the rows' own, for the limits on rows and bytes.
        schema: key and target; they are written without dictionaries.

    Raises:
        BatchMissing: no file has been delivered yet.
        BatchTooLarge, RaggedRow, SchemaChanged, DtypeChanged, SourceRefused, SourceUnavailable: as for `deliver`.
    """
    source = source.model_copy(update={name: getattr(labels, name) for name in _ADDRESS})
    target = folder / "labels.parquet"
    written = pa.schema([(field.name, plain(field.type)) for field in schema])
    if source.sql is not None:
        url = sql.address(source, root)
        seen = _RowDigest()
        rows = _write(seen.over(sql.read(source, url, interval, schema, exact=False)), written, target, source)
        return Delivered(target, rows, seen.hexdigest(), sql.shown(url))
    found = files.find(source, interval, root, folder)
    if found is None:
        where = shown(render(source.path or "", interval))
        raise BatchMissing(f"nothing lies at {where} yet", do=f"deliver the labels of {interval}")
    pieces = chain.from_iterable(formats.read(file, source, schema, exact=False) for file in found.files)
    rows = _write(pieces, written, target, source)
    _unchanged(found)
    return Delivered(target, rows, found.digest, found.address)


_ADDRESS = ("path", "format", "sql", "url", "connection")


def _unchanged(found: Found) -> None:
    if not found.unchanged():
        raise SourceUnavailable(f"{found.address} changed while it was read", do="move finished files into place")


def _missing(what: str, source: Source, interval: Interval) -> BatchMissing:
    until = interval.end + source.wait
    return BatchMissing(
        f"{what} yet", do=f"deliver the batch of {interval}; it is waited for until {until:%Y-%m-%d %H:%M} UTC"
    )


def _within(pieces: Iterator[pa.Table], source: Source, interval: Interval, *, selects: bool) -> Iterator[pa.Table]:
    start, end = (pa.scalar(moment, pa.timestamp("us", tz="UTC")) for moment in (interval.start, interval.end))
    outside, timeless, example = 0, 0, None
    for piece in pieces:
        moments = piece.column(source.time)
        timeless += moments.null_count
        inside = pc.and_(pc.greater_equal(moments, start), pc.less(moments, end))
        kept = piece.filter(inside)
        others = len(piece) - len(kept) - moments.null_count
        if others and not selects:
            outside += others
            example = example or moments.filter(pc.invert(inside))[0].as_py()
        yield kept
    said = [f"{outside:,} rows of other intervals, such as {example:%Y-%m-%d %H:%M:%S}"] if outside and example else []
    said += [f"{timeless:,} rows without a time"] if timeless else []
    if said:
        raise OutOfInterval(
            f"{' and '.join(said)} in the batch of {interval}, by {source.time!r}",
            do="deliver each row with its own interval; times without a zone are read as UTC",
        )


def _write(pieces: Iterator[pa.Table], schema: pa.Schema, target: Path, source: Source) -> int:
    """Write pieces in row groups of one size, whatever the pieces' own, and count the rows."""
    rows, waiting = 0, list[pa.Table]()
    with pq.ParquetWriter(target, schema, compression="zstd", version="2.6") as writer:

        def flush(least: int) -> None:
            nonlocal waiting
            while (count := sum(map(len, waiting))) >= least and count:
                table = pa.concat_tables(waiting)
                writer.write_table(encoded(table.slice(0, GROUP_ROWS), schema), row_group_size=GROUP_ROWS)
                waiting = [table.slice(GROUP_ROWS)]

        for piece in pieces:
            rows += len(piece)
            if rows > source.max_rows:
                raise BatchTooLarge(
                    f"more rows than source.max_rows {source.max_rows:,}", do="deliver less, or raise source.max_rows"
                )
            waiting.append(piece)
            flush(GROUP_ROWS)
        flush(1)
    return rows


def encoded(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Plain columns with the types of `schema`, in one chunk each: equal rows give equal bytes however they came."""
    columns = []
    for field in schema:
        column = table.column(field.name)
        whole = column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)
        columns.append(whole.dictionary_encode().cast(field.type) if plain(field.type) != field.type else whole)
    return pa.table(columns, schema=schema)


class _RowDigest:
    """SHA-256 of a multiset of rows: a database gives the same rows in any order."""

    def __init__(self) -> None:
        self._sum = 0

    def over(self, pieces: Iterator[pa.Table]) -> Iterator[pa.Table]:
        for piece in pieces:
            text = [pc.coalesce(pc.cast(column.combine_chunks(), pa.string()), "\x00") for column in piece.columns]
            for row in pc.binary_join_element_wise(*text, "\x01").to_pylist():
                self._sum += int.from_bytes(hashlib.sha256(row.encode()).digest())
            yield piece

    def hexdigest(self) -> str:
        return hashlib.sha256(f"{self._sum:x}".encode()).hexdigest()
