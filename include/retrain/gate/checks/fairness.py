"""Are the groups of a protected column treated alike?

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

from retrain.gate.checks.holdout import CHAMPION, Holdout, finite, found
from retrain.modeling import metrics
from retrain.modeling.metrics import Array
from retrain.results import EvaluateReport, Finding, Fitted, GateCheck
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
    spec = holdout.spec
    for column in spec.gate.fairness.columns:
        group = groups(holdout.frame[column], spec.columns[column].type)
        for name in holdout.judged:
            for measure, asked in rates(spec, holdout.y, holdout.predictions[name]).items():
                value, text = difference(asked, group, spec.gate.fairness.min_rows)
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


def rates(spec: Spec, y: Array, said: Array) -> dict[str, list[Rate]]:
    """What is compared between groups, by measure."""
    all_ = np.ones(len(y), dtype=bool)
    if spec.task == "regression":
        spread = float(np.std(y)) or np.nan
        return {
            "demographic_parity": [Rate("mean prediction", said / spread, all_)],
            "equalized_odds": [Rate("mean error", (said - y) / spread, all_)],
        }
    if spec.task == "binary":
        yes = (said >= 0.5).astype(float)
        return {
            "demographic_parity": [Rate("share answered yes", yes, all_)],
            "equalized_odds": [Rate("true positive rate", yes, y == 1), Rate("false positive rate", yes, y == 0)],
        }
    given = [(said.argmax(axis=1) == code).astype(float) for code in range(len(spec.classes))]
    named = list(zip(spec.classes, given, strict=True))
    odds = []
    for code, (name, answer) in enumerate(named):
        odds += [Rate(f"true rate of {name}", answer, y == code), Rate(f"false rate of {name}", answer, y != code)]
    return {
        "demographic_parity": [Rate(f"share answered {name}", answer, all_) for name, answer in named],
        "equalized_odds": odds,
    }


def difference(asked: list[Rate], group: pd.Series[str], least: int) -> tuple[float | None, str]:
    """The largest difference between two groups in any of these rates; None where one of them cannot be told."""
    # Fairlearn takes half a second to import, and most models name no protected column.
    from fairlearn.metrics import MetricFrame, mean_prediction

    worst: tuple[float, str] | None = None
    for rate in asked:
        there = group[rate.among]
        count = there.value_counts().sort_index()
        large = sorted(count.index[count >= least])
        small = [f"{name[:40]} ({rows})" for name, rows in zip(count.index, count, strict=True) if rows < least]
        aside = f"; too few rows to judge: {', '.join(small[:SHOWN])}" if small else ""
        aside += f" and {len(small) - SHOWN} more" if len(small) > SHOWN else ""
        if len(large) < 2:
            return None, f"{rate.name}: {len(large)} of two groups have {least:,} rows{aside}"
        kept = there.isin(large).to_numpy()
        answer = rate.answer[rate.among][kept]
        if not np.isfinite(answer).all():
            return None, f"{rate.name}: the outcome does not vary"
        # Equal answers of a group are counted first: Fairlearn goes through rows one by one.
        counted = (
            pd.DataFrame({"group": there[kept].to_numpy(), "answer": answer}).value_counts(sort=False).reset_index()
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
            by = frame.by_group.sort_values()
            ends = pd.concat([by.head(SHOWN // 2), by.tail(SHOWN // 2)]) if len(by) > SHOWN else by
            told = ", ".join(f"{str(name)[:40]} {value:.3g}" for name, value in zip(ends.index, ends, strict=True))
            worst = apart, f"{rate.name}: {told}{aside}"
    return worst if worst is not None else (None, "nothing to compare")


def checks(spec: Spec, evaluate: EvaluateReport, one: Fitted) -> Iterator[GateCheck]:
    """At most the bound where the spec names one, and not above the champion's by more than the margin."""
    asked = spec.gate.fairness
    mine = {of.about: of for of in found(evaluate, "fairness", one.name)}
    theirs = {of.about: finite(of.value) for of in found(evaluate, "fairness", CHAMPION)}
    for column in asked.columns:
        for measure, shown in MEASURES.items():
            about = f"{measure} {column}"
            value = finite(mine[about].value) if about in mine else None
            text = mine[about].text if about in mine else "was not measured"
            bound: float | None = getattr(asked, measure)
            limits = [("", bound)] if bound is not None or about not in theirs else []
            if about in theirs:
                serving = theirs[about]
                limits.append((" beside the champion", None if serving is None else serving + asked.margin))
            for beside, limit in limits:
                says = f"differs by {value:.3g}" if value is not None else "cannot be told to differ"
                says += f" between the groups of {column} in {shown} ({text})"
                if limit is not None:
                    says += f", {limit:.3g} is allowed{beside}"
                yield GateCheck(
                    name=f"{shown} {column}{beside}",
                    model=one.name,
                    passed=None if value is None or limit is None else value <= limit,
                    value=value,
                    bound=limit,
                    # A bound that somebody wrote down must be shown to hold.
                    binding=(value is not None and limit is not None) if beside else bound is not None,
                    reason=says,
                )
