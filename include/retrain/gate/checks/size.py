"""The size of a candidate's files, against `serving.size_mb`."""

from __future__ import annotations

from collections.abc import Iterator

from retrain.gate.checks.holdout import Holdout, findings_of, finite
from retrain.results import EvaluateReport, Finding, FittedModel, GateCheck
from retrain.spec import Spec


def findings(holdout: Holdout) -> Iterator[Finding]:
    """The size of each candidate's files, in MB (10⁶ bytes)."""
    store = holdout.run.store
    for candidate in holdout.candidates:
        size = float(store.fs.du(f"{store.path}/{candidate.key}")) / 1e6
        yield Finding(check="size", model=candidate.name, value=size, text=f"takes {size:.3g} MB")


def checks(spec: Spec, evaluate: EvaluateReport, candidate: FittedModel) -> Iterator[GateCheck]:
    """At most `serving.size_mb`."""
    bound = spec.serving.size_mb
    for finding in findings_of(evaluate, "size", candidate.name):
        size = finite(finding.value)
        yield GateCheck(
            name="size",
            model=candidate.name,
            passed=None if size is None else size <= bound,
            value=size,
            bound=bound,
            reason=f"{finding.text}, {bound:,.6g} MB are allowed",
        )
