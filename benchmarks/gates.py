"""Wrong promotions and power of the gate, beside a point comparison and `mlflow.validate_evaluation_results`.

    python benchmarks/gates.py [--quick]

Made-up answers of made-up models whose true scores are known, through the code that judges real ones: blocks are
resampled and paired by `retrain.gate.evidence`, the level is spent by `retrain.gate.alpha_spending`, and
`retrain.gate.judge` decides. No model is fitted, and the baselines count as beaten: they could only stop a promotion.
One holdout interval, `LEVEL`, `MARGIN`, 50 rows a day.

A new configuration is as good as the champion, a refresh worse by exactly the margin; promoting either is wrong. Errors
of all models share a part; rows are independent, or a part of each model's error is that of the day, or the days' parts
follow each other (AR(1), 0.5), or the challenger makes rare great mistakes and is better than the champion between them
(2 % of the rows, errors four times as great). How much noise makes a model so much better or worse is solved for by
quadrature.

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
from retrain.modeling import resampling
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
WORLDS = ("independent", "days", "AR(1)", "rare mistakes")
BLOCKS = {10: 1_000, 30: 1_000, 90: 500}
"""Blocks of the holdout rows → cycles of a cell."""
GAINS = (0.01, 0.02, 0.05)
POWER = 300
SEED = 10_000_000
"""The first of the seeds. The method was chosen on those from 0, so its figures have to come from others."""
ROWS, SHARED, OF_DAY, FOLLOWS = 50, 0.95, 0.3, 0.5
"""Rows of a block; shares of the variance of an error that all models have, and that a day's rows have; AR(1)."""
RARE, GREAT = 0.02, 4.0
LOGIT, NOISE = 1.5, 1.0
"""Standard deviation of the true logit, and of the champion's error of it."""
LEVEL, MARGIN = 0.05, 0.01
STEPS, STEP, HISTORIES, REFRESHED = 24, 0.4, 100, 0.999
"""Refreshes of a history, by how much of the margin each is worse, and what a refresh shares with its predecessor."""
CHALLENGERS, WINDOWS = 20, 300
REFRESH = Configuration(estimator="linear", parameters={}, pipeline="p")
NEW = Configuration(estimator="xgboost", parameters={}, pipeline="p")
CANDIDATES = {"new": ("new",), "refresh": ("refresh",), "both": ("new", "refresh")}
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
        if self.kind not in ("days", "AR(1)"):
            return rows
        days = self.rng.normal(size=self.blocks)
        if self.kind == "AR(1)":
            days[1:] *= np.sqrt(1 - FOLLOWS**2)
            days = np.asarray(lfilter([1], [1, -FOLLOWS], days))
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
    pairs = evidence.paired_gains(spec, train, dict(draws), each)
    beaten = [
        PairedGain.model_construct(
            **{**pairs[0].model_dump(), "model": name, "against": base}
            | dict.fromkeys(("gain", "low", "high", "within_low", "within_high"), 1.0)
        )
        for name in candidates
        for base in ("naive", "simple")
    ]
    scores = {name: {metric: MetricEstimate(value=drawn.value)} for name, drawn in draws.items()}
    scores |= {base: {metric: MetricEstimate(value=1.0)} for base in ("naive", "simple")}
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


def others(metric: str, name: str, score: float, champion: float) -> Promoted:
    """Whether the other judges promote a candidate."""
    refresh = name == "refresh"
    promoted_by = {f"point: {name}": point(metric, score, champion, refresh=refresh)}
    if refresh:
        sign = -1 if METRICS[TASKS[metric]][metric] else 1
        bound = champion + sign * MARGIN * abs(champion)
        return promoted_by | {"mlflow: refresh": by_mlflow(metric, score, champion, threshold=bound)}
    promoted_by["mlflow: new"] = by_mlflow(metric, score, champion, min_absolute_change=1e-12)
    return promoted_by | {"mlflow + margin: new": by_mlflow(metric, score, champion, min_relative_change=MARGIN)}


# --- what is measured

Task = tuple[str, str, int, int, int, tuple[float, float]]
"""Metric, world, blocks, first seed, cycles; true gain of the new configuration and of the refresh."""


def cycles(task: Task) -> list[Promoted]:
    """Who is promoted, by whom, in each of these cycles."""
    metric, kind, blocks, first, rounds, gains = task
    level, outcomes = interim_analyses(1)[0].level, []
    for seed in range(first, first + rounds):
        rng = np.random.default_rng([seed, blocks, WORLDS.index(kind), list(TASKS).index(metric)])
        world = World(rng, metric, kind, blocks)
        answers = {"champion": world.answers(NOISE)}
        answers |= {name: world.challenger(gain) for name, gain in zip(("new", "refresh"), gains, strict=True)}
        draws = {name: world.draws(answer) for name, answer in answers.items()}
        promoted_by = {
            f"gate: {name}": promoted(gated(metric, draws, level, candidates))
            for name, candidates in CANDIDATES.items()
        }
        for name in ("new", "refresh"):
            promoted_by |= others(metric, name, draws[name].value, draws["champion"].value)
        outcomes.append(promoted_by)
    return outcomes


def creep(task: tuple[int, bool]) -> tuple[float, int]:
    """True loss of the last champion against the first, after refreshes that are each a little worse; promotions."""
    seed, with_reference = task
    rng = np.random.default_rng([seed, 24])
    champion = reference_champion = NOISE
    promotions = 0
    for _ in range(STEPS):
        world = World(rng, "rmse", "days", 30, REFRESHED)
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
        (m, w, k, SEED + f, min(50, n - f), (0.0, -MARGIN))
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
    with ProcessPoolExecutor(os.cpu_count() or 1, mp_context=get_context("fork")) as pool:
        by_task = list(zip([*wrong, *right], pool.map(cycles, [*wrong, *right]), strict=True))
        crept = [
            list(pool.map(creep, [(SEED + n, with_reference) for n in range(histories)]))
            for with_reference in (False, True)
        ]
        reused = list(pool.map(reuse, range(SEED, SEED + windows)))
    return [_wrong(sizes, by_task[: len(wrong)]), _power(sizes, by_task[len(wrong) :]), _history(crept, reused)]


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
    rivals = ["point: new", "point: refresh", "mlflow: new", "mlflow + margin: new", "mlflow: refresh"]
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
        "Wrong promotions, and their 95 % intervals",
        ("metric, rows, blocks", "cycles", *(f"gate: {name}" for name in CANDIDATES), *rivals),
        tuple(rows),
        (
            f"At most {LEVEL:.0%} in every cell, within the 95 % interval: "
            + (f"MISSED: {'; '.join(missed)}." if missed else "met."),
            f"Were every cell at exactly {LEVEL:.0%}, {chance:.1f} of {cells_} intervals would lie above it by chance.",
            f"{cells_ - len(above)} of {cells_} cells are at or under the level as counted; {hits / total:.1%} in all."
            + (f" Above: {'; '.join(above)}." if above else ""),
            f"One analysis of a fresh interval spends {interim_analyses(1)[0].level:.1%}; two candidates share it.",
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
            outcomes = _of(by_task, lambda task, of=(metric, blocks): (task[0], task[2]) == of)
            rivals = (rate(outcomes, "point: refresh"), rate(outcomes, "mlflow: refresh"), "")
            rows.append((f"{metric}, {blocks} blocks, a refresh as good", rate(outcomes, "gate: refresh"), "", *rivals))
    count = sum(len(outcomes) for _, outcomes in by_task) // (len(sizes) * len(TASKS) * len(GAINS))
    return Figures(
        "Power: promotions of what is truly better, days with effects of their own",
        ("what is true", *names),
        tuple(rows),
        (
            f"{count} cycles a row. `gate: both` has a refresh as good as the champion beside it, which may be promoted"
            " instead.",
            "What the others promote here has to be read beside what they promote above, where nothing is better.",
        ),
    )


def _history(crept: list[list[tuple[float, int]]], reused: list[tuple[bool, bool]]) -> Figures:
    rows = []
    for name, histories in zip(("without the reference champion", "with the reference champion"), crept, strict=True):
        lost = [loss for loss, _ in histories]
        mean = np.mean([count for _, count in histories])
        rows.append(
            (
                f"{STEPS} refreshes, each worse by {STEP} margin: {name}",
                f"{np.mean(lost) / MARGIN:.2f} margins",
                f"{np.quantile(lost, 0.95) / MARGIN:.2f} margins",
                f"{mean:.1f} promotions",
            )
        )
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
    beyond = float(np.mean([lost > MARGIN for lost, _ in crept[1]]))
    held = "met" if wilson(sum(paid for paid, _ in reused), len(reused))[0] <= LEVEL else "MISSED"
    return Figures(
        "Creep and reused windows",
        ("what", "mean", "95 % quantile, or interval", ""),
        tuple(rows),
        (
            f"With the reference champion {beyond:.0%} of {len(crept[1])} histories end beyond the margin of the first"
            " champion.",
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
