"""The ordered stages of each loop, and the one way to run a stage: noted in the ledger, its report in the store.

A stage is imported only to run it. One name everywhere: module, function, DVC stage, Airflow task id.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import cast, get_type_hints

from pydantic import ConfigDict

from retrain.errors import BatchMissing, ConfigChanged, MissingInput, RetrainError, RunSealed
from retrain.masking import masked
from retrain.results import Context, Decision, IngestReport, Result, StageReport
from retrain.state import evidence
from retrain.state.access import check_access, is_act_of_a_person
from retrain.state.evidence import Seal
from retrain.state.failures import refusal_of
from retrain.state.ledger import Kind
from retrain.state.run import Run


@dataclass(frozen=True)
class Stage:
    """A stage of a loop.

    Attributes:
        name: of module, function, DVC stage and Airflow task.
        does: what it does, for people.
        needs: stage and verdict without which it has nothing to do.
    """

    name: str
    does: str
    needs: tuple[str, str] | None = None


MEASURE = Stage("measure", "realised performance on matured labels, per slice, against what was expected")
REGRET = Stage("regret", "what the champion loses above a model that would have been fitted later")
DIAGNOSE = Stage("diagnose", "broken data, wrong labels, or a changed world")
STAGES = (
    Stage("ingest", "take the interval's batch as it came, typed, under its content hash"),
    Stage("validate", "hold the batch against its contract; a breach quarantines it"),
    Stage("snapshot", "version the accepted batch with DVC"),
    Stage("labels", "take the labels that come late and apart from the rows, by key"),
    Stage("context", "write down what this run knows of the world"),
    Stage("drift", "compare the batch with the champion's reference"),
    MEASURE,
    DIAGNOSE,
    REGRET,
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
    MEASURE,
    DIAGNOSE,
    REGRET,
    Stage("rollout", "judge what scores beside the champion: go on, promote, stop, or put the predecessor back"),
    Stage("decide", "start a retraining or not, and why"),
)
NAMES = tuple(stage.name for stage in STAGES)
DATA_STAGES = NAMES[:4]
SEALED = NAMES[: NAMES.index("register") + 1]
"""What a run that makes a version does once: its stages up to `register`."""
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
    """Write the report of a stage that has nothing to do, with the files that `dvc.yaml` expects of it.

    Args:
        name: of the stage.
        run: where its report goes.
        why: the reason that the report gives.
    """
    report = _skipped(run, why)
    run.write(report, name)
    run.store.write(run.path(name, "skipped.json"), report.to_json().encode())
    return report


def _skipped(run: Run, why: str) -> Skipped:
    decision = Decision(verdict="skipped", reasons=(why,))
    return Skipped(model=run.model, interval=run.interval, effective_at=run.as_of, decision=decision)


class Skipped(StageReport):
    """The report of a stage that had nothing to do."""

    decision: Decision


class Decided(Result):
    """Any report, read for its decision only."""

    model_config = ConfigDict(extra="ignore")
    decision: Decision


def last_line(report: StageReport, stage: str) -> str:
    """One line for people: the verdict with its reasons, or the figures."""
    decision = getattr(report, "decision", None)
    facts = ", ".join(f"{name} {value}" for name, value in report.facts().items())
    outcome = f"{decision.verdict}: {'; '.join(decision.reasons)}" if decision else facts or "done"
    return f"{report.model} · {report.interval.name} · {stage}: {outcome}"


def run_stage(name: str, run: Run) -> StageReport:
    """Run one stage: its report lies in the run's folder, its record in the ledger.

    In a run that has made a version a stage up to `register` is not run again: its report is as it was.

    Raises:
        RetrainError: the stage's own refusal, with model and stage; it is in the ledger too.
        ConfigChanged: the spec is not the one that the run began with.
        RunSealed: the run has made a version, and is to run otherwise.
        EvidenceChanged: the report of then is not the one on record.
        NotAllowed: a retraining was asked for by somebody whom the spec does not name.
    """
    began = time.monotonic()
    verdict, reasons = "done", ["done"]
    facts: dict[str, object] = {}
    written = ""
    failure: BaseException | None = None
    try:
        if run.loop == "retrain" and run.spec.access.retrain and is_act_of_a_person(run.trigger, run.spec, run.ledger):
            check_access(run.spec, run.ledger, "retrain", run.trigger.by)
        seal = evidence.seal_of(run) if run.loop == "retrain" else None
        report = _report_of_then(name, run, seal) if seal else None
        if report is None:
            _check_spec(run, final=seal is not None)
            report = _stage(name)(run)
            run.write(report, name)
            written = hashlib.sha256(report.to_json().encode()).hexdigest()
            _record_signals(run, report)
        facts = report.facts()
        if decision := getattr(report, "decision", None):
            verdict, reasons = decision.verdict, list(decision.reasons)
        return report
    except BaseException as error:
        failure = refusal_of(error) or error
        if isinstance(failure, RetrainError):
            failure.at(run.model, name)
            verdict, reasons = type(failure).__name__, [failure.found, failure.do]
        else:
            verdict, reasons = "crashed", [masked(f"{type(error).__name__}: {error}")[:500]]
        if failure is error:
            raise
        raise failure from None
    finally:
        with _keeping(failure, run, name):
            _record_stage(name, run, verdict, reasons, facts, time.monotonic() - began, written)


@contextmanager
def _keeping(failure: BaseException | None, run: Run, name: str) -> Iterator[None]:
    """Let no failure of the body hide the stage's own, which then names it too."""
    try:
        yield
    except Exception as error:
        unrecorded = refusal_of(error) or error
        if isinstance(unrecorded, RetrainError):
            unrecorded.at(run.model, name)
        if failure is None:
            raise unrecorded from None
        why = getattr(unrecorded, "found", unrecorded)
        text = masked(f"nor could this be put on record: {type(unrecorded).__name__}: {why}")
        if isinstance(failure, RetrainError):
            failure.found = f"{failure.found}; {text}"
        failure.add_note(text)


def _stage(name: str) -> Callable[[Run], StageReport]:
    return cast(Callable[[Run], StageReport], getattr(import_module(f"retrain.stages.{name}"), name))


def _report_of_then(name: str, run: Run, seal: Seal) -> StageReport | None:
    """What a stage of a sealed run has reported; None where the stage is to run.

    Raises:
        RunSealed: the run is to run otherwise.
        EvidenceChanged: the report is not the one on record.
    """
    at_work = f"version {seal.version}" if seal.version else "a version"
    rests = f"{run.key} has made {at_work}: what that rests on stays as it is"
    anew = f"start a new run: python -m retrain run {run.model} --interval {run.interval.name}"
    anew += f", or trigger {run.model}_retrain with that interval"
    if run.trigger.dry_run:
        raise RunSealed(f"{rests}, and this is a dry run", do=anew)
    if name not in SEALED:
        return None
    if not evidence.is_same_spec(run, seal.spec):
        specs = f"it began with spec {seal.spec[:12]}, the file is now {run.spec.digest[:12]}"
        raise RunSealed(f"{rests}; {specs}", do=anew)
    if name == "register" and seal.version is None:
        return None
    if f"{name}.json" in seal.files:
        evidence.check_file(run, f"{name}.json", seal.files[f"{name}.json"])
    else:
        evidence.check_reports(run, name)
    try:
        report = cast(StageReport, run.read(get_type_hints(_stage(name))["return"], name))
    except MissingInput:
        # A stage that came into the loop since, or that had nothing to do.
        return _skipped(run, f"{rests}, and it has no report of {name}")
    if isinstance(report, IngestReport):
        try:
            now = cast(IngestReport, _stage(name)(run)).batch
        except BatchMissing:
            return report  # nor has anything else been delivered
        if now.sha256 != report.batch.sha256:
            batches = f"it took the batch {report.batch.sha256[:12]}, the delivery is now {now.sha256[:12]}"
            raise RunSealed(f"{rests}; {batches}", do=anew)
    return report


def _record_signals(run: Run, report: StageReport) -> None:
    """Put a report's signals on record, once per question, interval, champion and moment."""
    if run.trigger.dry_run or not report.signals_of(0) or (champion := run.read(Context, "context").champion) is None:
        return
    for signal in report.signals_of(champion.version):
        run.ledger.append(
            run.model,
            "signal",
            f"{signal.question}/{signal.interval.name}/v{signal.champion}/{run.as_of:%Y-%m-%dT%H%M}",
            {
                "question": signal.question,
                "interval": signal.interval.name,
                "champion": signal.champion,
                "verdict": signal.verdict,
                "signal": signal.model_dump(mode="json"),
            },
            effective_at=run.as_of,
            run=run.key,
        )


def _check_spec(run: Run, *, final: bool) -> None:
    """Refuse a run whose spec was edited since it began."""
    key = f"{run.folder}/spec.json"
    # The laptop's run folder is used again after every edit, until it makes a version.
    anew = run.trigger.kind == "laptop" and not final
    _keep_spec(run, anew)
    if anew or not run.store.exists(key):
        run.store.write(key, run.spec.digest.encode())
    elif not evidence.is_same_spec(run, begun := run.store.read(key).decode()):
        raise ConfigChanged(
            f"the run {run.key} began with spec {begun[:12]}, the file is now {run.spec.digest[:12]}",
            do="start a new run, or put the spec back",
        )


def _keep_spec(run: Run, anew: bool) -> None:
    """Keep the spec and the files beside it in the run's folder, for whoever reproduces the run."""
    own = run.spec.training.features
    files = {"spec.yaml": run.spec.text, own.file if own else "": run.spec.code}
    files |= {run.spec.gate.cases or "": run.spec.cases}
    for name, text in files.items():
        key = run.path("spec", name) if name and text else ""
        if key and (anew or not run.store.exists(key)):
            run.store.write(key, text.encode())


def _record_stage(
    name: str, run: Run, verdict: str, reasons: list[str], facts: dict[str, object], seconds: float, written: str
) -> None:
    """Put on record that a stage ran, and how it ended."""
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
            **({"report": written} if written else {}),
        },
        effective_at=run.as_of,
        run=run.key,
        by=run.trigger.by,
    )


def run_all(run: Run) -> Iterator[tuple[str, StageReport]]:
    """Run the stages of the run's loop in this process, one after the other; those with nothing to do are left out.

    Yields:
        Name and report of each stage, once it has run.
    """
    for stage in {"retrain": STAGES, "score": SCORING, "monitor": MONITORING}[run.loop]:
        if idle(stage.name, run) is None:
            yield stage.name, run_stage(stage.name, run)
