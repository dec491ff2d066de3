"""Score the interval's rows with the champion of their time: once, on record, by the pipeline that was fitted.

The model is the one that served when the interval began, so it has seen none of the rows. The scores of a batch are
one file under its content hash and one record in the ledger, the files first: a killed run is completed by its retry,
and whoever comes second finds the first scores, whatever serves by then. Other bytes of the interval are another
batch with a record of its own.

What the ledger says scores beside the champion answers the same rows: a challenger in shadow or canary, or the
predecessor of a champion under watch. It cannot stop the scores. A canary's answer is the one served for its share of
the rows; where a champion under watch fails, its predecessor answers in its stead, and the failure is on record.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.pipeline import Pipeline

from retrain.data import dataset, row_contract
from retrain.errors import (
    ArtifactMissing,
    DanglingChampion,
    DigestMismatch,
    EstimatorRefused,
    ModelFormatRefused,
    NonFiniteMetric,
    RegistryDown,
    RetrainError,
    RowsRejected,
    ScoringFailed,
)
from retrain.modeling import pipelines
from retrain.modeling.metrics import Array
from retrain.monitoring import prediction_log
from retrain.monitoring.prediction_log import Answers
from retrain.registry.champion import load_champion
from retrain.registry.mlflow import Registry
from retrain.rendering import html, monitoring_plots
from retrain.results import (
    Accepted,
    Batch,
    Champion,
    Decision,
    Disagreement,
    Disparity,
    IngestReport,
    Rollout,
    ScoreReport,
)
from retrain.state.ledger import Record
from retrain.state.projections import champion_at, rollout_at
from retrain.state.run import Run

log = logging.getLogger(__name__)

CHAMPION = "champion"
BREACHES = (ArtifactMissing, DigestMismatch, EstimatorRefused, ModelFormatRefused, NonFiniteMetric, ScoringFailed)
"""Failures of a version, not of the rows or of a server."""
PAGE = "score.html"
SHOWN = 8
"""How many breaches a message names."""


def score(run: Run) -> ScoreReport:
    """Score the batch that this run ingested, or find the scores that it was given before.

    Raises:
        RowsRejected: rows break their columns' contract where the spec says stop, or all of them do.
        ScoringFailed: the champion cannot score the rows.
        NonFiniteMetric: it answers with NaN.
        ArtifactMissing, DigestMismatch: its files are gone, or are others.
        RegistryDown: the registry does not answer, and this machine has no copy of the model.
        SnapshotCorrupt, MissingInput: the batch, or its earlier scores, are not the ones on record, or gone.
    """
    batch = run.read(IngestReport, "ingest").batch
    if record := prediction_log.found(run, run.interval, batch.sha256):
        return _again(run, record)
    history = run.ledger.records(run.model, "promotion")
    champion = champion_at(history, run.interval.start)
    if champion is None:
        why = f"no champion yet: none was promoted by {run.interval.start:%Y-%m-%d %H:%M}"
        return _report(run, Decision(verdict="skipped", reasons=(why,)))
    rollout = rollout_at(history, run.ledger.records(run.model, "rollout"), run.interval.start)
    # A replay has a ledger and no registry.
    said, moved = _alias(run, champion, history[-1]) if run.home.mlflow else ((), None)
    try:
        given, answers = _answer(run, batch, champion)
    except BREACHES as error:
        if rollout is None or rollout.purpose != "watch":
            raise
        try:
            given, answers = _answer(run, batch, rollout.shadow)
        except RetrainError:
            raise error from None  # both fall: not for the new champion's sake
        breach = {"version": champion.version, "failed": f"{type(error).__name__}: {error.found}"}
        why = f"version {champion.version} failed, its predecessor answered in its stead: {breach['failed']}"
        facts = {"shadow": None, "breach": breach}
        return _publish(run, batch, rollout.shadow, given, answers, None, facts, (why, *said), moved)
    other, shadow = _shadow(run, rollout, given.frame) if rollout else (None, None)
    return _publish(run, batch, champion, given, answers, other, {"shadow": shadow, "breach": None}, said, moved)


def _answer(run: Run, batch: Batch, champion: Champion) -> tuple[Given, Answers]:
    model = load_champion(run, champion)
    given = _read(run, batch, model)
    return given, Answers(_predict(run, model, champion.version, given.frame), champion.version)


def _report(run: Run, decision: Decision, **more: Any) -> ScoreReport:
    return ScoreReport(model=run.model, interval=run.interval, effective_at=run.as_of, decision=decision, **more)


# --- the rows and their contract


@dataclass(frozen=True)
class Given:
    """A batch, parted by the contract.

    Attributes:
        lead: (n) key and time of every row, as delivered.
        frame: the sound rows, as models read them.
        sound: (n,) which rows those are.
        reason: (n,) what a rejected row breaks; None of a sound one.
        breaches: rule → rows that break it.
    """

    lead: pa.Table
    frame: pd.DataFrame
    sound: Array
    reason: Array
    breaches: Mapping[str, int]


def _read(run: Run, batch: Batch, model: Pipeline) -> Given:
    spec = run.spec
    # A champion from before a change of the spec may read a column that is no input any more.
    reads = [name for name in model[0].columns if name in spec.delivered]
    taken = Accepted(batch=batch, md5="", commit="", mature_at=batch.interval.end)
    own = list(dict.fromkeys([*spec.source.key, spec.source.time]))
    with run.store.verified(batch.key, batch.sha256) as path:
        lead = pq.read_table(path, columns=own)
    frame = dataset.read(run, [taken], dict.fromkeys([*reads, *spec.inputs]), ordered=False)
    broken = row_contract.breaches(spec, lead, frame[reads])
    reason = np.full(len(frame), None, dtype=object)
    for rule, mask in broken.items():
        reason[mask] = [rule if known is None else f"{known}; {rule}" for known in reason[mask]]
    sound = pd.isna(reason)
    breaches = {rule: int(mask.sum()) for rule, mask in broken.items()}
    bad = int((~sound).sum())
    if bad and (bad == len(frame) or spec.scoring.rejected == "stop"):
        first = int(np.flatnonzero(~sound)[0])
        example = ", ".join(f"{name} {lead[name][first]}" for name in spec.source.key)
        raise RowsRejected(
            f"{'all' if bad == len(frame) else f'{bad:,} of'} {len(frame):,} rows of {run.interval} break the contract"
            f" of their columns: {_counted(breaches)}; the first is {example}: {reason[first]}",
            do="deliver the batch again"
            + ("" if bad == len(frame) else ", or set scoring.rejected to quarantine or abstain"),
        )
    return Given(lead, frame if not bad else frame.loc[sound].reset_index(drop=True), sound, reason, breaches)


def _counted(breaches: Mapping[str, int]) -> str:
    most = sorted(breaches.items(), key=lambda pair: (-pair[1], pair[0]))
    more = f", and {len(most) - SHOWN} more rules" if len(most) > SHOWN else ""
    return ", ".join(f"{rule} ({count:,})" for rule, count in most[:SHOWN]) + more


# --- the champion and what scores beside it


def _predict(run: Run, model: Pipeline, version: int, frame: pd.DataFrame) -> Array:
    do = "see what changed since that version was trained; roll back, or train anew"
    classes = tuple(str(name) for name in run.spec.classes)
    if tuple(model[0].outcomes) != classes:
        raise ScoringFailed(
            f"version {version} knows the classes {tuple(model[0].outcomes)}, the spec now has {classes}", do=do
        )
    try:
        return pipelines.predict(model, run.spec.task, frame)
    except NonFiniteMetric as error:
        raise NonFiniteMetric(f"version {version}: {error.found}", do=error.do) from error
    except Exception as error:
        what = error.found if isinstance(error, RetrainError) else str(error)[:300]
        raise ScoringFailed(
            f"version {version} failed on the rows of {run.interval}: {type(error).__name__}: {what}", do=do
        ) from error


def _alias(run: Run, champion: Champion, head: Record) -> tuple[tuple[str, ...], str | None]:
    """What there is to say of the champion's alias, and how it differs from the ledger."""
    if (serves := head.body["version"]) != champion.version:
        return (f"version {champion.version} was the champion of that time, version {serves} is today's",), None
    try:
        found = Registry(run.home.mlflow).alias(run.model, CHAMPION)
    except RegistryDown as error:
        why = f"{error.found}: version {champion.version} scored from this machine's copy, its alias was not looked at"
        return (why,), None
    except DanglingChampion as error:
        return (error.found,), error.found
    if found == champion.version:
        return (), None
    moved = f"the champion alias points at version {found or 'none'}, the ledger says {champion.version}"
    return (f"{moved}: version {champion.version} scored",), moved


def _shadow(run: Run, rollout: Rollout, frame: pd.DataFrame) -> tuple[Answers | None, dict[str, Any]]:
    """The answers of the version beside, and the facts for the record; whatever goes wrong is said, and stops nothing.

    `breach` says that the failure is the version's own, and no server's.
    """
    version = rollout.shadow.version
    facts = {"version": version, "purpose": rollout.purpose, "share": rollout.share, "failed": None, "breach": False}
    try:
        return Answers(_predict(run, load_champion(run, rollout.shadow), version, frame), version), facts
    except Exception as error:
        log.warning("version %s failed beside the champion", version, exc_info=True)
        what = error.found if isinstance(error, RetrainError) else str(error)[:300]
        breach = isinstance(error, BREACHES) or not isinstance(error, (RetrainError, OSError))
        return None, {**facts, "failed": f"{type(error).__name__}: {what}", "breach": breach}


# --- what training knew


def _reference(run: Run, champion: Champion) -> dict[str, Any]:
    """Facts per column of the rows that the champion was fitted on; empty where there are none."""
    key = f"{champion.reference}/reference.json"
    return dict(json.loads(run.store.read(key))["columns"]) if run.store.exists(key) else {}


def _unknown(frame: pd.DataFrame, facts: Mapping[str, Any]) -> dict[str, int]:
    """Rows per column with a category that training had not; where it had too many to list, nothing is said."""
    counted = {}
    for name, of in sorted(facts.items()):
        if name in frame and "categories" in of and not of["capped"]:
            known = of["categories"]
            counted[name] = int((~row_contract.each_text(frame[name], known.__contains__)).sum())
    return {name: count for name, count in counted.items() if count}


def _outside(values: Array, target: Mapping[str, Any]) -> float | None:
    if "min" not in target:
        return None
    return float(((values < target["min"]) | (values > target["max"])).mean())


# --- what is written


def _publish(
    run: Run,
    batch: Batch,
    champion: Champion,
    given: Given,
    answers: Answers,
    other: Answers | None,
    more: Mapping[str, Any],
    said: tuple[str, ...],
    moved: str | None,
) -> ScoreReport:
    """Write the scores, what was set aside, the page and the report; then the record."""
    spec, facts, shadow = run.spec, _reference(run, champion), more["shadow"]
    rejected = int((~given.sound).sum())
    abstains = spec.scoring.rejected == "abstain"
    kept = np.ones(len(given.sound), dtype=bool) if abstains else given.sound
    lead = given.lead.filter(pa.array(kept))
    canary = None
    if other and shadow and shadow["share"]:
        canary = (
            prediction_log.canary_rows(run.model, lead.select(list(spec.source.key)), shadow["share"])
            & given.sound[kept]
        )
    answered = {champion.version: len(given.frame)}
    if other and canary is not None:
        answered = {champion.version: len(given.frame) - int(canary.sum()), other.version: int(canary.sum())}
    data = prediction_log.table(
        spec,
        lead,
        _spread(answers, given.sound[kept]),
        other and _spread(other, given.sound[kept]),
        canary,
        data=batch.sha256,
        reason=given.reason[kept].tolist(),
    )
    sha256 = hashlib.sha256(data).hexdigest()
    folder = f"{run.model}/scores/{run.interval.name}"
    base = f"{folder}/{sha256}"
    run.store.write(f"{base}.parquet", data)
    quarantined = _set_aside(run, batch, given, folder) if rejected and not abstains else None

    apart = (
        prediction_log.disagreement(spec, given.lead.filter(pa.array(given.sound)), answers, other) if other else None
    )
    outside = _outside(answers.values, facts.get("target", {})) if spec.task == "regression" else None
    reasons = [f"{len(given.frame):,} of {len(given.sound):,} rows scored by version {champion.version}"]
    if other and canary is not None:
        reasons.append(f"canary: {answered[other.version]:,} of them got the answer of version {other.version}")
    if rejected:
        what = "without a score" if abstains else "set aside"
        reasons.append(f"{rejected:,} rows {what}: {_counted(given.breaches)}")
    if outside:
        low, high = facts["target"]["min"], facts["target"]["max"]
        reasons.append(
            f"warning: {outside:.1%} of the scores lie outside the target's range in training, {low:g} to {high:g}"
        )
    if apart and shadow:
        reasons.append(_told(apart, shadow["purpose"]))
    if shadow and shadow["failed"]:
        reasons.append(f"version {shadow['version']} ({shadow['purpose']}) did not score: {shadow['failed']}")
    if not facts:
        reasons.append(f"version {champion.version} has no reference in the store: unknown categories were not counted")
    report = _report(
        run,
        Decision(verdict="scored", reasons=(*reasons, *said)),
        version=champion.version,
        rows=len(given.sound),
        scored=len(given.frame),
        answered={str(version): count for version, count in answered.items()},
        rejected=dict(given.breaches),
        unknown_categories=_unknown(given.frame, facts),
        outside=outside,
        key=f"{base}.parquet",
        sha256=sha256,
        data=batch.sha256,
        quarantined=quarantined,
        alias_moved=moved,
        shadow=apart,
    )
    run.store.write(f"{base}.html", _page(run, report, answers, other))
    run.store.write(f"{base}.json", report.to_json().encode())
    record = _record(run, batch, report, more)
    if record.body["sha256"] != sha256:
        return _again(run, record)
    return _bring(run, report)


def _spread(answers: Answers, sound: Array) -> Answers:
    """The answers at the places of the sound rows, NaN at the others."""
    if sound.all():
        return answers
    values = np.full((len(sound), *answers.values.shape[1:]), np.nan)
    values[sound] = answers.values
    return Answers(values, answers.version)


def _set_aside(run: Run, batch: Batch, given: Given, folder: str) -> str:
    """The rejected rows as they were delivered, with their `reason`."""
    with run.store.verified(batch.key, batch.sha256) as path:
        table = pq.read_table(path)
    table = table.filter(pa.array(~given.sound))
    if "reason" in table.column_names:
        table = table.rename_columns([f"{name}_" if name == "reason" else name for name in table.column_names])
    table = table.append_column("reason", pa.array(given.reason[~given.sound].tolist(), pa.string()))
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    data = buffer.getvalue()
    key = f"{folder}/rejected-{hashlib.sha256(data).hexdigest()}.parquet"
    run.store.write(key, data)
    return key


def _record(run: Run, batch: Batch, report: ScoreReport, more: Mapping[str, Any]) -> Record:
    """The ledger's record of these scores, or the one that somebody else wrote of this batch first."""
    body = {
        "interval": run.interval.name,
        "version": report.version,
        "key": report.key,
        "sha256": report.sha256,
        "data": batch.sha256,
        "rows": report.rows,
        "scored": report.scored,
        "rejected": report.rejected,
        "mode": run.spec.scoring.rejected,
        "quarantined": report.quarantined,
        "answered": report.answered,
        **more,
    }

    def append(key: str) -> Record:
        return run.ledger.append(run.model, prediction_log.KIND, key, body, effective_at=run.as_of, run=run.key)

    record = append(run.interval.name)
    return record if record.body["data"] == batch.sha256 else append(f"{run.interval.name}/{batch.sha256[:12]}")


def _again(run: Run, record: Record) -> ScoreReport:
    """The report of scores that are on record, once their file has shown to be there."""
    key = record.body["key"]
    with run.store.verified(key, record.body["sha256"]):
        report = ScoreReport.from_json(run.store.read(f"{key.removesuffix('.parquet')}.json"))
    found = f"scored before by version {record.body['version']}, in run {record.run}"
    decision = Decision(verdict="found", reasons=(found, *report.decision.reasons))
    return _bring(run, report.model_copy(update={"decision": decision}))


def _bring(run: Run, report: ScoreReport) -> ScoreReport:
    """The report with its page in this run's folder."""
    page = run.path("score", PAGE)
    run.store.write(page, run.store.read(f"{(report.key or '').removesuffix('.parquet')}.html"))
    return report.model_copy(update={"html": page})


# --- for people


def _told(apart: Disagreement, purpose: str) -> str:
    otherwise = (
        "" if apart.decided_otherwise is None else f", {apart.decided_otherwise:.1%} of the rows answered otherwise"
    )
    return f"version {apart.version} scored beside ({purpose}): {apart.mean_absolute:.3g} apart on average{otherwise}"


def _page(run: Run, report: ScoreReport, answers: Answers, other: Answers | None) -> bytes:
    spec = run.spec
    labels = {
        "binary": f"probability of {spec.target.column} {spec.classes[-1] if spec.classes else ''}",
        "multiclass": "probability of the class named",
        "regression": spec.target.column,
    }
    shown = {"champion": prediction_log.one_number(answers.values, answers.values)}
    if other:
        shown["shadow"] = prediction_log.one_number(answers.values, other.values)
    figures = {"Scores": monitoring_plots.score_distributions(shown, labels[spec.task])}
    summary = pd.DataFrame({name: pd.Series(values).describe() for name, values in shown.items()})
    tables = {
        "Scores": summary.rename_axis("of the scores").reset_index(),
        "Rejected": _pairs(report.rejected, "breach", "rows"),
        "Categories that training had not": _pairs(report.unknown_categories, "column", "rows"),
    }
    if apart := report.shadow:
        figures["The two versions"] = monitoring_plots.score_agreement(
            shown["champion"], shown["shadow"], labels[spec.task]
        )
        facts = {
            "mean of the champion": apart.mean_champion,
            "mean of the version beside": apart.mean_shadow,
            "mean absolute difference": apart.mean_absolute,
            "rank correlation (Spearman)": apart.correlation,
            "share answered otherwise": apart.decided_otherwise,
            **{f"difference, quantile {q}": value for q, value in apart.quantiles.items()},
        }
        tables[f"Version {apart.version} against champion version {report.version}"] = _pairs(
            facts, "of beside - champion", "value"
        )
        tables["Rows that differ most"] = _furthest(spec.source.key, apart.furthest)
    return html.page(f"{run.model} · {run.interval.name} · scores", report.decision, tables, figures)


def _pairs(facts: Mapping[str, Any], name: str, value: str) -> pd.DataFrame:
    return pd.DataFrame(list(facts.items()), columns=[name, value])


def _furthest(key: Sequence[str], furthest: Sequence[Disparity]) -> pd.DataFrame:
    return pd.DataFrame(
        [(*one.key, one.champion, one.shadow, one.shadow - one.champion) for one in furthest],
        columns=[*key, "champion", "shadow", "difference"],
    )
