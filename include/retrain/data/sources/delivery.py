"""Deliveries: an interval's rows or labels read from their source and written as one typed Parquet file."""

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
from retrain.data.sources.address import redacted, render
from retrain.data.sources.files import DeliveredFiles
from retrain.data.sources.typed import value_type
from retrain.errors import BatchMissing, BatchTooLarge, EmptyBatch, OutOfInterval, SourceUnavailable
from retrain.results import Interval
from retrain.spec import LabelSource, Source

GROUP_ROWS = 1 << 17


@dataclass(frozen=True)
class Delivered:
    """A delivery as typed Parquet.

    Attributes:
        file: the Parquet file.
        rows: how many there are.
        digest: SHA-256 of the delivered bytes; for SQL of the rows, whatever their order.
        address: for people, without secrets.
    """

    file: Path
    rows: int
    digest: str
    address: str


def find(source: Source, interval: Interval, root: Path, folder: Path) -> DeliveredFiles | None:
    """Find the delivered files of an interval and their digest, without reading them; None for SQL.

    Args:
        source: where batches come from.
        interval: whose batch it is.
        root: where relative paths begin.
        folder: an empty folder for files that are brought from elsewhere.

    Raises:
        BatchMissing: nothing has been delivered yet.
        SourceRefused, SourceUnavailable, BatchTooLarge: see `files.find`.
    """
    if source.sql is not None:
        return None
    delivered = files.find(source, interval, root, folder)
    if delivered is None:
        raise _missing(f"nothing lies at {redacted(render(source.path or '', interval))}", source, interval)
    return delivered


def deliver(
    source: Source,
    interval: Interval,
    root: Path,
    schema: pa.Schema,
    folder: Path,
    delivered: DeliveredFiles | None = None,
) -> Delivered:
    """Read the batch of an interval into one Parquet file in `folder`; the same delivery gives the same bytes.

    Rows of other intervals are an error where the interval has a delivery of its own, and are left out where a
    file holds several.

    Args:
        source: where batches come from.
        interval: whose batch it is.
        root: where relative paths begin.
        schema: the declared columns in order; dictionaries are categories.
        folder: an empty folder for the file.
        delivered: what `find` returned, if it was called.

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
        digest = _RowDigest()
        kept = _of_interval(
            digest.over(sql.read(source, url, interval, schema)), source, interval, selects=":end" not in source.sql
        )
        rows = _write(kept, schema, target, source)
        if not rows:
            raise _missing(f"{sql.redacted_url(url)} has no rows", source, interval)
        return Delivered(target, rows, digest.hexdigest(), sql.redacted_url(url))
    delivered = delivered or find(source, interval, root, folder)
    assert delivered is not None
    with files.while_read(delivered.address):
        pieces = chain.from_iterable(formats.read(file, source, schema) for file in delivered.files)
        rows = _write(_of_interval(pieces, source, interval, selects=delivered.selects), schema, target, source)
        _refuse_changed(delivered)
    if not rows:
        if delivered.selects:
            raise _missing(f"{delivered.address} has no rows of {interval}", source, interval)
        raise EmptyBatch(f"{delivered.address} has no rows", do="deliver the batch again")
    return Delivered(target, rows, delivered.digest, delivered.address)


def deliver_labels(
    labels: LabelSource, source: Source, interval: Interval, root: Path, schema: pa.Schema, folder: Path
) -> Delivered:
    """Read the labels of an interval's rows into one Parquet file in `folder`, as they were delivered.

    Columns that `schema` does not have are ignored: label systems export more than the outcome. Which rows the
    labels belong to is the caller's question; there may be none.

    Args:
        labels: where labels come from.
        source: the rows' own, for the limits on rows and bytes.
        interval: whose rows' labels they are.
        root: where relative paths begin.
        schema: key and target; they are written without dictionaries.
        folder: an empty folder for the file.

    Raises:
        BatchMissing: no file has been delivered yet.
        BatchTooLarge, RaggedRow, SchemaChanged, DtypeChanged, SourceRefused, SourceUnavailable: as for `deliver`.
    """
    source = source.model_copy(update={name: getattr(labels, name) for name in _ADDRESS})
    target = folder / "labels.parquet"
    written = pa.schema([(field.name, value_type(field.type)) for field in schema])
    if source.sql is not None:
        url = sql.address(source, root)
        digest = _RowDigest()
        rows = _write(digest.over(sql.read(source, url, interval, schema, exact=False)), written, target, source)
        return Delivered(target, rows, digest.hexdigest(), sql.redacted_url(url))
    delivered = files.find(source, interval, root, folder)
    if delivered is None:
        where = redacted(render(source.path or "", interval))
        raise BatchMissing(f"nothing lies at {where} yet", do=f"deliver the labels of {interval}")
    with files.while_read(delivered.address):
        pieces = chain.from_iterable(formats.read(file, source, schema, exact=False) for file in delivered.files)
        rows = _write(pieces, written, target, source)
        _refuse_changed(delivered)
    return Delivered(target, rows, delivered.digest, delivered.address)


_ADDRESS = ("path", "format", "csv", "sql", "url", "connection")


def _refuse_changed(delivered: DeliveredFiles) -> None:
    if not delivered.unchanged():
        raise SourceUnavailable(f"{delivered.address} changed while it was read", do="move finished files into place")


def _missing(what: str, source: Source, interval: Interval) -> BatchMissing:
    until = interval.end + source.wait
    return BatchMissing(
        f"{what} yet", do=f"deliver the batch of {interval}; it is waited for until {until:%Y-%m-%d %H:%M} UTC"
    )


def _of_interval(
    pieces: Iterator[pa.Table], source: Source, interval: Interval, *, selects: bool
) -> Iterator[pa.Table]:
    """The rows of an interval; others are an error at the end, unless the source `selects`."""
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
    wrong = [f"{outside:,} rows of other intervals, such as {example:%Y-%m-%d %H:%M:%S}"] if outside and example else []
    wrong += [f"{timeless:,} rows without a time"] if timeless else []
    if wrong:
        raise OutOfInterval(
            f"{' and '.join(wrong)} in the batch of {interval}, by {source.time!r}",
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
    """Encode plain columns as `schema` has them, each in one chunk: equal rows give equal bytes, however they came."""
    columns = []
    for field in schema:
        column = table.column(field.name)
        whole = column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)
        columns.append(whole.dictionary_encode().cast(field.type) if value_type(field.type) != field.type else whole)
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
