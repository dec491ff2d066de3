"""Figures and small tables that a person looks at before trusting a model.

Figures are drawn on Agg canvases of their own; pyplot, which keeps figures alive in the process and asks for a
display, is not imported. The same numbers give the same bytes.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve, roc_curve

from retrain.modeling.metrics import Array, calibration
from retrain.results import EvaluateReport, Paired, ReplayOutcome
from retrain.spec import Spec

POINTS = 200
"""Points of a curve, and rows of a table per model."""

COLOURS = {"new": "#1f6f8b", "refresh": "#e07a1f", "champion": "#3a3a3a", "simple": "#8fae5d", "naive": "#b9b9b9"}
_STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "figure.dpi": 80,
}

Predictions = Mapping[str, Array]
"""Predictions per model: (n,) or, for multiclass, (n, k)."""


def draw(report: EvaluateReport, spec: Spec, y: Array, predictions: Predictions) -> dict[str, bytes]:
    """Every figure and table of an evaluation that there is something to show in: file name → content."""
    classes = [str(name) for name in spec.classes]
    tables = {"calibration": calibration_table(y, predictions, classes)}
    figures = {"calibration": calibrated(tables["calibration"])}
    if classes:
        tables |= {"roc": roc_table(y, predictions, classes), "pr": pr_table(y, predictions, classes)}
        if len(tables["roc"]):
            figures["curves"] = curves(tables["roc"], tables["pr"])
    else:
        shown = next((name for name in predictions if name in report.importance), next(iter(predictions)))
        figures["residuals"] = residuals(y, predictions[shown], shown)
    if report.importance:
        losses = [(model, column, loss) for model, of in report.importance.items() for column, loss in of.items()]
        tables["importance"] = pd.DataFrame(losses, columns=["model", "column", "loss"])
        figures["importance"] = importances(report.importance, spec.gate.metric)
    if report.paired:
        tables["gains"] = pd.DataFrame([pair.model_dump() for pair in report.paired])
        figures["gains"] = gains(report.paired)
    return {f"{name}.png": figures[name] for name in sorted(figures)} | {
        f"{name}.csv": tables[name].to_csv(index=False, lineterminator="\n").encode() for name in sorted(tables)
    }


# --- tables


def roc_table(y: Array, predictions: Predictions, classes: Sequence[str]) -> pd.DataFrame:
    """False and true positive rates per model and class, thinned; a class that is absent has no curve."""
    return _curves(
        y, predictions, classes, lambda at, p: roc_curve(at, p)[:2], ("false_positive_rate", "true_positive_rate")
    )


def pr_table(y: Array, predictions: Predictions, classes: Sequence[str]) -> pd.DataFrame:
    """Recall and precision per model and class, thinned."""

    def curve(at: Array, p: Array) -> tuple[Array, Array]:
        precision, recall, _ = precision_recall_curve(at, p)
        return recall[::-1], precision[::-1]

    return _curves(y, predictions, classes, curve, ("recall", "precision"))


def _curves(
    y: Array, predictions: Predictions, classes: Sequence[str], curve: Any, names: tuple[str, str]
) -> pd.DataFrame:
    parts = []
    for model, prediction in predictions.items():
        for code, name, p in _each_class(prediction, classes):
            at = y == code
            if not at.any() or at.all():
                continue
            x, z = curve(at, p)
            kept = np.unique(np.linspace(0, len(x) - 1, POINTS).round().astype(int))
            parts.append(pd.DataFrame({"model": model, "class": name, names[0]: x[kept], names[1]: z[kept]}))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["model", "class", *names])


def calibration_table(y: Array, predictions: Predictions, classes: Sequence[str]) -> pd.DataFrame:
    """Mean prediction and mean outcome in ten bins of equal mass, per model and class; for numbers, per model."""
    parts = []
    for model, prediction in predictions.items():
        for code, name, p in _each_class(prediction, classes):
            bins = calibration((y == code).astype(float) if classes else y, p)
            bins.insert(0, "model", model)
            bins.insert(1, "class", name)
            parts.append(bins)
    return pd.concat(parts, ignore_index=True)


def _each_class(prediction: Array, classes: Sequence[str]) -> list[tuple[int, str, Array]]:
    """Code, name and scores of the classes that have a curve: the last of two, each of more, one nameless number."""
    if prediction.ndim == 1:
        last = len(classes) - 1
        return [(last, classes[last] if classes else "", prediction)]
    return [(code, name, prediction[:, code]) for code, name in enumerate(classes)]


# --- figures


@mpl.rc_context(_STYLE)
def curves(roc: pd.DataFrame, pr: pd.DataFrame) -> bytes:
    """ROC and precision against recall, side by side; one pair of panels per class."""
    names = list(dict.fromkeys(roc["class"]))[:6]
    figure = Figure(figsize=(9, 4 * len(names)), layout="constrained")
    panels = figure.subplots(len(names), 2, squeeze=False)
    for row, name in zip(panels, names, strict=True):
        _lines(row[0], roc[roc["class"] == name], "false_positive_rate", "true_positive_rate")
        row[0].plot([0, 1], [0, 1], color="#cccccc", linewidth=1, linestyle=":")
        row[0].set_title(f"ROC: {name}")
        _lines(row[1], pr[pr["class"] == name], "recall", "precision")
        row[1].set(title=f"Precision and recall: {name}", ylim=(0, 1.02))
    return _png(figure)


@mpl.rc_context(_STYLE)
def calibrated(table: pd.DataFrame) -> bytes:
    """Observed against predicted, per class; on the diagonal a prediction means what it says."""
    names = list(dict.fromkeys(table["class"]))[:6]
    figure = Figure(figsize=(4.5 * len(names), 4), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        part = table[table["class"] == name]
        _lines(axes, part, "predicted", "observed", marker="o")
        low, high = part[["predicted", "observed"]].min().min(), part[["predicted", "observed"]].max().max()
        axes.plot([low, high], [low, high], color="#cccccc", linewidth=1, linestyle=":")
        axes.set_title(f"Calibration: {name}" if name else "Mean outcome by prediction")
    return _png(figure)


@mpl.rc_context(_STYLE)
def residuals(y: Array, prediction: Array, model: str) -> bytes:
    """Outcome against prediction, and the distribution of what is left over."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    step = max(1, len(y) // 3_000)
    left.scatter(prediction[::step], y[::step], s=6, alpha=0.4, color=COLOURS.get(model), linewidths=0)
    span = [min(y.min(), prediction.min()), max(y.max(), prediction.max())]
    left.plot(span, span, color="#cccccc", linewidth=1, linestyle=":")
    left.set(xlabel="predicted", ylabel="outcome", title=f"{model}: outcome and prediction")
    right.hist(y - prediction, bins=40, color=COLOURS.get(model))
    right.axvline(0, color="#3a3a3a", linewidth=1)
    right.set(xlabel="outcome − prediction", ylabel="rows", title="Residuals")
    return _png(figure)


@mpl.rc_context(_STYLE)
def importances(table: Mapping[str, Mapping[str, float]], metric: str, most: int = 15) -> bytes:
    """What a model loses when a column is shuffled, the columns that matter most on top."""
    figure = Figure(figsize=(4.8 * len(table), 4.2), layout="constrained")
    for axes, (model, of) in zip(figure.subplots(1, len(table), squeeze=False)[0], table.items(), strict=True):
        shown = sorted(of.items(), key=lambda pair: pair[1])[-most:]
        axes.barh([name for name, _ in shown], [value for _, value in shown], color=COLOURS.get(model))
        axes.set(title=f"{model}: {metric} lost when shuffled")
    return _png(figure)


@mpl.rc_context(_STYLE)
def gains(pairs: Sequence[Paired]) -> bytes:
    """Every paired gain with its interval: right of the line is better."""
    figure = Figure(figsize=(7, 1.2 + 0.4 * len(pairs)), layout="constrained")
    axes = figure.subplots()
    for place, pair in enumerate(reversed(pairs)):
        axes.plot([pair.low, pair.high], [place, place], color=COLOURS.get(pair.model), linewidth=2)
        axes.plot([pair.gain], [place], marker="o", color=COLOURS.get(pair.model))
    axes.axvline(0, color="#3a3a3a", linewidth=1)
    axes.set_yticks(range(len(pairs)), [f"{pair.model} over {pair.against}" for pair in reversed(pairs)])
    first = pairs[0]
    axes.set_title(f"Gain in {first.metric}, {1 - 2 * first.level:.0%} interval from {first.blocks} blocks")
    return _png(figure)


@mpl.rc_context(_STYLE)
def scores(values: Mapping[str, Array], label: str) -> bytes:
    """The distribution of each model's scores: name → (n,)."""
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    bins = np.histogram_bin_edges(np.concatenate(list(values.values())), bins=40)
    for model, of in values.items():
        axes.hist(of, bins=bins.tolist(), histtype="step", linewidth=1.4, label=model, color=COLOURS.get(model))
    axes.set(xlabel=label, ylabel="rows")
    axes.legend()
    return _png(figure)


@mpl.rc_context(_STYLE)
def agreement(champion: Array, challenger: Array, label: str) -> bytes:
    """The scores (n,) of the version beside against the champion's (n,): on the diagonal they agree."""
    figure = Figure(figsize=(4.5, 4), layout="constrained")
    axes = figure.subplots()
    step = max(1, len(champion) // 3_000)
    axes.scatter(champion[::step], challenger[::step], s=6, alpha=0.4, color=COLOURS["new"], linewidths=0)
    span = [min(champion.min(), challenger.min()), max(champion.max(), challenger.max())]
    axes.plot(span, span, color="#cccccc", linewidth=1, linestyle=":")
    axes.set(xlabel=f"champion: {label}", ylabel=f"beside: {label}")
    return _png(figure)


def _lines(axes: Axes, table: pd.DataFrame, x: str, y: str, marker: str = "") -> None:
    for model, part in table.groupby("model", sort=False):
        axes.plot(
            part[x],
            part[y],
            label=str(model),
            color=COLOURS.get(str(model)),
            linewidth=1.4,
            marker=marker,
            markersize=3,
        )
    axes.set(xlabel=x.replace("_", " "), ylabel=y.replace("_", " "))
    axes.legend()


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


# --- over time


@mpl.rc_context(_STYLE)
def over_time(
    metric: str, table: pd.DataFrame, expected_score: float | None, names: tuple[str, str] = ("estimated", "realised")
) -> bytes:
    """A metric per interval with its bounds, a second one beside it, and the expected level.

    Args:
        table: columns interval, low, high, and one of each of `names`; gaps are left open.
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
    return _png(figure)


@mpl.rc_context(_STYLE)
def watched(table: pd.DataFrame, label: str) -> bytes:
    """What each interval says of two models, and what all so far do: a confidence sequence over its looks.

    Args:
        table: a row per look: interval, its own `difference`, and `mean`, `low`, `high` of all rows so far; a bound
            that is not there yet is missing.
        label: what is on the axis; above zero the newer model is worse.
    """
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    axes, at = figure.subplots(), np.arange(len(table))
    difference, mean, low, high = (table[name].to_numpy(dtype=float) for name in ("difference", "mean", "low", "high"))
    axes.fill_between(at, low, high, color="#1f6f8b", alpha=0.2, linewidth=0, label="bounds at any look")
    axes.plot(at, low, color="#1f6f8b", linewidth=0.8, marker="_")
    axes.plot(at, high, color="#1f6f8b", linewidth=0.8, marker="_")
    axes.plot(at, mean, "o-", color="#1f6f8b", label="all so far")
    axes.plot(at, difference, "s", color="#e07a1f", label="this interval")
    axes.axhline(0, color="#3a3a3a", linewidth=1)
    axes.set_xticks(at, list(table["interval"]), rotation=45, ha="right")
    axes.set_ylabel(label)
    axes.legend()
    return _png(figure)


@mpl.rc_context(_STYLE)
def replayed(outcomes: Sequence[ReplayOutcome]) -> bytes:
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
    return _png(figure)
