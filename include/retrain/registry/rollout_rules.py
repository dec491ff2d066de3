"""Rules of a rollout: what follows from the paired evidence of what scores beside the champion.

A challenger in shadow or canary goes on while it is not shown worse, and has come through once its loss is shown to be
within the gate's margin of the champion's. A new champion is watched beside its predecessor, for as many intervals
with labels as the spec says, however late the labels come; the predecessor is put back where the new one is shown
worse, or fails. Where both fall, the world has moved, and the predecessor would help nobody.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from retrain.monitoring.paired_evidence import PairedEvidence, describe, name_of
from retrain.results import Rollout
from retrain.spec import Spec

PATIENCE = 2
"""A challenger that is not settled after so many times the intervals of its step is stopped."""


@dataclass(frozen=True)
class RolloutVerdict:
    """What follows for a rollout, and why.

    Attributes:
        action: put back the predecessor, end the watch, stop or promote the challenger, advance the canary, or none.
        verdict: of the report.
        reasons: for the record.
        blocks: a stopped challenger may not come again.
        share: of the rows, that an advanced canary answers.
    """

    action: Literal["put back", "end", "stop", "advance", "promote", "none"]
    verdict: str
    reasons: tuple[str, ...]
    blocks: bool = False
    share: float = 0.0


def judge_watch(spec: Spec, rollout: Rollout, evidence: PairedEvidence, alarm: str = "") -> RolloutVerdict:
    """What follows for a new champion under watch.

    Args:
        spec: its `promotion.watch` says how long.
        rollout: the watch.
        evidence: of the new champion and its predecessor.
        alarm: why the champion's realised performance is an alarm; empty if it is none.
    """
    summary = describe(spec, rollout, evidence)
    if evidence.breach:
        return RolloutVerdict("put back", "rolled back", (evidence.breach,))
    if evidence.shown_worse:
        return RolloutVerdict("put back", "rolled back", (summary,))
    moved: tuple[str, ...] = ()
    if alarm and evidence.pairs:
        why = "and not worse than its predecessor as far as is known: the world moved, a rollback would not help"
        moved = (f"version {rollout.champion} fell ({alarm}), {why}",)
    wanted, labelled = spec.promotion.watch.intervals, len(evidence.pairs) + evidence.unpaired
    if labelled >= wanted:
        lost = f", {evidence.unpaired} of them without a pair" if evidence.unpaired else ""
        ended = f"the watch ends after {labelled} intervals with labels{lost}: version {rollout.champion} stays"
        return RolloutVerdict("end", "drift" if moved else "ended", (*moved, ended, summary))
    verdict = "drift" if moved else "watched" if evidence.pairs else "waiting"
    left = f"{labelled} of {wanted} intervals of the watch have labels"
    return RolloutVerdict("none", verdict, (*moved, left, summary))


def judge_challenger(spec: Spec, rollout: Rollout, evidence: PairedEvidence) -> RolloutVerdict:
    """What follows for a challenger in shadow or canary."""
    wanted, summary = spec.promotion.intervals, describe(spec, rollout, evidence)
    if evidence.breach:
        return RolloutVerdict("stop", "stopped", (evidence.breach,), blocks=True)
    if evidence.shown_worse:
        return RolloutVerdict("stop", "stopped", (f"shown to be worse: {summary}",), blocks=True)
    of_this_step = evidence.pairs_since(rollout.since)
    if evidence.shown_within_margin and of_this_step >= wanted:
        steps = spec.promotion.steps
        if rollout.purpose == "canary" and rollout.step + 1 < len(steps):
            share = steps[rollout.step + 1]
            answers = f"version {rollout.shadow.version} answers {share:.0%} of the rows from now on"
            return RolloutVerdict("advance", "advanced", (answers, summary), share=share)
        return RolloutVerdict("promote", "promoted", (f"held in {rollout.purpose}: {summary}",))
    labelled = of_this_step + evidence.unpaired
    if labelled >= PATIENCE * wanted:
        why = f"inconclusive after {labelled} intervals with labels, the champion stays: {summary}"
        return RolloutVerdict("stop", "stopped", (why,))
    left = f"{of_this_step} of {wanted} intervals of {name_of(rollout)} have labels"
    return RolloutVerdict("none", "held" if evidence.shown_within_margin else "waiting", (left, summary))
