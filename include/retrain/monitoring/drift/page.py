"""The page: Evidently's report of the samples under our verdicts. Evidently is imported in this file only."""

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

from retrain.monitoring.drift.limits import DISTANCE, Kind
from retrain.monitoring.drift.samples import ks_distance
from retrain.results import ColumnDrift, Decision


@dataclass(frozen=True)
class ColumnSamples:
    """The samples of a column as the page shows them: (n,) of the reference and (m,) of the batch."""

    kind: Kind
    reference: NDArray[Any]
    current: NDArray[Any]


def _custom(reference: pd.Series, current: pd.Series, _kind: ColumnType, threshold: float) -> tuple[float, bool]:
    """In the shape that Evidently asks of a custom test."""
    distance = ks_distance(reference.to_numpy(), current.to_numpy())
    return distance, distance >= threshold


register_stattest(
    StatTest(DISTANCE["number"], "K-S distance", allowed_feature_types=[ColumnType.Numerical], default_threshold=0.1),
    _custom,
)


def page_of(samples: Mapping[str, ColumnSamples], thresholds: Mapping[str, float]) -> str:
    """Evidently's report of the samples, its statistic of each column held against our threshold.

    Args:
        samples: column → its samples.
        thresholds: column → the value of the statistic from which it is drift.
    """
    if not samples:
        return "<!DOCTYPE html><html><head><meta charset='utf-8'></head><body></body></html>"
    names = dict(zip(samples, harmless(list(samples)), strict=True))
    definition = DataDefinition(
        numerical_columns=[names[c] for c, column in samples.items() if column.kind == "number"],
        categorical_columns=[names[c] for c, column in samples.items() if column.kind == "category"],
    )
    tables = [
        pd.DataFrame(
            {names[c]: pd.Series(column.reference if side == 0 else column.current) for c, column in samples.items()}
        )
        for side in range(2)
    ]
    before, now = (Dataset.from_pandas(table, data_definition=definition) for table in tables)
    metrics = [
        ValueDrift(column=names[c], method=DISTANCE[column.kind], threshold=thresholds[c])
        for c, column in samples.items()
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's and plotly's own, about data that was judged all the same
        text: str = Report(metrics, include_tests=True).run(now, before).get_html_str(as_iframe=False)
    return text


def harmless(names: Sequence[str]) -> list[str]:
    """Distinct short names without angle brackets: Evidently writes them into a script element as they are.

    >>> harmless(["a", "<i>", "a"])
    ['a', '‹i›', 'a′']
    """
    safe: dict[str, None] = {}
    for name in names:
        short = name.replace("<", "‹").replace(">", "›")[:80]
        while short in safe:
            short += "′"
        safe[short] = None
    return list(safe)


def with_verdicts(page: str, decision: Decision, columns: Sequence[ColumnDrift]) -> str:
    """Put our decision and every verdict on top of Evidently's page, those of whole columns included."""
    cells = [
        (row.column, row.role, "" if row.weight is None else f"{row.weight:.0%}", row.test, row.verdict, row.reason)
        for row in sorted(columns, key=lambda row: ("drift", "undetermined", "stable").index(row.verdict))
    ]
    body = "".join("<tr>" + "".join(f"<td>{markup.escape(cell)}</td>" for cell in line) + "</tr>" for line in cells)
    reasons = "".join(f"<li>{markup.escape(reason)}</li>" for reason in decision.reasons)
    section = (
        '<section style="font-family:sans-serif;margin:1.5em"><style>section td,section th{padding:.2em .8em;'
        f"text-align:left}}</style><h1>Data drift: {markup.escape(decision.verdict)}</h1><ul>{reasons}</ul><details>"
        "<summary>Every verdict</summary><table><tr><th>column<th>role<th>importance<th>test<th>verdict<th>reason</tr>"
        f"{body}</table></details></section>"
    )
    head, tag, rest = page.partition("<body>")
    return head + tag + section + rest
