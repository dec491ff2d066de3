"""The model card of a version, made of its run's facts and of nothing else.

The sections follow M. Mitchell et al., Model Cards for Model Reporting (2019). Names and values come from data and from
people, so everything is escaped for the format that it is written in.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from retrain.rendering import html
from retrain.rendering.text import NONE, markdown, number, plain, stamp
from retrain.results import (
    AcceptedBatch,
    Context,
    Decision,
    EvaluateReport,
    GateCheck,
    GateReport,
    MetricEstimate,
    RefitReport,
    TrainReport,
)
from retrain.spec import Spec
from retrain.state.run import Run

INTERVALS = 36
"""How many of the newest intervals the table of the data lists."""
CATEGORIES = 8
"""How many categories a column's line names."""


@dataclass(frozen=True)
class ModelCard:
    """The same card in two formats."""

    markdown: str
    html: bytes


@dataclass(frozen=True)
class CardFacts:
    """What a run knows about the version that it registers."""

    spec: Spec
    version: int
    context: Context
    train: TrainReport
    evaluate: EvaluateReport
    gate: GateReport
    refit: RefitReport
    seen: Mapping[str, Any]
    lineage: Mapping[str, str]

    @property
    def judged(self) -> str:
        """The candidate whose metrics are the version's."""
        return self.gate.chosen or self.refit.fitted.name

    @property
    def batches(self) -> list[AcceptedBatch]:
        """Of the rows that it was fitted on and of those that judged it."""
        starts = {span.start for span in (*self.refit.fitted.intervals, *self.train.holdout)}
        return [accepted for accepted in self.context.accepted if accepted.batch.interval.start in starts]


def card(run: Run, version: int, lineage: Mapping[str, str]) -> ModelCard:
    """The card of the version that this run registered.

    Args:
        run: whose reports are read.
        version: number of the version.
        lineage: name → value; what brings the model back.

    Raises:
        MissingInput: a stage before register has not run.
    """
    reference = run.path("refit", "reference.json")
    facts = CardFacts(
        spec=run.spec,
        version=version,
        context=run.read(Context, "context"),
        train=run.read(TrainReport, "train"),
        evaluate=run.read(EvaluateReport, "evaluate"),
        gate=run.read(GateReport, "gate"),
        refit=run.read(RefitReport, "refit"),
        seen=json.loads(run.store.read(reference))["columns"] if run.store.exists(reference) else {},
        lineage=lineage,
    )
    title = f"{run.model} · version {version}"
    heading = Decision(verdict=run.spec.objective, reasons=tuple(map(plain, facts.gate.decision.reasons)))
    tables = {name: table for name, table in _sections(facts) if len(table)}
    return ModelCard(_markdown(title, heading, tables), html.page(title, heading, tables))


def _markdown(title: str, heading: Decision, tables: Mapping[str, pd.DataFrame]) -> str:
    parts = [f"# {markdown(title)}", "", f"**{markdown(heading.verdict)}**", ""]
    parts += [f"- {markdown(reason)}" for reason in heading.reasons]
    for name, table in tables.items():
        head = [markdown(column) for column in table.columns]
        body = [[markdown(cell) for cell in line] for line in table.to_numpy().tolist()]
        lines = [head, ["---"] * len(head), *body]
        parts += ["", f"## {markdown(name)}", "", *(f"| {' | '.join(line)} |" for line in lines)]
    return "\n".join([*parts, ""])


# --- the sections


def _sections(facts: CardFacts) -> Iterator[tuple[str, pd.DataFrame]]:
    yield "Who answers for it", _pairs(_about(facts))
    yield "Limits", _pairs(_limits(facts))
    yield "What it has seen", _frame(("column", "type", "values", "missing"), _seen(facts))
    yield "Data", _frame(("interval", "rows", "part", "sha256", "DVC md5", "commit", "labels"), _data(facts))
    yield "Training", _pairs(_training(facts))
    names = list(facts.evaluate.metrics)
    span = f"{1 - 2 * facts.spec.gate.level:.0%} intervals"
    yield f"Metrics on the holdout rows, {span}", _frame(("metric", *names), _metrics(facts, names))
    compared = ("model", "against", "gain", "interval", "metric")
    yield "Comparisons on the same rows", _frame(compared, _compared(facts))
    yield "Slices", _frame(("column", "value", "rows", *names), _slices(facts, names))
    columns = ("model", "check", "about", "value", "interval", "rows", "what")
    yield "Fairness", _frame(columns, _findings(facts, ("fairness",)))
    yield "Calibration", _frame(columns, _findings(facts, ("calibration",)))
    yield "Behaviour", _frame(columns, _findings(facts, ("limit", "overfit", "leak", "case", "size")))
    checks = ("check", "model", "verdict", "value", "bound", "why")
    yield f"Gate: {facts.gate.decision.verdict} {facts.judged}", _frame(checks, _checks(facts.gate.checks))
    yield f"Files: {facts.refit.decision.verdict}", _frame(checks, _checks(facts.refit.checks))
    yield "Lineage", _pairs(facts.lineage.items())
    yield "How to go back", _pairs(_back(facts))


def _frame(columns: Sequence[str], lines: Iterator[Sequence[str]]) -> pd.DataFrame:
    return pd.DataFrame([list(map(plain, line)) for line in lines], columns=list(map(plain, columns)))


def _pairs(facts: Any) -> pd.DataFrame:
    return _frame(("what", "value"), iter(facts))


def _about(facts: CardFacts) -> Iterator[tuple[str, str]]:
    spec = facts.spec
    yield "owner", spec.owner.name
    yield "contact", spec.owner.contact
    yield "intended use", spec.objective
    yield "task", spec.task
    target = spec.target.column
    if spec.task == "binary":
        least = spec.target.at_least
        target += f" = {spec.classes[-1]}" if least is None else f" at least {least:g}"
    answers = {
        "binary": f"the probability of {target}",
        "multiclass": f"the probability of each class of {target}: {', '.join(map(str, spec.classes))}",
        "regression": f"the number {target}",
    }
    yield "answers", answers[spec.task]
    yield (
        "kind",
        {
            "first": "the first model",
            "refresh": "the configuration before, on newer rows",
            "recalibrated": "the version before, recalibrated on newer rows",
            "baseline": f"a baseline, since the version before lost to the {facts.gate.lost_to} one"
            if facts.gate.lost_to
            else "a baseline on newer rows, which no configuration beats",
        }.get(facts.gate.kind or "", "a new configuration"),
    )
    yield "as of", stamp(facts.context.effective_at)
    yield "serves by", f"promotion: {spec.promotion.mode}"


def _limits(facts: CardFacts) -> Iterator[tuple[str, str]]:
    """What the figures do not speak for."""
    spec, evaluate, fitted = facts.spec, facts.evaluate, facts.refit.fitted
    spans = ", ".join(interval.name for interval in evaluate.holdout)
    yield (
        "judged on",
        f"{evaluate.rows:,} labelled rows of {spans}, in {evaluate.blocks:,} independent blocks; no other rows",
    )
    if facts.refit.decision.verdict == "refit":
        yield (
            "measured before the refit",
            "the figures are the gated candidate's; the files are fitted on the holdout rows too, and no row is left"
            " on which they could be measured",
        )
    yield "fitted on", f"rows from {stamp(fitted.intervals[0].start)} to {stamp(fitted.intervals[-1].end)}"
    if facts.train.unlabelled:
        share = facts.train.unlabelled / (facts.train.unlabelled + max(fitted.rows for fitted in facts.train.fitted))
        yield "unlabelled", f"{facts.train.unlabelled:,} rows without a label were left out, {share:.1%} of all"
    for column, count in evaluate.unknown_categories.items():
        yield f"unknown categories of {column}", f"{count:,} holdout rows have one that no model has seen"
    yield from _weak(facts)
    undecided = [
        check for check in facts.gate.checks if check.passed is None and check.binding and check.model == facts.judged
    ]
    for check in undecided:
        yield f"cannot be told: {check.name}", check.reason
    if not spec.gate.fairness.columns:
        yield "fairness", "no protected column is named in the spec, so nothing was asked"
    rejected = {
        "stop": "stop an interval's scores",
        "quarantine": "are set aside without a score",
        "abstain": "are kept without a score",
    }
    yield "other rows", f"rows that break their columns' contract {rejected[spec.scoring.rejected]}"


def _weak(facts: CardFacts) -> Iterator[tuple[str, str]]:
    """Slices on which it scores worse than on all rows by more than the gate lets a slice fall."""
    spec = facts.spec
    whole = facts.evaluate.metrics.get(facts.judged, {}).get(spec.gate.metric, MetricEstimate(value=None)).value
    for part in facts.evaluate.slices:
        score = part.scores.get(facts.judged)
        if whole is None or score is None or part.rows < spec.gate.slice_min_rows:
            continue
        gain = score - whole if spec.greater_is_better else whole - score
        if gain < -spec.gate.slice_margin * abs(whole):
            yield (
                f"weaker where {part.column} is {part.value}",
                f"{spec.gate.metric} {number(score)} on {part.rows:,} rows, {number(whole)} on all",
            )


def _seen(facts: CardFacts) -> Iterator[tuple[str, ...]]:
    for name, of in facts.seen.items():
        if name == "target":
            continue
        kind, values = facts.spec.columns[name].type if name in facts.spec.columns else "made", NONE
        if "categories" in of:
            values = ", ".join(list(of["categories"])[:CATEGORIES])
            more = of["distinct"] - CATEGORIES
            values += f" and {more:,} more" if more > 0 else ""
        elif "min" in of:
            values = f"{number(of['min'])} to {number(of['max'])}"
        yield name, kind, values, f"{of['missing']:.1%}"


def _data(facts: CardFacts) -> Iterator[tuple[str, ...]]:
    fitted = {span.start for span in facts.refit.fitted.intervals}
    holdout = {span.start for span in facts.train.holdout}
    for accepted in facts.batches[-INTERVALS:]:
        parts = [
            name for name, spans in (("fitted", fitted), ("judged", holdout)) if accepted.batch.interval.start in spans
        ]
        labels = accepted.labels.sha256[:12] if accepted.labels else "with the rows"
        hashes = (accepted.batch.sha256[:12], accepted.md5, accepted.commit[:12], labels)
        yield accepted.batch.interval.name, f"{accepted.batch.rows:,}", " and ".join(parts), *hashes
    if (more := len(facts.batches) - INTERVALS) > 0:
        yield f"and {more} earlier", "", "", "", "", "", ""


def _training(facts: CardFacts) -> Iterator[tuple[str, str]]:
    fitted, spec = facts.refit.fitted, facts.spec
    yield "estimator", fitted.configuration.estimator
    yield "window", fitted.configuration.rows_label
    if recalibrated := fitted.configuration.recalibrated:
        yield "estimator of", f"version {recalibrated.version}, on rows until {recalibrated.trained_until:%Y-%m-%d}"
        yield "refitted", f"its {recalibrated.method}, on {fitted.rows - recalibrated.rows:,} newer rows"
    yield "labelled rows", f"{fitted.rows:,}"
    yield "digest of the rows", fitted.training
    for name, value in sorted(fitted.configuration.parameters.items()):
        yield f"parameter {name}", str(value)
    yield "features", ", ".join(spec.features)
    if spec.training.features:
        yield "features of its own", ", ".join(spec.training.features.adds)
    yield "configurations tried", f"{len(facts.train.search):,}"
    yield "inner score", number(fitted.inner_score)
    yield "seed, threads", f"{spec.training.seed}, {spec.training.threads}"
    for note in facts.train.notes:
        yield "note", note


def _metrics(facts: CardFacts, names: list[str]) -> Iterator[list[str]]:
    metrics = dict.fromkeys(metric for of in facts.evaluate.metrics.values() for metric in of)
    for metric in metrics:
        yield [metric, *(_measured(facts.evaluate.metrics[name].get(metric)) for name in names)]


def _measured(measured: MetricEstimate | None) -> str:
    if measured is None or measured.value is None:
        return NONE
    return number(measured.value) + (
        "" if measured.low is None else f" ({number(measured.low)} to {number(measured.high)})"
    )


def _compared(facts: CardFacts) -> Iterator[tuple[str, ...]]:
    for paired in facts.evaluate.paired:
        span = f"{number(paired.low)} to {number(paired.high)} ({1 - 2 * paired.level:.4g})"
        yield paired.model, paired.against, number(paired.gain), span, paired.metric


def _slices(facts: CardFacts, names: list[str]) -> Iterator[list[str]]:
    for part in facts.evaluate.slices:
        yield [part.column, part.value, f"{part.rows:,}", *(number(part.scores.get(name)) for name in names)]


def _findings(facts: CardFacts, checks: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for finding in facts.evaluate.findings:
        if finding.check in checks and finding.model in (facts.judged, "champion"):
            span = NONE if finding.low is None else f"{number(finding.low)} to {number(finding.high)}"
            yield (
                finding.model,
                finding.check,
                finding.about or NONE,
                number(finding.value),
                span,
                f"{finding.rows:,}",
                finding.text,
            )


def _checks(checks: Sequence[GateCheck]) -> Iterator[tuple[str, ...]]:
    for check in checks:
        outcome = {True: "passed", False: "failed", None: "cannot be told"}[check.passed]
        outcome += "" if check.binding else ", reported only"
        yield check.name, check.model, outcome, number(check.value), number(check.bound), check.reason


def _back(facts: CardFacts) -> Iterator[tuple[str, str]]:
    model, version = facts.spec.model, facts.version
    if before := facts.context.champion:
        yield "served when it was made", f"version {before.version}, digest {before.digest}"
    yield "put its predecessor back", f"python -m retrain rollback {model} --reason …"
    yield "where it comes from", f"python -m retrain explain {model} {version}"
    yield "make it again", f"python -m retrain reproduce {model} {version}"
