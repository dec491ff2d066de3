"""The ordered stages as names and edges; imports a stage only to run it.

One name everywhere: module, function, DVC stage, Airflow task id.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import import_module
from typing import Literal, cast

from pydantic import ConfigDict

from retrain.errors import ConfigChanged, NotApproved, RetrainError
from retrain.results import Context, Decision, Interval, PromoteReport, Result, StageReport, Trigger
from retrain.spec import Spec
from retrain.state.ledger import Kind, Ledger, Record
from retrain.state.run import Run
from retrain.state.settings import Home


@dataclass(frozen=True)
class Stage:
    """A stage, and the verdict of an earlier one without which it has nothing to do."""

    name: str
    does: str
    needs: tuple[str, str] | None = None


STAGES = (
    Stage("ingest", "take the interval's batch as it came, typed, under its content hash"),
    Stage("validate", "hold the batch against its contract; a breach quarantines it"),
    Stage("snapshot", "version the accepted batch with DVC"),
    Stage("labels", "take the labels that come late and apart from the rows, by key"),
    Stage("context", "write down what this run knows of the world"),
    Stage("drift", "compare the batch with the champion's reference"),
    Stage("decide", "retrain or not, and why"),
    Stage("train", "search, fit the candidates and the baselines", needs=("decide", "retrain")),
    Stage("evaluate", "score candidates, champion and baselines on the same holdout rows", needs=("decide", "retrain")),
    Stage("gate", "promote, keep or inconclusive", needs=("decide", "retrain")),
    Stage("refit", "fit the gated configuration on all mature rows", needs=("gate", "promote")),
    Stage("register", "record the run in MLflow, and the version if there is one", needs=("decide", "retrain")),
    Stage(
        "smoke_test", "load the version in a fresh process and ask it the golden rows", needs=("register", "registered")
    ),
    Stage("promote", "move the champion alias once, on record", needs=("register", "registered")),
)
SCORING = (
    STAGES[0],
    Stage("score", "score the interval's rows with the champion of their time, the challenger beside it"),
)
MONITORING = (
    Stage("labels", "take the labels that have come since"),
    Stage("context", "write down what is known"),
    Stage("drift", "data, prediction and label drift, against the champion's reference and the last interval"),
    Stage("estimate", "performance without labels"),
    Stage("measure", "realised performance on matured labels, per slice, against what was expected"),
    Stage("diagnose", "broken data, wrong labels, or a changed world"),
    Stage("rollout", "judge what scores beside the champion: go on, promote, stop, or put the predecessor back"),
    Stage("decide", "start a retraining or not, and why"),
)
NAMES = tuple(stage.name for stage in STAGES)
DATA_STAGES = NAMES[:4]
BY_NAME = {stage.name: stage for stage in (*SCORING, *MONITORING, *STAGES)}


STAGE_KINDS: Mapping[str, Kind] = {"retrain": "stage", "score": "score stage", "monitor": "monitor stage"}
"""Loop → the kind of the ledger's records of its stages."""


def idle(name: str, run: Run) -> str | None:
    """Why a stage has nothing to do in this run; None if it has.

    Raises:
        MissingInput: the stage that decides it has not run.
    """
    needs = BY_NAME[name].needs
    if needs is None:
        return None
    if why := idle(needs[0], run):
        return why
    decision = run.read(Decided, needs[0]).decision
    return (
        None if decision.verdict == needs[1] else f"{needs[0]} said {decision.verdict}: {'; '.join(decision.reasons)}"
    )


def skip(name: str, run: Run, why: str) -> StageReport:
    """Write down that a stage had nothing to do, with the files that `dvc.yaml` expects of it."""
    report = Skipped(
        model=run.model,
        interval=run.interval,
        effective_at=run.as_of,
        decision=Decision(verdict="skipped", reasons=(why,)),
    )
    run.write(report, name)
    run.store.write(run.path(name, "skipped.json"), report.to_json().encode())
    return report


class Skipped(StageReport):
    """A stage that had nothing to do."""

    decision: Decision


class Decided(Result):
    """Any report, read for its decision only."""

    model_config = ConfigDict(extra="ignore")
    decision: Decision


def last_line(report: StageReport, stage: str) -> str:
    """What the stage says for people, in one line."""
    decision = getattr(report, "decision", None)
    facts = ", ".join(f"{name} {value}" for name, value in report.facts().items())
    said = f"{decision.verdict}: {'; '.join(decision.reasons)}" if decision else facts or "done"
    return f"{report.model} · {report.interval.name} · {stage}: {said}"


def run_stage(name: str, run: Run) -> StageReport:
    """Run one stage: its report lies in the run's folder, its record in the ledger.

    Raises:
        RetrainError: the stage's own refusal, with model and stage; it is in the ledger too.
        ConfigChanged: the spec is not the one that the run began with.
    """
    began = time.monotonic()
    verdict, reasons = "done", ["done"]
    facts: dict[str, object] = {}
    try:
        _same_spec(run)
        stage = getattr(import_module(f"retrain.stages.{name}"), name)
        report = cast(StageReport, stage(run))
        run.write(report, name)
        _signal(run, report)
        facts = report.facts()
        if decision := getattr(report, "decision", None):
            verdict, reasons = decision.verdict, list(decision.reasons)
        return report
    except RetrainError as error:
        error.at(run.model, name)
        verdict, reasons = type(error).__name__, [error.found, error.do]
        raise
    except BaseException as error:
        verdict, reasons = "crashed", [f"{type(error).__name__}: {error}"[:500]]
        raise
    finally:
        _note(name, run, verdict, reasons, facts, time.monotonic() - began)


def _signal(run: Run, report: StageReport) -> None:
    """Put what policies will read on record, once per question, interval, champion and moment."""
    if not report.answers() or run.trigger.dry_run or (champion := run.read(Context, "context").champion) is None:
        return
    for signal in report.signals_of(champion.version):
        told = {"question": signal.question, "interval": signal.interval.name}
        run.ledger.append(
            run.model,
            "signal",
            f"{signal.question}/{signal.interval.name}/v{champion.version}/{run.as_of:%Y-%m-%dT%H%M}",
            {
                **told,
                "champion": champion.version,
                "verdict": signal.verdict,
                "signal": signal.model_dump(mode="json"),
            },
            effective_at=run.as_of,
            run=run.key,
        )


def _same_spec(run: Run) -> None:
    key = f"{run.folder}/spec.json"
    _keep(run)
    # The laptop's run folder is used again after every edit; DVC decides there what is stale.
    if run.trigger.kind == "laptop" or not run.store.exists(key):
        run.store.write(key, run.spec.digest.encode())
    elif (begun := run.store.read(key).decode()) != run.spec.digest:
        raise ConfigChanged(
            f"the run {run.key} began with spec {begun[:12]}, the file is now {run.spec.digest[:12]}",
            do="start a new run, or put the spec back",
        )


def _keep(run: Run) -> None:
    """The spec and the files beside it, for whoever reproduces this run."""
    own = run.spec.training.features
    files = {"spec.yaml": run.spec.text, own.file if own else "": run.spec.code}
    files |= {run.spec.gate.cases or "": run.spec.cases}
    for name, text in files.items():
        key = run.path("spec", name) if name and text else ""
        if key and (run.trigger.kind == "laptop" or not run.store.exists(key)):
            run.store.write(key, text.encode())


def _note(name: str, run: Run, verdict: str, reasons: list[str], facts: dict[str, object], seconds: float) -> None:
    run.ledger.append(
        run.model,
        STAGE_KINDS[run.loop],
        f"{run.key}/{name}/{time.time_ns()}",
        {
            "stage": name,
            "interval": run.interval.name,
            "verdict": verdict,
            "reasons": reasons,
            "facts": facts,
            "seconds": round(seconds, 3),
            "trigger": run.trigger.model_dump(mode="json"),
            "spec": run.spec.digest,
        },
        effective_at=run.as_of,
        run=run.key,
        by=run.trigger.by,
    )


def run_all(run: Run) -> Iterator[tuple[str, StageReport]]:
    """Run the stages of the run's loop in this process, one after the other; those with nothing to do are left out."""
    chain = {"retrain": STAGES, "score": SCORING, "monitor": MONITORING}[run.loop]
    for name in (stage.name for stage in chain):
        if idle(name, run) is None:
            yield name, run_stage(name, run)


def roll_back(home: Home, spec: Spec, key: str, reason: str, *, to: int | None = None, by: str = "") -> PromoteReport:
    """Put the champion's predecessor, or version `to`, back; the same key twice is one rollback."""
    from retrain.registry.rollback import roll_back as back

    with refusals(spec, "rollback"):
        return back(_apart(home, spec, key, Trigger(kind="manual", reason=reason, by=by)), reason, to=to)


def reconcile(
    home: Home, spec: Spec, key: str, take: Literal["", "ledger", "alias"], reason: str, *, by: str = ""
) -> str:
    """Make ledger and alias agree again; what was done, for people."""
    from retrain.registry.reconcile import reconcile as agree

    with refusals(spec, "reconcile"):
        return agree(_apart(home, spec, key, Trigger(kind="manual", reason=reason, by=by)), take, reason)


def proposed(home: Home, spec: Spec, version: int, digest: str = "") -> tuple[Run, Record]:
    """The run that proposed a version, as it was, and its proposal on record.

    Raises:
        UnknownVersion: it has not been proposed.
        NotApproved: it was proposed with other files than those of `digest`.
    """
    from retrain.registry.approval import proposal_of

    with refusals(spec, "approve"):
        proposal = proposal_of(_apart(home, spec, f"answer-{version}", Trigger()), version)
        if digest not in ("", proposal.body["digest"]):
            raise NotApproved(
                f"version {version} was proposed with the files {proposal.body['digest'][:12]}, not {digest[:12]}",
                do="look at the version that waits, and answer that",
            )
        trigger = Trigger.model_validate(proposal.body["trigger"])
        run = Run(home, spec, spec.at(proposal.body["interval"]), proposal.run, trigger)
        return replace(run, known_at=proposal.effective_at), proposal


def answer(
    home: Home, spec: Spec, version: int, verdict: Literal["approve", "reject"], by: str, reason: str
) -> StageReport:
    """A person's word about a proposed version; its run's promote stage then does what follows from it."""
    from retrain.registry.approval import answer_proposal

    run, proposal = proposed(home, spec, version)
    with refusals(spec, "approve"):
        answer_proposal(run, proposal, verdict, by, reason)
    return run_stage("promote", run)


@contextmanager
def refusals(spec: Spec, stage: str) -> Iterator[None]:
    """Our own refusals leave with model and stage."""
    try:
        yield
    except RetrainError as error:
        raise error.at(spec.model, stage) from None


def _apart(home: Home, spec: Spec, key: str, trigger: Trigger) -> Run:
    """A run that belongs to no batch: its interval is empty, at the moment of the newest promotion."""
    made = Ledger(home.ledger).records(spec.model, "promotion")
    moment = made[-1].effective_at if made else next(spec.intervals_until(datetime.max.replace(tzinfo=UTC))).end
    return Run(home=home, spec=spec, interval=Interval(start=moment, end=moment), key=key, trigger=trigger)


def history(run: Run) -> Iterator[Interval]:
    """The intervals before and including the run's."""
    return run.spec.intervals_until(run.interval.end)
