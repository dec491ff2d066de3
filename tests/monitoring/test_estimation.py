"""Performance estimated without labels against the realised one; drift of the concept shows only with labels."""

from __future__ import annotations

import warnings
from dataclasses import astuple
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest

from benchmarks import estimation as benchmark
from retrain.errors import DegenerateTraining, NonFiniteMetric, SchemaChanged
from retrain.modeling.metrics import metric_value
from retrain.monitoring import estimation
from retrain.monitoring.estimation import ExcessLoss, PastEstimate, backtest, importance_weighting, learn
from retrain.monitoring.estimation.losses import metric_of_draws
from retrain.spec import METRICS

DAYS = 30
EVERY = [(task, metric) for task, metrics in METRICS.items() for metric in metrics]


class Rows(NamedTuple):
    """What a model knows and says, what comes, and the day."""

    frame: pd.DataFrame
    prediction: np.ndarray
    y: np.ndarray
    day: np.ndarray


def rows(task: str, size: int = 3_000, *, seed: int = 0, shift: float = 0, drift: float = 0) -> Rows:
    """Rows of a model that is too sure of itself (classes) or noisier for some rows than for others (numbers).

    `shift` moves the rows to where the model is worse, `drift` changes what they mean.
    """
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(size, 4))
    x[:, 0] *= 1 - 0.6 * shift
    word = rng.choice(3, size=size, p=[0.5 - 0.4 * shift, 0.3, 0.2 + 0.4 * shift])
    means = (1.5 - 2 * drift) * x[:, 0]
    if task == "regression":
        y = means + (0.5 + word) * rng.normal(size=size)
        prediction = 1.5 * x[:, 0]
    elif task == "binary":
        y = (rng.random(size) < 1 / (1 + np.exp(-means))).astype(float)
        prediction = 1 / (1 + np.exp(-2.5 * x[:, 0]))
    else:
        odds = np.column_stack([means, x[:, 1] * (1 - 0.5 * shift), np.zeros(size)])
        y = (odds + rng.gumbel(size=odds.shape)).argmax(axis=1).astype(float)
        scores = np.exp(1.7 * np.column_stack([1.5 * x[:, 0], x[:, 1] * (1 - 0.5 * shift), np.zeros(size)]))
        prediction = scores / scores.sum(axis=1, keepdims=True)
    x[rng.random(x.shape) < 0.05] = np.nan
    frame = pd.DataFrame(x, columns=list("abcd"))
    frame["word"] = pd.Categorical(np.array(["calm", "fair", "rough"], dtype=object)[word])
    frame.loc[rng.random(size) < 0.02, "word"] = np.nan
    frame["at"] = pd.Timestamp("2024-01-01", tz="UTC")
    return Rows(frame, prediction, y, rng.integers(0, DAYS, size))


def learnt(task: str, metric: str, known: Rows, seed: int = 0) -> estimation.PerformanceEstimator:
    return learn(task, metric, known.y, known.prediction, known.frame, known.day, seed=seed)


# --- the estimate


@pytest.mark.parametrize(("task", "metric"), EVERY)
def test_the_estimate_follows_the_rows_where_the_expected_score_does_not(task: str, metric: str) -> None:
    known, new = rows(task, seed=1), rows(task, seed=2, shift=1)
    estimate = learnt(task, metric, known).estimate(new.prediction, new.frame, new.day, resamples=200)
    expected_score = metric_value(task, metric, known.y, known.prediction)
    realised = metric_value(task, metric, new.y, new.prediction)
    assert estimate.value is not None
    assert estimate.low is not None
    assert estimate.high is not None
    assert abs(expected_score - realised) > 0.04
    assert abs(estimate.value - realised) < 0.35 * abs(expected_score - realised)
    assert estimate.low <= realised <= estimate.high
    assert not estimate.low <= expected_score <= estimate.high
    assert estimate.rows == len(new.y)


@pytest.mark.parametrize(("task", "metric"), EVERY)
def test_drawn_labels_are_scored_as_scikit_learn_scores_them(task: str, metric: str) -> None:
    sample = rows(task, 300)
    p = sample.prediction.round(1) if task == "binary" else sample.prediction  # with ties
    drawn = np.column_stack([sample.y, rows(task, 300, seed=5).y])
    metrics = metric_of_draws(task, metric, p)(drawn)
    assert metrics == pytest.approx([metric_value(task, metric, y, p) for y in drawn.T])


@pytest.mark.parametrize(("task", "metric"), [("binary", "log_loss"), ("regression", "rmse")])
def test_the_interval_holds_as_often_as_it_says(task: str, metric: str) -> None:
    held = []
    for seed in range(20):
        known, new = rows(task, 1_000, seed=2 * seed), rows(task, 400, seed=2 * seed + 1)
        estimate = learnt(task, metric, known).estimate(new.prediction, new.frame, new.day, resamples=100, level=0.1)
        assert estimate.low is not None
        assert estimate.high is not None
        held.append(estimate.low <= metric_value(task, metric, new.y, new.prediction) <= estimate.high)
    assert 12 <= sum(held) <= 19  # 80 % of 20; both ends are below one in a hundred


def test_days_that_have_a_level_of_their_own_widen_the_interval() -> None:
    known, new = rows("regression", seed=1), rows("regression", seed=2)
    level = 2 * np.random.default_rng(0).normal(size=DAYS)
    shocked = known._replace(y=known.y + level[known.day])
    by_row = shocked._replace(day=np.arange(len(known.y)))
    widths = []
    for known, day in ((shocked, new.day), (by_row, np.arange(len(new.y)))):
        estimate = learnt("regression", "rmse", known).estimate(new.prediction, new.frame, day, resamples=200)
        assert estimate.low is not None
        assert estimate.high is not None
        widths.append(estimate.high - estimate.low)
    assert widths[0] > 1.5 * widths[1]


def test_noise_is_laid_on_by_whole_blocks() -> None:
    model = learnt("binary", "brier", rows("binary", seed=1))
    model._noise = model._block.astype(float)
    day = np.arange(600) % 20
    (laid,) = model._block_noise(day, 30, 0)
    assert laid.shape == (600, 30)
    by_day = pd.DataFrame(laid).groupby(day).nunique()
    assert (by_day == 1).all(axis=None)
    assert len(np.unique(laid[:, 0])) > 5
    # A block larger than those with labels is filled from several of them.
    (laid,) = model._block_noise(np.zeros(600, dtype=int), 30, 0)
    assert pd.DataFrame(laid).nunique().min() > 1


def test_calibration_looks_at_rows_like_the_new_ones() -> None:
    """A model that is right over all rows and wrong for each group: the group that becomes frequent must count."""

    def mix(size: int, share: float, seed: int) -> Rows:
        rng = np.random.default_rng(seed)
        group, p = rng.random(size) < share, rng.uniform(0.05, 0.95, size)
        y = (rng.random(size) < np.where(group, 0.5, p)).astype(float)
        return Rows(pd.DataFrame({"group": group.astype(float)}), p, y, rng.integers(0, DAYS, size))

    known, new = mix(6_000, 0.3, 1), mix(3_000, 0.9, 2)
    estimate = learnt("binary", "log_loss", known).estimate(new.prediction, new.frame, new.day, resamples=100)
    realised = metric_value("binary", "log_loss", new.y, new.prediction)
    assert estimate.value == pytest.approx(realised, rel=0.07)
    assert metric_value("binary", "log_loss", known.y, known.prediction) < 0.85 * realised


def test_expected_losses_are_paired_with_realised_ones() -> None:
    for task, metric in EVERY:
        known, new = rows(task, seed=1), rows(task, seed=2)
        expected = learnt(task, metric, known).expected(new.prediction, new.frame)
        realised = estimation.loss_of(task, metric)(new.y, new.prediction)
        assert expected.shape == realised.shape == new.y.shape
        assert expected.mean() == pytest.approx(realised.mean(), rel=0.1), metric
        assert np.corrcoef(expected, realised)[0, 1] > 0.1, metric


def test_small_calibrations_are_logistic_and_a_rare_class_is_left_as_it_is() -> None:
    known, new = rows("binary", 300, seed=1), rows("binary", 300, seed=2)
    expected = learnt("binary", "brier", known).expected(new.prediction, new.frame)
    assert len(np.unique(expected)) == len(new.y)  # isotonic regression would leave steps
    known, new = rows("multiclass", seed=1), rows("multiclass", seed=2)
    kept = np.flatnonzero((known.y != 2) | (np.cumsum(known.y == 2) <= 3))
    few = Rows(known.frame.iloc[kept], known.prediction[kept], known.y[kept], known.day[kept])
    estimate = learnt("multiclass", "log_loss", few).estimate(new.prediction, new.frame, new.day, resamples=50)
    assert estimate.value is not None


def test_more_rows_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importance_weighting, "MAX_ROWS", 800)
    known, new = rows("binary", 2_000, seed=1), rows("binary", 2_000, seed=2)
    model = learnt("binary", "log_loss", known)
    estimate = model.estimate(new.prediction, new.frame, new.day, resamples=50)
    assert estimate.rows == 800
    assert estimate.value == pytest.approx(metric_value("binary", "log_loss", new.y, new.prediction), rel=0.2)
    assert len(model.expected(new.prediction, new.frame)) == 2_000
    excess_loss = model.excess_loss(new.y, new.prediction, new.frame, new.day)
    assert excess_loss is not None
    assert excess_loss.rows == 800


@pytest.mark.parametrize("task", METRICS)
def test_the_same_seed_gives_the_same_answer(task: str) -> None:
    known, new = rows(task, 800, seed=1), rows(task, 500, seed=2)
    metric = next(iter(METRICS[task]))
    estimates = [
        learnt(task, metric, known, seed).estimate(new.prediction, new.frame, new.day, resamples=50, seed=seed)
        for seed in (0, 0, 1)
    ]
    assert estimates[0] == estimates[1] != estimates[2]


# --- the excess_loss


@pytest.mark.parametrize("task", METRICS)
def test_drift_of_the_concept_is_not_seen_without_labels_and_is_with_them(task: str) -> None:
    metric = next(iter(METRICS[task]))
    model = learnt(task, metric, rows(task, seed=1))
    new = rows(task, seed=2, drift=1)
    estimate = model.estimate(new.prediction, new.frame, new.day, resamples=100)
    realised = metric_value(task, metric, new.y, new.prediction)
    assert estimate.high is not None
    assert estimate.high < realised
    excess_loss = model.excess_loss(new.y, new.prediction, new.frame, new.day)
    assert excess_loss is not None
    assert excess_loss.worse
    assert excess_loss.relative > 0.1
    judged = backtest([], excess_loss)
    assert judged.verdict == "unreliable"
    assert "the newest labels cost +" in judged.reason


@pytest.mark.parametrize("task", METRICS)
def test_harder_rows_have_no_excess_loss(task: str) -> None:
    metric = next(iter(METRICS[task]))
    known, new = rows(task, seed=1), rows(task, seed=2, shift=1)
    loss = estimation.loss_of(task, metric)
    assert loss(new.y, new.prediction).mean() > 1.05 * loss(known.y, known.prediction).mean()
    excess_loss = learnt(task, metric, known).excess_loss(new.y, new.prediction, new.frame, new.day)
    assert excess_loss is not None
    assert excess_loss.low is not None
    assert excess_loss.high is not None
    assert excess_loss.low < 0 < excess_loss.high
    assert abs(excess_loss.relative) < 0.1
    assert excess_loss.excess == pytest.approx(excess_loss.realised - excess_loss.expected)


def test_rows_that_became_easier_are_said_to_be_better() -> None:
    known, new = rows("regression", seed=1), rows("regression", seed=2)
    better = new.prediction + 0.5 * (new.y - new.prediction)
    excess_loss = learnt("regression", "rmse", known).excess_loss(better, new.prediction, new.frame, new.day)
    assert excess_loss is not None
    assert excess_loss.better
    assert not excess_loss.worse
    assert backtest([], excess_loss).verdict == "unreliable"


def test_labels_of_some_rows_are_enough() -> None:
    model, new = learnt("binary", "roc_auc", rows("binary", seed=1)), rows("binary", seed=2)
    part = np.where(new.day < 10, new.y, np.nan)
    some = model.excess_loss(part, new.prediction, new.frame, new.day)
    here = new.day < 10
    same = model.excess_loss(new.y[here], new.prediction[here], new.frame[here], new.day[here])
    assert some == same
    assert some is not None
    assert (some.loss, some.rows, some.blocks) == ("log_loss", int(here.sum()), 10)
    assert model.excess_loss(np.full(len(new.y), np.nan), new.prediction, new.frame, new.day) is None
    single_block = model.excess_loss(np.where(new.day == 0, new.y, np.nan), new.prediction, new.frame, new.day)
    assert single_block is not None
    assert single_block.low is None
    assert not single_block.worse


# --- the backtest

HIT, MISS = PastEstimate(0.5, 0.4, 0.6, 0.55), PastEstimate(0.5, 0.4, 0.6, 0.7)


@pytest.mark.parametrize(
    ("past", "verdict"),
    [
        ([], "undetermined"),
        ([MISS], "undetermined"),
        ([MISS, MISS], "unreliable"),
        ([HIT] * 4, "undetermined"),
        ([HIT] * 5, "reliable"),
        ([HIT] * 9 + [MISS], "reliable"),
        ([HIT] * 7 + [MISS] * 3, "reliable"),
        ([HIT] * 6 + [MISS] * 4, "unreliable"),
        ([HIT] * 6 + [PastEstimate(0.5, 0.4, 0.6, 0.3)] * 4, "unreliable"),
    ],
    ids=["none", "one miss", "two misses", "four", "five", "one of ten", "three of ten", "four of ten", "too low"],
)
def test_intervals_that_miss_too_often_are_not_relied_on(past: list[PastEstimate], verdict: str) -> None:
    judged = backtest(past)
    assert judged.verdict == verdict
    assert judged.reliable == (verdict != "unreliable")
    assert judged.of == len(past)
    assert judged.reason


@pytest.mark.parametrize(
    ("low", "excess", "verdict"),
    [(0.01, 0.2, "unreliable"), (-0.01, 0.2, "reliable"), (0.01, 0.05, "reliable"), (None, 0.2, "reliable")],
    ids=["certain and large", "by chance", "small", "one block"],
)
def test_the_newest_excess_loss_counts_if_it_is_certain_and_large(
    low: float | None, excess: float, verdict: str
) -> None:
    excess_loss = ExcessLoss("log_loss", 1 + excess, 1.0, excess, low, low and 0.3, rows=100, blocks=10)
    assert backtest([HIT] * 8, excess_loss).verdict == verdict


def test_the_stated_level_decides_what_is_too_often() -> None:
    past = [HIT] * 6 + [MISS] * 4
    assert backtest(past, level=0.2).verdict == "reliable"


# --- what cannot be estimated


def test_nothing_is_learnt_from_too_little() -> None:
    known = rows("binary", 150)
    with pytest.raises(DegenerateTraining, match="150 labelled rows in 30 block"):
        learnt("binary", "log_loss", known)
    known = rows("binary", 400)
    with pytest.raises(DegenerateTraining, match="400 labelled rows in 1 block"):
        learnt("binary", "log_loss", known._replace(day=np.zeros(400, dtype=int)))
    with pytest.raises(DegenerateTraining, match="400 labelled rows have 0 outcomes besides"):
        learnt("binary", "log_loss", known._replace(y=np.zeros(400)))
    with pytest.raises(DegenerateTraining, match="have 1 outcomes besides"):
        learnt("multiclass", "log_loss", rows("multiclass", 400)._replace(y=np.eye(400)[0]))
    with pytest.raises(DegenerateTraining, match="no error in 400"):
        learnt("regression", "mae", known._replace(y=known.prediction))
    with pytest.raises(NonFiniteMetric, match="1 of 400 outcomes"):
        learnt("binary", "log_loss", known._replace(y=np.where(np.arange(400) == 3, np.nan, known.y)))


def test_new_rows_that_cannot_be_read_are_refused() -> None:
    model, new = learnt("binary", "log_loss", rows("binary", 400)), rows("binary", 300, seed=2)
    with pytest.raises(NonFiniteMetric):
        model.estimate(np.full(300, np.nan), new.frame, new.day)
    with pytest.raises(NonFiniteMetric):
        model.estimate(new.prediction[:0], new.frame[:0], new.day[:0])
    with pytest.raises(SchemaChanged, match="no column b, word"):
        model.expected(new.prediction, new.frame.drop(columns=["b", "word"]))


def test_a_metric_without_an_answer_says_why() -> None:
    model = learnt("binary", "roc_auc", rows("binary", seed=1))
    new = rows("binary", 2, seed=2)
    estimate = model.estimate(new.prediction, new.frame, new.day)
    assert astuple(estimate)[:3] == (None, None, None)
    assert "roc_auc is undefined in" in estimate.reason


@pytest.mark.parametrize("task", METRICS)
def test_odd_rows_give_numbers_and_no_warning(task: str) -> None:
    """Unknown and missing categories, an empty column, no usable column, one constant prediction, certain ones."""
    metric = next(iter(METRICS[task]))
    known, new = rows(task, 600, seed=1), rows(task, 300, seed=2)
    flat = np.full_like(new.prediction, 1 / 3 if task == "multiclass" else 0.5)
    certain = np.eye(3)[new.y.astype(int) % 3] if task == "multiclass" else new.y.clip(0, 1).round()
    odd = new.frame.assign(a=np.nan, word=pd.Categorical(["unheard"] * 150 + [None] * 150))
    bare = new.frame[[]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = learnt(task, metric, known)
        blank = learnt(task, metric, known._replace(frame=known.frame[[]]))
        estimates = [
            model.estimate(new.prediction, odd, new.day, resamples=50),
            model.estimate(flat, new.frame, new.day, resamples=50),
            model.estimate(certain, new.frame, new.day, resamples=50),
            blank.estimate(new.prediction, bare, new.day, resamples=50),
        ]
    for estimate in estimates:
        assert all(value is not None and np.isfinite(value) for value in (estimate.value, estimate.low, estimate.high))


# --- the benchmark


def test_the_benchmark_tells_no_change_from_drift_of_the_concept() -> None:
    settings = (benchmark.SETTINGS[0], benchmark.SETTINGS[-1])
    intervals = benchmark.follow("binary", "linear", 0, 500, settings)
    table = benchmark.table(intervals, "binary", settings, 500)
    assert [row[0] for row in table.rows] == [
        f"{metric}, {one.name}" for metric in benchmark.METRICS["binary"] for one in settings
    ]
    assert {len(row) for row in table.rows} == {len(table.columns)}
    last = [one.verdict for one in intervals if one.verdict][benchmark.INTERVALS - 1 :: benchmark.INTERVALS]
    assert last == ["reliable", "unreliable"]
