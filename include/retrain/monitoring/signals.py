"""What a run knows of the champion: the signals of its context, and those of its own reports."""

from __future__ import annotations

from collections.abc import Iterator

from retrain.results import (
    HELD,
    Context,
    DiagnoseReport,
    EstimateReport,
    Interval,
    MeasureReport,
    RegretReport,
    StageReport,
)
from retrain.state.run import Run

REPORTS: tuple[tuple[type[StageReport], str], ...] = (
    (EstimateReport, "estimate"),
    (MeasureReport, "measure"),
    (DiagnoseReport, "diagnose"),
    (RegretReport, "regret"),
)
"""The reports with signals, and the stages that write them."""


def with_own_signals(run: Run, context: Context) -> Context:
    """The context with what this very run has measured; what earlier runs found is in it already."""
    return context.with_signals(_own_reports(run))


def doubted_intervals(run: Run) -> set[Interval]:
    """The intervals that this very run has found broken or suspect; the context knows those of earlier runs."""
    if not run.store.exists(f"{run.folder}/diagnose.json"):
        return set()
    return {interval for interval, kind in run.read(DiagnoseReport, "diagnose").of if kind in HELD}


def _own_reports(run: Run) -> Iterator[StageReport]:
    for kind, stage in REPORTS:
        if run.store.exists(f"{run.folder}/{stage}.json"):
            yield run.read(kind, stage)
