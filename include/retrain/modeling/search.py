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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.model_selection import (
    GroupKFold,
    GroupShuffleSplit,
    KFold,
    ParameterGrid,
    ParameterSampler,
    ShuffleSplit,
    StratifiedGroupKFold,
    StratifiedKFold,
    StratifiedShuffleSplit,
)

from retrain.errors import DegenerateTraining, NonFiniteMetric
from retrain.modeling import estimators
from retrain.modeling.estimators import Array
from retrain.modeling.metrics import score
from retrain.results import Configuration
from retrain.spec import Spec

Fold = tuple[Array, Array]
Cache = dict[tuple[Any, ...], tuple[Any, ...]]

ETA = 3
RUNG_ROWS = 2_000
"""A rung with fewer rows would rank by chance."""

WATCHED, PARTS = 0.15, 3
"""XGBoost's number of trees is found on the newest three stretches of 15 % of the training rows, each after a fit
on all before it: one stretch alone is a few days of weather. Inside the folds of the search one has to do."""


@dataclass(frozen=True)
class Rows:
    """Labelled training rows, oldest first.

    Attributes:
        frame: the declared columns.
        y: (n,) class codes or numbers.
        interval: (n,) the place of each row's interval, 0 for the oldest.
    """

    frame: pd.DataFrame
    y: Array
    interval: Array

    def take(self, at: Array) -> Rows:
        return Rows(self.frame.iloc[at], self.y[at], self.interval[at])

    def window(self, k: int | None) -> Rows:
        """The rows of the newest `k` intervals."""
        return self.take(within(self.interval, np.arange(len(self.y)), k))


@dataclass(frozen=True)
class Found:
    """The configuration that won, and how the others did.

    Attributes:
        score: its mean of the primary metric over the folds.
        incumbent: the incumbent's.
    """

    configuration: Configuration
    score: float | None
    incumbent: float | None
    tried: tuple[dict[str, Any], ...]
    notes: tuple[str, ...] = ()


def configurations(spec: Spec, intervals: int) -> tuple[Configuration, ...]:
    """What the search tries, at most `trials` per candidate: as the spec has it on each window, then drawn ones.

    Of the windows that hold all of the `intervals` there are, one is tried.

    Raises:
        EstimatorRefused: any of them cannot be built.
    """
    digest = estimators.pipeline_digest(spec)
    made: dict[str, Configuration] = {}
    reach = {
        window: intervals if window == "all" else min(window, intervals)
        for window in spec.training.windows
        if window != "change"
    }
    windows = [one for one in reach if one == min((w for w in reach if reach[w] == reach[one]), key=_widest)]
    for candidate in spec.training.candidates:
        base = {**estimators.DEFAULTS.get(candidate.estimator, {}), **candidate.parameters}
        if candidate.encode:
            base["encode"] = candidate.encode
        space: dict[str, list[Any]] = {**candidate.search, "window": windows}
        trials = max(spec.training.search.trials, len(windows))
        drawn = ParameterSampler(space, min(trials, len(ParameterGrid(space))), random_state=spec.training.seed)
        tried = [{"window": window} for window in windows] + (list(drawn) if candidate.search else [])
        for trial in tried[:trials]:
            window = trial["window"]
            one = Configuration(
                estimator=candidate.estimator,
                parameters={**base, **{name: value for name, value in trial.items() if name != "window"}},
                window=None if window == "all" else window,
                pipeline=digest,
            )
            estimators.build(spec, one)
            made.setdefault(one.to_json(), one)
    return tuple(made.values())


def _widest(window: str | int) -> float:
    return -math.inf if isinstance(window, str) else -window


def within(interval: Array, at: Array, k: int | None) -> Array:
    """Those of the rows `at` that lie in the newest `k` intervals up to the last of them."""
    if k is None or len(at) == 0:
        return at
    inside: Array = at[interval[at] > interval[at].max() - k]
    return inside


def folds(spec: Spec, rows: Rows) -> Iterator[Fold]:
    """Training and validation rows, by place.

    By time: train on the past, validate on the next interval; with too few intervals, on the next stretch of
    rows. By group or stratified: validate on the newest intervals that every window trains on.
    """
    search, y, n = spec.training.search, rows.y, len(rows.y)
    groups = rows.frame[spec.training.group].astype(str).to_numpy() if spec.training.group else None
    if search.split == "time":
        cuts = _cuts(spec, rows)
        for cut, end in zip(cuts, [*cuts[1:], n], strict=True):
            train, valid = np.arange(cut), np.arange(cut, end)
            yield (train if groups is None else train[~np.isin(groups[train], groups[valid])]), valid
        return
    if search.split == "group":
        splitter = (
            GroupKFold(search.folds)
            if spec.task == "regression"
            else StratifiedGroupKFold(search.folds, shuffle=True, random_state=spec.training.seed)
        )
    else:
        kind = KFold if spec.task == "regression" else StratifiedKFold
        splitter = kind(search.folds, shuffle=True, random_state=spec.training.seed)
    counts = [window for window in spec.training.windows if not isinstance(window, str)]
    newest = set(within(rows.interval, np.arange(n), min(counts, default=None)).tolist())
    try:
        for train, valid in splitter.split(np.zeros(n), y, groups):
            yield train, np.asarray([one for one in valid.tolist() if one in newest], dtype=int)
    except ValueError as error:
        raise DegenerateTraining(
            f"the rows cannot be split into {search.folds} folds: {error}", do="lower training.search.folds"
        ) from None


def _cuts(spec: Spec, rows: Rows) -> list[int]:
    count, n = spec.training.search.folds, len(rows.y)
    starts = np.flatnonzero(np.diff(rows.interval, prepend=rows.interval[0])).tolist()
    if len(starts) >= count:
        return [int(start) for start in starts[-count:]]
    when = _moments(spec, rows)
    # Rows of the same moment stay on one side.
    even = [int(np.searchsorted(when, when[n * part // (count + 1)])) for part in range(1, count + 1)]
    return sorted({cut for cut in even if cut > 0})


def _moments(spec: Spec, rows: Rows) -> Array:
    return rows.frame[spec.source.time].astype("int64").to_numpy()


def watched(spec: Spec, rows: Rows, parts: int = PARTS) -> Iterator[Fold]:
    """Rows to fit and rows to count trees on, by place: stretch after stretch, or apart as the folds are."""
    n, share, seed = len(rows.y), WATCHED, spec.training.seed
    if spec.training.search.split == "time":
        when = _moments(spec, rows)
        cuts = [int(np.searchsorted(when, when[int(n * (1 - share * part))])) for part in range(parts, 0, -1)]
        for cut, end in zip(cuts, [*cuts[1:], n], strict=True):
            if _usable(spec, rows.y[:cut], rows.y[cut:end], both=False):
                yield np.arange(cut), np.arange(cut, end)
        return
    groups = None
    splitter: Any = ShuffleSplit(1, test_size=share, random_state=seed)
    if spec.training.search.split == "group":
        groups = rows.frame[spec.training.group].astype(str).to_numpy()
        splitter = GroupShuffleSplit(1, test_size=share, random_state=seed)
    elif spec.task != "regression" and np.unique(rows.y, return_counts=True)[1].min() > 1:
        splitter = StratifiedShuffleSplit(1, test_size=share, random_state=seed)
    fit, rest = next(splitter.split(np.zeros(n), rows.y, groups))
    yield np.sort(fit), np.sort(rest)


def best_count(curves: list[list[float]]) -> int:
    """The number of trees with the least mean loss; a curve that stopped goes on as it ended.

    >>> best_count([[3.0, 2.0, 1.0, 1.5], [3.0, 1.0]])
    3
    """
    longest = max(len(curve) for curve in curves)
    mean = np.mean([curve + curve[-1:] * (longest - len(curve)) for curve in curves], axis=0)
    return int(np.argmin(mean)) + 1


def count_trees(spec: Spec, configuration: Configuration, rows: Rows) -> Configuration:
    """The configuration with the number of trees that the newest stretches of these rows ask for.

    Raises:
        DegenerateTraining: too few rows to set a stretch apart.
    """
    curves, steps = [], estimators.build(spec, configuration)[:-1]
    # The mean of three curves may still fall where one of them, by chance, does not.
    patience = spec.training.early_stopping * PARTS
    for fit, rest in watched(spec, rows):
        made, seen = steps.fit_transform(rows.frame.iloc[fit], rows.y[fit]), steps.transform(rows.frame.iloc[rest])
        curves.append(estimators.watch(spec, configuration, made, rows.y[fit], seen, rows.y[rest], patience))
    if not curves:
        raise DegenerateTraining(
            f"{len(rows.y)} rows are too few to stop early on", do="set training.early_stopping: 0, or wait for more"
        )
    return _with_trees(configuration, best_count(curves))


def but_trees(spec: Spec, one: Configuration) -> Configuration:
    """The configuration without a number of trees, where early stopping is to find it."""
    if not estimators.stops_early(spec, one):
        return one
    kept = {name: value for name, value in one.parameters.items() if name != "n_estimators"}
    return one.model_copy(update={"parameters": kept})


def same_but_trees(spec: Spec, one: Configuration, other: Configuration) -> bool:
    return but_trees(spec, one) == but_trees(spec, other)


def _with_trees(configuration: Configuration, count: int) -> Configuration:
    return configuration.model_copy(update={"parameters": {**configuration.parameters, "n_estimators": count}})


def search(
    spec: Spec, rows: Rows, incumbent: Configuration | None = None, say: Callable[[str], None] = lambda _: None
) -> Found:
    """The configuration that scores best over the folds, on at most `max_rows` of the rows.

    The incumbent (the champion's configuration) and the spec's first candidate as it stands are scored to the
    end, and one of them is kept, in this order, unless the best one's gain over it is larger than one standard
    error of that gain over the folds (Breiman et al., "Classification and Regression Trees", 1984): luck in the
    search does not change a model.
    """
    trials = list(configurations(spec, int(rows.interval.max()) + 1))
    kept = [0]
    if incumbent is not None:
        # Its trees are counted anew like everybody's: their number belongs to the rows they were counted on.
        mine = next((one for one in trials if same_but_trees(spec, one, incumbent)), but_trees(spec, incumbent))
        kept = [0] if mine == trials[0] else [0, 1]
        trials = [mine, *(trial for trial in trials if trial != mine)]
    limit, seed = spec.training.search.max_rows, spec.training.seed
    if len(rows.y) > limit:
        rows = rows.take(np.sort(np.random.default_rng(seed).choice(len(rows.y), limit, replace=False)))
    usable = [(train, valid) for train, valid in folds(spec, rows) if _usable(spec, rows.y[train], rows.y[valid])]
    if len(trials) == 1 or not usable:
        note = () if usable else ("no fold had two outcomes on both sides: the first configuration stands",)
        return Found(trials[0], None, None, (), note)

    # These steps learn nothing from rows: once for all folds.
    door = estimators.build(spec, trials[kept[-1]])[:-2]
    rows = Rows(_beside(rows.frame, door.fit_transform(rows.frame, rows.y), spec), rows.y, rows.interval)
    sign = 1 if spec.greater_is_better else -1
    race = _Race(spec, rows, usable, trials)
    alive, table = list(range(len(trials))), dict[int, list[float]]()
    tried: dict[int, dict[str, Any]] = {}
    shares = _shares(spec, len(trials), min(len(train) for train, _ in usable))
    for rung, share in enumerate(shares):
        say(f"search: {len(alive)} configurations on {share:.0%} of {len(rows.y):,} rows, {len(usable)} folds")
        table = race.run(alive, share)
        for one in alive:
            tried[one] = _record(trials[one], sign, table.get(one), share, race.counts.get(one))
        alive = sorted(table, key=lambda one: (-_mean(table[one]), one))
        if rung < len(shares) - 1:
            alive = sorted({*kept, *alive[: math.ceil(len(alive) / ETA)]})
    if not table:
        raise NonFiniteMetric(f"no configuration reached a finite {spec.gate.metric}", do="look at the candidates")
    best = next((one for one in kept if one in table and _as_good(table[one], table[alive[0]])), alive[0])
    tried[best]["chosen"] = True
    means = {one: sign * _mean(values) for one, values in table.items()}
    return Found(trials[best], means[best], means.get(0) if incumbent else None, tuple(tried.values()))


class _Race:
    """Trials on the folds; the encoded rows of a fold are shared between trials that read them alike."""

    def __init__(self, spec: Spec, rows: Rows, folds: list[Fold], trials: list[Configuration]):
        self.spec, self.rows, self.folds, self.trials = spec, rows, folds, trials
        self.counts: dict[int, list[int]] = {}

    def run(self, alive: list[int], share: float) -> dict[int, list[float]]:
        """Scores per fold, greater is better; a trial that is not finite somewhere is left out."""
        table: dict[int, list[float]] = {one: [] for one in alive}
        self.counts = {}
        sign = 1 if self.spec.greater_is_better else -1
        for place, (train, valid) in enumerate(self.folds):
            order = np.random.default_rng([self.spec.training.seed, place]).permutation(len(train))
            part = np.sort(order[: math.ceil(len(train) * share)])
            cache: Cache = {}
            for one in [one for one in alive if one in table]:
                try:
                    answer = self._answer(one, train[part], valid, cache)
                    value = score(self.spec.task, self.spec.gate.metric, self.rows.y[valid], answer)
                    table[one].append(sign * value)
                except NonFiniteMetric:
                    del table[one]
        return table

    def _answer(self, one: int, train: Array, valid: Array, cache: Cache) -> Array:
        spec, configuration = self.spec, self.trials[one]
        train = within(self.rows.interval, train, configuration.window)
        y = self.rows.y
        if spec.task != "regression" and len(np.unique(y[train])) < 2:
            raise NonFiniteMetric("one outcome in a fold", do="take a longer window")
        if estimators.stops_early(spec, configuration):
            for fit, rest in watched(spec, self.rows.take(train), 1):
                made, seen = self._encoded(configuration, train[fit], train[rest], "count", cache)
                patience = spec.training.early_stopping
                curve = estimators.watch(spec, configuration, made, y[train[fit]], seen, y[train[rest]], patience)
                configuration = _with_trees(configuration, best_count([curve]))
                self.counts.setdefault(one, []).append(configuration.parameters["n_estimators"])
        made, seen = self._encoded(configuration, train, valid, "fit", cache)
        last = estimators.fit_last(spec, estimators.estimator(spec, configuration), made, y[train])
        return estimators.predict_last(last, spec.task, seen, len(spec.classes))

    def _encoded(
        self, configuration: Configuration, train: Array, other: Array, part: str, cache: Cache
    ) -> tuple[Any, ...]:
        key = (part, configuration.estimator, configuration.parameters.get("encode"), configuration.window)
        if key not in cache:
            columns = estimators.build(self.spec, configuration).named_steps["columns"]
            made = columns.fit_transform(self.rows.frame.iloc[train], self.rows.y[train])
            cache[key] = (made, columns.transform(self.rows.frame.iloc[other]))
        return cache[key]


def _beside(frame: pd.DataFrame, made: pd.DataFrame, spec: Spec) -> pd.DataFrame:
    """The made columns with those that folds are cut by."""
    apart = [name for name in (spec.source.time, spec.training.group) if name and name not in made]
    return made.assign(**{name: frame[name] for name in apart})


def _usable(spec: Spec, train: Array, valid: Array, *, both: bool = True) -> bool:
    """Rows on both sides, with two outcomes to learn from and, if `both`, to score."""
    if len(train) == 0 or len(valid) == 0:
        return False
    return spec.task == "regression" or (len(np.unique(train)) > 1 and (len(np.unique(valid)) > 1 or not both))


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


def _as_good(one: list[float], best: list[float]) -> bool:
    gain = np.asarray(best) - np.asarray(one)
    error = float(np.std(gain, ddof=1)) / math.sqrt(len(gain)) if len(gain) > 1 else 0.0
    return float(gain.mean()) <= error


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
