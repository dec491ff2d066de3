"""The arithmetic of regret: when a training pays, and which rows it should read.

A training costs a price; not to train costs the regret of each interval. Adding the regret up and paying once the sum
has reached the price costs at most about twice the best plan in hindsight, whatever the future brings: the ski-rental
rule (Karlin, Manasse, Rudolph and Sleator, Competitive snoopy caching, Algorithmica 3, 1988; for retraining Mahadevan
and Mathioudakis, CARA, 2024). The constants were chosen on made timelines, and held on others
(`benchmarks/timelines.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from retrain.results import Signal, WindowRegret

SHRINKAGE = 0.5
"""Standard errors by which a sum of regrets is lowered: it is the greatest of several windows, each with noise."""
DISCOUNT = 0.9
"""An interval's weight in the record of the windows, for each newer interval."""
RECENT = 6
"""Intervals whose mean loss is the loss of one interval."""
AGED = 3
"""Intervals that show what age costs."""


@dataclass(frozen=True)
class Account:
    """The regret since the last training, in losses of one interval.

    Attributes:
        window: the training window whose shadows were ahead of the champion most.
        measured: how many intervals have labels.
        intervals: the newest of them over which it adds up to most.
        regret: their sum, lowered by its uncertainty: what the champion costs above a training before them.
        following: what the next interval is expected to add.
        waiting: what the intervals without labels so far are expected to have cost.
    """

    window: str
    measured: int
    intervals: int
    regret: float
    following: float
    waiting: float


def account(
    signals: Iterable[Signal], champion: int, ages: Mapping[datetime, int], unlabelled: Sequence[int]
) -> Account | None:
    """Add up the regret of the window that has most of it; None where no interval since the training was measured.

    The rival is the plan that trains at the best moment since the last training, so earlier intervals on which the
    champion was ahead are no credit: the sum is of the newest intervals over which it is greatest (as in Page's CUSUM,
    Biometrika 41, 1954).

    Intervals without labels so far cost what age has cost lately: the slope through the origin of what age costs the
    champion, and of what an interval of age costs the shadows. With prompt labels there are none.

    Args:
        signals: of the monitor.
        champion: the version that serves.
        ages: start of each interval since the last training → how many came before it.
        unlabelled: the ages of those that have no labels yet.
    """
    lineage = _newest(signals)
    loss = recent_loss(lineage)
    if not loss:
        return None
    since = [signal for signal in lineage if signal.champion == champion and signal.interval.start in ages]
    records: dict[str, list[tuple[int, WindowRegret]]] = {}
    for signal in since:
        for of in signal.regret:
            records.setdefault(of.window, []).append((ages[signal.interval.start], of))
    if not records:
        return None
    stretches = [(window, whole[first:]) for window, whole in records.items() for first in range(len(whole))]
    window, stretch = max(stretches, key=lambda named: _low(named[1]))
    whole = records[window]
    points = [(float(age), regret.gain) for age, regret in whole] + [(1.0, aged) for aged in _aged(lineage, window)]
    squares = sum(age**2 for age, _ in points)
    slope = 0.0
    if squares and unlabelled:
        slope = sum(age * cost for age, cost in points) / squares
        slope -= SHRINKAGE * math.sqrt(_variance(whole) / len(whole) / squares)
    return Account(
        window=window,
        measured=len(whole),
        intervals=len(stretch),
        regret=_low(stretch) / loss,
        following=max(_low(whole) / len(whole), 0.0) / loss,
        waiting=max(slope, 0.0) * sum(unlabelled) / loss,
    )


def _low(measured: Sequence[tuple[int, WindowRegret]]) -> float:
    """The sum of regrets, lowered by its uncertainty."""
    return sum(regret.gain for _, regret in measured) - SHRINKAGE * math.sqrt(_variance(measured))


def _variance(measured: Sequence[tuple[int, WindowRegret]]) -> float:
    return sum((regret.error or 0.0) ** 2 for _, regret in measured)


def _aged(lineage: Sequence[Signal], window: str) -> list[float]:
    """What an interval of age has cost the shadows of a window lately."""
    shadows = [regret.aged for signal in lineage[-AGED:] for regret in signal.regret if regret.window == window]
    return [aged for aged in shadows if aged is not None]


def added_up(before: float, gain: float) -> float:
    """The greatest sum of the newest gains, of the one before and the next gain.

    >>> added_up(added_up(-0.2, 0.01), 0.02)
    0.03
    """
    return max(before, 0.0) + gain


def totals(signals: Iterable[Signal]) -> dict[str, float]:
    """Training window → the greatest sum of the newest gains of its shadows; signals oldest first."""
    sums: dict[str, float] = {}
    for signal in signals:
        for regret in signal.regret:
            sums[regret.window] = added_up(sums.get(regret.window, 0.0), regret.gain)
    return sums


def recent_loss(signals: Iterable[Signal]) -> float:
    """The loss of one interval: the mean of the last ones, by whichever champion served; 0 where none was measured."""
    losses = [signal.regret[0].loss for signal in _newest(signals)][-RECENT:]
    return sum(losses) / len(losses) if losses else 0.0


def best_window(signals: Iterable[Signal]) -> str | None:
    """The training window whose shadows lost least lately, whoever served; None where none was measured.

    Newer intervals count more. Only intervals on which every window of the newest one has a shadow are compared.
    """
    lineage = _newest(signals)
    if not lineage:
        return None
    windows = [regret.window for regret in lineage[-1].regret]
    lost = dict.fromkeys(windows, 0.0)
    for age, signal in enumerate(reversed(lineage)):
        of = {regret.window: regret.loss - regret.gain for regret in signal.regret}
        if of.keys() >= lost.keys():
            lost = {window: lost[window] + DISCOUNT**age * of[window] for window in windows}
    return min(windows, key=lambda window: lost[window])


def _newest(signals: Iterable[Signal]) -> list[Signal]:
    """The newest word on the regret of each measured interval, oldest interval first."""
    newest = {
        signal.interval.start: signal
        for signal in sorted(signals, key=lambda signal: signal.effective_at)
        if signal.question == "regret" and signal.regret
    }
    return [newest[start] for start in sorted(newest)]
