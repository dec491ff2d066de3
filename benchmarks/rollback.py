"""False rollbacks of a champion under watch, and how soon a worse one is put back.

    python benchmarks/rollback.py [--quick]

Two models answer the rows of thirty days a month. The truth is a log-odds per row; a model's answer is the truth with
an error of its own per row, and one that all rows of a day share, so that days are easy or hard. Two models with
errors of the same size are equally good. The worse one's error is larger, so that its log loss lies above the other's
by the share that is named, in the long run. What is measured is the rule that the loop has: the bounds of
`retrain.monitoring.confidence_sequence` on the paired loss by day, looked at each month, at the spec's default level;
beside it the paired t-test that somebody would take each month at the same level.

The blocks of other worlds are drawn as they are, without models: mean zero, and a skewed or heavy tail.
All figures hang on the seeds and not on the machine.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import chain
from multiprocessing import get_context
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[1] / "include")]
os.environ.setdefault("DO_NOT_TRACK", "1")

import numpy as np
from scipy import stats
from scipy.optimize import brentq
from scipy.special import expit, log_expit

from benchmarks.measure import Figures
from retrain.monitoring.confidence_sequence import bounds
from retrain.spec import Watch
from tests.chaos import killed

DAYS, WEEKS, LAST = 30, 4, 12
"""Blocks a month, where they are days or weeks; and months."""
LEVEL, WATCHED = Watch().level, Watch().intervals
ERROR, SHARED = 0.5, 0.5
"""The size of a model's error in log-odds, and the part of its variance that the rows of a day share."""
ROWS = (10, 100)
"""A day."""
WORSE = (0.01, 0.02, 0.05, 0.1, 0.2)
STREAMS, WIDER = 4_000, 400
Draw = Callable[[np.random.Generator, int], np.ndarray]
BLOCKS: dict[str, Draw] = {
    "normal": lambda rng, n: rng.normal(size=n),
    "Student's t, 3 degrees": lambda rng, n: rng.standard_t(3, size=n),
    "exponential, the rare days spare loss": lambda rng, n: 1 - rng.exponential(size=n),
    "log-normal, the rare days spare loss": lambda rng, n: np.exp(0.5) - np.exp(rng.normal(size=n)),
    "log-normal with σ 1.5, the rare days spare loss": lambda rng, n: np.exp(1.125) - np.exp(1.5 * rng.normal(size=n)),
}


# --- the world


def losses(rng: np.random.Generator, rows: int, days: int, errors: tuple[float, float]) -> np.ndarray:
    """(2, days · rows): the log loss of two models."""
    truth = rng.normal(-1, 1.5, days * rows)
    yes = rng.random(days * rows) < expit(truth)
    by_model = []
    for size in errors:
        day = np.repeat(rng.normal(size=days), rows)
        wrong = np.sqrt(SHARED) * day + np.sqrt(1 - SHARED) * rng.normal(size=days * rows)
        logit = truth + size * wrong
        by_model.append(-np.where(yes, log_expit(logit), log_expit(-logit)))
    return np.stack(by_model)


def error_of(share: float) -> float:
    """The size of the error that lifts the log loss by `share` above that of `ERROR`, in the long run."""
    at, weight = np.polynomial.hermite_e.hermegauss(60)
    weight = weight / weight.sum()
    truth, wrong = (-1 + 1.5 * at)[:, None], at[None, :]

    def mean(size: float) -> float:
        logit, p = truth + size * wrong, expit(truth)
        return float(weight @ (-p * log_expit(logit) - (1 - p) * log_expit(-logit)) @ weight)

    return float(brentq(lambda size: mean(size) / mean(ERROR) - 1 - share, ERROR, 20))


# --- one stream


def months(values: np.ndarray, block: np.ndarray, per: int) -> Iterator[tuple[bool, bool]]:
    """Per month, whether the newer one is shown worse: by our bounds, and by a t-test over days."""
    for month in range(1, len(values) // per + 1):
        so_far, days = values[: month * per], block[: month * per]
        means = np.bincount(days, so_far) / np.bincount(days)
        t_test = bool(stats.ttest_1samp(means, 0, alternative="greater").pvalue < LEVEL)
        yield bounds(so_far, days, LEVEL).low > 0, t_test


def first(worse: list[bool]) -> int:
    """The month of the first yes; one after the last if there is none."""
    return worse.index(True) + 1 if True in worse else len(worse) + 1


def of_models(task: tuple[int, float, int, int]) -> list[tuple[int, int]]:
    """Per stream the month in which the newer model is put back, by each of the two rules."""
    rows, share, begin, count = task
    errors, firsts = (error_of(share), ERROR), []
    block = np.repeat(np.arange(LAST * DAYS), rows)
    for seed in range(begin, begin + count):
        newer, older = losses(np.random.default_rng([seed, rows, round(1000 * share)]), rows, LAST * DAYS, errors)
        ours, t_test = zip(*months(newer - older, block, DAYS * rows), strict=True)
        firsts.append((first(list(ours)), first(list(t_test))))
    return firsts


def of_blocks(task: tuple[str, int, int, int]) -> list[tuple[int, int]]:
    name, per, begin, count = task
    firsts = []
    for seed in range(begin, begin + count):
        values = BLOCKS[name](np.random.default_rng([seed, per, len(name)]), LAST * per)
        ours, t_test = zip(*months(values, np.arange(LAST * per), per), strict=True)
        firsts.append((first(list(ours)), first(list(t_test))))
    return firsts


# --- the figures


def figures(quick: bool = False) -> list[Figures]:
    """The whole benchmark; quick: few streams, to see that everything works."""
    streams, wider, step = (8, 4, 4) if quick else (STREAMS, WIDER, 100)
    with ProcessPoolExecutor(os.cpu_count() or 1, mp_context=get_context("fork")) as pool:
        blocks = {
            (name, per): _all(pool.map(of_blocks, [(name, per, begin, step) for begin in range(0, streams, step)]))
            for per in (DAYS, WEEKS)
            for name in BLOCKS
        }
        models = {
            (rows, share): _all(pool.map(of_models, [(rows, share, begin, step) for begin in range(0, count, step)]))
            for rows in ROWS
            for share, count in [(0.0, streams), *((share, wider) for share in WORSE)]
        }
    return [_false(blocks, models), _delay(models)]


FirstMonths = list[tuple[int, int]]
"""Per stream the month of the first yes, by our bounds and by the t-test."""


def _all(parts: Iterable[FirstMonths]) -> FirstMonths:
    return list(chain.from_iterable(parts))


def _false(blocks: dict[tuple[str, int], FirstMonths], models: dict[tuple[int, float], FirstMonths]) -> Figures:
    worlds = {f"two equal models, {rows} rows a day": models[rows, 0.0] for rows in ROWS}
    worlds |= {f"{'days' if per == DAYS else 'weeks'}, {name}": firsts for (name, per), firsts in blocks.items()}
    rows, over = [], []
    for name, firsts in worlds.items():
        cells = []
        for last in (WATCHED, LAST):
            for place in (0, 1):
                hits = sum(stream[place] <= last for stream in firsts)
                cells.append(f"{hits / len(firsts):.2%}")
                if not place and stats.binomtest(hits, len(firsts), LEVEL, alternative="greater").pvalue < 0.05:
                    over.append(f"{name}, {last} months")
        rows.append((name, *cells))
    count = len(next(iter(worlds.values())))
    notes = (
        f"{count:,} watches each; looked at monthly; the level is {LEVEL:.0%} for the whole watch.",
        f"At or under the level in all of them: {'MISSED: ' + '; '.join(over) if over else 'met'}.",
    )
    columns = tuple(f"{who}, {last} months" for last in (WATCHED, LAST) for who in ("ours", "t-test each month"))
    return Figures("False rollbacks: the new champion is no worse", ("world", *columns), tuple(rows), notes)


def _delay(models: dict[tuple[int, float], FirstMonths]) -> Figures:
    rows = []
    for (size, share), firsts in models.items():
        if share:
            ours = np.array([stream[0] for stream in firsts])
            caught = [f"{(ours <= last).mean():.0%}" for last in (1, WATCHED, LAST)]
            middle = float(np.median(ours))
            rows.append((f"{share:.0%} worse, {size} rows a day", *caught, f"{middle:g}" if middle <= LAST else "–"))
    notes = (
        f"{len(next(firsts for (_, share), firsts in models.items() if share)):,} watches each; worse by log loss, in"
        f" the long run; to the delay in months comes that of the labels.",
    )
    columns = ("new champion", "put back after 1 month", f"within {WATCHED}", f"within {LAST}", "median month")
    return Figures("How soon a worse champion is put back", columns, tuple(rows), notes)


def main() -> None:
    from rich.console import Console

    arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument("--quick", action="store_true")
    quick = arguments.parse_args().quick
    for section in (*figures(quick), *killed.figures(quick)):
        Console().print(section.table())


if __name__ == "__main__":
    main()
