"""Fairness: whether the groups of a protected column are treated alike.

Demographic parity: the share answered yes differs little between groups. Equalized odds: so do the true and the
false positive rate (Hardt, Price and Srebro 2016). Both are the largest difference between two groups, by Fairlearn
(Bird et al. 2020). Yes is a probability of 0.5 or more; of several classes each is asked in turn and the worst
counts; of numbers it is the mean prediction and the mean error, in standard deviations of the outcome.

A rate is judged on at least `gate.fairness.min_rows` rows of its group: a true positive rate needs as many positives.
A missing value is a group of its own. The difference itself is held against the bound, without an interval: on few
rows it is rather too large than too small, and doubt should not speak for the model here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from retrain.gate.checks.holdout import CHAMPION, Holdout, findings_of, finite
from retrain.modeling import metrics
from retrain.modeling.metrics import Array
from retrain.results import EvaluateReport, Finding, FittedModel, GateCheck
from retrain.spec import Spec

MEASURES = {"demographic_parity": "demographic parity", "equalized_odds": "equalized odds"}
SHOWN = 8


@dataclass(frozen=True)
class Rate:
    """One number per group: the mean of `answer` over the rows of `among`."""

    name: str
    answer: Array
    among: Array


def findings(holdout: Holdout) -> Iterator[Finding]:
    """The largest difference between groups of each protected column, by measure and model."""
    spec = holdout.spec
    for column in spec.gate.fairness.columns:
        group = groups(holdout.frame[column], spec.columns[column].type)
        for name in holdout.judged:
            for measure, compared in rates(spec, holdout.y, holdout.predictions[name]).items():
                value, text = difference(compared, group, spec.gate.fairness.min_rows)
                yield Finding(
                    check="fairness",
                    model=name,
                    about=f"{measure} {column}",
                    value=value,
                    rows=len(group),
                    text=text,
                )


def groups(column: pd.Series[Any], kind: str) -> pd.Series[str]:
    """The group of each row: numbers and times in bands, words as they are.

    >>> groups(pd.Series(["a", None]), "category").tolist()
    ['a', '(missing)']
    """
    if kind in ("category", "string"):
        return column.astype(object).where(column.notna(), "(missing)").astype(str)
    return metrics.bands(column, kind)


def rates(spec: Spec, y: Array, prediction: Array) -> dict[str, list[Rate]]:
    """What is compared between groups, by measure.

    Args:
        spec: the task and its classes.
        y: (n,) outcomes.
        prediction: (n,) numbers or probabilities, or (n, k) probabilities of the classes.
    """
    all_ = np.ones(len(y), dtype=bool)
    if spec.task == "regression":
        spread = float(np.std(y)) or np.nan
        return {
            "demographic_parity": [Rate("mean prediction", prediction / spread, all_)],
            "equalized_odds": [Rate("mean error", (prediction - y) / spread, all_)],
        }
    if spec.task == "binary":
        yes = (prediction >= 0.5).astype(float)
        return {
            "demographic_parity": [Rate("share answered yes", yes, all_)],
            "equalized_odds": [Rate("true positive rate", yes, y == 1), Rate("false positive rate", yes, y == 0)],
        }
    predicted = prediction.argmax(axis=1)
    named = [(name, (predicted == code).astype(float)) for code, name in enumerate(spec.classes)]
    odds = []
    for code, (name, answer) in enumerate(named):
        odds += [Rate(f"true rate of {name}", answer, y == code), Rate(f"false rate of {name}", answer, y != code)]
    return {
        "demographic_parity": [Rate(f"share answered {name}", answer, all_) for name, answer in named],
        "equalized_odds": odds,
    }


def difference(compared: list[Rate], group: pd.Series[str], least: int) -> tuple[float | None, str]:
    """The largest difference between two groups in any of these rates; None where one of them cannot be told.

    Args:
        compared: the rates, over the same n rows.
        group: (n,) the group of each row.
        least: rows of a group from which on it is judged.

    Returns:
        The difference, and what it was measured on, for people.
    """
    # Fairlearn takes half a second to import, and most models name no protected column.
    from fairlearn.metrics import MetricFrame, mean_prediction

    worst: tuple[float, str] | None = None
    for rate in compared:
        members = group[rate.among]
        count = members.value_counts().sort_index()
        large = sorted(count.index[count >= least])
        small = [f"{name[:40]} ({rows})" for name, rows in zip(count.index, count, strict=True) if rows < least]
        aside = f"; too few rows to judge: {', '.join(small[:SHOWN])}" if small else ""
        aside += f" and {len(small) - SHOWN} more" if len(small) > SHOWN else ""
        if len(large) < 2:
            return None, f"{rate.name}: {len(large)} of two groups have {least:,} rows{aside}"
        kept = members.isin(large).to_numpy()
        answer = rate.answer[rate.among][kept]
        if not np.isfinite(answer).all():
            return None, f"{rate.name}: the outcome does not vary"
        # Equal answers of a group are counted first: Fairlearn goes through rows one by one.
        counted = (
            pd.DataFrame({"group": members[kept].to_numpy(), "answer": answer}).value_counts(sort=False).reset_index()
        )
        frame = MetricFrame(
            metrics=mean_prediction,
            y_true=counted["answer"],
            y_pred=counted["answer"],
            sensitive_features=counted["group"],
            sample_params={"sample_weight": counted["count"]},
        )
        apart = float(frame.difference(method="between_groups"))
        if worst is None or apart > worst[0]:
            by_group = frame.by_group.sort_values()
            ends = by_group
            if len(by_group) > SHOWN:
                ends = pd.concat([by_group.head(SHOWN // 2), by_group.tail(SHOWN // 2)])
            shares = ", ".join(f"{str(name)[:40]} {value:.3g}" for name, value in zip(ends.index, ends, strict=True))
            worst = apart, f"{rate.name}: {shares}{aside}"
    return worst if worst is not None else (None, "nothing to compare")


def checks(spec: Spec, evaluate: EvaluateReport, candidate: FittedModel) -> Iterator[GateCheck]:
    """At most the bound where the spec names one, and not above the champion's by more than the margin."""
    fairness = spec.gate.fairness
    by_about = {finding.about: finding for finding in findings_of(evaluate, "fairness", candidate.name)}
    champion = {finding.about: finite(finding.value) for finding in findings_of(evaluate, "fairness", CHAMPION)}
    for column in fairness.columns:
        for measure, label in MEASURES.items():
            about = f"{measure} {column}"
            finding = by_about.get(about)
            value = None if finding is None else finite(finding.value)
            text = "was not measured" if finding is None else finding.text
            bound: float | None = getattr(fairness, measure)
            limits = [("", bound)] if bound is not None or about not in champion else []
            if about in champion:
                serving = champion[about]
                limits.append((" beside the champion", None if serving is None else serving + fairness.margin))
            for against, limit in limits:
                reason = f"differs by {value:.3g}" if value is not None else "cannot be told to differ"
                reason += f" between the groups of {column} in {label} ({text})"
                if limit is not None:
                    reason += f", {limit:.3g} is allowed{against}"
                yield GateCheck(
                    name=f"{label} {column}{against}",
                    model=candidate.name,
                    passed=None if value is None or limit is None else value <= limit,
                    value=value,
                    bound=limit,
                    # A bound that somebody wrote down must be shown to hold.
                    binding=(value is not None and limit is not None) if against else bound is not None,
                    reason=reason,
                )
