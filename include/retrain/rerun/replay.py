"""Walks a model's history again under other policies, each date knowing only what was known then.

Every policy runs through the stages that the DAGs run (score, drift, estimate, measure, diagnose, regret, decide,
train, evaluate, gate, refit), on the accepted batches of the ledger, in a folder of its own that is thrown away. Left
out is what no decision hangs on: the registry, versioning, pages. Policies differ in when they train, and where they
say so in the training window; search, gate and refit are the spec's for all.

Fixed policies (`retrain.policy.presets.FIXED`) ask nothing, as a cron job would; the others run the monitor first and
heed its diagnosis.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from retrain import pipeline
from retrain.data import dataset
from retrain.errors import MissingInput, RetrainError
from retrain.modeling import pipelines
from retrain.modeling.metrics import metric_value
from retrain.policy.presets import FIXED, with_policy
from retrain.registry.champion import load_champion, refit_as_champion
from retrain.results import (
    AcceptedBatch,
    Champion,
    Context,
    Decision,
    DiagnoseReport,
    DriftReport,
    EstimateReport,
    GateReport,
    IngestReport,
    Interval,
    LabelBatch,
    MeasureReport,
    RefitReport,
    ReplayOutcome,
    ReplayStep,
    Trigger,
)
from retrain.spec import Spec
from retrain.state.ledger import Ledger, Record
from retrain.state.projections import champion_at
from retrain.state.run import Run, run_key
from retrain.state.settings import Home
from retrain.state.store import Store

R = TypeVar("R", DriftReport, EstimateReport)


def replay(
    home: Home, spec: Spec, policies: Mapping[str, Mapping[str, Any]], say: Callable[[str], None] = lambda _: None
) -> tuple[ReplayOutcome, ...]:
    """Walk the model's accepted history under each policy.

    Args:
        home: whose ledger and store hold the history; nothing is written there.
        spec: the model's own.
        policies: name → what it changes in `spec.policy`; for a name of `FIXED` no monitor runs.
        say: called with a line for people after each interval.

    Returns:
        One outcome a policy, in their order.

    Raises:
        MissingInput: no accepted batches are on record.
        InvalidSpec: a policy with unknown keys or values.
    """
    ledger, store = Ledger(home.ledger), Store(home.store)
    kinds = ("snapshot", "labels", "batch", "release")
    facts = [record for kind in kinds for record in ledger.records(spec.model, kind)]
    accepted = _accepted(facts)
    if not accepted:
        raise MissingInput(
            f"no accepted batches of {spec.model} are on record", do=f"run it first: python -m retrain run {spec.model}"
        )
    variants = {name: with_policy(spec, name, change) for name, change in policies.items()}
    with tempfile.TemporaryDirectory(prefix="retrain-replay-") as folder:
        root = Path(folder)
        shared = Store(str(root / "store"))
        for batch in accepted:
            for key in [batch.batch.key] + ([batch.labels.key] if batch.labels else []):
                with store.local(key) as file:
                    if store.is_local:
                        (root / "store" / key).parent.mkdir(parents=True, exist_ok=True)
                        (root / "store" / key).symlink_to(file.resolve())
                    else:
                        shared.put(key, file)
        return tuple(
            _Walk(home, root / str(n), str(root / "store"), variant, name, facts, accepted, say).outcome()
            for n, (name, variant) in enumerate(variants.items())
        )


def _accepted(records: list[Record]) -> tuple[AcceptedBatch, ...]:
    """Every revision of every interval's batch on record, with the newest labels."""
    labels = {
        record.body["batch"]: LabelBatch.model_validate(record.body["labels"])
        for record in records
        if record.kind == "labels"
    }
    batches = {
        record.key: AcceptedBatch.model_validate(record.body["accepted"])
        for record in records
        if record.kind == "snapshot"
    }
    joined = [batch.model_copy(update={"labels": labels.get(batch.batch.sha256)}) for batch in batches.values()]
    return tuple(sorted(joined, key=lambda batch: batch.batch.interval.start))


class _Walk:
    """One policy through the history."""

    def __init__(
        self,
        home: Home,
        state: Path,
        store: str,
        spec: Spec,
        name: str,
        facts: list[Record],
        accepted: tuple[AcceptedBatch, ...],
        say: Callable[[str], None],
    ):
        url = f"sqlite:///{state / 'ledger.db'}"
        self.home = dataclasses.replace(home, state=state, store=store, ledger=url, mlflow="")
        self.spec, self.name, self.say, self.prefix = spec, name, say, run_key(name)
        self.ledger = Ledger(url)
        self.asks = name not in FIXED
        self.batches = {batch.batch.interval.name: batch for batch in accepted}
        for fact in facts:
            self.ledger.append(fact.model, fact.kind, fact.key, fact.body, effective_at=fact.effective_at, run=fact.run)

    def outcome(self) -> ReplayOutcome:
        steps = []
        for name, batch in self.batches.items():
            steps.append(self._step(batch.batch.interval))
            self.say(f"{self.name}: {name} {steps[-1].decision}")
        promotions = self.ledger.records(self.spec.model, "promotion")
        stages = [record for record in self.ledger.records(self.spec.model) if record.kind.endswith("stage")]
        scores = [step.score for step in steps if step.score is not None]
        return ReplayOutcome(
            policy=self.name,
            metric=self.spec.gate.metric,
            steps=tuple(steps),
            mean=float(np.mean(scores)) if scores else None,
            trainings=max(sum(step.trained for step in steps) - 1, 0),
            promotions=max(len(promotions) - 1, 0),
            wrong=sum(self._wrong_promotions(promotions)),
            seconds=round(sum(float(record.body["seconds"]) for record in stages), 3),
        )

    def _step(self, interval: Interval) -> ReplayStep:
        scoring, monitor = self._run(interval, "score"), self._run(interval, "monitor")
        value, version = None, None
        if champion := champion_at(self.ledger.records(self.spec.model, "promotion"), interval.start):
            value, version = self._score(scoring, champion, interval), champion.version
            if self.asks:
                self._ingest(scoring, interval)
                pipeline.run_stage("score", scoring)
        if self.asks:
            for stage in ("context", "drift", "estimate", "measure", "diagnose", "regret", "decide"):
                if stage == "estimate" and not self.spec.policy.estimated:
                    monitor.write(self._unasked(EstimateReport, monitor), stage)
                else:
                    pipeline.run_stage(stage, monitor)
            decision = monitor.read(pipeline.Decided, "decide").decision
        run = self._run(interval, "retrain", Trigger(kind="alert", id=monitor.key) if self.asks else Trigger())
        if not self.asks or decision.verdict == "retrain":
            pipeline.run_stage("context", run)
            run.write(self._drift(monitor), "drift")
            if self.asks:
                run.write(monitor.read(MeasureReport, "measure"), "measure")
                run.write(monitor.read(DiagnoseReport, "diagnose"), "diagnose")
            pipeline.run_stage("decide", run)
            decision = run.read(pipeline.Decided, "decide").decision
        trained = decision.verdict == "retrain"
        promoted, verdict = self._train(run) if trained else (False, "")
        return ReplayStep(
            interval=interval.name,
            score=value,
            version=version,
            decision=decision.verdict,
            reason="; ".join([decision.reasons[0], verdict] if verdict else [decision.reasons[0]]),
            trained=trained,
            promoted=promoted,
        )

    def _run(self, interval: Interval, loop: Any, trigger: Trigger = Trigger()) -> Run:  # noqa: B008 - frozen
        key = f"{loop}-{self.prefix}-{interval.name}"
        return Run(self.home, self.spec, interval, key, trigger, loop=loop, pages=False)

    def _ingest(self, run: Run, interval: Interval) -> None:
        """Write the report that ingest left when the interval's batch was taken."""
        report = IngestReport(
            model=run.model,
            interval=interval,
            effective_at=interval.end,
            batch=self.batches[interval.name].batch,
            source="replay",
            source_digest="",
        )
        run.write(report, "ingest")

    def _drift(self, monitor: Run) -> DriftReport:
        """The monitor's report on the same batch; undetermined for a policy that has none."""
        return monitor.read(DriftReport, "drift") if self.asks else self._unasked(DriftReport, monitor)

    def _unasked(self, kind: type[R], monitor: Run) -> R:
        decision = Decision(verdict="undetermined", reasons=("this policy does not ask",))
        return kind(model=monitor.model, interval=monitor.interval, effective_at=monitor.as_of, decision=decision)

    def _score(self, run: Run, model: Champion, interval: Interval) -> float | None:
        """The primary metric of a model on all labels that an interval ever had."""
        frame = dataset.read(run, [self.batches[interval.name]], [*self.spec.inputs, self.spec.target.column])
        y = dataset.outcome(self.spec, frame).to_numpy()
        known = np.isfinite(y)
        if not known.any():
            return None
        predictions = pipelines.predict(load_champion(run, model), self.spec.task, frame.loc[known])
        try:
            return metric_value(self.spec.task, self.spec.gate.metric, y[known], predictions)
        except RetrainError:
            return None

    def _train(self, run: Run) -> tuple[bool, str]:
        """Train, gate and promote; whether the challenger was promoted, and the gate's verdict for people."""
        try:
            for stage in ("train", "evaluate", "gate", "refit"):
                if pipeline.idle(stage, run) is None:
                    pipeline.run_stage(stage, run)
        except RetrainError as error:
            return False, f"{type(error).__name__}: {error.found}"
        gate = run.read(GateReport, "gate")
        if gate.decision.verdict != "promote":
            return False, gate.decision.verdict
        promotions = self.ledger.records(run.model, "promotion")
        challenger = refit_as_champion(run, len(promotions) + 1, "replay")
        reference = run.read(Context, "context").reference_champion
        reference = challenger if gate.becomes_reference or reference is None else reference
        with run.store.local(run.read(RefitReport, "refit").fitted.key) as folder:
            shutil.copytree(folder, self.home.state / "models" / challenger.digest, dirs_exist_ok=True)
        body = {
            "action": "promote",
            "version": challenger.version,
            "previous": promotions[-1].body["version"] if promotions else None,
            "kind": gate.kind,
            "reasons": list(gate.decision.reasons),
            "champion": challenger.model_dump(mode="json"),
            "reference_champion": reference.model_dump(mode="json"),
        }
        self.ledger.append(
            run.model, "promotion", run.key, body, effective_at=run.as_of, run=run.key, sequence=challenger.version
        )
        return True, f"promote {gate.kind}"

    def _wrong_promotions(self, promotions: list[Record]) -> Iterator[bool]:
        """Per promotion but the first: whether the predecessor would have been better on what the successor served.

        Better is more than the gate's margin, as the mean over intervals.
        """
        champions = [Champion.model_validate(record.body["champion"]) for record in promotions]
        ends = [*(champion.effective_at for champion in champions[1:]), None]
        sign = 1.0 if self.spec.greater_is_better else -1.0
        for old, new, end in zip(champions, champions[1:], ends[1:], strict=False):
            gains = []
            for batch in self.batches.values():
                interval = batch.batch.interval
                if interval.start >= new.effective_at and (end is None or interval.start < end):
                    run = self._run(interval, "score")
                    before, after = self._score(run, old, interval), self._score(run, new, interval)
                    if before is not None and after is not None:
                        gains.append(sign * (after - before))
            least = -self.spec.gate.margin * abs(old.expected_score or 0.0)
            yield bool(gains) and float(np.mean(gains)) < least


def table(outcomes: tuple[ReplayOutcome, ...]) -> pd.DataFrame:
    """A row per policy, with the columns that one compares by."""
    return pd.DataFrame(
        {
            "policy": [outcome.policy for outcome in outcomes],
            outcomes[0].metric: [outcome.mean for outcome in outcomes],
            "trainings": [outcome.trainings for outcome in outcomes],
            "promotions": [outcome.promotions for outcome in outcomes],
            "wrong": [outcome.wrong for outcome in outcomes],
            "seconds": [round(outcome.seconds) for outcome in outcomes],
        }
    )
