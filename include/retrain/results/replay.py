"""What a replay of a model's history under one policy reports."""

from __future__ import annotations

from retrain.results.base import Result


class ReplayStep(Result):
    """One interval of a history under one policy."""

    interval: str
    score: float | None = None
    version: int | None = None
    decision: str
    reason: str
    trained: bool = False
    promoted: bool = False


class ReplayOutcome(Result):
    """A whole history under one policy.

    Attributes:
        mean: of the scores of all intervals that had a champion.
        trainings: after the first model.
        promotions: after the first model.
        wrong: promotions after which the predecessor would have scored better, by more than the gate's margin, on the
            rows that the successor served.
        seconds: spent in stages.
    """

    policy: str
    metric: str
    steps: tuple[ReplayStep, ...]
    mean: float | None
    trainings: int
    promotions: int
    wrong: int
    seconds: float
