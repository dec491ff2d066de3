"""What a run knows of the champion: the signals of its context, and those of its own reports."""

from __future__ import annotations

from collections.abc import Iterator

from retrain.results import Context, DiagnoseReport, EstimateReport, MeasureReport, RegretReport, StageReport
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


def _own_reports(run: Run) -> Iterator[StageReport]:
    for kind, stage in REPORTS:
        if run.store.exists(f"{run.folder}/{stage}.json"):
            yield run.read(kind, stage)
