"""The gate's table, as a frame, in the terminal, as Markdown and as a page: the same rows everywhere."""

from __future__ import annotations

import pandas as pd
from rich.table import Table
from rich.text import Text

from retrain.rendering import html, text
from retrain.results import GateCheck, GateReport

COLUMNS = ("check", "model", "verdict", "value", "bound", "why")
STYLES = {"passed": "green", "failed": "red", "open": "yellow", "warned": "yellow", "reported": "dim"}


def verdict(check: GateCheck) -> str:
    """Name what came of a check.

    Returns:
        passed, failed, open (cannot be told), warned (failed, but does not hold back) or reported.

    >>> verdict(GateCheck(name="overfit", model="new", passed=None, binding=False, reason="scores 0.1"))
    'reported'
    """
    if check.binding:
        return {True: "passed", False: "failed", None: "open"}[check.passed]
    return {True: "passed", False: "warned", None: "reported"}[check.passed]


def table(report: GateReport) -> pd.DataFrame:
    """One row a check, in the gate's order: check, model, verdict, value, bound, why."""
    return pd.DataFrame(_rows(report), columns=list(COLUMNS))


def _rows(report: GateReport) -> list[tuple[str, str, str, float | None, float | None, str]]:
    return [
        (check.name, check.model, verdict(check), check.value, check.bound, check.reason) for check in report.checks
    ]


def terminal(report: GateReport) -> Table:
    """The table for a terminal; what failed stands out by its word, not by colour alone."""
    rows = Table(title=Text(f"{report.model} {report.interval.name}: {_title(report)}"), title_justify="left")
    for name in COLUMNS:
        number = name in ("value", "bound")
        rows.add_column(name, justify="right" if number else "left", no_wrap=number or name == "verdict")
    for name, model, word, value, bound, why in _rows(report):
        cells = [Text(name), Text(model), Text(word, style=STYLES[word])]
        rows.add_row(*cells, _number(value), _number(bound), Text(why))
    return rows


def markdown(report: GateReport) -> str:
    """The table for MLflow and a model card; names from data cannot become markup."""
    lines = [f"# {text.markdown(report.model)} {report.interval.name}: {text.markdown(_title(report))}", ""]
    lines += [f"- {text.markdown(reason)}" for reason in report.decision.reasons]
    lines += ["", f"| {' | '.join(COLUMNS)} |", "|---|---|---|--:|--:|---|"]
    for name, model, word, value, bound, why in _rows(report):
        cells = [name, model, word, _number(value), _number(bound), why]
        lines.append(f"| {' | '.join(map(text.markdown, cells))} |")
    return "\n".join(lines) + "\n"


def page(report: GateReport) -> bytes:
    """The same as a page of its own."""
    return html.page(f"{report.model} {report.interval.name}: gate", report.decision, {"Checks": table(report)})


def _title(report: GateReport) -> str:
    return f"{report.decision.verdict} {report.chosen}" if report.chosen else report.decision.verdict


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
