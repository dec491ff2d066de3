"""Policies compared on timelines with known truth, and on the flights, by `retrain.rerun.replay`.

Made: a binary and a regression model of six numbers and a category, 20 months of 400 rows, in which nothing changes,
the outcome follows the features otherwise (abruptly, gradually, back and forth), the rows are others (covariate shift),
the outcome comes in another share or level (label shift), or one column arrives in another unit for two months. The
learner is the same for every policy. The policy of ours was chosen on seeds below 100 and is reported on others.

Targets, for ours: a mean score within 1 % of the best policy that asks nothing, on each timeline, and better than it on
most; at most half the trainings of the policies that train every month; at most one training after the first model
where nothing changes, none where a unit breaks.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[1] / "include")]

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from rich.console import Console
from rich.progress import track

from benchmarks import measure
from benchmarks.measure import Figures
from retrain.data.dataset import arrow_schema
from retrain.policy.presets import FIXED, policies_of
from retrain.rerun.replay import replay
from retrain.results import AcceptedBatch, Batch, ReplayOutcome
from retrain.spec import Spec, parse
from retrain.state.ledger import Ledger
from retrain.state.settings import Home
from retrain.state.store import sha256_of

MONTHS, ROWS, FIRST, CHANGE = 20, 400, 6, 12
KINDS = ("no change", "abrupt", "gradual", "recurring", "covariate shift", "label shift", "broken unit")
TASKS = ("binary", "regression")
OURS: Mapping[str, Any] = {
    "schedule": 0,
    "drift": True,
    "performance": True,
    "new_rows": 2.5,
    "budget": {"trainings": 6, "per": "365d"},
}
SEEDS = (100,)

SPEC: Mapping[str, Any] = {
    "model": "timeline",
    "objective": "A world whose changes are known.",
    "owner": {"name": "Nobody", "contact": "nobody@example.org"},
    "interval": {"every": "month", "start": "2020-01-01"},
    "source": {"path": "nowhere-{start:%Y-%m}.csv", "time": "time", "key": ["id"]},
    "target": {"column": "y"},
    "quality": {"min_rows": 50},
    "policy": OURS,
}


def spec(task: str, more: Mapping[str, Any] | None = None) -> Spec:
    columns = {
        "id": {"type": "string"},
        "time": {"type": "datetime"},
        **{f"x{n}": {"type": "number"} for n in range(6)},
        "kind": {"type": "category"},
        "y": {"type": "boolean" if task == "binary" else "number"},
    }
    training = {
        "candidates": [{"estimator": "linear"}],
        "windows": ["all", 4, "change"],
        "first_after": FIRST,
        "min_rows": 300,
        "threads": 1,
    }
    gate = {"min_rows": 100, "slice_min_rows": 100}
    whole = {**SPEC, "task": task, "columns": columns, "training": training, "gate": gate, **(more or {})}
    return parse(yaml.safe_dump(whole, sort_keys=False), "timeline")


def world(kind: str, task: str, seed: int) -> Iterator[pd.DataFrame]:
    """The months of a timeline."""
    rng = np.random.default_rng([seed, KINDS.index(kind), TASKS.index(task)])
    before = rng.normal(0, 1, 6) * np.array([1.2, 1.0, 0.8, 0.5, 0.3, 0.0])
    after = before[[3, 4, 2, 0, 1, 5]]
    of_kind = dict(zip("abcd", rng.normal(0, 0.6, 4), strict=True))
    start = pd.Timestamp("2020-01-01", tz="UTC")
    for month in range(MONTHS):
        begin = start + pd.DateOffset(months=month)
        moments = begin + pd.to_timedelta(np.sort(rng.integers(0, 28 * 86400, ROWS)), unit="s")
        x = rng.normal(0, 1, (ROWS, 6))
        share = {
            "abrupt": float(month >= CHANGE),
            "gradual": float(np.clip((month - 8) / 8, 0, 1)),
            "recurring": float(month >= 8 and (month - 8) // 4 % 2 == 0),
        }.get(kind, 0.0)
        level = 0.0
        if kind == "covariate shift":
            x[:, :3] += 1.2 * np.clip((month - 8) / 6, 0, 1)
        if kind == "label shift" and month >= CHANGE:
            level = 1.2
        word = rng.choice(list("abcd"), ROWS)
        weights = (1 - share) * before + share * after
        signal = x @ weights + 0.3 * (x[:, 0] ** 2 - 1) + np.vectorize(of_kind.get)(word) + level
        y = rng.random(ROWS) < 1 / (1 + np.exp(0.5 - signal)) if task == "binary" else signal + rng.normal(0, 1, ROWS)
        if kind == "broken unit" and month in (CHANGE, CHANGE + 1):
            x[:, 0] *= 100
        frame = pd.DataFrame(x, columns=[f"x{n}" for n in range(6)])
        yield frame.assign(id=[f"{month:02d}-{n:04d}" for n in range(ROWS)], time=moments, kind=word, y=y)


def history(home: Home, model: Spec, frames: Iterator[pd.DataFrame]) -> None:
    """Lay frames into the store and the ledger as accepted batches, one an interval."""
    ledger = Ledger(home.ledger)
    spans = model.intervals_until(pd.Timestamp("2100-01-01", tz="UTC").to_pydatetime())
    for frame, span in zip(frames, spans, strict=False):
        table = pa.Table.from_pandas(frame[list(model.columns)], schema=arrow_schema(model), preserve_index=False)
        file = Path(home.store) / f"{model.model}/batches/{span.name}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, file)
        digest = sha256_of(file)
        key = f"{model.model}/batches/{span.name}.parquet"
        batch = Batch(interval=span, sha256=digest, rows=len(frame), bytes=file.stat().st_size, key=key)
        accepted = AcceptedBatch(batch=batch, md5="", commit="", mature_at=span.end + model.labels.mature_after)
        body = {"interval": span.name, "accepted": accepted.model_dump(mode="json")}
        ledger.append(model.model, "snapshot", f"{span.name}/{digest}", body, effective_at=span.end)


def walk(
    model: Spec, frames: Callable[[], Iterator[pd.DataFrame]], policies: tuple[str, ...]
) -> tuple[ReplayOutcome, ...]:
    with tempfile.TemporaryDirectory(prefix="retrain-timeline-") as folder:
        root = Path(folder)
        home = replace(
            Home.from_environment(),
            state=root,
            store=str(root / "store"),
            ledger=f"sqlite:///{root / 'ledger.db'}",
        )
        history(home, model, frames())
        return replay(home, model, policies_of(model, policies))


def timeline(kind: str, task: str, seed: int, policies: tuple[str, ...] = ()) -> tuple[ReplayOutcome, ...]:
    """A timeline of this kind under each policy."""
    warnings.simplefilter("ignore")  # a linear model on a column times a hundred has much to say
    outcomes = walk(spec(task), lambda: world(kind, task, seed), policies)
    if kind != "broken unit":
        return outcomes
    # Rows that are wrong have no right answer: the two months count in no policy's score.
    kept = [[step.score for step in outcome.steps[:CHANGE] + outcome.steps[CHANGE + 2 :]] for outcome in outcomes]
    means = [float(np.mean([score for score in scores if score is not None])) for scores in kept]
    return tuple(outcome.model_copy(update={"mean": mean}) for outcome, mean in zip(outcomes, means, strict=True))


# --- flights


def flights(every: str) -> Spec:
    """The flights model with one boosted configuration for everybody, and the policy of ours."""
    text = (measure.ROOT / "include" / "models" / "flights.yaml").read_text()
    whole = yaml.safe_load(text)
    weekly = every == "week"
    whole["interval"] = {"every": every, "start": "2013-01-07" if weekly else "2013-01-01", "end": "2014-01-01"}
    whole["policy"] = dict(OURS)
    whole["training"] |= {
        "candidates": [{"estimator": "xgboost", "parameters": {"n_estimators": 200}}],
        "windows": ["all", 12 if weekly else 3, "change"],
        "first_after": 8 if weekly else 2,
        "threads": 1,
    }
    whole["evaluation"] = {"holdout": 2 if weekly else 1}
    whole["gate"] |= {"min_rows": 300}
    return parse(yaml.safe_dump(whole, sort_keys=False), "flights")


def delivered(model: Spec, share: float) -> Iterator[pd.DataFrame]:
    """A share of the flights, interval by interval."""
    folder = measure.ROOT / "data" / "flights"
    frame = pd.concat([pd.read_csv(file) for file in sorted(folder.glob("*.csv"))], ignore_index=True)
    frame = frame.sample(frac=share, random_state=0)
    frame[model.source.time] = pd.to_datetime(frame[model.source.time], utc=True)
    for name, column in model.columns.items():
        if column.type == "integer":
            frame[name] = frame[name].astype("Int64")
        elif column.type in ("string", "category"):
            frame[name] = frame[name].astype("string")
    frame = frame.sort_values([model.source.time, *model.source.key])
    for span in model.intervals_until(pd.Timestamp("2014-01-01", tz="UTC").to_pydatetime()):
        yield frame[(frame[model.source.time] >= span.start) & (frame[model.source.time] < span.end)]


def flown(every: str, share: float, policies: tuple[str, ...] = ()) -> tuple[ReplayOutcome, ...]:
    """The flights under each policy."""
    model = flights(every)
    return walk(model, lambda: delivered(model, share), policies)


# --- the tables


def figures(
    kinds: Sequence[str] = KINDS,
    seeds: Sequence[int] = SEEDS,
    *,
    share: float = 0.2,
    flight: Sequence[str] = ("month", "week"),
    workers: int = 2,
    policies: tuple[str, ...] = (),
) -> list[Figures]:
    """The whole benchmark."""
    jobs: list[tuple[tuple[str, str], Callable[..., tuple[ReplayOutcome, ...]], tuple[Any, ...]]] = [
        (("flights", f"each {every}"), flown, (every, share, policies)) for every in flight
    ]
    jobs += [
        ((kind, task), timeline, (kind, task, seed, policies)) for task in TASKS for kind in kinds for seed in seeds
    ]
    outcomes: dict[tuple[str, str], list[tuple[ReplayOutcome, ...]]] = {}
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        futures = [(name, pool.submit(work, *given)) for name, work, given in jobs]
        for name, future in track(futures, console=Console(stderr=True), description="timelines", transient=True):
            outcomes.setdefault(name, []).append(future.result())
    scores = Figures(
        "Mean score under each policy (log loss, RMSE; less is better), and trainings after the first model",
        ("timeline", "task", *(outcome.policy for outcome in next(iter(outcomes.values()))[0])),
        tuple((*name, *(_cell(seeds_of, n) for n in range(len(seeds_of[0])))) for name, seeds_of in outcomes.items()),
        (
            f"Seeds {', '.join(map(str, seeds))}; of the flights a share of {share:.0%} of the rows. Wrong: promotions"
            " after which the predecessor would have done better.",
            "Broken unit: the two months whose rows are wrong count in no score.",
        ),
    )
    return [scores, _against_best(outcomes)]


def _cell(by_seed: list[tuple[ReplayOutcome, ...]], n: int) -> str:
    score, trainings, wrong = _means(by_seed, n)
    return f"{score:.4f} · {trainings:.1f}" + (f" ({wrong:.1f} wrong)" if wrong else "")


def _means(by_seed: list[tuple[ReplayOutcome, ...]], n: int) -> tuple[float, float, float]:
    """Score, trainings and wrong promotions under the n-th policy, mean over seeds."""
    outcomes = [policies[n] for policies in by_seed]
    return (
        float(np.mean([outcome.mean for outcome in outcomes])),
        float(np.mean([outcome.trainings for outcome in outcomes])),
        float(np.mean([outcome.wrong for outcome in outcomes])),
    )


def _against_best(by_timeline: Mapping[tuple[str, str], list[tuple[ReplayOutcome, ...]]]) -> Figures:
    """Ours against the best policy that asks nothing; scores here are losses."""
    lines, better, near, frugal = [], 0, 0, 0
    for name, by_seed in by_timeline.items():
        names = [outcome.policy for outcome in by_seed[0]]
        ours = _means(by_seed, names.index("the spec's"))
        fixed = {policy: _means(by_seed, names.index(policy)) for policy in FIXED if policy in names}
        best = min(fixed, key=lambda policy: fixed[policy][0])
        every = max(mean[1] for mean in fixed.values())
        apart = ours[0] / fixed[best][0] - 1
        bound = {"no change": 1.0, "broken unit": 0.0}.get(name[0], every / 2)
        met = (apart <= 0.01, ours[1] <= bound)
        better, near, frugal = better + (apart < 0), near + met[0], frugal + met[1]
        missed = " and ".join(what for what, ok in zip(("score", "trainings"), met, strict=True) if not ok)
        lines.append(
            (
                *name,
                best,
                f"{apart:+.1%}",
                f"{ours[1]:.1f} of {bound:.1f} allowed",
                f"MISSED: {missed}" if missed else "met",
            )
        )
    total = f"of {len(by_timeline)}"
    return Figures(
        "Ours against the best policy that asks nothing",
        ("timeline", "task", "best of those", "ours", "trainings", "bars"),
        tuple(lines),
        (
            f"Within 1 % on {near} {total}, better on {better}, few enough trainings on {frugal}."
            + ("" if better * 2 > len(by_timeline) else " Better on most: MISSED."),
        ),
    )


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument("--quick", action="store_true", help="one timeline, one seed: to see that it works")
    arguments.add_argument("--only", nargs="+", choices=KINDS, default=KINDS)
    arguments.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    arguments.add_argument("--no-flights", action="store_true")
    arguments.add_argument("--policies", nargs="+", default=[], help="names or YAML, as for `python -m retrain replay`")
    given = arguments.parse_args()
    console = Console(highlight=False)
    quick = given.quick
    for section in figures(
        given.only[:1] if quick else given.only,
        given.seeds[:1] if quick else given.seeds,
        flight=() if quick or given.no_flights else ("month", "week"),
        policies=tuple(given.policies),
    ):
        console.print(section.table()) if console.is_terminal else print(section.markdown())


if __name__ == "__main__":
    main()
