"""What the benchmarks share: a process measured to its end, small data, tables, and where the figures go."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, NamedTuple

import psutil
import yaml
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
QUIET = {
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "OMP_WAIT_POLICY": "passive",
    "TQDM_DISABLE": "1",
}
LIBRARIES = (
    *("apache-airflow", "mlflow", "dvc", "great-expectations", "evidently"),
    *("xgboost", "xgboost-cpu", "scikit-learn", "pandas", "pyarrow", "numpy"),
)


class Ended(NamedTuple):
    """A process at its end: seconds on the wall and of the CPU, its children's included, peak MiB, what it printed."""

    wall: float
    cpu: float
    peak: float
    output: str


def run(command: Sequence[str | Path], **env: str) -> Ended:
    """Run `python …` to its end and measure it.

    Raises:
        RuntimeError: it failed; with the end of what it wrote to stderr.
    """
    path = {"PYTHONPATH": str(ROOT / "include")}
    keep = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with TemporaryFile("w+") as out, TemporaryFile("w+") as wrong:
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *map(str, command)],
            cwd=ROOT,
            env={**keep, **QUIET, **path, **env},
            stdout=out,
            stderr=wrong,
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        for stream in (out, wrong):
            stream.seek(0)
        if process.returncode:
            raise RuntimeError(f"{command[0]} ended with {process.returncode}: …{wrong.read()[-3000:]}")
        return Ended(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, out.read())


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    numbers = [listener.getsockname()[1] for listener in sockets]
    for listener in sockets:
        listener.close()
    return numbers


def small_flights(root: Path, keep: int, trees: int = 60) -> None:
    """Every `keep`-th row of the flights and their spec, fewer trees and rows asked for, below `root`."""
    spec = yaml.safe_load((ROOT / "include" / "models" / "flights.yaml").read_text())
    spec["quality"]["min_rows"] = 50
    spec["training"] |= {"min_rows": 100}
    boosted = spec["training"]["candidates"][0]
    boosted["parameters"] |= {"n_estimators": trees, "learning_rate": 0.3}
    boosted["search"]["learning_rate"] = [0.2, 0.3]
    spec["evaluation"]["resamples"] = 200
    (root / "include" / "models").mkdir(parents=True)
    (root / "include" / "models" / "flights.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    (root / "data" / "flights").mkdir(parents=True)
    for file in sorted((ROOT / "data" / "flights").glob("*.csv")):
        head, *lines = file.read_text().splitlines(keepends=True)
        (root / "data" / "flights" / file.name).write_text("".join([head, *lines[::keep]]))


# --- tables of figures


@dataclass(frozen=True)
class Figures:
    """One table of figures: columns, rows of text, and notes on them."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def table(self) -> Table:
        table = Table(title=self.title, title_justify="left", caption="\n".join(self.notes), caption_justify="left")
        for place, name in enumerate(self.columns):
            table.add_column(name, justify="right" if place else "left")
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        lines = [f"**{self.title}**", "", f"| {' | '.join(self.columns)} |"]
        lines.append("|" + "|".join("---" if not place else "--:" for place in range(len(self.columns))) + "|")
        lines += [f"| {' | '.join(row)} |" for row in self.rows]
        return "\n".join([*lines, "", *(f"- {line}" for line in self.notes)]).rstrip() + "\n"


def machine() -> str:
    """Cores, memory, system and versions: what figures hang on, and nothing that names the machine."""
    memory = psutil.virtual_memory().total / 2**30
    hardware = f"{psutil.cpu_count()} cores, {memory:.0f} GiB, {platform.system()}, Python {platform.python_version()}"
    return f"{hardware}; {', '.join(_versions())}"


def _versions() -> list[str]:
    versions = []
    for name in LIBRARIES:
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return versions


def write(name: str, text: str, page: Path = PAGE) -> None:
    """Put `text` between the page's markers of that name.

    Raises:
        ValueError: the page has no such markers.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, opened, rest = page.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not opened or not closed:
        raise ValueError(f"{page.name} has no markers {begin} … {end}")
    page.write_text(f"{before}{begin}\n{text.strip()}\n{end}{after}")


def verdict(value: float, bar: float) -> str:
    return "met" if value <= bar else "MISSED"


def env_of(**values: Any) -> dict[str, str]:
    return {name: str(value) for name, value in values.items()}
