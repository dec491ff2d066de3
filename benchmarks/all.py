"""Every benchmark in turn, one at a time: `make bench`, or `python benchmarks/all.py [--quick] [--only NAME …]`.

Prints the tables and writes them into `docs/benchmarks.md`, between its markers, with the machine and the command.
`--quick` (or `BENCH=quick`) is for seeing that everything works: small sizes, nothing written.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[1] / "include")]

from benchmarks import alarms, cycle, estimation, gates, measure, parse, rollback, rows, timelines
from benchmarks.measure import Figures
from tests.chaos import killed

NAMES = ("parse", "alarms", "gates", "rollback", "estimation", "timelines", "cycle", "rows")


def benchmarks(quick: bool, say: Callable[[str], None]) -> dict[str, tuple[str, Callable[[], list[Figures]]]]:
    """Name → its own command, and what runs it."""
    sizes = [20_000, 100_000] if quick else [100_000, 1_000_000, 10_000_000]
    specs = [1, 5] if quick else [1, 20, 100]
    return {
        "parse": ("python benchmarks/parse.py", lambda: parse.figures(specs)),
        "alarms": ("python benchmarks/alarms.py", lambda: alarms.figures(quick)),
        "gates": ("python benchmarks/gates.py", lambda: gates.figures(quick)),
        "rollback": ("python benchmarks/rollback.py", lambda: [*rollback.figures(quick), *killed.figures(quick)]),
        "estimation": (
            "python benchmarks/estimation.py",
            lambda: estimation.figures(1, 400, workers=1) if quick else estimation.figures(8, 1_500),
        ),
        "timelines": (
            "python benchmarks/timelines.py",
            lambda: timelines.figures(timelines.KINDS[1:2], [0], few=1) if quick else timelines.figures(),
        ),
        "cycle": ("python benchmarks/cycle.py", lambda: cycle.figures(quick, 1 if quick else 3, say)),
        "rows": ("python benchmarks/rows.py", lambda: rows.figures(sizes)),
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument("--quick", action="store_true", default=os.environ.get("BENCH") == "quick")
    arguments.add_argument("--only", nargs="+", choices=NAMES, default=NAMES)
    given = arguments.parse_args()
    console = Console(highlight=False)

    def say(text: str) -> None:
        console.print(text, style="dim")

    for name, (command, run) in benchmarks(given.quick, say).items():
        if name not in given.only:
            continue
        say(f"{command} …")
        tables = run()
        for table in tables:
            console.print(table.table())
        if not given.quick:
            measured_on = f"`{command}`, {datetime.now(UTC):%Y-%m-%d}: {measure.machine()}."
            measure.write(name, "\n\n".join([measured_on, *(table.markdown() for table in tables)]))


if __name__ == "__main__":
    main()
