"""Figures of what happens after a promotion: scores, estimates, rollouts and replays, interval by interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from retrain.modeling.metrics import Array
from retrain.rendering.plots import COLOURS, STYLE, png
from retrain.results import ReplayOutcome


@mpl.rc_context(STYLE)
def score_distributions(values: Mapping[str, Array], label: str) -> bytes:
    """The distribution of each model's scores: name → (n,)."""
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    bins = np.histogram_bin_edges(np.concatenate(list(values.values())), bins=40)
    for model, of in values.items():
        axes.hist(of, bins=bins.tolist(), histtype="step", linewidth=1.4, label=model, color=COLOURS.get(model))
    axes.set(xlabel=label, ylabel="rows")
    axes.legend()
    return png(figure)


@mpl.rc_context(STYLE)
def score_agreement(champion: Array, shadow: Array, label: str) -> bytes:
    """The scores (n,) of a shadow model against the champion's (n,): on the diagonal they agree."""
    figure = Figure(figsize=(4.5, 4), layout="constrained")
    axes = figure.subplots()
    step = max(1, len(champion) // 3_000)
    axes.scatter(champion[::step], shadow[::step], s=6, alpha=0.4, color=COLOURS["new"], linewidths=0)
    span = [min(champion.min(), shadow.min()), max(champion.max(), shadow.max())]
    axes.plot(span, span, color="#cccccc", linewidth=1, linestyle=":")
    axes.set(xlabel=f"champion: {label}", ylabel=f"shadow: {label}")
    return png(figure)


@mpl.rc_context(STYLE)
def metric_over_time(
    metric: str, table: pd.DataFrame, expected_score: float | None, names: tuple[str, str] = ("estimated", "realised")
) -> bytes:
    """A metric per interval with its bounds, a second series of it, and the expected score.

    Args:
        metric: its name.
        table: columns interval, low, high, and one for each of `names`; gaps are left open.
        expected_score: drawn as a line; None draws none.
        names: the series with the bounds, and the one without.
    """
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    axes, at = figure.subplots(), np.arange(len(table))
    first, second, low, high = (table[name].to_numpy(dtype=float) for name in (*names, "low", "high"))
    axes.errorbar(at, first, np.abs([first - low, high - first]), fmt="o-", capsize=3, color="#1f6f8b", label=names[0])
    axes.plot(at, second, "s--", color="#e07a1f", label=names[1])
    if expected_score is not None:
        axes.axhline(expected_score, color="#3a3a3a", linestyle=":", label="expected score")
    axes.set_xticks(at, list(table["interval"]), rotation=45, ha="right")
    axes.set_ylabel(metric)
    axes.legend()
    return png(figure)


@mpl.rc_context(STYLE)
def paired_differences(table: pd.DataFrame, label: str) -> bytes:
    """The difference of two models per interval, and its confidence sequence over all intervals so far.

    Args:
        table: a row per interval: its name, its own `difference`, and `mean`, `low`, `high` of all rows so far; a
            bound that is not there yet is missing.
        label: what is on the axis; above zero the newer model is worse.
    """
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    axes, at = figure.subplots(), np.arange(len(table))
    difference, mean, low, high = (table[name].to_numpy(dtype=float) for name in ("difference", "mean", "low", "high"))
    axes.fill_between(at, low, high, color="#1f6f8b", alpha=0.2, linewidth=0, label="confidence sequence")
    axes.plot(at, low, color="#1f6f8b", linewidth=0.8, marker="_")
    axes.plot(at, high, color="#1f6f8b", linewidth=0.8, marker="_")
    axes.plot(at, mean, "o-", color="#1f6f8b", label="all so far")
    axes.plot(at, difference, "s", color="#e07a1f", label="this interval")
    axes.axhline(0, color="#3a3a3a", linewidth=1)
    axes.set_xticks(at, list(table["interval"]), rotation=45, ha="right")
    axes.set_ylabel(label)
    axes.legend()
    return png(figure)


@mpl.rc_context(STYLE)
def regret_over_time(table: pd.DataFrame, price: float) -> bytes:
    """The regret per training window, added up from interval to interval, against the price of a training.

    Args:
        table: a row per interval and window: `interval`, `window`, `sum` since the last training at that time.
        price: of one training.
    """
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    axes = figure.subplots()
    names = list(dict.fromkeys(table["interval"]))
    for window, of in table.groupby("window", sort=False):
        axes.plot([names.index(name) for name in of["interval"]], of["sum"], "o-", label=str(window))
    axes.axhline(price, color="#3a3a3a", linestyle=":", label="price of a training")
    axes.axhline(0, color="#3a3a3a", linewidth=1)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_ylabel("regret, in losses of one interval")
    axes.legend()
    return png(figure)


@mpl.rc_context(STYLE)
def replay_scores(outcomes: Sequence[ReplayOutcome]) -> bytes:
    """The score of each interval under each policy; a dot where it trained, hollow where nothing was promoted."""
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    for outcome in outcomes:
        scores = np.array([np.nan if step.score is None else step.score for step in outcome.steps])
        (line,) = axes.plot(scores, label=f"{outcome.policy}: {outcome.trainings}", linewidth=1)
        for promoted in (True, False):
            at = [n for n, step in enumerate(outcome.steps) if step.trained and step.promoted is promoted]
            face = line.get_color() if promoted else "white"
            axes.plot(at, scores[at], "o", color=line.get_color(), markerfacecolor=face, markersize=4)
    names = [step.interval for step in outcomes[0].steps]
    every = max(len(names) // 12, 1)
    axes.set_xticks(range(0, len(names), every), names[::every], rotation=45, ha="right")
    axes.set_ylabel(outcomes[0].metric)
    axes.legend(title="policy: trainings after the first", fontsize=7)
    return png(figure)
