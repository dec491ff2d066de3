"""What commands print: a stage's last line with the gate's table, and tables."""

from __future__ import annotations

import typer
from rich.console import Console, RenderableType

from retrain import pipeline
from retrain.results import GateReport, StageReport

WIDTH = 140
"""Characters of a line where the output is no terminal, whose width could be asked."""


def show(renderable: RenderableType) -> None:
    """Print a rich table or tree."""
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    console.print(renderable)


def show_report(stage: str, report: StageReport) -> None:
    """Print a stage's last line, and the gate's table where the report has one."""
    typer.echo(pipeline.last_line(report, stage))
    if isinstance(report, GateReport) and report.checks:
        from retrain.gate import table

        show(table.terminal(report))
