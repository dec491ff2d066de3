"""The arithmetic of regret: when a training pays, and which rows it should read.

A training costs a price; not to train costs the regret of each interval. Adding the regret up and paying once the sum
has reached the price costs at most about twice the best plan in hindsight, whatever the future brings: the ski-rental
rule (Karlin, Manasse, Rudolph and Sleator, Competitive snoopy caching, Algorithmica 3, 1988; for retraining Mahadevan
and Mathioudakis, CARA, 2024).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from retrain.results import Signal, WindowRegret

LATELY = 3
"""Intervals whose shadows say which rows to train on."""


@dataclass(frozen=True)
class Account:
    """The regret since a moment, against the price of a training.

    Attributes:
        window: the training window whose shadows did best.
        total: sum of the regrets over `intervals`, in losses of one interval.
        expected: what a training now is expected to gain in each of the next intervals.
    """

    window: str
    total: float
    intervals: int
    expected: float


def by_interval(signals: Iterable[Signal], since: datetime | None) -> list[tuple[WindowRegret, ...]]:
    """The measured regrets that were said after a moment, oldest interval first; the newest word on each counts."""
    newest = {
        signal.interval.start: signal.regret
        for signal in signals
        if signal.question == "regret" and signal.regret and (since is None or signal.effective_at > since)
    }
    return [newest[start] for start in sorted(newest)]


def totals(measured: Iterable[Sequence[WindowRegret]]) -> dict[str, float]:
    """Training window → sum of its regrets."""
    sums: dict[str, float] = {}
    for windows in measured:
        for regret in windows:
            sums[regret.window] = sums.get(regret.window, 0.0) + regret.relative
    return sums


def account(measured: Sequence[Sequence[WindowRegret]]) -> Account:
    """Add up the regret of the window that has most of it.

    Args:
        measured: the regrets of each interval since the last training, at least one.
    """
    sums = totals(measured)
    window = best(sums)
    # One interval more, without regret, stands for what was believed before anything was measured.
    return Account(window, sums[window], len(measured), sums[window] / (len(measured) + 1))


def best_window(signals: Iterable[Signal]) -> str | None:
    """The training window whose shadows did best over the last intervals; None where none was measured."""
    lately = by_interval(signals, None)[-LATELY:]
    return best(totals(lately)) if lately else None


def best(sums: Mapping[str, float]) -> str:
    """The window with the greatest sum; of equal ones the first.

    >>> best({"all": 0.0, "last 3": 0.0})
    'all'
    """
    return max(sums, key=lambda window: sums[window])
