"""What the stages say: frozen values with a JSON round trip.

A report is a pure function of the stage's inputs. It carries the data's clock (`effective_at`) and never
the wall's, so that the same inputs give the same bytes in Airflow and in `dvc repro`; who ran what, when
and for how long stands in the ledger.

    >>> Decision(verdict="keep", reasons=("the same model again is no promotion",)).verdict
    'keep'
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, time
from pathlib import PurePosixPath
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator


def _utc(value: datetime) -> datetime:
    if value.tzinfo is None or value.utcoffset():
        raise ValueError("times are UTC with a zone")
    return value


Utc = Annotated[datetime, AfterValidator(_utc)]


class Result(BaseModel):
    """A frozen value; NaN and infinity are refused on the way in and on the way out."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    FORMER: ClassVar[Mapping[str, str]] = {}
    """What an earlier version of this project called a field → what it is called now."""

    @model_validator(mode="before")
    @classmethod
    def _rename_former(cls, data: Any) -> Any:
        if not cls.FORMER or not isinstance(data, Mapping):
            return data
        return {cls.FORMER.get(name, name): value for name, value in data.items()}

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

    def signs(self) -> tuple[tuple[str, Interval, str, str], ...]:
        """What policies read of it: question, interval, verdict and reason of each `Signal`."""
        return ()

    def signals_of(self, champion: int) -> tuple[Signal, ...]:
        """The same as facts about a version, as of this report."""
        return tuple(
            Signal.model_validate(
                {"question": question, "interval": interval, "champion": champion, "verdict": verdict}
                | {"reason": reason, "effective_at": self.effective_at}
            )
            for question, interval, verdict, reason in self.signs()
        )


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


class LabelBatch(Result):
    """The labels of one interval's rows that came apart from them: key columns and target, one row a key."""

    sha256: str
    rows: int
    key: str = Field(description="where the file lies, relative to the store")


class IntervalLabels(Result):
    """What came of the labels of one interval's rows; `labels` is empty while it waits for them."""

    interval: Interval
    labels: LabelBatch | None = None
    rows: int = Field(description="rows of the interval's batch")
    labelled: int = Field(default=0, description="rows that have a label")
    empty: int = Field(default=0, description="delivered without a label: missing, and never a no")
    unknown: int = Field(default=0, description="labels that are no class of the target, or not finite; no labels")
    duplicates: int = Field(default=0, description="delivered again with the same label; one is kept")
    contradictory: int = Field(default=0, description="keys that came with different labels; they get none")
    strangers: int = Field(default=0, description="labels without a row; left out")
    reason: str = Field(default="", description="why it waits")

    @property
    def coverage(self) -> float:
        return self.labelled / self.rows if self.rows else 0.0


class LabelsReport(StageReport):
    decision: Decision = Field(description="same, joined, or waiting for some")
    matured: int = Field(default=0, description="intervals whose labels should be there by now")
    joined: int = Field(default=0, description="and are, with enough of their rows")
    intervals: tuple[IntervalLabels, ...] = Field(default=(), description="those that this run looked at")

    def facts(self) -> dict[str, Any]:
        return {"matured": self.matured, "joined": self.joined}


class Accepted(Result):
    """A batch that training may read."""

    batch: Batch
    md5: str
    commit: str
    mature_at: Utc = Field(description="when all of its labels are there, on the data's clock")
    labels: LabelBatch | None = Field(default=None, description="where labels come apart from the rows")


class Configuration(Result):
    """Everything that makes a model but the rows: what a refresh repeats."""

    estimator: str
    parameters: dict[str, Any]
    window: int | None = Field(default=None, description="how many of the newest intervals; None is all")
    since: Utc | None = Field(default=None, description="start of the rows, where the world changed then")
    pipeline: str = Field(description="digest of columns, encoders, feature code and library versions")

    @property
    def label(self) -> str:
        if self.since:
            return f"{self.estimator}, since {self.since:%Y-%m-%d}"
        return f"{self.estimator}, {'all' if self.window is None else f'last {self.window}'}"


class Champion(Result):
    """The model that serves, as the registry and the ledger know it."""

    FORMER = {"promised": "expected_score"}

    version: int
    run_id: str
    digest: str = Field(description="of the model's files")
    configuration: Configuration
    training: str = Field(description="digest of the training rows")
    reference: str = Field(description="folder of the reference rows, relative to the store")
    trained_until: Utc = Field(description="end of the newest interval it was fitted on")
    rows: int = Field(default=0, description="labelled rows it was fitted on")
    expected_score: float | None = Field(
        default=None, description="the primary metric on the holdout rows it was gated on"
    )
    effective_at: Utc = Field(description="the as-of time of the run that promoted it")


class Trigger(Result):
    """Why a run was started, and what a person asked for."""

    kind: Literal["schedule", "manual", "alert", "laptop"] = "schedule"
    id: str = ""
    force: bool = False
    dry_run: bool = False
    revise: bool = Field(default=False, description="take other bytes for an accepted interval as a new revision")
    reason: str = ""
    by: str = Field(default="", description="who triggered it: a user of Airflow, or of the machine")


HELD = ("broken", "suspect")
"""Kinds of an interval that nobody learns from until a person has released it."""


class Signal(Result):
    """What one question of the monitor answered about one interval: the facts that policies read."""

    question: Literal["drift", "estimated", "realised", "kind"]
    interval: Interval
    champion: int = Field(description="the version that it is about")
    verdict: str = Field(description="alarm, calm or undetermined; of kind: broken, suspect, changed or sound")
    reason: str
    effective_at: Utc


class Alert(Result):
    """What asks for a retraining: a decision of the monitor, or somebody outside."""

    id: str
    origin: Literal["monitor", "outside"]
    verdict: str = Field(description="what the monitor decided; of an alert from outside: retrain")
    reason: str
    effective_at: Utc


class BlockedModel(Result):
    """A model that must not come back: its files, and what makes the same files again."""

    version: int
    digest: str
    training: str
    configuration: Configuration
    reason: str


class Rollout(Result):
    """A version that scores beside the champion: a challenger on its way, or the predecessor under watch."""

    FORMER = {"beside": "shadow", "pins": "becomes_reference"}

    purpose: Literal["shadow", "canary", "watch"]
    shadow: Champion = Field(description="the challenger; of a watch the predecessor")
    champion: int = Field(description="the version that serves")
    kind: Literal["refresh", "new"] = Field(default="new", description="what the challenger, or the new champion, is")
    becomes_reference: bool = Field(
        default=False, description="the gate has shown the challenger better than the reference champion"
    )
    step: int = Field(default=0, description="of a canary")
    share: float = Field(default=0.0, description="of the rows that the challenger answers")
    since: Utc = Field(description="from when on, on the data's clock, this step holds")
    began: Utc = Field(description="the same of the first step")


class Context(StageReport):
    """All that a run needs to know of the world, fixed before it decides: one file, `context.json`."""

    FORMER = {"pinned": "reference_champion", "barred": "blocklist"}

    spec_digest: str
    trigger: Trigger
    accepted: tuple[Accepted, ...] = Field(description="every accepted batch up to this interval, oldest first")
    quarantined: tuple[str, ...] = ()
    held: tuple[str, ...] = Field(default=(), description="accepted, then found broken or suspect; until released")
    champion: Champion | None = None
    reference_champion: Champion | None = Field(
        default=None,
        description="the newest champion that was shown to be better; others may not creep away from it",
    )
    blocklist: tuple[BlockedModel, ...] = ()
    rollout: Rollout | None = Field(default=None, description="what scores beside the champion")
    last_training_at: Utc | None = Field(default=None, description="as-of time of the newest training of this model")
    newest_promotion_at: Utc | None = Field(default=None, description="as-of time of the newest promotion")
    trainings: tuple[Utc, ...] = Field(default=(), description="as-of times of all trainings, oldest first")
    signals: tuple[Signal, ...] = Field(default=(), description="what the monitor said of the champion, oldest first")
    alert: Alert | None = Field(default=None, description="what started this run, where it was one")

    @property
    def other_reference_champion(self) -> Champion | None:
        """The reference champion, where it is another than the one that serves."""
        reference_champion, champion = self.reference_champion, self.champion
        return (
            reference_champion
            if reference_champion and champion and reference_champion.version != champion.version
            else None
        )


# --- drift and the decision ------------------------------------------------------------------------


class ColumnDrift(Result):
    """One column of the current batch against the reference."""

    column: str
    role: Literal["feature", "prediction", "target"] = "feature"
    test: str = Field(description="the statistic's name, or missing / new categories / constant")
    verdict: Literal["drift", "stable", "undetermined"]
    statistic: float | None = None
    threshold: float | None = Field(default=None, description="from where on the statistic is drift")
    p_value: float | None = Field(default=None, description="chance of such a statistic where nothing changed")
    weight: float | None = Field(default=None, description="the feature's part of all importance; None if unknown")
    reason: str


class DriftReport(StageReport):
    decision: Decision = Field(description="drift, stable, undetermined, or broken: data that nobody should train on")
    columns: tuple[ColumnDrift, ...] = Field(default=(), description="against the champion's reference")
    recent: tuple[ColumnDrift, ...] = Field(default=(), description="features against the previous interval's batch")
    broken: tuple[str, ...] = Field(default=(), description="columns that look broken, not changed, and the evidence")
    share: float | None = Field(default=None, description="importance of the drifted among the determined features")
    reference_rows: int = 0
    current_rows: int = 0
    html: str | None = None
    recent_html: str | None = None

    def signs(self) -> tuple[tuple[str, Interval, str, str], ...]:
        said, reason = self.decision.verdict, self.decision.reasons[0]
        alarm = {"drift": "alarm", "stable": "calm"}.get(said, "undetermined")
        broken = (("kind", self.interval, "broken", reason),) if said == "broken" else ()
        return (("drift", self.interval, alarm, reason), *broken)


class EstimateReport(StageReport):
    """Performance without labels: the metric on these rows, if outcomes follow the features as before."""

    FORMER = {"promised": "expected_score"}

    decision: Decision = Field(description="alarm, calm or undetermined")
    metric: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    expected_score: float | None = Field(default=None, description="on the holdout rows that the champion was gated on")
    version: int | None = None
    rows: int = 0
    reliable: bool | None = Field(default=None, description="whether earlier estimates held; None: too few to tell")
    html: str | None = None

    def facts(self) -> dict[str, Any]:
        told = {"estimated": self.value, "low": self.low, "high": self.high}
        return {"metric": self.metric, "version": self.version, **told}

    def signs(self) -> tuple[tuple[str, Interval, str, str], ...]:
        return (("estimated", self.interval, self.decision.verdict, self.decision.reasons[0]),)


class SliceFall(Result):
    """One value of a slice's column, realised against expected there."""

    column: str
    value: str
    rows: int
    realised: float | None
    expected: float | None
    fell: bool = False


class Realised(Result):
    """One interval, once its labels are there."""

    FORMER = {"promised": "expected_score"}

    interval: Interval
    version: int
    verdict: Literal["alarm", "calm", "undetermined"]
    reason: str
    rows: int = 0
    coverage: float = 0.0
    value: float | None = None
    low: float | None = None
    high: float | None = None
    expected_score: float | None = None
    expected: float | None = Field(default=None, description="on these very rows, if outcomes followed as expected")
    excess: float | None = Field(default=None, description="realised above expected loss, as a share of the expected")
    excess_low: float | None = None
    suspect: str = Field(default="", description="why the labels look wrong")
    slices: tuple[SliceFall, ...] = ()


class MeasureReport(StageReport):
    """Realised performance of the champion on the intervals whose labels have matured."""

    decision: Decision = Field(description="alarm, calm or undetermined")
    metric: str = ""
    realised: tuple[Realised, ...] = Field(default=(), description="oldest first; the newest decides")
    html: str | None = None

    def facts(self) -> dict[str, Any]:
        return {"metric": self.metric, "realised": {one.interval.name: one.value for one in self.realised}}

    def signs(self) -> tuple[tuple[str, Interval, str, str], ...]:
        return tuple(("realised", one.interval, one.verdict, one.reason) for one in self.realised)


class DiagnoseReport(StageReport):
    """Which kind it is: broken data or wrong labels (stop), a changed world (retrain), or nothing."""

    decision: Decision = Field(description="broken, suspect, changed or sound")
    of: tuple[tuple[Interval, str], ...] = Field(default=(), description="each interval that it says something of")
    html: str | None = None

    def signs(self) -> tuple[tuple[str, Interval, str, str], ...]:
        return tuple(("kind", interval, kind, self.decision.reasons[0]) for interval, kind in self.of)


class DecideReport(StageReport):
    decision: Decision = Field(description="retrain or skip")
    policy: str = Field(default="", description="the rule that decided")
    evidence: dict[str, str] = Field(default={}, description="each rule that was asked, and what it said")


# --- models ----------------------------------------------------------------------------------------


class Fitted(Result):
    """A fitted pipeline in the run's workspace."""

    name: str = Field(description="refresh, new, changed, naive or simple")
    kind: Literal["refresh", "new", "baseline"]
    configuration: Configuration
    training: str = Field(description="digest of the training rows")
    intervals: tuple[Interval, ...]
    rows: int
    key: str
    digest: str
    inner_score: float | None = Field(default=None, description="mean of the primary metric over the inner folds")


class TrainReport(StageReport):
    FORMER = {"sealed": "holdout"}

    fitted: tuple[Fitted, ...]
    holdout: tuple[Interval, ...]
    judged_from: Utc | None = Field(
        default=None, description="start of the holdout rows that judge, where a candidate was fitted on those before"
    )
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
    within_low: float = Field(description="of the gain and what `gate.margin` grants, a share of the other's score")
    within_high: float
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


class Finding(Result):
    """Something measured of a model beside its metrics, for the gate to judge."""

    check: Literal["calibration", "overfit", "leak", "fairness", "case", "size"]
    model: str
    about: str = Field(default="", description="which column, group, feature or case")
    value: float | None = Field(description="None: undefined on these rows")
    low: float | None = None
    high: float | None = None
    rows: int = 0
    text: str = Field(default="", description="what was measured, for people")


class EvaluateReport(StageReport):
    FORMER = {"looks": "earlier_analyses", "sealed": "holdout"}

    decision: Decision = Field(description="measured, or inconclusive")
    level: float | None = Field(
        default=None, description="chance of a wrong promotion that each comparison of this look may have"
    )
    earlier_analyses: int = Field(default=0, description="earlier looks at these holdout rows")
    lost: str = Field(default="", description="why the reference champion could not be scored")
    findings: tuple[Finding, ...] = ()
    holdout: tuple[Interval, ...] = ()
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
    FORMER = {"blocks": "binding"}

    name: str
    model: str
    passed: bool | None = Field(description="None: cannot be told from these rows")
    value: float | None = None
    bound: float | None = None
    binding: bool = Field(default=True, description="False: reported only, it says nothing against the model")
    reason: str


class GateReport(StageReport):
    FORMER = {"pins": "becomes_reference"}

    decision: Decision = Field(description="promote, keep or inconclusive")
    chosen: str | None = Field(default=None, description="which fitted model")
    kind: Literal["first", "refresh", "new"] | None = None
    metric: str = ""
    challenger_score: float | None = None
    champion_score: float | None = None
    becomes_reference: bool = Field(
        default=False, description="shown to be better than the reference champion, or the first"
    )
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

    def facts(self) -> dict[str, Any]:
        return {"version": self.version}


class SmokeTestReport(StageReport):
    """A version in a fresh process: what it answered and what it took."""

    decision: Decision = Field(description="serves")
    version: int
    checks: tuple[GateCheck, ...] = ()
    html: str | None = None


class RolloutReport(StageReport):
    """What came of the version that scores beside the champion, as of the monitor's look."""

    decision: Decision = Field(
        description="idle, waiting, held, advanced, promoted, stopped, watched, ended, drift or rolled back"
    )
    purpose: Literal["shadow", "canary", "watch"] | None = None
    version: int | None = Field(default=None, description="the one beside")
    champion: int | None = None
    rows: int = 0
    gain: float | None = Field(default=None, description="mean loss spared by the newer of the two")
    low: float | None = None
    high: float | None = None
    html: str | None = None

    def facts(self) -> dict[str, Any]:
        return {"purpose": self.purpose, "version": self.version, "gain": self.gain}


class PromoteReport(StageReport):
    decision: Decision = Field(description="promoted, waiting, shadow, canary, rolled back, or kept: why not")
    version: int | None = None
    previous: int | None = None
    sequence: int | None = None

    def facts(self) -> dict[str, Any]:
        return {"version": self.version, "previous": self.previous}


# --- scores ----------------------------------------------------------------------------------------


class Disparity(Result):
    """A row on which two models differ."""

    key: tuple[str, ...]
    champion: float
    shadow: float


class Disagreement(Result):
    """How the challenger's scores of the same rows differ from the champion's.

    Of a multiclass model the score is the probability of the class that the champion names.
    """

    version: int = Field(description="of the challenger")
    rows: int
    mean_champion: float
    mean_shadow: float
    mean_absolute: float = Field(description="mean of |challenger - champion|")
    correlation: float | None = Field(description="Spearman; None where one of the two is constant")
    decided_otherwise: float | None = Field(
        description="share of rows with another answer: on the other side of 0.5, or another class; None for numbers"
    )
    quantiles: dict[str, float] = Field(description="of challenger - champion")
    furthest: tuple[Disparity, ...] = Field(default=(), description="the rows that differ most")


class ScoreReport(StageReport):
    decision: Decision = Field(description="scored, found (scored before), or skipped")
    version: int | None = Field(default=None, description="of the champion of that time")
    rows: int = 0
    scored: int = 0
    answered: dict[str, int] = Field(default={}, description="version → rows that got its answer")
    rejected: dict[str, int] = Field(default={}, description="breach → rows; a row may break two rules")
    unknown_categories: dict[str, int] = Field(default={}, description="rows with a category that training had not")
    outside: float | None = Field(
        default=None, description="regression: share of scores outside the range of the target in training"
    )
    key: str | None = Field(default=None, description="where the scores lie, relative to the store")
    sha256: str | None = None
    data: str | None = Field(default=None, description="SHA-256 of the batch that was scored")
    quarantined: str | None = Field(default=None, description="where the rows lie that were set aside")
    alias_moved: str | None = Field(default=None, description="how the champion alias differs from the ledger")
    shadow: Disagreement | None = None
    html: str | None = None

    def facts(self) -> dict[str, Any]:
        return {"rows": self.rows, "scored": self.scored, "version": self.version}


class Coverage(Result):
    """How far scores and labels of an interval meet. What is missing is counted, and is never a no."""

    predictions: int = Field(description="rows with a score")
    labels: int = Field(description="rows with a label")
    both: int
    unlabelled: int = Field(description="scores without a label (yet)")
    unpredicted: int = Field(description="labels of rows without a score: set aside, abstained, or of a later revision")
    gone: int = Field(default=0, description="scores whose row is not in the batch any more; among the unlabelled")

    @property
    def share(self) -> float:
        """Labelled share of the scores."""
        return self.both / self.predictions if self.predictions else 0.0


# --- replay


class Step(Result):
    """One interval under one policy."""

    interval: str
    score: float | None = None
    version: int | None = None
    decision: str
    reason: str
    trained: bool = False
    promoted: bool = False


class Outcome(Result):
    """A history under one policy.

    Attributes:
        mean: of the scores of all intervals that had a champion.
        trainings: after the first model.
        promotions: after the first model.
        wrong: promotions after which the predecessor would have scored better, by more than the gate's margin, on the
            rows that the successor served.
        seconds: spent in stages.
    """

    policy: str
    metric: str
    steps: tuple[Step, ...]
    mean: float | None
    trainings: int
    promotions: int
    wrong: int
    seconds: float


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
