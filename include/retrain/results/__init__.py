"""What the stages report: frozen values with a JSON round trip, a file per stage.

A report is a pure function of the stage's inputs. It carries the data's clock (`effective_at`) and never
the wall's, so that the same inputs give the same bytes in Airflow and in `dvc repro`; who ran what, when
and for how long stands in the ledger. Nothing but pydantic is imported here: DAG files read reports.

    >>> Decision(verdict="keep", reasons=("the same model again is no promotion",)).verdict
    'keep'
"""

from retrain.results.base import (
    Decision,
    Interval,
    Result,
    Signal,
    StageReport,
    Utc,
    WindowRegret,
    current_name,
    inside,
)
from retrain.results.champion import BlockedModel, Champion, Configuration, Recalibration, Rollout
from retrain.results.context import SHORTEST_REASON, AcceptedBatch, Alert, Context, Trigger
from retrain.results.decide import DecideReport
from retrain.results.diagnose import HELD, DiagnoseReport
from retrain.results.drift import ColumnDrift, DriftReport
from retrain.results.estimate import EstimateReport
from retrain.results.evaluate import EvaluateReport, Finding, MetricEstimate, PairedGain, Slice
from retrain.results.gate import GateCheck, GateReport
from retrain.results.ingest import Batch, IngestReport
from retrain.results.labels import IntervalLabels, LabelBatch, LabelsReport
from retrain.results.measure import MeasureReport, RealisedPerformance, SliceFall
from retrain.results.promote import PromoteReport
from retrain.results.refit import RefitReport
from retrain.results.register import RegisterReport
from retrain.results.regret import RegretReport
from retrain.results.replay import ReplayOutcome, ReplayStep
from retrain.results.rollout import RolloutReport
from retrain.results.score import Coverage, Disagreement, Disparity, ScoreReport
from retrain.results.smoke_test import SmokeTestReport
from retrain.results.snapshot import SnapshotReport
from retrain.results.train import CandidateKind, ChainLink, FittedModel, TrainReport
from retrain.results.validate import Check, ValidateReport

__all__ = [
    "HELD",
    "SHORTEST_REASON",
    "AcceptedBatch",
    "Alert",
    "Batch",
    "BlockedModel",
    "CandidateKind",
    "ChainLink",
    "Champion",
    "Check",
    "ColumnDrift",
    "Configuration",
    "Context",
    "Coverage",
    "DecideReport",
    "Decision",
    "DiagnoseReport",
    "Disagreement",
    "Disparity",
    "DriftReport",
    "EstimateReport",
    "EvaluateReport",
    "Finding",
    "FittedModel",
    "GateCheck",
    "GateReport",
    "IngestReport",
    "Interval",
    "IntervalLabels",
    "LabelBatch",
    "LabelsReport",
    "MeasureReport",
    "MetricEstimate",
    "PairedGain",
    "PromoteReport",
    "RealisedPerformance",
    "Recalibration",
    "RefitReport",
    "RegisterReport",
    "RegretReport",
    "ReplayOutcome",
    "ReplayStep",
    "Result",
    "Rollout",
    "RolloutReport",
    "ScoreReport",
    "Signal",
    "Slice",
    "SliceFall",
    "SmokeTestReport",
    "SnapshotReport",
    "StageReport",
    "TrainReport",
    "Trigger",
    "Utc",
    "ValidateReport",
    "WindowRegret",
    "current_name",
    "inside",
]
