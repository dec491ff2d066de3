"""How large are a candidate's files?"""

from __future__ import annotations

from collections.abc import Iterator

from retrain.gate.checks.holdout import Holdout, finite, found
from retrain.results import EvaluateReport, Finding, Fitted, GateCheck
from retrain.spec import Spec


def findings(holdout: Holdout) -> Iterator[Finding]:
    store = holdout.run.store
    for one in holdout.candidates:
        size = float(store.fs.du(f"{store.path}/{one.key}")) / 1e6
        yield Finding(check="size", model=one.name, value=size, text=f"takes {size:.3g} MB")


def checks(spec: Spec, evaluate: EvaluateReport, one: Fitted) -> Iterator[GateCheck]:
    bound = spec.serving.size_mb
    for mine in found(evaluate, "size", one.name):
        size = finite(mine.value)
        yield GateCheck(
            name="size",
            model=one.name,
            passed=None if size is None else size <= bound,
            value=size,
            bound=bound,
            reason=f"{mine.text}, {bound:,.6g} MB are allowed",
        )
