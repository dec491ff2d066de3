"""The verdict on a run's candidates: promote, keep or inconclusive, from recorded facts and never from data.

A candidate has to pass all of its checks, which costs no level (intersection-union test, Berger 1982). A candidate with
every check passed is promoted: a new configuration first, then what renews the champion, of a refresh and a
recalibrated one the better at face value. Where the champion has lost its privilege, or is a baseline, the best at face
value of all, baselines included. If none passes, but one has nothing against it except what cannot be told, the verdict
is inconclusive; else the champion is kept.

The checks of a candidate against baselines and champions are in `retrain.gate.comparison`, those of its behaviour in
`retrain.gate.checks`. To add a check to the gate, see there.
"""

from __future__ import annotations

import math
from typing import Literal

from retrain.gate.checks.holdout import CHAMPION, REFERENCE_CHAMPION
from retrain.gate.comparison import Comparison
from retrain.results import (
    CandidateKind,
    Context,
    Decision,
    EvaluateReport,
    FittedModel,
    GateCheck,
    GateReport,
    TrainReport,
)
from retrain.spec import Spec

MOST_REASONS = 12


def judge(spec: Spec, context: Context, train: TrainReport, evaluate: EvaluateReport) -> GateReport:
    """Judge the candidates of a run: a pure function of the spec and the run's reports.

    Args:
        spec: what the gate asks for.
        context: the champion, the reference champion, the blocklist and the accepted batches.
        train: the candidates and baselines.
        evaluate: what was measured of them on the holdout rows.

    Returns:
        The verdict promote, keep or inconclusive, with every check that led to it; `chosen` is the candidate that the
        verdict is about, whatever it says.
    """
    comparison = Comparison(spec, context, train, evaluate)
    candidates = _candidates(comparison)
    checks: dict[str, list[GateCheck]] = {}
    chosen: FittedModel | None = None
    if not candidates:
        decision = Decision(verdict="keep", reasons=("training brought no candidate",))
    elif evaluate.decision.verdict != "measured":
        chosen, decision = candidates[0], Decision(verdict="inconclusive", reasons=evaluate.decision.reasons)
    else:
        checks = {candidate.name: list(comparison.checks(candidate)) for candidate in candidates}
        chosen, decision = _decide(candidates, checks)
    kind: Literal["first"] | CandidateKind | None = None
    if chosen is not None:
        kind = "first" if context.champion is None else chosen.kind
    promoted = chosen is not None and decision.verdict == "promote"
    return GateReport(
        model=spec.model,
        interval=context.interval,
        effective_at=context.effective_at,
        decision=decision,
        chosen=chosen and chosen.name,
        kind=kind,
        metric=spec.gate.metric,
        challenger_score=chosen and comparison.score(chosen.name),
        champion_score=comparison.score(CHAMPION),
        lost_to=comparison.lost_to,
        becomes_reference=chosen is not None and promoted and comparison.becomes_reference(chosen),
        checks=tuple(check for of_candidate in checks.values() for check in of_candidate),
    )


def _candidates(comparison: Comparison) -> list[FittedModel]:
    """The candidates in the order in which they are judged, the one on the rows since a change first.

    Without a champion only the best by its inner score.
    """
    spec, train = comparison.spec, comparison.train
    sign = -1.0 if spec.greater_is_better else 1.0

    def rank(candidate: FittedModel) -> float:
        if candidate.name == "changed":
            return -math.inf
        return math.inf if candidate.inner_score is None else sign * candidate.inner_score

    def face_value(candidate: FittedModel) -> float:
        score = comparison.score(candidate.name)
        return math.inf if score is None else sign * score

    new = sorted((fitted for fitted in train.fitted if fitted.kind == "new"), key=rank)
    if comparison.context.champion is None:
        return new[:1]
    # Of equals the recalibrated one, which changes least.
    renewed = sorted(
        (fitted for fitted in train.fitted if fitted.renews),
        key=lambda fitted: (face_value(fitted), fitted.kind == "refresh"),
    )
    if not comparison.at_face_value:
        return [*new, *renewed]
    baselines = [fitted for fitted in train.fitted if fitted.kind == "baseline"]
    return sorted([*new, *renewed, *baselines], key=face_value)


def _decide(candidates: list[FittedModel], checks: dict[str, list[GateCheck]]) -> tuple[FittedModel, Decision]:
    """The candidate that the verdict is about, and the verdict."""
    against = {
        candidate.name: [check for check in checks[candidate.name] if _is_against(check)] for candidate in candidates
    }
    for candidate in candidates:
        if not against[candidate.name]:
            by_name = {check.name: f"{candidate.name} {check.reason}" for check in checks[candidate.name]}
            names = (CHAMPION, REFERENCE_CHAMPION, "naive", "simple")
            reasons = tuple(by_name[name] for name in names if name in by_name)
            return candidate, Decision(verdict="promote", reasons=reasons)

    undetermined = [
        candidate for candidate in candidates if all(check.passed is None for check in against[candidate.name])
    ]
    reasons = ()
    for candidate in undetermined or candidates:
        failed = [check for check in against[candidate.name] if check.passed is False]
        reasons += tuple(f"{candidate.name} {check.reason}" for check in failed or against[candidate.name])
    verdict = "inconclusive" if undetermined else "keep"
    return (undetermined or candidates)[0], Decision(verdict=verdict, reasons=reasons[:MOST_REASONS])


def _is_against(check: GateCheck) -> bool:
    """Whether a check holds the candidate back. A slice that is too small to tell says nothing against the model."""
    undetermined = check.passed is None and not check.name.startswith("slice")
    return check.binding and (check.passed is False or undetermined)
