"""One monthly cycle as a plain script: what `benchmarks/cycle.py` holds the loop against.

    python benchmarks/bare.py --spec include/models/flights.yaml --interval 2013-04-01 --work DIR --champion c.json

The same libraries, versions, parameters and threads as the loop, in one process from top to bottom, and nothing of
`retrain`: the spec's values are read as constants from its YAML. It keeps typed Parquet of earlier months in `--work`,
versions the new month in a DVC repository there, and talks to the MLflow of `MLFLOW_TRACKING_URI`. The champion is a
registered version, its configuration and its reference rows, as the cycle before left them.

What it does without: retries, resuming, quarantine, a ledger, digests of what it reads, lineage, a refusal to run
twice, models that are stored between steps. Nor does it ask what a champion is worth since it serves (the loop's
measure, diagnose and regret): it tries no `recalibrated` champion and no rows since a change, is given the window of
the refresh, has no reference champion, and passes over no model for what it answers outside the training range. Binary
tasks with a numeric target, days as blocks, holdouts of one month, XGBoost and linear candidates only.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import great_expectations as gx
import great_expectations.expectations as gxe
import matplotlib as mpl
import mlflow
import mlflow.sklearn
import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import skops.io
import xgboost
import yaml
from dvc.repo import Repo
from evidently import DataDefinition, Dataset, Report
from evidently.metrics import ValueDrift
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from mlflow.models import infer_signature
from scipy import stats
from sklearn import metrics as sk
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.compose import ColumnTransformer
from sklearn.dummy import DummyClassifier
from sklearn.impute import SimpleImputer
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import ParameterGrid, ParameterSampler
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

IMPORTS = time.time() - psutil.Process().create_time()
IMPORTS_CPU = time.process_time()
"""Seconds from the start of the process until everything is imported, on the wall and of the CPU."""

SEED, THREADS, LEVEL = 42, 2, 0.05
TRIALS, FOLDS, SEARCH_ROWS, ETA, RUNG_ROWS, STOP_AFTER, STRETCHES, WATCHED = 8, 3, 40_000, 3, 2_000, 20, 3, 0.15
RESAMPLES, FEWER_RESAMPLES, DRIFT_ROWS, REFERENCE_ROWS, IMPORTANCE_ROWS = 1_000, 200, 5_000, 20_000, 2_000
BASE = {
    **{"learning_rate": 0.1, "max_depth": 6, "min_child_weight": 20, "subsample": 0.8, "colsample_bytree": 0.5},
    **{"reg_lambda": 5.0, "tree_method": "hist"},
}
ARROW = {
    **{"integer": pa.int64(), "number": pa.float64(), "boolean": pa.bool_(), "string": pa.string()},
    **{"category": pa.dictionary(pa.int32(), pa.string()), "datetime": pa.timestamp("us", tz="UTC")},
}
Array = np.ndarray[Any, np.dtype[Any]]
Trial = dict[str, Any]
"""`estimator`, `parameters`, and `window`: how many of the newest months, None for all."""
SECONDS: dict[str, float] = {}


@contextmanager
def step(name: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    SECONDS[name] = SECONDS.get(name, 0.0) + time.perf_counter() - began


class Constants:
    """The values of the spec's YAML that the script needs."""

    def __init__(self, file: Path) -> None:
        data = yaml.safe_load(file.read_text())
        self.model, self.columns = data["model"], data["columns"]
        self.time, self.key, self.path = data["source"]["time"], data["source"]["key"], data["source"]["path"]
        self.begin = pd.Timestamp(data["interval"]["start"], tz="UTC")
        self.target, self.at_least = data["target"]["column"], data["target"]["at_least"]
        self.quality, self.training, self.gate = data["quality"], data["training"], data.get("gate", {})
        self.slices = data.get("evaluation", {}).get("slices", [])
        apart = {self.time, self.target, *self.key}
        self.features = [
            name
            for name, column in self.columns.items()
            if column.get("feature", True) and name not in apart and column["type"] not in ("string", "datetime")
        ]
        self.parts = self.training.get("date_parts", {})
        self.inputs = [name for name in self.columns if name in self.features or name in self.parts]
        self.categorical = [name for name in self.features if self.columns[name]["type"] == "category"]
        self.numeric = [name for name in self.features if name not in self.categorical]
        self.numeric += [f"{name}_{part}" for name, parts in self.parts.items() for part in parts]


# --- data


def take(spec: Constants, start: pd.Timestamp, root: Path, work: Path) -> pa.Table:
    """One month of CSV, typed, kept as Parquet for the months to come."""
    options = pa.csv.ConvertOptions(
        column_types={name: ARROW[column["type"]] for name, column in spec.columns.items()},
        null_values=[""],
        strings_can_be_null=True,
    )
    table = pa.csv.read_csv(root / spec.path.format(start=start), convert_options=options)
    pq.write_table(table, _kept(work, start))
    return table


def _kept(work: Path, start: pd.Timestamp) -> Path:
    return work / "data" / f"{start:%Y-%m}.parquet"


def rows(spec: Constants, tables: list[pa.Table]) -> pd.DataFrame:
    table = pa.concat_tables(tables).unify_dictionaries()
    return table.to_pandas().sort_values([spec.time, *spec.key], kind="stable", ignore_index=True)


def check(spec: Constants, table: pa.Table, end: pd.Timestamp) -> dict[str, Any]:
    """The contract as a Great Expectations suite."""
    frame = table.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get, strings_to_categorical=False)
    frame = frame.astype(dict.fromkeys(spec.categorical, object))
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    suite = gx.ExpectationSuite(name=spec.model, expectations=list(_expectations(spec, end)))
    asset = context.data_sources.add_pandas("pandas").add_dataframe_asset("batch")
    batch = asset.add_batch_definition_whole_dataframe("whole").get_batch({"dataframe": frame})
    result = batch.validate(suite, result_format="BASIC")
    failed = [
        outcome
        for outcome in result.results
        if not outcome.success and outcome.expectation_config.severity == "critical"
    ]
    if failed:
        raise SystemExit(f"{len(failed)} expectations failed, first: {failed[0]}")
    return dict(result.to_json_dict())


def _expectations(spec: Constants, end: pd.Timestamp) -> Iterator[Any]:
    quality = spec.quality
    yield gxe.ExpectTableColumnsToMatchSet(column_set=list(spec.columns), exact_match=True)
    yield gxe.ExpectTableRowCountToBeBetween(min_value=quality["min_rows"])
    if "freshness" in quality:
        oldest = end - pd.Timedelta(quality["freshness"])
        yield gxe.ExpectColumnMaxToBeBetween(column=spec.time, min_value=oldest.to_pydatetime())
    for name, column in spec.columns.items():
        severity = "warning" if column.get("severity") == "warn" else "critical"
        bounds = {f"{side}_value": column[side] for side in ("min", "max") if side in column}
        if types := {"integer": ["int64", "Int64Dtype"], "number": ["float64"]}.get(column["type"]):
            yield gxe.ExpectColumnValuesToBeInTypeList(column=name, type_list=types)
        if name in spec.key or name == spec.time:
            yield gxe.ExpectColumnValuesToNotBeNull(column=name)
        elif (missing := column.get("max_missing", 0)) < 1:
            yield gxe.ExpectColumnValuesToNotBeNull(column=name, mostly=1 - missing, severity=severity)
        if column["type"] == "number" and (len(bounds) < 2 or severity == "warning"):
            largest = sys.float_info.max
            yield gxe.ExpectColumnValuesToBeBetween(column=name, min_value=-largest, max_value=largest)
        if bounds:
            yield gxe.ExpectColumnValuesToBeBetween(column=name, severity=severity, **bounds)
        if "values" in column:
            yield gxe.ExpectColumnValuesToBeInSet(column=name, value_set=column["values"], severity=severity)
        if column.get("unique") or spec.key == [name]:
            yield gxe.ExpectColumnValuesToBeUnique(column=name)
    for expectation in quality.get("expectations", []):
        kind = getattr(gxe, "".join(word.title() for word in expectation["expect"].split("_")))
        yield kind(severity="warning" if expectation.get("severity") == "warn" else "critical", **expectation["args"])


def version(work: Path, start: pd.Timestamp) -> str:
    """The month under DVC, its bytes in the remote, a commit and a tag of it."""
    file = _kept(work, start)
    with Repo(str(work)) as repo:
        repo.add(str(file))
        repo.push(targets=[f"{file}.dvc"])
    for call in (["add", "data"], ["commit", "-qm", f"{start:%Y-%m}"], ["tag", f"{start:%Y-%m}"]):
        subprocess.run(["git", *call], cwd=work, check=True)
    return subprocess.run(["git", "rev-parse", "HEAD"], cwd=work, check=True, capture_output=True, text=True).stdout


def prepare(spec: Constants, start: pd.Timestamp, root: Path, work: Path) -> None:
    """What lies there before a cycle: a git repository with DVC and a remote, and the months before."""
    (work / "data").mkdir(parents=True)
    subprocess.run(["git", "init", "-q"], cwd=work, check=True)
    for name, value in (("user.name", "bare"), ("user.email", "bare@localhost")):
        subprocess.run(["git", "config", name, value], cwd=work, check=True)
    with Repo.init(str(work)) as repo, repo.config.edit() as config:
        config["remote"] = {"store": {"url": str(work.with_name(f"{work.name}-remote"))}}
        config["core"] = {"remote": "store", "analytics": False}
    for month in pd.date_range(spec.begin, start, freq="MS", inclusive="left"):
        take(spec, month, root, work)


def compare(spec: Constants, reference: pd.DataFrame, current: pd.DataFrame, folder: Path) -> dict[str, float]:
    """Drift per column on a sample of each side, with Evidently's page."""
    names = [name for name in (*spec.features, "prediction", "target") if name in reference]
    words = [*spec.categorical, "target"]
    sides = [
        side[names].sample(min(len(side), DRIFT_ROWS), random_state=SEED).astype(dict.fromkeys(words, object))
        for side in (current, reference)
    ]
    shape = DataDefinition(numerical_columns=[name for name in names if name not in words], categorical_columns=words)
    sets = [Dataset.from_pandas(side, data_definition=shape) for side in sides]
    judges = {name: ValueDrift(column=name, method="jensenshannon" if name in words else "ks") for name in names}
    snapshot = Report(list(judges.values()), include_tests=True).run(*sets)
    (folder / "drift.html").write_text(snapshot.get_html_str(as_iframe=False))
    missing = (current[spec.features].isna().mean() - reference[spec.features].isna().mean()).abs()
    statistics = {name: float(snapshot.metric_results[judge.metric_id].value) for name, judge in judges.items()}
    return statistics | {f"missing {name}": float(share) for name, share in missing.items()}


# --- models


class Codes(TransformerMixin, BaseEstimator):
    """Categories by their frequency: 1 is the most frequent, 0 too rare or unknown, -1 missing."""

    def fit(self, frame: pd.DataFrame, y: Any = None) -> Codes:
        enough = min(30, max(2, len(frame) // 1000))
        self.levels_ = {}
        for name in frame:
            counts = frame[name].value_counts()
            counts = counts[counts >= enough]
            self.levels_[name] = [str(c) for _, c in sorted(zip(-counts.to_numpy(), counts.index, strict=True))]
        return self

    def transform(self, frame: pd.DataFrame) -> Array:
        encoded = []
        for name, levels in self.levels_.items():
            values = frame[name].astype("category")
            place = {level: code for code, level in enumerate(levels, 1)}
            table = np.array([*(place.get(level, 0) for level in values.cat.categories), -1], dtype=float)
            encoded.append(table[values.cat.codes.to_numpy()])
        return np.column_stack(encoded)


def ready(frame: pd.DataFrame, numbers: list[str], words: list[str], parts: dict[str, list[str]]) -> pd.DataFrame:
    """The columns that the encoders read."""
    columns = frame[[*numbers, *words]].astype({**dict.fromkeys(numbers, float), **dict.fromkeys(words, "category")})
    for column, names in parts.items():
        when = pd.to_datetime(frame[column], utc=True).dt
        for name in names:
            columns[f"{column}_{name}"] = getattr(when, name).astype(float)
    return columns


def encoder(spec: Constants, estimator: str) -> ColumnTransformer:
    if estimator == "xgboost":
        return ColumnTransformer([("n", "passthrough", spec.numeric), ("c", Codes(), spec.categorical)])
    numbers = make_pipeline(
        SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True), StandardScaler()
    )
    words = OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=0.001, max_categories=100)
    return ColumnTransformer([("n", numbers, spec.numeric), ("c", words, spec.categorical)])


def model(trial: Trial) -> Any:
    if trial["estimator"] == "naive":
        return DummyClassifier(strategy="prior")
    if trial["estimator"] == "xgboost":
        return xgboost.XGBClassifier(**trial["parameters"], random_state=SEED, n_jobs=THREADS)
    return LogisticRegression(**trial["parameters"], random_state=SEED, max_iter=1000)


def pipeline(spec: Constants, trial: Trial) -> Pipeline:
    steps: list[tuple[str, Any]] = []
    if trial["estimator"] != "naive":
        numbers = [name for name in spec.numeric if name in spec.columns]
        arguments = {"numbers": numbers, "words": spec.categorical, "parts": spec.parts}
        steps = [
            ("ready", FunctionTransformer(ready, kw_args=arguments)),
            ("encode", encoder(spec, trial["estimator"])),
        ]
    return Pipeline([*steps, ("model", model(trial))])


def fit(spec: Constants, trial: Trial, frame: pd.DataFrame, y: Array) -> Pipeline:
    return pipeline(spec, trial).fit(frame[spec.inputs], y)


def cuts(spec: Constants, when: pd.Series[pd.Timestamp]) -> list[pd.Timestamp]:
    """The two days that cut the holdout into thirds, the first one earlier where too little would be left to judge."""
    day = when.dt.floor("D")
    first = np.flatnonzero(day.ne(day.shift()))
    count, left = len(first), len(when) - first
    rows_needed, days_needed = spec.gate.get("min_rows", 500), spec.gate.get("min_blocks", 10)
    enough = (left >= rows_needed) | (len(when) < rows_needed)
    enough &= (count - np.arange(count) >= days_needed) | (count < days_needed)
    begin = max(place for place in range(1, count // 3 + 1) if enough[place])
    return [day.iloc[first[place]] for place in (begin, begin + (count - begin) // 2)]


class Chain:
    """A trial fitted at each cut on the rows before it, a window reaching as far back as at the end of a month."""

    def __init__(
        self, spec: Constants, trial: Trial, frame: pd.DataFrame, y: Array, start: pd.Timestamp,
        moments: list[pd.Timestamp],
    ) -> None:  # fmt: skip
        self.time, self.inputs, self.moments, self.links = spec.time, spec.inputs, moments, []
        for cut in moments:
            taught = frame[spec.time] < cut
            if trial["window"] is not None:
                taught &= frame[spec.time] >= start - pd.DateOffset(months=trial["window"]) + (cut - start)
            self.links.append(fit(spec, trial, frame[taught], y[taught.to_numpy()]))

    def predict(self, frame: pd.DataFrame) -> Array:
        """Each row by the newest model that it has not taught."""
        old, new = (link.predict_proba(frame[self.inputs])[:, 1] for link in self.links)
        return np.where(frame[self.time] < self.moments[-1], old, new).astype(float)


def watch(trial: Trial, train_rows: Any, y: Array, valid_rows: Any, valid_y: Array) -> list[float]:
    """The loss on rows set apart after each tree, until a while of them bring nothing."""
    last = model(trial).set_params(early_stopping_rounds=STOP_AFTER * STRETCHES, eval_metric=shifted_log_loss)
    last.fit(train_rows, y, eval_set=[(valid_rows, valid_y)], verbose=False)
    return list(last.evals_result()["validation_0"]["shifted_log_loss"])


def shifted_log_loss(y: Array, p: Array) -> float:
    """Log loss once the log odds are shifted so that the mean prediction is the mean outcome."""
    clipped = np.clip(p.astype(float), 1e-9, 1 - 1e-9)
    odds, goal, shift = np.log(clipped / (1 - clipped)), float(np.clip(y.mean(), 1e-6, 1 - 1e-6)), 0.0
    for _ in range(8):
        q = 1 / (1 + np.exp(-(odds + shift)))
        shift += float(np.clip((goal - q.mean()) / max(float((q * (1 - q)).mean()), 1e-6), -2, 2))
    return float(np.mean(np.logaddexp(0, odds + shift) - y * (odds + shift)))


def stretches(when: Array) -> list[tuple[Array, Array]]:
    """The newest stretches of the rows, each with all before it."""
    cuts = [int(np.searchsorted(when, when[int(len(when) * (1 - WATCHED * n))])) for n in range(STRETCHES, 0, -1)]
    return [(np.arange(cut), np.arange(cut, end)) for cut, end in zip(cuts, [*cuts[1:], len(when)], strict=True)]


def least(curves: list[list[float]]) -> int:
    """The number of trees with the least mean loss; a curve that has stopped stays where it ended."""
    longest = max(map(len, curves))
    return int(np.argmin(np.mean([curve + curve[-1:] * (longest - len(curve)) for curve in curves], axis=0))) + 1


def counted(trial: Trial, count: int) -> Trial:
    return {**trial, "parameters": {**trial["parameters"], "n_estimators": count}}


def alike(winner: Trial, incumbent: Trial) -> bool:
    """The same but for a number of trees within a fifth."""
    old, new = (trial["parameters"].get("n_estimators", 0) for trial in (incumbent, winner))
    return counted(winner, 0) == counted(incumbent, 0) and abs(new - old) <= 0.2 * old


def trials(spec: Constants, months: int) -> list[Trial]:
    windows = [window for window in spec.training.get("windows", ["all"]) if window == "all" or window < months]
    unique: list[Trial] = []
    for candidate in spec.training["candidates"]:
        base = {**(BASE if candidate["estimator"] == "xgboost" else {}), **candidate.get("parameters", {})}
        space = {**candidate.get("search", {}), "window": windows}
        drawn = ParameterSampler(space, min(max(TRIALS, len(windows)), len(ParameterGrid(space))), random_state=SEED)
        plain = [{"window": window} for window in windows]
        for values in [*plain, *(drawn if "search" in candidate else [])][:TRIALS]:
            parameters = {**base, **{name: value for name, value in values.items() if name != "window"}}
            window = None if values["window"] == "all" else values["window"]
            trial = {"estimator": candidate["estimator"], "parameters": parameters, "window": window}
            if trial not in unique:
                unique.append(trial)
    return unique


def newest(month: Array, at: Array, window: int | None) -> Array:
    return at if window is None else at[month[at] > month[at].max() - window]


def search(spec: Constants, frame: pd.DataFrame, y: Array, month: Array, incumbent: Trial) -> tuple[Trial, bool]:
    """Successive halving over folds in time; the winner, and whether it is the incumbent."""
    tried = trials(spec, int(month.max()) + 1)
    kept = [0] if incumbent == tried[0] else [0, 1]
    tried = [incumbent, *(trial for trial in tried if trial != incumbent)]
    if len(y) > SEARCH_ROWS:
        at = np.sort(np.random.default_rng(SEED).choice(len(y), SEARCH_ROWS, replace=False))
        frame, y, month = frame.iloc[at], y[at], month[at]
    when = frame[spec.time].astype("int64").to_numpy()
    starts = np.flatnonzero(np.diff(month, prepend=month[0])).tolist()
    cuts = starts[-FOLDS:]
    if len(starts) < FOLDS:
        cuts = sorted({int(np.searchsorted(when, when[len(y) * n // (FOLDS + 1)])) for n in range(1, FOLDS + 1)})
    folds = [(np.arange(cut), np.arange(cut, end)) for cut, end in zip(cuts, [*cuts[1:], len(y)], strict=True)]
    numbers = [name for name in spec.numeric if name in spec.columns]
    frame = ready(frame, numbers, spec.categorical, spec.parts).reset_index(drop=True)
    rungs = min(int(math.log(len(tried), ETA) + 1e-9), 2)
    while rungs and min(len(train) for train, _ in folds) / ETA**rungs < RUNG_ROWS:
        rungs -= 1
    alive, table = list(range(len(tried))), dict[int, Array]()
    for rung in range(rungs, -1, -1):
        scores: dict[int, list[float]] = {candidate: [] for candidate in alive}
        for place, (train, valid) in enumerate(folds):
            order = np.random.default_rng([SEED, place]).permutation(len(train))
            part = train[np.sort(order[: math.ceil(len(train) / ETA**rung)])]
            cache: dict[Any, tuple[Any, Any]] = {}
            for candidate in alive:
                score = _score(spec, tried[candidate], candidate == 0, frame, y, month, when, part, valid, cache)
                scores[candidate].append(score)
        table = {candidate: np.array(values) for candidate, values in scores.items()}
        alive = sorted(table, key=lambda candidate: (table[candidate].mean(), candidate))
        if rung:
            alive = sorted({*kept, *alive[: math.ceil(len(alive) / ETA)]})
    for candidate in kept:
        gain = table[candidate] - table[alive[0]]
        if gain.mean() <= gain.std(ddof=1) / math.sqrt(len(gain)):
            return tried[candidate], candidate == 0
    return tried[alive[0]], alive[0] == 0


def _score(
    spec: Constants, trial: Trial, fixed: bool, frame: pd.DataFrame, y: Array, month: Array, when: Array,
    train: Array, valid: Array, cache: dict[Any, tuple[Any, Any]],
) -> float:  # fmt: skip
    def encoded(fitted: Array, other: Array, part: int) -> tuple[Any, Any]:
        key = (part, trial["estimator"], trial["window"])
        if key not in cache:
            columns = encoder(spec, trial["estimator"])
            cache[key] = columns.fit_transform(frame.iloc[fitted]), columns.transform(frame.iloc[other])
        return cache[key]

    train = newest(month, train, trial["window"])
    if trial["estimator"] == "xgboost" and not fixed:
        curves = []
        for place, (fitted, apart) in enumerate(stretches(when[train])):
            train_rows, valid_rows = encoded(train[fitted], train[apart], place)
            curves.append(watch(trial, train_rows, y[train[fitted]], valid_rows, y[train[apart]]))
        trial = counted(trial, least(curves))
    train_rows, valid_rows = encoded(train, valid, -1)
    return float(
        sk.log_loss(y[valid], model(trial).fit(train_rows, y[train]).predict_proba(valid_rows)[:, 1], labels=[0, 1])
    )


# --- judging


def measure(y: Array, p: Array) -> dict[str, float]:
    predicted = (p >= 0.5).astype(int)
    place = np.minimum(np.argsort(np.argsort(p, kind="stable")) * 10 // len(p), 9)
    bins = pd.DataFrame({"p": p, "y": y, "bin": place}).groupby("bin").agg({"p": "mean", "y": "mean", "bin": "size"})
    return {
        "log_loss": sk.log_loss(y, p, labels=[0, 1]),
        "brier": float(np.mean((p - y) ** 2)),
        "roc_auc": sk.roc_auc_score(y, p),
        "average_precision": sk.average_precision_score(y, p),
        "balanced_accuracy": sk.balanced_accuracy_score(y, predicted),
        "precision": sk.precision_score(y, predicted, zero_division=0),
        "recall": sk.recall_score(y, predicted),
        "specificity": sk.recall_score(y, predicted, pos_label=0),
        "f1": sk.f1_score(y, predicted),
        "accuracy": sk.accuracy_score(y, predicted),
        "ece": float(((bins["p"] - bins["y"]).abs() * bins["bin"]).sum() / len(y)),
        "positive_rate": float(y.mean()),
        "mean_prediction": float(p.mean()),
    }


def bootstrap(y: Array, p: Array, block: Array, times: Array) -> dict[str, Array]:
    """Each metric on every draw of whole days; the rank metrics on fewer draws."""
    count = len(times)
    loss = -np.log(np.where(y == 1, p, 1 - p).clip(np.finfo(float).eps))
    size, log, square = (np.bincount(block, weights=w, minlength=count) for w in (np.ones(len(y)), loss, (p - y) ** 2))
    drawn = {"log_loss": log @ times / (size @ times), "brier": (square @ times / (size @ times))[:FEWER_RESAMPLES]}
    order = np.argsort(-p, kind="stable")
    day, hit = block[order], y[order].astype(float)[:, None]
    areas, precisions = [], []
    for begin in range(0, FEWER_RESAMPLES, 20):
        weight = times[day, begin : begin + 20]
        true, false = np.cumsum(weight * hit, axis=0), np.cumsum(weight * (1 - hit), axis=0)
        areas.append((true * weight * (1 - hit)).sum(axis=0) / (true[-1] * false[-1]))
        precision = true / np.maximum(true + false, 1)
        precisions.append((precision * weight * hit).sum(axis=0) / true[-1])
    return drawn | {"roc_auc": np.concatenate(areas), "average_precision": np.concatenate(precisions)}


def bounds(drawn: Array, blocks: int) -> tuple[float, float]:
    """The expanded percentile interval (Hesterberg 2015)."""
    outer = stats.norm.cdf(math.sqrt(blocks / (blocks - 1)) * stats.t.ppf(LEVEL, blocks - 1))
    low, high = np.quantile(drawn, [outer, 1 - outer])
    return float(low), float(high)


def gate(
    spec: Constants, names: list[str], scores: dict[str, float], draws: dict[str, dict[str, Array]], blocks: int,
    slices: list[dict[str, Any]],
) -> tuple[str, str]:  # fmt: skip
    """The verdict, and the candidate that it is about: new before refresh, unless the champion loses to a baseline."""
    margin = spec.gate.get("margin", 0.01)
    if scores["champion"] > min(scores["naive"], scores["simple"] * (1 + margin)):
        return "promote", min((name for name in scores if name != "champion"), key=scores.__getitem__)

    def gain(candidate: str, other: str, granted: float = 0.0, metric: str = "log_loss") -> tuple[float, float]:
        return bounds((1 + granted) * draws[other][metric] - draws[candidate][metric], blocks)

    def better(candidate: str, other: str, granted: float = 0.0) -> bool | None:
        low, high = gain(candidate, other, granted)
        return True if low > 0 else False if high <= 0 else None

    passed: dict[str, list[bool | None]] = {}
    for name in names:
        if name == "refresh":
            passed[name] = [
                scores[name] <= scores["naive"],
                gain(name, "simple", margin)[1] > 0,
                scores[name] <= scores["champion"] * (1 + margin) and gain(name, "champion")[1] >= 0,
            ]
        else:
            simple = scores[name] <= scores["simple"] or better(name, "simple", margin)
            passed[name] = [better(name, "naive"), simple, better(name, "champion"), scores[name] <= scores["refresh"]]
        passed[name].append(gain(name, "champion", margin, "brier")[1] > 0)
        passed[name] += [part[name] <= 1.1 * part["champion"] for part in slices if part["rows"] >= 200]
    for verdict, passes in (("promote", {True}), ("inconclusive", {True, None})):
        for candidate, answers in passed.items():
            if set(answers) <= passes:
                return verdict, candidate
    return "keep", names[0]


def figures(y: Array, answers: dict[str, Array], importance: dict[str, dict[str, float]],
            gains: dict[str, tuple[float, float, float]], folder: Path) -> None:  # fmt: skip
    with mpl.rc_context({"font.size": 9, "figure.dpi": 80, "axes.grid": True}):
        curves, (roc, pr) = _figure(9, 4, 2)
        reliability, (calibration,) = _figure(4.5, 4, 1)
        tables: dict[str, list[pd.DataFrame]] = {"roc": [], "pr": [], "calibration": []}
        for name, p in answers.items():
            rates = sk.roc_curve(y, p)[:2]
            precision, recall, _ = sk.precision_recall_curve(y, p)
            bins = pd.DataFrame({"p": p, "y": y}).groupby(pd.qcut(p, 10, duplicates="drop"), observed=True).mean()
            for key, axes, (x, z) in (
                ("roc", roc, rates), ("pr", pr, (recall, precision)),
                ("calibration", calibration, (bins["p"], bins["y"])),
            ):  # fmt: skip
                at = np.unique(np.linspace(0, len(x) - 1, 200).round().astype(int)) if len(x) else []
                table = pd.DataFrame({"model": name, "x": np.asarray(x)[at], "y": np.asarray(z)[at]})
                axes.plot(table["x"], table["y"], label=name)
                tables[key].append(table)
        for axes in (roc, pr, calibration):
            axes.legend()
        bars, panels = _figure(4.8 * len(importance), 4.2, len(importance))
        for axes, (name, of) in zip(panels, importance.items(), strict=True):
            top = sorted(of.items(), key=lambda pair: pair[1])[-15:]
            axes.barh([column for column, _ in top], [value for _, value in top])
            axes.set_title(name)
        lines, (axes,) = _figure(7, 1.2 + 0.4 * len(gains), 1)
        for place, (gain, low, high) in enumerate(gains.values()):
            axes.plot([low, high], [place, place])
            axes.plot([gain], [place], marker="o")
        axes.set_yticks(range(len(gains)), list(gains))
        for name, figure in (("curves", curves), ("calibration", reliability), ("importance", bars), ("gains", lines)):
            figure.savefig(folder / f"{name}.png")
    for name, parts in tables.items():
        pd.concat(parts).to_csv(folder / f"{name}.csv", index=False)
    pd.DataFrame(importance).to_csv(folder / "importance.csv")
    pd.DataFrame(gains).T.to_csv(folder / "gains.csv")


def _figure(width: float, height: float, panels: int) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, panels, squeeze=False)[0]


# --- the cycle


def cycle(spec: Constants, start: pd.Timestamp, root: Path, work: Path, champion: dict[str, Any]) -> dict[str, Any]:
    end, out = start + pd.offsets.MonthBegin(1), work / "reports" / f"{start:%Y-%m}"
    out.mkdir(parents=True, exist_ok=True)
    with step("ingest"):
        table = take(spec, start, root, work)
    with step("validate"):
        (out / "quality.json").write_text(json.dumps(check(spec, table, end)))
    with step("snapshot"):
        commit = version(work, start)

    with step("drift"):
        serving = mlflow.sklearn.load_model(f"models:/{champion['model']}/{champion['version']}")
        batch = rows(spec, [table])
        batch["target"] = (batch[spec.target] >= spec.at_least).astype(float).where(batch[spec.target].notna())
        sample = batch.sample(min(len(batch), DRIFT_ROWS), random_state=SEED)
        batch.loc[sample.index, "prediction"] = serving.predict_proba(sample[spec.inputs])[:, 1]
        reference = pd.read_parquet(champion["reference"])
        (out / "drift.json").write_text(json.dumps(compare(spec, reference, batch, out)))

    with step("train"):
        earlier = sorted(file for file in (work / "data").glob("*.parquet") if file.stem < f"{start:%Y-%m}")
        wanted = [*dict.fromkeys([*spec.inputs, spec.target, spec.time, *spec.key, *spec.slices])]
        known = rows(spec, [*(pq.read_table(file, columns=wanted) for file in earlier), table.select(wanted)])
        known = known[known[spec.target].notna()].reset_index(drop=True)
        known_y = (known[spec.target] >= spec.at_least).to_numpy().astype(int)
        old = int((known[spec.time] < start).sum())
        frame, y = known.iloc[:old], known_y[:old]
        month = pd.factorize(frame[spec.time].dt.strftime("%Y-%m"), sort=True)[0]
        incumbent = champion["configuration"]
        winner, same = search(spec, frame, y, month, incumbent)
        plan = {"refresh": incumbent}
        if not same:
            if winner["estimator"] == "xgboost":
                at = newest(month, np.arange(len(y)), winner["window"])
                steps, curves = pipeline(spec, winner)[:-1], []
                for old_part, new_part in stretches(frame[spec.time].astype("int64").to_numpy()[at]):
                    fitted_at, apart = at[old_part], at[new_part]
                    train_rows = steps.fit_transform(frame.iloc[fitted_at][spec.inputs], y[fitted_at])
                    valid_rows = steps.transform(frame.iloc[apart][spec.inputs])
                    curves.append(watch(winner, train_rows, y[fitted_at], valid_rows, y[apart]))
                winner = counted(winner, least(curves))
            if not alike(winner, incumbent):
                plan["new"] = winner
        for name in ("naive", "simple"):
            plan[name] = {"estimator": name, "parameters": {}, "window": None}
        moments = cuts(spec, known[spec.time].iloc[old:])
        models = {name: Chain(spec, trial, known, known_y, start, moments) for name, trial in plan.items()}

    with step("evaluate"):
        begin = int((known[spec.time] < moments[0]).sum())
        holdout, outcome = known.iloc[begin:].reset_index(drop=True), known_y[begin:]
        answers = {name: chain.predict(holdout) for name, chain in models.items()}
        answers["champion"] = serving.predict_proba(holdout[spec.inputs])[:, 1].astype(float)
        measured = {name: measure(outcome, p) for name, p in answers.items()}
        block = pd.factorize(holdout[spec.time].dt.floor("D"))[0]
        count = int(block.max()) + 1
        chosen = np.random.default_rng(SEED).multinomial(count, np.full(count, 1 / count), RESAMPLES)
        draws = {name: bootstrap(outcome, p, block, chosen.T.astype(float)) for name, p in answers.items()}
        scores = {name: of["log_loss"] for name, of in measured.items()}
        candidates = [name for name in ("new", "refresh") if name in plan]
        gains = {
            f"{candidate} over {other}": (
                scores[other] - scores[candidate],
                *bounds(draws[other]["log_loss"] - draws[candidate]["log_loss"], count),
            )
            for candidate in candidates
            for other in scores
            if other not in (candidate, "new")
        }
        slices = [
            {"column": column, "value": value, "rows": len(at)}
            | {name: sk.log_loss(outcome[at], p[at], labels=[0, 1]) for name, p in answers.items()}
            for column in spec.slices
            for value, at in holdout.groupby(column, observed=True).indices.items()
        ]
        part = holdout[holdout[spec.time] >= moments[-1]]
        part = part.sample(min(len(part), IMPORTANCE_ROWS), random_state=SEED)
        importance = {}
        for name in candidates:
            lost = permutation_importance(
                models[name].links[-1], part[spec.inputs], outcome[part.index], scoring="neg_log_loss", n_repeats=2,
                random_state=SEED,
            )  # fmt: skip
            importance[name] = dict(zip(spec.inputs, lost.importances_mean.tolist(), strict=True))
        figures(outcome, answers, importance, gains, out)
        holdout[[*spec.key, spec.time]].assign(y=outcome, **answers).to_parquet(
            out / "predictions.parquet", index=False
        )
        (out / "metrics.json").write_text(json.dumps({"metrics": measured, "slices": slices, "gains": gains}))

    with step("gate"):
        verdict, who = gate(spec, candidates, scores, draws, count, slices)

    if verdict == "promote":
        with step("refit"):
            places = pd.factorize(known[spec.time].dt.strftime("%Y-%m"), sort=True)[0]
            at = newest(places, np.arange(len(places)), plan[who]["window"])
            fitted = fit(spec, plan[who], known.iloc[at], known_y[at])
            moved = fitted.predict_proba(holdout[spec.inputs])[:, 1].mean() - answers[who].mean()
            golden = holdout[spec.inputs].head(20)
            types = skops.io.get_untrusted_types(data=(stored := skops.io.dumps(fitted)))
            again = skops.io.loads(stored, trusted=types).predict_proba(golden) - fitted.predict_proba(golden)
            if abs(moved) > 0.1 or np.abs(again).max() > 1e-9:
                raise SystemExit(f"the refit moved by {moved:.3g}, its copy by {np.abs(again).max():.3g}")
            kept = known.assign(target=known_y, prediction=pd.Series(answers[who], range(begin, len(known))))
            kept.sample(min(len(kept), REFERENCE_ROWS), random_state=SEED).to_parquet(out / "reference.parquet")

    with step("register"):
        mlflow.set_experiment(f"{spec.model} bare")
        with mlflow.start_run(run_name=f"{start:%Y-%m} {verdict}", tags={"commit": commit.strip(), "verdict": verdict}):
            mlflow.log_params({**plan[who]["parameters"], "window": plan[who]["window"], "rows": len(known)})
            mlflow.log_metrics({f"{name}.{key}": v for name, of in measured.items() for key, v in of.items()})
            mlflow.log_artifacts(str(out), "reports")
            if verdict == "promote":
                example = known[spec.inputs].head(100)
                # Written, not given to MLflow: it would load the model again to try it, which the loop does not do.
                example.to_json(out / "input_example.json", orient="split")
                mlflow.log_artifact(str(out / "input_example.json"))
                info = mlflow.sklearn.log_model(
                    fitted, name="model", signature=infer_signature(example, fitted.predict(example)),
                    serialization_format="skops", skops_trusted_types=types,
                    pip_requirements=[f"{library.__name__}=={library.__version__}" for library in (pd, np, xgboost)],
                    registered_model_name=f"{spec.model}_bare",
                )  # fmt: skip
    if verdict == "promote":
        with step("promote"):
            mlflow.MlflowClient().set_registered_model_alias(
                f"{spec.model}_bare", "champion", info.registered_model_version
            )
    return {"scores": scores, "verdict": verdict, "chosen": who, "configuration": plan[who], "rows": len(y)}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--spec", type=Path, required=True)
    arguments.add_argument("--interval", required=True, help="start of the month, like 2013-04-01")
    arguments.add_argument("--root", type=Path, default=Path(), help="where the spec's relative paths begin")
    arguments.add_argument("--work", type=Path, required=True, help="its own folder")
    arguments.add_argument("--champion", type=Path, help="JSON: model, version, configuration, reference")
    arguments.add_argument("--prepare", action="store_true", help="only make --work, with the months before")
    given = arguments.parse_args()
    spec, start = Constants(given.spec), pd.Timestamp(given.interval, tz="UTC")
    if given.prepare:
        prepare(spec, start, given.root, given.work)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        decided = cycle(spec, start, given.root, given.work, json.loads(given.champion.read_text()))
    print(json.dumps({**decided, "imports": IMPORTS, "imports_cpu": IMPORTS_CPU, "seconds": SECONDS}))


if __name__ == "__main__":
    main()
