"""Score the interval's rows with the champion of their time: once, on record, by the pipeline that was fitted.

The model is the one that served when the interval began, so it has seen none of the rows. The scores of a batch are
one file under its content hash and one record in the ledger, the files first: a killed run is completed by its retry,
and whoever comes second finds the first scores, whatever serves by then. Other bytes of the interval are another
batch with a record of its own.

A shadow model, by the ledger, scores the same rows: a challenger in shadow or canary, or the predecessor of a champion
under watch. It cannot stop the scores. A canary's score is the one served for its share of the rows; where a champion
under watch fails, its predecessor's scores are served in its stead, and the failure is on record.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from retrain.data.scoring_rows import ScoringRows, name_breaches, read_scoring_rows, write_rejected
from retrain.errors import (
    ArtifactMissing,
    DanglingChampion,
    DigestMismatch,
    EstimatorRefused,
    ModelFormatRefused,
    NonFiniteMetric,
    RegistryDown,
    RetrainError,
    ScoringFailed,
)
from retrain.modeling.metrics import Array
from retrain.monitoring import prediction_log
from retrain.monitoring.prediction_log import Scores, scalar_scores
from retrain.monitoring.stored_reference import load_column_facts, share_outside, unknown_categories
from retrain.registry.answers import predict_rows
from retrain.registry.champion import library_skew, load_champion
from retrain.registry.mlflow import Registry
from retrain.registry.promotion import difference
from retrain.rendering.score_page import score_page
from retrain.results import Batch, Champion, Decision, Disagreement, IngestReport, Rollout, ScoreReport
from retrain.state.ledger import Record
from retrain.state.projections import champion_at, rollout_at
from retrain.state.run import Run

log = logging.getLogger(__name__)

CHAMPION = "champion"
BREACHES = (ArtifactMissing, DigestMismatch, EstimatorRefused, ModelFormatRefused, NonFiniteMetric, ScoringFailed)
"""Failures of a version, not of the rows or of a server."""
PAGE = "score.html"


def score(run: Run) -> ScoreReport:
    """Score the batch that this run ingested, or find the scores that it was given before.

    Raises:
        RowsRejected: rows break their columns' contract where the spec says stop, or all of them do.
        ScoringFailed: the champion cannot score the rows.
        NonFiniteMetric: it answers with NaN.
        ArtifactMissing, DigestMismatch: its files are gone, or are others.
        LibrarySkew: it was fitted under other libraries, and the spec refuses that.
        RegistryDown: the registry does not answer, and this machine has no copy of the model.
        SnapshotCorrupt, MissingInput: the batch, or its earlier scores, are not the ones on record, or gone.
    """
    batch = run.read(IngestReport, "ingest").batch
    if record := prediction_log.find(run, run.interval, batch.sha256):
        return _again(run, record)
    history = run.ledger.records(run.model, "promotion")
    champion = champion_at(history, run.interval.start)
    if champion is None:
        why = f"no champion yet: none was promoted by {run.interval.start:%Y-%m-%d %H:%M}"
        return _report(run, Decision(verdict="skipped", reasons=(why,)))
    rollout = rollout_at(history, run.ledger.records(run.model, "rollout"), run.interval.start)
    # A replay has a ledger and no registry.
    notes, moved = _alias(run, champion, history[-1]) if run.home.mlflow else ((), None)
    try:
        rows, scores = _champion_scores(run, batch, champion)
    except BREACHES as error:
        if rollout is None or rollout.purpose != "watch":
            raise
        try:
            rows, scores = _champion_scores(run, batch, rollout.shadow)
        except RetrainError:
            raise error from None  # both fail: not for the new champion's sake
        breach = {"version": champion.version, "failed": f"{type(error).__name__}: {error.found}"}
        why = f"version {champion.version} failed, its predecessor answered in its stead: {breach['failed']}"
        facts = {"shadow": None, "breach": breach}
        return _publish(run, batch, rollout.shadow, rows, scores, None, facts, (why, *notes), moved)
    other, shadow = _shadow_scores(run, rollout, rows) if rollout else (None, None)
    return _publish(run, batch, champion, rows, scores, other, {"shadow": shadow, "breach": None}, notes, moved)


def _report(run: Run, decision: Decision, **more: Any) -> ScoreReport:
    return ScoreReport(model=run.model, interval=run.interval, effective_at=run.as_of, decision=decision, **more)


# --- the champion and its shadow model


def _champion_scores(run: Run, batch: Batch, champion: Champion) -> tuple[ScoringRows, Scores]:
    library_skew(run, champion)
    model = load_champion(run, champion)
    rows = read_scoring_rows(run, batch, model[0].columns)
    return rows, Scores(predict_rows(run, model, champion.version, rows), champion.version)


def _shadow_scores(run: Run, rollout: Rollout, rows: ScoringRows) -> tuple[Scores | None, dict[str, Any]]:
    """The shadow model's scores, and the facts for the record; a failure is noted there, and stops nothing.

    `breach` says that the failure is the version's own, and no server's.
    """
    version = rollout.shadow.version
    facts = {"version": version, "purpose": rollout.purpose, "share": rollout.share, "failed": None, "breach": False}
    try:
        library_skew(run, rollout.shadow)
        return Scores(predict_rows(run, load_champion(run, rollout.shadow), version, rows), version), facts
    except Exception as error:
        log.warning("version %s failed beside the champion", version, exc_info=True)
        what = error.found if isinstance(error, RetrainError) else str(error)[:300]
        breach = isinstance(error, BREACHES) or not isinstance(error, (RetrainError, OSError))
        return None, {**facts, "failed": f"{type(error).__name__}: {what}", "breach": breach}


def _alias(run: Run, champion: Champion, head: Record) -> tuple[tuple[str, ...], str | None]:
    """What there is to say of the champion's alias, and how it differs from the ledger."""
    if (serves := head.body["version"]) != champion.version:
        return (f"version {champion.version} was the champion of that time, version {serves} is today's",), None
    try:
        aliased = Registry(run.home.mlflow).pointed(run.model, CHAMPION)
    except RegistryDown as error:
        why = f"{error.found}: version {champion.version} scored from this machine's copy, its alias was not looked at"
        return (why,), None
    except DanglingChampion as error:
        return (error.found,), error.found
    if aliased and aliased.digest == champion.digest:
        return (), None
    moved = f"the champion alias {difference(aliased, champion)}"
    return (f"{moved}: version {champion.version} scored",), moved


# --- what is written


def _publish(
    run: Run,
    batch: Batch,
    champion: Champion,
    rows: ScoringRows,
    scores: Scores,
    other: Scores | None,
    more: Mapping[str, Any],
    notes: tuple[str, ...],
    moved: str | None,
) -> ScoreReport:
    """Write the scores, what was set aside, the page and the report; then the record."""
    spec, facts, shadow = run.spec, load_column_facts(run, champion), more["shadow"]
    abstains = spec.scoring.rejected == "abstain"
    kept = np.ones(len(rows.sound), dtype=bool) if abstains else rows.sound
    lead = rows.lead.filter(pa.array(kept))
    canary = None
    if other and shadow and shadow["share"]:
        keys = lead.select(list(spec.source.key))
        canary = prediction_log.canary_rows(run.model, keys, shadow["share"]) & rows.sound[kept]
    answered = {champion.version: len(rows.frame)}
    if other and canary is not None:
        answered = {champion.version: len(rows.frame) - int(canary.sum()), other.version: int(canary.sum())}
    data = prediction_log.to_parquet(
        spec,
        lead,
        _spread(scores, rows.sound[kept]),
        other and _spread(other, rows.sound[kept]),
        canary,
        data=batch.sha256,
        reason=rows.reason[kept].tolist(),
    )
    sha256 = hashlib.sha256(data).hexdigest()
    folder = f"{run.model}/scores/{run.interval.name}"
    base = f"{folder}/{sha256}"
    run.store.write(f"{base}.parquet", data)
    quarantined = write_rejected(run, batch, rows, folder) if rows.rejected and not abstains else None

    apart = None
    if other:
        apart = prediction_log.disagreement(spec, rows.lead.filter(pa.array(rows.sound)), scores, other)
    outside = share_outside(scores.values, facts.get("target", {})) if spec.task == "regression" else None
    reasons = [f"{len(rows.frame):,} of {len(rows.sound):,} rows scored by version {champion.version}"]
    if other and canary is not None:
        reasons.append(f"canary: {answered[other.version]:,} of them got the answer of version {other.version}")
    if rows.rejected:
        what = "without a score" if abstains else "set aside"
        reasons.append(f"{rows.rejected:,} rows {what}: {name_breaches(rows.breaches)}")
    if outside:
        low, high = facts["target"]["min"], facts["target"]["max"]
        reasons.append(
            f"warning: {outside:.1%} of the scores lie outside the target's range in training, {low:g} to {high:g}"
        )
    if apart and shadow:
        reasons.append(_disagreement(apart, shadow["purpose"]))
    if shadow and shadow["failed"]:
        reasons.append(f"version {shadow['version']} ({shadow['purpose']}) did not score: {shadow['failed']}")
    if skew := library_skew(run, champion):
        log.warning("version %s was fitted under other libraries: %s", champion.version, "; ".join(skew))
        reasons.append(f"warning: version {champion.version} was fitted under other libraries: {'; '.join(skew)}")
        more = {**more, "library_skew": skew}
    if not facts:
        reasons.append(f"version {champion.version} has no reference in the store: unknown categories were not counted")
    report = _report(
        run,
        Decision(verdict="scored", reasons=(*reasons, *notes)),
        version=champion.version,
        rows=len(rows.sound),
        scored=len(rows.frame),
        answered={str(version): count for version, count in answered.items()},
        rejected=dict(rows.breaches),
        unknown_categories=unknown_categories(rows.frame, facts),
        outside=outside,
        key=f"{base}.parquet",
        sha256=sha256,
        data=batch.sha256,
        quarantined=quarantined,
        alias_moved=moved,
        library_skew=skew,
        shadow=apart,
    )
    plotted = {"champion": scalar_scores(scores.values, scores.values)}
    if other:
        plotted["shadow"] = scalar_scores(scores.values, other.values)
    if run.pages:
        run.store.write(f"{base}.html", score_page(spec, report, plotted))
    run.store.write(f"{base}.json", report.to_json().encode())
    record = prediction_log.append(run, batch, report, more)
    if record.body["sha256"] != sha256:
        return _again(run, record)
    return _with_page(run, report)


def _spread(scores: Scores, sound: Array) -> Scores:
    """The scores at the places of the sound rows, NaN at the others."""
    if sound.all():
        return scores
    values = np.full((len(sound), *scores.values.shape[1:]), np.nan)
    values[sound] = scores.values
    return Scores(values, scores.version)


def _disagreement(apart: Disagreement, purpose: str) -> str:
    otherwise = (
        "" if apart.decided_otherwise is None else f", {apart.decided_otherwise:.1%} of the rows answered otherwise"
    )
    return f"version {apart.version} scored beside ({purpose}): {apart.mean_absolute:.3g} apart on average{otherwise}"


def _again(run: Run, record: Record) -> ScoreReport:
    """The report of scores that are on record, once their file has shown to be there."""
    key = record.body["key"]
    with run.store.verified(key, record.body["sha256"]):
        report = run.store.read_report(ScoreReport, f"{key.removesuffix('.parquet')}.json")
    why = f"scored before by version {record.body['version']}, in run {record.run}"
    decision = Decision(verdict="found", reasons=(why, *report.decision.reasons))
    return _with_page(run, report.model_copy(update={"decision": decision}))


def _with_page(run: Run, report: ScoreReport) -> ScoreReport:
    """The report with its page in this run's folder, where pages are drawn."""
    if not run.pages:
        return report
    page = run.path("score", PAGE)
    run.store.write(page, run.store.read(f"{(report.key or '').removesuffix('.parquet')}.html"))
    return report.model_copy(update={"html": page})
