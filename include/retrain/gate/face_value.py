"""Scores compared as they are, without an interval: where one answer is absurd, nothing has to be shown."""

from __future__ import annotations

from collections.abc import Mapping

from retrain.gate.checks.holdout import CHAMPION
from retrain.modeling.estimators import BASELINES
from retrain.results import Champion
from retrain.spec import Spec


def gain(spec: Spec, score: float, other: float) -> float:
    """How much better a score is than another; above zero is better."""
    return score - other if spec.greater_is_better else other - score


def decides(champion: Champion | None, lost_to: str) -> bool:
    """Whether the best score serves: the champion lost to a baseline, or is one and has no privilege of its own."""
    return bool(lost_to) or (champion is not None and champion.configuration.estimator in BASELINES)


def lost_to(spec: Spec, scores: Mapping[str, float | None]) -> str:
    """The baseline that the champion loses to, which ends its privilege; empty where there is none.

    To the naive baseline it may not lose at all: that one knows nothing. To the simple one by at most `gate.margin`.

    Args:
        spec: the margin, and whether greater is better.
        scores: model → primary metric on the rows that judge.
    """
    champion = scores.get(CHAMPION)
    for name, margin in (("naive", 0.0), ("simple", spec.gate.margin)):
        baseline = scores.get(name)
        if champion is not None and baseline is not None and gain(spec, champion, baseline) < -margin * abs(baseline):
            return name
    return ""
