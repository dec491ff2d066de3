"""False alarms and delay of the drift check, beside Evidently's own defaults.

    python benchmarks/alarms.py [--quick]

Synthetic rows in 12 columns: 8 numbers (normal, skewed, heavy-tailed, rounded) and 4 categories of 3 to 30 levels. The
reference holds four intervals, at most 20,000 rows as the loop keeps them. Rows are independent, or those of one day
share a level in every column, or each row follows the one before it (AR(1), 0.8); an interval has 30 days, and in the
two dependent worlds our check is told of them. Features are worth what `WORTH` says, which Evidently cannot use.

Evidently's judge of each column is its default for that size and type, called as its `ValueDrift` calls it; the batch
has drifted from a share of 0.5 of the columns on, as in its `DataDriftPreset`. `check` compares that with the preset
itself. Tuned, the share is the smallest that keeps to our stated rate on other data without a change.

The delay is the number of intervals from a change to the first alarm; a stream that has none after `LAST` counts as one
more. All figures hang on the seeds and not on the machine.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[1] / "include")]
os.environ.setdefault("DO_NOT_TRACK", "1")

import numpy as np
import pandas as pd
from scipy.stats import norm

from benchmarks.measure import Figures
from retrain.monitoring.drift import Codes, Kind, Limits, compare

NUMBERS, LEVELS = 8, (3, 5, 10, 30)
KINDS: dict[str, Kind] = {
    **{f"number_{place}": "number" for place in range(NUMBERS)},
    **{f"category_{place}": "category" for place in range(len(LEVELS))},
}
WORTH = dict(zip(KINDS, (0.3, 0.15, 0.1, 0.06, 0.04, 0.02, 0.01, 0.01, 0.15, 0.1, 0.04, 0.02), strict=True))
WORLDS = ("independent", "days", "AR(1)")
DAYS, EFFECT, FOLLOWS = 30, 0.4, 0.8
INTERVALS, KEPT = 4, 20_000
SIZES = {50: 120, 100: 120, 200: 120, 500: 120, 1_000: 120, 5_000: 60, 20_000: 30, 100_000: 12}
"""Rows of an interval → checks without a change."""
STREAM, LAST, STREAMS, TUNING = 1_000, 8, 10, 150
CHANGES = {
    "mean of the most important feature": "+0.5 sd",
    "mean of all features": "+0.4 sd",
    "mean of half of the features": "+0.4 sd, the important one among them",
    "scale of the most important feature": "× 1.8",
    "tail of the most important feature": "the upper 15 % moved by 3 sd",
    "one category's share": "20 % of the rows of an important category to its rarest level",
    "a new category": "3 % of the rows of an important category",
    "missing values": "20 % of the second feature",
    "slow ramp": "the most important feature, +0.12 sd an interval",
    "mean of the least important feature": "+0.5 sd; NOT to alarm is right here",
}
Checks = dict[str, bool]


# --- data


def latent(rng: np.random.Generator, rows: int, days: int, world: str) -> tuple[np.ndarray, np.ndarray]:
    """(rows, columns) standard normal values, and each row's day."""
    columns = len(KINDS)
    day = np.arange(rows) * days // rows
    noise = rng.normal(size=(rows, columns))
    if world == "days":
        return np.sqrt(1 - EFFECT**2) * noise + EFFECT * rng.normal(size=(days, columns))[day], day
    if world == "AR(1)":
        from scipy.signal import lfilter

        start = rng.normal(size=(1, columns))
        noise[0] = start / math.sqrt(1 - FOLLOWS**2)
        return np.asarray(lfilter([math.sqrt(1 - FOLLOWS**2)], [1, -FOLLOWS], noise, axis=0)), day
    return noise, day


def table(values: np.ndarray) -> pd.DataFrame:
    """Columns of several shapes with these normal scores."""
    shapes: tuple[Callable[[np.ndarray], np.ndarray], ...] = (
        lambda z: z,
        np.exp,
        lambda z: z**3,
        lambda z: np.round(2 * z),
    )
    columns: dict[str, object] = {f"number_{n}": shapes[n % len(shapes)](values[:, n]) for n in range(NUMBERS)}
    for place, levels in enumerate(LEVELS):
        shares = np.arange(levels, 0, -1) / (levels * (levels + 1) / 2)
        code = np.searchsorted(norm.ppf(np.cumsum(shares)[:-1]), values[:, NUMBERS + place])
        columns[f"category_{place}"] = pd.Categorical.from_codes(code, [f"level {n}" for n in range(levels)])
    return pd.DataFrame(columns)


def interval(
    rng: np.random.Generator, rows: int, world: str, change: str = "", age: int = 1
) -> tuple[pd.DataFrame, np.ndarray]:
    """One interval, changed since `age` intervals."""
    values, day = latent(rng, rows, DAYS, world)
    if change == "mean of the most important feature":
        values[:, 0] += 0.5
    elif change == "mean of the least important feature":
        values[:, 7] += 0.5
    elif change == "mean of all features":
        values += 0.4
    elif change == "mean of half of the features":
        values[:, ::2] += 0.4
    elif change == "scale of the most important feature":
        values[:, 0] *= 1.8
    elif change == "tail of the most important feature":
        values[:, 0] += 3 * (values[:, 0] > norm.isf(0.15))
    elif change == "slow ramp":
        values[:, 0] += 0.12 * age
    frame = table(values)
    if change == "one category's share":
        frame.loc[rng.random(rows) < 0.2, "category_0"] = f"level {LEVELS[0] - 1}"
    elif change == "a new category":
        frame["category_1"] = frame["category_1"].cat.add_categories("new")
        frame.loc[rng.random(rows) < 0.03, "category_1"] = "new"
    elif change == "missing values":
        frame.loc[rng.random(rows) < 0.2, "number_1"] = np.nan
    return frame, day


def reference(rng: np.random.Generator, rows: int, world: str) -> tuple[pd.DataFrame, np.ndarray]:
    """Four intervals, a sample of them where there are more rows than the loop keeps."""
    values, day = latent(rng, INTERVALS * rows, INTERVALS * DAYS, world)
    kept = slice(None)
    if len(values) > KEPT:
        kept = np.sort(rng.choice(len(values), KEPT, replace=False))
    return table(values[kept]), day[kept]


# --- the two checks


def ours(
    before: tuple[pd.DataFrame, np.ndarray], now: tuple[pd.DataFrame, np.ndarray], world: str, seed: int
) -> Checks:
    """Whether the batch drifted, whether any column did, and the batch by rows, where they depend."""
    limits = Limits()
    limits = replace(limits, min_rows=min(limits.min_rows, len(now[0])))
    codes: Codes | None = None if world == "independent" else (before[1], now[1])

    def check(blocks: Codes | None) -> tuple[bool, bool]:
        decision, columns, _, _ = compare(
            before[0], now[0], KINDS, {}, limits, seed=seed, html=False, blocks=blocks, weights=WORTH
        )
        return decision.verdict == "drift", any(column.verdict == "drift" for column in columns)

    batch, column = check(codes)
    return {"ours": batch, "ours, any column": column, "ours by rows": check(None)[0] if codes else batch}


def drifted_by_evidently(before: pd.DataFrame, now: pd.DataFrame) -> int:
    """Drifted columns by Evidently's defaults."""
    from evidently.legacy.calculations.stattests.registry import get_stattest
    from evidently.legacy.core import ColumnType

    count = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, kind in KINDS.items():
            which = ColumnType.Numerical if kind == "number" else ColumnType.Categorical
            sides = before[name].dropna(), now[name].dropna()
            if kind == "category":
                sides = sides[0].astype(str), sides[1].astype(str)
            count += bool(get_stattest(*sides, which, None)(*sides, which, None).drifted)
    return count


def check(before: pd.DataFrame, now: pd.DataFrame) -> int:
    """The same from Evidently's preset as one would call it."""
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    definition = DataDefinition(
        numerical_columns=[name for name, kind in KINDS.items() if kind == "number"],
        categorical_columns=[name for name, kind in KINDS.items() if kind == "category"],
    )
    text = {name: str for name, kind in KINDS.items() if kind == "category"}
    sides = [Dataset.from_pandas(side.astype(text), data_definition=definition) for side in (now, before)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        snapshot = Report([DataDriftPreset()]).run(*sides)
    return next(
        int(metric["value"]["count"]) for metric in snapshot.dict()["metrics"] if "DriftedColumnsCount" in str(metric)
    )


# --- what is measured

Task = tuple[str, int, int, int]


def quiet(task: Task) -> tuple[Task, list[Checks], list[int]]:
    """Checks of batches in which nothing changed."""
    world, rows, first, rounds = task
    checks, counts = [], []
    for seed in range(first, first + rounds):
        rng = np.random.default_rng([seed, rows, WORLDS.index(world)])
        before, now = reference(rng, rows, world), interval(rng, rows, world)
        checks.append(ours(before, now, world, seed))
        counts.append(drifted_by_evidently(before[0], now[0]))
    return task, checks, counts


def stream(task: tuple[str, str, int, tuple[float, ...]]) -> dict[str, int]:
    """Intervals until the first alarm of each check; `shares` are those of Evidently's defaults and tuned."""
    world, change, seed, shares = task
    rng = np.random.default_rng([seed, list(CHANGES).index(change), WORLDS.index(world), 7])
    before = reference(rng, STREAM, world)
    delay = dict.fromkeys(("ours", "defaults", "tuned"), LAST + 1)
    for age in range(1, LAST + 1):
        now = interval(rng, STREAM, world, change, age)
        if delay["ours"] > LAST:
            codes = None if world == "independent" else (before[1], now[1])
            decision = compare(
                before[0], now[0], KINDS, {}, Limits(), seed=seed, html=False, blocks=codes, weights=WORTH
            )[0]
            delay["ours"] = age if decision.verdict == "drift" else LAST + 1
        if max(delay["defaults"], delay["tuned"]) > LAST:
            share = drifted_by_evidently(before[0], now[0]) / len(KINDS)
            for name, least in zip(("defaults", "tuned"), shares, strict=True):
                if delay[name] > LAST and share >= least:
                    delay[name] = age
        if max(delay.values()) <= LAST:
            break
    return delay


def wilson(hits: int, rounds: int, level: float = 0.95) -> tuple[float, float]:
    """The score interval of a rate (Wilson 1927).

    >>> [round(bound, 3) for bound in wilson(0, 100)]
    [0.0, 0.037]
    """
    z = float(norm.isf((1 - level) / 2))
    rate, spread = hits / rounds, z**2 / rounds
    middle, half = rate + spread / 2, z * math.sqrt(rate * (1 - rate) / rounds + spread / (4 * rounds))
    return max(0.0, (middle - half) / (1 + spread)), min(1.0, (middle + half) / (1 + spread))


def tuned(counts: Sequence[int], rate: float) -> float:
    """The smallest share of drifted columns that at most `rate` of these batches reach."""
    for least in range(1, len(KINDS) + 1):
        if sum(count >= least for count in counts) <= rate * len(counts):
            return least / len(KINDS)
    return math.nextafter(1.0, 2.0)


def figures(quick: bool = False) -> list[Figures]:
    """The whole benchmark; quick: few checks of three sizes, to see that everything works."""
    sizes = {100: 6, 1_000: 4} if quick else SIZES
    streams, tuning = (2, 8) if quick else (STREAMS, TUNING)
    workers = os.cpu_count() or 1
    with ProcessPoolExecutor(workers, mp_context=get_context("fork")) as pool:
        tasks: list[Task] = [
            (world, rows, first, min(10, rounds - first))
            for rows, rounds in reversed(sizes.items())
            for world in WORLDS
            for first in range(0, rounds, 10)
        ]
        nothing = list(pool.map(quiet, tasks))
        spare: dict[str, list[int]] = {world: [] for world in WORLDS}
        for (world, *_), _, counts in pool.map(
            quiet,
            [
                (world, STREAM, 10_000 + first, min(10, tuning - first))
                for world in WORLDS
                for first in range(0, tuning, 10)
            ],
        ):
            spare[world] += counts
        rate = Limits().false_alarms
        shares = {world: (0.5, tuned(counts, rate)) for world, counts in spare.items()}
        jobs = [
            (world, change, seed, shares[world]) for world in WORLDS for change in CHANGES for seed in range(streams)
        ]
        delays = list(zip(jobs, pool.map(stream, jobs), strict=True))
    return [_alarms(sizes, nothing, rate), _delays(delays, shares, streams)]


def _alarms(sizes: dict[int, int], batches: list[tuple[Task, list[Checks], list[int]]], rate: float) -> Figures:
    rows, worst = [], []
    for world in WORLDS:
        for size in sizes:
            outcomes = [outcome for task, checks, _ in batches if task[:2] == (world, size) for outcome in checks]
            counts = [count for task, _, counted in batches if task[:2] == (world, size) for count in counted]
            alarms = {name: sum(outcome[name] for outcome in outcomes) for name in outcomes[0]}
            alarms["Evidently"] = sum(count >= 0.5 * len(KINDS) for count in counts)
            alarms["Evidently, any"] = sum(count > 0 for count in counts)
            if any(wilson(alarms[name], len(outcomes))[0] > rate for name in ("ours", "ours, any column")):
                worst.append(f"{world}, {size:,} rows")
            by_rows = "" if world == "independent" else _rate(alarms["ours by rows"], len(outcomes))
            cells = [_rate(alarms[name], len(outcomes)) for name in ("ours", "ours, any column")]
            cells += [by_rows, *(_rate(alarms[name], len(outcomes)) for name in ("Evidently", "Evidently, any"))]
            rows.append((f"{world}, {size:,}", str(len(outcomes)), *cells))
    verdict = f"MISSED: {'; '.join(worst)}" if worst else "met"
    held = f"At most {rate:.0%} at every size, within the 95 % interval, the batch and any column: {verdict}."
    below = f"Below {Limits().min_rows} rows the default is undetermined; min_rows was lowered to the batch here."
    columns = (
        "rows of an interval",
        "checks",
        "ours",
        "ours: any column",
        "ours by rows",
        "Evidently",
        "Evidently: any",
    )
    return Figures("False alarms where nothing changed, and their 95 % intervals", columns, tuple(rows), (held, below))


def _rate(hits: int, rounds: int) -> str:
    low, high = wilson(hits, rounds)
    return f"{hits / rounds:.1%} ({low:.1%} to {high:.1%})"


def _delays(
    delays: list[tuple[tuple[str, str, int, tuple[float, ...]], dict[str, int]]],
    shares: dict[str, tuple[float, float]],
    streams: int,
) -> Figures:
    rows, lost, won = [], [], 0
    for world in WORLDS:
        for change, what in CHANGES.items():
            streams_of = [delay for task, delay in delays if task[:2] == (world, change)]
            mean = {name: float(np.mean([delay[name] for delay in streams_of])) for name in streams_of[0]}
            cells = [_intervals(mean[name], sum(delay[name] > LAST for delay in streams_of)) for name in mean]
            rows.append((f"{world}: {change} ({what})", *cells))
            if "NOT" in what:
                continue
            best = min(mean["defaults"], mean["tuned"])
            if mean["ours"] < best:
                won += 1
            else:
                lost.append(f"{world}: {change}" + (" (equal)" if mean["ours"] == best else ""))
    total = won + len(lost)
    knobs = "; ".join(
        f"{world} " + (f"{share * len(KINDS):.0f} of {len(KINDS)} columns" if share <= 1 else "no share does")
        for world, (_, share) in shares.items()
    )
    notes = (
        f"{streams} streams each of {STREAM:,} rows an interval; mean delay, and how many had no alarm after {LAST}.",
        f"Evidently tuned to our stated rate: {knobs}.",
        f"Sooner than both of Evidently's in {won} of {total}: {'met' if won * 2 > total else 'MISSED'}."
        f" Not sooner: {'; '.join(lost) or 'none'}.",
    )
    return Figures(
        "Delay of the first alarm, in intervals",
        ("change", "ours", "Evidently", "Evidently, tuned"),
        tuple(rows),
        notes,
    )


def _intervals(mean: float, never: int) -> str:
    return f"{mean:.1f}" + (f", {never} never" if never else "")


def main() -> None:
    from rich.console import Console

    arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument("--quick", action="store_true")
    for section in figures(arguments.parse_args().quick):
        Console().print(section.table())


if __name__ == "__main__":
    main()
