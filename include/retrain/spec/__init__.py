"""The model spec: one YAML file, parsed to a frozen object that refuses what it does not know.

Imports pydantic and yaml only: every Airflow component parses specs, none may pay for pandas here.

    >>> spec = parse(EXAMPLE, "churn")
    >>> spec.features
    ('plan', 'visits')
    >>> [interval.name for interval in spec.intervals_until(spec.at("2024-02-01").end)]
    ['2024-01-01', '2024-02-01']
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from retrain.errors import InvalidInterval, InvalidSpec
from retrain.errors import near as near
from retrain.results import Interval
from retrain.spec import edge_cases as edge

MAX_BYTES = 256 * 1024
CASES = ".cases.yaml"

EXAMPLE = """
model: churn
objective: Rank subscribers by their risk to leave next month.
owner: {name: Ada Example, contact: ada@example.org}
task: binary
interval: {every: month, start: 2024-01-01}
source: {path: "data/churn-{start:%Y-%m}.csv", time: signup, key: [id]}
target: {column: churned}
columns:
  id: {type: string}
  signup: {type: datetime}
  plan: {type: category}
  visits: {type: number, min: 0}
  churned: {type: boolean}
quality: {min_rows: 100}
training: {candidates: [{estimator: linear}]}
"""


def _duration(value: Any) -> Any:
    if isinstance(value, str) and (found := re.fullmatch(r"(\d+)\s*(m|h|d|w)", value)):
        unit = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}[found[2]]
        return timedelta(**{unit: int(found[1])})
    if isinstance(value, timedelta):
        return value
    raise ValueError(f"{value!r} is not a duration like 30m, 12h, 2d or 1w")


def _moment(value: Any) -> Any:
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime.combine(value, time())
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    raise ValueError(f"{value!r} is not a date")


def _mode(value: Any) -> Any:
    return {"mode": value} if isinstance(value, str) else value


Duration = Annotated[timedelta, BeforeValidator(_duration)]
Moment = Annotated[datetime, BeforeValidator(_moment)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,62}$")]
ColumnName = Annotated[str, Field(min_length=1, max_length=128)]
Share = Annotated[float, Field(ge=0, le=1)]
Severity = Literal["stop", "warn"]
DatePart = Literal["year", "month", "day", "weekday", "hour", "minute", "dayofyear", "minuteofday"]

METRICS: dict[str, dict[str, bool]] = {
    "binary": {"log_loss": False, "brier": False, "roc_auc": True, "average_precision": True},
    "multiclass": {"log_loss": False, "balanced_accuracy": True, "f1_macro": True},
    "regression": {"rmse": False, "mae": False, "r2": True},
}
"""Primary metrics per task, and whether greater is better. Accuracy is not one: it hides the rare class."""


CRON = {
    "hour": "0 * * * *",
    "day": "0 0 * * *",
    "week": "0 0 * * 1",
    "month": "0 0 1 * *",
    "quarter": "0 0 1 1,4,7,10 *",
    "year": "0 0 1 1 *",
}


FORMER = {"evaluation.sealed": "evaluation.holdout"}
"""What an earlier version of this project called a key → what it is called now."""

COMPUTED = ("digest", "text", "code", "cases")
"""Fields of a spec that nobody writes."""


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


class Owner(Part):
    """Who is told, and who answers."""

    name: str = Field(min_length=1, description="a person or a team")
    contact: str = Field(min_length=1, description="where to reach them: mail, channel, pager")
    notify: tuple[Name, ...] = Field(
        default=(), description="Airflow connections that notices go to: smtp mails `contact`, others get a JSON POST"
    )

    @field_validator("name", "contact")
    @classmethod
    def _somebody(cls, value: str) -> str:
        if not any(map(str.isalnum, value)):
            raise ValueError("names nobody: a model without an owner is not run")
        return value.strip()


class Every(Part):
    """The intervals of the model: half-open UTC spans."""

    every: Literal["hour", "day", "week", "month", "quarter", "year"] = Field(description="weeks begin on Monday")
    start: Moment = Field(description="start of the first interval")
    end: Moment | None = Field(default=None, description="no interval starts at or after this moment")


class Source(Part):
    """Where batches come from: files, or a SQL query."""

    path: str | None = Field(default=None, description="file, glob or template with {start} and {end}; any fsspec URL")
    format: Literal["csv", "jsonl", "parquet"] | None = Field(default=None, description="by default from the suffix")
    sql: str | None = Field(default=None, description="a query with the bound values :start and :end")
    url: str | None = Field(default=None, description="SQLAlchemy URL; ${NAME} is read from the environment")
    connection: str | None = Field(default=None, description="Airflow connection id, instead of url")
    time: ColumnName = Field(description="the column that places a row in its interval")
    key: tuple[ColumnName, ...] = Field(min_length=1, description="the columns that identify a row")
    wait: Duration = Field(default=timedelta(0), description="how long after the interval's end a batch may come")
    max_rows: int = Field(default=100_000_000, gt=0, description="more rows refuse the delivery")
    max_bytes: int = Field(default=50_000_000_000, gt=0, description="more bytes, unpacked too, refuse the delivery")

    @model_validator(mode="after")
    def _one(self) -> Source:
        if (self.path is None) == (self.sql is None):
            raise ValueError("give either path or sql")
        if self.sql is not None and (self.url is None) == (self.connection is None):
            raise ValueError("sql needs either url or connection")
        if self.sql is not None and not re.search(r":start\b", self.sql):
            raise ValueError("the query must use the bound values :start and :end")
        return self


class Column(Part):
    """A column's declared type and its contract."""

    type: Literal["integer", "number", "category", "string", "boolean", "datetime"] = Field(
        description="nothing is guessed: a value of another type refuses the batch; strings are never features"
    )
    feature: bool = Field(default=True, description="whether the model may read it")
    min: float | None = Field(default=None, description="smallest allowed number")
    max: float | None = Field(default=None, description="largest allowed number")
    values: tuple[str | int, ...] | None = Field(default=None, description="the only allowed values")
    pattern: str | None = Field(default=None, description="regular expression that texts must match")
    unique: bool = Field(default=False, description="no value twice within a batch")
    max_missing: Share = Field(default=0.0, description="share of rows that may be empty")
    severity: Severity = Field(default="stop", description="what a breach of this column's contract does")
    description: str = Field(default="", description="for people: meaning and unit")


class Target(Part):
    """What is predicted. A number becomes a yes/no question with `at_least`."""

    column: ColumnName = Field(description="the column that holds the outcome; empty is no label, and never a no")
    at_least: float | None = Field(default=None, description="from this value on the answer is yes")
    classes: tuple[str | int | bool, ...] | None = Field(default=None, description="in order; the last is the positive")


class LabelSource(Part):
    """Labels that are delivered apart from the rows, one delivery per interval of the rows."""

    path: str | None = Field(default=None, description="file, glob or template with {start} and {end} of the rows")
    format: Literal["csv", "jsonl", "parquet"] | None = Field(default=None, description="by default from the suffix")
    sql: str | None = Field(default=None, description="a query with the bound values :start and :end")
    url: str | None = Field(default=None, description="SQLAlchemy URL; ${NAME} is read from the environment")
    connection: str | None = Field(default=None, description="Airflow connection id, instead of url")
    contradictory: Share = Field(
        default=0.01, description="share of the keys that may come with different labels; they are left unlabelled"
    )

    @model_validator(mode="after")
    def _one(self) -> LabelSource:
        if (self.path is None) == (self.sql is None):
            raise ValueError("give either path or sql")
        if self.sql is not None and (self.url is None) == (self.connection is None):
            raise ValueError("sql needs either url or connection")
        return self


class Labels(Part):
    """Where labels come from and when they are there, on the data's clock."""

    source: Literal["same"] | LabelSource = Field(
        default="same", description="same: they come with the rows; or another file or table, joined by key"
    )
    mature_after: Duration = Field(default=timedelta(0), description="after the interval's end")
    min_coverage: Share = Field(
        default=0.0, description="labelled share of an interval's rows below which it waits, and then is not judged"
    )


class Expect(Part):
    """Any Great Expectations expectation by its own name."""

    expect: str = Field(description="its name, like expect_column_median_to_be_between")
    severity: Severity = Field(default="stop", description="stop quarantines the batch, warn is only reported")
    args: dict[str, Any] = Field(default={}, description="its own arguments, column among them")


class Quality(Part):
    """What a sound batch looks like; a breach with severity stop quarantines it."""

    min_rows: int = Field(gt=0, description="row floor: fewer rows stop the batch")
    max_rows: int | None = Field(default=None, description="row ceiling: more rows stop the batch")
    freshness: Duration | None = Field(
        default=None, description="the newest row may be at most this much older than the interval's end"
    )
    expectations: tuple[Expect, ...] = Field(default=(), description="besides those that columns imply")
    failing_rows: int = Field(default=200, ge=0, le=10_000, description="how many failing rows are kept as evidence")


class Drift(Part):
    """How a batch is compared with the rows that the champion was trained on."""

    min_rows: int = Field(default=200, ge=20, description="below: undetermined")
    sample: int = Field(default=5_000, ge=200, le=100_000, description="rows per side for the statistic")
    false_alarms: Annotated[float, Field(gt=0, le=0.2)] = Field(
        default=0.01, description="chance that a batch in which nothing changed is called drifted"
    )
    effect: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.1, description="smaller distances are no drift, however sure they are"
    )
    block: Literal["row", "hour", "day", "week", "interval"] | None = Field(
        default=None, description="rows of one block depend; by default the group, or evaluation.block"
    )
    share: Share = Field(default=0.1, description="importance of the drifted features that makes the batch drifted")
    missing: Share = Field(default=0.1, description="absolute change of the missing share that is drift")
    thresholds: dict[ColumnName, float] = Field(default={}, description="per column, instead of the default")
    ignore: tuple[ColumnName, ...] = Field(default=(), description="columns that are not compared")


class Budget(Part):
    """How many trainings a period may hold."""

    trainings: int = Field(ge=1, description="as many trainings at most")
    per: Duration = Field(description="in a span of this length, on the data's clock")


class Policy(Part):
    """When to retrain. What says no comes first: broken data, no new data, cooldown, budget."""

    combine: Literal["any", "all"] = Field(default="any", description="whether one rule is enough, or all must say yes")
    schedule: int = Field(default=1, ge=0, description="every so many intervals; 0 is never")
    drift: bool = Field(default=True, description="when the data drifted")
    performance: bool = Field(default=False, description="when matured labels show that the champion fell")
    estimated: bool = Field(default=False, description="when the performance estimated without labels fell")
    max_age: Duration | None = Field(default=None, description="of the champion's newest training row")
    new_rows: float | None = Field(
        default=None, gt=0, description="mature rows it has not seen, as a share of those it was trained on"
    )
    alarms: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1, le=100)]] = Field(
        default=(1, 1), description="hysteresis: [k, n], a signal counts when k of its last n are alarms"
    )
    cooldown: Duration = Field(default=timedelta(0), description="no training sooner after the last one")
    budget: Budget | None = Field(default=None, description="more trainings have to wait, or be forced")
    min_new_rows: int = Field(default=1, ge=1, description="mature rows that the champion has not seen")

    @model_validator(mode="after")
    def _counts(self) -> Policy:
        if self.alarms[0] > self.alarms[1]:
            raise ValueError(f"alarms: {self.alarms[0]} of the last {self.alarms[1]} can never be")
        return self


class Scoring(Part):
    """How each interval's rows are scored by the champion of their time."""

    rejected: Literal["stop", "quarantine", "abstain"] = Field(
        default="quarantine",
        description="a row that breaks its columns' contract: stop scores nothing, quarantine sets the row aside,"
        " abstain keeps it without a score; counted either way",
    )


class Monitor(Part):
    """How the champion is watched between trainings."""

    every: Literal["hour", "day", "week", "month", "quarter", "year"] | None = Field(
        default=None, description="schedule of the monitor; by default each interval"
    )
    margin: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.03, description="how much worse than expected counts, as a share of the expected score"
    )
    level: Annotated[float, Field(gt=0, lt=0.5)] = Field(
        default=0.01, description="chance that a look at matured labels calls a champion fallen that did not"
    )
    min_rows: int = Field(default=200, ge=20, description="labelled rows below which nothing is said")


class Candidate(Part):
    """An estimator and what the search may vary."""

    estimator: str = Field(description="linear, random_forest, xgboost, or a dotted path into scikit-learn or xgboost")
    parameters: dict[str, Any] = Field(default={}, description="the estimator's own, but for seed and threads")
    search: dict[str, list[Any]] = Field(default={}, description="parameter → values to try")
    encode: Literal["onehot", "ordinal", "target"] | None = Field(default=None, description="categories; by estimator")


class Search(Part):
    """How parameters are chosen, inside the training rows only."""

    method: Literal["halving", "random"] = Field(
        default="halving", description="halving tries all on few rows and the better half on twice as many"
    )
    trials: int = Field(default=8, ge=1, le=500, description="configurations per candidate")
    folds: int = Field(default=3, ge=2, le=10, description="inner folds")
    split: Literal["time", "group", "stratified"] = Field(
        default="time", description="later rows judge, groups stay whole, or classes keep their shares"
    )
    max_rows: int = Field(default=40_000, ge=100, description="rows that the search may read; the fit reads all")


class FeatureFunction(Part):
    """A function of the model's own: `def build(frame: pd.DataFrame) -> pd.DataFrame`, row by row."""

    file: str = Field(description="beside the spec")
    function: Name = Field(default="build", description="its name in that file")
    adds: dict[ColumnName, Literal["number", "category"]] = Field(min_length=1, description="what it makes → type")


class Training(Part):
    """Which models compete, and on which rows."""

    candidates: tuple[Candidate, ...] = Field(min_length=1, description="they compete, and two baselines")
    windows: tuple[Literal["all", "change"] | Annotated[int, Field(ge=1)], ...] = Field(
        default=("all",),
        min_length=1,
        description="training rows that compete: all intervals, the newest so many, or, once labels show that the"
        " champion fell, those since the change",
    )
    first_after: int = Field(default=2, ge=2, description="mature intervals that the first model needs")
    min_rows: int = Field(default=1000, ge=20, description="labelled training rows")
    search: Search = Search()
    early_stopping: int = Field(default=20, ge=0, description="rounds, for XGBoost; 0 is off")
    balance: bool = Field(default=False, description="weigh classes by their rarity")
    date_parts: dict[ColumnName, tuple[DatePart, ...]] = Field(default={}, description="datetime → parts, in UTC")
    features: FeatureFunction | None = Field(default=None, description="a feature function of the model's own")
    group: ColumnName | None = Field(default=None, description="rows of one group stay on one side of a split")
    refresh: bool = Field(default=True, description="also refit the champion's configuration on newer rows")
    seed: int = Field(default=42, ge=0, lt=2**31, description="the one seed of everything random")
    threads: int = Field(default=2, ge=1, le=64, description="of a fit")


class Evaluation(Part):
    """How the holdout rows judge."""

    block: Literal["hour", "day", "week", "row"] = Field(default="day", description="resampled as a whole")
    resamples: int = Field(default=1000, ge=200, le=100_000, description="bootstrap resamples of the blocks")
    slices: tuple[ColumnName, ...] = Field(default=(), description="columns whose values are also judged one by one")
    holdout: int = Field(default=1, ge=1, le=12, description="newest mature intervals that judge")
    golden_rows: int = Field(default=20, ge=1, le=1000, description="rows whose answers travel with the model")


class Fairness(Part):
    """What the groups of protected columns may be treated differently by; each asked only where columns are named."""

    columns: tuple[ColumnName, ...] = Field(default=(), description="protected; they need not be features")
    demographic_parity: Share | None = Field(
        default=None, description="largest difference of the share answered yes between groups"
    )
    equalized_odds: Share | None = Field(
        default=None, description="largest difference of true or false positive rate between groups"
    )
    margin: Share = Field(default=0.05, description="how much larger than the champion's a difference may be")
    min_rows: int = Field(default=100, ge=20, description="smaller groups are not judged")


class Gate(Part):
    """What a candidate must show on the holdout rows."""

    metric: str = Field(
        description="the primary metric; by default log_loss, for regression rmse. binary: log_loss, brier, roc_auc,"
        " average_precision; multiclass: log_loss, balanced_accuracy, f1_macro; regression: rmse, mae, r2"
    )
    margin: Annotated[float, Field(ge=0, lt=0.5)] = Field(
        default=0.01, description="how much worse a refresh may be, as a share of the champion's score"
    )
    level: Annotated[float, Field(gt=0, lt=0.5)] = Field(
        default=0.05, description="the chance of a wrong promotion that a holdout interval may cost, all looks together"
    )
    min_rows: int = Field(default=500, ge=20, description="labelled holdout rows; fewer are inconclusive")
    min_blocks: int = Field(default=10, ge=2, description="blocks of holdout rows; fewer are inconclusive")
    slice_margin: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.1, description="how much worse a slice may be, as a share of the champion's score there"
    )
    slice_min_rows: int = Field(default=200, ge=20, description="smaller slices are not judged")
    refit_bound: Annotated[float, Field(gt=0)] = Field(
        default=0.1, description="how far the refit's mean prediction may lie from the gated candidate's"
    )
    calibration: Share | None = Field(
        default=0.1,
        description="expected calibration error, of numbers the mean error in standard deviations, above which a"
        " candidate must not be shown to be; null asks nothing",
    )
    overfit: Share | None = Field(
        default=None,
        description="how much better it may score on its training rows than on holdout rows, as a share of the latter",
    )
    leak: bool = Field(default=True, description="stop what is too good to be true, or one feature alone nearly is")
    cases: str | None = Field(
        default=None, description="`NAME.cases.yaml` beside the spec: rows, and what a candidate must answer to them"
    )
    fairness: Fairness = Fairness()


class Serving(Part):
    """What a version must show in a fresh process before it may serve."""

    row_ms: Annotated[float, Field(gt=0)] = Field(default=1_000, description="milliseconds for one row, the median")
    memory_mb: Annotated[float, Field(gt=0)] = Field(default=4_096, description="peak memory of the process")
    size_mb: Annotated[float, Field(gt=0)] = Field(default=1_024, description="the model's files")
    tolerance: Annotated[float, Field(ge=0)] = Field(
        default=1e-9, description="how far its answers to the golden rows may lie from those of training"
    )
    timeout: Duration = Field(default=timedelta(minutes=5), description="for the whole of it")


class Approval(Part):
    """A person's word, where `mode` is approve."""

    expires: Duration = Field(default=timedelta(days=7), description="after that `otherwise` is the answer")
    otherwise: Literal["reject", "approve"] = Field(default="reject", description="the answer where nobody answers")
    two_people: bool = Field(default=False, description="who triggered the run may not approve it")


class Watch(Part):
    """The predecessor goes on scoring beside a new champion, and is put back where the new one is shown worse."""

    intervals: int = Field(default=3, ge=0, le=100, description="scored intervals with mature labels; 0 is no watch")
    level: Annotated[float, Field(gt=0, lt=0.5)] = Field(
        default=0.01, description="chance that one that is no worse is ever put back"
    )
    margin: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="loss against the predecessor that is tolerated, as a share of the predecessor's"
    )


class Promotion(Part):
    """How a version that passed the gate comes to serve. `promotion: approve` is short for `{mode: approve}`."""

    mode: Literal["auto", "approve", "shadow", "canary"] = Field(
        default="auto",
        description="at once, after a person's word, after scoring beside the champion, or by growing shares of rows",
    )
    approval: Approval = Approval()
    intervals: int = Field(default=2, ge=1, le=100, description="scored intervals of a shadow, or of a canary's step")
    steps: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        default=(0.05, 0.25, 0.5), min_length=1, description="shares of the rows that a canary answers, growing"
    )
    watch: Watch = Watch()

    @model_validator(mode="after")
    def _grows(self) -> Promotion:
        if list(self.steps) != sorted(set(self.steps)):
            raise ValueError("steps must grow")
        return self


class Spec(Part):
    """One model. See `docs/spec.md` for every key."""

    model: Name = Field(description="the file's name without .yaml")
    objective: str = Field(min_length=10, description="one sentence")
    owner: Owner
    task: Literal["binary", "multiclass", "regression"] = Field(description="what kind of answer")
    interval: Every
    source: Source
    target: Target
    labels: Labels = Labels()
    columns: dict[ColumnName, Column] = Field(min_length=2, description="every column of a batch, by name")
    quality: Quality
    drift: Drift = Drift()
    policy: Policy = Policy()
    scoring: Scoring = Scoring()
    monitor: Monitor = Monitor()
    training: Training
    evaluation: Evaluation = Evaluation()
    gate: Gate = Field(default=None)  # type: ignore[assignment]
    serving: Serving = Serving()
    promotion: Annotated[Promotion, BeforeValidator(_mode)] = Promotion()
    digest: str = Field(default="", description="of the spec and the files beside it; computed")
    text: str = Field(default="", repr=False, description="the file; computed")
    code: str = Field(default="", repr=False, description="the feature function's file; computed")
    cases: str = Field(default="", repr=False, description="the file of gate.cases; computed")

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("task") in METRICS:
            gate = data.get("gate") or {}
            if isinstance(gate, dict):
                data = {**data, "gate": {"metric": next(iter(METRICS[data["task"]])), **gate}}
        return data

    @model_validator(mode="after")
    def _sense(self) -> Spec:
        named = {
            "source.time": [self.source.time],
            "source.key": list(self.source.key),
            "target.column": [self.target.column],
            "evaluation.slices": list(self.evaluation.slices),
            "gate.fairness.columns": list(self.gate.fairness.columns),
            "training.date_parts": list(self.training.date_parts),
            "training.group": [self.training.group] if self.training.group else [],
            "drift.ignore": list(self.drift.ignore),
            "drift.thresholds": list(self.drift.thresholds),
        }
        added = set(self.training.features.adds) if self.training.features else set()
        for where, columns in named.items():
            for column in columns:
                if column not in self.columns and not (where.startswith("drift") and column in added):
                    hint = near(column, self.columns)
                    raise ValueError(f"{where} names {column!r}, which columns does not declare{hint}")
        if self.gate.metric not in METRICS[self.task]:
            raise ValueError(
                f"gate.metric {self.gate.metric!r} cannot judge a {self.task} model"
                f" (one of {', '.join(METRICS[self.task])})"
            )
        if self.columns[self.source.time].type != "datetime":
            raise ValueError(f"source.time {self.source.time!r} must be a datetime column")
        for column in self.training.date_parts:
            if self.columns[column].type != "datetime":
                raise ValueError(f"training.date_parts names {column!r}, which is not a datetime column")
        if self.training.search.split == "group" and not self.training.group:
            raise ValueError("training.search.split: group needs training.group")
        self._sense_target()
        self._sense_windows()
        if added & set(self.columns):
            twice = sorted(added & set(self.columns))
            raise ValueError(f"training.features adds {twice}, which columns already declares")
        if not self.features and not self.training.date_parts and not added:
            raise ValueError("no column is left as a feature")
        if self._floor(self.interval.start) != self.interval.start:
            start = f"{self.interval.start:%Y-%m-%d %H:%M}"
            raise ValueError(f"interval.start {start} is not the start of a {self.interval.every}")
        return self

    def _sense_windows(self) -> None:
        if set(self.training.windows) == {"change"}:
            raise ValueError("training.windows needs another one beside change, for when nothing has changed")

    def _sense_target(self) -> None:
        kind, target = self.columns[self.target.column].type, self.target
        if self.task == "regression":
            if kind not in ("integer", "number") or target.at_least is not None or target.classes:
                raise ValueError("target of a regression is a number, without at_least and classes")
        elif target.at_least is not None:
            if kind not in ("integer", "number") or self.task != "binary" or target.classes:
                raise ValueError("target.at_least makes a binary target of a number")
        elif kind == "boolean" and self.task == "binary":
            pass
        elif not target.classes:
            raise ValueError("target.classes must name the classes, in order")
        elif (self.task == "binary") != (len(target.classes) == 2):
            raise ValueError(f"target.classes has {len(target.classes)} classes, which is not {self.task}")

    # --- what follows from it

    @property
    def delivered(self) -> dict[str, Column]:
        """The columns of a batch as it arrives: without the target where labels come apart."""
        apart = self.target.column if self.labels.source != "same" else ""
        return {name: column for name, column in self.columns.items() if name != apart}

    @property
    def features(self) -> tuple[str, ...]:
        """The declared columns that the model reads as they are."""
        apart = {self.source.time, self.target.column, *self.source.key}
        return tuple(
            name
            for name, column in self.columns.items()
            if column.feature and name not in apart and column.type not in ("string", "datetime")
        )

    @property
    def inputs(self) -> tuple[str, ...]:
        """The columns that the fitted pipeline needs: features and what date parts and feature code read."""
        extra = {*self.training.date_parts}
        if self.training.features:
            extra |= {name for name, column in self.columns.items() if column.feature} - {self.target.column}
        return tuple(name for name in self.columns if name in extra or name in self.features)

    @property
    def classes(self) -> tuple[str | int | bool, ...]:
        """The classes in code order; empty for regression."""
        if self.task == "regression":
            return ()
        return self.target.classes or (False, True)

    @property
    def edge_cases(self) -> tuple[edge.Case, ...]:
        """What `gate.cases` holds."""
        return edge.read(yaml.load(self.cases, Loader=_Loader)) if self.cases else ()

    @property
    def greater_is_better(self) -> bool:
        return METRICS[self.task][self.gate.metric]

    # --- intervals

    def _floor(self, moment: datetime) -> datetime:
        day = moment.replace(hour=0, minute=0, second=0, microsecond=0)
        every = self.interval.every
        if every == "hour":
            return moment.replace(minute=0, second=0, microsecond=0)
        if every == "day":
            return day
        if every == "week":
            return day - timedelta(days=day.weekday())
        month = {"month": day.month, "quarter": (day.month - 1) // 3 * 3 + 1, "year": 1}[every]
        return day.replace(month=month, day=1)

    def _next(self, start: datetime) -> datetime:
        every = self.interval.every
        if every in ("hour", "day", "week"):
            return start + timedelta(**{f"{every}s": 1})
        months = start.year * 12 + start.month - 1 + {"month": 1, "quarter": 3, "year": 12}[every]
        return start.replace(year=months // 12, month=months % 12 + 1)

    def at(self, moment: str | datetime) -> Interval:
        """The interval that begins at `moment` (a date, or a time in UTC).

        Raises:
            InvalidInterval: not the start of an interval of this model.
        """
        try:
            start = _moment(moment)
        except ValueError:
            start = None
        if start is None or self._floor(start) != start:
            raise InvalidInterval(
                f"{moment} is not the start of a {self.interval.every}",
                do=f"give --interval as the start of a {self.interval.every} in UTC,"
                f" like {self.interval.start:%Y-%m-%d}",
            ).at(self.model, "interval")
        if start < self.interval.start or (self.interval.end and start >= self.interval.end):
            raise InvalidInterval(
                f"{moment} lies outside this model's intervals",
                do=f"first interval: {self.interval.start:%Y-%m-%d}, last before: {self.interval.end or 'none'}",
            ).at(self.model, "interval")
        return Interval(start=start, end=self._next(start))

    def intervals_until(self, end: datetime) -> Iterator[Interval]:
        """Every interval that has ended by `end`, oldest first."""
        start = self.interval.start
        while (stop := self._next(start)) <= end and not (self.interval.end and start >= self.interval.end):
            yield Interval(start=start, end=stop)
            start = stop

    @property
    def cron(self) -> str:
        """When an interval ends."""
        return CRON[self.interval.every]

    @property
    def monitor_cron(self) -> str:
        """When the monitor looks."""
        return CRON[self.monitor.every or self.interval.every]


# --- reading ---------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """YAML without aliases, tags and duplicate keys."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="aliases are not read", problem_mark=self.peek_event().start_mark)  # type: ignore[no-untyped-call]
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} stands twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def line_of(text: str, path: tuple[Any, ...]) -> int:
    """The line, from 1, of the deepest node of `path` that the file has."""
    node = yaml.compose(text, Loader=_Loader)
    line = 1
    for step in path:
        if isinstance(node, yaml.MappingNode):
            found = [(key, value) for key, value in node.value if key.value == str(step)]
            if not found:
                continue
            line, node = found[0][0].start_mark.line + 1, found[0][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
            line = node.start_mark.line + 1
    return line


def _known(path: tuple[Any, ...]) -> list[str]:
    """The keys that the model at `path` takes."""
    kind: Any = Spec
    for step in path:
        if isinstance(kind, type) and issubclass(kind, BaseModel) and step in kind.model_fields:
            kind = kind.model_fields[step].annotation
        parts = [part for part in get_args(kind) if isinstance(part, type) and issubclass(part, BaseModel)]
        if not isinstance(kind, type) and parts:
            kind = parts[0]
    return [name for name in getattr(kind, "model_fields", {}) if kind is not Spec or name not in COMPUTED]


def parse(text: str, name: str, *, code: str = "", cases: str = "", where: str = "", former: bool = False) -> Spec:
    """The spec in `text`; `name` is the file's name without its suffix.

    Args:
        code, cases: the files beside it that it names.
        former: read former keys as today's, in a spec that a run has kept; elsewhere they are refused.

    Raises:
        InvalidSpec: with the file, the line and every problem found, bounded.
    """
    where = where or f"{name}.yaml"

    def refuse(problems: list[str]) -> InvalidSpec:
        more = f"\n  … and {len(problems) - 12} more" if len(problems) > 12 else ""
        return InvalidSpec(
            "\n  ".join([f"{len(problems)} problem(s)", *problems[:12]]) + more,
            do=f"correct {where}; every key: docs/spec.md",
        ).at(name, "spec")

    if len(text.encode()) > MAX_BYTES:
        raise refuse([f"{where}: larger than {MAX_BYTES // 1024} KiB"])
    try:
        data = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise refuse([f"{where}{line}: {getattr(error, 'problem', None) or error}"]) from None
    if not isinstance(data, dict):
        raise refuse([f"{where}: not a mapping of keys"])
    computed = set(COMPUTED) & set(data)
    if computed:
        raise refuse([f"{where}: {', '.join(sorted(computed))} is computed, not written"])
    canonical = "\0".join([yaml.safe_dump(data, sort_keys=True), code, *filter(None, [cases])])
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    if former:
        data = _renamed(data)
    try:
        spec = Spec.model_validate({**data, "digest": digest, "text": text, "code": code, "cases": cases})
    except ValidationError as error:
        problems = []
        for found in error.errors():
            path = tuple(found["loc"])
            key = ".".join(str(step) for step in path)
            text_of = found["msg"].removeprefix("Value error, ")
            # What is said of the whole begins with the key that it is about.
            at = path or tuple(text_of.split()[0].split("."))
            if found["type"] == "extra_forbidden":
                now = FORMER.get(key)
                text_of = f"is now called {now}" if now else f"unknown key{near(str(path[-1]), _known(path[:-1]))}"
            problems.append(f"{where}:{line_of(text, at)}: {key + ': ' if key else ''}{text_of}")
        raise refuse(problems) from None
    if spec.model != name:
        raise refuse([f"{where}:{line_of(text, ('model',))}: model is {spec.model!r}, the file is called {name!r}"])
    if cases and (wrong := _wrong_cases(spec)):
        raise refuse(wrong)
    return spec


def _renamed(data: dict[Any, Any]) -> dict[Any, Any]:
    """The keys of a spec in today's words."""
    for before, now in FORMER.items():
        (section, old), new = before.split("."), now.rpartition(".")[2]
        if isinstance(part := data.get(section), dict) and old in part:
            data = {**data, section: {new if key == old else key: value for key, value in part.items()}}
    return data


def _wrong_cases(spec: Spec) -> list[str]:
    """What is wrong with the file of `gate.cases`, each with its line."""
    file = spec.gate.cases
    try:
        found = [*edge.problems(spec.edge_cases, spec.columns, spec.inputs, spec.classes)]
    except ValidationError as error:
        found = [(tuple(one["loc"]), one["msg"].removeprefix("Value error, ")) for one in error.errors()]
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        return [f"{file}{f':{mark.line + 1}' if mark else ''}: {getattr(error, 'problem', None) or error}"]
    said = [(path, text if len(path) < 2 else f"{'.'.join(map(str, path[1:]))}: {text}") for path, text in found]
    return [f"{file}:{line_of(spec.cases, path)}: {text}" for path, text in said]


def load(file: Path) -> Spec:
    """The spec in `file`, with the files beside it that it names.

    Raises:
        InvalidSpec: unreadable, not valid, or a file that it names is missing or lies elsewhere.
    """
    try:
        text = file.read_text(encoding="utf-8")
        spec = parse(text, file.stem, where=file.name)
        code = _companion(file, spec.training.features.file, ".py") if spec.training.features else ""
        cases = _companion(file, spec.gate.cases, CASES) if spec.gate.cases else ""
        return parse(text, file.stem, where=file.name, code=code, cases=cases) if code or cases else spec
    except (OSError, UnicodeDecodeError) as error:
        refused = InvalidSpec(f"{file.name}: {error}", do=f"make {file.name} readable, UTF-8 text")
        raise refused.at(file.stem, "spec") from None


def _companion(file: Path, name: str, suffix: str) -> str:
    """The text of a file that the spec names and that lies beside it."""
    path = (file.parent / name).resolve()
    if path.parent != file.parent.resolve() or not path.name.endswith(suffix):
        raise OSError(f"{name} must be a {suffix} file beside the spec")
    if not (text := path.read_text(encoding="utf-8")):
        raise OSError(f"{name} is empty")
    return text
