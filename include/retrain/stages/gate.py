"""May the candidate serve? Reads the reports of this run and asks the judge; data is never read."""

from __future__ import annotations

from retrain.gate.judge import judge
from retrain.results import Context, EvaluateReport, GateReport, TrainReport
from retrain.state.run import Run


def gate(run: Run) -> GateReport:
    """Judge this run's candidates by their measurements; the report has every check that led to the verdict.

    Raises:
        MissingInput: context, train or evaluate have not been written.
    """
    return judge(
        run.spec,
        run.read(Context, "context"),
        run.read(TrainReport, "train"),
        run.read(EvaluateReport, "evaluate"),
    )
