"""When to retrain: policies on timelines with known truth, on the flights and on two public streams.

Made worlds: a binary and a regression model of six numbers and a category, 20 months of 400 rows, in which nothing
changes, the outcome follows the features otherwise (abruptly, gradually, back and forth), the rows are others
(covariate shift), the outcome comes in another share or level (label shift), one column arrives in another unit for two
months, or a month's labels are wrong (15 % of them, or all). Each with labels at the end of the month and one later.

Rivals are what a cron job does without a gate: one configuration, fitted every 1, 2, 3 or 6 intervals on all rows or on
the newest intervals, and served whatever comes out. They are read from the *staleness matrix*: the pipeline of
`retrain.modeling.pipelines` fitted at each moment on each window, scored on each later interval. The same matrix holds
the oracle: the plan of trainings with the least loss where each training costs `PRICE` of one interval's loss, found by
dynamic programming by somebody who knows the future. The rivals' windows and pace are chosen in hindsight, world by
world; ours is one rule for all, walked through the real stages by `retrain.rerun.replay`.

Ours was chosen on seeds below 100 and is reported on others. CPU of a fixed policy: its fits, no more. CPU of ours: the
whole process of the replay, with monitoring, shadows, search, gate and refit.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pkgutil
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

for name, value in {"OMP_WAIT_POLICY": "passive", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}.items():
    os.environ.setdefault(name, value)  # histories are walked side by side, each on one core
sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[1] / "include")]

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from rich.console import Console
from rich.progress import track
from scipy import stats

import retrain.stages
from benchmarks import measure
from benchmarks.measure import Figures
from retrain.data import dataset
from retrain.data.dataset import arrow_schema
from retrain.modeling import pipelines
from retrain.modeling.metrics import metric_value
from retrain.policy.presets import policies_of
from retrain.rerun.replay import replay
from retrain.results import AcceptedBatch, Batch, Configuration, ReplayOutcome
from retrain.spec import Spec, parse
from retrain.state.ledger import Ledger
from retrain.state.settings import Home
from retrain.state.store import sha256_of

MONTHS, ROWS, FIRST, CHANGE = 20, 400, 6, 12
KINDS = ("no change", "abrupt", "gradual", "recurring", "covariate shift", "label shift", "broken unit")
WRONG_LABELS: Mapping[str, float] = {"15 % wrong labels": 0.15, "all labels wrong": 1.0}
TASKS = ("binary", "regression")
LABELS = ("prompt", "late")
REAL = ("flights monthly", "flights weekly", "electricity", "weather")
PACES = (1, 2, 3, 6)
PRICE = 0.03
"""Of a training, as a share of the loss of one interval: the oracle's."""
WITHIN, SHARE = 0.01, 0.5
"""Bars: how far from the best fixed policy, and the share of the trainings and CPU of every-interval training."""

OURS: Mapping[str, Any] = {"schedule": 0, "drift": False, "performance": True, "regret": {}}
SEEDS = tuple(range(1000, 1020))
FEW = 1
"""Seeds of the policies that are only there for comparison, and are as dear as ours."""
BESIDE = ("drift only", "performance only")
THROUGH_STAGES = "{schedule: 1, drift: false}"
"""The same spec, trained every interval: for its CPU."""

SPEC: Mapping[str, Any] = {
    "model": "timeline",
    "objective": "A world whose changes are known.",
    "owner": {"name": "Nobody", "contact": "nobody@example.org"},
    "interval": {"every": "month", "start": "2020-01-01"},
    "source": {"path": "nowhere-{start:%Y-%m}.csv", "time": "time", "key": ["id"]},
    "target": {"column": "y"},
    "quality": {"min_rows": 50},
    "policy": OURS,
    "evaluation": {"resamples": 200},
}
LINEAR: Mapping[str, Any] = {"estimator": "linear"}
BOOSTED: Mapping[str, Any] = {
    "estimator": "xgboost",
    "parameters": {"n_estimators": 100, "learning_rate": 0.05, "max_depth": 5, "min_child_weight": 20},
}
PACKAGE, WHEEL = "scikit-multiflow==0.4.1", "17842a0719992871f66f2edd475c3cf947be73d16595cb28d9ec26a79cfc58de"
"""Carries both public streams; 3-Clause BSD licence."""


class World(NamedTuple):
    """One history to compare policies on."""

    kind: str
    task: str
    labels: str
    seed: int

    @property
    def name(self) -> tuple[str, str, str]:
        return self[:3]


@dataclass(frozen=True)
class Stream:
    """A history, and what is known of it.

    Attributes:
        spec: its model's, with the policy of ours.
        frames: its rows, an interval each, as they were delivered.
        windows: on which the fixed policies train.
        uncounted: places of intervals whose rows or labels are wrong, and that count in no policy's score.
    """

    spec: Spec
    frames: Callable[[], Iterator[pd.DataFrame]]
    windows: tuple[int | str, ...]
    uncounted: frozenset[int] = frozenset()


class Walked(NamedTuple):
    """A policy on a history: the score of each interval by its place, trainings after the first, seconds of the CPU."""

    scores: dict[int, float]
    trainings: int
    cpu: float
    steps: tuple[str, ...] = ()


# --- the histories


def stream_of(world: World) -> Stream:
    if world.kind in REAL:
        return _real(world)
    late = {"labels": {"mature_after": "28d"}} if world.labels == "late" else {}
    training = {"windows": ["all", 4, 2, 1, "change"], "first_after": FIRST, "min_rows": 300, "threads": 1}
    columns = {
        "id": {"type": "string"},
        "time": {"type": "datetime"},
        **{f"x{n}": {"type": "number"} for n in range(6)},
        "kind": {"type": "category"},
        "y": {"type": "boolean" if world.task == "binary" else "number"},
    }
    model = {
        **SPEC,
        "task": world.task,
        "columns": columns,
        "training": {"candidates": [LINEAR], **training},
        "gate": {"min_rows": 100, "slice_min_rows": 100},
        **late,
    }
    uncounted = {"broken unit": {CHANGE, CHANGE + 1}, **{kind: {CHANGE} for kind in WRONG_LABELS}}
    return Stream(
        spec=parse(yaml.safe_dump(model, sort_keys=False), "timeline"),
        frames=lambda: months(world.kind, world.task, world.seed),
        windows=("all", 8, 4, 2),
        uncounted=frozenset(uncounted.get(world.kind, ())),
    )


def months(kind: str, task: str, seed: int) -> Iterator[pd.DataFrame]:
    """The months of a made world."""
    rng = np.random.default_rng([seed, [*KINDS, *WRONG_LABELS].index(kind), TASKS.index(task)])
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
        if kind in WRONG_LABELS and month == CHANGE:
            y ^= rng.permutation(ROWS) < round(WRONG_LABELS[kind] * ROWS)
        frame = pd.DataFrame(x, columns=[f"x{n}" for n in range(6)])
        yield frame.assign(id=[f"{month:02d}-{n:04d}" for n in range(ROWS)], time=moments, kind=word, y=y)


def _real(world: World) -> Stream:
    """The flights with one boosted configuration for everybody, or a public stream."""
    if world.kind in ("electricity", "weather"):
        return _public(world.kind)
    whole = yaml.safe_load((measure.ROOT / "include" / "models" / "flights.yaml").read_text())
    weekly = world.kind == "flights weekly"
    whole["interval"] = {
        "every": "week" if weekly else "month",
        "start": "2013-01-07" if weekly else "2013-01-01",
        "end": "2014-01-01",
    }
    whole["policy"] = dict(OURS)
    whole["training"] |= {
        "candidates": [BOOSTED],
        "windows": ["all", 12, 4, "change"] if weekly else ["all", 4, 2, 1, "change"],
        "first_after": 8 if weekly else 2,
        "early_stopping": 0,
        "threads": 1,
    }
    whole["evaluation"] = {"holdout": 2 if weekly else 1, "resamples": 200}
    whole["gate"] |= {"min_rows": 300}
    whole["quality"] = {"min_rows": 50}
    model = parse(yaml.safe_dump(whole, sort_keys=False), "flights")
    return Stream(model, lambda: _flights(model), ("all", 24, 12, 4) if weekly else ("all", 6, 4, 2))


def _flights(model: Spec) -> Iterator[pd.DataFrame]:
    folder = measure.ROOT / "data" / "flights"
    frame = pd.concat([pd.read_csv(file) for file in sorted(folder.glob("*.csv"))], ignore_index=True)
    frame[model.source.time] = pd.to_datetime(frame[model.source.time], utc=True)
    for name, column in model.columns.items():
        if column.type == "integer":
            frame[name] = frame[name].astype("Int64")
        elif column.type in ("string", "category"):
            frame[name] = frame[name].astype("string")
    yield from _cut(model, frame.sort_values([model.source.time, *model.source.key]))


def _cut(model: Spec, frame: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """The rows of each interval, up to the first without any."""
    for span in model.intervals_until(pd.Timestamp("2100-01-01", tz="UTC").to_pydatetime()):
        rows = frame[(frame[model.source.time] >= span.start) & (frame[model.source.time] < span.end)]
        if rows.empty:
            return
        yield rows


def _public(kind: str) -> Stream:
    """The price of electricity, half an hour each (will it rise?), or the weather, a day each (will it rain?).

    The files carry no dates: the rows stand in their order, dated one after the other from the documented first day.
    """
    file, start, step, every, windows = {
        "electricity": ("elec.csv", "1996-05-07", "30min", "month", ("all", 12, 6, 3)),
        "weather": ("weather.csv", "1949-01-01", "1D", "year", ("all", 20, 10, 5)),
    }[kind]
    frame = pd.read_csv(public_file(file))
    inputs = [name for name in frame.columns if name != "target"]
    model = {
        **SPEC,
        "model": kind,
        "interval": {"every": every, "start": f"{start[:4]}-01-01" if every == "year" else f"{start[:7]}-01"},
        "task": "binary",
        "columns": {
            "id": {"type": "string"},
            "time": {"type": "datetime"},
            **{name: {"type": "number"} for name in inputs},
            "y": {"type": "boolean"},
        },
        "training": {
            "candidates": [BOOSTED],
            "windows": ["all", 4, 2, 1, "change"],
            "first_after": 6,
            "min_rows": 300,
            "early_stopping": 0,
            "threads": 1,
        },
        "gate": {"min_rows": 100, "slice_min_rows": 100},
    }
    spec = parse(yaml.safe_dump(model, sort_keys=False), kind)
    moments = pd.date_range(start, periods=len(frame), freq=step, tz="UTC")
    dated = frame[inputs].assign(id=[f"{n:06d}" for n in range(len(frame))], time=moments, y=frame["target"] == 1)
    return Stream(spec, lambda: _cut(spec, dated), windows)


def public_file(name: str) -> Path:
    """A data file out of the wheel that carries it, taken from the package registry once and checked by its hash.

    Raises:
        RuntimeError: the wheel is another one.
    """
    folder = cache() / "packages"
    if not (folder / name).exists():
        command = ["-m", "pip", "download", PACKAGE, "--no-deps", "--only-binary", ":all:", "--dest", str(folder)]
        command += ["--python-version", "3.7", "--platform", "manylinux1_x86_64"]
        subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
        wheel = next(folder.glob("*.whl"))
        if sha256(wheel.read_bytes()).hexdigest() != WHEEL:
            raise RuntimeError(f"{wheel.name} is not the wheel that was read before")
        with zipfile.ZipFile(wheel) as archive:
            (folder / name).write_bytes(archive.read(f"skmultiflow/data/datasets/{name}"))
    return folder / name


def cache() -> Path:
    """Where data and figures wait for the next run; not in the repository."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "retrain-benchmarks"


# --- the staleness matrix, and the policies that are read from it


class Matrix(NamedTuple):
    """What every fit would have scored, and cost.

    Attributes:
        scores: (window, moment) → place of a later interval → score there.
        cpu: (window, moment) → seconds of the CPU of the fit.
        first: the moment of the first model: the place of the first interval that it serves.
        intervals: how many there are.
    """

    scores: dict[tuple[int | str, int], dict[int, float]]
    cpu: dict[tuple[int | str, int], float]
    first: int
    intervals: int


def staleness(stream: Stream) -> Matrix:
    """Fit the one configuration at each moment on each window, and score it on each later interval.

    Nothing is held back: a fixed policy trains on what it is given, broken rows and wrong labels too.
    """
    spec = stream.spec
    tables = [published(spec, frame) for frame in stream.frames()]
    rows = dataset.to_frame(pa.concat_tables(tables))
    y = dataset.outcome(spec, rows).to_numpy(dtype=float)
    labelled, ends = np.isfinite(y), np.cumsum([0, *map(len, tables)])
    rows, y = rows[labelled].reset_index(drop=True), y[labelled]
    starts = np.concatenate([[0], np.cumsum(labelled)])[ends]
    behind = 1 if spec.labels.mature_after else 0
    first = max(spec.training.first_after, spec.evaluation.holdout + 1) + behind
    candidate = spec.training.candidates[0]
    configuration = Configuration(
        estimator=candidate.estimator,
        parameters=dict(candidate.parameters),
        window=None,
        pipeline=pipelines.pipeline_digest(spec),
    )
    scores: dict[tuple[int | str, int], dict[int, float]] = {}
    cpu: dict[tuple[int | str, int], float] = {}
    for moment in range(first, len(tables)):
        newest = moment - behind
        for window in stream.windows:
            if window != "all" and int(window) >= newest:
                scores[window, moment], cpu[window, moment] = scores["all", moment], cpu["all", moment]
                continue
            taught = slice(starts[0 if window == "all" else newest - int(window)], starts[newest])
            began = time.process_time()
            model = pipelines.fit(spec, configuration, rows[taught], y[taught])
            cpu[window, moment] = time.process_time() - began
            answers = pipelines.predict(model, spec.task, rows[starts[moment] :])
            scores[window, moment] = {
                place: metric_value(
                    spec.task,
                    spec.gate.metric,
                    y[starts[place] : starts[place + 1]],
                    answers[starts[place] - starts[moment] : starts[place + 1] - starts[moment]],
                )
                for place in range(moment, len(tables))
                if place not in stream.uncounted
            }
    return Matrix(scores, cpu, first, len(tables))


def fixed(matrix: Matrix, windows: Sequence[int | str]) -> dict[str, Walked]:
    """Every schedule's walk: `never`, and each pace on each window."""
    walked = {"never": _served(matrix, {matrix.first: windows[0]})}
    for window in windows:
        for pace in PACES:
            plan = dict.fromkeys(range(matrix.first, matrix.intervals, pace), window)
            walked[f"every {pace}, {'all rows' if window == 'all' else f'last {window}'}"] = _served(matrix, plan)
    return walked


def _served(matrix: Matrix, plan: Mapping[int, int | str]) -> Walked:
    scores: dict[int, float] = {}
    for moment, window in sorted(plan.items()):
        scores |= {place: score for place, score in matrix.scores[window, moment].items() if place >= moment}
    return Walked(scores, len(plan) - 1, sum(matrix.cpu[window, moment] for moment, window in plan.items()))


def oracle(matrix: Matrix, windows: Sequence[int | str], price: float = PRICE) -> Walked:
    """The plan of least loss for somebody who knows the future and pays for each training after the first.

    Args:
        matrix: of a metric that is a loss.
        windows: among which each training may choose; the first model has all rows.
        price: of a training, as a share of the mean loss of an interval under the first model.
    """
    paid = price * float(np.mean(list(matrix.scores["all", matrix.first].values())))
    best: dict[int, tuple[float, dict[int, int | str]]] = {matrix.intervals: (-paid, {})}
    for moment in range(matrix.intervals - 1, matrix.first - 1, -1):
        plans = []
        for window in windows if moment > matrix.first else windows[:1]:
            served = matrix.scores[window, moment]
            for end in range(moment + 1, matrix.intervals + 1):
                loss = sum(score for place, score in served.items() if place < end)
                plans.append((loss + paid + best[end][0], {moment: window, **best[end][1]}))
        best[moment] = min(plans, key=lambda plan: plan[0])
    return _served(matrix, best[matrix.first][1])


# --- ours, through the real stages


def published(model: Spec, frame: pd.DataFrame) -> pa.Table:
    """The rows as snapshot publishes them."""
    return pa.Table.from_pandas(frame[list(model.columns)], schema=arrow_schema(model), preserve_index=False)


def history(home: Home, model: Spec, frames: Iterator[pd.DataFrame]) -> None:
    """Lay frames into the store and the ledger as accepted batches, one an interval."""
    ledger = Ledger(home.ledger)
    spans = model.intervals_until(pd.Timestamp("2100-01-01", tz="UTC").to_pydatetime())
    for frame, span in zip(frames, spans, strict=False):
        file = Path(home.store) / f"{model.model}/batches/{span.name}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(published(model, frame), file)
        digest = sha256_of(file)
        key = f"{model.model}/batches/{span.name}.parquet"
        batch = Batch(interval=span, sha256=digest, rows=len(frame), bytes=file.stat().st_size, key=key)
        accepted = AcceptedBatch(batch=batch, md5="", commit="", mature_at=span.end + model.labels.mature_after)
        body = {"interval": span.name, "accepted": accepted.model_dump(mode="json")}
        ledger.append(model.model, "snapshot", f"{span.name}/{digest}", body, effective_at=span.end)


def walk(stream: Stream, policy: str) -> Walked:
    """A history under a policy, through the stages that the DAGs run."""
    with tempfile.TemporaryDirectory(prefix="retrain-timeline-") as folder:
        root = Path(folder)
        home = replace(
            Home.from_environment(), state=root, store=str(root / "store"), ledger=f"sqlite:///{root / 'ledger.db'}"
        )
        history(home, stream.spec, stream.frames())
        for module in pkgutil.iter_modules(retrain.stages.__path__):
            importlib.import_module(f"retrain.stages.{module.name}")  # else the first walk pays for all imports
        began = time.process_time()
        outcome = replay(home, stream.spec, policies_of(stream.spec, [policy]))[0]
        cpu = time.process_time() - began
    return Walked(_counted(outcome, stream), outcome.trainings, cpu, tuple(_steps(outcome)))


def _counted(outcome: ReplayOutcome, stream: Stream) -> dict[int, float]:
    return {
        place: step.score
        for place, step in enumerate(outcome.steps)
        if step.score is not None and place not in stream.uncounted
    }


def _steps(outcome: ReplayOutcome) -> Iterator[str]:
    for step in outcome.steps:
        yield f"{step.interval} {'trained' if step.trained else step.decision}: {step.reason}"


def _in_memory() -> None:
    """Lay temporary folders into memory where there is some: a replay writes many small files and commits."""
    memory = Path("/dev/shm")
    if os.access(memory, os.W_OK):
        tempfile.tempdir = str(memory)


# --- one job: a policy on a history, kept for the next run


def job(world: World, policy: str, keep: Path | None = None) -> dict[str, Walked]:
    """Walk a history under a policy, or all the fixed ones; from what a run before kept, where it can."""
    file = keep and keep / f"{'-'.join(map(str, (*world, policy))).replace(' ', '_')}.json"
    if file and file.exists():
        kept = json.loads(file.read_text())
        return {
            name: Walked({int(place): score for place, score in scores.items()}, trainings, cpu, tuple(steps))
            for name, (scores, trainings, cpu, steps) in kept.items()
        }
    warnings.simplefilter("ignore")  # a linear model on a column times a hundred has much to say
    stream = stream_of(world)
    if policy == "fixed":
        matrix = staleness(stream)
        walked = {**fixed(matrix, stream.windows), "oracle": oracle(matrix, stream.windows)}
    else:
        walked = {policy: walk(stream, policy)}
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps(walked))
        part.replace(file)
    return walked


# --- the tables


class Row(NamedTuple):
    """A world's walks: policy → seed → walk."""

    name: tuple[str, str, str]
    walks: dict[str, dict[int, Walked]]

    def seeds(self, *policies: str) -> list[int]:
        return sorted(set.intersection(*(set(self.walks.get(policy, {})) for policy in policies)))

    def score(self, policy: str, seed: int) -> float:
        """The mean over the intervals that ours served too."""
        scores = self.walks[policy][seed].scores
        ours = self.walks.get("ours", {}).get(seed)
        places = [place for place in scores if ours is None or place in ours.scores]
        return float(np.mean([scores[place] for place in places]))

    def mean(self, policy: str, seeds: Sequence[int]) -> float:
        return float(np.mean([self.score(policy, seed) for seed in seeds]))

    def trainings(self, policy: str, seeds: Sequence[int]) -> float:
        return float(np.mean([self.walks[policy][seed].trainings for seed in seeds]))

    def cpu(self, policy: str, seeds: Sequence[int]) -> float:
        return float(np.mean([self.walks[policy][seed].cpu for seed in seeds]))

    @property
    def schedules(self) -> list[str]:
        return [policy for policy in self.walks if policy == "never" or policy.startswith("every ")]

    @property
    def paces(self) -> int:
        """Trainings of a policy that trains every interval."""
        walked = self.walks["every 1, all rows"]
        return next(iter(walked.values())).trainings


def apart(row: Row, policy: str, other: str, seeds: Sequence[int]) -> tuple[float, float]:
    """How far a policy's mean score lies above another's, as a share, and half of its 95 % interval.

    The interval is over seeds; of a history that there is one of, over its intervals.
    """
    if len(seeds) > 1:
        differences = [row.score(policy, seed) - row.score(other, seed) for seed in seeds]
    else:
        scores, others = (row.walks[name][seeds[0]].scores for name in (policy, other))
        ours = row.walks["ours"][seeds[0]].scores
        differences = [scores[place] - others[place] for place in scores if place in ours]
    shares = np.array(differences) / row.mean(other, seeds)
    if len(shares) < 2:
        return float(shares.mean()), float("nan")
    half = stats.t.ppf(0.975, len(shares) - 1) * shares.std(ddof=1) / np.sqrt(len(shares))
    return float(shares.mean()), float(half)


def _share(value: float, half: float) -> str:
    return f"{value:+.1%}" if np.isnan(half) else f"{value:+.1%} ± {100 * half:.1f}"


def allowed(row: Row) -> float:
    """The trainings after the first model that ours may have in a world."""
    return 1.0 if row.name[0] in ("no change", "broken unit") else row.paces * SHARE


def trained_on_broken(row: Row, seeds: Sequence[int]) -> float:
    """Trainings in the months in which a unit is broken: there may be none."""
    months = [row.walks["ours"][seed].steps[CHANGE : CHANGE + 2] for seed in seeds if row.name[0] == "broken unit"]
    return float(np.mean([sum(" trained: " in step for step in steps) for steps in months])) if months else 0.0


def bars(rows: Sequence[Row]) -> Figures:
    """Ours against the best fixed schedule of each world, chosen in hindsight."""
    lines, score_met, trainings_met, cpu_met, beaten = [], 0, 0, 0, 0
    judged = [row for row in rows if row.walks.get("ours")]
    for row in judged:
        seeds = row.seeds("ours", "never")
        ours = row.trainings("ours", seeds)
        best = min(row.schedules, key=lambda policy: row.mean(policy, seeds))
        away = apart(row, "ours", best, seeds)
        alike = [policy for policy in row.schedules if row.trainings(policy, seeds) <= np.ceil(ours)]
        rival = min(alike, key=lambda policy: row.mean(policy, seeds))
        ahead = apart(row, "ours", rival, seeds)
        lost = ahead[0] - (0.0 if np.isnan(ahead[1]) else ahead[1]) > 0
        through = row.walks.get(THROUGH_STAGES, {})
        every = row.cpu(THROUGH_STAGES, sorted(through)) if through else float("nan")
        cpu = row.cpu("ours", seeds)
        cheap = cpu <= every * SHARE
        broken = trained_on_broken(row, seeds)
        near, few = away[0] <= WITHIN, ours <= allowed(row) + 1e-9 and not broken
        score_met, trainings_met, cpu_met = score_met + near, trainings_met + few, cpu_met + cheap
        beaten += lost
        checked = {"score": near, "trainings": few, "schedule": not lost, **({"CPU": cheap} if through else {})}
        missed = " and ".join(what for what, met in checked.items() if not met)
        lines.append(
            (
                ", ".join(row.name),
                best,
                _share(*away),
                f"{ours:.1f} of {allowed(row):g}"
                + (f", {broken:.1f} in the broken months" if row.name[0] == "broken unit" else ""),
                rival,
                _share(*ahead),
                f"{cpu:.1f} / {f'{every:.1f}' if through else 'not run'} / {row.cpu('every 1, all rows', seeds):.1f}",
                f"MISSED: {missed}" if missed else "met",
            )
        )
    total = len(judged)
    with_cpu = sum(bool(row.walks.get(THROUGH_STAGES)) for row in judged)
    return Figures(
        "Ours against the best fixed schedule of each world, in hindsight, and against one of as many trainings",
        (
            *("world, task, labels", "best fixed", "ours against it", "trainings", "fixed, as many trainings"),
            *("ours against it", "CPU s: ours / every interval through the stages / its bare fits", "bars"),
        ),
        tuple(lines),
        (
            f"Within {WITHIN:.0%} of the best fixed schedule: {score_met} of {total}; few enough trainings:"
            f" {trainings_met}; at most half the CPU of training every interval through the stages: {cpu_met} of"
            f" {with_cpu}.",
            f"A schedule of at most as many trainings (rounded up) is better, beyond its 95 % interval, in {beaten} of"
            f" {total} worlds, {total // 10} allowed: {'met' if beaten <= total // 10 else 'MISSED'}.",
            "Where a unit breaks, one training at most as where nothing changes, and none in the broken months.",
            "±: half of the 95 % interval over seeds; of real data, which are one history each, over its intervals.",
        ),
    )


def means(rows: Sequence[Row]) -> Figures:
    """Score and trainings of the policies, world by world."""
    lines = []
    for row in rows:
        seeds = row.seeds("never")
        sliding = [policy for policy in row.schedules if "last" in policy]
        best = min(sliding, key=lambda policy: row.mean(policy, seeds))
        cells = [
            _cell(row, policy)
            for policy in ("never", *(f"every {pace}, all rows" for pace in PACES), best, "ours", "oracle")
        ]
        cells[1 + len(PACES)] += f" ({best})"
        lines.append((", ".join(row.name), *cells, *(_beside(row, policy) for policy in BESIDE)))
    return Figures(
        "Mean score (log loss, RMSE; less is better) · trainings after the first model",
        (
            *("world, task, labels", "never", *(f"every {pace}, all" for pace in PACES), "best on newest rows"),
            *("ours", "oracle", *(f"{policy}, against ours" for policy in BESIDE)),
        ),
        tuple(lines),
    )


def _cell(row: Row, policy: str) -> str:
    seeds = row.seeds(policy) if policy in row.walks else []
    return f"{row.mean(policy, seeds):.4f} · {row.trainings(policy, seeds):.1f}" if seeds else "–"


def _beside(row: Row, policy: str) -> str:
    """A policy that was walked on few seeds, against ours on the same."""
    seeds = row.seeds(policy, "ours") if row.walks.get(policy) else []
    return f"{apart(row, policy, 'ours', seeds)[0]:+.1%} · {row.trainings(policy, seeds):.1f}" if seeds else "–"


def worlds(kinds: Sequence[str], seeds: Sequence[int]) -> list[World]:
    """Every history of these kinds; of a real one there is one."""
    synthetic = [
        World(kind, task, labels, seed)
        for kind in kinds
        if kind not in REAL
        for task in (TASKS if kind in KINDS else TASKS[:1])
        for labels in LABELS
        for seed in seeds
    ]
    return synthetic + [World(kind, "binary", "prompt", 0) for kind in kinds if kind in REAL]


def figures(
    kinds: Sequence[str] = (*KINDS, *WRONG_LABELS, *REAL),
    seeds: Sequence[int] = SEEDS,
    *,
    few: int = FEW,
    workers: int = 2,
    keep: Path | None = None,
) -> list[Figures]:
    """The whole benchmark; what `keep` holds of a run before is not made again."""
    histories = worlds(kinds, seeds)
    first = {world.name for world in histories}
    jobs = [(world, "fixed") for world in histories] + [(world, "the spec's") for world in _spread(histories)]
    for name in sorted(first):
        of = [world for world in histories if world.name == name]
        jobs += [(world, THROUGH_STAGES) for world in of[: min(few, 1)] if world.labels == "prompt"]
        jobs += [(world, policy) for policy in BESIDE for world in of[:few]]
    rows = {name: Row(name, {}) for name in dict.fromkeys(world.name for world in histories)}
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_in_memory) as pool:
        futures = {pool.submit(job, world, policy, keep): world for world, policy in jobs}
        waiting = track(
            as_completed(futures), total=len(futures), console=Console(stderr=True), description="timelines"
        )
        for future in waiting:
            world = futures[future]
            for policy, walked in future.result().items():
                name = "ours" if policy == "the spec's" else policy
                rows[world.name].walks.setdefault(name, {})[world.seed] = walked
    complete = list(rows.values())
    note = f"Seeds {seeds[0]} to {seeds[-1]} for ours and the schedules; {few} of them for {' and '.join(BESIDE)}."
    table = means(complete)
    return [replace(table, notes=(note, *NOTES)), bars(complete)]


NOTES = (
    "Intervals whose rows or labels are wrong (broken unit, wrong labels) count in no score.",
    f"Oracle: knows the future, pays {PRICE:.0%} of an interval's loss a training.",
    f"Electricity and weather: out of {PACKAGE} (3-Clause BSD); electricity by month, weather by year.",
)


def _spread(histories: Sequence[World]) -> list[World]:
    """Seed by seed, so that a run that is cut short has all worlds on fewer seeds."""
    return sorted(histories, key=lambda world: world.seed)


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument("--quick", action="store_true", help="one world, one seed: to see that it works")
    every = (*KINDS, *WRONG_LABELS, *REAL)
    arguments.add_argument("--only", nargs="+", choices=every, default=every)
    arguments.add_argument("--seeds", nargs=2, type=int, metavar=("FIRST", "COUNT"), default=(SEEDS[0], len(SEEDS)))
    arguments.add_argument("--keep", type=Path, help="folder for what was walked, so that a run can be continued")
    arguments.add_argument("--steps", nargs=4, metavar=World._fields, help="print ours on one history, step by step")
    given = arguments.parse_args()
    console = Console(highlight=False)
    if given.steps:
        kind, task, labels, seed = given.steps
        print(*job(World(kind, task, labels, int(seed)), "the spec's", given.keep)["the spec's"].steps, sep="\n")
        return
    first, count = (given.seeds[0], 1) if given.quick else given.seeds
    for section in figures(
        given.only[1:2] if given.quick else given.only,
        range(first, first + count),
        few=1 if given.quick else FEW,
        keep=given.keep,
    ):
        console.print(section.table()) if console.is_terminal else print(section.markdown())


if __name__ == "__main__":
    main()
