"""Why the champion fell far: a changed world, a changed rate of the outcome, or labels that are wrong.

Rivals explain the labels of the rows on which it fell, each fitted on some blocks and judged on the others:

- rate: the champion's answers with a shifted intercept, as where an outcome has become more or less frequent;
- days: the same with an intercept for each block, learnt from one half of its rows and judged on the other: storms and
  campaigns come in days, wrong labels at random fall on all days alike;
- noise: the champion's answers with a share of the labels drawn at random; of numbers, its answers shrunk to the mean;
- calibrated: its answers, stretched and shifted: what no feature is needed for;
- world: the same with the encoded features beside them, their weights shrunk to none (ridge: A. E. Hoerl and R. W.
  Kennard, Technometrics 12, 1970): a correction of the champion, which few rows teach better than a model of their own.

Labels that are wrong at random teach nothing about the features: only a changed world lets the last rival gain above
the others. Wrong labels that follow the features cannot be told from a changed world by any rows, so no rival tries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import sparse, stats
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge

from retrain.errors import DegenerateTraining
from retrain.modeling import pipelines, resampling
from retrain.modeling.metrics import Array
from retrain.monitoring.estimation import ExcessLoss, loss_of
from retrain.monitoring.estimation.importance_weighting import sample_rows
from retrain.monitoring.estimation.losses import class_probabilities
from retrain.spec import Spec

FAR, VERY_FAR = 0.1, 0.5
"""Excess loss, as a share of the expected, from which a fall is asked for its cause; and from which the labels of one
that cannot be told are in doubt."""
ASKED = 0.05
"""The level of the bound that the excess has to be above zero by: to ask is cheap, and to miss wrong labels is not."""
MIN_ROWS, MIN_BLOCKS = 200, 6
"""Rows and blocks below which nothing can be told."""
WORLD_SHARE: Mapping[str, float] = {"binary": 0.1, "multiclass": 0.1, "regression": 0.2}
"""Task → share of the excess that the features have to explain beyond the rivals without them; what a champion is stale
by beside wrong labels is more of a squared error than of a log loss."""
RATE_SHARE, NOISE_SHARE = 0.2, 0.1
"""Shares of the excess that the other rivals have to explain."""
LEVEL = 0.05
"""Of the one-sided bound that a rival's gain has to be above zero by."""
FOLDS = 5
STRENGTH, FREE = 0.03, 10.0
"""Variance that the weight of an encoded feature is expected to have; and by how much the champion's answers are
stretched so that theirs is as good as free."""

_EPS = 1e-6


@dataclass(frozen=True)
class FallenRows:
    """The labelled rows of an interval on which the champion fell.

    Attributes:
        frame: n rows with the spec's inputs and its time.
        y: (n,) class codes or numbers.
        prediction: (n,) or (n, k) the champion's answers.
        excess: (n,) realised less expected loss.
    """

    frame: pd.DataFrame
    y: Array
    prediction: Array
    excess: Array


@dataclass(frozen=True)
class FallCause:
    """What explains a fall.

    Attributes:
        cause: world and rate are changes; noise looks like wrong labels; unknown where the rows are too few to tell.
        reason: for people.
    """

    cause: Literal["world", "rate", "noise", "unknown"]
    reason: str

    @property
    def changed(self) -> bool:
        """Whether it is a change that a model can learn."""
        return self.cause in ("world", "rate")


def is_far(excess: ExcessLoss | None) -> bool:
    """Whether a fall is beyond chance and so great that its cause is asked for."""
    return excess is not None and excess.worse and excess.relative >= FAR


def is_very_far(excess: ExcessLoss | None) -> bool:
    """Whether a fall is so great that labels are in doubt where its cause cannot be told."""
    return excess is not None and excess.worse and excess.relative >= VERY_FAR


def cause_of_fall(spec: Spec, *intervals: FallenRows) -> FallCause:
    """Ask the rivals for what explains the loss above what such rows should cost.

    Of several intervals together, a cause has to explain its share in each of them: the next interval's change of the
    world is none of a month with wrong labels before it.

    Args:
        spec: the model's.
        intervals: the rows of each.
    """
    frame = pd.concat([part.frame for part in intervals], ignore_index=True)
    chosen = sample_rows(len(frame), spec.training.seed)
    frame = frame.iloc[chosen].reset_index(drop=True)
    y, prediction, excess = (
        np.concatenate([getattr(part, name) for part in intervals])[chosen] for name in ("y", "prediction", "excess")
    )
    part = np.repeat(np.arange(len(intervals)), [len(rows.y) for rows in intervals])[chosen]
    block = np.unique(resampling.blocks(spec, frame), return_inverse=True)[1]
    blocks = int(block.max(initial=0)) + 1
    if len(y) < MIN_ROWS or blocks < MIN_BLOCKS:
        return FallCause("unknown", f"{len(y):,} rows in {blocks} blocks cannot tell why")
    try:
        answers = _rivals(spec, frame, y, prediction, block)
    except DegenerateTraining as error:
        return FallCause("unknown", error.found)
    loss = loss_of(spec.task, spec.gate.metric)
    losses = {name: loss(y, answer) for name, answer in answers.items()}
    means = {name: float(of.mean()) for name, of in losses.items()}
    shares = {name: (means["champion"] - means[name]) / max(float(excess.mean()), _EPS) for name in means}
    named = ", ".join(f"{name} {shares[name]:.0%}" for name in ("world", "rate", "days", "noise"))
    summary = f"of the excess loss explain {named}; {len(y):,} rows in {blocks} blocks"

    def explains(gain: Array, share: float) -> bool:
        """Whether a gain is that share of the excess in each interval."""
        return all(gain[part == n].mean() >= share * excess[part == n].mean() for n in range(len(intervals)))

    without = min(("rate", "noise", "calibrated"), key=means.__getitem__)
    learnt = losses[without] - losses["world"]
    if _low(learnt, block) > 0 and explains(learnt, WORLD_SHARE[spec.task]):
        return FallCause("world", f"the rows themselves teach another world ({summary})")
    shifted = losses["noise"] - losses["rate"]
    if _low(shifted, block) > 0 and explains(losses["champion"] - losses["rate"], RATE_SHARE):
        return FallCause("rate", f"the outcome comes at another rate ({summary})")
    daily = losses["noise"] - losses["days"]
    if _low(daily, block) > 0 and explains(losses["champion"] - losses["days"], RATE_SHARE):
        return FallCause("rate", f"the outcome comes at another rate on some days ({summary})")
    if shares["noise"] < NOISE_SHARE:
        return FallCause("unknown", f"nothing that these rows teach explains it, nor do wrong labels ({summary})")
    return FallCause("noise", f"nothing that these rows teach explains it: their labels may be wrong ({summary})")


def _rivals(spec: Spec, frame: pd.DataFrame, y: Array, prediction: Array, block: Array) -> dict[str, Array]:
    """Name → (n,) or (n, k) answers to rows of blocks that the rival was not fitted on."""
    fit_all = _fit_numbers if spec.task == "regression" else _fit_classes
    simple, answers = pipelines.baseline(spec, "simple"), {"champion": prediction}
    for fitted, judged in _folds(block):
        pipelines.check_learnable(spec, frame.iloc[fitted], y[fitted])
        encoder = pipelines.build(spec, simple)[:-1]
        features = _dense(encoder.fit_transform(frame.iloc[fitted], y[fitted]))
        others = _dense(encoder.transform(frame.iloc[judged]))
        for name, answer in fit_all(y[fitted], prediction[fitted], features).items():
            answers.setdefault(name, np.empty_like(prediction))[judged] = answer(prediction[judged], others)
    answers["days"] = _answers_by_block(spec, y, prediction, block)
    return answers


def _answers_by_block(spec: Spec, y: Array, prediction: Array, block: Array) -> Array:
    """The champion's answers with an intercept for each block, fitted on the other half of the block's rows.

    The intercepts are shrunk to none as if each had a prior of variance one.
    """
    answers, half = np.empty_like(prediction), np.random.default_rng(spec.training.seed).random(len(y)) < 0.5
    blocks = int(block.max()) + 1
    for fitted in (half, ~half):
        own, judged = block[fitted], ~fitted
        if spec.task == "regression":
            shift = np.bincount(own, (y - prediction)[fitted], blocks) / (np.bincount(own, minlength=blocks) + 1.0)
            answers[judged] = prediction[judged] + shift[block[judged]]
            continue
        p = class_probabilities(prediction).clip(_EPS, 1 - _EPS)
        shifts = np.zeros((blocks, p.shape[1]))
        for _ in range(8):  # Newton's steps, class by class against the first
            now = _normalized(p[fitted] * np.exp(shifts[own]))
            for place in range(1, p.shape[1]):
                error = np.bincount(own, (y[fitted] == place) - now[:, place], blocks) - shifts[:, place]
                curve = np.bincount(own, now[:, place] * (1 - now[:, place]), blocks) + 1.0
                shifts[:, place] += error / curve
        full = _normalized(p * np.exp(shifts[block]))
        answers[judged] = (full[:, -1] if prediction.ndim == 1 else full)[judged]
    return answers


def _folds(block: Array) -> Iterator[tuple[Array, Array]]:
    for fold in range(FOLDS):
        yield np.flatnonzero(block % FOLDS != fold), np.flatnonzero(block % FOLDS == fold)


def _dense(encoded: Any) -> Array:
    return np.asarray(encoded.toarray() if sparse.issparse(encoded) else encoded, dtype=float)


Answer = Callable[[Array, Array], Array]
"""From the champion's answers and the encoded features to a rival's answers."""


def _fit_classes(y: Array, champion: Array, features: Array) -> dict[str, Answer]:
    """The rivals' answers to rows of classes, fitted on the champion's answers and the features."""
    p, places = class_probabilities(champion).clip(_EPS, 1 - _EPS), y.astype(int)
    k, binary = p.shape[1], champion.ndim == 1
    frequency = (np.bincount(places, minlength=k) + 0.5) / (len(y) + 0.5 * k)
    weight = np.ones(k)
    for _ in range(50):  # the intercepts of maximum likelihood: the mean answer is the frequency
        weight *= frequency / _normalized(p * weight).mean(axis=0)
    shares = np.linspace(0, 1, 101)
    named = p[np.arange(len(y)), places]
    share = shares[np.argmin([-np.log(part / k + (1 - part) * named).mean() for part in shares])]

    def of_classes(answer: Array) -> Array:
        return answer[:, -1] if binary else answer

    def line_through(use: Callable[[Array, Array], Array], strength: float) -> Answer:
        model = LogisticRegression(C=strength, max_iter=1000).fit(use(champion, features), places)

        def answer(champion: Array, features: Array) -> Array:
            full = np.full((len(champion), k), _EPS)
            full[:, model.classes_] = model.predict_proba(use(champion, features))
            return of_classes(full)

        return answer

    return {
        "rate": lambda champion, _: of_classes(_normalized(class_probabilities(champion).clip(_EPS, 1) * weight)),
        "noise": lambda champion, _: share / k + (1 - share) * champion,
        "calibrated": line_through(lambda champion, _: _log_odds(champion), 10.0),
        "world": line_through(lambda champion, of: np.hstack([FREE * _log_odds(champion), of]), STRENGTH),
    }


def _fit_numbers(y: Array, champion: Array, features: Array) -> dict[str, Answer]:
    """The same for numbers: a shift, a line through the champion's answers, and one through the features beside it."""
    shift = float((y - champion).mean())
    middle = float(champion.mean())
    apart = champion - middle
    kept = float((apart * (y - middle)).sum() / max(float((apart**2).sum()), _EPS))
    line = LinearRegression().fit(champion[:, None], y)
    scale = max(float(np.std(y - line.predict(champion[:, None]))), _EPS)

    def use(champion: Array, features: Array) -> Array:
        return np.column_stack([FREE * (champion - middle) / scale, features])

    world = Ridge(alpha=1 / STRENGTH).fit(use(champion, features), y / scale)
    return {
        "rate": lambda champion, _: champion + shift,
        "noise": lambda champion, _: middle + kept * (champion - middle),
        "calibrated": lambda champion, _: np.asarray(line.predict(champion[:, None])),
        "world": lambda champion, features: np.asarray(scale * world.predict(use(champion, features))),
    }


def _normalized(weights: Array) -> Array:
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def _log_odds(answer: Array) -> Array:
    """(n, k - 1) log odds against the first class."""
    log = np.log(class_probabilities(answer).clip(_EPS, 1 - _EPS))
    return np.asarray(log[:, 1:] - log[:, :1])


def _low(values: Array, block: Array) -> float:
    """The one-sided lower bound of the mean of values that belong to blocks, by Student's t over blocks."""
    size = np.bincount(block).astype(float)
    mean = float(values.sum() / size.sum())
    residual = np.bincount(block, values) - mean * size
    count = len(size)
    error = float(np.sqrt((residual**2).sum() * count / (count - 1))) / float(size.sum())
    return mean - float(stats.t.ppf(1 - LEVEL, count - 1)) * error
