"""Metrics against scikit-learn, and the resampling of blocks against what it should cover."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from retrain.errors import NonFiniteMetric
from retrain.modeling import gains, metrics, resampling
from retrain.spec import METRICS, Spec, parse

RNG = np.random.default_rng(7)
N = 400


@pytest.fixture(autouse=True)
def _the_same_rows_in_any_order_of_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "RNG", np.random.default_rng(7))


def binary() -> tuple[np.ndarray, np.ndarray]:
    y = (RNG.random(N) < 0.3).astype(float)
    return y, np.clip(0.3 + 0.25 * (y - 0.3) + 0.15 * RNG.normal(size=N), 0, 1).round(2)  # rounded: with ties


def multiclass() -> tuple[np.ndarray, np.ndarray]:
    y = RNG.integers(0, 3, N)
    p = RNG.dirichlet([1, 1, 1], N) + 0.4 * np.eye(3)[y]
    return y.astype(float), p / p.sum(axis=1, keepdims=True)


def regression() -> tuple[np.ndarray, np.ndarray]:
    y = RNG.normal(100, 20, N)
    return y, y + RNG.normal(2, 8, N)


DATA = {"binary": binary, "multiclass": multiclass, "regression": regression}


# --- one number


@pytest.mark.parametrize("task", DATA)
def test_every_metric_is_finite_on_sound_rows(task: str) -> None:
    y, p = DATA[task]()
    values = metrics.metric_values(task, y, p)
    assert METRICS[task].keys() <= values.keys()
    assert all(value is not None and np.isfinite(value) for value in values.values())


def test_weights_count_as_repeated_rows() -> None:
    for task, data in DATA.items():
        y, p = data()
        weight = RNG.integers(1, 4, N)
        repeated = metrics.metric_values(task, y.repeat(weight), p.repeat(weight, axis=0))
        weighted = metrics.metric_values(task, y, p, weight.astype(float))
        # The weighted median lies between two rows where the repeated one lies on them.
        for name in repeated.keys() - {"median_ae", "ece"}:
            assert weighted[name] == pytest.approx(repeated[name]), name


def test_one_class_leaves_ranks_undefined_and_log_loss_fine() -> None:
    y, p = np.zeros(50), np.full(50, 0.2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = metrics.metric_values("binary", y, p)
    assert values["roc_auc"] is None
    assert values["average_precision"] is None
    assert values["recall"] is None
    assert values["log_loss"] == pytest.approx(-np.log(0.8))
    with pytest.raises(NonFiniteMetric, match="roc_auc is undefined on 50 rows with 1 distinct"):
        metrics.metric_value("binary", "roc_auc", y, p)


def test_constant_outcome_has_no_r2() -> None:
    values = metrics.metric_values("regression", np.full(20, 3.0), np.linspace(2, 4, 20))
    assert values["r2"] is None
    assert values["rmse"] is not None


def test_relative_error_is_left_out_near_zero() -> None:
    assert metrics.metric_values("regression", np.array([0.0, 5.0, 9.0]), np.array([1.0, 5.0, 9.0]))["mape"] is None


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 1.5, -0.2])
def test_what_is_no_probability_is_refused(wrong: float) -> None:
    with pytest.raises(NonFiniteMetric):
        metrics.metric_value("binary", "log_loss", np.array([0.0, 1.0]), np.array([0.5, wrong]))


def test_outcome_without_a_value_is_refused() -> None:
    with pytest.raises(NonFiniteMetric, match="1 of 2 outcomes"):
        metrics.metric_value("regression", "mae", np.array([0.0, np.nan]), np.array([0.5, 1.0]))


def test_calibration_error_is_zero_where_predictions_mean_what_they_say() -> None:
    p = np.repeat([0.1, 0.6], 50)
    y = np.concatenate([np.r_[np.ones(5), np.zeros(45)], np.r_[np.ones(30), np.zeros(20)]])
    assert metrics.metric_values("binary", y, p)["ece"] == pytest.approx(0)
    assert metrics.metric_values("binary", 1 - y, p)["ece"] == pytest.approx(0.5 * 0.8 + 0.5 * 0.2)


@pytest.mark.parametrize(
    ("column", "kind", "names"),
    [
        ([None, None], "number", ["(missing)"]),
        ([2.0, 2.0], "number", ["2"]),
        ([1.0, 0.0, None], "boolean", ["(missing)", "false", "true"]),
        (list("aab"), "category", ["a", "b"]),
    ],
)
def test_bands_of_degenerate_columns(column: list[object], kind: str, names: list[str]) -> None:
    assert sorted(set(metrics.bands(pd.Series(column), kind))) == names


def test_bands_are_few() -> None:
    numbers = metrics.bands(pd.Series(np.arange(100.0)), "number")
    assert numbers.value_counts().tolist() == [25] * 4
    words = metrics.bands(pd.Series([f"w{i}" for i in range(40)] + ["w0"] * 9), "category")
    assert len(set(words)) == metrics.BANDS + 1
    assert (words == "(others)").sum() == 40 - metrics.BANDS
    times = metrics.bands(pd.Series(pd.date_range("2024-01-01", periods=48, freq="h", tz="UTC")), "datetime")
    assert times.nunique() == 4


# --- draws


def drawn(task: str, metric: str, y: Any, p: Any, block: Any) -> resampling.Draws:
    return resampling.resample(task, metric, y, p, block, resamples=200, seed=0, leave_out=True)


@pytest.mark.parametrize(("task", "metric"), [(task, metric) for task in METRICS for metric in METRICS[task]])
def test_draws_equal_the_metric_on_the_drawn_rows(task: str, metric: str) -> None:
    y, p = DATA[task]()
    block = RNG.integers(0, 9, N)
    block = np.unique(block, return_inverse=True)[1]
    draws = resampling.resample(task, metric, y, p, block, resamples=5, seed=3)
    chosen = np.random.default_rng(3).integers(0, 9, size=(9, 5))
    for place in range(5):
        times = np.bincount(chosen[:, place], minlength=9)[block]
        drawn = metrics.metric_value(task, metric, y.repeat(times), p.repeat(times, axis=0))
        assert draws.drawn[place] == pytest.approx(drawn, abs=1e-12)


@pytest.mark.parametrize(("task", "metric"), [(task, metric) for task in METRICS for metric in METRICS[task]])
def test_without_a_block_is_the_metric_on_the_other_rows(task: str, metric: str) -> None:
    y, p = DATA[task]()
    block = np.arange(N) // 50
    for place, value in enumerate(drawn(task, metric, y, p, block).without):
        left = block != place
        assert value == pytest.approx(metrics.metric_value(task, metric, y[left], p[left]), abs=1e-12)


def test_of_independent_rows_it_is_delongs_variance() -> None:
    """The error of the difference of two areas, by leaving rows out and by DeLong, DeLong and Clarke-Pearson (1988)."""
    y, p = binary()
    worse = np.clip(p + RNG.normal(0, 0.3, N), 0, 1)
    rows = [drawn("binary", "roc_auc", y, q, np.arange(N)) for q in (p, worse)]
    left = rows[0].without - rows[1].without
    over = [np.sign(np.subtract.outer(q[y == 1], q[y == 0])) / 2 + 0.5 for q in (p, worse)]
    hits, misses = (over[0].mean(axis) - over[1].mean(axis) for axis in (1, 0))
    delong = hits.var(ddof=1) / len(hits) + misses.var(ddof=1) / len(misses)
    assert (N - 1) / N * np.sum((left - left.mean()) ** 2) == pytest.approx(delong, rel=0.02)


def test_rank_draws_equal_weighted_auc_of_sklearn() -> None:
    y, p = binary()
    block = np.arange(N)
    draws = resampling.resample("binary", "roc_auc", y, p, block, resamples=3, seed=1)
    chosen = np.random.default_rng(1).integers(0, N, size=(N, 3))
    for place in range(3):
        weight = np.bincount(chosen[:, place], minlength=N)
        assert draws.drawn[place] == pytest.approx(sk.roc_auc_score(y, p, sample_weight=weight), abs=1e-12)


@pytest.mark.parametrize(("task", "metric"), [(task, metric) for task in METRICS for metric in METRICS[task]])
def test_the_same_predictions_gain_exactly_nothing(task: str, metric: str) -> None:
    y, p = DATA[task]()
    one, two = (drawn(task, metric, y, q, np.arange(N) // 20) for q in (p, p.copy()))
    pair = gains.paired_gain(task, ("new", one), ("champion", two), 0.05)
    assert (pair.gain, pair.low, pair.high) == (0.0, 0.0, 0.0)
    assert pair.blocks == 20


@pytest.mark.parametrize(("task", "metric"), [("binary", "log_loss"), ("binary", "roc_auc"), ("regression", "r2")])
def test_a_gain_above_zero_is_better(task: str, metric: str) -> None:
    y, p = DATA[task]()
    worse = RNG.permutation(p)
    good, bad = (drawn(task, metric, y, q, np.arange(N) // 20) for q in (p, worse))
    pair = gains.paired_gain(task, ("new", good), ("champion", bad), 0.05)
    assert 0 < pair.low < pair.gain < pair.high
    back = gains.paired_gain(task, ("new", bad), ("champion", good), 0.05)
    assert (back.low, back.high) == pytest.approx((-pair.high, -pair.low))


def test_a_rare_class_that_is_often_not_drawn_has_no_interval() -> None:
    y = np.zeros(200)
    y[:3] = 1
    draws = drawn("binary", "roc_auc", y, RNG.random(200), np.arange(200) // 20)
    assert np.isnan(draws.drawn).any()
    assert resampling.confidence_interval(draws, 0.05).low is None
    with pytest.raises(NonFiniteMetric, match="undefined in too many draws"):
        gains.paired_gain("binary", ("new", draws), ("champion", draws), 0.05)


def test_one_block_has_no_interval() -> None:
    y, p = binary()
    draws = drawn("binary", "brier", y, p, np.zeros(N, dtype=int))
    assert resampling.confidence_interval(draws, 0.05).low is None


def test_blocks_cover_where_rows_alone_would_not() -> None:
    """90 % intervals of the mean error, 15 days whose rows share a shock: days cover about 90 %, rows far less."""
    days, per_day, trials = 15, 40, 150
    block = np.repeat(np.arange(days), per_day)
    covered = {"day": 0, "row": 0}
    for trial in range(trials):
        rng = np.random.default_rng(trial)
        y = rng.normal(0, 1, days)[block] + rng.normal(0, 1, days * per_day)
        for name, code in (("day", block), ("row", np.arange(len(y)))):
            draws = resampling.resample("regression", "rmse", y, np.zeros(len(y)), code, resamples=300, seed=trial)
            measured = resampling.confidence_interval(draws, 0.05)
            covered[name] += measured.low <= np.sqrt(2) <= measured.high
    assert 0.80 <= covered["day"] / trials <= 0.97
    assert covered["row"] / trials < 0.6


def losses(rng: np.random.Generator, days: int, skewed: bool, follows: float) -> tuple[Any, Any]:
    """Absolute errors, (days * 20,), of two models that are equally good."""
    size = (days, 20)
    common = rng.normal(0, 0.5, days)
    for day in range(1, days):
        common[day] = follows * common[day - 1] + np.sqrt(1 - follows**2) * common[day]
    rare = (rng.random(size) < 0.02) * 50.0 - 1.0 if skewed else rng.normal(0, 1, size)
    return (np.full(days * 20, 60.0), (60 + rare + (0 if skewed else common[:, None])).ravel())


@pytest.mark.parametrize(("skewed", "follows"), [(True, 0.0), (False, 0.0), (False, 0.5)])
def test_a_bound_is_wrong_no_more_often_than_its_level(skewed: bool, follows: float) -> None:
    """Equal models, at 5 %: with rare great losses and with days that follow each other, where percentiles fail."""
    days, trials, wrong = 30, 300, {"paired": 0, "percentile": 0}
    block = np.repeat(np.arange(days), 20)
    for trial in range(trials):
        old, new = losses(np.random.default_rng(trial), days, skewed, follows)
        sides = [drawn("regression", "mae", np.zeros(len(block)), errors, block) for errors in (new, old)]
        pair = gains.paired_gain("regression", ("new", sides[0]), ("champion", sides[1]), 0.05)
        wrong["paired"] += pair.low > 0
        wrong["percentile"] += np.quantile(sides[1].drawn - sides[0].drawn, 0.05) > 0
    assert wrong["paired"] <= 0.075 * trials, wrong
    if skewed or follows:
        assert wrong["percentile"] > 1.5 * wrong["paired"], wrong


def test_a_margin_is_a_share_of_a_score_that_is_uncertain_too() -> None:
    y, p = DATA["regression"]()
    one, two = (drawn("regression", "mae", y, q, np.arange(N) // 20) for q in (p, p + RNG.normal(0, 0.1, N)))
    pair = gains.paired_gain("regression", ("new", one), ("champion", two), 0.05, margin=0.4)
    known = pair.low + 0.4 * two.value
    assert pair.within_low < known - 1e-6
    assert gains.paired_gain("regression", ("new", one), ("champion", two), 0.05).within_low == pair.low


# --- blocks


def spec_with(text: str) -> Spec:
    from retrain.spec import EXAMPLE

    return parse(EXAMPLE + text, "churn")


def test_blocks_are_spans_of_time() -> None:
    times = pd.to_datetime(["2024-01-07T23:59Z", "2024-01-08T00:00Z", "2024-01-08T01:00Z", "2024-01-14T23:00Z"])
    frame = pd.DataFrame({"signup": times, "plan": pd.Categorical(["a", "b", "a", None])})
    for block, codes in {"week": [0, 1, 1, 1], "day": [0, 1, 1, 2], "hour": [0, 1, 2, 3], "row": [0, 1, 2, 3]}.items():
        assert resampling.blocks(spec_with(f"evaluation: {{block: {block}}}"), frame).tolist() == codes, block


def test_a_declared_group_is_the_block() -> None:
    spec = spec_with("").model_copy(update={"training": spec_with("").training.model_copy(update={"group": "plan"})})
    frame = pd.DataFrame({"plan": pd.Categorical(["a", "b", "a", None])})
    assert resampling.blocks(spec, frame).tolist() == [0, 1, 0, 2]


def test_many_blocks_are_joined_with_their_neighbours() -> None:
    frame = pd.DataFrame({"signup": pd.date_range("2024-01-01", periods=2_500, freq="min", tz="UTC")})
    code = resampling.blocks(spec_with("evaluation: {block: row}"), frame)
    assert code.max() + 1 == resampling.MAX_BLOCKS
    assert set(np.bincount(code)) == {2, 3}
    assert (np.diff(code) >= 0).all()
