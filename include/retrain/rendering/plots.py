"""Figures and small tables of an evaluation, for a person who decides whether to trust a model.

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
from retrain.rendering.csv import csv_bytes
from retrain.results import EvaluateReport, PairedGain
from retrain.spec import Spec

POINTS = 200
"""Points of a curve, and rows of a table per model."""

COLOURS = {
    "new": "#1f6f8b",
    "recalibrated": "#8a5a9e",
    "refresh": "#e07a1f",
    "champion": "#3a3a3a",
    "simple": "#8fae5d",
    "naive": "#b9b9b9",
}
"""A colour for each kind of model."""

STYLE: Any = {
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


def evaluation_files(report: EvaluateReport, spec: Spec, y: Array, predictions: Predictions) -> dict[str, bytes]:
    """Every figure and table of an evaluation that has something to show: file name → content.

    Args:
        report: what was measured: importances and paired gains.
        spec: the model's; its classes and its metric.
        y: (n,) outcomes of the holdout rows: numbers, or codes of the classes.
        predictions: of each model on the same rows.
    """
    classes = [str(name) for name in spec.classes]
    tables = {"calibration": calibration_table(y, predictions, classes)}
    figures = {"calibration": calibration_curves(tables["calibration"])}
    if classes:
        tables |= {"roc": roc_table(y, predictions, classes), "pr": pr_table(y, predictions, classes)}
        if len(tables["roc"]):
            figures["curves"] = curves(tables["roc"], tables["pr"])
    else:
        model = next((name for name in predictions if name in report.importance), next(iter(predictions)))
        figures["residuals"] = residuals(y, predictions[model], model)
    if report.importance:
        losses = [(model, column, loss) for model, of in report.importance.items() for column, loss in of.items()]
        tables["importance"] = pd.DataFrame(losses, columns=["model", "column", "loss"])
        figures["importance"] = importances(report.importance, spec.gate.metric)
    if report.paired:
        tables["gains"] = pd.DataFrame([pair.model_dump() for pair in report.paired])
        figures["gains"] = gains(report.paired)
    return {f"{name}.png": figures[name] for name in sorted(figures)} | {
        f"{name}.csv": csv_bytes(tables[name]) for name in sorted(tables)
    }


# --- tables


def roc_table(y: Array, predictions: Predictions, classes: Sequence[str]) -> pd.DataFrame:
    """False and true positive rates per model and class, at most `POINTS` of each; an absent class has no curve."""
    return _curves(
        y, predictions, classes, lambda at, p: roc_curve(at, p)[:2], ("false_positive_rate", "true_positive_rate")
    )


def pr_table(y: Array, predictions: Predictions, classes: Sequence[str]) -> pd.DataFrame:
    """Recall and precision per model and class, at most `POINTS` of each."""

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


@mpl.rc_context(STYLE)
def curves(roc: pd.DataFrame, pr: pd.DataFrame) -> bytes:
    """ROC and precision against recall, side by side, from `roc_table` and `pr_table`; a pair of panels per class."""
    names = list(dict.fromkeys(roc["class"]))[:6]
    figure = Figure(figsize=(9, 4 * len(names)), layout="constrained")
    panels = figure.subplots(len(names), 2, squeeze=False)
    for row, name in zip(panels, names, strict=True):
        _lines(row[0], roc[roc["class"] == name], "false_positive_rate", "true_positive_rate")
        row[0].plot([0, 1], [0, 1], color="#cccccc", linewidth=1, linestyle=":")
        row[0].set_title(f"ROC: {name}")
        _lines(row[1], pr[pr["class"] == name], "recall", "precision")
        row[1].set(title=f"Precision and recall: {name}", ylim=(0, 1.02))
    return png(figure)


@mpl.rc_context(STYLE)
def calibration_curves(table: pd.DataFrame) -> bytes:
    """Observed against predicted, per class, from a `calibration_table`; on the diagonal the two agree."""
    names = list(dict.fromkeys(table["class"]))[:6]
    figure = Figure(figsize=(4.5 * len(names), 4), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        part = table[table["class"] == name]
        _lines(axes, part, "predicted", "observed", marker="o")
        low, high = part[["predicted", "observed"]].min().min(), part[["predicted", "observed"]].max().max()
        axes.plot([low, high], [low, high], color="#cccccc", linewidth=1, linestyle=":")
        axes.set_title(f"Calibration: {name}" if name else "Mean outcome by prediction")
    return png(figure)


@mpl.rc_context(STYLE)
def residuals(y: Array, prediction: Array, model: str) -> bytes:
    """Outcome against prediction, and the distribution of the residuals; both (n,)."""
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
    return png(figure)


@mpl.rc_context(STYLE)
def importances(table: Mapping[str, Mapping[str, float]], metric: str, most: int = 15) -> bytes:
    """What a model loses when a column is shuffled, the columns that matter most on top.

    Args:
        table: model → column → loss of the metric.
        metric: its name.
        most: columns to show per model.
    """
    figure = Figure(figsize=(4.8 * len(table), 4.2), layout="constrained")
    for axes, (model, of) in zip(figure.subplots(1, len(table), squeeze=False)[0], table.items(), strict=True):
        largest = sorted(of.items(), key=lambda pair: pair[1])[-most:]
        axes.barh([name for name, _ in largest], [loss for _, loss in largest], color=COLOURS.get(model))
        axes.set(title=f"{model}: {metric} lost when shuffled")
    return png(figure)


@mpl.rc_context(STYLE)
def gains(pairs: Sequence[PairedGain]) -> bytes:
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
    return png(figure)


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


def png(figure: Figure) -> bytes:
    """The figure as a PNG file; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
