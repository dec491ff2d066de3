"""The loop's data stages on batches of 0.1, 1 and 10 million rows: seconds and peak memory of each.

    python benchmarks/rows.py [--rows 100000 1000000 10000000]

A synthetic table of 26 features (12 numbers, 6 integers, 6 categories of 3 to 2,000 levels, 2 booleans; some missing)
with a text key, a time and a boolean target, delivered as CSV. Two small months come first and the loop itself makes
a champion of them, so that the large month has a reference to drift from. Each stage of the large month runs in a
process of its own, whose peak resident memory is measured; its seconds are those of the stage once its libraries are
imported, as in a task that Airflow forks.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

import numpy as np
import pyarrow as pa
import pyarrow.csv
import yaml

from benchmarks import measure
from benchmarks.measure import Figures

STAGES = ("ingest", "validate", "snapshot", "context", "drift")
NUMBERS, INTEGERS, BOOLEANS = 12, 6, 2
LEVELS = (3, 5, 10, 50, 300, 2_000)
CHUNK = 250_000
SMALL = 3_000
MONTHS = ("2024-01", "2024-02", "2024-03")
RUN = """
import json, sys, time
from importlib import import_module
from retrain import pipeline
from retrain.cli.options import make_run
from retrain.results import Trigger
name, interval = sys.argv[1:]
import_module(f"retrain.stages.{name}")
run = make_run("wide", interval, "", Trigger(kind="laptop"))
began = time.perf_counter()
report = pipeline.run_stage(name, run)
seconds = time.perf_counter() - began
print(json.dumps([seconds, getattr(report, "decision", None) and report.decision.verdict or "done"]))
"""
MEMORY, DRIFT, GROWTH = 16 * 1024, 15.0, 1.25
"""Targets: MiB and seconds of drift at the largest size; cost per row at a size over that at the size before."""


@dataclass(frozen=True)
class Stage:
    """One stage on one batch: seconds in the stage, and the process's peak in MiB."""

    rows: int
    name: str
    seconds: float
    peak: float
    verdict: str


def spec() -> dict[str, object]:
    """The spec of the synthetic table."""
    columns: dict[str, dict[str, object]] = {"id": {"type": "string", "unique": True}, "at": {"type": "datetime"}}
    columns |= {f"number_{n}": {"type": "number", "min": -100, "max": 100, "max_missing": 0.1} for n in range(NUMBERS)}
    columns |= {f"integer_{n}": {"type": "integer", "min": 0, "max": 1000, "max_missing": 0.1} for n in range(INTEGERS)}
    columns |= {f"category_{n}": {"type": "category", "max_missing": 0.1} for n in range(len(LEVELS))}
    columns["category_0"]["values"] = [f"level {n}" for n in range(LEVELS[0])]
    columns |= {f"boolean_{n}": {"type": "boolean", "max_missing": 0.1} for n in range(BOOLEANS)}
    columns["bought"] = {"type": "boolean"}
    return {
        "model": "wide",
        "objective": "Tell which of many synthetic rows are bought.",
        "owner": {"name": "Benchmarks", "contact": "benchmarks@example.org"},
        "task": "binary",
        "interval": {"every": "month", "start": "2024-01-01"},
        "source": {"path": "data/wide-{start:%Y-%m}.csv", "time": "at", "key": ["id"]},
        "target": {"column": "bought"},
        "columns": columns,
        "quality": {"min_rows": 100, "freshness": "2d"},
        "training": {"candidates": [{"estimator": "linear"}]},
    }


def lay(file: Path, month: str, rows: int, seed: int = 0) -> None:
    """A month of so many rows as CSV, written in pieces; `bought` hangs on the first number and category."""
    begin = np.datetime64(month, "s")
    length = int((np.datetime64(month, "M") + 1).astype("datetime64[s]").astype(int) - begin.astype(int))
    with file.open("wb") as stream:
        writer = None
        for place in range(0, rows, CHUNK):
            table = _chunk(begin, length, month, place, min(CHUNK, rows - place), rows, seed)
            writer = writer or pa.csv.CSVWriter(stream, table.schema)
            writer.write_table(table)
        if writer:
            writer.close()


def _chunk(begin: np.datetime64, length: int, month: str, place: int, size: int, rows: int, seed: int) -> pa.Table:
    draw = np.random.default_rng([seed, int(month.replace("-", "")), place])
    at = np.arange(place, place + size)

    def holes(values: np.ndarray) -> pa.Array:
        return pa.array(values, mask=draw.random(size) < 0.03)

    columns: dict[str, pa.Array] = {
        "id": pa.array([f"{month}-{n:09d}" for n in at]),
        "at": pa.array(np.datetime_as_string(begin + at * length // rows, unit="s")),
    }
    numbers = [np.round(draw.normal(0, 1 + n, size).clip(-99, 99), 4) for n in range(NUMBERS)]
    columns |= {f"number_{n}": holes(values) for n, values in enumerate(numbers)}
    columns |= {f"integer_{n}": holes(draw.integers(0, 10 * (n + 1), size)) for n in range(INTEGERS)}
    codes = [(levels * draw.random(size) ** 2).astype(int) for levels in LEVELS]
    for n, values in enumerate(codes):
        names = pa.array([f"level {level}" for level in range(LEVELS[n])])
        mask = draw.random(size) < 0.03
        columns[f"category_{n}"] = pa.DictionaryArray.from_arrays(pa.array(values, mask=mask), names).cast(pa.string())
    columns |= {f"boolean_{n}": holes(draw.random(size) < 0.3) for n in range(BOOLEANS)}
    chance = 1 / (1 + np.exp(-numbers[0] - 0.5 * (codes[0] == 0)))
    columns["bought"] = pa.array(draw.random(size) < chance)
    return pa.table(columns)


def stages(rows: int, folder: Path) -> list[Stage]:
    """Every data stage on a month of so many rows, in a fresh home below `folder`."""
    (folder / "include" / "models").mkdir(parents=True)
    (folder / "data").mkdir()
    (folder / "include" / "models" / "wide.yaml").write_text(yaml.safe_dump(spec(), sort_keys=False))
    for month, size in zip(MONTHS, (SMALL, SMALL, rows), strict=True):
        lay(folder / "data" / f"wide-{month}.csv", month, size)
    env = measure.env_of(RETRAIN_ROOT=folder, RETRAIN_HOME=folder / "home", GIT_CONFIG_GLOBAL="/dev/null")
    measure.run(["-m", "retrain", "run", "wide", "--interval", f"{MONTHS[1]}-01", "--history"], **env)
    measured = []
    for name in STAGES:
        ended = measure.run(["-c", RUN, name, f"{MONTHS[2]}-01"], **env)
        seconds, verdict = json.loads(ended.output.splitlines()[-1])
        measured.append(Stage(rows, name, seconds, ended.peak, verdict))
    return measured


def figures(sizes: list[int]) -> list[Figures]:
    """The whole benchmark, one size and one stage at a time."""
    measured: list[Stage] = []
    for rows in sizes:
        with tempfile.TemporaryDirectory(prefix="retrain-bench-") as folder:
            measured += stages(rows, Path(folder))
    table = []
    for name in STAGES:
        sizes_of = [stage for stage in measured if stage.name == name]
        table.append((name, *(f"{stage.seconds:.1f} s, {stage.peak:,.0f} MiB" for stage in sizes_of)))
    table.append(("per million rows", *(f"{_per_million(measured, rows):.1f} s" for rows in sizes)))
    columns = ("stage", *(f"{rows:,} rows" for rows in sizes))
    return [Figures("The data stages", columns, tuple(table), tuple(_judged(measured, sizes)))]


def _per_million(measured: list[Stage], rows: int) -> float:
    return sum(stage.seconds for stage in measured if stage.rows == rows) / rows * 1e6


def _judged(measured: list[Stage], sizes: list[int]) -> list[str]:
    largest = [stage for stage in measured if stage.rows == max(sizes)]
    peak, drift = max(stage.peak for stage in largest), next(stage for stage in largest if stage.name == "drift")
    notes = [
        f"Peak at {max(sizes):,} rows: {peak / 1024:.1f} GiB, 16 GiB allowed: {measure.verdict(peak, MEMORY)}.",
        f"Drift there: {drift.seconds:.1f} s ({drift.verdict}), {DRIFT:.0f} s allowed:"
        f" {measure.verdict(drift.seconds, DRIFT)}.",
    ]
    for less, more in pairwise(sizes):
        growth = _per_million(measured, more) / _per_million(measured, less)
        notes.append(
            f"Cost per row from {less:,} to {more:,} rows: × {growth:.2f}, at most {GROWTH} counts as not growing:"
            f" {measure.verdict(growth, GROWTH)}."
        )
    return notes


def main() -> None:
    from rich.console import Console

    arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000])
    for section in figures(sorted(arguments.parse_args().rows)):
        Console().print(section.table())


if __name__ == "__main__":
    main()
