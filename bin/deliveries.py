"""docs/data.md: deliveries as they come, read by the functions that read them, and what to write in the spec.

Nothing in the tables is written by hand: a cell says what `ingest` or `check` made of the input.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from retrain.data.dataset import arrow_schema
from retrain.data.sources import deliver
from retrain.errors import DtypeChanged, RetrainError
from retrain.results import Interval
from retrain.spec import EXAMPLE, Column, CsvDialect, parse

JANUARY = Interval(start=datetime(2024, 1, 1, tzinfo=UTC), end=datetime(2024, 2, 1, tzinfo=UTC))
INTRODUCTION = """# Data as they come

What happens to a delivery that is not as the spec declares it. A run never guesses: a value is read as its declared
type, or the delivery is refused with its file, line, column and value, and nothing of it is taken. `python -m retrain
new` looks at your files and writes the declarations. This page is made by `make docs` with the functions that read
deliveries.
"""


@dataclass(frozen=True)
class Cell:
    """One value of a CSV file, its declared type, and how the file is declared."""

    value: str
    type: str
    csv: dict[str, Any] = field(default_factory=dict)


CELLS = (
    *(Cell(value, "integer") for value in ("12", " 12 ", "12.0", "12.5", "1e3", "")),
    *(Cell(value, "number") for value in ("12", "1.5e3", "nan", "1,5")),
    Cell("1,5", "number", {"sep": ";", "decimal": ","}),
    Cell("1.234,5", "number", {"sep": ";", "decimal": ",", "thousands": "."}),
    Cell("1.5", "number", {"sep": ";", "decimal": ","}),
    Cell("NA", "number"),
    Cell("NA", "number", {"na_values": ["NA"]}),
    *(Cell(value, "boolean") for value in ("Yes", "0", "2")),
    *(Cell(value, "category") for value in ("00017", "NA", " pro")),
    Cell("NA", "category", {"na_values": ["NA"]}),
    *(Cell(value, "datetime") for value in ("2024-01-31", "2024-01-31T10:00:00+02:00", "31.01.2024")),
)
WORDS = (
    ("values: [DE, NO, SE]", "plan: {type: category}", "plan: {type: category, values: [DE, NO, SE]}"),
    ("values: [01067]", "plan: {type: category}", "plan: {type: category, values: [01067]}"),
    ("values: ['01067']", "plan: {type: category}", "plan: {type: category, values: ['01067']}"),
    (
        "classes: [true, false] of a category",
        "target: {column: churned}",
        "target: {column: plan, classes: [true, false]}",
    ),
)
FILES = (
    ("fields between semicolons", "id;at;value\na;2024-01-02;1\n", {}),
    ("the same, declared", "id;at;value\na;2024-01-02;1\n", {"sep": ";"}),
    ("a line before the header", "January\nid,at,value\na,2024-01-02,1\n", {}),
    ("the same, declared", "January\nid,at,value\na,2024-01-02,1\n", {"skiprows": 1}),
    ("a remark among the rows", "id,at,value\n# half way\na,2024-01-02,1\n", {}),
    ("the same, declared", "id,at,value\n# half way\na,2024-01-02,1\n", {"comment": "#"}),
    ("letters in latin-1", "id,at,value\nä,2024-01-02,1\n".encode("latin-1"), {}),
    ("the same, declared", "id,at,value\nä,2024-01-02,1\n".encode("latin-1"), {"encoding": "latin-1"}),
    ("a field too many", "id,at,value\na,2024-01-02,1,5\n", {}),
    ("a column more", "id,at,value,new\na,2024-01-02,1,5\n", {}),
    ("a column less", "id,at\na,2024-01-02\n", {}),
    ("a row of February", "id,at,value\na,2024-02-01,1\n", {}),
)
PARQUET: tuple[tuple[str, Any, str], ...] = (
    ("floats 1.0, 2.0", pa.array([1.0, 2.0]), "integer"),
    ("floats 1.0, 2.5", pa.array([1.0, 2.5]), "integer"),
    ("integers 1, 0", pa.array([1, 0]), "boolean"),
    ("integers 1, 2", pa.array([1, 2]), "boolean"),
    ("integers 1, 2", pa.array([1, 2]), "category"),
    ("floats 1.0, 2.0", pa.array([1.0, 2.0]), "category"),
    ("only missing", pa.array([None, None], pa.float64()), "category"),
)


def page() -> str:
    """The page."""
    cells = [(f"`{c.value!r}`", c.type, _shown(c.csv), _cell(c)) for c in CELLS]
    files = [(what, _shown(csv), _read(data, "integer", csv)) for what, data, csv in FILES]
    parquet = [(what, kind, _parquet(array, kind)) for what, array, kind in PARQUET]
    lines = [INTRODUCTION, "## Values in CSV", "", *_table(("value", "declared type", "declared", "outcome"), cells)]
    lines += ["", "## CSV files", "", *_table(("file", "declared", "outcome"), files)]
    lines += ["", "## Parquet columns", "", *_table(("delivered", "declared type", "outcome"), parquet)]
    lines += ["", "## Words in the spec", "", *_table(("written", "outcome"), [(w, _spec(a, b)) for w, a, b in WORDS])]
    return "\n".join(lines) + "\n"


def _table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield "|" + "---|" * len(heads)
    for row in rows:
        yield f"| {' | '.join(' '.join(cell.replace('|', chr(92) + '|').split()) for cell in row)} |"


def _shown(csv: dict[str, Any]) -> str:
    written = ", ".join(f"{name}: {value!r}" for name, value in csv.items())
    return f"`csv: {{{written}}}`" if csv else ""


def _cell(cell: Cell) -> str:
    sep = cell.csv.get("sep", ",")
    value = f'"{cell.value}"' if sep in cell.value else cell.value
    return _read(
        sep.join(("id", "at", "value")) + "\n" + sep.join(("a", "2024-01-02", value)) + "\n", cell.type, cell.csv
    )


def _read(data: str | bytes, kind: str, csv: dict[str, Any]) -> str:
    return _outcome("2024-01.csv", data.encode() if isinstance(data, str) else data, kind, csv)


def _parquet(array: pa.Array, kind: str) -> str:
    moment = pa.array([datetime(2024, 1, 2, tzinfo=UTC)] * len(array), pa.timestamp("us", tz="UTC"))
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"id": ["a", "b"], "at": moment, "value": array}), sink)
    return _outcome("2024-01.parquet", sink.getvalue().to_pybytes(), kind, {})


def _outcome(name: str, data: bytes, kind: str, csv: dict[str, Any]) -> str:
    """The values that were read, or the refusal."""
    spec = parse(EXAMPLE, "churn")
    types = {"id": "string", "at": "datetime", "value": kind}
    columns = {name: Column.model_validate({"type": declared}) for name, declared in types.items()}
    source = spec.source.model_copy(
        update={"path": name, "time": "at", "key": ("id",), "csv": CsvDialect.model_validate(csv)}
    )
    schema = arrow_schema(spec.model_copy(update={"columns": columns, "source": source}))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / name).write_bytes(data)
        (root / "staging").mkdir()
        try:
            read = deliver(source, JANUARY, root, schema, root / "staging")
        except RetrainError as error:
            mend = "" if isinstance(error, DtypeChanged) else f"; {error.do}"
            return f"**{type(error).__name__}**: {error.found}{mend}"
        values = [_value(value) for value in pq.read_table(read.file)["value"].to_pylist()]
        return ", ".join(values)


def _value(value: Any) -> str:
    if value is None:
        return "missing"
    return f"{value:%Y-%m-%d %H:%M} UTC" if isinstance(value, datetime) else f"`{value!r}`"


def _spec(old: str, new: str) -> str:
    try:
        parse(EXAMPLE.replace(old, new), "churn")
    except RetrainError as error:
        return f"**{type(error).__name__}**: {error.found.splitlines()[1].strip()}"
    return "read as written"
