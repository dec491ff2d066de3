"""What a person is told, and in which words: a function of an error or a report.

Airflow is not imported here, and nothing is sent: `dags/notices.py` does both. Every kind has a section of its name in
`docs/runbook.md`.

    >>> from retrain.errors import BatchMissing
    >>> from retrain.spec import EXAMPLE, parse
    >>> late = BatchMissing("no file data/churn-2024-02.csv", do="deliver it, then clear the task")
    >>> told = of_error(parse(EXAMPLE, "churn"), "2024-02-01", "ingest", late, look="http://127.0.0.1:8080/dags/churn")
    >>> told.kind, told.severity, told.key
    ('batch-missing', 'warning', 'batch-missing/2024-02-01')
    >>> print(told.text.splitlines()[0])
    [warning] churn 2024-02-01: batch-missing
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Literal

from retrain.errors import (
    ArtifactMissing,
    BatchMissing,
    BatchTooLarge,
    ChainBroken,
    ContradictoryLabels,
    DanglingChampion,
    DigestMismatch,
    DtypeChanged,
    EmptyBatch,
    IntervalConflict,
    ModelBlocked,
    ModelFormatRefused,
    NotApproved,
    OutOfBandChange,
    OutOfInterval,
    Quarantined,
    RaggedRow,
    RetrainError,
    RowsRejected,
    SchemaChanged,
    SmokeTestFailed,
)
from retrain.results import (
    DecideReport,
    DiagnoseReport,
    DriftReport,
    EstimateReport,
    GateReport,
    MeasureReport,
    PromoteReport,
    RolloutReport,
    ScoreReport,
    StageReport,
)
from retrain.spec import Spec

Severity = Literal["info", "warning", "critical"]

KINDS: dict[str, Severity] = {
    "batch-missing": "warning",
    "delivery-refused": "warning",
    "quarantined": "warning",
    "rows-rejected": "warning",
    "broken-data": "critical",
    "suspect-labels": "critical",
    "drift": "warning",
    "estimate-fell": "warning",
    "estimate-unreliable": "info",
    "performance-fell": "critical",
    "retraining-started": "info",
    "promoted": "info",
    "kept": "info",
    "approval-wanted": "warning",
    "not-approved": "info",
    "challenger-shadow": "info",
    "rollout-advanced": "info",
    "rollout-stopped": "warning",
    "rolled-back": "critical",
    "smoke-test-failed": "warning",
    "blocked": "warning",
    "alias-moved": "critical",
    "model-damaged": "critical",
    "chain-broken": "critical",
    "task-failed": "critical",
}
"""Info: nothing to do. Warning: look today. Critical: what serves may be wrong, or the loop stands still."""

OF_ERROR: dict[str, tuple[type[RetrainError], ...]] = {
    "batch-missing": (BatchMissing,),
    "delivery-refused": (
        *(RaggedRow, SchemaChanged, DtypeChanged, EmptyBatch, OutOfInterval, BatchTooLarge, IntervalConflict),
    ),
    "quarantined": (Quarantined,),
    "rows-rejected": (RowsRejected,),
    "suspect-labels": (ContradictoryLabels,),
    "not-approved": (NotApproved,),
    "smoke-test-failed": (SmokeTestFailed,),
    "blocked": (ModelBlocked,),
    "alias-moved": (OutOfBandChange, DanglingChampion),
    "model-damaged": (ArtifactMissing, DigestMismatch, ModelFormatRefused),
    "chain-broken": (ChainBroken,),
}
OF_PROMOTE = {
    "promoted": "promoted",
    "waiting": "approval-wanted",
    "kept": "not-approved",
    "shadow": "challenger-shadow",
    "canary": "challenger-shadow",
    "rolled back": "rolled-back",
}
OF_ROLLOUT = {
    "advanced": "rollout-advanced",
    "promoted": "promoted",
    "stopped": "rollout-stopped",
    "rolled back": "rolled-back",
    "drift": "drift",
}
"""From the verdict to the kind of notice; other verdicts are told to nobody."""
DID = {
    "batch-missing": "The run has stopped; later intervals go on without this one.",
    "delivery-refused": "Nothing of the delivery was taken in; later intervals go on without this one.",
    "quarantined": "The batch is set aside, nothing learns from it; later intervals go on without it.",
    "rows-rejected": "Nothing of the interval was scored.",
    "suspect-labels": "No label of this delivery was taken; the rows stay unlabelled.",
    "promoted": "The champion alias was moved, on record; a rollback puts the predecessor back.",
    "approval-wanted": "The champion serves on until somebody answers: in Airflow under Required Actions, over its"
    " REST API, or with `python -m retrain approve`.",
    "challenger-shadow": "Both score from the next interval on; who wins serves.",
    "rollout-advanced": "The challenger answers a larger share of the rows.",
    "rollout-stopped": "The challenger scores no more; the champion serves on.",
    "rolled-back": "Model, preprocessing and drift reference are those of the earlier champion again; what served"
    " before is blocked from coming back.",
    "not-approved": "The version is not promoted, the champion serves on.",
    "smoke-test-failed": "The version was not promoted; the champion serves on.",
    "blocked": "The version was not promoted; the champion serves on.",
    "alias-moved": "The alias was left where it is, and nothing was promoted.",
    "model-damaged": "The model was not used.",
    "chain-broken": "The task has stopped; who serves is not changed.",
    "task-failed": "The run has stopped here; what was on record before is as it was.",
}
LONGEST = 1000
"""Characters of one part of a message."""

_USER = re.compile(r"(?<=://)[^/@\s]+(?=@)")
_SECRET = re.compile(r"(?i)\b([\w-]*(?:token|secret|passw|api_?key|signature|credential)[\w-]*\s*[=:]\s*)[^\s&;,'\"]+")


@dataclass(frozen=True)
class Notice:
    """One thing to tell the owner.

    Attributes:
        interval: its name; empty where the run had none.
        happened: what was found.
        did: what the system has done about it.
        look: the address of the task in Airflow.
        about: tells two notices of one kind and interval apart: a stage, a version.
    """

    kind: str
    severity: Severity
    model: str
    interval: str
    owner: str
    happened: str
    did: str
    link: str
    about: str = ""

    @property
    def runbook(self) -> str:
        return f"docs/runbook.md#{self.kind}"

    @property
    def key(self) -> str:
        """The same thing again has the same key, and is not said twice."""
        return "/".join(filter(None, (self.kind, self.interval, self.about)))

    @property
    def subject(self) -> str:
        return f"[{self.severity}] {' '.join(filter(None, (self.model, self.interval)))}: {self.kind}"

    @property
    def text(self) -> str:
        return "\n".join(
            (
                self.subject,
                f"What happened: {self.happened}",
                f"What the system did: {self.did}",
                f"Owner: {self.owner}",
                f"Where to look: {self.link}",
                f"Runbook: {self.runbook}",
            )
        )

    @property
    def fields(self) -> dict[str, str]:
        """For a machine at the other end."""
        return {**asdict(self), "runbook": self.runbook, "text": self.text}


def of_error(
    spec: Spec, interval: str, stage: str, error: BaseException | str | None, *, link: str, did: str = ""
) -> Notice:
    """A stage that failed for good."""
    kind = next((kind for kind, errors in OF_ERROR.items() if isinstance(error, errors)), "task-failed")
    if isinstance(error, RetrainError):
        happened = f"{stage}: {error.found} → {error.do}"
    elif isinstance(error, BaseException):
        happened = f"{stage}: {type(error).__name__}: {error}"
    else:
        happened = f"{stage}: {error or 'the task was ended from outside'}"
    # Several stages of an interval may fail for reasons of their own.
    return _notice(spec, kind, interval, happened, did or DID[kind], link, stage if kind == "task-failed" else "")


def of_report(spec: Spec, report: StageReport, *, link: str) -> Iterator[Notice]:
    """What a person must know though nothing failed."""
    name = report.interval.name
    if isinstance(report, DiagnoseReport) and report.decision.verdict in ("broken", "suspect"):
        kind = {"broken": "broken-data", "suspect": "suspect-labels"}[report.decision.verdict]
        held = ", ".join(interval.name for interval, _ in report.of)
        did = f"Nothing trains on {held} until a person has released it."
        yield _notice(spec, kind, name, "; ".join(report.decision.reasons), did, link)
    if isinstance(report, GateReport) and report.decision.verdict != "promote":
        happened = f"{report.decision.verdict}: {'; '.join(report.decision.reasons)}"
        yield _notice(spec, "kept", name, happened, "The champion was kept; the run is recorded in MLflow.", link)
    if isinstance(report, PromoteReport) and (told := OF_PROMOTE.get(report.decision.verdict)):
        if told == "not-approved" and report.version is None:
            return  # nothing was registered, so nobody was asked
        before = f", version {report.previous} before" if report.previous else ", the first"
        happened = f"version {report.version} serves{before}: " if told == "promoted" else ""
        # The same version may be put back twice.
        about = f"v{report.version}/{report.sequence}" if told == "rolled-back" else f"v{report.version}"
        yield _notice(spec, told, name, happened + "; ".join(report.decision.reasons), DID[told], link, about)
    if isinstance(report, RolloutReport) and (told := OF_ROLLOUT.get(report.decision.verdict)):
        did = "Nothing was put back: both fell together." if told == "drift" else DID[told]
        yield _notice(spec, told, name, "; ".join(report.decision.reasons), did, link, f"v{report.version}")
    if isinstance(report, ScoreReport) and report.alias_moved:
        did = "The alias was left where it is; the version on record has scored."
        yield _notice(spec, "alias-moved", name, report.alias_moved, did, link)


def of_look(
    spec: Spec,
    drift: DriftReport,
    estimate: EstimateReport,
    measure: MeasureReport,
    decided: DecideReport,
    *,
    link: str,
) -> Iterator[Notice]:
    """What the monitor has found, with what was decided about it."""
    retrains = decided.decision.verdict == "retrain"
    did = f"{'A retraining is started' if retrains else 'No retraining'}: {'; '.join(decided.decision.reasons)}"
    found = {
        "drift": drift.decision if drift.decision.verdict == "drift" else None,
        "estimate-fell": estimate.decision if estimate.decision.verdict == "alarm" else None,
        "performance-fell": measure.decision if measure.decision.verdict == "alarm" else None,
        "estimate-unreliable": estimate.decision if estimate.reliable is False else None,
    }
    for kind, decision in found.items():
        if decision:
            yield _notice(spec, kind, decided.interval.name, "; ".join(decision.reasons), did, link)


def started(spec: Spec, interval: str, reason: str, run: str, *, paused: bool, link: str) -> Notice:
    """The monitor has started a retraining."""
    did = f"The run {run} of {spec.model}_retrain is queued"
    did += "; that DAG is paused: it begins when somebody unpauses it." if paused else "."
    return _notice(spec, "retraining-started", interval, reason, did, link)


def _notice(spec: Spec, kind: str, interval: str, happened: str, did: str, link: str, about: str = "") -> Notice:
    return Notice(
        kind=kind,
        severity=KINDS[kind],
        model=spec.model,
        interval=interval,
        owner=f"{spec.owner.name} <{spec.owner.contact}>",
        happened=clean(happened),
        did=clean(did),
        link=link,
        about=about,
    )


def clean(text: str) -> str:
    """Without passwords of addresses, tokens and the like, and not too long.

    >>> clean("postgresql://ada:pa55@db/x did not answer; https://x.org/a?token=abc&n=1")
    'postgresql://***@db/x did not answer; https://x.org/a?token=***&n=1'
    """
    text = _SECRET.sub(r"\1***", _USER.sub("***", text))
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 2]} …"
