"""What scores beside the champion is judged: go on, take the next step, promote, stop, or put the predecessor back.

Both versions have answered the same rows, so the evidence is paired: the loss of the newer one against that of the
older one, per row, in blocks that hang together, interval after interval as labels mature. The bounds are those of a
confidence sequence (`retrain.monitoring.confidence_sequence`): they hold at every look together, so that looking
often costs nothing.

A challenger in shadow or canary goes on while it is not shown worse, and has come through once its loss is shown to be
within the gate's margin of the champion's. A new champion is watched beside its predecessor, for as many intervals
with labels as the spec says, however late the labels come; it is put back where it is shown worse, or fails. Where
both fall, the world has moved, and the predecessor would help nobody.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import isfinite

import numpy as np
import pandas as pd

from retrain.data import dataset
from retrain.errors import (
    AmbiguousKeys,
    ArtifactMissing,
    DigestMismatch,
    EstimatorRefused,
    ModelBlocked,
    ModelFormatRefused,
    RetrainError,
    SmokeTestFailed,
    StaleRun,
)
from retrain.modeling import resampling
from retrain.modeling.estimators import Array
from retrain.monitoring import confidence_sequence, estimation, prediction_log
from retrain.monitoring.confidence_sequence import Bounds
from retrain.registry import promotion, smoke_test
from retrain.registry.mlflow import Registry
from retrain.registry.promotion import Change
from retrain.rendering import html, monitoring_plots
from retrain.results import (
    HELD,
    Accepted,
    BlockedModel,
    Context,
    Decision,
    DiagnoseReport,
    Interval,
    MeasureReport,
    Rollout,
    RolloutReport,
)
from retrain.state import projections
from retrain.state.ledger import Record
from retrain.state.run import Run

log = logging.getLogger(__name__)

PAGE = "rollout.html"
PATIENCE = 2
"""A challenger that is not settled after so many times the intervals of its step is stopped."""
REFUSED = (ArtifactMissing, DigestMismatch, EstimatorRefused, ModelFormatRefused, SmokeTestFailed)


@dataclass(frozen=True)
class Pair:
    """The labelled rows of an interval with the loss of both.

    Attributes:
        frame: (n) what blocks are made of.
        newer, older: (n,) the challenger and the champion; of a watch the champion and its predecessor.
    """

    interval: Interval
    frame: pd.DataFrame
    newer: Array
    older: Array


@dataclass(frozen=True)
class Evidence:
    """What is known of the two since the rollout began.

    Attributes:
        pairs: of each interval with labels, oldest first.
        unpaired: intervals with labels that one of the two has not scored.
        beyond: what all pairs say of the newer one's loss above the older one's with the margin on top.
        plain: the same without a margin, after each interval.
        breach: how the newer one failed; empty if it did not.
    """

    pairs: tuple[Pair, ...]
    unpaired: int
    beyond: Bounds | None
    plain: tuple[Bounds, ...]
    breach: str

    def since(self, moment: datetime) -> int:
        return sum(one.interval.start >= moment for one in self.pairs)


def rollout(run: Run) -> RolloutReport:
    """Judge what scores beside the champion, and do what follows; a rehearsal does nothing.

    Raises:
        ArtifactMissing, DigestMismatch, SmokeTestFailed: the predecessor to put back is not what it was.
        PromotionConflict: somebody else changed the champion at this very moment.
        OutOfBandChange: the alias was moved by hand.
    """
    context = run.read(Context, "context")
    going = context.rollout
    if going is None or not run.home.mlflow:
        return _report(run, None, Decision(verdict="idle", reasons=("nothing scores beside the champion",)))
    if since := _overtaken(run, going):
        return _report(run, None, Decision(verdict="idle", reasons=(since,)))
    evidence = _evidence(run, context, going)
    judge = _watch if going.purpose == "watch" else _challenge
    decision = judge(run, context, going, evidence)
    if run.trigger.dry_run:
        decision = decision.model_copy(update={"reasons": (*decision.reasons, "a rehearsal: nothing was changed")})
    return _page(run, _report(run, going, decision, evidence), going, evidence)


def _overtaken(run: Run, going: Rollout) -> str:
    """Who changed something since this run's context was written; empty if nobody did, or this run itself."""
    made = promotion.history(run)
    if not any(one.key == run.key for one in made) and made[-1].body["version"] != going.champion:
        return f"version {made[-1].body['version']} has come to serve since"
    others = [one for one in run.ledger.records(run.model, promotion.ROLLOUT) if one.run != run.key]
    told = [one for one in made if one.run != run.key]
    if projections.rollout_at(told, others, run.as_of) != going:
        return "another run has judged it since"
    return ""


# --- what is known


def _evidence(run: Run, context: Context, going: Rollout) -> Evidence:
    spec, watch = run.spec, going.purpose == "watch"
    found = [(one, _pair(run, going, one)) for one in _labelled(run, context, going)]
    pairs = tuple(pair for _, pair in found if pair)
    margin, level = (
        (spec.promotion.watch.margin, spec.promotion.watch.level) if watch else (spec.gate.margin, spec.gate.level)
    )
    if spec.gate.metric == "rmse":
        margin = (1 + margin) ** 2 - 1  # of the squared error
    return Evidence(
        pairs=pairs,
        unpaired=len(found) - len(pairs),
        beyond=_bounds(run, pairs, 1 + margin, level) if pairs else None,
        plain=tuple(_bounds(run, pairs[:place], 1, level) for place in range(1, len(pairs) + 1)),
        breach=_breach(run, going),
    )


def _labelled(run: Run, context: Context, going: Rollout) -> Iterator[Accepted]:
    """The accepted batches since the rollout began whose labels are there and are not in doubt."""
    doubted = set()
    if run.store.exists(f"{run.folder}/diagnose.json"):
        doubted = {one.start for one, kind in run.read(DiagnoseReport, "diagnose").of if kind in HELD}
    for one in dataset.mature(context, run.spec):
        if one.batch.interval.start >= going.began and one.batch.interval.start not in doubted:
            yield one


def _pair(run: Run, going: Rollout, accepted: Accepted) -> Pair | None:
    """The losses of an interval; None where one of the two did not score it, or too few labels have come."""
    mine = [one for one in prediction_log.records(run, accepted.batch.interval) if _both(one, going)]
    if not mine:
        return None
    same = [one for one in mine if one.body["data"] == accepted.batch.sha256]
    try:
        known = prediction_log.joined(run, (same or mine)[-1], accepted).labelled()
    except AmbiguousKeys as error:
        log.warning("%s: %s", run.model, error.found)
        return None
    if known.shadow is None or not len(known.frame) or known.counts.share < run.spec.labels.min_coverage:
        return None
    loss = estimation.loss_of(run.spec.task, run.spec.gate.metric)
    champion, shadow = loss(known.outcome, known.prediction), loss(known.outcome, known.shadow)
    newer, older = (champion, shadow) if going.purpose == "watch" else (shadow, champion)
    columns = [run.spec.source.time, *([run.spec.training.group] if run.spec.training.group else [])]
    return Pair(accepted.batch.interval, known.frame[columns], newer, older)


def _both(record: Record, going: Rollout) -> bool:
    shadow = record.body.get("shadow") or {}
    return record.body["version"] == going.champion and shadow.get("version") == going.shadow.version


def _bounds(run: Run, pairs: Sequence[Pair], times: float, level: float) -> Bounds:
    """The mean of newer - times · older."""
    frame = pd.concat([one.frame for one in pairs], ignore_index=True)
    values = np.concatenate([one.newer - times * one.older for one in pairs])
    return confidence_sequence.bounds(values, resampling.blocks(run.spec, frame), level)


def _breach(run: Run, going: Rollout) -> str:
    """How the newer of the two failed on an interval since the rollout began; no labels are needed for that."""
    for record in run.ledger.records(run.model, prediction_log.KIND):
        if not going.began < record.effective_at <= run.as_of:
            continue
        if going.purpose == "watch":
            failed = record.body.get("breach") or {}
            breach = failed.get("version") == going.champion
        else:
            failed = record.body.get("shadow") or {}
            breach = failed.get("version") == going.shadow.version and failed["breach"]
        if breach:
            return f"version {failed['version']} failed on {record.body['interval']}: {failed['failed']}"
    return ""


# --- the watch


def _watch(run: Run, context: Context, going: Rollout, evidence: Evidence) -> Decision:
    wanted, said = run.spec.promotion.watch.intervals, _said(run, going, evidence)
    if evidence.breach:
        return _back(run, going, (evidence.breach,))
    if evidence.beyond and evidence.beyond.low > 0:
        return _back(run, going, (said,))
    moved: tuple[str, ...] = ()
    if run.store.exists(f"{run.folder}/measure.json"):
        measured = run.read(MeasureReport, "measure").decision
        if measured.verdict == "alarm" and evidence.pairs:
            why = "and not worse than its predecessor as far as is known: the world moved, a rollback would not help"
            moved = (f"version {going.champion} fell ({measured.reasons[0]}), {why}",)
    done = len(evidence.pairs) + evidence.unpaired
    if done >= wanted:
        lost = f", {evidence.unpaired} of them without a pair" if evidence.unpaired else ""
        ended = f"the watch ends after {done} intervals with labels{lost}: version {going.champion} stays"
        if not run.trigger.dry_run:
            promotion.set_rollout(run, run.key, None, "ended", (*moved, ended, said), was=going)
        return Decision(verdict="drift" if moved else "ended", reasons=(*moved, ended, said))
    verdict = "drift" if moved else "watched" if evidence.pairs else "waiting"
    left = f"{done} of {wanted} intervals of the watch have labels"
    return Decision(verdict=verdict, reasons=(*moved, left, said))


def _back(run: Run, going: Rollout, reasons: tuple[str, ...]) -> Decision:
    if not run.trigger.dry_run:
        promotion.roll_back(run, reasons[0], to=going.shadow.version, effective_at=run.as_of)
        promotion.set_rollout(run, run.key, None, "rolled back", reasons, was=going)
    serves = f"version {going.shadow.version} serves again from {run.as_of:%Y-%m-%d %H:%M} on"
    return Decision(verdict="rolled back", reasons=(*reasons, serves))


# --- a challenger


def _challenge(run: Run, context: Context, going: Rollout, evidence: Evidence) -> Decision:
    wanted, said = run.spec.promotion.intervals, _said(run, going, evidence)
    if evidence.breach:
        return _stop(run, going, evidence.breach, blocks=True)
    if evidence.beyond and evidence.beyond.low > 0:
        return _stop(run, going, f"shown to be worse: {said}", blocks=True)
    here = evidence.since(going.since)
    holds = evidence.beyond is not None and evidence.beyond.high < 0
    if holds and here >= wanted:
        steps = run.spec.promotion.steps
        if going.purpose == "canary" and going.step + 1 < len(steps):
            return _advance(run, going, steps[going.step + 1], said)
        return _promote(run, context, going, evidence, said)
    if here + evidence.unpaired >= PATIENCE * wanted:
        why = f"inconclusive after {here + evidence.unpaired} intervals with labels, the champion stays: {said}"
        return _stop(run, going, why, blocks=False)
    left = f"{here} of {wanted} intervals of {_named(going)} have labels"
    return Decision(verdict="held" if holds else "waiting", reasons=(left, said))


def _advance(run: Run, going: Rollout, share: float, said: str) -> Decision:
    after = going.model_copy(update={"step": going.step + 1, "share": share, "since": run.as_of})
    reasons = (f"version {going.shadow.version} answers {share:.0%} of the rows from now on", said)
    if not run.trigger.dry_run:
        promotion.set_rollout(run, run.key, after, "advanced", reasons, was=going)
    return Decision(verdict="advanced", reasons=reasons)


def _promote(run: Run, context: Context, going: Rollout, evidence: Evidence, said: str) -> Decision:
    target = going.shadow.model_copy(update={"effective_at": run.as_of})
    reasons = (f"held in {going.purpose}: {said}",)
    if run.trigger.dry_run:
        return Decision(verdict="promoted", reasons=reasons)
    change = Change(
        action="promote",
        target=target,
        kind=going.kind,
        reasons=reasons,
        reference_champion=target
        if going.becomes_reference or context.reference_champion is None
        else context.reference_champion,
        effective_at=run.as_of,
        more={"evidence": _figures(evidence)},
        over=context.champion,
    )
    made = promotion.history(run)
    try:
        if not any(one.key == run.key for one in made):
            promotion.refuse(run, made, target, run.as_of)
            smoke_test.run_smoke_test(run, target)
        record, _ = promotion.move(run, change)
    except (StaleRun, ModelBlocked) as error:
        return _stop(run, going, error.found, blocks=False)
    except REFUSED as error:
        return _stop(run, going, f"{type(error).__name__}: {error.found}", blocks=True)
    watch = record.body.get("rollout")
    then = Rollout.model_validate(watch) if watch else None
    promotion.set_rollout(run, run.key, then, "promoted", reasons, was=going)
    return Decision(verdict="promoted", reasons=(f"version {target.version} serves", *reasons))


def _stop(run: Run, going: Rollout, reason: str, *, blocks: bool) -> Decision:
    """The challenger scores no more; blocked where it was shown to be no good."""
    shadow = going.shadow
    if not run.trigger.dry_run:
        facts = {name: getattr(shadow, name) for name in BlockedModel.model_fields if name != "reason"}
        blocked = BlockedModel(reason=reason, **facts) if blocks else None
        promotion.set_rollout(run, run.key, None, "stopped", (reason,), was=going, blocked=blocked)
        try:
            registry = Registry(run.home.mlflow)
            if registry.alias(run.model, promotion.CHALLENGER) == shadow.version:
                registry.clear(run.model, promotion.CHALLENGER)
        except RetrainError as error:  # the ledger has stopped it; the alias is for people
            log.warning("%s: the challenger alias was not cleared: %s", run.model, error.found)
    outcome = f"version {shadow.version} is blocked" if blocks else f"version {going.champion} keeps serving"
    return Decision(verdict="stopped", reasons=(reason, outcome))


# --- for people


def _said(run: Run, going: Rollout, evidence: Evidence) -> str:
    if not evidence.plain or evidence.beyond is None:
        return f"no interval of {_named(going)} has labels for both versions yet"
    new, old = (
        (going.champion, going.shadow.version) if going.purpose == "watch" else (going.shadow.version, going.champion)
    )
    bounds, loss = evidence.plain[-1], estimation.LOSS[run.spec.gate.metric]
    older = float(np.concatenate([one.older for one in evidence.pairs]).mean())
    relative = f" ({bounds.mean / older:+.2%})" if older > 0 else ""
    certain = f"bounds at any look {bounds.low:.4g} to {bounds.high:.4g}"
    if not (isfinite(bounds.low) and isfinite(bounds.high)):
        certain = f"too few blocks to tell how sure that is: {bounds.blocks}"
    count = sum(len(one.newer) for one in evidence.pairs)
    return (
        f"{loss} of version {new} above that of version {old}: {bounds.mean:.4g}{relative} on {count:,} rows in"
        f" {bounds.blocks} blocks of {len(evidence.pairs)} intervals, {certain}"
    )


def _named(going: Rollout) -> str:
    return f"the canary at {going.share:.0%}" if going.purpose == "canary" else f"the {going.purpose}"


def _figures(evidence: Evidence) -> dict[str, object]:
    """The newest look, as a gain of the newer one; a bound that is not there is None."""
    if not evidence.plain:
        return {"rows": 0}
    bounds = evidence.plain[-1]
    low, high = (-one if isfinite(one) else None for one in (bounds.high, bounds.low))
    return {"rows": sum(len(one.newer) for one in evidence.pairs), "gain": -bounds.mean, "low": low, "high": high}


def _report(run: Run, going: Rollout | None, decision: Decision, evidence: Evidence | None = None) -> RolloutReport:
    facts: dict[str, object] = {}
    if going and evidence:
        facts = {"purpose": going.purpose, "version": going.shadow.version, "champion": going.champion}
        facts |= _figures(evidence)
    about = {"model": run.model, "interval": run.interval, "effective_at": run.as_of, "decision": decision}
    return RolloutReport.model_validate({**about, **facts})


def _page(run: Run, report: RolloutReport, going: Rollout, evidence: Evidence) -> RolloutReport:
    if not run.pages:
        return report
    shown = pd.DataFrame(
        [
            (
                *(
                    pair.interval.name,
                    len(pair.newer),
                    pair.newer.mean(),
                    pair.older.mean(),
                    bounds.blocks,
                    bounds.mean,
                ),
                *(bound if isfinite(bound) else None for bound in (bounds.low, bounds.high)),
            )
            for pair, bounds in zip(evidence.pairs, evidence.plain, strict=True)
        ],
        columns=["interval", "rows", "newer", "older", "blocks so far", "mean", "low", "high"],
    )
    shown.insert(4, "difference", shown["newer"] - shown["older"])
    loss = estimation.LOSS[run.spec.gate.metric]
    figures = (
        {"Loss of the newer above the older": monitoring_plots.paired_differences(shown, loss)} if len(shown) else {}
    )
    title = f"{run.model}: version {going.shadow.version} beside version {going.champion} ({going.purpose})"
    key = run.path("rollout", PAGE)
    run.store.write(key, html.page(title, report.decision, {f"Mean {loss}": shown}, figures))
    return report.model_copy(update={"html": key})
