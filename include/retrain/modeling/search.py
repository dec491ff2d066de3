"""The search for a configuration inside the training rows.

Successive halving over the candidates, their parameters and the training windows together: all are scored on
few rows, the better third on three times as many, the last on all (Jamieson and Talwalkar, "Non-stochastic Best
Arm Identification and Hyperparameter Optimization", 2016). scikit-learn's own search is not used: it cannot let
windows compete on the same validation rows, keep the default in the race to its end, or share the encoded rows of
a fold between trials, which is where half of the time went.

Everything learnt from rows is learnt inside the fold: encoders, weights, and the number of trees, which XGBoost
finds on the newest part of the fold's own training rows, never on its validation rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.model_selection import ParameterGrid, ParameterSampler

from retrain.errors import NonFiniteMetric
from retrain.modeling import pipelines
from retrain.modeling.early_stopping import (
    best_count,
    loss_curve,
    same_except_trees,
    stops_early,
    stretches,
    with_trees,
    without_trees,
)
from retrain.modeling.estimators import DEFAULTS, unfitted
from retrain.modeling.folds import Fold, Rows, folds, in_window, usable
from retrain.modeling.metrics import Array, metric_value
from retrain.modeling.ranges import Outside, outside_range
from retrain.results import Configuration
from retrain.spec import COMPANIONS, Recency, Spec, Window

Cache = dict[tuple[Any, ...], tuple[Any, ...]]

ETA = 3
RUNG_ROWS = 2_000
"""A rung with fewer rows would rank by chance."""


@dataclass(frozen=True)
class SearchResult:
    """The configuration that won, and how the others did.

    Attributes:
        configuration: the winner.
        score: its mean of the primary metric over the folds; None where nothing was compared.
        incumbent: the incumbent's.
        tried: a table for people, a row per configuration with its scores per fold.
        notes: why nothing was compared, or what the winner does outside the range of its training rows.
    """

    configuration: Configuration
    score: float | None
    incumbent: float | None
    tried: tuple[dict[str, Any], ...]
    notes: tuple[str, ...] = ()


def configurations(spec: Spec, intervals: int) -> tuple[Configuration, ...]:
    """The configurations to try, at most `trials` per candidate: as the spec has it on each window, then drawn ones.

    Of the windows that hold all of the `intervals` there are, one is tried, and every half-life.

    Raises:
        EstimatorRefused: any of them cannot be built.
    """
    digest = pipelines.pipeline_digest(spec)
    chosen: dict[str, Configuration] = {}
    reach = {
        window: window if isinstance(window, Recency) else intervals if window == "all" else min(window, intervals)
        for window in spec.training.windows
        if window != "change"
    }
    windows = [
        window
        for window in reach
        if window == min((other for other in reach if reach[other] == reach[window]), key=_widest)
    ]
    for candidate in spec.training.candidates:
        base = {**DEFAULTS.get(candidate.estimator, {}), **candidate.parameters}
        if candidate.encode:
            base["encode"] = candidate.encode
        space: dict[str, list[Any]] = {**candidate.search, "window": windows}
        trials = max(spec.training.search.trials, len(windows))
        drawn = ParameterSampler(space, min(trials, len(ParameterGrid(space))), random_state=spec.training.seed)
        tried = [{"window": window} for window in windows] + (list(drawn) if candidate.search else [])
        for trial in tried[:trials]:
            parameters = {**base, **{name: value for name, value in trial.items() if name != "window"}}
            bare = Configuration(estimator=candidate.estimator, parameters=parameters, pipeline=digest)
            configuration = pipelines.on_window(bare, trial["window"])
            pipelines.build(spec, configuration)
            chosen.setdefault(configuration.to_json(), configuration)
    return tuple(chosen.values())


def _widest(window: Window) -> float:
    return -window if isinstance(window, int) else -math.inf


def search(
    spec: Spec, rows: Rows, incumbent: Configuration | None = None, say: Callable[[str], None] = lambda _: None
) -> SearchResult:
    """Find the configuration that scores best over the folds, on at most `max_rows` of the rows.

    The incumbent (the champion's configuration) and the spec's first candidate as it stands are scored to the
    end, and one of them is kept, in this order, unless the best one's gain over it is larger than one standard
    error of that gain over the folds (Breiman et al., "Classification and Regression Trees", 1984): luck in the
    search does not change a model. Under a loss without a bound, one that answers rows outside the range of its
    training rows worse than the mean outcome does is passed over, where another does not (`retrain.modeling.ranges`).

    Args:
        spec: the model's.
        rows: the training rows.
        incumbent: the champion's configuration.
        say: is told how far the search has come, a line per rung.

    Raises:
        EstimatorRefused: a configuration cannot be built.
        DegenerateTraining: the rows cannot be split into folds.
        NonFiniteMetric: no configuration has a finite score on every fold.
    """
    trials = list(configurations(spec, int(rows.interval.max()) + 1))
    kept = [0]
    if incumbent is not None:
        # Its trees are counted anew like everybody's: their number belongs to the rows they were counted on.
        recounted = without_trees(spec, incumbent)
        first = next((trial for trial in trials if same_except_trees(spec, trial, incumbent)), recounted)
        kept = [0] if first == trials[0] else [0, 1]
        trials = [first, *(trial for trial in trials if trial != first)]
    limit, seed = spec.training.search.max_rows, spec.training.seed
    if len(rows.y) > limit:
        rows = rows.take(np.sort(np.random.default_rng(seed).choice(len(rows.y), limit, replace=False)))
    cut = [(train, valid) for train, valid in folds(spec, rows) if usable(spec, rows.y[train], rows.y[valid])]
    if len(trials) == 1 or not cut:
        note = () if cut else ("no fold had two outcomes on both sides: the first configuration stands",)
        return SearchResult(trials[0], None, None, (), note)

    # These steps learn nothing from rows: once for all folds.
    first_steps = pipelines.build(spec, trials[kept[-1]])[:-2]
    inputs = first_steps.fit_transform(rows.frame, rows.y)
    rows = Rows(_with_fold_columns(rows.frame, inputs, spec), rows.y, rows.interval)
    sign = 1 if spec.greater_is_better else -1
    race = _Race(spec, rows, cut, trials)
    alive, table = list(range(len(trials))), dict[int, list[float]]()
    tried: dict[int, dict[str, Any]] = {}
    shares = _shares(spec, len(trials), min(len(train) for train, _ in cut))
    for rung, share in enumerate(shares):
        say(f"search: {len(alive)} configurations on {share:.0%} of {len(rows.y):,} rows, {len(cut)} folds")
        table = race.run(alive, share)
        for number in alive:
            tried[number] = _record(trials[number], sign, table.get(number), share, race.counts.get(number))
            tried[number] |= {"outside": race.outside[number].share, "extrapolates": race.outside[number].extrapolates}
        alive = sorted(table, key=lambda number: (-_mean(table[number]), number))
        if rung < len(shares) - 1:
            alive = sorted({*kept, *alive[: math.ceil(len(alive) / ETA)]})
    if not table:
        raise NonFiniteMetric(f"no configuration reached a finite {spec.gate.metric}", do="look at the candidates")
    steady = alive
    if spec.gate.metric in COMPANIONS:
        steady = [number for number in alive if not race.outside[number].extrapolates] or alive
    as_good = (
        number for number in kept if number in steady and _within_one_standard_error(table[number], table[steady[0]])
    )
    best = next(as_good, steady[0])
    tried[best]["chosen"] = True
    means = {number: sign * _mean(values) for number, values in table.items()}
    incumbents = means.get(0) if incumbent else None
    return SearchResult(trials[best], means[best], incumbents, tuple(tried.values()), _notes(tried, best, alive[0]))


class _Race:
    """Trials on the folds, by their number; the encoded rows of a fold are shared by trials that read them alike."""

    def __init__(self, spec: Spec, rows: Rows, folds: list[Fold], trials: list[Configuration]):
        self.spec, self.rows, self.folds, self.trials = spec, rows, folds, trials
        self.counts: dict[int, list[int]] = {}
        self.numeric = [name for name in pipelines.columns(spec)[0] if name in rows.frame]
        self.outside: dict[int, Outside] = {}

    def run(self, alive: list[int], share: float) -> dict[int, list[float]]:
        """Scores per fold, greater is better; a trial that is not finite somewhere is left out."""
        table: dict[int, list[float]] = {number: [] for number in alive}
        self.counts, self.outside = {}, {number: Outside() for number in alive}
        sign = 1 if self.spec.greater_is_better else -1
        for place, (train, valid) in enumerate(self.folds):
            order = np.random.default_rng([self.spec.training.seed, place]).permutation(len(train))
            part = np.sort(order[: math.ceil(len(train) * share)])
            cache: Cache = {}
            for number in [number for number in alive if number in table]:
                try:
                    answer = self._answer(number, train[part], valid, cache)
                    value = metric_value(self.spec.task, self.spec.gate.metric, self.rows.y[valid], answer)
                    table[number].append(sign * value)
                    self._look_outside(number, train[part], valid, answer, cache)
                except NonFiniteMetric:
                    del table[number]
        return table

    def _look_outside(self, number: int, train: Array, valid: Array, answer: Array, cache: Cache) -> None:
        """Count the validation rows outside the range of what a trial was fitted on, and what it answers there."""
        window = self.trials[number].window
        train, key = in_window(self.rows.interval, train, window), ("outside", window)
        if key not in cache:
            cache[key] = (outside_range(self.rows.frame, self.numeric, train, valid),)
        y = self.rows.y
        self.outside[number].add(self.spec.task, y[train], y[valid], answer, cache[key][0])

    def _answer(self, number: int, train: Array, valid: Array, cache: Cache) -> Array:
        """The predictions of a trial for the validation rows of a fold."""
        spec, configuration = self.spec, self.trials[number]
        train = in_window(self.rows.interval, train, configuration.window)
        y, frame = self.rows.y, self.rows.frame.iloc[train]
        if spec.task != "regression" and len(np.unique(y[train])) < 2:
            raise NonFiniteMetric("one outcome in a fold", do="take a longer window")
        if stops_early(spec, configuration):
            for fit, rest in stretches(spec, self.rows.take(train), 1):
                encoded, watched = self._encoded(configuration, train[fit], train[rest], "count", cache)
                recency = pipelines.recency_weight(spec, configuration, frame.iloc[fit])
                patience = spec.training.early_stopping
                curve = loss_curve(
                    spec, configuration, encoded, y[train[fit]], recency, watched, y[train[rest]], patience
                )
                configuration = with_trees(configuration, best_count([curve]))
                self.counts.setdefault(number, []).append(configuration.parameters["n_estimators"])
        encoded, judged = self._encoded(configuration, train, valid, "fit", cache)
        recency = pipelines.recency_weight(spec, configuration, frame)
        last = pipelines.fit_last(spec, unfitted(spec, configuration), encoded, y[train], recency)
        return pipelines.predict_last(last, spec.task, judged, len(spec.classes))

    def _encoded(
        self, configuration: Configuration, train: Array, other: Array, part: str, cache: Cache
    ) -> tuple[Any, ...]:
        key = (part, configuration.estimator, configuration.parameters.get("encode"), configuration.window)
        if key not in cache:
            columns = pipelines.build(self.spec, configuration).named_steps["columns"]
            encoded = columns.fit_transform(self.rows.frame.iloc[train], self.rows.y[train])
            cache[key] = (encoded, columns.transform(self.rows.frame.iloc[other]))
        return cache[key]


def _with_fold_columns(frame: pd.DataFrame, inputs: pd.DataFrame, spec: Spec) -> pd.DataFrame:
    """The inputs with those columns of the frame that folds are cut by."""
    missing = [name for name in (spec.source.time, spec.training.group) if name and name not in inputs]
    return inputs.assign(**{name: frame[name] for name in missing})


def _shares(spec: Spec, trials: int, rows: int) -> list[float]:
    """The share of rows of each rung, rising to 1."""
    if spec.training.search.method == "random" or trials <= ETA:
        return [1.0]
    rungs = min(int(math.log(trials, ETA) + 1e-9), 2)
    while rungs and rows / ETA**rungs < RUNG_ROWS:
        rungs -= 1
    return [ETA**-rung for rung in range(rungs, -1, -1)]


def _mean(values: list[float]) -> float:
    return float(np.mean(values))


def _within_one_standard_error(scores: list[float], best: list[float]) -> bool:
    """Whether the best one's gain over these scores, fold by fold, is within one standard error of that gain."""
    gain = np.asarray(best) - np.asarray(scores)
    error = float(np.std(gain, ddof=1)) / math.sqrt(len(gain)) if len(gain) > 1 else 0.0
    return float(gain.mean()) <= error


def _notes(tried: dict[int, dict[str, Any]], best: int, first: int) -> tuple[str, ...]:
    """What a person should know of the rows outside the range of the training rows."""
    notes = []
    if tried[best]["outside"]:
        notes.append(f"{tried[best]['outside']:.1%} of the validation rows have a number outside the training range")
    if best != first and tried[first]["extrapolates"]:
        name = tried[first]["configuration"]
        notes.append(f"{name} scored best, but answers those worse than the mean outcome does: passed over")
    elif tried[best]["extrapolates"]:
        notes.append(f"{tried[best]['configuration']} answers those worse than the mean outcome does, like all others")
    return tuple(notes)


def _record(
    trial: Configuration, sign: int, values: list[float] | None, share: float, counts: list[int] | None
) -> dict[str, Any]:
    return {
        "configuration": trial.label,
        "parameters": trial.parameters,
        "share": share,
        "scores": None if values is None else [sign * value for value in values],
        "mean": None if values is None else sign * _mean(values),
        "trees": counts,
        "chosen": False,
    }
