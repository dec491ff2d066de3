"""Limits: what a model has to reach to serve at all, whatever else there is (`gate.limits`).

The first model is asked as any other, and so is a baseline that would serve. The value itself is held against the
limit, without an interval. A limit is asked for by name, so where too few rows can tell, it holds back; of a column it
is asked of the values with enough rows, and holds back where none has them.
"""

from __future__ import annotations

from collections.abc import Iterator

from retrain.gate.checks.holdout import CHAMPION, Holdout, findings_of, finite
from retrain.modeling import limits
from retrain.results import EvaluateReport, Finding, FittedModel, GateCheck
from retrain.spec import Spec


def findings(holdout: Holdout) -> Iterator[Finding]:
    """Each bounded metric of whoever may serve, and of the champion."""
    for name in holdout.judged:
        for limited in holdout.spec.gate.limited:
            measured = limits.measure(holdout.spec, limited, holdout.frame, holdout.y, holdout.predictions[name])
            yield Finding(
                check="limit",
                model=name,
                about=limited.about,
                value=measured.value,
                rows=measured.rows,
                text=limits.describe(limited, measured),
            )


def checks(spec: Spec, evaluate: EvaluateReport, candidate: FittedModel) -> Iterator[GateCheck]:
    """A limit holds for every candidate, also where the champion is outside as well: a person wrote it down."""
    by_about = {finding.about: finding for finding in findings_of(evaluate, "limit", candidate.name)}
    champion = {finding.about: finite(finding.value) for finding in findings_of(evaluate, "limit", CHAMPION)}
    for limited in spec.gate.limited:
        finding, bound = by_about.get(limited.about), limited.bound
        value = None if finding is None else finite(finding.value)
        reason = f"has {finding.text}" if finding else f"was not measured: {limited.about}, {bound} is asked"
        if (serving := champion.get(limited.about)) is not None:
            reason += f"; the champion's is {serving:.4g}"
        yield GateCheck(
            name=f"limit {limited.about}",
            model=candidate.name,
            passed=None if value is None else bound.excess(value) <= 0,
            value=value,
            bound=bound.min if bound.max is None else bound.max,
            reason=reason,
        )
