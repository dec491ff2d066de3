"""What the monitor's stages share: the champion's holdout rows, and what they say of its answers to new ones."""

from __future__ import annotations

import numpy as np
import pandas as pd

from retrain.errors import DegenerateTraining, MissingInput
from retrain.modeling import resampling
from retrain.monitoring import estimation, prediction_log
from retrain.monitoring.estimation import Estimator
from retrain.results import Champion, Context, Interval
from retrain.spec import Spec
from retrain.state.run import Run

HOLDOUT, FORMER = "holdout.parquet", "sealed.parquet"
"""Beside the champion's reference: holdout rows with their target and the gated candidate's answers; and what the file
was called before."""


def estimator(run: Run, champion: Champion) -> Estimator:
    """What the champion's answers are worth, learnt from the rows that it was gated on and had not seen.

    Raises:
        DegenerateTraining: too few holdout rows, or the champion is from before they were kept.
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


_LEARNT: dict[tuple[str, str], Estimator] = {}
"""Of this process: an estimate and a measurement in a row learn once."""


def _learn(run: Run, key: str) -> Estimator:
    spec = run.spec
    try:
        with run.store.local(key) as path:
            frame = pd.read_parquet(path)
    except MissingInput:
        raise DegenerateTraining(
            "the champion's holdout rows were not kept", do="nothing: the next champion keeps them"
        ) from None
    answers = [name for name in frame if str(name).startswith("prediction")]
    given = frame[answers].to_numpy(dtype=np.float64)
    return estimation.learn(
        spec.task,
        spec.gate.metric,
        frame["target"].to_numpy(dtype=np.float64),
        given[:, 0] if given.shape[1] == 1 else given,
        frame[list(spec.features)],
        resampling.blocks(spec, frame),
        seed=spec.training.seed,
    )


def scored(run: Run, champion: Champion, interval: Interval) -> prediction_log.Joined | None:
    """What the champion answered to an interval's rows, joined to them and to the labels that are there.

    Returns:
        None where it has not scored the interval, or the interval has no accepted batch.
    """
    context = run.read(Context, "context")
    accepted = next((one for one in context.accepted if one.batch.interval == interval), None)
    mine = [one for one in prediction_log.records(run, interval) if one.body["version"] == champion.version]
    if accepted is None or not mine:
        return None
    # Of the very batch that was accepted, else of another revision of it: what was answered at the time.
    same = [one for one in mine if one.body["data"] == accepted.batch.sha256]
    return prediction_log.joined(run, (same or mine)[-1], accepted)


def below_expected_score(spec: Spec, value: float, expected_score: float) -> bool:
    """Whether a score is worse than the expected one by more than the monitor's margin."""
    margin = spec.monitor.margin * abs(expected_score)
    return value < expected_score - margin if spec.greater_is_better else value > expected_score + margin
