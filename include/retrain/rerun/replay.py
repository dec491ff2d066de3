"""What another policy would have done: a model's history walked again, each date knowing only what was known then.

Every policy runs through the stages that the DAGs run (score, drift, estimate, measure, diagnose, decide, train,
evaluate, gate, refit), on the accepted batches of the ledger, in a folder of its own that is thrown away. Left out is
what no decision hangs on: the registry, versioning, pages. Policies differ in when they train, and where they say so in
the training window; search, gate and refit are the spec's for all.

`never` and the two that train every interval ask nothing, as a cron job would; the others look first and heed what the
diagnosis says.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import yaml

from retrain import pipeline
from retrain.data import dataset
from retrain.errors import InvalidSpec, MissingInput, RetrainError, near
from retrain.modeling import estimators
from retrain.modeling.metrics import score
from retrain.registry import promotion
from retrain.registry.champion import load_champion
from retrain.results import (
    Accepted,
    Champion,
    Context,
    Decision,
    DriftReport,
    EstimateReport,
    GateReport,
    IngestReport,
    Interval,
    LabelBatch,
    RefitReport,
    ReplayOutcome,
    ReplayStep,
    Trigger,
)
from retrain.spec import Policy, Spec
from retrain.state.ledger import Ledger, Record
from retrain.state.projections import champion_at
from retrain.state.run import Run, run_key
from retrain.state.settings import Home
from retrain.state.store import Store, json_digest

OFF: Mapping[str, Any] = {
    "combine": "any",
    "schedule": 0,
    "drift": False,
    "performance": False,
    "estimated": False,
    "max_age": None,
    "new_rows": None,
    "alarms": (1, 1),
    "cooldown": "0h",
    "budget": None,
}
FIXED: Mapping[str, Mapping[str, Any]] = {
    "never": OFF,
    "every interval, all rows": {**OFF, "schedule": 1},
    "every interval, sliding window": {**OFF, "schedule": 1},
}
ASKING: Mapping[str, Mapping[str, Any]] = {
    "drift only": {**OFF, "drift": True},
    "performance only": {**OFF, "performance": True},
    "the spec's": {},
}
POLICIES = (*FIXED, *ASKING)
R = TypeVar("R", DriftReport, EstimateReport)
SLIDING = 3
"""Intervals of the sliding window, where the spec names none."""


def replay(
    home: Home, spec: Spec, policies: Mapping[str, Mapping[str, Any]], say: Callable[[str], None] = lambda _: None
) -> tuple[ReplayOutcome, ...]:
    """Walk the model's accepted history under each policy.

    Args:
        home: whose ledger and store hold the history; nothing is written there.
        policies: name → what it changes in `spec.policy`; a name of `FIXED` asks nothing.
        say: told of each interval.

    Raises:
        MissingInput: no accepted batches are on record.
        InvalidSpec: a policy with unknown keys or values.
    """
    ledger, store = Ledger(home.ledger), Store(home.store)
    facts = [one for kind in ("snapshot", "labels", "batch", "release") for one in ledger.records(spec.model, kind)]
    accepted = _accepted(facts)
    if not accepted:
        raise MissingInput(
            f"no accepted batches of {spec.model} are on record", do=f"run it first: python -m retrain run {spec.model}"
        )
    variants = {name: variant(spec, name, change) for name, change in policies.items()}
    with tempfile.TemporaryDirectory(prefix="retrain-replay-") as folder:
        root = Path(folder)
        shared = Store(str(root / "store"))
        for one in accepted:
            for key in [one.batch.key] + ([one.labels.key] if one.labels else []):
                with store.local(key) as file:
                    if store.is_local:
                        (root / "store" / key).parent.mkdir(parents=True, exist_ok=True)
                        (root / "store" / key).symlink_to(file.resolve())
                    else:
                        shared.put(key, file)
        return tuple(
            _Walk(home, root / str(n), str(root / "store"), one, name, facts, accepted, say).outcome()
            for n, (name, one) in enumerate(variants.items())
        )


def choose(spec: Spec, asked: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """The policies that a person asked for: names of `POLICIES`, or YAML of `policy`; nothing asked is all names.

    Raises:
        InvalidSpec: neither a name nor a mapping.
    """
    known: dict[str, Mapping[str, Any]] = {**FIXED, **ASKING}
    found = {}
    for one in asked or POLICIES:
        change = known.get(one, yaml.safe_load(one) if one not in known else None)
        if not isinstance(change, Mapping):
            raise InvalidSpec(
                f"{one!r} is no policy{near(one, known)}", do=f"one of {', '.join(known)}, or YAML in braces"
            ).at(spec.model, "replay")
        found[one] = change if one in known else {**OFF, **change}
    return found


def variant(spec: Spec, name: str, change: Mapping[str, Any]) -> Spec:
    """The spec under another policy.

    Raises:
        InvalidSpec: unknown keys or values.
    """
    try:
        policy = Policy.model_validate({**spec.policy.model_dump(), **change})
    except ValueError as error:
        raise InvalidSpec(f"policy {name!r}: {error}", do="see policy in docs/spec.md").at(
            spec.model, "replay"
        ) from None
    windows = spec.training.windows
    if name == "every interval, all rows":
        windows = ("all",)
    elif name == "every interval, sliding window":
        windows = (min((one for one in windows if not isinstance(one, str)), default=SLIDING),)
    training = spec.training.model_copy(update={"windows": windows})
    digest = json_digest([spec.digest, policy.model_dump(mode="json"), windows])
    return spec.model_copy(update={"policy": policy, "training": training, "digest": digest})


def _accepted(records: list[Record]) -> tuple[Accepted, ...]:
    """Every revision of every interval's batch, as the ledger has it, with the newest labels."""
    labels = {
        one.body["batch"]: LabelBatch.model_validate(one.body["labels"]) for one in records if one.kind == "labels"
    }
    found = {one.key: Accepted.model_validate(one.body["accepted"]) for one in records if one.kind == "snapshot"}
    joined = [one.model_copy(update={"labels": labels.get(one.batch.sha256)}) for one in found.values()]
    return tuple(sorted(joined, key=lambda one: one.batch.interval.start))


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
        accepted: tuple[Accepted, ...],
        say: Callable[[str], None],
    ):
        url = f"sqlite:///{state / 'ledger.db'}"
        self.home = dataclasses.replace(home, state=state, store=store, ledger=url, mlflow="")
        self.spec, self.name, self.say, self.prefix = spec, name, say, run_key(name)
        self.ledger = Ledger(url)
        self.batches = {one.batch.interval.name: one for one in accepted}
        for one in facts:
            self.ledger.append(one.model, one.kind, one.key, one.body, effective_at=one.effective_at, run=one.run)

    def outcome(self) -> ReplayOutcome:
        steps = []
        for name, one in self.batches.items():
            steps.append(self._step(one.batch.interval))
            self.say(f"{self.name}: {name} {steps[-1].decision}")
        promotions = self.ledger.records(self.spec.model, "promotion")
        notes = [one for one in self.ledger.records(self.spec.model) if one.kind.endswith("stage")]
        scores = [step.score for step in steps if step.score is not None]
        return ReplayOutcome(
            policy=self.name,
            metric=self.spec.gate.metric,
            steps=tuple(steps),
            mean=float(np.mean(scores)) if scores else None,
            trainings=max(sum(step.trained for step in steps) - 1, 0),
            promotions=max(len(promotions) - 1, 0),
            wrong=sum(self._wrong(promotions)),
            seconds=round(sum(float(one.body["seconds"]) for one in notes), 3),
        )

    def _step(self, interval: Interval) -> ReplayStep:
        served = self._run(interval, "score")
        value, version = None, None
        if found := champion_at(self.ledger.records(self.spec.model, "promotion"), interval.start):
            value, version = self._score(served, found, interval), found.version
            if self.name not in FIXED:
                ingested = IngestReport(
                    model=self.spec.model,
                    interval=interval,
                    effective_at=interval.end,
                    batch=self.batches[interval.name].batch,
                    source="replay",
                    source_digest="",
                )
                served.write(ingested, "ingest")
                pipeline.run_stage("score", served)
        look = self._run(interval, "monitor")
        if self.name not in FIXED:
            for stage in ("context", "drift", "estimate", "measure", "diagnose", "decide"):
                if stage == "estimate" and not self.spec.policy.estimated:
                    look.write(self._unasked(EstimateReport, look), stage)
                else:
                    pipeline.run_stage(stage, look)
            decision = look.read(pipeline.Decided, "decide").decision
        run = self._run(
            interval, "retrain", Trigger(kind="alert", id=look.key) if self.name not in FIXED else Trigger()
        )
        if self.name in FIXED or decision.verdict == "retrain":
            pipeline.run_stage("context", run)
            run.write(self._drift(look), "drift")
            pipeline.run_stage("decide", run)
            decision = run.read(pipeline.Decided, "decide").decision
        trained = decision.verdict == "retrain"
        promoted, said = (self._train(run)) if trained else (False, "")
        return ReplayStep(
            interval=interval.name,
            score=value,
            version=version,
            decision=decision.verdict,
            reason="; ".join([decision.reasons[0], said] if said else [decision.reasons[0]]),
            trained=trained,
            promoted=promoted,
        )

    def _run(self, interval: Interval, loop: Any, trigger: Trigger = Trigger()) -> Run:  # noqa: B008 - frozen
        key = f"{loop}-{self.prefix}-{interval.name}"
        return Run(self.home, self.spec, interval, key, trigger, loop=loop, pages=False)

    def _drift(self, look: Run) -> DriftReport:
        """What the monitor has just found on the same batch; a policy that asks nothing has found nothing."""
        return look.read(DriftReport, "drift") if self.name not in FIXED else self._unasked(DriftReport, look)

    def _unasked(self, kind: type[R], look: Run) -> R:
        silent = Decision(verdict="undetermined", reasons=("this policy does not ask",))
        return kind(model=look.model, interval=look.interval, effective_at=look.as_of, decision=silent)

    def _score(self, run: Run, model: Champion, interval: Interval) -> float | None:
        """The primary metric of a model on all labels that an interval ever had."""
        one = self.batches[interval.name]
        frame = dataset.read(run, [one], [*self.spec.inputs, self.spec.target.column])
        y = dataset.outcome(self.spec, frame).to_numpy()
        known = np.isfinite(y)
        if not known.any():
            return None
        answers = estimators.predict(load_champion(run, model), self.spec.task, frame.loc[known])
        try:
            return score(self.spec.task, self.spec.gate.metric, y[known], answers)
        except RetrainError:
            return None

    def _train(self, run: Run) -> tuple[bool, str]:
        try:
            for stage in ("train", "evaluate", "gate", "refit"):
                if pipeline.idle(stage, run) is None:
                    pipeline.run_stage(stage, run)
        except RetrainError as error:
            return False, f"{type(error).__name__}: {error.found}"
        gate = run.read(GateReport, "gate")
        if gate.decision.verdict != "promote":
            return False, gate.decision.verdict
        history = self.ledger.records(run.model, "promotion")
        mine = promotion.facts(run, len(history) + 1, "replay")
        reference_champion = run.read(Context, "context").reference_champion
        reference_champion = mine if gate.becomes_reference or reference_champion is None else reference_champion
        with run.store.local(run.read(RefitReport, "refit").fitted.key) as folder:
            shutil.copytree(folder, self.home.state / "models" / mine.digest, dirs_exist_ok=True)
        body = {
            "action": "promote",
            "version": mine.version,
            "previous": history[-1].body["version"] if history else None,
            "kind": gate.kind,
            "reasons": list(gate.decision.reasons),
            "champion": mine.model_dump(mode="json"),
            "reference_champion": reference_champion.model_dump(mode="json"),
        }
        self.ledger.append(
            run.model, "promotion", run.key, body, effective_at=run.as_of, run=run.key, sequence=mine.version
        )
        return True, f"promote {gate.kind}"

    def _wrong(self, promotions: list[Record]) -> Iterator[bool]:
        """Per promotion but the first: would the predecessor have been better on what the successor served?"""
        made = [Champion.model_validate(one.body["champion"]) for one in promotions]
        ends = [*(one.effective_at for one in made[1:]), None]
        sign = 1.0 if self.spec.greater_is_better else -1.0
        for old, new, end in zip(made, made[1:], ends[1:], strict=False):
            gains = []
            for one in self.batches.values():
                span = one.batch.interval
                if span.start >= new.effective_at and (end is None or span.start < end):
                    run = self._run(span, "score")
                    before, after = self._score(run, old, span), self._score(run, new, span)
                    if before is not None and after is not None:
                        gains.append(sign * (after - before))
            least = -self.spec.gate.margin * abs(old.expected_score or 0.0)
            yield bool(gains) and float(np.mean(gains)) < least


def table(outcomes: tuple[ReplayOutcome, ...]) -> pd.DataFrame:
    """A row per policy, the columns that one compares by."""
    return pd.DataFrame(
        {
            "policy": [one.policy for one in outcomes],
            outcomes[0].metric: [one.mean for one in outcomes],
            "trainings": [one.trainings for one in outcomes],
            "promotions": [one.promotions for one in outcomes],
            "wrong": [one.wrong for one in outcomes],
            "seconds": [round(one.seconds) for one in outcomes],
        }
    )
