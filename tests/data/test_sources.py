"""Sources: every format and address gives the same typed rows, or a named refusal."""

from __future__ import annotations

import gzip
import http.server
import json
import os
import sqlite3
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from retrain.data import sources
from retrain.data.sources import address, delivery, files, formats
from retrain.errors import (
    BatchMissing,
    BatchTooLarge,
    DtypeChanged,
    InvalidSpec,
    OutOfInterval,
    RetrainError,
    SchemaChanged,
    SourceRefused,
    SourceUnavailable,
)
from retrain.results import Interval
from retrain.spec import Source

JANUARY = Interval(start=datetime(2024, 1, 1, tzinfo=UTC), end=datetime(2024, 2, 1, tzinfo=UTC))
MARCH = Interval(start=datetime(2024, 3, 1, tzinfo=UTC), end=datetime(2024, 4, 1, tzinfo=UTC))
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("at", pa.timestamp("us", tz="UTC")),
        ("plan", pa.dictionary(pa.int32(), pa.string())),
        ("visits", pa.int64()),
        ("spend", pa.float64()),
        ("left", pa.bool_()),
    ]
)
ROWS: list[dict[str, Any]] = [
    {"id": "a", "at": "2024-01-01T00:00:00Z", "plan": "pro", "visits": 3, "spend": 1.5, "left": True},
    {"id": "b", "at": "2024-01-02T10:15:00Z", "plan": None, "visits": None, "spend": None, "left": None},
    {"id": "c, d", "at": "2024-01-31T23:59:59Z", "plan": "basic", "visits": -1, "spend": 0.1, "left": False},
]
TYPED = [{**row, "at": datetime.fromisoformat(row["at"])} for row in ROWS]


def frame() -> pd.DataFrame:
    return pd.DataFrame(ROWS).astype({"visits": "Int64", "left": "boolean"})


def typed_table() -> pa.Table:
    return pa.Table.from_pylist(TYPED, schema=SCHEMA)


def write(file: Path, kind: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    if kind == "csv":
        frame().to_csv(file, index=False)
    elif kind == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    else:
        pq.write_table(typed_table(), file)
    return file


def source(path: str, **more: Any) -> Source:
    return Source.model_validate({"path": path, "time": "at", "key": ["id"], **more})


def deliver(
    tmp_path: Path, origin: Source, interval: Interval = JANUARY
) -> tuple[sources.Delivered, list[dict[str, Any]]]:
    folder = tmp_path / f"staging-{len(list(tmp_path.glob('staging-*')))}"
    folder.mkdir()
    delivered = sources.deliver(origin, interval, tmp_path, SCHEMA, folder)
    table = pq.read_table(delivered.file)
    assert table.schema.equals(SCHEMA)
    return delivered, table.to_pylist()


# --- files


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_every_format_gives_the_same_rows(tmp_path: Path, kind: str) -> None:
    write(tmp_path / "data" / f"2024-01.{kind}", kind)
    delivered, rows = deliver(tmp_path, source("data/{start:%Y-%m}." + kind))
    assert rows == TYPED
    assert delivered.rows == 3
    again, _ = deliver(tmp_path, source("data/{start:%Y-%m}." + kind))
    assert again.file.read_bytes() == delivered.file.read_bytes()
    assert again.digest == delivered.digest


DIALECTS: dict[str, tuple[dict[str, Any], bytes]] = {
    "semicolons and decimal commas": (
        {"sep": ";", "decimal": ",", "thousands": "."},
        b"id;at;plan;visits;spend;left\nA;2024-01-02;pro;1.234;1.234,5;yes\nB;2024-01-02;;12;0,25;no\n",
    ),
    "tabs, words for missing": (
        {"sep": "\t", "na_values": ["NA", "-"]},
        b"id\tat\tplan\tvisits\tspend\tleft\nA\t2024-01-02\tpro\t1234\t1234.5\tyes\nB\t2024-01-02\t-\t12\t0.25\tNO\n",
    ),
    "remarks and lines before the header": (
        {"comment": "#", "skiprows": 2},
        b"Report of January\r\n\r\n# by Ada\r\nid,at,plan,visits,spend,left\r\nA,2024-01-02,pro,1234,1234.5,yes\r\n"
        b"# half way, there\r\nB,2024-01-02,,12,0.25,no\r\n",
    ),
    "American numbers in quotes": (
        {"thousands": ","},
        b'id,at,plan,visits,spend,left\nA,2024-01-02,pro,"1,234","1,234.5",1\nB,2024-01-02,,12,.25,0\n',
    ),
    "pipes and single quotes": (
        {"sep": "|", "quotechar": "'"},
        b"id|at|plan|visits|spend|left\nA|2024-01-02|'pro'|1234|1234.5|1\nB|2024-01-02||12|.25|0\n",
    ),
    "UTF-16": (
        {"encoding": "utf-16"},
        "id,at,plan,visits,spend,left\nA,2024-01-02,pro,1234,1234.5,1\nB,2024-01-02,,12.0,.25,0\n".encode("utf-16"),
    ),
}


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("zipped", [False, True])
def test_a_declared_dialect_gives_the_same_rows(tmp_path: Path, name: str, zipped: bool) -> None:
    dialect, data = DIALECTS[name]
    file = tmp_path / f"2024-01.csv{'.gz' if zipped else ''}"
    file.write_bytes(gzip.compress(data) if zipped else data)
    _, rows = deliver(tmp_path, source(f"{{start:%Y-%m}}.csv{'.gz' if zipped else ''}", csv=dialect))
    assert [[row[column] for column in ("id", "plan", "visits", "spend", "left")] for row in rows] == [
        ["A", "pro", 1234, 1234.5, True],
        ["B", None, 12, 0.25, False],
    ]


def test_latin_letters_and_the_line_of_a_wrong_value(tmp_path: Path) -> None:
    file = tmp_path / "2024-01.csv"
    text = "über uns\n#\nid;at;plan;visits;spend;left\nÄ;2024-01-02;pro;1;1,5;1\n#\nB;2024-01-02;'x\ny';2;1.5;1\n"
    file.write_bytes(text.encode("latin-1"))
    dialect = {"sep": ";", "decimal": ",", "comment": "#", "skiprows": 1, "encoding": "latin-1", "quotechar": "'"}
    with pytest.raises(DtypeChanged, match=r"2024-01.csv line 6, column 'spend': '1.5'"):
        deliver(tmp_path, source("{start:%Y-%m}.csv", csv=dialect))
    file.write_bytes(text.replace("1.5", "2,5").encode("latin-1"))
    rows = deliver(tmp_path, source("{start:%Y-%m}.csv", csv=dialect))[1]
    assert [(row["id"], row["plan"], row["spend"]) for row in rows] == [("Ä", "pro", 1.5), ("B", "x\ny", 2.5)]
    with pytest.raises(SourceRefused, match=r"not a CSV file in utf-8") as raised:
        deliver(tmp_path, source("{start:%Y-%m}.csv", csv={**dialect, "encoding": "utf-8"}))
    assert "csv: {encoding: latin-1}" in raised.value.do


@pytest.mark.parametrize("value", ["1.5", "1,234", "12.34,5", "1.2345", "1.234.5", ".234", "1..234"])
def test_a_number_that_the_dialect_does_not_write_is_refused(tmp_path: Path, value: str) -> None:
    """A point between three digits and three is no decimal point here, and one between others is a slip."""
    file = tmp_path / "2024-01.csv"
    file.write_text(f"id;at;plan;visits;spend;left\nA;2024-01-02;pro;{value};1;1\n")
    with pytest.raises(DtypeChanged, match="column 'visits'"):
        deliver(tmp_path, source("{start:%Y-%m}.csv", csv={"sep": ";", "decimal": ",", "thousands": "."}))


@pytest.mark.parametrize(("sep", "shown"), [(";", '";"'), ("\t", r'"\t"'), ("|", '"|"')])
def test_another_separator_is_told_and_not_guessed(tmp_path: Path, sep: str, shown: str) -> None:
    frame().to_csv(tmp_path / "2024-01.csv", index=False, sep=sep)
    with pytest.raises(SchemaChanged, match="fields are separated by") as raised:
        deliver(tmp_path, source("{start:%Y-%m}.csv"))
    assert f"csv: {{sep: {shown}}}" in raised.value.do
    assert deliver(tmp_path, source("{start:%Y-%m}.csv", csv={"sep": sep}))[1] == TYPED


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_gzip_by_suffix(tmp_path: Path, kind: str) -> None:
    plain = write(tmp_path / f"2024-01.{kind}", kind)
    (tmp_path / f"2024-01.{kind}.gz").write_bytes(gzip.compress(plain.read_bytes()))
    assert deliver(tmp_path, source("{start:%Y-%m}." + kind + ".gz"))[1] == TYPED
    (tmp_path / f"2024-01.{kind}.gz").write_bytes(gzip.compress(plain.read_bytes())[:-20])
    with pytest.raises(SourceRefused, match="cut off"):
        deliver(tmp_path, source("{start:%Y-%m}." + kind + ".gz"))


def test_the_same_rows_in_other_pieces_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = pd.concat([frame()] * 400, ignore_index=True)
    rows.to_csv(tmp_path / "2024-01.csv", index=False)
    origin = source("{start:%Y-%m}.csv")
    monkeypatch.setattr(sources.delivery, "GROUP_ROWS", 500)
    whole = deliver(tmp_path, origin)[0].file.read_bytes()
    monkeypatch.setattr(sources.formats, "BLOCK_BYTES", 1000)
    pieces = deliver(tmp_path, origin)[0]
    assert pieces.file.read_bytes() == whole
    assert pq.ParquetFile(pieces.file).metadata.num_row_groups == 3


def test_columns_come_in_any_order_and_quotes_hold_newlines(tmp_path: Path) -> None:
    rows = frame()[["left", "spend", "visits", "plan", "at", "id"]]
    rows.loc[0, "id"] = 'first\nsecond "quoted"'
    rows.to_csv(tmp_path / "2024-01.csv", index=False)
    assert deliver(tmp_path, source("{start:%Y-%m}.csv"))[1][0]["id"] == 'first\nsecond "quoted"'
    text = (tmp_path / "2024-01.csv").read_text().replace("-1", "-1.5")
    (tmp_path / "2024-01.csv").write_text(text)
    with pytest.raises(DtypeChanged, match=r"2024-01.csv line 5, column 'visits': '-1.5'"):
        deliver(tmp_path, source("{start:%Y-%m}.csv"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-01-05", datetime(2024, 1, 5, tzinfo=UTC)),
        ("2024-01-05 10:00", datetime(2024, 1, 5, 10, tzinfo=UTC)),
        ("2024-01-05T10:00:00.5", datetime(2024, 1, 5, 10, 0, 0, 500_000, tzinfo=UTC)),
        ("2024-01-05T10:00:00+02:00", datetime(2024, 1, 5, 8, tzinfo=UTC)),
        ("2024-01-05 10:00:00-0530", datetime(2024, 1, 5, 15, 30, tzinfo=UTC)),
    ],
)
def test_moments(tmp_path: Path, text: str, expected: datetime) -> None:
    rows = frame()
    rows.loc[1, "at"] = text
    rows.to_csv(tmp_path / "2024-01.csv", index=False)
    assert deliver(tmp_path, source("{start:%Y-%m}.csv"))[1][1]["at"] == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("YES", True), ("no", False), ("1", True), ("0", False), ("False", False), ("", None)]
)
def test_booleans(tmp_path: Path, text: str, expected: bool | None) -> None:
    frame().astype({"left": object}).assign(left=text).to_csv(tmp_path / "2024-01.csv", index=False)
    assert [row["left"] for row in deliver(tmp_path, source("{start:%Y-%m}.csv"))[1]] == [expected] * 3


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("visits", "1.5"), ("visits", "1.0e0"), ("visits", "0x1F"), ("visits", "NA"), ("visits", "1e3"),
        ("visits", "99999999999999999999"), ("spend", "1,5"), ("spend", "n/a"), ("left", "2"), ("left", "1.0"),
        ("at", "05.01.2024"), ("at", "2024"),
    ],
)  # fmt: skip
def test_text_that_is_not_of_its_type(tmp_path: Path, column: str, value: str) -> None:
    rows = frame().astype(object)
    rows.loc[2, column] = value
    rows.to_csv(tmp_path / "2024-01.csv", index=False)
    with pytest.raises(DtypeChanged) as raised:
        deliver(tmp_path, source("{start:%Y-%m}.csv"))
    assert f"line 4, column {column!r}: {value!r}" in raised.value.found


def test_nan_is_missing_and_infinity_is_kept_for_validate(tmp_path: Path) -> None:
    rows = frame().astype({"spend": object})
    rows["spend"] = ["nan", "inf", "1e400"]
    rows.to_csv(tmp_path / "2024-01.csv", index=False)
    assert [row["spend"] for row in deliver(tmp_path, source("{start:%Y-%m}.csv"))[1]] == [None, np.inf, np.inf]


@pytest.mark.parametrize(
    ("line", "error", "says"),
    [
        ({"visits": 3.0}, DtypeChanged, "line 4, column 'visits': 3.0 is not of the declared type integer"),
        ({"visits": "3"}, DtypeChanged, "column 'visits': '3'"),
        ({"visits": True}, DtypeChanged, "column 'visits': True"),
        ({"left": 1}, DtypeChanged, "column 'left': 1"),
        ({"id": 5}, DtypeChanged, "column 'id': 5 is not of the declared type string"),
        ({"at": "yesterday"}, DtypeChanged, "row 4, column 'at': 'yesterday'"),
        ({"new": 1, "newer": 2}, SchemaChanged, "line 4: not declared: new, newer"),
    ],
)
def test_json_lines_are_typed_too(tmp_path: Path, line: dict[str, Any], error: type[RetrainError], says: str) -> None:
    with write(tmp_path / "2024-01.jsonl", "jsonl").open("a") as file:
        file.write(json.dumps({**ROWS[0], **line}) + "\n")
    with pytest.raises(error) as raised:
        deliver(tmp_path, source("{start:%Y-%m}.jsonl"))
    assert says in raised.value.found


def test_broken_json_lines(tmp_path: Path) -> None:
    file = write(tmp_path / "2024-01.jsonl", "jsonl")
    good = file.read_text()
    file.write_text(good + '{"id": "x", "id": "y"}\n')
    with pytest.raises(SchemaChanged, match="doubled: id"):
        deliver(tmp_path, source("{start:%Y-%m}.jsonl"))
    file.write_text(good + '{"id": \n')
    with pytest.raises(SourceRefused, match="line 4 is not JSON"):
        deliver(tmp_path, source("{start:%Y-%m}.jsonl"))
    file.write_text("".join(json.dumps({key: row[key] for key in row if key != "spend"}) + "\n" for row in ROWS))
    with pytest.raises(SchemaChanged, match="missing: spend"):
        deliver(tmp_path, source("{start:%Y-%m}.jsonl"))


def test_json_lines_that_are_nested_without_end(tmp_path: Path) -> None:
    deep = "[" * 100_000 + "]" * 100_000
    for line in (f'{{"id": {deep}}}', deep, f'{{"more": {deep}}}'):
        (tmp_path / "a.jsonl").write_text(f"{line}\n")
        with pytest.raises(SourceRefused, match=r"a\.jsonl line 1 is not JSON: maximum recursion depth"):
            deliver(tmp_path, source("a.jsonl"))


def test_parquet_types(tmp_path: Path) -> None:
    file, origin = tmp_path / "2024-01.parquet", source("{start:%Y-%m}.parquet")
    table = typed_table()

    def swapped(name: str, column: pa.Array) -> pa.Table:
        return table.set_column(table.schema.get_field_index(name), name, column)

    for name, kind in (
        ("visits", pa.int32()),
        ("at", pa.timestamp("ns", tz="UTC")),
        ("at", pa.timestamp("ms")),
        ("plan", pa.string()),
    ):
        column = table[name].cast(kind) if name != "plan" else table[name].combine_chunks().cast(kind)
        pq.write_table(swapped(name, column), file)
        assert deliver(tmp_path, origin)[1] if kind == pa.timestamp("ms") else deliver(tmp_path, origin)[1] == TYPED
    pq.write_table(swapped("spend", pa.array([1, None, 2])), file)
    assert [row["spend"] for row in deliver(tmp_path, origin)[1]] == [1.0, None, 2.0]
    pq.write_table(swapped("spend", pa.array([1.0, float("nan"), 2.0])), file)
    assert [row["spend"] for row in deliver(tmp_path, origin)[1]] == [1.0, None, 2.0]
    for name, column, values in (
        ("visits", pa.array([1.0, None, 2.0]), [1, None, 2]),
        ("visits", pa.array([Decimal("1.00"), None, Decimal("2.00")]), [1, None, 2]),
        ("spend", pa.array([Decimal("1.25"), None, Decimal("2.00")]), [1.25, None, 2.0]),
        ("left", pa.array([1, 0, None]), [True, False, None]),
        ("id", pa.array([1, 2, 3]), ["1", "2", "3"]),
        ("plan", pa.array([7, None, 8]), ["7", None, "8"]),
        ("plan", pa.array([float("nan"), None, None]), [None] * 3),
        ("left", pa.nulls(3, pa.float64()), [None] * 3),
    ):
        pq.write_table(swapped(name, column), file)
        assert [row[name] for row in deliver(tmp_path, origin)[1]] == values
    for name, column in (
        ("visits", pa.array([1.5, None, 2.0])),
        ("visits", pa.array([Decimal("1.50"), None, None])),
        ("left", pa.array([1, 2, None])),
        ("id", pa.array([1.0, 2.0, 3.0])),
    ):
        pq.write_table(swapped(name, column), file)
        with pytest.raises(DtypeChanged, match=f"column '{name}'"):
            deliver(tmp_path, origin)
    file.write_bytes(b"PAR1 not really")
    with pytest.raises(SourceRefused, match="cannot be read"):
        deliver(tmp_path, origin)


def test_a_parquet_bomb(tmp_path: Path) -> None:
    rows = [{**TYPED[0], "id": "x" * 100_000}] * 2000
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), tmp_path / "2024-01.parquet", compression="zstd")
    assert (tmp_path / "2024-01.parquet").stat().st_size < 200_000
    with pytest.raises(BatchTooLarge, match="unpacked, has"):
        deliver(tmp_path, source("{start:%Y-%m}.parquet", max_bytes=100_000_000))


# --- which rows


def test_a_single_file_is_selected_from(tmp_path: Path) -> None:
    rows = frame()
    rows.loc[0, "at"] = "2023-12-31T23:59:59Z"
    rows.loc[2, "at"] = "2024-02-01T00:00:00Z"
    rows.to_csv(tmp_path / "all.csv", index=False)
    for path in ("all.csv", "a*.csv", str(tmp_path / "all.csv"), f"file://{tmp_path}/all.csv"):
        assert [row["id"] for row in deliver(tmp_path, source(path))[1]] == ["b"]
    with pytest.raises(BatchMissing, match="has no rows of"):
        deliver(tmp_path, source("all.csv"), MARCH)
    rows.loc[1, "at"] = None
    rows.to_csv(tmp_path / "all.csv", index=False)
    with pytest.raises(OutOfInterval, match="1 rows without a time"):
        deliver(tmp_path, source("all.csv"))


def test_a_file_of_a_year_is_selected_from_for_its_months(tmp_path: Path) -> None:
    rows = frame()
    rows.loc[0, "at"] = "2024-06-01T00:00:00Z"
    rows.to_csv(tmp_path / "2024.csv", index=False)
    assert len(deliver(tmp_path, source("{start:%Y}.csv"))[1]) == 2
    rows.to_csv(tmp_path / "2024-01.csv", index=False)
    with pytest.raises(OutOfInterval, match="1 rows of other intervals, such as 2024-06-01"):
        deliver(tmp_path, source("{start:%Y-%m}.csv"))


def test_a_glob_reads_its_files_by_name(tmp_path: Path) -> None:
    for place, name in enumerate(("b.csv", "a.csv")):
        frame().iloc[[place]].to_csv(tmp_path / name, index=False)
    assert [row["id"] for row in deliver(tmp_path, source("*.csv"))[1]] == ["b", "a"]
    with pytest.raises(BatchMissing):
        deliver(tmp_path, source("*.jsonl"))


def test_the_name_of_the_root_is_no_pattern(tmp_path: Path) -> None:
    """A folder `a*?c` must not read what lies in `abbc`."""
    for folder, rows in (("a*?c [b]", [0]), ("abbc b", [0, 1])):
        (tmp_path / folder).mkdir()
        frame().iloc[rows].to_csv(tmp_path / folder / "a.csv", index=False)
    assert [row["id"] for row in deliver(tmp_path / "a*?c [b]", source("*.csv"))[1]] == ["a"]


def test_a_file_that_changes_while_it_is_read(tmp_path: Path) -> None:
    file, origin = write(tmp_path / "2024-01.csv", "csv"), source("{start:%Y-%m}.csv")
    files = sources.find(origin, JANUARY, tmp_path, tmp_path)
    file.write_bytes(file.read_bytes() + b"d,2024-01-05,pro,1,1,true\n")
    with pytest.raises(SourceUnavailable, match="changed while it was read") as raised:
        sources.deliver(origin, JANUARY, tmp_path, SCHEMA, tmp_path, files)
    assert raised.value.retryable


# --- addresses


@pytest.mark.parametrize("place", ["found", "hashed", "read", "read whole"])
def test_a_file_that_is_deleted_while_it_is_read(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "a.csv", "csv")

    def deletes(module: Any, name: str, *, before: bool = True) -> None:
        real = getattr(module, name)

        def call(*given: Any, **more: Any) -> Any:
            if before:
                file.unlink(missing_ok=True)
            answer = real(*given, **more)
            file.unlink(missing_ok=True)
            return answer

        monkeypatch.setattr(module, name, call)

    module, name = {
        "found": (files, "local_files"),
        "hashed": (files, "_stamps"),
        "read": (formats, "read"),
        "read whole": (delivery, "_write"),
    }[place]
    deletes(module, name, before=place == "read")
    with pytest.raises(SourceUnavailable, match=r"a\.csv went away while it was read") as caught:
        deliver(tmp_path, source("a.csv"))
    assert caught.value.retryable


def test_any_file_system_by_url(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    for name in ("1.csv", "2.csv"):
        memory.pipe_file(f"/landing/{name}", write(tmp_path / "one.csv", "csv").read_bytes())
    delivered, rows = deliver(tmp_path, source("memory://landing/1.csv"))
    assert rows == TYPED
    assert delivered.address == "memory://landing/1.csv"
    assert len(deliver(tmp_path, source("memory://landing/*.csv"))[1]) == 6
    with pytest.raises(BatchMissing, match=r"waited for until 2024-02-01 00:00 UTC"):
        deliver(tmp_path, source("memory://landing/3.csv"))


@pytest.mark.parametrize(
    "path", ["ftp://example.org/a.csv", "zip://a.csv::https://example.org/b.zip", "https://ada:pw@example.org/a.csv"]
)
def test_other_addresses_are_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(SourceRefused) as raised:
        deliver(tmp_path, source(path))
    assert "ada:pw" not in str(raised.value)


@pytest.mark.parametrize("path", ["{stop}.csv", "{start.__class__}.csv", "{0}.csv", "{start:%Y"])
def test_templates_know_start_and_end_only(tmp_path: Path, path: str) -> None:
    with pytest.raises(InvalidSpec, match=r"use \{start"):
        deliver(tmp_path, source(path))


def test_the_format_must_be_known(tmp_path: Path) -> None:
    write(tmp_path / "batch.dat", "csv")
    with pytest.raises(InvalidSpec, match=r"give source\.format"):
        deliver(tmp_path, source("batch.dat"))
    assert len(deliver(tmp_path, source("batch.dat", format="csv"))[1]) == 3


@pytest.mark.parametrize(
    "peer",
    ["127.0.0.1", "10.1.2.3", "169.254.169.254", "::1", "::ffff:192.168.0.1", "fe80::1%eth0", "0.0.0.0", "224.0.0.1"],
)
def test_addresses_inside_are_refused(peer: str) -> None:
    with pytest.raises(SourceRefused, match="an address inside"):
        address._check_peer("example.org", peer)


def test_addresses_outside_are_not() -> None:
    address._check_peer("example.org", "93.184.215.14")


class _Server(http.server.SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path.startswith("/away"):
            self.send_response(302)
            self.send_header("Location", f"http://127.0.0.2:{self.server.server_address[1]}/2024-01.csv")
            self.end_headers()
        elif self.path.startswith("/broken"):
            self.send_error(503)
        else:
            super().do_GET()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    handler = lambda *args: _Server(*args, directory=str(tmp_path))  # noqa: E731
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def test_the_web(tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "2024-01.csv", "csv")
    with pytest.raises(SourceRefused, match="is not encrypted"):
        deliver(tmp_path, source(f"http://127.0.0.1:{port}/2024-01.csv"))
    with pytest.raises(SourceRefused, match=r"resolves to 127\.0\.0\.1"):
        deliver(tmp_path, source(f"https://localhost:{port}/2024-01.csv"))
    monkeypatch.setenv("RETRAIN_ALLOWED_HOSTS", "127.0.0.1")
    delivered, rows = deliver(tmp_path, source(f"http://127.0.0.1:{port}/2024-01.csv?token=hunter2"))
    assert rows == TYPED
    assert "hunter2" not in delivered.address
    with pytest.raises(SourceRefused, match=r"127\.0\.0\.2"):
        deliver(tmp_path, source(f"http://127.0.0.1:{port}/away.csv"))
    with pytest.raises(BatchMissing):
        deliver(tmp_path, source(f"http://127.0.0.1:{port}/2024-02.csv"))
    with pytest.raises(SourceUnavailable, match="answered 503"):
        deliver(tmp_path, source(f"http://127.0.0.1:{port}/broken.csv"))
    with pytest.raises(BatchTooLarge):
        deliver(tmp_path, source(f"http://127.0.0.1:{port}/2024-01.csv", max_bytes=20))


# --- SQL

QUERY = 'SELECT id, at, plan, visits, spend, "left" FROM batches WHERE at >= :start AND at < :end'


def sql(**more: Any) -> Source:
    return Source.model_validate({"sql": QUERY, "time": "at", "key": ["id"], **more})


@pytest.fixture
def database(tmp_path: Path) -> Path:
    file = tmp_path / "source.db"
    with sqlite3.connect(file) as connection:
        connection.execute(
            'CREATE TABLE batches (id TEXT, at TEXT, plan TEXT, visits INTEGER, spend REAL, "left" INTEGER)'
        )
        insert = "INSERT INTO batches VALUES (:id, :at, :plan, :visits, :spend, :left)"
        connection.executemany(
            insert, [*ROWS, {**ROWS[0], "at": "2024-02-01T00:00:00Z"}, {**ROWS[0], "at": "2023-12-31T23:59:59Z"}]
        )
    return file


@pytest.mark.parametrize("spelled", ["{}Z", "{}", "{}.000000", "{}+00:00"])
def test_sqlite(tmp_path: Path, database: Path, spelled: str) -> None:
    with sqlite3.connect(database) as connection:
        for moment in [at for (at,) in connection.execute("SELECT at FROM batches").fetchall()]:
            text = spelled.format(moment.removesuffix("Z").replace("T", " " if "." in spelled else "T"))
            connection.execute("UPDATE batches SET at = ? WHERE at = ?", (text, moment))
    delivered, rows = deliver(tmp_path, sql(url="sqlite:///source.db"))
    assert rows == TYPED
    assert delivered.address == "sqlite:///source.db"


def test_dates_in_sqlite(tmp_path: Path, database: Path) -> None:
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE batches SET at = substr(at, 1, 10)")
    days = [row["at"].day for row in deliver(tmp_path, sql(url="sqlite:///source.db"))[1]]
    assert days == [1, 2, 31]


def test_rows_in_another_order_have_the_same_digest(tmp_path: Path, database: Path) -> None:
    ordered, _ = deliver(tmp_path, sql(sql=QUERY + " ORDER BY id", url="sqlite:///source.db"))
    turned, _ = deliver(tmp_path, sql(sql=QUERY + " ORDER BY id DESC", url="sqlite:///source.db"))
    assert ordered.digest == turned.digest
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE batches SET spend = 1.25 WHERE id = 'a'")
    assert deliver(tmp_path, sql(url="sqlite:///source.db"))[0].digest != ordered.digest


def test_a_query_that_finds_nothing_is_waited_for(tmp_path: Path, database: Path) -> None:
    with pytest.raises(BatchMissing, match="2024-04-01"):
        deliver(tmp_path, sql(url="sqlite:///source.db"), MARCH)


@pytest.mark.parametrize(
    ("query", "error", "says"),
    [
        ("SELECT * FROM batches WHERE at >= :start", None, ""),
        ("SELECT * FROM batches WHERE :start < :end", OutOfInterval, "2 rows of other intervals"),
        ("SELECT id, at FROM batches WHERE at >= :start", SchemaChanged, "missing: plan, visits, spend, left"),
        (QUERY.replace("visits", "visits + 0.5 AS visits"), DtypeChanged, "row 1, column 'visits': 3.5"),
        (QUERY.replace("id,", "5.5 AS id,"), DtypeChanged, "column 'id': 5.5 is not of the declared type string"),
        (QUERY.replace('"left"', '7 AS "left"'), DtypeChanged, "column 'left': 7"),
        ("SELECT * FROM absent WHERE at >= :start", SourceRefused, "no such table"),
        ("SELECT * FROM batches WHERE at >= :start AND id = :other", SourceRefused, "other"),
        ("DELETE FROM batches WHERE at >= :start", (SourceRefused, SourceUnavailable), "readonly"),
    ],
)
def test_queries(tmp_path: Path, database: Path, query: str, error: Any, says: str) -> None:
    origin = sql(sql=query, url="sqlite:///source.db")
    if error is None:
        assert deliver(tmp_path, origin)[1] == TYPED
        return
    with pytest.raises(error) as raised:
        deliver(tmp_path, origin)
    assert says in str(raised.value)
    with sqlite3.connect(database) as connection:
        assert connection.execute("SELECT count(*) FROM batches").fetchone() == (5,)


def test_secrets_come_from_the_environment_and_stay_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    origin = sql(url="postgresql+psycopg2://ada:${DB_PASSWORD}@127.0.0.1:1/db")
    monkeypatch.delenv("DB_PASSWORD", raising=False)
    with pytest.raises(SourceRefused, match="DB_PASSWORD is not set"):
        deliver(tmp_path, origin)
    monkeypatch.setenv("DB_PASSWORD", "hunter2")
    with pytest.raises(SourceUnavailable) as raised:
        deliver(tmp_path, origin)
    assert "hunter2" not in str(raised.value)
    assert raised.value.retryable


@pytest.mark.parametrize(
    ("kept", "url"),
    [
        ("postgres://ada:p%40ss@db:5433/shop?sslmode=require&__extra__=%7B%7D", "postgresql+psycopg2://ada:p%40ss@db:5433/shop?sslmode=require"),
        ('{"conn_type": "postgres", "login": "ada", "password": "p@ss", "host": "db", "port": 5433, "schema": "shop"}', "postgresql+psycopg2://ada:p%40ss@db:5433/shop"),
        ("mysql+pymysql://ada@db/shop", "mysql+pymysql://ada@db/shop"),
    ],
)  # fmt: skip
def test_airflow_connections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: str, url: str) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_SHOP_DB", kept)
    database = sources.sql.address(sql(connection="shop_db"), tmp_path)
    assert database.render_as_string(hide_password=False) == url
    assert "ada" not in sources.sql.redacted_url(database)


@pytest.mark.parametrize(
    ("kept", "says"),
    [
        ('{"host": "db.example.org"}', "names no conn_type"),
        ('{"conn_type": "", "host": "db"}', "names no conn_type"),
        ('{"conn_type": null, "host": "db"}', "names no conn_type"),
        ("ada:secret@db.example.org/shop", "cannot be understood"),
        ("postgres", "cannot be understood"),
        ('{"conn_type": ' + "[" * 100_000 + "]" * 100_000 + "}", "cannot be understood"),
    ],
    ids=["none", "empty", "null", "no scheme", "a word", "deep"],
)
def test_a_connection_without_a_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: str, says: str) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", kept)
    with pytest.raises(SourceRefused, match=says) as caught:
        deliver(tmp_path, sql(connection="shop"))
    assert "secret" not in str(caught.value)


def test_a_connection_to_sqlite(tmp_path: Path, database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_LOCAL", json.dumps({"conn_type": "sqlite", "host": str(database)}))
    assert deliver(tmp_path, sql(connection="local"))[1] == TYPED
    monkeypatch.setenv("AIRFLOW_CONN_LOCAL", f"sqlite:///{str(database).replace('/', '%2F')}")
    assert deliver(tmp_path, sql(connection="local"))[1] == TYPED
    monkeypatch.setenv("AIRFLOW_CONN_LOCAL", "sqlite:///absent.db")
    with pytest.raises(SourceRefused, match="not a SQLite file"):
        deliver(tmp_path, sql(connection="local"))
    assert not (tmp_path / "absent.db").exists()


@pytest.fixture
def postgres(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    url = os.environ.get("RETRAIN_TEST_POSTGRES", "postgresql+psycopg2://postgres@127.0.0.1:5432/test")
    engine = sa.create_engine(url, connect_args={"connect_timeout": 3})
    table = f"retrain_sources_{os.getpid()}"
    try:
        with engine.begin() as connection:
            connection.execute(
                sa.text(
                    f"CREATE TABLE {table} (id uuid, at timestamp, plan text, visits numeric(10,0),"
                    " spend numeric(10,2), noted timestamptz, is_left boolean)"
                )
            )
    except sa.exc.OperationalError as error:
        pytest.skip(f"no PostgreSQL at 127.0.0.1:5432: {str(error.orig).splitlines()[0]}")
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", url.replace("postgresql+psycopg2", "postgres"))
    yield table
    with engine.begin() as connection:
        connection.execute(sa.text(f"DROP TABLE {table}"))


@pytest.mark.services
def test_postgres(tmp_path: Path, postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = sa.create_engine(os.environ["AIRFLOW_CONN_SHOP"].replace("postgres:", "postgresql+psycopg2:", 1))
    # A session far away from UTC must not move the borders of the month.
    monkeypatch.setenv("PGTZ", "America/New_York")
    insert = f"""
        INSERT INTO {postgres} SELECT
            gen_random_uuid(), '2024-01-01'::timestamp + n * interval '1 hour', 'pro', n, n / 4.0,
            '2024-01-01T00:00:00Z'::timestamptz + n * interval '1 hour', n % 2 = 0
        FROM generate_series(-5, 800) n
    """  # noqa: S608
    with engine.begin() as connection:
        connection.execute(sa.text(insert))
    columns = 'plan, visits, spend, is_left AS "left"'
    query = f"SELECT id, {{}} AS at, {columns} FROM {postgres} WHERE {{}} >= :start AND {{}} < :end"  # noqa: S608
    for column in ("at", "noted"):
        origin = sql(sql=query.format(column, column, column), connection="shop")
        delivered, rows = deliver(tmp_path, origin)
        assert len(rows) == 31 * 24
        assert {row["visits"] for row in rows} == set(range(31 * 24))
        assert all(row["at"] == datetime.fromtimestamp(1_704_067_200 + 3600 * row["visits"], UTC) for row in rows)
        assert rows[0]["spend"] == rows[0]["visits"] / 4
        assert "postgres@" not in delivered.address
    writing = f"WITH gone AS (DELETE FROM {postgres} RETURNING *) SELECT * FROM gone WHERE at >= :start"  # noqa: S608
    with pytest.raises(SourceRefused, match="data-modifying"):
        deliver(tmp_path, sql(sql=writing, connection="shop"))
