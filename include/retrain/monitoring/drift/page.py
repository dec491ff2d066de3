"""Evidently, imported in this file and nowhere else: the page."""

from __future__ import annotations

import html as markup
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from evidently import DataDefinition, Dataset, Report
from evidently.legacy.calculations.stattests.registry import StatTest, register_stattest
from evidently.legacy.core import ColumnType
from evidently.metrics import ValueDrift
from numpy.typing import NDArray

from retrain.monitoring.drift.limits import TEST, Kind
from retrain.monitoring.drift.samples import ks_distance
from retrain.results import ColumnDrift, Decision


@dataclass(frozen=True)
class Compared:
    kind: Kind
    reference: NDArray[Any]
    current: NDArray[Any]


def _custom(reference: pd.Series, current: pd.Series, _kind: ColumnType, threshold: float) -> tuple[float, bool]:
    """In the shape that Evidently asks of a custom test."""
    distance = ks_distance(reference.to_numpy(), current.to_numpy())
    return distance, distance >= threshold


register_stattest(
    StatTest(TEST["number"], "K-S distance", allowed_feature_types=[ColumnType.Numerical], default_threshold=0.1),
    _custom,
)


def page_of(compared: Mapping[str, Compared], thresholds: Mapping[str, float]) -> str:
    """Evidently's report of the samples, its own judge of each column held against our threshold."""
    if not compared:
        return "<!DOCTYPE html><html><head><meta charset='utf-8'></head><body></body></html>"
    names = dict(zip(compared, harmless(list(compared)), strict=True))
    definition = DataDefinition(
        numerical_columns=[names[c] for c, it in compared.items() if it.kind == "number"],
        categorical_columns=[names[c] for c, it in compared.items() if it.kind == "category"],
    )
    tables = [
        pd.DataFrame({names[c]: pd.Series(it.reference if side == 0 else it.current) for c, it in compared.items()})
        for side in range(2)
    ]
    before, now = (Dataset.from_pandas(table, data_definition=definition) for table in tables)
    judges = [ValueDrift(column=names[c], method=TEST[it.kind], threshold=thresholds[c]) for c, it in compared.items()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's and plotly's own, about data that was judged all the same
        text: str = Report(judges, include_tests=True).run(now, before).get_html_str(as_iframe=False)
    return text


def harmless(names: Sequence[str]) -> list[str]:
    """Distinct short names without angle brackets: Evidently writes them into a script element as they are."""
    shown: dict[str, None] = {}
    for name in names:
        short = name.replace("<", "‹").replace(">", "›")[:80]
        while short in shown:
            short += "′"
        shown[short] = None
    return list(shown)


def with_verdicts(page: str, decision: Decision, columns: Sequence[ColumnDrift]) -> str:
    """Evidently's page under our decision and every verdict, those of the whole table included."""
    cells = [
        (row.column, row.role, "" if row.weight is None else f"{row.weight:.0%}", row.test, row.verdict, row.reason)
        for row in sorted(columns, key=lambda row: ("drift", "undetermined", "stable").index(row.verdict))
    ]
    body = "".join("<tr>" + "".join(f"<td>{markup.escape(cell)}</td>" for cell in line) + "</tr>" for line in cells)
    reasons = "".join(f"<li>{markup.escape(reason)}</li>" for reason in decision.reasons)
    ours = (
        '<section style="font-family:sans-serif;margin:1.5em"><style>section td,section th{padding:.2em .8em;'
        f"text-align:left}}</style><h1>Data drift: {markup.escape(decision.verdict)}</h1><ul>{reasons}</ul><details>"
        "<summary>Every verdict</summary><table><tr><th>column<th>role<th>importance<th>test<th>verdict<th>reason</tr>"
        f"{body}</table></details></section>"
    )
    head, tag, rest = page.partition("<body>")
    return head + tag + ours + rest
