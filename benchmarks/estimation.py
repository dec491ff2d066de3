"""Performance estimated without labels against the realised one: error, interval coverage, and the backtest.

    python benchmarks/estimation.py [--quick]

Rows are made here: seven numbers and a category, some missing, in days that have a level of their own. A champion is
fitted, what its predictions are worth is learnt from later rows, and then intervals follow of which each setting
changes something: nothing, the rows (covariate shift), how frequent the outcomes are (label shift), or how outcomes
hang on the rows (concept drift), where an estimate without labels must fail and the backtest must say so.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[1] / "include")]

import numpy as np
import pandas as pd
from scipy import stats
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from threadpoolctl import threadpool_limits

from benchmarks.measure import Figures
from retrain.modeling.metrics import metric_value
from retrain.monitoring import estimation
from retrain.monitoring.estimation import PastEstimate

METRICS = {"binary": ("log_loss", "roc_auc"), "multiclass": ("log_loss", "f1_macro"), "regression": ("rmse", "mae")}
CHAMPIONS = {"trees": "gradient-boosted trees", "linear": "a linear model, blind to half of the signal"}
LEVEL = 0.05
DAYS, DAY, CLASSES, NUMBERS = 25, 0.15, 3, 7
INTERVALS = 5
"""Intervals that follow each champion; their labels land one by one."""


@dataclass(frozen=True)
class Setting:
    """What is different in the intervals after the champion was fitted."""

    name: str
    covariate: float = 0.0
    label: float = 0.0
    concept: float = 0.0


SETTINGS = (
    Setting("no change"),
    Setting("covariate shift, weak", covariate=0.5),
    Setting("covariate shift, strong", covariate=1.2),
    Setting("label shift", label=0.6),
    Setting("concept drift", concept=1.0),
)


@dataclass(frozen=True)
class Rows:
    """Labelled rows and the day of each."""

    frame: pd.DataFrame
    y: np.ndarray
    day: np.ndarray


def make(task: str, rows: int, setting: Setting, rng: np.random.Generator) -> Rows:
    """Rows of one setting.

    Covariate shift moves the first numbers and the category towards rows that are harder, or have more noise; label
    shift keeps rows by their outcome; concept drift weakens and turns what the first numbers mean.
    """
    # Label shift keeps about half of the rows.
    size = rows * 3 if setting.label else rows
    x = rng.normal(size=(size, NUMBERS))
    x[:, 0] = x[:, 0] * (1 - 0.3 * min(setting.covariate, 1)) + 0.5 * setting.covariate
    x[:, 1] += 0.8 * setting.covariate
    levels = np.array([1.0, 1.0, 1.0 + 3 * setting.covariate, 0.5])
    word = rng.choice(len(levels), size=size, p=levels / levels.sum())
    day = rng.integers(0, DAYS, size)
    slope = 1 - 0.9 * setting.concept
    signal = (
        1.4 * slope * x[:, 0]
        + 0.8 * x[:, 2] * (x[:, 1] > 0.5)
        + 0.5 * (word == 0)
        - 0.7 * setting.concept * (x[:, 3] > 0)
    )
    signal = signal + DAY * rng.normal(size=DAYS)[day]
    if task == "regression":
        y = signal + np.exp(0.4 * x[:, 1] - 0.4 * (word == 3)) * (1 + 0.5 * setting.concept) * rng.standard_t(6, size)
    elif task == "binary":
        y = (rng.random(size) < 1 / (1 + np.exp(-signal + 0.8))).astype(float)
    else:
        odds = np.column_stack([signal, 0.9 * slope * x[:, 4] - 0.5 * x[:, 1], np.zeros(size)])
        y = (odds + rng.gumbel(size=odds.shape)).argmax(axis=1).astype(float)
    if setting.label:
        high = y > 0.5 if task == "regression" else y == 1
        kept = np.flatnonzero(rng.random(size) < np.where(high, 1.0, 1 - setting.label))[:rows]
        x, word, day, y = x[kept], word[kept], day[kept], y[kept]
    x[rng.random(x.shape) < 0.02] = np.nan
    frame = pd.DataFrame(x, columns=[f"number_{n}" for n in range(NUMBERS)])
    frame["word"] = pd.Categorical(np.array(["north", "east", "south", "west"])[word])
    return Rows(frame, y, day)


def champion(task: str, kind: str, rows: Rows) -> Callable[[pd.DataFrame], np.ndarray]:
    """A fitted model's predictions."""
    regression = task == "regression"
    if kind == "trees":
        model = (HistGradientBoostingRegressor if regression else HistGradientBoostingClassifier)(
            max_iter=80, categorical_features="from_dtype", random_state=0
        )
    else:
        columns = make_column_transformer(
            (make_pipeline(SimpleImputer(), StandardScaler()), [f"number_{n}" for n in range(NUMBERS)]),
            (OneHotEncoder(handle_unknown="ignore"), ["word"]),
        )
        model = make_pipeline(columns, Ridge() if regression else LogisticRegression())
    model.fit(rows.frame, rows.y)
    if regression:
        return model.predict
    return (lambda frame: model.predict_proba(frame)[:, 1]) if task == "binary" else model.predict_proba


@dataclass(frozen=True)
class Estimated:
    """One interval: what was expected when the champion was judged, what was estimated, what came."""

    task: str
    kind: str
    setting: str
    metric: str
    expected_score: float
    value: float
    low: float
    high: float
    realised: float
    surprised: bool
    verdict: str
    """Of the backtest, with the labels of this interval in; empty for a metric whose backtest is not asked for."""


def follow(task: str, kind: str, seed: int, rows: int, settings: tuple[Setting, ...]) -> list[Estimated]:
    """One champion, and the intervals that follow it in each setting."""
    rng = np.random.default_rng([seed, *task.encode(), *kind.encode()])
    predict = champion(task, kind, make(task, 2 * rows, SETTINGS[0], rng))
    known = make(task, 2 * rows, SETTINGS[0], rng)
    answers = predict(known.frame)
    estimates = []
    for metric in METRICS[task]:
        learnt = estimation.learn(task, metric, known.y, answers, known.frame, known.day, seed=seed)
        expected_score = metric_value(task, metric, known.y, answers)
        judged = metric == METRICS[task][0]
        for setting in settings:
            past: list[PastEstimate] = []
            for _ in range(INTERVALS):
                new = make(task, rows, setting, rng)
                prediction = predict(new.frame)
                estimate = learnt.estimate(prediction, new.frame, new.day, level=LEVEL, resamples=300, seed=seed)
                realised = metric_value(task, metric, new.y, prediction)
                if estimate.value is None or estimate.low is None or estimate.high is None:
                    raise RuntimeError(f"{task}, {setting.name}: {estimate.reason}")
                past.append(PastEstimate(estimate.value, estimate.low, estimate.high, realised))
                verdict, surprised = "", False
                if judged:
                    excess_loss = learnt.excess_loss(new.y, prediction, new.frame, new.day, level=LEVEL)
                    surprised = excess_loss is not None and (excess_loss.worse or excess_loss.better)
                    verdict = estimation.backtest(past, excess_loss, level=LEVEL).verdict
                estimates.append(
                    Estimated(
                        task,
                        kind,
                        setting.name,
                        metric,
                        expected_score,
                        estimate.value,
                        estimate.low,
                        estimate.high,
                        realised,
                        surprised,
                        verdict,
                    )
                )
    return estimates


def _job(job: tuple[str, str, int, int, tuple[Setting, ...]]) -> list[Estimated]:
    with threadpool_limits(1):
        return follow(*job)


def figures(champions: int, rows: int, settings: tuple[Setting, ...] = SETTINGS, workers: int = 2) -> list[Figures]:
    """The whole benchmark: so many champions per task, their kinds in turn, so many rows in an interval."""
    kinds = list(CHAMPIONS)
    jobs = [
        (task, kinds[seed % len(kinds)], seed, rows, settings)
        for seed in range(champions)
        for task in ("multiclass", "binary", "regression")
    ]
    if workers > 1:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            estimates = [estimate for some in pool.map(_job, jobs) for estimate in some]
    else:
        estimates = [estimate for job in jobs for estimate in _job(job)]
    return [table(estimates, task, settings, rows) for task in METRICS]


def table(estimates: list[Estimated], task: str, settings: tuple[Setting, ...], rows: int) -> Figures:
    """One task's figures, a line per metric and setting."""
    lines = []
    for metric in METRICS[task]:
        for setting in settings:
            of_setting = [
                estimate
                for estimate in estimates
                if (estimate.task, estimate.metric, estimate.setting) == (task, metric, setting.name)
            ]
            lines.append((f"{metric}, {setting.name}", *_row(of_setting)))
    columns = (
        task,
        "intervals",
        "realised against expected",
        "error of the estimate",
        "error of “as expected”",
        "coverage",
        "95 % of",
        "surprise",
        "unreliable, 1st",
        f"unreliable, {INTERVALS}th",
    )
    stated = (
        f"Intervals state {1 - 2 * LEVEL:.0%}. Surprise: intervals whose labels differed from what was expected,"
        f" {2 * LEVEL:.0%} by chance. Unreliable: champions whose backtest said so after the 1st and the last interval."
    )
    return Figures(f"Estimated without labels: {task}, {rows:,} rows in {DAYS} days", columns, tuple(lines), (stated,))


def _row(of_setting: list[Estimated]) -> tuple[str, ...]:
    realised = np.array([estimate.realised for estimate in of_setting])
    expected_score = np.array([estimate.expected_score for estimate in of_setting])
    value = np.array([estimate.value for estimate in of_setting])
    held = [estimate.low <= estimate.realised <= estimate.high for estimate in of_setting]
    sure = stats.binomtest(sum(held), len(held)).proportion_ci(0.95, method="wilson")
    first, last = of_setting[::INTERVALS], of_setting[INTERVALS - 1 :: INTERVALS]
    judged = bool(of_setting[0].verdict)
    return (
        str(len(of_setting)),
        f"{np.mean(realised / expected_score - 1):+.1%}",
        f"{np.mean(np.abs(value / realised - 1)):.1%}",
        f"{np.mean(np.abs(expected_score / realised - 1)):.1%}",
        f"{np.mean(held):.0%}",
        f"{sure.low:.0%} to {sure.high:.0%}",
        f"{np.mean([estimate.surprised for estimate in of_setting]):.0%}" if judged else "",
        f"{np.mean([estimate.verdict == 'unreliable' for estimate in first]):.0%}" if judged else "",
        f"{np.mean([estimate.verdict == 'unreliable' for estimate in last]):.0%}" if judged else "",
    )


def main() -> None:
    from rich.console import Console

    arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument("--quick", action="store_true", help="few champions and rows: to see that it works")
    quick = arguments.parse_args().quick
    console = Console(highlight=False)
    for section in figures(1, 400, workers=1) if quick else figures(8, 1_500):
        console.print(section.table()) if console.is_terminal else print(section.markdown())


if __name__ == "__main__":
    main()
