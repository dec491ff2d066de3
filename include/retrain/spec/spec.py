"""The whole spec: its sections, whether they fit together, and what follows from them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from retrain.errors import InvalidInterval, near
from retrain.results import Interval
from retrain.spec import strict_yaml
from retrain.spec.access import Access
from retrain.spec.base import CRON, ColumnName, Name, Part
from retrain.spec.columns import Column, Target
from retrain.spec.drift import Drift
from retrain.spec.edge_cases import Case, parse_cases
from retrain.spec.evaluation import BY_INTERVAL, COMPANIONS, LIMITED, METRICS, OF_A_CLASS, Evaluation
from retrain.spec.gate import Gate, Limit, LimitedMetric
from retrain.spec.intervals import Intervals
from retrain.spec.labels import Labels
from retrain.spec.monitor import Monitor, Scoring
from retrain.spec.policy import Policy
from retrain.spec.promotion import Promotion, Serving
from retrain.spec.quality import Quality
from retrain.spec.source import Source
from retrain.spec.training import Training

COMPUTED = ("digest", "text", "code", "cases")
"""Fields of a spec that nobody writes."""


class Owner(Part):
    """Who is told, and who answers."""

    name: str = Field(min_length=1, description="a person or a team")
    contact: str = Field(min_length=1, description="where to reach them: mail, channel, pager")
    notify: tuple[Name, ...] = Field(
        default=(), description="Airflow connections that notices go to: smtp mails `contact`, others get a JSON POST"
    )

    @field_validator("name", "contact")
    @classmethod
    def _check_it_names_somebody(cls, value: str) -> str:
        if not any(map(str.isalnum, value)):
            raise ValueError("names nobody: a model without an owner is not run")
        return value.strip()


class Spec(Part):
    """One model: every key of its YAML file, checked against each other. See `docs/spec.md`."""

    model: Name = Field(description="the file's name without .yaml")
    objective: str = Field(min_length=10, description="one sentence")
    owner: Owner
    task: Literal["binary", "multiclass", "regression"] = Field(description="what kind of answer")
    interval: Intervals
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
    promotion: Promotion = Promotion()
    access: Access = Access()
    digest: str = Field(default="", description="of the spec and the files beside it; computed")
    text: str = Field(default="", repr=False, description="the file; computed")
    code: str = Field(default="", repr=False, description="the feature function's file; computed")
    cases: str = Field(default="", repr=False, description="the file of gate.cases; computed")

    @model_validator(mode="before")
    @classmethod
    def _default_metric(cls, data: Any) -> Any:
        """The gate's metric depends on the task."""
        if isinstance(data, dict) and isinstance(data.get("task"), str) and data["task"] in METRICS:
            gate = data.get("gate") or {}
            if isinstance(gate, dict):
                data = {**data, "gate": {"metric": next(iter(METRICS[data["task"]])), **gate}}
        return data

    # --- whether the sections fit together; a message begins with the key that it is about

    @model_validator(mode="before")
    @classmethod
    def _default_evaluation(cls, data: Any) -> Any:
        """What judges depends on how long an interval is."""
        interval = data.get("interval") if isinstance(data, dict) else None
        defaults = BY_INTERVAL.get(str(interval.get("every"))) if isinstance(interval, dict) else None
        if defaults and isinstance(evaluation := data.get("evaluation") or {}, dict):
            return {**data, "evaluation": {**defaults, **evaluation}}
        return data

    @model_validator(mode="after")
    def _check_sections_together(self) -> Spec:
        self._check_named_columns()
        self._check_metric()
        self._check_times()
        self._check_target()
        self._check_limits()
        self._check_training()
        self._check_first_interval()
        return self

    def _check_named_columns(self) -> None:
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
        for where, columns in named.items():
            for column in columns:
                if column not in self.columns and not (where.startswith("drift") and column in self._added):
                    hint = near(column, self.columns)
                    raise ValueError(f"{where} names {column!r}, which columns does not declare{hint}")

    def _check_metric(self) -> None:
        if self.gate.metric not in METRICS[self.task]:
            raise ValueError(
                f"gate.metric {self.gate.metric!r} cannot judge a {self.task} model"
                f" (one of {', '.join(METRICS[self.task])})"
            )

    def _check_times(self) -> None:
        if self.columns[self.source.time].type != "datetime":
            raise ValueError(f"source.time {self.source.time!r} must be a datetime column")
        for column in self.training.date_parts:
            if self.columns[column].type != "datetime":
                raise ValueError(f"training.date_parts names {column!r}, which is not a datetime column")

    def _check_target(self) -> None:
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
        if target.classes:
            _check_classes(target.classes, kind)

    def _check_limits(self) -> None:
        for metric, limit in self.gate.limits.items():
            where = f"gate.limits.{metric}"
            if metric not in LIMITED[self.task]:
                known = LIMITED[self.task]
                raise ValueError(
                    f"{where} is no metric of a {self.task} model{near(metric, known)} (one of {', '.join(known)})"
                )
            self._check_limited_parts(where, metric, limit)
            if not (str(limit) or limit.classes or limit.slices):
                raise ValueError(f"{where} says no min and no max")
        for limited in self.gate.limited:
            _check_bound(limited, LIMITED[self.task][limited.metric])

    def _check_limited_parts(self, where: str, metric: str, limit: Limit) -> None:
        """Whether classes and columns of a limit are there to be asked about."""
        if limit.classes and (metric not in OF_A_CLASS or self.task == "regression"):
            raise ValueError(f"{where}.classes: only {', '.join(OF_A_CLASS)} can be asked of one class")
        names = [str(name) for name in self.classes]
        for name in limit.classes:
            if str(name) not in names:
                raise ValueError(f"{where}.classes names {name!r}, which is no class (one of {', '.join(names)})")
        several = self.task == "multiclass" and metric in OF_A_CLASS
        if several and (str(limit) or limit.slices):
            raise ValueError(
                f"{where} of several classes is asked of one: write {where}.classes: {{{names[-1]}: {{min: …}}}};"
                " balanced_accuracy is the mean recall, f1_macro the mean f1"
            )
        for column in limit.slices:
            if column not in self.evaluation.slices:
                raise ValueError(f"{where}.slices names {column!r}: add it to evaluation.slices")

    def _check_training(self) -> None:
        training = self.training
        if training.search.split == "group" and not training.group:
            raise ValueError("training.search.split: group needs training.group")
        if set(training.windows) == {"change"}:
            raise ValueError("training.windows needs another one beside change, for when nothing has changed")
        if twice := sorted(self._added & set(self.columns)):
            raise ValueError(f"training.features adds {twice}, which columns already declares")
        if not self.features and not training.date_parts and not self._added:
            raise ValueError("no column is left as a feature")

    def _check_first_interval(self) -> None:
        if self.interval.floor(self.interval.start) != self.interval.start:
            start = f"{self.interval.start:%Y-%m-%d %H:%M}"
            raise ValueError(f"interval.start {start} is not the start of a {self.interval.every}")

    # --- what follows from it

    @property
    def delivered(self) -> dict[str, Column]:
        """The columns of a batch as it arrives: without the target where labels come apart."""
        missing = self.target.column if self.labels.source != "same" else ""
        return {name: column for name, column in self.columns.items() if name != missing}

    @property
    def features(self) -> tuple[str, ...]:
        """The declared columns that the model reads as they are."""
        reserved = {self.source.time, self.target.column, *self.source.key}
        return tuple(
            name
            for name, column in self.columns.items()
            if column.feature and name not in reserved and column.type not in ("string", "datetime")
        )

    @property
    def inputs(self) -> tuple[str, ...]:
        """The columns that the fitted pipeline needs: features and what date parts and feature code read."""
        needed = {*self.features, *self.training.date_parts}
        if self.training.features:
            needed |= {name for name, column in self.columns.items() if column.feature} - {self.target.column}
        return tuple(name for name in self.columns if name in needed)

    @property
    def classes(self) -> tuple[str | int | bool, ...]:
        """The classes in code order; empty for regression."""
        if self.task == "regression":
            return ()
        return self.target.classes or (False, True)

    @property
    def _added(self) -> set[str]:
        """The columns that the feature function makes."""
        return set(self.training.features.adds) if self.training.features else set()

    @property
    def edge_cases(self) -> tuple[Case, ...]:
        """What `gate.cases` holds."""
        return parse_cases(strict_yaml.read_yaml(self.cases, former=True)) if self.cases else ()

    @property
    def greater_is_better(self) -> bool:
        """Whether a greater value of the gate's metric is a better one."""
        return METRICS[self.task][self.gate.metric]

    @property
    def companion(self) -> str | None:
        """The metric that the comparison is also made by, where the gate's is a loss without a bound."""
        companion = COMPANIONS.get(self.gate.metric)
        return companion if companion in METRICS[self.task] else None

    # --- intervals

    def at(self, moment: str | datetime) -> Interval:
        """The interval that begins at `moment`, a date or a time in UTC.

        Raises:
            InvalidInterval: not the start of an interval of this model.
        """
        try:
            return self.interval.at(moment)
        except InvalidInterval as error:
            raise error.at(self.model, "interval") from None

    def intervals_until(self, end: datetime) -> Iterator[Interval]:
        """Every interval that has ended by `end`, oldest first."""
        return self.interval.until(end)

    @property
    def cron(self) -> str:
        """When an interval ends, as a cron expression."""
        return CRON[self.interval.every]

    @property
    def monitor_cron(self) -> str:
        """When the monitor runs, as a cron expression."""
        return CRON[self.monitor.every or self.interval.every]


def _check_classes(classes: tuple[str | int | bool, ...], kind: str) -> None:
    """Whether values of a column's type can be one of the classes, each of them once."""
    names = [str(name) for name in classes]
    if len(set(names)) < len(names):
        raise ValueError(f"target.classes names a class twice: {', '.join(names)}")
    kinds: dict[str, tuple[tuple[type, ...], str]] = {
        "boolean": ((bool,), "true and false"),
        "integer": ((int,), "whole numbers"),
        "category": ((str, int), "texts"),
        "string": ((str, int), "texts"),
    }
    if kind not in kinds:
        raise ValueError(f"target.classes needs a column of whole numbers or words, not of type {kind}")
    types, words = kinds[kind]
    for name in classes:
        if not isinstance(name, types) or (isinstance(name, bool) and bool not in types):
            written = str(name).lower() if isinstance(name, bool) else repr(name)
            raise ValueError(f"target.classes holds {written}, and classes in a column of type {kind} are {words}")


def _check_bound(limited: LimitedMetric, greater_is_better: bool | None) -> None:
    """Refuse a bound on the wrong side, and one that every model or none can keep."""
    metric, least, most = limited.metric, limited.bound.min, limited.bound.max
    where = f"gate.limits.{metric}"
    where += "" if limited.label is None else f".classes.{limited.label}"
    where += "" if limited.column is None else f".slices.{limited.column}"
    if least is None and most is None:
        raise ValueError(f"{where} says no min and no max")
    if greater_is_better is True:
        if most is not None or least is None:
            raise ValueError(f"{where}.max means nothing: a greater {metric} is better, give min")
        # R² has no lowest value; every other score lies between 0 and 1.
        if least > 1 or (least <= 0 and metric != "r2"):
            raise ValueError(f"{where}.min {least:g} is kept by every model or by none: {metric} goes from 0 to 1")
    elif greater_is_better is False:
        if least is not None or most is None:
            raise ValueError(f"{where}.min means nothing: a smaller {metric} is better, give max")
        if most <= 0:
            raise ValueError(f"{where}.max {most:g} can be kept by no model: {metric} is above 0")
    elif least is not None and most is not None and least > most:
        raise ValueError(f"{where}.min {least:g} is above its max {most:g}")
