"""What both methods of performance estimation share: the estimate with its interval, and the excess loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from retrain.modeling.metrics import Array, checked
from retrain.modeling.resampling import UNDEFINED_DRAWS, Draws, confidence_interval
from retrain.monitoring.estimation.importance_weighting import FeatureEncoder, sample_rows
from retrain.monitoring.estimation.losses import LOSS, MEANS, loss_of, metric_of_draws

REFITS = 30
"""Calibrations on other draws of the labelled blocks, which show how sure the calibration is."""

_STEP = 32
_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Estimate:
    """A metric estimated without labels, with its interval; without a value there is a reason."""

    value: float | None
    low: float | None
    high: float | None
    rows: int
    reason: str = ""


@dataclass(frozen=True)
class ExcessLoss:
    """Realised over expected loss, means over rows.

    Attributes:
        loss: the kind of loss, one of `LOSS`.
        excess: realised - expected.
        low, high: one-sided bounds of the excess; None with fewer than two blocks.
    """

    loss: str
    realised: float
    expected: float
    excess: float
    low: float | None
    high: float | None
    rows: int
    blocks: int

    @property
    def relative(self) -> float:
        """The excess as a share of what was expected."""
        return self.excess / max(abs(self.expected), _EPS)

    @property
    def worse(self) -> bool:
        """Whether the rows lost more than expected, beyond chance."""
        return self.low is not None and self.low > 0

    @property
    def better(self) -> bool:
        """Whether they lost less than expected, beyond chance."""
        return self.high is not None and self.high < 0


class PerformanceEstimator(ABC):
    """The performance of a champion's predictions, as `learn` learnt it from labelled rows.

    A method has to say what it believes of a row: a subclass holds the beliefs, what a row is expected to lose under
    one, how labels are drawn under one, and the noise of the known labels.
    """

    def __init__(
        self, task: str, metric: str, y: Array, prediction: Array, frame: pd.DataFrame, block: Array, seed: int
    ) -> None:
        self.task, self.metric, self.seed = task, metric, seed
        self._y, self._prediction, self._block = y, prediction, block
        self._encode = FeatureEncoder(frame)
        self._x = self._encode(frame, prediction)
        self._loss = loss_of(task, metric)
        count = int(block.max()) + 1
        self._times = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=REFITS)
        self._noise: Array

    @abstractmethod
    def _beliefs(self, prediction: Array, frame: pd.DataFrame, refits: bool) -> Array:
        """What is believed of each row: (1, n, …), or with each refit after it, (1 + j, n, …)."""

    @abstractmethod
    def _expected_losses(self, prediction: Array, belief: Array) -> Array:
        """(…, n) loss of each row under a belief."""

    @abstractmethod
    def _draw_labels(self, prediction: Array, belief: Array, noise: Array) -> Array:
        """(n, r) labels, from (r, n, …) beliefs and (n, r) noise."""

    def expected(self, prediction: Array, frame: pd.DataFrame) -> Array:
        """(n,) loss that each row should have, of the kind that `LOSS` names for the metric.

        Args:
            prediction: (n,) or (n, k), as in `learn`.
            frame: n rows with the columns of `learn`.

        Raises:
            NonFiniteMetric: predictions that are not finite, or no probabilities.
            SchemaChanged: a column of `learn` is not there.
        """
        prediction = self._checked(prediction)
        return np.asarray(self._expected_losses(prediction, self._beliefs(prediction, frame, refits=False))[0])

    def estimate(
        self,
        prediction: Array,
        frame: pd.DataFrame,
        block: Array,
        *,
        resamples: int = 500,
        level: float = 0.05,
        seed: int = 0,
    ) -> Estimate:
        """Estimate the metric that these rows will have, with the interval of coverage 1 - 2·level for it.

        The value of a mean over rows is that of their expected losses, of any other metric the median over the
        draws. Of more than 20,000 rows that many are sampled: their noise is greater than that of all, so the
        interval is then on the wide side.

        Args:
            prediction: (n,) or (n, k), as in `learn`.
            frame: n rows with the columns of `learn`.
            block: (n,) codes of `resampling.blocks`.
            resamples: draws of the labels.
            level: of each bound.
            seed: of the sample of rows and of the draws.

        Raises:
            NonFiniteMetric: predictions that are not finite, or no probabilities.
            SchemaChanged: a column of `learn` is not there.
        """
        prediction = self._checked(prediction)
        chosen = sample_rows(len(prediction), seed)
        prediction, frame, block = prediction[chosen], frame.iloc[chosen], np.asarray(block)[chosen]
        beliefs = self._beliefs(prediction, frame, refits=True)
        metric_of, refits = metric_of_draws(self.task, self.metric, prediction), len(beliefs) - 1
        drawn, begin = [], 0
        with np.errstate(all="ignore"):
            for noise in self._block_noise(block, resamples, seed):
                refit = 1 + (begin + np.arange(noise.shape[1])) % refits
                drawn.append(metric_of(self._draw_labels(prediction, beliefs[refit], noise)))
                begin += noise.shape[1]
        values = np.concatenate(drawn)
        undefined = float(np.mean(~np.isfinite(values)))
        if undefined > UNDEFINED_DRAWS:
            reason = f"{self.metric} is undefined in {undefined:.0%} of the labels drawn for {len(prediction)} rows"
            return Estimate(None, None, None, len(prediction), reason)
        value = middle = float(np.nanmedian(values))
        if self.metric in MEANS:
            value = float(self._expected_losses(prediction, beliefs[:1]).mean())
            value = float(np.sqrt(value)) if self.metric == "rmse" else value
        # Calibrations of drawn rows lie a little off that of all rows; only their spread is wanted.
        values = values + (value - middle)
        bounds = confidence_interval(Draws(self.metric, value, values, int(self._block.max()) + 1), level)
        return Estimate(value, bounds.low, bounds.high, len(prediction))

    def excess_loss(
        self,
        y: Array,
        prediction: Array,
        frame: pd.DataFrame,
        block: Array,
        *,
        resamples: int = 1_000,
        level: float = 0.05,
    ) -> ExcessLoss | None:
        """Measure how much more these rows lose than rows like them should: a test for concept drift.

        Rows that are merely harder have no excess, so that a change of the rows alone does not raise it. Each row's
        loss is held against its own expectation; blocks are drawn with replacement, and with each draw another refit
        is the expectation. `low` and `high` are each a one-sided bound at `level`.

        Args:
            y: (n,) labels, NaN where there is none yet: those rows are left out. More than 20,000 are sampled.
            prediction: (n,) or (n, k), as in `learn`.
            frame: n rows with the columns of `learn`.
            block: (n,) codes of `resampling.blocks`.
            resamples: draws of the blocks.
            level: of each bound.

        Returns:
            None where no row has a label.

        Raises:
            NonFiniteMetric: predictions that are not finite, or no probabilities.
            SchemaChanged: a column of `learn` is not there.
        """
        labelled = np.flatnonzero(np.isfinite(np.asarray(y, dtype=np.float64)))
        if not len(labelled):
            return None
        labelled = labelled[sample_rows(len(labelled), self.seed)]
        y, prediction = checked(self.task, np.asarray(y)[labelled], np.asarray(prediction)[labelled])
        block = np.unique(np.asarray(block)[labelled], return_inverse=True)[1]
        realised = self._loss(y, prediction)
        expected = self._expected_losses(prediction, self._beliefs(prediction, frame.iloc[labelled], refits=True))
        count, excess = int(block.max()) + 1, realised - expected
        sums = np.stack([np.bincount(block, weights=refit, minlength=count) for refit in excess[1:]])
        rows = np.bincount(block, minlength=count)
        times = np.random.default_rng(self.seed).multinomial(count, np.full(count, 1 / count), size=resamples)
        drawn = (times * sums[np.arange(resamples) % len(sums)]).sum(axis=1) / (times @ rows)
        value = float(excess[0].mean())
        bounds = confidence_interval(Draws(LOSS[self.metric], value, drawn, count), level)
        return ExcessLoss(
            loss=LOSS[self.metric],
            realised=float(realised.mean()),
            expected=float(expected[0].mean()),
            excess=value,
            low=bounds.low,
            high=bounds.high,
            rows=len(y),
            blocks=count,
        )

    def _checked(self, prediction: Array) -> Array:
        return checked(self.task, np.zeros(len(prediction)), prediction)[1]

    def _block_noise(self, block: Array, resamples: int, seed: int) -> Iterator[Array]:
        """The noise of whole labelled blocks laid onto the new rows' blocks, (n, some draws) at a time.

        So noise keeps its dependence within a block. A block that is larger than the typical labelled one is
        filled from several of them.
        """
        noise = self._noise[np.argsort(self._block, kind="stable")]
        sizes = np.bincount(self._block)
        starts = np.cumsum(sizes) - sizes
        typical = max(int(np.median(sizes)), 1)
        rank = pd.Series(block).groupby(block).cumcount().to_numpy()
        piece = pd.factorize(np.asarray(block).astype(np.int64) * (len(block) + 1) + rank // typical)[0]
        rank = rank % typical
        rng = np.random.default_rng(seed)
        for begin in range(0, resamples, _STEP):
            drawn = rng.integers(0, len(sizes), (int(piece.max()) + 1, min(_STEP, resamples - begin)))
            shift = rng.integers(0, sizes.max(), drawn.shape)
            of = drawn[piece]
            yield noise[starts[of] + (rank[:, None] + shift[piece]) % sizes[of]]
