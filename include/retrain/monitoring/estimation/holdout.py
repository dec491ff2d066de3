"""The performance estimator of a champion, learnt from its holdout rows."""

from __future__ import annotations

import numpy as np
import pandas as pd

from retrain.errors import DegenerateTraining, MissingInput
from retrain.modeling import resampling
from retrain.monitoring import estimation
from retrain.monitoring.estimation import PerformanceEstimator
from retrain.results import Champion
from retrain.state.run import Run

HOLDOUT, FORMER = "holdout.parquet", "sealed.parquet"
"""The file beside the champion's reference: holdout rows with their target and the gated candidate's predictions; and
what it was called before."""

_LEARNT: dict[tuple[str, str], PerformanceEstimator] = {}
"""Of this process: an estimate and a measurement in a row learn once."""


def holdout_estimator(run: Run, champion: Champion) -> PerformanceEstimator:
    """Learn what the champion's predictions are worth, from the rows that it was gated on and had not seen.

    Raises:
        DegenerateTraining: too few holdout rows, or the champion is from before they were kept.
        NonFiniteMetric: labels or predictions that are not finite.
    """
    key = f"{champion.reference}/{HOLDOUT}"
    if not run.store.exists(key):
        key = f"{champion.reference}/{FORMER}"
    known = (run.store.url(key), run.spec.digest)
    if known not in _LEARNT:
        if len(_LEARNT) > 1:
            _LEARNT.clear()
        _LEARNT[known] = _learn(run, key)
    return _LEARNT[known]


def _learn(run: Run, key: str) -> PerformanceEstimator:
    spec = run.spec
    try:
        with run.store.local(key) as path:
            frame = pd.read_parquet(path)
    except MissingInput:
        raise DegenerateTraining(
            "the champion's holdout rows were not kept", do="nothing: the next champion keeps them"
        ) from None
    columns = [name for name in frame if str(name).startswith("prediction")]
    prediction = frame[columns].to_numpy(dtype=np.float64)
    return estimation.learn(
        spec.task,
        spec.gate.metric,
        frame["target"].to_numpy(dtype=np.float64),
        prediction[:, 0] if prediction.shape[1] == 1 else prediction,
        frame[list(spec.features)],
        resampling.blocks(spec, frame),
        seed=spec.training.seed,
    )
