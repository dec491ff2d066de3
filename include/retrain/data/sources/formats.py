"""Files in their formats, read in typed pieces: CSV, JSON lines and Parquet."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from retrain.data.sources import csv_lines
from retrain.data.sources.address import masked
from retrain.data.sources.declared import BATCH_ROWS, check_columns, check_size, dtype_changed
from retrain.data.sources.typed import UTC_MICROSECONDS, Mismatch, of_text, type_name, value_type, without_nan
from retrain.errors import BatchTooLarge, DtypeChanged, InvalidSpec, RaggedRow, SchemaChanged, SourceRefused
from retrain.spec import CsvDialect, Source

BLOCK_BYTES = 8 << 20
RATIO = 200
"""How many times its size a compressed file may grow, once it has grown past `FREE_BYTES`."""
FREE_BYTES = 64 << 20

FORMATS = {
    **dict.fromkeys(("csv", "tsv", "txt"), "csv"),
    **dict.fromkeys(("jsonl", "ndjson"), "jsonl"),
    **dict.fromkeys(("parquet", "pq"), "parquet"),
}
"""Suffix of a file's name, in small letters → what it holds; `.gz` may follow."""


def format_of(file: Path) -> str | None:
    """What a file holds by its name: csv, jsonl or parquet; None of another name."""
    suffixes = [suffix.lstrip(".").lower() for suffix in file.suffixes if suffix.lower() != ".gz"]
    return FORMATS.get(suffixes[-1]) if suffixes else None


def read(file: Path, source: Source, schema: pa.Schema, *, exact: bool = True) -> Iterator[pa.Table]:
    """Read one file in pieces, its rows in their order, with the types of `schema` before encoding.

    Args:
        file: a local file.
        source: format and limits.
        schema: the declared columns.
        exact: whether a column that `schema` does not have refuses the file; else it is ignored.

    Raises:
        RaggedRow, SchemaChanged, DtypeChanged, BatchTooLarge, SourceRefused: with the file's name.
    """
    zipped = file.suffix.lower() == ".gz"
    kind = source.format or format_of(file)
    if kind is None:
        raise InvalidSpec(f"the format of {file.name} cannot be told from its name", do="give source.format")
    try:
        if kind == "parquet":
            yield from _parquet(file, source, schema, exact)
        else:
            yield from (_csv if kind == "csv" else _jsonl)(file, zipped, source, schema, exact)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise SourceRefused(f"{file.name} is cut off or not gzip: {error}", do="deliver the file again") from None
    except pa.ArrowException as error:
        raise SourceRefused(f"{file.name} cannot be read: {masked(str(error))}", do="deliver the file again") from None


class _Bounded(io.RawIOBase):
    """A decompressed stream that stops a bomb while it grows."""

    def __init__(self, file: Path, source: Source) -> None:
        self._stream = gzip.open(file)  # noqa: SIM115 - closed with this one
        self._name, self._packed, self._out = file.name, file.stat().st_size, 0
        self._source = source

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        block = self._stream.read(len(buffer))
        self._out += len(block)
        check_size(self._out, self._source, f"{self._name}, unpacked,")
        if self._out > max(FREE_BYTES, RATIO * self._packed):
            raise BatchTooLarge(
                f"{self._name} unpacks to more than {RATIO} times its {self._packed:,} bytes", do="deliver it unpacked"
            )
        buffer[: len(block)] = block
        return len(block)

    def close(self) -> None:
        self._stream.close()
        super().close()


def _open(file: Path, zipped: bool, source: Source) -> BinaryIO:
    return io.BufferedReader(_Bounded(file, source), 1 << 20) if zipped else file.open("rb")


# --- CSV -------------------------------------------------------------------------------------------


def _csv(file: Path, zipped: bool, source: Source, schema: pa.Schema, exact: bool) -> Iterator[pa.Table]:
    with _open(file, zipped, source) as stream:
        done, dialect = 0, source.csv
        try:
            blocks = pa.csv.ReadOptions(block_size=BLOCK_BYTES)
            with _open(file, zipped, source) as head:
                header = csv_lines.header(head, dialect)
            if other := csv_lines.other_separator(header, dialect):
                raise SchemaChanged(
                    f"{file.name}: fields are separated by {other!r}, and by {dialect.sep!r} as declared",
                    do=f"write csv: {{sep: {json.dumps(other)}}} beside path, or correct the delivery",
                )
            if not exact:
                check_columns(header, schema, file.name, exact=False)
            # Everything is read as text: only so can a value that breaks its type be named with its line.
            reader = pa.csv.open_csv(
                csv_lines.utf8(stream, dialect),
                read_options=blocks,
                parse_options=csv_lines.parse_options(dialect),
                convert_options=pa.csv.ConvertOptions(
                    column_types={name: pa.string() for name in schema.names},
                    include_columns=[] if exact else schema.names,
                    null_values=["", *dialect.na_values],
                    strings_can_be_null=True,
                ),
            )
            check_columns(reader.schema.names, schema, file.name)
            for batch in reader:
                try:
                    yield _typed(batch, schema, dialect)
                except _Wrong as wrong:
                    line = _line(file, zipped, source, done + wrong.index)
                    raise wrong.named(f"{file.name} line {line}") from None
                done += len(batch)
        except pa.ArrowInvalid as error:
            if not header:
                return
            if ragged := _ragged(file, zipped, source):
                raise RaggedRow(
                    f"{file.name} line {ragged[0]} has {ragged[1]} fields, the header has {ragged[2]}",
                    do=f"repair the file: a {dialect.sep!r} in a text must stand in quotes; lines before the header and"
                    " remarks are declared beside path, csv: {skiprows: 1, comment: '#'}",
                ) from None
            raise _unreadable(file, dialect, error) from None
        except UnicodeError as error:
            raise _unreadable(file, dialect, error) from None


def _unreadable(file: Path, dialect: CsvDialect, error: Exception) -> SourceRefused:
    # Arrow says a column and a row only where it reads in one thread.
    reason = re.sub(r"^In CSV column #\d+: (Row #\d+: )?", "", masked(str(error)))
    return SourceRefused(
        f"{file.name} is not a CSV file in {dialect.encoding}: {reason}",
        do="write the encoding beside path, csv: {encoding: latin-1}, or deliver it again",
    )


class _Wrong(Exception):
    """A value of the wrong type, before its line is known."""

    def __init__(self, column: str, kind: pa.DataType, wrong: Mismatch) -> None:
        self.column, self.kind, self.index, self.value = column, kind, wrong.index, wrong.value

    def named(self, where: str) -> DtypeChanged:
        return dtype_changed(where, self.column, self.value, self.kind)


def _typed(batch: pa.RecordBatch, schema: pa.Schema, dialect: CsvDialect) -> pa.Table:
    columns = []
    for field in schema:
        try:
            columns.append(of_text(batch.column(field.name), field.type, dialect))
        except Mismatch as wrong:
            raise _Wrong(field.name, field.type, wrong) from None
    return pa.table(columns, names=schema.names)


def _line(file: Path, zipped: bool, source: Source, row: int) -> int:
    try:
        with _open(file, zipped, source) as stream:
            return next(islice(csv_lines.records(stream, source.csv), row + 1, None), (row + 2, []))[0]
    except csv.Error:
        return row + 2


def _ragged(file: Path, zipped: bool, source: Source) -> tuple[int, int, int] | None:
    try:
        with _open(file, zipped, source) as stream:
            sizes = ((line, len(fields)) for line, fields in csv_lines.records(stream, source.csv))
            _, header = next(sizes, (0, 0))
            return next(((line, fields, header) for line, fields in sizes if fields != header), None)
    except csv.Error:
        return None


# --- JSON lines ------------------------------------------------------------------------------------


def _jsonl(file: Path, zipped: bool, source: Source, schema: pa.Schema, exact: bool) -> Iterator[pa.Table]:
    raw = pa.schema(
        [(f.name, pa.string() if value_type(f.type) == UTC_MICROSECONDS else value_type(f.type)) for f in schema]
    )
    options = pa.json.ParseOptions(explicit_schema=raw, unexpected_field_behavior="error" if exact else "ignore")
    with _open(file, zipped, source) as stream:
        done, filled = 0, set[str]()
        try:
            for batch in pa.json.open_json(stream, pa.json.ReadOptions(block_size=BLOCK_BYTES), options):
                columns = [batch.column(field.name) for field in schema]
                for place, field in enumerate(schema):
                    if columns[place].null_count < len(batch):
                        filled.add(field.name)
                    if value_type(field.type) == UTC_MICROSECONDS:
                        try:
                            columns[place] = of_text(columns[place], field.type)
                        except Mismatch as wrong:
                            where = f"{file.name} row {done + wrong.index + 1}"
                            raise dtype_changed(where, field.name, wrong.value, field.type) from None
                    elif pa.types.is_floating(field.type):
                        columns[place] = without_nan(columns[place])
                yield pa.table(columns, names=schema.names)
                done += len(batch)
        except pa.ArrowInvalid as error:
            if "Empty JSON" in str(error):
                return
            _explain(file, zipped, source, schema, exact)
            raise SourceRefused(f"{file.name} is not JSON lines: {masked(str(error))}", do="deliver it again") from None
        # Arrow cannot tell a column that nobody sent from one that is empty in every row.
        if done and len(filled) < len(schema):
            with _open(file, zipped, source) as again:
                first = _json(next(line for line in again if line.strip()), file.name)
            check_columns([name for name in schema.names if name in filled or name in first], schema, file.name)


def _json(line: bytes, where: str, **options: Any) -> Any:
    """A line's value.

    Raises:
        SourceRefused: it is no JSON, or nested deeper than anybody reads.
    """
    try:
        return json.loads(line, **options)
    except (ValueError, RecursionError) as error:
        raise SourceRefused(f"{where} is not JSON: {masked(str(error))}", do="deliver the file again") from None


def _explain(file: Path, zipped: bool, source: Source, schema: pa.Schema, exact: bool) -> None:
    """Raise what is wrong with the first bad line; Arrow's own message names neither the line nor the value."""
    takes = {"integer": (int,), "number": (int, float), "boolean": (bool,)}
    with _open(file, zipped, source) as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            where = f"{file.name} line {number}"
            pairs = _json(line, where, object_pairs_hook=list)
            if not isinstance(pairs, list) or not all(isinstance(pair, tuple) for pair in pairs):
                raise SourceRefused(f"{where} is not a JSON object", do="deliver one object a line")
            names = [name for name, _ in pairs]
            absent = [name for name in schema.names if name not in names]
            check_columns([*names, *absent], schema, where, exact=exact)
            for name, value in pairs:
                if name not in schema.names:
                    continue
                kind = schema.field(name).type
                wanted = takes.get(type_name(kind), (str,))
                fits = isinstance(value, wanted) and (isinstance(value, bool) is (wanted == (bool,)))
                if value is not None and not (fits and not (wanted == (int,) and abs(value) >= 2**63)):
                    raise dtype_changed(where, name, value, kind)


# --- Parquet ---------------------------------------------------------------------------------------


def _parquet(file: Path, source: Source, schema: pa.Schema, exact: bool) -> Iterator[pa.Table]:
    delivered = pq.read_schema(file)
    check_columns(delivered.names, schema, file.name, exact=exact)
    # Read encoded, so that a small file cannot become a huge text before it is looked at.
    texts = [f.name for f in schema if _is_text(f.type) and _is_text(delivered.field(f.name).type)]
    with pq.ParquetFile(file, read_dictionary=texts) as reader:
        unpacked = 0
        for batch in reader.iter_batches(BATCH_ROWS, columns=schema.names):
            columns = []
            for field in schema:
                column = batch.column(field.name)
                if pa.types.is_dictionary(column.type) and _is_text(column.type):
                    lengths = pc.take(pc.binary_length(column.dictionary), column.indices)
                    unpacked += pc.sum(lengths).as_py() or 0
                    check_size(unpacked, source, f"{file.name}, unpacked,")
                    if (pc.sum(lengths).as_py() or 0) > BLOCK_BYTES * 64:
                        raise BatchTooLarge(
                            f"{file.name}: column {field.name!r} holds very long texts", do="deliver less"
                        )
                columns.append(_of_type(column, field, file.name))
            yield pa.table(columns, names=schema.names)


def _is_text(kind: pa.DataType) -> bool:
    kind = value_type(kind)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _of_type(column: pa.Array, field: pa.Field, file: str) -> pa.Array:
    """The values as the declared type, where each of them keeps its meaning.

    Raises:
        DtypeChanged: one of them does not.
    """
    declared = value_type(field.type)
    if pa.types.is_floating(column.type):
        column = without_nan(column)
    if column.null_count == len(column):
        return pa.nulls(len(column), declared)
    if not _takes(value_type(column.type), declared):
        raise DtypeChanged(
            f"{file}, column {field.name!r}: {value_type(column.type)} is not of the declared type"
            f" {type_name(field.type)}",
            do="correct the delivery, or the column's type in the spec",
        )
    if pa.types.is_boolean(declared) and not pa.types.is_boolean(column.type):
        other = pc.fill_null(pc.invert(pc.is_in(column, pa.array([0, 1], column.type))), False)
        strange = column.filter(pc.and_(other, pc.is_valid(column)))
        if len(strange):
            raise dtype_changed(file, field.name, strange[0].as_py(), field.type)
    try:
        return pc.cast(column, declared)
    except pa.ArrowInvalid as error:
        raise DtypeChanged(
            f"{file}, column {field.name!r}: {masked(str(error))}", do="deliver values that fit the type"
        ) from None


def _takes(delivered: pa.DataType, declared: pa.DataType) -> bool:
    """Whether values of the delivered type can keep their meaning in the declared one: 12.0 is a whole number."""
    is_number = pa.types.is_integer(delivered) or pa.types.is_floating(delivered) or pa.types.is_decimal(delivered)
    if pa.types.is_integer(declared) or pa.types.is_floating(declared):
        return bool(is_number)
    if pa.types.is_boolean(declared):
        return bool(pa.types.is_boolean(delivered) or pa.types.is_integer(delivered))
    if declared == UTC_MICROSECONDS:
        return bool(pa.types.is_timestamp(delivered) or pa.types.is_date(delivered))
    if pa.types.is_string(declared):
        return bool(_is_text(delivered) or pa.types.is_integer(delivered))
    return bool(delivered == declared)
