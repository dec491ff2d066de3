"""Backtest of estimates: whether they held once their labels landed."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

from scipy import stats

from retrain.monitoring.estimation.estimator import ExcessLoss
from retrain.state.run import Run

MIN_INTERVALS = 5
"""Intervals with labels from which a backtest can say that estimates are reliable."""

_SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class PastEstimate:
    """An estimate of an interval, and the metric that its labels gave later."""

    value: float
    low: float
    high: float
    realised: float


@dataclass(frozen=True)
class Backtest:
    """Whether estimates for this champion may be relied on: reliable, undetermined (too few so far) or unreliable.

    Attributes:
        missed: past estimates whose interval did not hold the realised value, out of `of`.
    """

    verdict: str
    reason: str
    missed: int
    of: int

    @property
    def reliable(self) -> bool:
        """Whether estimates are usable: nothing speaks against them."""
        return self.verdict != "unreliable"


def backtest(
    past: Sequence[PastEstimate], newest: ExcessLoss | None = None, *, level: float = 0.05, large: float = 0.1
) -> Backtest:
    """Judge whether this champion's estimates held once their labels landed.

    Unreliable where the newest excess loss is beyond chance and greater than `large` as a share of the expected loss,
    or where the intervals missed more often than 2·level allows (a one-sided binomial test at 0.05). A loss below the
    expected one counts as well: the estimate was as wrong. With fewer than five intervals and no such finding it is
    undetermined, which is usable.

    Args:
        past: estimates of intervals whose labels have landed.
        newest: the excess loss of the newest labels.
        level: at which each bound of the past intervals was computed; their coverage is 1 - 2·level.
        large: the share of the expected loss from which the newest excess loss counts.

    >>> backtest([PastEstimate(0.50, 0.48, 0.52, 0.51)] * 6).verdict
    'reliable'
    >>> backtest([PastEstimate(0.50, 0.48, 0.52, 0.60)] * 2).reason
    'the interval missed the realised value in 2 of 2 intervals, 10% expected (p = 0.01)'
    """
    missed, of = sum(not estimate.low <= estimate.realised <= estimate.high for estimate in past), len(past)
    if newest is not None and (newest.worse or newest.better) and abs(newest.relative) > large:
        reason = (
            f"the newest labels cost {newest.relative:+.0%} against rows like them"
            f" ({newest.realised:.4g} realised, {newest.expected:.4g} expected)"
        )
        return Backtest("unreliable", reason, missed, of)
    if missed:
        p_value = float(stats.binomtest(missed, of, 2 * level, alternative="greater").pvalue)
        if p_value < _SIGNIFICANCE:
            reason = f"the interval missed the realised value in {missed} of {of} intervals"
            return Backtest("unreliable", f"{reason}, {2 * level:.0%} expected (p = {p_value:.2g})", missed, of)
    if of < MIN_INTERVALS:
        return Backtest("undetermined", f"{of} interval(s) with labels so far, {MIN_INTERVALS} needed", missed, of)
    return Backtest("reliable", f"the interval held the realised value in {of - missed} of {of} intervals", missed, of)


def past_estimates(run: Run, versions: Container[int]) -> list[tuple[str, PastEstimate]]:
    """Read from the ledger: earlier estimates of these versions whose labels have landed since, by interval's name.

    Args:
        run: as of whose moment.
        versions: the champion and those that differ from it in their rows only: how estimates of one of them held
            says how those of the next will.
    """
    estimates: dict[str, dict[str, float]] = {}
    realised: dict[str, float] = {}
    for record in run.ledger.records(run.model):
        facts = record.body.get("facts", {})
        if not record.kind.endswith("stage") or record.effective_at > run.as_of or not facts:
            continue
        if record.body["stage"] == "estimate" and facts.get("version") in versions:
            estimates[record.body["interval"]] = facts
        if record.body["stage"] == "measure":
            realised |= {name: value for name, value in facts["realised"].items() if value is not None}
    return [
        (name, PastEstimate(facts["estimated"], facts["low"], facts["high"], realised[name]))
        for name, facts in sorted(estimates.items())
        if name in realised and facts["estimated"] is not None
    ]
