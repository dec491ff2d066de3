"""Paired evidence: what two versions that answered the same rows lost, row by row, as labels mature.

The loss of the newer version is held against that of the older one, per row, in blocks that hang together, interval
after interval. The bounds are those of a confidence sequence (`retrain.monitoring.confidence_sequence`): they hold at
every moment together, so that an early end costs nothing.
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
from retrain.errors import AmbiguousKeys
from retrain.modeling import resampling
from retrain.modeling.metrics import Array
from retrain.monitoring import confidence_sequence, estimation, prediction_log
from retrain.monitoring.confidence_sequence import Bounds
from retrain.monitoring.signals import doubted_intervals
from retrain.results import AcceptedBatch, Context, Interval, Rollout
from retrain.spec import Spec
from retrain.state.ledger import Record
from retrain.state.run import Run

log = logging.getLogger(__name__)

COLUMNS = ("interval", "rows", "newer", "older", "difference", "blocks so far", "mean", "low", "high")
"""Of the table for people."""


@dataclass(frozen=True)
class LossPair:
    """The labelled rows of an interval with the loss of both versions.

    Attributes:
        frame: (n) what blocks are made of: the time, and the group where the spec has one.
        newer, older: (n,) the challenger and the champion; of a watch the champion and its predecessor.
    """

    interval: Interval
    frame: pd.DataFrame
    newer: Array
    older: Array


@dataclass(frozen=True)
class PairedEvidence:
    """What is known of the two versions since their rollout began.

    Attributes:
        pairs: of each interval with labels, oldest first.
        unpaired: intervals with labels that one of the two has not scored.
        beyond_margin: bounds of the newer one's mean loss above the older one's with the margin on top, on all pairs.
        difference: bounds of the same without a margin, after each interval.
        breach: how the newer one failed; empty if it did not.
    """

    pairs: tuple[LossPair, ...]
    unpaired: int
    beyond_margin: Bounds | None
    difference: tuple[Bounds, ...]
    breach: str

    @property
    def rows(self) -> int:
        """Rows of all pairs."""
        return sum(len(pair.newer) for pair in self.pairs)

    @property
    def shown_worse(self) -> bool:
        """Whether the newer version loses more than the margin allows, at any moment's level."""
        return self.beyond_margin is not None and self.beyond_margin.low > 0

    @property
    def shown_within_margin(self) -> bool:
        """Whether the newer version's loss is shown to lie within the margin of the older one's."""
        return self.beyond_margin is not None and self.beyond_margin.high < 0

    def pairs_since(self, moment: datetime) -> int:
        """Intervals with a pair that began at a moment or later."""
        return sum(pair.interval.start >= moment for pair in self.pairs)


def paired_evidence(run: Run, context: Context, rollout: Rollout) -> PairedEvidence:
    """Collect the evidence of a rollout from the prediction log and the labels that have matured.

    Args:
        run: whose report `diagnose`, if there is one, says which labels are in doubt.
        context: what the run knows; its mature batches are gone through.
        rollout: which two versions, and since when.
    """
    spec, watch = run.spec, rollout.purpose == "watch"
    by_interval = [_pair(run, rollout, accepted) for accepted in _labelled(run, context, rollout)]
    pairs = tuple(pair for pair in by_interval if pair)
    margin, level = (
        (spec.promotion.watch.margin, spec.promotion.watch.level) if watch else (spec.gate.margin, spec.gate.level)
    )
    if spec.gate.metric == "rmse":
        margin = (1 + margin) ** 2 - 1  # of the squared error
    return PairedEvidence(
        pairs=pairs,
        unpaired=len(by_interval) - len(pairs),
        beyond_margin=_bounds(spec, pairs, 1 + margin, level) if pairs else None,
        difference=tuple(_bounds(spec, pairs[:count], 1, level) for count in range(1, len(pairs) + 1)),
        breach=_breach(run, rollout),
    )


def _labelled(run: Run, context: Context, rollout: Rollout) -> Iterator[AcceptedBatch]:
    """The accepted batches since the rollout began whose labels are there and are not in doubt."""
    doubted = {interval.start for interval in doubted_intervals(run)}
    for accepted in dataset.mature(context, run.spec):
        if accepted.batch.interval.start >= rollout.began and accepted.batch.interval.start not in doubted:
            yield accepted


def _pair(run: Run, rollout: Rollout, accepted: AcceptedBatch) -> LossPair | None:
    """The losses of an interval; None where one of the two did not score it, or too few labels have come."""
    records = prediction_log.records(run, accepted.batch.interval)
    records = [record for record in records if _scored_by_both(record, rollout)]
    if not records:
        return None
    of_this_batch = [record for record in records if record.body["data"] == accepted.batch.sha256]
    try:
        rows = prediction_log.join_labels(run, (of_this_batch or records)[-1], accepted).labelled()
    except AmbiguousKeys as error:
        log.warning("%s: %s", run.model, error.found)
        return None
    if rows.shadow is None or not len(rows.frame) or rows.counts.share < run.spec.labels.min_coverage:
        return None
    loss = estimation.loss_of(run.spec.task, run.spec.gate.metric)
    champion, shadow = loss(rows.outcome, rows.prediction), loss(rows.outcome, rows.shadow)
    newer, older = (champion, shadow) if rollout.purpose == "watch" else (shadow, champion)
    columns = [run.spec.source.time, *([run.spec.training.group] if run.spec.training.group else [])]
    return LossPair(accepted.batch.interval, rows.frame[columns], newer, older)


def _scored_by_both(record: Record, rollout: Rollout) -> bool:
    shadow = record.body.get("shadow") or {}
    return record.body["version"] == rollout.champion and shadow.get("version") == rollout.shadow.version


def _bounds(spec: Spec, pairs: Sequence[LossPair], times: float, level: float) -> Bounds:
    """Bounds of the mean of newer - times · older."""
    frame = pd.concat([pair.frame for pair in pairs], ignore_index=True)
    values = np.concatenate([pair.newer - times * pair.older for pair in pairs])
    return confidence_sequence.bounds(values, resampling.blocks(spec, frame), level)


def _breach(run: Run, rollout: Rollout) -> str:
    """How the newer version failed on an interval since the rollout began; no labels are needed for that."""
    for record in run.ledger.records(run.model, prediction_log.KIND):
        if not rollout.began < record.effective_at <= run.as_of:
            continue
        if rollout.purpose == "watch":
            scores = record.body.get("breach") or {}
            breach = scores.get("version") == rollout.champion
        else:
            scores = record.body.get("shadow") or {}
            breach = scores.get("version") == rollout.shadow.version and scores["breach"]
        if breach:
            return f"version {scores['version']} failed on {record.body['interval']}: {scores['failed']}"
    return ""


# --- for people


def describe(spec: Spec, rollout: Rollout, evidence: PairedEvidence) -> str:
    """The evidence in one sentence."""
    if not evidence.difference:
        return f"no interval of {name_of(rollout)} has labels for both versions yet"
    newer, older = rollout.shadow.version, rollout.champion
    if rollout.purpose == "watch":
        newer, older = older, newer
    bounds, loss = evidence.difference[-1], estimation.LOSS[spec.gate.metric]
    older_loss = float(np.concatenate([pair.older for pair in evidence.pairs]).mean())
    relative = f" ({bounds.mean / older_loss:+.2%})" if older_loss > 0 else ""
    certainty = f"bounds at any time {bounds.low:.4g} to {bounds.high:.4g}"
    if not (isfinite(bounds.low) and isfinite(bounds.high)):
        certainty = f"too few blocks to tell how sure that is: {bounds.blocks}"
    return (
        f"{loss} of version {newer} above that of version {older}: {bounds.mean:.4g}{relative} on {evidence.rows:,}"
        f" rows in {bounds.blocks} blocks of {len(evidence.pairs)} intervals, {certainty}"
    )


def name_of(rollout: Rollout) -> str:
    """What a rollout is called in a sentence."""
    return f"the canary at {rollout.share:.0%}" if rollout.purpose == "canary" else f"the {rollout.purpose}"


def figures(evidence: PairedEvidence) -> dict[str, float | int | None]:
    """The newest bounds as a gain of the newer version: `rows`, `gain`, `low`, `high`; an infinite bound is None."""
    if not evidence.difference:
        return {"rows": 0}
    bounds = evidence.difference[-1]
    low, high = (-bound if isfinite(bound) else None for bound in (bounds.high, bounds.low))
    return {"rows": evidence.rows, "gain": -bounds.mean, "low": low, "high": high}


def table(evidence: PairedEvidence) -> pd.DataFrame:
    """A row per interval with a pair: the mean losses, their difference, and the bounds up to then."""
    return pd.DataFrame(
        [
            {
                "interval": pair.interval.name,
                "rows": len(pair.newer),
                "newer": pair.newer.mean(),
                "older": pair.older.mean(),
                "difference": pair.newer.mean() - pair.older.mean(),
                "blocks so far": bounds.blocks,
                "mean": bounds.mean,
                "low": bounds.low if isfinite(bounds.low) else None,
                "high": bounds.high if isfinite(bounds.high) else None,
            }
            for pair, bounds in zip(evidence.pairs, evidence.difference, strict=True)
        ],
        columns=COLUMNS,
    )
