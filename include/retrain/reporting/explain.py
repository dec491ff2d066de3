"""The whole chain of a version as a tree: from delivered bytes to the alias, and what came after."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from rich.text import Text
from rich.tree import Tree

from retrain.errors import ArtifactMissing, DanglingChampion, RegistryDown
from retrain.registry.lineage import Lineage, lineage_of
from retrain.registry.mlflow import Registry
from retrain.rendering.text import NONE, differences, number, plain, stamp, who
from retrain.results import AcceptedBatch, EvaluateReport, FittedModel, GateCheck, GateReport, RefitReport, TrainReport
from retrain.spec import Spec
from retrain.state import projections
from retrain.state.ledger import Record
from retrain.state.settings import Home

ALIASES = ("champion", "challenger")
INTERVALS = 12
"""How many scored intervals are listed."""


def explain(home: Home, spec: Spec, version: int) -> Tree:
    """The chain of a version as a tree; each link with the digests by which it can be checked.

    What MLflow cannot say, because it is down or the version is gone there, stands in the tree as that.

    Raises:
        UnknownVersion: no run on record has registered it.
        MissingInput: the reports of its run are gone.
    """
    lineage = lineage_of(home, spec, version)
    run, context = lineage.run, lineage.context
    train, evaluate = run.read(TrainReport, "train"), run.read(EvaluateReport, "evaluate")
    gate, refit = run.read(GateReport, "gate"), run.read(RefitReport, "refit")
    tags, lost = _registered(home, spec.model, version, lineage.champion.digest)
    starts = {span.start for span in (*refit.fitted.intervals, *train.holdout)}
    used = [accepted for accepted in context.accepted if accepted.batch.interval.start in starts]

    tree = Tree(Text(f"{spec.model} version {version}, digest {lineage.champion.digest}"))
    _branch(tree, "data", _data(lineage, used))
    _branch(tree, "training", _training(lineage, train, refit.fitted))
    _branch(tree, "made with", _made_with(spec, lineage, train, tags))
    _branch(tree, "holdout rows", _holdout(evaluate, gate))
    _branch(tree, f"gate: {gate.decision.verdict} {gate.chosen} ({gate.kind})", _checks(gate.checks))
    _branch(tree, f"{refit.decision.verdict}: digest {refit.fitted.digest}", _checks(refit.checks))
    _branch(tree, "MLflow", [lost] if lost else _mlflow(home, spec.model, version, tags))
    _branch(tree, "the way to serving", _way(lineage))
    _branch(tree, "what it answered", _answered(lineage))
    _branch(tree, "after", _after(lineage))
    return tree


def _branch(tree: Tree, name: str, lines: Iterable[str]) -> None:
    branch = tree.add(Text(plain(name)))
    for line in lines:
        branch.add(Text(plain(line)))


def _data(lineage: Lineage, used: list[AcceptedBatch]) -> Iterator[str]:
    ingests = [record.body for record in lineage.records if record.kind == "ingest"]
    deliveries = {body["batch"]["sha256"]: body for body in ingests}
    snapshots = [record.body for record in lineage.records if record.kind == "snapshot"]
    tags = {body["accepted"]["batch"]["sha256"]: body["version"]["tag"] for body in snapshots}
    label_records = {
        record.body["labels"]["sha256"]: record.body for record in lineage.records if record.kind == "labels"
    }
    for accepted in used:
        batch, labels = accepted.batch, accepted.labels
        delivery = deliveries.get(batch.sha256)
        source = (
            f"{delivery['source']} (sha256 {delivery['source_digest']})" if delivery else "a delivery not on record"
        )
        yield (
            f"{batch.interval.name}: {source} → {batch.rows:,} rows, sha256 {batch.sha256}"
            f" → DVC md5 {accepted.md5}, commit {accepted.commit}, tag {tags.get(batch.sha256, NONE)}"
        )
        if labels:
            body = label_records.get(labels.sha256, {})
            yield (
                f"{batch.interval.name}: labels from {body.get('source', NONE)} → {labels.rows:,} rows,"
                f" sha256 {labels.sha256} → DVC md5 {body.get('version', {}).get('md5', NONE)}"
            )


def _training(lineage: Lineage, train: TrainReport, fitted: FittedModel) -> Iterator[str]:
    first, last = fitted.intervals[0], fitted.intervals[-1]
    yield (
        f"{fitted.rows:,} labelled rows of {len(fitted.intervals)} intervals, {first.start:%Y-%m-%d %H:%M} to"
        f" {stamp(last.end)}; digest {fitted.training}"
    )
    yield fitted.configuration.label
    parameters = ", ".join(f"{name} {value}" for name, value in sorted(fitted.configuration.parameters.items()))
    yield f"parameters: {parameters or 'the defaults'}"
    if before := lineage.context.champion:
        changes = differences(before.configuration, fitted.configuration)
        yield f"against version {before.version}: {'; '.join(changes) or 'the same configuration on other rows'}"
    yield (
        f"{len(train.search)} configurations were tried; inner score {number(fitted.inner_score)},"
        f" {train.unlabelled:,} rows without a label left out"
    )
    yield from train.notes


def _registered(home: Home, model: str, version: int, digest: str) -> tuple[Mapping[str, str], str]:
    """What MLflow says of the version, or why it says nothing."""
    try:
        return Registry(home.mlflow).describe(model, version, digest), ""
    except (ArtifactMissing, RegistryDown) as error:
        return {}, error.found


def _made_with(spec: Spec, lineage: Lineage, train: TrainReport, tags: Mapping[str, str]) -> Iterator[str]:
    digest = lineage.context.spec_digest
    today = "today's is the same" if spec.digest == digest else f"today's is another: {spec.digest}"
    kept = lineage.run.path("spec", "spec.yaml")
    yield f"spec {digest}; {today}" + (f"; kept at {kept}" if lineage.run.store.exists(kept) else "; not kept")
    yield f"seed {train.seed}, pipeline {lineage.champion.configuration.pipeline}"
    yield f"code {tags.get('code.commit', NONE)}, lock {tags.get('lock.digest', NONE)}"
    yield f"Python {tags.get('python', NONE)} on {tags.get('platform', NONE)}, {tags.get('cpus', NONE)} CPUs"


def _holdout(evaluate: EvaluateReport, gate: GateReport) -> Iterator[str]:
    names = ", ".join(interval.name for interval in evaluate.holdout)
    yield f"{names}: {evaluate.rows:,} labelled rows in {evaluate.blocks:,} independent blocks"
    if evaluate.level is not None:
        earlier = f"{evaluate.earlier_analyses} earlier analyses of these rows"
        yield f"level {number(evaluate.level)} for each comparison, after {earlier}"
    for model in dict.fromkeys([gate.chosen or "", "champion", *evaluate.metrics]):
        for metric, measured in evaluate.metrics.get(model, {}).items():
            span = f", {number(measured.low)} to {number(measured.high)}" if measured.low is not None else ""
            if metric == gate.metric or model == gate.chosen:
                yield f"{model}: {metric} {number(measured.value)}{span}"


def _checks(checks: Iterable[GateCheck]) -> Iterator[str]:
    for check in checks:
        outcome = {True: "passed", False: "failed", None: "open"}[check.passed]
        yield f"{outcome}{'' if check.binding else ' (reported only)'}: {check.model} · {check.name}: {check.reason}"


def _mlflow(home: Home, model: str, version: int, tags: Mapping[str, str]) -> Iterator[str]:
    yield f"version {version}, run {tags['run_id']}"
    for name in ALIASES:
        try:
            pointed = Registry(home.mlflow).alias(model, name)
        except (DanglingChampion, RegistryDown) as error:
            yield error.found
            continue
        yield f"alias {name}: {'this version' if pointed == version else f'version {pointed}' if pointed else 'none'}"


def _way(lineage: Lineage) -> Iterator[str]:
    for record in _about(lineage, ("proposal", "approval", "rollout", "promotion", "completed")):
        if record.kind != "promotion" or record.body["action"] not in ("rollback", "undo"):
            yield _line(record)
            for check in record.body.get("checks", ()):
                yield f"  smoke test · {check['name']}: {check['reason']}"


def _answered(lineage: Lineage) -> Iterator[str]:
    scores = _about(lineage, ("score",))
    for record in scores[-INTERVALS:]:
        body = record.body
        yield f"{body['interval']}: {body['scored']:,} of {body['rows']:,} rows, {body['key']}, sha256 {body['sha256']}"
    if len(scores) > INTERVALS:
        yield f"and {len(scores) - INTERVALS} earlier intervals"
    if not scores:
        yield "nothing yet"


def _after(lineage: Lineage) -> Iterator[str]:
    version = lineage.champion.version
    promotions = [record for record in lineage.records if record.kind == "promotion"]
    for record in promotions:
        if version in (record.body["version"], record.body["previous"]) and (
            record.body["action"] in ("rollback", "undo") or record.body["version"] != version
        ):
            yield _line(record)
    blocklist = projections.blocklist(record for record in lineage.records if record.kind in ("promotion", "rollout"))
    for blocked in blocklist:
        if blocked.digest == lineage.champion.digest:
            yield f"blocked from coming back: {blocked.reason}"
    serving = promotions[-1].body["version"] if promotions else None
    yield "it serves" if serving == version else f"version {serving} serves" if serving else "nobody serves"


def _about(lineage: Lineage, kinds: tuple[str, ...]) -> list[Record]:
    """The records of these kinds that name the version."""
    version = lineage.champion.version

    def names(record: Record) -> bool:
        # The watch that a promotion begins names the predecessor: it is about the new champion.
        rollout = record.body.get("rollout") or {} if record.kind != "promotion" else {}
        return version in (record.body.get("version"), rollout.get("shadow", {}).get("version"))

    return [record for record in lineage.records if record.kind in kinds and names(record)]


def _line(record: Record) -> str:
    body = record.body
    numbered = f", sequence {record.sequence}" if record.sequence else ""
    at = f"record {record.place}{numbered}, hash {record.hash[:12]}, {stamp(record.recorded_at)} UTC"
    if record.kind == "promotion":
        event = f"{body['action']}: version {body['previous'] or NONE} → {body['version']}"
    elif record.kind == "rollout":
        rollout = body["rollout"]
        event = f"{rollout['purpose']} beside version {rollout['champion']}, {body['verdict']}"
    elif record.kind == "approval":
        event = f"{body['verdict']}: {body['reason'] or 'no reason given'}"
    else:
        event = {"completed": "the alias followed", "proposal": "a person's approval was asked for"}[record.kind]
    why = "; ".join(body.get("reasons", ()))
    return f"{event}, as of {stamp(record.effective_at)}, by {who(record)} ({at}){f': {why}' if why else ''}"
