"""Training windows in the search: which are tried, and what recency weights do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.utils.class_weight import compute_sample_weight

from retrain.errors import EstimatorRefused
from retrain.modeling import early_stopping, pipelines, trainer
from retrain.modeling.folds import Rows, folds
from retrain.modeling.search import configurations, search
from retrain.results import Configuration
from retrain.spec import Spec
from tests.trained import spec_from

DAY = np.timedelta64(1, "D")
HALF = {"half_life": "60d"}


@pytest.fixture
def spec_for(spec_of: Callable[[], dict[str, Any]]) -> Callable[..., Spec]:
    def make(**training: Any) -> Spec:
        data = spec_of()
        data["training"] |= {"early_stopping": 0} | training
        return spec_from(data)

    return make


def turned_world(months: int = 8, per_month: int = 200, turn: int = 5) -> Rows:
    """Months in which the outcome follows the visits, and from `turn` on the other way round."""
    random = np.random.default_rng(7)
    frames = []
    for month in range(months):
        begin = pd.Timestamp("2024-01-01", tz="UTC") + pd.DateOffset(months=month)
        moments = begin + pd.to_timedelta(np.sort(random.integers(0, 28 * 86400, per_month)), unit="s")
        visits = random.normal(0, 1, per_month)
        sign = 1 if month < turn else -1
        churned = (random.random(per_month) < 1 / (1 + np.exp(-2 * sign * visits))).astype(float)
        frames.append(
            pd.DataFrame(
                {"signup": moments, "plan": "basic", "visits": visits, "spend": 1.0, "member": 0.0, "y": churned}
            )
        )
    frame = pd.concat(frames, ignore_index=True)
    frame["plan"] = pd.Categorical(frame["plan"])
    return Rows(frame.drop(columns="y"), frame["y"].to_numpy(), np.repeat(np.arange(months), per_month))


def test_a_half_life_competes_beside_the_other_windows(spec_for: Callable[..., Spec]) -> None:
    spec = spec_for(candidates=[{"estimator": "linear"}], windows=["all", 3, HALF, {"half_life": "1w"}, "change"])
    tried = [configuration.label for configuration in configurations(spec, 8)]
    assert tried == ["linear, all", "linear, last 3", "linear, all with half-life 60d", "linear, all with half-life 7d"]
    result = search(spec, turned_world())
    assert result.configuration.half_life == 7.0, "the world has turned: old rows mislead"


def test_weights_halve_with_each_half_life(spec_for: Callable[..., Spec]) -> None:
    spec, rows = spec_for(), turned_world()
    configuration = configurations(spec_for(windows=[HALF]), 8)[0]
    weight = pipelines.recency_weight(spec, configuration, rows.frame)
    assert weight is not None
    assert weight.max() == weight[-1] == 1.0
    when = rows.frame["signup"].to_numpy()
    old = np.searchsorted(when, when[-1] - 60 * DAY)
    assert weight[old] == pytest.approx(0.5, rel=0.02)
    assert pipelines.recency_weight(spec, pipelines.on_window(configuration, "all"), rows.frame) is None


def test_the_fit_has_the_weights_and_balance_counts_them(spec_for: Callable[..., Spec]) -> None:
    rows = turned_world()
    frame = rows.frame[["visits"]].to_numpy()
    for balance in (False, True):
        spec = spec_for(candidates=[{"estimator": "linear"}], windows=[HALF], balance=balance)
        configuration = configurations(spec, 8)[0]
        model, used = trainer.fit_on_window(spec, configuration, rows)
        assert len(used.y) == len(rows.y), "every row is read"
        weight = pipelines.recency_weight(spec, configuration, rows.frame)
        assert weight is not None
        if balance:
            mass = [weight[rows.y == code].sum() for code in (0, 1)]
            weight = weight * (len(rows.y) / (2 * np.array(mass)))[rows.y.astype(int)]
            sums = [weight[rows.y == code].sum() for code in (0, 1)]
            assert sums[0] == pytest.approx(sums[1])
        scaled = (frame - frame.mean()) / frame.std()
        by_hand = LogisticRegression(max_iter=1000).fit(scaled, rows.y.astype(int), sample_weight=weight)
        answers = pipelines.predict(model, "binary", rows.frame)
        assert answers == pytest.approx(by_hand.predict_proba(scaled)[:, 1], abs=0.02)
        plain, _ = trainer.fit_on_window(spec, pipelines.on_window(configuration, "all"), rows)
        assert np.abs(pipelines.predict(plain, "binary", rows.frame) - answers).max() > 0.2


def test_balance_without_recency_is_scikit_learns(spec_for: Callable[..., Spec]) -> None:
    y = turned_world().y.astype(int)
    y[:500] = 0
    assert np.array_equal(pipelines._balanced(y, None), compute_sample_weight("balanced", y))
    recency = np.linspace(0.01, 1, len(y))
    sums = np.bincount(y, weights=pipelines._balanced(y, recency))
    assert sums[0] == pytest.approx(sums[1]), "the class of the older rows weighs as much"


def test_trees_are_counted_with_the_weights(spec_for: Callable[..., Spec]) -> None:
    spec = spec_for(candidates=[{"estimator": "xgboost"}], windows=[{"half_life": "30d"}], early_stopping=5)
    configuration, rows = configurations(spec, 8)[0], turned_world(turn=4)
    counted = early_stopping.count_trees(spec, configuration, rows)
    plain = early_stopping.count_trees(spec, pipelines.on_window(configuration, "all"), rows)
    assert counted.half_life == 30.0
    assert counted.parameters["n_estimators"] != plain.parameters["n_estimators"]
    assert early_stopping.same_except_trees(spec, configuration, counted)
    assert not early_stopping.same_except_trees(spec, configuration, plain)


def test_an_estimator_without_weights_is_refused(spec_for: Callable[..., Spec]) -> None:
    neighbours = "sklearn.neighbors.KNeighborsClassifier"
    spec = spec_for(candidates=[{"estimator": neighbours}], windows=["all", HALF])
    with pytest.raises(EstimatorRefused, match="takes no weights"):
        configurations(spec, 8)


def test_a_configuration_without_half_life_reads_as_before() -> None:
    former = {"estimator": "linear", "parameters": {"C": 1.0}, "window": 3, "since": None, "pipeline": "ab"}
    configuration = Configuration.model_validate(former)
    assert configuration.model_dump(mode="json") == former, "its digests stay"
    assert configuration.label == "linear, last 3"
    weighed = Configuration(estimator="linear", parameters={}, pipeline="ab", half_life=0.5)
    assert Configuration.from_json(weighed.to_json()) == weighed
    assert weighed.label == "linear, all with half-life 0.5d"
    assert weighed != weighed.model_copy(update={"half_life": 1.0})


@pytest.mark.parametrize("estimator", ["linear", "xgboost"])
@pytest.mark.parametrize("group", [None, "plan"])
def test_rows_of_one_moment_are_cut_without_time(
    spec_for: Callable[..., Spec], estimator: str, group: str | None
) -> None:
    """A table as it stood on one day, taken as one interval: no row lies before another."""
    months = turned_world(months=1, per_month=300)
    plans = pd.Categorical(np.random.default_rng(1).choice(["basic", "plus", "pro", "team"], 300))
    rows = Rows(months.frame.assign(signup=months.frame["signup"].iloc[0], plan=plans), months.y, months.interval)
    spec = spec_for(candidates=[{"estimator": estimator}], early_stopping=5, group=group)
    cut = list(folds(spec, rows))
    assert len(cut) == spec.training.search.folds
    assert sorted(np.concatenate([valid for _, valid in cut])) == list(range(300))
    for train, valid in (*cut, *early_stopping.stretches(spec, rows)):
        assert len(np.unique(rows.y[train])) == len(np.unique(rows.y[valid])) == 2
        assert set(train) & set(valid) == set()
        if group:
            assert set(plans[train]) & set(plans[valid]) == set()
    assert search(spec, rows).configuration.estimator == estimator
