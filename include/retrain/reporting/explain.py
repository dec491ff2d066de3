"""The whole chain of a version: from delivered bytes to the alias, and what came after."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from rich.text import Text
from rich.tree import Tree

from retrain.errors import ArtifactMissing, DanglingChampion, RegistryDown
from retrain.registry.lineage import Lineage, lineage_of
from retrain.registry.mlflow import Registry
from retrain.rendering.text import NONE, differences, number, plain, stamp, who
from retrain.results import Accepted, EvaluateReport, Fitted, GateCheck, GateReport, Interval, RefitReport, TrainReport
from retrain.spec import Spec
from retrain.state import projections
from retrain.state.ledger import Record
from retrain.state.settings import Home

ALIASES = ("champion", "challenger")
SHOWN = 12
"""How many scored intervals are listed."""


def explain(home: Home, spec: Spec, version: int) -> Tree:
    """The chain of a version as a tree; each link with the digests by which it can be checked.

    Raises:
        UnknownVersion: no run on record has registered it.
        MissingInput: the reports of its run are gone.
    """
    found = lineage_of(home, spec, version)
    run, context = found.run, found.context
    train, evaluate = run.read(TrainReport, "train"), run.read(EvaluateReport, "evaluate")
    gate, refit = run.read(GateReport, "gate"), run.read(RefitReport, "refit")
    tags, lost = _registered(home, spec.model, version)
    used = [one for one in context.accepted if _used(one, (*refit.fitted.intervals, *train.holdout))]

    tree = Tree(Text(f"{spec.model} version {version}, digest {found.champion.digest}"))
    _branch(tree, "data", _data(found, used))
    _branch(tree, "training", _training(found, train, refit.fitted))
    _branch(tree, "made with", _made_with(spec, found, train, tags))
    _branch(tree, "holdout rows", _holdout(evaluate, gate))
    _branch(tree, f"gate: {gate.decision.verdict} {gate.chosen} ({gate.kind})", _checks(gate.checks))
    _branch(tree, f"{refit.decision.verdict}: digest {refit.fitted.digest}", _checks(refit.checks))
    _branch(tree, "MLflow", [lost] if lost else _mlflow(home, spec.model, version, tags))
    _branch(tree, "the way to serving", _way(found))
    _branch(tree, "what it answered", _answered(found))
    _branch(tree, "after", _after(found))
    return tree


def _branch(tree: Tree, name: str, lines: Iterable[str]) -> None:
    branch = tree.add(Text(plain(name)))
    for line in lines:
        branch.add(Text(plain(line)))


def _used(one: Accepted, spans: Iterable[Interval]) -> bool:
    return any(one.batch.interval.start == span.start for span in spans)


def _data(found: Lineage, used: list[Accepted]) -> Iterator[str]:
    delivered = {one.body["batch"]["sha256"]: one.body for one in found.records if one.kind == "ingest"}
    taken = [one.body for one in found.records if one.kind == "snapshot"]
    tags = {one["accepted"]["batch"]["sha256"]: one["version"]["tag"] for one in taken}
    labels = {one.body["labels"]["sha256"]: one.body for one in found.records if one.kind == "labels"}
    for one in used:
        batch = one.batch
        source = delivered.get(batch.sha256)
        came = f"{source['source']} (sha256 {source['source_digest']})" if source else "a delivery not on record"
        yield (
            f"{batch.interval.name}: {came} → {batch.rows:,} rows, sha256 {batch.sha256}"
            f" → DVC md5 {one.md5}, commit {one.commit}, tag {tags.get(batch.sha256, NONE)}"
        )
        if one.labels:
            said = labels.get(one.labels.sha256, {})
            yield (
                f"{batch.interval.name}: labels from {said.get('source', NONE)} → {one.labels.rows:,} rows,"
                f" sha256 {one.labels.sha256} → DVC md5 {said.get('version', {}).get('md5', NONE)}"
            )


def _training(found: Lineage, train: TrainReport, fitted: Fitted) -> Iterator[str]:
    first, last = fitted.intervals[0], fitted.intervals[-1]
    yield (
        f"{fitted.rows:,} labelled rows of {len(fitted.intervals)} intervals, {first.start:%Y-%m-%d %H:%M} to"
        f" {stamp(last.end)}; digest {fitted.training}"
    )
    yield fitted.configuration.label
    parameters = ", ".join(f"{name} {value}" for name, value in sorted(fitted.configuration.parameters.items()))
    yield f"parameters: {parameters or 'the defaults'}"
    if before := found.context.champion:
        told = differences(before.configuration, fitted.configuration)
        yield f"against version {before.version}: {'; '.join(told) or 'the same configuration on other rows'}"
    yield (
        f"{len(train.search)} configurations were tried; inner score {number(fitted.inner_score)},"
        f" {train.unlabelled:,} rows without a label left out"
    )
    yield from train.notes


def _registered(home: Home, model: str, version: int) -> tuple[Mapping[str, str], str]:
    """What MLflow says of the version, or why it says nothing."""
    try:
        return Registry(home.mlflow).describe(model, version), ""
    except (ArtifactMissing, RegistryDown) as error:
        return {}, error.found


def _made_with(spec: Spec, found: Lineage, train: TrainReport, tags: Mapping[str, str]) -> Iterator[str]:
    begun = found.context.spec_digest
    today = "today's is the same" if spec.digest == begun else f"today's is another: {spec.digest}"
    kept = found.run.path("spec", "spec.yaml")
    yield f"spec {begun}; {today}" + (f"; kept at {kept}" if found.run.store.exists(kept) else "; not kept")
    yield f"seed {train.seed}, pipeline {found.champion.configuration.pipeline}"
    yield f"code {tags.get('code.commit', NONE)}, lock {tags.get('lock.digest', NONE)}"
    yield f"Python {tags.get('python', NONE)} on {tags.get('platform', NONE)}, {tags.get('cpus', NONE)} CPUs"


def _holdout(evaluate: EvaluateReport, gate: GateReport) -> Iterator[str]:
    names = ", ".join(one.name for one in evaluate.holdout)
    yield f"{names}: {evaluate.rows:,} labelled rows in {evaluate.blocks:,} independent blocks"
    if evaluate.level is not None:
        earlier = f"{evaluate.earlier_analyses} earlier analyses of these rows"
        yield f"level {number(evaluate.level)} for each comparison, after {earlier}"
    for model in dict.fromkeys([gate.chosen or "", "champion", *evaluate.metrics]):
        for metric, one in evaluate.metrics.get(model, {}).items():
            span = f", {number(one.low)} to {number(one.high)}" if one.low is not None else ""
            if metric == gate.metric or model == gate.chosen:
                yield f"{model}: {metric} {number(one.value)}{span}"


def _checks(checks: Iterable[GateCheck]) -> Iterator[str]:
    for one in checks:
        said = {True: "passed", False: "failed", None: "open"}[one.passed]
        yield f"{said}{'' if one.binding else ' (reported only)'}: {one.model} · {one.name}: {one.reason}"


def _mlflow(home: Home, model: str, version: int, tags: Mapping[str, str]) -> Iterator[str]:
    yield f"version {version}, run {tags['run_id']}"
    for name in ALIASES:
        try:
            at = Registry(home.mlflow).alias(model, name)
        except (DanglingChampion, RegistryDown) as error:
            yield error.found
            continue
        yield f"alias {name}: {'this version' if at == version else f'version {at}' if at else 'none'}"


def _way(found: Lineage) -> Iterator[str]:
    for one in _about(found, ("proposal", "approval", "rollout", "promotion", "completed")):
        if one.kind != "promotion" or one.body["action"] not in ("rollback", "undo"):
            yield _line(one)
            for check in one.body.get("checks", ()):
                yield f"  smoke test · {check['name']}: {check['reason']}"


def _answered(found: Lineage) -> Iterator[str]:
    scored = _about(found, ("score",))
    for one in scored[-SHOWN:]:
        body = one.body
        yield f"{body['interval']}: {body['scored']:,} of {body['rows']:,} rows, {body['key']}, sha256 {body['sha256']}"
    if len(scored) > SHOWN:
        yield f"and {len(scored) - SHOWN} earlier intervals"
    if not scored:
        yield "nothing yet"


def _after(found: Lineage) -> Iterator[str]:
    version, made = found.champion.version, [one for one in found.records if one.kind == "promotion"]
    for one in made:
        if version in (one.body["version"], one.body["previous"]) and (
            one.body["action"] in ("rollback", "undo") or one.body["version"] != version
        ):
            yield _line(one)
    blocklist = projections.blocklist(one for one in found.records if one.kind in ("promotion", "rollout"))
    for blocked in blocklist:
        if blocked.digest == found.champion.digest:
            yield f"blocked from coming back: {blocked.reason}"
    serving = made[-1].body["version"] if made else None
    yield "it serves" if serving == version else f"version {serving} serves" if serving else "nobody serves"


def _about(found: Lineage, kinds: Iterable[str]) -> list[Record]:
    """The records of these kinds that name the version."""
    version, kinds = found.champion.version, tuple(kinds)

    def names(record: Record) -> bool:
        rollout = record.body.get("rollout") or {}
        return version in (record.body.get("version"), rollout.get("shadow", {}).get("version"))

    return [one for one in found.records if one.kind in kinds and names(one)]


def _line(record: Record) -> str:
    body = record.body
    numbered = f", sequence {record.sequence}" if record.sequence else ""
    at = f"record {record.place}{numbered}, hash {record.hash[:12]}, {stamp(record.recorded_at)} UTC"
    if record.kind == "promotion":
        said = f"{body['action']}: version {body['previous'] or NONE} → {body['version']}"
    elif record.kind == "rollout":
        rollout = body["rollout"]
        said = f"{rollout['purpose']} beside version {rollout['champion']}, {body['verdict']}"
    elif record.kind == "approval":
        said = f"{body['verdict']}: {body['reason'] or 'no reason given'}"
    else:
        said = {"completed": "the alias followed", "proposal": "a person's approval was asked for"}[record.kind]
    why = "; ".join(body.get("reasons", ()))
    return f"{said}, as of {stamp(record.effective_at)}, by {who(record)} ({at}){f': {why}' if why else ''}"
