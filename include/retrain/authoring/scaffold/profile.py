"""A profile of delivered files: every row is passed, a bounded, even share of them is kept."""

from __future__ import annotations

import glob
import gzip
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from retrain.authoring.scaffold.column_types import ProfiledColumn, profile_column
from retrain.authoring.scaffold.dialect import detect
from retrain.data.sources import csv_lines, format_of, glob_pattern
from retrain.errors import DtypeChanged, EmptyBatch, SchemaChanged, SourceRefused
from retrain.spec import CsvDialect

MAX_ROWS = 5_000_000
KEPT_ROWS = 200_000
BLOCK_ROWS = 1 << 16


@dataclass(frozen=True)
class Profile:
    """What files hold.

    Attributes:
        path: how the spec will name the files: relative to the root where they lie below it.
        files: how many there are.
        kind: csv, jsonl or parquet.
        rows: rows passed; all of them, or the first `MAX_ROWS`.
        kept: rows kept, evenly spread over those passed.
        columns: name → column with its kept values, in the files' order.
        csv: how CSV files are written.
    """

    path: str
    files: int
    kind: str
    rows: int
    kept: int
    columns: dict[str, ProfiledColumn]
    csv: CsvDialect


def profile_files(data: str, root: Path) -> Profile:
    """Read what files hold.

    Args:
        data: a file, a glob or a template with {start} and {end}, relative to here or to `root`.
        root: of the home.

    Raises:
        SourceRefused: nothing there, or not a file of rows.
        SchemaChanged: columns without a name or twice, or files with different columns.
        DtypeChanged: a column that no declared type can read.
        EmptyBatch: no rows.
    """
    path, files = _find(data, root)
    kinds = {format_of(file) for file in files}
    kind = kinds.pop()
    if kinds or kind is None:
        raise SourceRefused(
            f"the format of {data} cannot be told from its name", do="name the files .csv, .jsonl or .parquet"
        )
    dialect = CsvDialect()
    try:
        if kind == "csv":
            with _open(files[0]) as stream:
                dialect = detect(stream)
            table, rows = _csv(files, dialect)
        else:
            table, rows = {"jsonl": _jsonl, "parquet": _parquet}[kind](files)
    except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError) as error:
        raise SourceRefused(
            f"{data} cannot be read: {str(error)[:300]}", do="see that it is whole, and UTF-8 text"
        ) from None
    if not rows:
        raise EmptyBatch(f"{data} has no rows", do="give a file with rows")
    columns = {name: profile_column(name, table[name].combine_chunks(), kind, dialect) for name in table.schema.names}
    return Profile(path, len(files), kind, rows, table.num_rows, columns, dialect)


def _find(data: str, root: Path) -> tuple[str, list[Path]]:
    if "://" in data:
        raise SourceRefused(f"{data} is not on this machine", do="look at a copy of one file, then edit source.path")
    for base in (Path.cwd(), root):
        place = os.path.normpath(base / data)
        literal = Path(place).is_file()
        anywhere = glob_pattern(base, re.sub(r"\{(start|end)[^{}]*\}", "*", data))
        pattern = glob.escape(place) if literal else os.path.normpath(anywhere)
        matches = glob.glob(pattern, recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
        files = [Path(name) for name in sorted(matches) if Path(name).is_file()]
        if files:
            path = place if not Path(place).is_relative_to(root) else str(Path(place).relative_to(root))
            if literal:
                path = re.sub(r"([*?[])", r"[\1]", path).replace("{", "{{").replace("}", "}}")
            return path, files
    raise SourceRefused(
        f"no file is called {data}", do="give a file, a glob, or a template like data/churn-{start:%Y-%m}.csv"
    )


def _thinned(batches: Iterator[pa.Table]) -> tuple[pa.Table, int]:
    """Every so many rows of all batches, at most `KEPT_ROWS`, and how many rows there were."""
    kept: list[pa.Table] = []
    passed, stride = 0, 1
    for batch in batches:
        batch = batch.slice(0, MAX_ROWS - passed)
        kept.append(batch.take(pa.array(range(-passed % stride, len(batch), stride), pa.int64())))
        passed += len(batch)
        while sum(map(len, kept)) > KEPT_ROWS:
            # What is kept are the rows whose place is a multiple of the stride, so every second of them is again.
            whole = _concatenated(kept)
            kept, stride = [whole.take(pa.array(range(0, len(whole), 2), pa.int64()))], stride * 2
        if passed >= MAX_ROWS:
            break
    return _concatenated(kept) if kept else pa.table({}), passed


def _concatenated(parts: list[pa.Table]) -> pa.Table:
    try:
        return pa.concat_tables(parts)
    except pa.ArrowInvalid:
        raise SchemaChanged(
            "the files do not have the same columns and types", do="deliver files of one make"
        ) from None


# --- the formats


def _open(file: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(file)) if file.suffix.lower() == ".gz" else file.open("rb")


def _csv(files: Sequence[Path], dialect: CsvDialect) -> tuple[pa.Table, int]:
    names = _header(files[0], dialect)

    def batches() -> Iterator[pa.Table]:
        for file in files:
            if sorted(_header(file, dialect)) != sorted(names):
                raise SchemaChanged(
                    f"{file.name} has other columns than {files[0].name}", do="deliver files of one make"
                )
            with _open(file) as stream:
                reader = pa.csv.open_csv(
                    csv_lines.utf8(stream, dialect),
                    parse_options=csv_lines.parse_options(dialect),
                    convert_options=pa.csv.ConvertOptions(
                        column_types=dict.fromkeys(names, pa.string()), null_values=[""], strings_can_be_null=True
                    ),
                )
                for batch in reader:
                    yield pa.Table.from_batches([batch]).select(names)

    return _thinned(batches())


def _header(file: Path, dialect: CsvDialect) -> list[str]:
    with _open(file) as stream:
        names = csv_lines.header(stream, dialect)
    _check_names(names, file)
    return names


def _check_names(names: list[str], file: Path) -> None:
    wrong = [f"column {place} has no name" for place, name in enumerate(names, 1) if not name]
    wrong += [f"{name[:60]!r} stands twice" for name in dict.fromkeys(names) if names.count(name) > 1]
    wrong += [f"{name[:60]!r}… is longer than 128 characters" for name in names if len(name) > 128]
    if wrong or not names:
        raise SchemaChanged(
            f"{file.name}: {'; '.join(wrong[:5]) or 'no header'}", do="give each column a name of its own"
        )


def _jsonl(files: Sequence[Path]) -> tuple[pa.Table, int]:
    def batches() -> Iterator[pa.Table]:
        for file in files:
            with _open(file) as stream:
                lines = (line for line in stream if line.strip())
                while block := list(islice(lines, BLOCK_ROWS)):
                    yield pa.table({"line": pa.array(block, pa.binary())})

    table, rows = _thinned(batches())
    try:
        records = [json.loads(line) for line in table["line"].to_pylist()] if rows else []
    except ValueError as error:
        raise SourceRefused(f"{files[0].name}: a line is not JSON: {error}", do="deliver one object a line") from None
    if any(not isinstance(record, dict) for record in records):
        raise SourceRefused(f"{files[0].name}: a line is not a JSON object", do="deliver one object a line")
    names = list(dict.fromkeys(name for record in records for name in record))
    _check_names(names or ["?"], files[0])
    return pa.table({name: _json_values(name, [record.get(name) for record in records]) for name in names}), rows


def _json_values(name: str, values: list[Any]) -> pa.Array:
    kinds = {type(value) for value in values} - {type(None)}
    for taken, arrow in (({bool}, pa.bool_()), ({int}, pa.int64()), ({int, float}, pa.float64()), ({str}, pa.string())):
        if kinds <= taken and kinds:
            return pa.array(values, arrow)
    if not kinds:
        return pa.nulls(len(values), pa.string())
    types = ", ".join(sorted(kind.__name__ for kind in kinds))
    raise DtypeChanged(
        f"column {name!r} holds {types}", do="deliver one plain type a column: no lists, objects or mixtures"
    )


def _parquet(files: Sequence[Path]) -> tuple[pa.Table, int]:
    _check_names(pq.read_schema(files[0]).names, files[0])

    def batches() -> Iterator[pa.Table]:
        for file in files:
            with pq.ParquetFile(file) as reader:
                for batch in reader.iter_batches(BLOCK_ROWS):
                    yield pa.table(
                        {
                            f.name: c.dictionary_decode() if pa.types.is_dictionary(f.type) else c
                            for f, c in _fields(batch)
                        }
                    )

    return _thinned(batches())


def _fields(batch: pa.RecordBatch) -> Iterator[tuple[pa.Field, pa.Array]]:
    return zip(batch.schema, batch.columns, strict=True)
