"""What refit reports: the model that goes on to the registry."""

from __future__ import annotations

from pydantic import Field

from retrain.results.base import Decision, StageReport
from retrain.results.gate import GateCheck
from retrain.results.train import FittedModel


class RefitReport(StageReport):
    """The model that goes on to the registry: the gated configuration, fitted on all mature rows."""

    decision: Decision = Field(description="refit, or gated: which of the two goes on")
    fitted: FittedModel
    golden: str = Field(description="the golden rows and the answers that the model must repeat")
    mean_prediction: tuple[float, ...]
    checks: tuple[GateCheck, ...] = ()
