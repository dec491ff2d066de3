"""What the stages say: frozen values with a JSON round trip.

A report is a pure function of the stage's inputs. It carries the data's clock (`effective_at`) and never
the wall's, so that the same inputs give the same bytes in Airflow and in `dvc repro`; who ran what, when
and for how long stands in the ledger.

    >>> Decision(verdict="keep", reasons=("the same model again is no promotion",)).verdict
    'keep'
"""

from __future__ import annotations

from datetime import datetime, time
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _utc(value: datetime) -> datetime:
    if value.tzinfo is None or value.utcoffset():
        raise ValueError("times are UTC with a zone")
    return value


Utc = Annotated[datetime, AfterValidator(_utc)]


class Result(BaseModel):
    """A frozen value; NaN and infinity are refused on the way in and on the way out."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def to_json(self) -> str:
        return self.model_dump_json(indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        return cls.model_validate_json(text)


class Interval(Result):
    """A half-open UTC span `[start, end)`: one batch."""

    start: Utc
    end: Utc

    @property
    def name(self) -> str:
        """A short, sortable name for people and folders, unique within one model: `2013-04-01`, `2013-04-01T06`."""
        midnight = self.start.time() == time(0)
        return self.start.strftime(
            "%Y-%m-%d"
            if midnight
            else "%Y-%m-%dT%H"
            if not (self.start.minute or self.start.second)
            else "%Y-%m-%dT%H%M%S"
        )

    def __str__(self) -> str:
        return f"[{self.start:%Y-%m-%d %H:%M}, {self.end:%Y-%m-%d %H:%M})"


class Decision(Result):
    """A verdict with its reasons, recorded also when the answer is no."""

    verdict: str
    reasons: tuple[str, ...] = Field(min_length=1)


class StageReport(Result):
    """What every stage's report begins with."""

    model: str
    interval: Interval
    effective_at: Utc

    def facts(self) -> dict[str, Any]:
        """The few figures that go to the ledger, for tables."""
        return {}


# --- data ------------------------------------------------------------------------------------------


class Batch(Result):
    """The rows of one interval, published under the SHA-256 of their Parquet file."""

    interval: Interval
    sha256: str
    rows: int
    bytes: int
    key: str = Field(description="where the file lies, relative to the store")


class IngestReport(StageReport):
    batch: Batch
    source: str = Field(description="the address without its secrets")
    source_digest: str = Field(description="SHA-256 of the delivered bytes, or of the rows for SQL")

    def facts(self) -> dict[str, Any]:
        return {"rows": self.batch.rows, "sha256": self.batch.sha256}


class Check(Result):
    """One expectation and what came of it."""

    expectation: str
    column: str | None = None
    severity: Literal["stop", "warn"]
    passed: bool
    observed: str = Field(description="what was found, for people, bounded")
    unexpected: int = 0
    rows: int = 0
    crashed: bool = Field(default=False, description="the library could not evaluate it; counts as failed")


class ValidateReport(StageReport):
    decision: Decision = Field(description="accept or quarantine")
    sha256: str
    checks: tuple[Check, ...]
    released: bool = Field(default=False, description="a person let a quarantined batch through")
    html: str | None = None
    failing_rows: str | None = None


class SnapshotReport(StageReport):
    """The DVC hash and the git commit that bring back the exact bytes of the accepted batch."""

    sha256: str
    path: str
    md5: str
    bytes: int
    commit: str
    tag: str


class Accepted(Result):
    """A batch that training may read."""

    batch: Batch
    md5: str
    commit: str
    mature_at: Utc = Field(description="when all of its labels are there, on the data's clock")


class Configuration(Result):
    """Everything that makes a model but the rows: what a refresh repeats."""

    estimator: str
    parameters: dict[str, Any]
    window: int | None = Field(default=None, description="how many of the newest intervals; None is all")
    pipeline: str = Field(description="digest of columns, encoders, feature code and library versions")

    @property
    def label(self) -> str:
        return f"{self.estimator}, {'all' if self.window is None else f'last {self.window}'}"


class Champion(Result):
    """The model that serves, as the registry and the ledger know it."""

    version: int
    run_id: str
    digest: str = Field(description="of the model's files")
    configuration: Configuration
    training: str = Field(description="digest of the training rows")
    reference: str = Field(description="folder of the reference rows, relative to the store")
    trained_until: Utc = Field(description="end of the newest interval it was fitted on")
    effective_at: Utc = Field(description="the as-of time of the run that promoted it")


class Trigger(Result):
    """Why a run was started, and what a person asked for."""

    kind: Literal["schedule", "manual", "alert", "laptop"] = "schedule"
    id: str = ""
    force: bool = False
    dry_run: bool = False
    revise: bool = Field(default=False, description="take other bytes for an accepted interval as a new revision")
    reason: str = ""


class Context(StageReport):
    """All that a run needs to know of the world, fixed before it decides: one file, `context.json`."""

    spec_digest: str
    trigger: Trigger
    accepted: tuple[Accepted, ...] = Field(description="every accepted batch up to this interval, oldest first")
    quarantined: tuple[str, ...] = ()
    champion: Champion | None = None
    last_training_at: Utc | None = Field(default=None, description="as-of time of the newest training of this model")
    newest_promotion_at: Utc | None = Field(default=None, description="as-of time of the newest promotion")


# --- drift and the decision ------------------------------------------------------------------------


class ColumnDrift(Result):
    """One column of the current batch against the reference."""

    column: str
    role: Literal["feature", "prediction", "target"] = "feature"
    test: str = Field(description="the statistic's name, or missing / new categories / constant")
    verdict: Literal["drift", "stable", "undetermined"]
    statistic: float | None = None
    threshold: float | None = None
    reason: str


class DriftReport(StageReport):
    decision: Decision = Field(description="drift, stable or undetermined")
    columns: tuple[ColumnDrift, ...] = ()
    share: float | None = Field(default=None, description="drifted features among the determined ones")
    reference_rows: int = 0
    current_rows: int = 0
    html: str | None = None


class DecideReport(StageReport):
    decision: Decision = Field(description="retrain or skip")
    policy: str = Field(default="", description="the rule that said yes")


# --- models ----------------------------------------------------------------------------------------


class Fitted(Result):
    """A fitted pipeline in the run's workspace."""

    name: str = Field(description="refresh, new, naive or simple")
    kind: Literal["refresh", "new", "baseline"]
    configuration: Configuration
    training: str = Field(description="digest of the training rows")
    intervals: tuple[Interval, ...]
    rows: int
    key: str
    digest: str
    inner_score: float | None = Field(default=None, description="mean of the primary metric over the inner folds")


class TrainReport(StageReport):
    fitted: tuple[Fitted, ...]
    sealed: tuple[Interval, ...]
    search: tuple[dict[str, Any], ...] = Field(default=(), description="every configuration tried, with its scores")
    unlabelled: int = Field(default=0, description="rows without a label, left out")
    seed: int
    notes: tuple[str, ...] = ()


class Paired(Result):
    """The gain of `model` over `against` on the same rows, with its interval; above zero is better."""

    model: str
    against: str
    metric: str
    gain: float
    low: float
    high: float
    level: float
    blocks: int
    resamples: int


class Slice(Result):
    column: str
    value: str
    rows: int
    scores: dict[str, float | None] = Field(description="the primary metric per model; None where undefined")


class Measured(Result):
    """A metric with its interval."""

    value: float | None
    low: float | None = None
    high: float | None = None


class EvaluateReport(StageReport):
    decision: Decision = Field(description="measured, or inconclusive")
    sealed: tuple[Interval, ...] = ()
    rows: int = 0
    blocks: int = 0
    metrics: dict[str, dict[str, Measured]] = Field(default={}, description="model → metric → value")
    paired: tuple[Paired, ...] = ()
    slices: tuple[Slice, ...] = ()
    importance: dict[str, dict[str, float]] = Field(default={}, description="model → feature → mean loss of score")
    unknown_categories: dict[str, int] = Field(default={}, description="rows with a category no model has seen")
    plots: tuple[str, ...] = ()
    tables: tuple[str, ...] = Field(default=(), description="CSV files for `dvc plots`")


class GateCheck(Result):
    name: str
    model: str
    passed: bool | None = Field(description="None: cannot be told from these rows")
    value: float | None = None
    bound: float | None = None
    reason: str


class GateReport(StageReport):
    decision: Decision = Field(description="promote, keep or inconclusive")
    chosen: str | None = Field(default=None, description="which fitted model")
    kind: Literal["first", "refresh", "new"] | None = None
    metric: str = ""
    challenger_score: float | None = None
    champion_score: float | None = None
    checks: tuple[GateCheck, ...] = ()

    def facts(self) -> dict[str, Any]:
        scores = {"challenger": self.challenger_score, "champion": self.champion_score}
        return {**scores, "metric": self.metric, "chosen": self.chosen, "kind": self.kind}


class RefitReport(StageReport):
    decision: Decision = Field(description="refit, or gated: which of the two goes on")
    fitted: Fitted
    golden: str = Field(description="the golden rows and the answers that the model must repeat")
    mean_prediction: tuple[float, ...]
    checks: tuple[GateCheck, ...] = ()


class RegisterReport(StageReport):
    decision: Decision = Field(description="registered, or recorded: a run without a version")
    run_id: str
    version: int | None = None
    digest: str | None = None
    key: str | None = None
    url: str | None = Field(default=None, description="of the run in the MLflow UI")


class PromoteReport(StageReport):
    decision: Decision = Field(description="promoted, or why not")
    version: int | None = None
    previous: int | None = None
    sequence: int | None = None

    def facts(self) -> dict[str, Any]:
        return {"version": self.version, "previous": self.previous}


def inside(path: str) -> str:
    """`path` if it is a plain relative one, for keys and names that become files.

    >>> inside("flights/runs/a.json")
    'flights/runs/a.json'
    """
    from retrain.errors import InvalidName

    parts = PurePosixPath(path).parts
    if not path or "\0" in path or "\\" in path or path.startswith("/") or ".." in parts or len(path) > 500:
        raise InvalidName(f"{path!r} is not a plain relative name", do="use letters, digits, dots and dashes")
    return path
