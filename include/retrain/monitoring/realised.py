"""What the monitor's stages share: the champion's holdout rows, and what they say of its answers to new ones."""

from __future__ import annotations

from retrain.monitoring import prediction_log
from retrain.results import Champion, Context, Interval
from retrain.spec import Spec
from retrain.state.run import Run


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
