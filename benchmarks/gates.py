"""The gate's operating curves, beside a point comparison, `mlflow.validate_evaluation_results` and the rule before.

    python benchmarks/gates.py [--quick]

Made-up answers of made-up models whose true scores are known, through the code that judges real ones: blocks are
resampled and paired by `retrain.gate.evidence`, the level is spent by `retrain.gate.alpha_spending`, and
`retrain.gate.judge` decides. No model is fitted, and the baselines count as beaten: they could only stop a promotion.
One holdout interval, `LEVEL`, `MARGIN`, 50 rows a day.

A refresh is as good as the champion, or worse by one or two margins; the bars are `PASSED` of those as good and
`REFUSED` of those worse by two, at 30 blocks. No judge of one noisy gain can do better on both than the limit at the
margin, so beside each figure stands what it would reach by the gain's true spread. `shown` is what the gate asked
before: a refresh had to be shown to be within the margin. A new configuration is as good as the champion; promoting it
is wrong.

Errors of all models share a part; rows are independent, or a part of each model's error is that of the day, or the
days' parts follow each other (AR(1), 0.3 or 0.5), or the challenger makes rare great mistakes and is better than the
champion between them (2 % of the rows, errors four times as great). How much noise makes a model so much better or
worse is solved for by quadrature.

`point`: better on these rows, for a refresh not worse by the margin. MLflow is asked for `min_absolute_change` of
nearly nothing, and for `min_relative_change` of the margin; it has no word for a refresh but an absolute `threshold`,
which is set to the champion's score on these rows and the margin. All figures hang on the seeds and not on the machine.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[1] / "include")]
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import numpy as np
from scipy.optimize import brentq
from scipy.signal import lfilter
from scipy.special import expit
from scipy.stats import binom, norm

from benchmarks.alarms import wilson
from benchmarks.measure import Figures
from retrain.gate import alpha_spending, evidence
from retrain.gate.judge import judge
from retrain.modeling import gains, resampling
from retrain.modeling.metrics import Array
from retrain.results import (
    AcceptedBatch,
    Batch,
    Champion,
    Configuration,
    Context,
    Decision,
    EvaluateReport,
    FittedModel,
    GateReport,
    MetricEstimate,
    PairedGain,
    TrainReport,
    Trigger,
)
from retrain.spec import EXAMPLE, METRICS, Spec, parse
from retrain.state.ledger import Record

TASKS = {"log_loss": "binary", "roc_auc": "binary", "rmse": "regression", "mae": "regression"}
FOLLOWS = {"AR(1) 0.5": 0.5, "AR(1) 0.3": 0.3}
"""World → how far the part of an error that is the day's follows that of the day before."""
WORLDS = ("independent", "days", "AR(1) 0.5", "rare mistakes", "AR(1) 0.3")
BLOCKS = {10: 100, 30: 150, 90: 50}
"""Blocks of the holdout rows → cycles of a cell."""
PASSED = REFUSED = 0.9
"""Of refreshes that are as good, and of those worse by two margins, at `BAR` blocks."""
BAR = 30
STEPS_BELOW = (0, 1, 2)
"""By how many margins a refresh is worse."""
REFRESHES = ("independent", "days", "AR(1) 0.3", "AR(1) 0.5")
ALIKE = (0.95, 0.99)
"""Share of the variance of its errors that a refresh has in common with the champion."""
GAINS = (0.01, 0.02, 0.05)
POWER = 50
SEED = 10_000_000
"""The first of the seeds. The method was chosen on those from 0, so its figures have to come from others."""
ROWS, SHARED, OF_DAY = 50, 0.95, 0.3
"""Rows of a block; shares of the variance of an error that all models have, and that a day's rows have."""
RARE, GREAT = 0.02, 4.0
LOGIT, NOISE = 1.5, 1.0
"""Standard deviation of the true logit, and of the champion's error of it."""
LEVEL, MARGIN = 0.05, 0.01
STEPS, STEP, HISTORIES, REFRESHED = 24, 0.4, 40, (0.999, 0.95)
"""Refreshes of a history, by how much of the margin each is worse, and what a refresh shares with its predecessor."""
CHALLENGERS, WINDOWS = 20, 100
REFRESH = Configuration(estimator="linear", parameters={}, pipeline="p")
NEW = Configuration(estimator="xgboost", parameters={}, pipeline="p")
CANDIDATES = {"new": ("new",), "both": ("new", "refresh")}
Promoted = dict[str, bool]
"""Judge and candidate → whether it is promoted."""


# --- worlds in which the truth is known


@lru_cache
def _quadrature() -> tuple[Array, Array]:
    points, weights = np.polynomial.hermite_e.hermegauss(80)
    return points, weights / weights.sum()


def true_score(metric: str, noise: float, rare: bool) -> float:
    """The expected metric of a model whose errors have this standard deviation, rare mistakes apart."""
    kinds = ((1 - RARE, noise), (RARE, GREAT * NOISE)) if rare else ((1.0, noise),)
    if metric == "mae":
        return float(np.sqrt(2 / np.pi) * sum(share * sd for share, sd in kinds))
    if metric == "rmse":
        return float(np.sqrt(sum(share * sd**2 for share, sd in kinds)))
    points, weights = _quadrature()
    z = LOGIT * points
    p = expit(z)
    if metric == "log_loss":
        grid = [(share, np.logaddexp(0, z[:, None] + sd * points) @ weights) for share, sd in kinds]
        return float(sum(share * weights @ (mean - p * z) for share, mean in grid))
    yes, no = weights * p / (weights @ p), weights * (1 - p) / (weights @ (1 - p))
    apart = z[:, None] - z
    return float(
        sum(a * b * (yes @ norm.cdf(apart / np.hypot(first, second)) @ no) for a, first in kinds for b, second in kinds)
    )


@lru_cache
def noise_for(metric: str, gain: float, rare: bool) -> float:
    """The standard deviation that makes a model better than the champion by this share of its score."""
    champion = true_score(metric, NOISE, False)
    wanted = champion * (1 + gain if METRICS[TASKS[metric]][metric] else 1 - gain)
    return float(brentq(lambda noise: true_score(metric, noise, rare) - wanted, 1e-3, 5 * NOISE))


class World:
    """Rows of some days: outcomes, and the answers of models whose errors share a part."""

    def __init__(self, rng: np.random.Generator, metric: str, kind: str, blocks: int, shared: float = SHARED) -> None:
        self.rng, self.metric, self.kind, self.blocks, self.shared = rng, metric, kind, blocks, shared
        self.block = np.repeat(np.arange(blocks), ROWS)
        self.common = self._errors()
        self.truth = self._errors()
        drawn = rng.random(len(self.block)) < expit(LOGIT * self.truth)
        self.y = drawn.astype(float) if self.task == "binary" else 10 * self.truth

    @property
    def task(self) -> str:
        return TASKS[self.metric]

    def _errors(self) -> Array:
        """(rows,) standard normal, dependent as this world has it."""
        rows = self.rng.normal(size=len(self.block))
        if self.kind not in ("days", *FOLLOWS):
            return rows
        days = self.rng.normal(size=self.blocks)
        if self.kind in FOLLOWS:
            follows = FOLLOWS[self.kind]
            days[1:] *= np.sqrt(1 - follows**2)
            days = np.asarray(lfilter([1], [1, -follows], days))
        return np.asarray(np.sqrt(1 - OF_DAY) * rows + np.sqrt(OF_DAY) * days[self.block])

    def answers(self, noise: float, *, rare: bool = False) -> Array:
        errors = np.sqrt(self.shared) * self.common + np.sqrt(1 - self.shared) * self._errors()
        sizes = np.full(len(errors), noise)
        if rare:
            sizes[self.rng.random(len(errors)) < RARE] = GREAT * NOISE
        return np.asarray(
            expit(LOGIT * self.truth + sizes * errors) if self.task == "binary" else self.y + sizes * errors
        )

    def challenger(self, gain: float) -> Array:
        rare = self.kind == "rare mistakes"
        return self.answers(noise_for(self.metric, gain, rare), rare=rare)

    def draws(self, answers: Array) -> resampling.Draws:
        return resampling.resample(
            self.task, self.metric, self.y, answers, self.block, resamples=200, seed=0, leave_out=True
        )


# --- the three judges


def spec_of(metric: str) -> Spec:
    spec = parse(EXAMPLE + f"gate: {{margin: {MARGIN}, level: {LEVEL}, min_rows: 20}}", "churn")
    gate = spec.gate.model_copy(update={"metric": metric, "calibration": None, "leak": False})
    return spec.model_copy(update={"task": TASKS[metric], "gate": gate})


@lru_cache
def frame(metric: str, candidates: tuple[str, ...], with_reference: bool = False) -> tuple[Spec, Context, TrainReport]:
    """What the gate reads besides the evaluation."""
    spec = spec_of(metric)
    intervals = tuple(spec.intervals_until(spec.at("2024-04-01").end))
    about: dict[str, Any] = {"model": "churn", "interval": intervals[-1], "effective_at": intervals[-1].end}
    accepted = tuple(
        AcceptedBatch(
            batch=Batch(interval=interval, sha256=interval.name, rows=1, bytes=1, key="k"),
            md5="m",
            commit="c",
            mature_at=interval.end,
        )
        for interval in intervals
    )
    champion = Champion(
        version=2,
        run_id="r",
        digest="d",
        configuration=REFRESH,
        training="t",
        reference="x",
        trained_until=intervals[-2].end,
        effective_at=intervals[-2].end,
    )
    reference_champion = champion.model_copy(update={"version": 1}) if with_reference else champion
    context = Context(
        **about,
        spec_digest="s",
        trigger=Trigger(),
        accepted=accepted,
        champion=champion,
        reference_champion=reference_champion,
    )
    kinds: dict[str, Literal["new", "refresh"]] = {"new": "new", "refresh": "refresh"}
    fitted = tuple(
        FittedModel(
            name=name,
            kind=kinds[name],
            configuration=NEW if name == "new" else REFRESH,
            training="t",
            intervals=intervals[:-1],
            rows=1,
            key=name,
            digest="d",
            inner_score=0.0,
        )
        for name in candidates
    )
    return spec, context, TrainReport(**about, fitted=fitted, holdout=intervals[-1:], seed=1)


def interim_analyses(count: int) -> list[alpha_spending.InterimAnalysis]:
    """What `count` interim analyses of one interval may spend."""
    now = datetime(2024, 1, 1, tzinfo=UTC)
    body = {"batches": ["a"], "level": LEVEL, "expected": 1}
    records = [Record(n, "churn", "interim_analysis", f"{n}", None, "", now, now, body) for n in range(count)]
    return [analysis for _, analysis in alpha_spending.levels_spent(records)]


def gated(metric: str, draws: Mapping[str, resampling.Draws], level: float, candidates: tuple[str, ...]) -> GateReport:
    """The gate's verdict on these draws; `level` is the run's, shared by the candidates."""
    spec, context, train = frame(metric, candidates, "reference_champion" in draws)
    each = level / evidence.count_judged(context, train)
    pairs = evidence.paired_gains(spec, train, {metric: dict(draws)}, each)
    beaten = [
        PairedGain.model_construct(
            **{**pairs[0].model_dump(), "model": name, "against": base}
            | dict.fromkeys(("gain", "low", "high", "within_low", "within_high"), 1.0)
        )
        for name in candidates
        for base in ("naive", "simple")
    ]
    scores = {name: {metric: MetricEstimate(value=drawn.value)} for name, drawn in draws.items()}
    beaten_score = -1e9 if METRICS[TASKS[metric]][metric] else 1e9
    scores |= {base: {metric: MetricEstimate(value=beaten_score)} for base in ("naive", "simple")}
    return judge(
        spec,
        context,
        train,
        EvaluateReport(
            model="churn",
            interval=context.interval,
            effective_at=context.effective_at,
            decision=Decision(verdict="measured", reasons=("measured",)),
            level=each,
            rows=pairs[0].blocks * ROWS,
            blocks=pairs[0].blocks,
            metrics=scores,
            paired=(*pairs, *beaten),
        ),
    )


def promoted(report: GateReport) -> bool:
    return report.decision.verdict == "promote"


def point(metric: str, score: float, champion: float, *, refresh: bool) -> bool:
    gain = score - champion if METRICS[TASKS[metric]][metric] else champion - score
    return bool(gain > -MARGIN * abs(champion) if refresh else gain > 0)


def by_mlflow(metric: str, score: float, champion: float, **threshold: float) -> bool:
    """Whether MLflow validates a candidate with this score."""
    import mlflow.utils.logging_utils
    from mlflow import validate_evaluation_results
    from mlflow.models import EvaluationResult, MetricThreshold
    from mlflow.models.evaluation.validation import ModelValidationFailedException

    mlflow.utils.logging_utils.disable_logging()
    sides = [EvaluationResult(metrics={metric: value}, artifacts={}) for value in (score, champion)]
    thresholds = {metric: MetricThreshold(greater_is_better=METRICS[TASKS[metric]][metric], **threshold)}
    try:
        validate_evaluation_results(thresholds, *sides)
    except ModelValidationFailedException:
        return False
    return True


def others(metric: str, score: float, champion: float) -> Promoted:
    """Whether the other judges promote a new configuration."""
    return {
        "point: new": point(metric, score, champion, refresh=False),
        "mlflow: new": by_mlflow(metric, score, champion, min_absolute_change=1e-12),
        "mlflow + margin: new": by_mlflow(metric, score, champion, min_relative_change=MARGIN),
    }


# --- what is measured

Task = tuple[str, str, int, int, int, tuple[float, float]]
"""Metric, world, blocks, first seed, cycles; true gain of the new configuration and of the refresh."""


def cycles(task: Task) -> list[Promoted]:
    """Whether a new configuration is promoted, by whom, in each of these cycles."""
    metric, kind, blocks, first, rounds, true_gains = task
    level, outcomes = interim_analyses(1)[0].level, []
    for seed in range(first, first + rounds):
        rng = np.random.default_rng([seed, blocks, WORLDS.index(kind), list(TASKS).index(metric)])
        world = World(rng, metric, kind, blocks)
        answers = {"champion": world.answers(NOISE)}
        answers |= {name: world.challenger(gain) for name, gain in zip(("new", "refresh"), true_gains, strict=True)}
        draws = {name: world.draws(answer) for name, answer in answers.items()}
        promoted_by = {}
        for name, candidates in CANDIDATES.items():
            report = gated(metric, draws, level, candidates)
            promoted_by[f"gate: {name}"] = promoted(report) and report.chosen == "new"
        outcomes.append(promoted_by | others(metric, draws["new"].value, draws["champion"].value))
    return outcomes


RefreshTask = tuple[str, str, int, float, int, int]
"""Metric, world, blocks, what a refresh shares with the champion, first seed, cycles."""


def refreshes(task: RefreshTask) -> list[dict[tuple[str, int], float]]:
    """(Judge, margins worse) → whether a refresh is promoted, and its gain, in each of these cycles."""
    metric, kind, blocks, shared, first, rounds = task
    level, outcomes = interim_analyses(1)[0].level, []
    for seed in range(first, first + rounds):
        rng = np.random.default_rng([seed, blocks, WORLDS.index(kind), list(TASKS).index(metric), round(100 * shared)])
        world = World(rng, metric, kind, blocks, shared)
        champion, promoted_by = world.draws(world.answers(NOISE)), {}
        for below in STEPS_BELOW:
            draws = {"champion": champion, "refresh": world.draws(world.challenger(-below * MARGIN))}
            report = gated(metric, draws, level, ("refresh",))
            score, other = draws["refresh"].value, champion.value
            gain = (score - other if METRICS[TASKS[metric]][metric] else other - score) / abs(other)
            promoted_by |= {
                ("gate", below): float(promoted(report)),
                ("gain", below): gain,
                ("shown", below): float(_shown(metric, draws, level)),
                ("point", below): float(point(metric, score, other, refresh=True)),
                ("mlflow", below): float(_mlflow_refresh(metric, score, other)),
            }
        outcomes.append(promoted_by)
    return outcomes


def _shown(metric: str, draws: Mapping[str, resampling.Draws], level: float) -> bool:
    """What the gate asked of a refresh before: that it is shown to be within the margin."""
    sides = [(name, draws[name]) for name in ("refresh", "champion")]
    return gains.paired_gain(TASKS[metric], sides[0], sides[1], level, margin=MARGIN).within_low > 0


def _mlflow_refresh(metric: str, score: float, champion: float) -> bool:
    sign = -1 if METRICS[TASKS[metric]][metric] else 1
    return by_mlflow(metric, score, champion, threshold=champion + sign * MARGIN * abs(champion))


def creep(task: tuple[int, bool, float]) -> tuple[float, int]:
    """True loss of the last champion against the first, after refreshes that are each a little worse; promotions."""
    seed, with_reference, shared = task
    rng = np.random.default_rng([seed, 24])
    champion = reference_champion = NOISE
    promotions = 0
    for _ in range(STEPS):
        world = World(rng, "rmse", "days", 30, shared)
        candidate = champion * (1 + STEP * MARGIN)
        draws = {"champion": world.draws(world.answers(champion)), "refresh": world.draws(world.answers(candidate))}
        if with_reference and reference_champion != champion:
            draws["reference_champion"] = world.draws(world.answers(reference_champion))
        report = gated("rmse", draws, interim_analyses(1)[0].level, ("refresh",))
        if promoted(report):
            champion, promotions = candidate, promotions + 1
            reference_champion = champion if report.becomes_reference else reference_champion
    return champion / NOISE - 1, promotions


def reuse(seed: int) -> tuple[bool, bool]:
    """Whether any of many equal challengers is promoted on one window: each paid for, and each at the full level."""
    world = World(np.random.default_rng([seed, 20]), "log_loss", "days", 30)
    champion, paid, free = world.draws(world.answers(NOISE)), False, False
    for analysis in interim_analyses(CHALLENGERS):
        draws = {"champion": champion, "new": world.draws(world.answers(NOISE))}
        paid = paid or (analysis.level > 0 and promoted(gated("log_loss", draws, analysis.level, ("new",))))
        free = free or promoted(gated("log_loss", draws, LEVEL, ("new",)))
    return paid, free


def figures(quick: bool = False) -> list[Figures]:
    """The whole benchmark; quick: few cycles of two sizes, to see that everything works."""
    sizes = {10: 3, 30: 3} if quick else BLOCKS
    power, histories, windows = (2, 1, 1) if quick else (POWER, HISTORIES, WINDOWS)
    wrong = [
        (m, w, k, SEED + f, min(50, n - f), (0.0, 0.0))
        for k, n in sizes.items()
        for m in TASKS
        for w in WORLDS
        for f in range(0, n, 50)
    ]
    right = [
        (m, "days", k, 2 * SEED + f, min(50, power - f), (gain, 0.0))
        for k in sizes
        for m in TASKS
        for gain in GAINS
        for f in range(0, power, 50)
    ]
    renewed = [
        (m, w, k, shared, 3 * SEED + f, min(50, n - f))
        for shared in ALIKE
        for m in TASKS
        for w in REFRESHES
        for k, n in sizes.items()
        if shared == ALIKE[0] or k == BAR
        for f in range(0, n, 50)
    ]
    histories_ = [(SEED + n, held, shared) for shared in REFRESHED for held in (False, True) for n in range(histories)]
    with ProcessPoolExecutor(workers(), mp_context=get_context("fork")) as pool:
        by_refresh = list(zip(renewed, pool.map(refreshes, renewed), strict=True))
        crept = list(zip(histories_, pool.map(creep, histories_), strict=True))
        by_task = list(zip([*wrong, *right], pool.map(cycles, [*wrong, *right]), strict=True))
        reused = list(pool.map(reuse, range(SEED, SEED + windows)))
    return [
        _refreshed(by_refresh),
        _wrong(sizes, by_task[: len(wrong)]),
        _power(sizes, by_task[len(wrong) :]),
        _history(crept, reused),
    ]


def workers() -> int:
    """Processes at once: `GATES_WORKERS`, or as many as there are cores."""
    return int(os.environ.get("GATES_WORKERS", os.cpu_count() or 1))


def _refreshed(by_task: list[tuple[RefreshTask, list[dict[tuple[str, int], float]]]]) -> Figures:
    """The operating curve of a refresh."""
    rows, missed, best, at_bar = [], [], 0, 0
    for metric, kind, blocks, shared in dict.fromkeys(task[:4] for task, _ in by_task):
        cell = (metric, kind, blocks, shared)
        outcomes = [outcome for task, outcomes in by_task if task[:4] == cell for outcome in outcomes]
        count = len(outcomes)
        share = {key: sum(outcome[key] for outcome in outcomes) / count for key in outcomes[0]}
        spread = float(np.std([outcome["gain", 0] for outcome in outcomes])) or 1e-12
        possible = float(norm.cdf(MARGIN / spread))
        passed, refused = share["gate", 0], 1 - share["gate", 2]
        label = f"{metric}, {kind}, {blocks} blocks, {shared:g} alike"
        if blocks == BAR:
            at_bar += 1
            best += possible >= PASSED
            failed = [f"passes {passed:.0%}"] if passed < PASSED else []
            failed += [f"refuses {refused:.0%}"] if refused < REFUSED else []
            missed += [f"{label}: {' and '.join(failed)}, possible {possible:.0%}"] if failed else []
        low, high = wilson(round(count * passed), count)
        low_, high_ = wilson(round(count * refused), count)
        rows.append(
            (
                label,
                str(count),
                f"{spread / MARGIN:.2f} margins",
                f"{possible:.0%}",
                f"{passed:.0%} ({low:.0%} to {high:.0%})",
                f"{1 - share['gate', 1]:.0%}",
                f"{refused:.0%} ({low_:.0%} to {high_:.0%})",
                *(f"{share[name, 0]:.0%}, {1 - share[name, 2]:.0%}" for name in ("shown", "point", "mlflow")),
            )
        )
    return Figures(
        "A refresh: passed where it is as good, refused where it is worse",
        (
            "metric, rows, blocks, errors alike", "cycles", "spread of the gain", "possible", "as good: passed",
            "1 margin worse: refused", "2 margins worse: refused", "before", "point", "mlflow",
        ),
        tuple(rows),
        (
            f"At {BAR} blocks at least {PASSED:.0%} passed and {REFUSED:.0%} refused: "
            + (f"MISSED in {len(missed)} of {at_bar} cells: {'; '.join(missed)}." if missed else "met."),
            "`possible` is what a judge reaches on both sides who knows the spread of the gain and draws the line at"
            f" the margin; it is {PASSED:.0%} or more in {best} of these {at_bar} cells.",
            "The last columns: passed as good, refused at two margins; `before` asked a refresh to be shown within the"
            " margin.",
        ),
    )  # fmt: skip


CyclesByTask = list[tuple[Task, list[Promoted]]]


def _of(by_task: CyclesByTask, wanted: Callable[[Task], bool]) -> list[Promoted]:
    return [outcome for task, outcomes in by_task if wanted(task) for outcome in outcomes]


def rate(outcomes: list[Promoted], name: str) -> str:
    hits = sum(outcome[name] for outcome in outcomes)
    low, high = wilson(hits, len(outcomes))
    return f"{hits / len(outcomes):.1%} ({low:.1%} to {high:.1%})"


def _by_chance(count: int) -> float:
    """How probably the interval of so many cycles lies above the level where the truth is the level."""
    return float(sum(binom.pmf(hits, count, LEVEL) for hits in range(count + 1) if wilson(hits, count)[0] > LEVEL))


def _wrong(sizes: dict[int, int], by_task: CyclesByTask) -> Figures:
    names = [f"gate: {name}" for name in CANDIDATES]
    rivals = ["point: new", "mlflow: new", "mlflow + margin: new"]
    rows, above, missed, hits, total = [], [], [], 0, 0
    for metric in TASKS:
        for world in WORLDS:
            for blocks in sizes:
                outcomes = _of(by_task, lambda task, of=(metric, world, blocks): task[:3] == of)
                for name in names:
                    count = sum(outcome[name] for outcome in outcomes)
                    cell = f"{metric}, {world}, {blocks} blocks, {name.removeprefix('gate: ')}"
                    hits, total = hits + count, total + len(outcomes)
                    above += [cell] if count > LEVEL * len(outcomes) else []
                    missed += [cell] if wilson(count, len(outcomes))[0] > LEVEL else []
                cells = [f"{sum(outcome[name] for outcome in outcomes) / len(outcomes):.0%}" for name in rivals]
                rows.append(
                    (
                        f"{metric}, {world}, {blocks}",
                        str(len(outcomes)),
                        *(rate(outcomes, name) for name in names),
                        *cells,
                    )
                )
    cells_ = len(rows) * len(names)
    chance = len(names) * sum(_by_chance(int(row[1])) for row in rows)
    return Figures(
        "Wrong promotions of a new configuration, and their 95 % intervals",
        ("metric, rows, blocks", "cycles", *(f"gate: {name}" for name in CANDIDATES), *rivals),
        tuple(rows),
        (
            f"At most {LEVEL:.0%} in every cell, within the 95 % interval: "
            + (f"MISSED: {'; '.join(missed)}." if missed else "met."),
            f"Were every cell at exactly {LEVEL:.0%}, {chance:.1f} of {cells_} intervals would lie above it by chance.",
            f"{cells_ - len(above)} of {cells_} cells are at or under the level as counted; {hits / total:.1%} in all."
            + (f" Above: {'; '.join(above)}." if above else ""),
            f"One analysis of a fresh interval spends {interim_analyses(1)[0].level:.1%}. `both` has a refresh as good"
            " as the champion beside it.",
        ),
    )


def _power(sizes: dict[int, int], by_task: CyclesByTask) -> Figures:
    names = ("gate: new", "gate: both", "point: new", "mlflow: new", "mlflow + margin: new")
    rows = []
    for metric in TASKS:
        for blocks in sizes:
            for gain in GAINS:
                outcomes = _of(by_task, lambda task, of=(metric, blocks, gain): (task[0], task[2], task[5][0]) == of)
                rows.append(
                    (f"{metric}, {blocks} blocks, better by {gain:.0%}", *(rate(outcomes, name) for name in names))
                )
    count = sum(len(outcomes) for _, outcomes in by_task) // (len(sizes) * len(TASKS) * len(GAINS))
    return Figures(
        "Power: promotions of a new configuration that is truly better, days with effects of their own",
        ("what is true", *names),
        tuple(rows),
        (
            f"{count} cycles a row. `gate: both` has a refresh as good as the champion beside it, which may be promoted"
            " instead.",
            "What the others promote here has to be read beside what they promote above, where nothing is better.",
        ),
    )


def _history(
    crept: list[tuple[tuple[int, bool, float], tuple[float, int]]], reused: list[tuple[bool, bool]]
) -> Figures:
    rows, beyond = [], []
    for held, shared in dict.fromkeys(task[1:] for task, _ in crept):
        histories = [history for task, history in crept if task[1:] == (held, shared)]
        lost = [loss for loss, _ in histories]
        mean = np.mean([count for _, count in histories])
        name = f"{'with' if held else 'without'} the reference champion, {shared:g} alike"
        rows.append(
            (
                f"{STEPS} refreshes, each worse by {STEP} margin: {name}",
                f"{np.mean(lost) / MARGIN:.2f} margins",
                f"{np.quantile(lost, 0.95) / MARGIN:.2f} margins",
                f"{mean:.1f} promotions",
            )
        )
        if held:
            share = np.mean([loss > 2 * MARGIN for loss in lost])
            beyond.append(f"{share:.0%} of {len(lost)} histories where a refresh is {shared:g} alike")
    for name, wrong in zip(("spent", "not spent"), zip(*reused, strict=True), strict=True):
        low, high = wilson(sum(wrong), len(wrong))
        rows.append(
            (
                f"{CHALLENGERS} equal challengers on one window: {name}",
                f"{np.mean(wrong):.1%} wrong",
                f"({low:.1%} to {high:.1%})",
                f"{len(wrong)} windows",
            )
        )
    held = "met" if wilson(sum(paid for paid, _ in reused), len(reused))[0] <= LEVEL else "MISSED"
    return Figures(
        "Creep and reused windows",
        ("what", "mean", "95 % quantile, or interval", ""),
        tuple(rows),
        (
            f"With the reference champion beyond two margins of the first champion end {' and '.join(beyond)}.",
            f"Of one window at most {LEVEL:.0%} is spent, however often it is analysed: {held}.",
        ),
    )


def main() -> None:
    from rich.console import Console

    arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument("--quick", action="store_true")
    for section in figures(arguments.parse_args().quick):
        Console().print(section.table())


if __name__ == "__main__":
    main()
