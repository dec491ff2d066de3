"""The page of a scored batch: its scores, what was rejected, and how the shadow model differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from retrain.modeling.metrics import Array
from retrain.rendering import html, monitoring_plots
from retrain.results import Disparity, ScoreReport
from retrain.spec import Spec


def score_page(spec: Spec, report: ScoreReport, scores: Mapping[str, Array]) -> bytes:
    """Draw the page of a scoring run, in UTF-8.

    Args:
        spec: of the model.
        report: of the run.
        scores: of `champion`, and of `shadow` where there is one: (n,) a single score per row.
    """
    labels = {
        "binary": f"probability of {spec.target.column} {spec.classes[-1] if spec.classes else ''}",
        "multiclass": "probability of the class named",
        "regression": spec.target.column,
    }
    figures = {"Scores": monitoring_plots.score_distributions(scores, labels[spec.task])}
    summary = pd.DataFrame({name: pd.Series(values).describe() for name, values in scores.items()})
    tables = {
        "Scores": summary.rename_axis("of the scores").reset_index(),
        "Rejected": _pairs(report.rejected, "breach", "rows"),
        "Categories that training had not": _pairs(report.unknown_categories, "column", "rows"),
    }
    if apart := report.shadow:
        figures["The two versions"] = monitoring_plots.score_agreement(
            scores["champion"], scores["shadow"], labels[spec.task]
        )
        facts = {
            "mean of the champion": apart.mean_champion,
            "mean of the shadow model": apart.mean_shadow,
            "mean absolute difference": apart.mean_absolute,
            "rank correlation (Spearman)": apart.correlation,
            "share answered otherwise": apart.decided_otherwise,
            **{f"difference, quantile {q}": value for q, value in apart.quantiles.items()},
        }
        tables[f"Version {apart.version} against champion version {report.version}"] = _pairs(
            facts, "of shadow - champion", "value"
        )
        tables["Rows that differ most"] = _furthest(spec.source.key, apart.furthest)
    title = f"{report.model} · {report.interval.name} · scores"
    return html.page(title, report.decision, tables, figures)


def _pairs(facts: Mapping[str, Any], name: str, value: str) -> pd.DataFrame:
    return pd.DataFrame(list(facts.items()), columns=[name, value])


def _furthest(key: Sequence[str], furthest: Sequence[Disparity]) -> pd.DataFrame:
    return pd.DataFrame(
        [(*row.key, row.champion, row.shadow, row.shadow - row.champion) for row in furthest],
        columns=[*key, "champion", "shadow", "difference"],
    )
