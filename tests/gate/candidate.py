"""Holdout rows, findings and candidates for the tests of the gate's checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from sklearn.pipeline import Pipeline

from retrain.data import dataset
from retrain.gate import checks
from retrain.gate.checks.holdout import Holdout
from retrain.modeling import estimators, pipelines, resampling, trainer
from retrain.registry.candidates import fit_candidate
from retrain.results import (
    Configuration,
    Context,
    Decision,
    EvaluateReport,
    FittedModel,
    GateCheck,
    Interval,
    MetricEstimate,
    TrainReport,
)
from retrain.spec import Spec, parse
from retrain.state.run import Run
from retrain.state.settings import Home
from tests.conftest import churn_rows, churn_spec
from tests.trained import begun, publish

CASES = """
- name: never came
  row: {plan: basic, visits: 0, spend: 10.0, member: false}
  expect: {min: 0.5}
- name: comes daily
  row: {visits: 59}
  expect: {is: lower, than: never came, max: 0.4}
- name: nobody wrote down the visits
  row: {plan: basic, member: false, visits: null}
  expect: {class: false}
- name: money is no matter
  row: {spend: 11.0}
  expect: {is: same, than: never came, within: 0.05}
"""


LINEAR = Configuration(estimator="linear", parameters={}, pipeline="p")
MONTHS = ("2024-01-01", "2024-02-01", "2024-03-01", "2024-04-01")


def spec_of(cases: str = "", **gate: Any) -> Spec:
    """The churn model with these keys of its gate."""
    with_cases = {"cases": "churn.cases.yaml"} if cases else {}
    data = {**churn_spec(), "gate": {"min_rows": 100, **with_cases, **gate}}
    return parse(yaml.safe_dump(data, sort_keys=False), "churn", cases=cases)


def other(task: str, **gate: Any) -> Spec:
    """The churn model asked for another kind of answer."""
    target = {"column": "spend"} if task == "regression" else {"column": "plan", "classes": ["basic", "plus", "pro"]}
    data = {**churn_spec(), "task": task, "target": target, "gate": gate}
    data["columns"]["churned"] = {"type": "boolean", "max_missing": 0.5, "feature": False}
    return parse(yaml.safe_dump(data, sort_keys=False), "churn")


def about(spec: Spec) -> dict[str, Any]:
    interval = spec.at("2024-04-01")
    return {"model": spec.model, "interval": interval, "effective_at": interval.end}


def fitted(name: str, kind: Any = "new") -> FittedModel:
    interval = Interval.model_validate({"start": "2024-01-01T00:00Z", "end": "2024-02-01T00:00Z"})
    return FittedModel(
        name=name, kind=kind, configuration=LINEAR, training="t", intervals=(interval,), rows=9, key="k", digest="d"
    )


def holdout(
    home: Home,
    spec: Spec,
    y: Any,
    predictions: Mapping[str, Any],
    *,
    frame: pd.DataFrame | None = None,
    block: Any = None,
) -> Holdout:
    """Holdout rows on which these answers were given; no model is needed."""
    names = [name for name in predictions if name != "champion"]
    train = TrainReport(**about(spec), fitted=tuple(fitted(name) for name in names), holdout=(), seed=1)
    y = np.asarray(y, dtype=float)
    return Holdout(
        run=Run(home, spec, spec.at("2024-04-01"), "run"),
        train=train,
        models=dict.fromkeys(predictions),  # type: ignore[arg-type]
        frame=pd.DataFrame(index=range(len(y))) if frame is None else frame,
        y=y,
        predictions={name: np.asarray(prediction, dtype=float) for name, prediction in predictions.items()},
        block=np.arange(len(y)) % 20 if block is None else block,
    )


def judged(
    spec: Spec,
    findings: Any,
    name: str = "new",
    *,
    kind: Any = "new",
    scores: Mapping[str, float | None] | None = None,
) -> dict[str, GateCheck]:
    """The checks of one candidate by name, from these findings and scores."""
    report = EvaluateReport(
        **about(spec),
        decision=Decision(verdict="measured", reasons=("measured",)),
        metrics={model: {spec.gate.metric: MetricEstimate(value=value)} for model, value in (scores or {}).items()},
    ).model_copy(update={"findings": tuple(findings)})
    return {check.name: check for check in checks.checks(spec, report, fitted(name, kind))}


@dataclass
class Laid:
    """Three published months with models fitted on them, and April as the holdout."""

    run: Run
    train: TrainReport
    context: Context

    def holdout(self) -> Holdout:
        spec = self.run.spec
        models = {}
        for candidate in self.train.fitted:
            with self.run.store.local(candidate.key) as folder:
                models[candidate.name] = load_files(folder, candidate.digest)
        frame = dataset.read(self.run, self.context.accepted[3:])
        y = dataset.outcome(spec, frame).to_numpy()
        predictions = {name: pipelines.predict(model, spec.task, frame) for name, model in models.items()}
        return Holdout(self.run, self.train, models, frame, y, predictions, resampling.blocks(spec, frame))


def load_files(folder: Path, digest: str) -> Pipeline:
    from retrain.registry.mlflow import load_model

    return load_model(folder, digest)


def lay(home: Home, tmp_path: Path, spec: Spec, estimator: str = "linear", plant: Any = None, count: int = 300) -> Laid:
    """Publish four months, fit a candidate and the baselines on three, and hold the last out.

    Args:
        plant: what is done to a month's rows before they are published.
    """
    months = {start: churn_rows(start, count) for start in MONTHS}
    folder = tmp_path / "months"
    folder.mkdir()
    accepted = publish(home, spec, {start: plant(frame) if plant else frame for start, frame in months.items()}, folder)
    run = begun(home, spec, accepted)
    known, _ = trainer.labelled_rows(run, accepted[:3])
    named = {
        "new": of_estimator(estimator),
        **{baseline: pipelines.baseline(spec, baseline) for baseline in estimators.BASELINES},
    }
    fits = [
        fit_candidate(
            run,
            run.path("train", name),
            name,
            "new" if name == "new" else "baseline",
            configuration,
            accepted[:3],
            known,
        )[1]
        for name, configuration in named.items()
    ]
    train = TrainReport(**about(spec), fitted=tuple(fits), holdout=dataset.intervals(accepted[3:]), seed=1)
    run.write(train, "train")
    return Laid(run, train, run.read(Context, "context"))


def of_estimator(name: str) -> Configuration:
    return LINEAR.model_copy(update={"estimator": name})
