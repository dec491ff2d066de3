"""Writes the reference pages that are made from the code: spec, commands, reports, and what deliveries become.

    python bin/reference.py        # or: make docs

A test holds the pages and the code together.
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import typer.main

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[1] / "include")]
from bin import deliveries
from retrain import results
from retrain.authoring.check.manual import reference as spec_page
from retrain.cli import GROUPS, app
from retrain.pipeline import MONITORING, SCORING, STAGES
from retrain.results import Result

DOCS = Path(__file__).resolve().parents[1] / "docs"

COMMANDS = """# Commands

`retrain …`, or `python -m retrain …` where the package is not installed. `retrain COMMAND --help` says the same.
This page is made from the code by `make docs`.
"""

REPORTS = """# Reports

Each stage writes one report, `<store>/<model>/runs/<run>/<stage>.json`: a frozen value that is a pure function of its
inputs. It carries the data's clock and never the wall's. Verdicts and kinds of ledger
records: [glossary.md](glossary.md#verdicts). This page is made from the code by `make docs`.
"""


def commands_page() -> str:
    """Every command with its arguments and options, in the groups of the help."""
    group = typer.main.get_command(app)
    lines = [COMMANDS]
    for title, functions in GROUPS.items():
        lines += [f"## {title}", ""]
        for function in functions:
            command = group.commands[function.__name__]  # type: ignore[attr-defined]
            lines += [f"### `retrain {command.name}`", "", " ".join((command.help or "").split()), ""]
            rows = [
                (
                    f"`{'`, `'.join(option.opts) if option.opts[0].startswith('-') else option.name.upper()}`",
                    option.help,
                )
                for option in command.params
            ]
            lines += ["| | |", "|---|---|", *(f"| {name} | {help_text} |" for name, help_text in rows), ""]
    return "\n".join(lines)


def reports_page() -> str:
    """Every report and value with its fields, in the order of the modules that define them."""
    lines = [REPORTS]
    stages = {stage.name: stage.does for stage in (*STAGES, *SCORING, *MONITORING)}
    lines += [
        "## Stages",
        "",
        "| stage | does |",
        "|---|---|",
        *(f"| `{name}` | {does} |" for name, does in stages.items()),
    ]
    lines += ["", "## Fields", ""]
    for name, kind in vars(results).items():
        if not (inspect.isclass(kind) and issubclass(kind, Result) and kind is not Result):
            continue
        lines += [f"### {name}", "", " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split()), ""]
        own = {
            field: info for field, info in kind.model_fields.items() if field not in results.StageReport.model_fields
        }
        if own:
            lines += [
                "| field | |",
                "|---|---|",
                *(f"| `{field}` | {info.description or ''} |" for field, info in own.items()),
                "",
            ]
    return "\n".join(lines)


PAGES = {
    **{"spec.md": spec_page, "commands.md": commands_page, "reports.md": reports_page},
    "data.md": deliveries.page,
}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (DOCS / name).write_text(page())
        print(f"wrote docs/{name}")
