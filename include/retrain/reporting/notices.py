"""What the owner of a model is told, and in which words: a function of an error or a report.

Airflow is not imported here, and nothing is sent: `dags/owner_notifier.py` does both. Every kind has a section of its
name in `docs/runbook.md`. Stages do not reach this module: they report, and whoever runs them tells.

    >>> from retrain.errors import BatchMissing
    >>> from retrain.spec import EXAMPLE, parse
    >>> late = BatchMissing("no file data/churn-2024-02.csv", do="deliver it, then clear the task")
    >>> task = "http://127.0.0.1:8080/dags/churn"
    >>> notice = notice_of_error(parse(EXAMPLE, "churn"), "2024-02-01", "ingest", late, link=task)
    >>> notice.kind, notice.severity, notice.key
    ('batch-missing', 'warning', 'batch-missing/2024-02-01')
    >>> print(notice.text.splitlines()[0])
    [warning] churn 2024-02-01: batch-missing
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Literal

from retrain import errors
from retrain.errors import RetrainError
from retrain.masking import masked
from retrain.results import (
    HELD,
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
    ValidateReport,
)
from retrain.spec import Spec
from retrain.state.store import json_digest

Severity = Literal["info", "warning", "critical"]
"""Info: nothing to do. Warning: look today. Critical: what serves may be wrong, or the loop stands still."""


@dataclass(frozen=True)
class Kind:
    """A kind of notice.

    Attributes:
        severity: how soon somebody should look.
        did: what the system has done about it; empty where each notice says that for itself.
        errors: the refusals that are told as this kind.
    """

    severity: Severity
    did: str = ""
    errors: tuple[type[RetrainError], ...] = ()


KINDS: dict[str, Kind] = {
    # what is delivered
    "batch-missing": Kind(
        "warning",
        "The run has stopped; later intervals go on without this one.",
        (errors.BatchMissing,),
    ),
    "delivery-refused": Kind(
        "warning",
        "Nothing of the delivery was taken in; later intervals go on without this one.",
        (
            *(errors.RaggedRow, errors.SchemaChanged, errors.DtypeChanged, errors.EmptyBatch),
            *(errors.OutOfInterval, errors.BatchTooLarge, errors.IntervalConflict),
        ),
    ),
    "quarantined": Kind(
        "warning",
        "The batch is set aside, nothing learns from it; later intervals go on without it.",
        (errors.Quarantined,),
    ),
    "unusual-row-count": Kind("warning", "The batch was judged by its contract all the same."),
    "rows-rejected": Kind("warning", "Nothing of the interval was scored.", (errors.RowsRejected,)),
    # what the monitor finds
    "broken-data": Kind("critical"),
    "suspect-labels": Kind(
        "critical",
        "No label of this delivery was taken; the rows stay unlabelled.",
        (errors.ContradictoryLabels,),
    ),
    "drift": Kind("warning"),
    "estimate-fell": Kind("warning"),
    "estimate-unreliable": Kind("info"),
    "performance-fell": Kind("critical"),
    "retraining-started": Kind("info"),
    # what becomes of a version
    "promoted": Kind("info", "The champion alias was moved, on record; a rollback puts the predecessor back."),
    "lost-to-baseline": Kind("critical"),
    "kept": Kind("info", "The champion was kept; the run is recorded in MLflow."),
    "approval-wanted": Kind(
        "warning",
        "The champion serves on until somebody answers: in Airflow under Required Actions, over its REST API, or with"
        " `python -m retrain approve`.",
    ),
    "not-approved": Kind("info", "The version is not promoted, the champion serves on.", (errors.NotApproved,)),
    "not-allowed": Kind("info", "Nothing was done; the try is on record.", (errors.NotAllowed,)),
    "challenger-shadow": Kind("info", "Both score from the next interval on; who wins serves."),
    "rollout-advanced": Kind("info", "The challenger answers a larger share of the rows."),
    "rollout-stopped": Kind("warning", "The challenger scores no more; the champion serves on."),
    "rolled-back": Kind(
        "critical",
        "Model, preprocessing and drift reference are those of the earlier champion again; what served before is"
        " blocked from coming back.",
    ),
    "smoke-test-failed": Kind(
        "warning", "The version was not promoted; the champion serves on.", (errors.SmokeTestFailed,)
    ),
    "blocked": Kind("warning", "The version was not promoted; the champion serves on.", (errors.ModelBlocked,)),
    # what is no longer as it was recorded
    "alias-moved": Kind(
        "critical",
        "The alias was left where it is, and nothing was promoted.",
        (errors.OutOfBandChange,),
    ),
    "champion-lost": Kind(
        "critical",
        "Nothing was promoted. Scores are made from this machine's copy of the champion, where there is one.",
        (errors.DanglingChampion,),
    ),
    "ledger-restored": Kind(
        "critical", "Who serves is not changed, and nothing is promoted.", (errors.LedgerContradicted,)
    ),
    "model-damaged": Kind(
        "critical",
        "The model was not used.",
        (errors.ArtifactMissing, errors.DigestMismatch, errors.EvidenceChanged, errors.ModelFormatRefused),
    ),
    "library-skew": Kind("warning", "Nothing was answered.", (errors.LibrarySkew,)),
    "chain-broken": Kind("critical", "The task has stopped; who serves is not changed.", (errors.ChainBroken,)),
    # everything else
    "task-failed": Kind("critical", "The run has stopped here; what was on record before is as it was."),
}
"""Every kind, in the order of the runbook."""

KIND_OF_PROMOTE = {
    "promoted": "promoted",
    "waiting": "approval-wanted",
    "kept": "not-approved",
    "shadow": "challenger-shadow",
    "canary": "challenger-shadow",
    "rolled back": "rolled-back",
}
"""Verdict of the stage promote → kind; other verdicts are told to nobody."""

KIND_OF_ROLLOUT = {
    "advanced": "rollout-advanced",
    "promoted": "promoted",
    "stopped": "rollout-stopped",
    "rolled back": "rolled-back",
    "drift": "drift",
}
"""Verdict of the stage rollout → kind; other verdicts are told to nobody."""

LONGEST = 1000
"""Characters of one part of a message."""

_SECRET = re.compile(r"(?i)\b([\w-]*(?:token|secret|passw|api_?key|signature|credential)[\w-]*\s*[=:]\s*)[^\s&;,'\"]+")


@dataclass(frozen=True)
class Notice:
    """One thing to tell the owner.

    Attributes:
        kind: one of `KINDS`.
        severity: how soon somebody should look.
        model: name of its spec.
        interval: its name; empty where the run had none.
        owner: name and contact, as the spec has them.
        happened: what was found.
        did: what the system has done about it.
        link: the address of the task in Airflow.
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
        """Where the runbook says what to do."""
        return f"docs/runbook.md#{self.kind}"

    @property
    def key(self) -> str:
        """What the notice is known by: the same thing again has the same key, and is not told twice."""
        return "/".join(filter(None, (self.kind, self.interval, self.about)))

    @property
    def subject(self) -> str:
        """The first line, and the subject of a mail."""
        return f"[{self.severity}] {' '.join(filter(None, (self.model, self.interval)))}: {self.kind}"

    @property
    def text(self) -> str:
        """The whole message."""
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
        """The message in parts, for a machine at the other end."""
        # `look` is what `link` was called: whoever reads it at the other end is out of our reach.
        return {**asdict(self), "look": self.link, "runbook": self.runbook, "text": self.text}


def notice_of_error(spec: Spec, interval: str, stage: str, error: BaseException | str | None, *, link: str) -> Notice:
    """The notice of a stage that failed for good.

    Args:
        spec: of the model, which names the owner.
        interval: its name; empty where the run had none.
        stage: the one that failed.
        error: what it raised; None where the task was ended from outside.
        link: the address of the task in Airflow.
    """
    kind = next((name for name, kind in KINDS.items() if isinstance(error, kind.errors)), "task-failed")
    if isinstance(error, RetrainError):
        happened = f"{stage}: {error.found} → {error.do}"
    elif isinstance(error, BaseException):
        happened = f"{stage}: {type(error).__name__}: {error}"
    else:
        happened = f"{stage}: {error or 'the task was ended from outside'}"
    # Several stages of an interval may fail for reasons of their own.
    about = stage if kind == "task-failed" else ""
    return _notice(spec, kind, interval, happened, link=link, about=about)


def notices_of_report(spec: Spec, report: StageReport, *, link: str) -> Iterator[Notice]:
    """The notices of a stage that went well; most stages have none. `link` is the address of the task."""
    name = report.interval.name
    if isinstance(report, ValidateReport) and report.unusual_row_count:
        yield _notice(spec, "unusual-row-count", name, report.unusual_row_count, link=link)
    if isinstance(report, DiagnoseReport) and report.decision.verdict in ("broken", "suspect"):
        kind = {"broken": "broken-data", "suspect": "suspect-labels"}[report.decision.verdict]
        held = ", ".join(interval.name for interval, of in report.of if of in HELD)
        did = f"The champion stays, and nothing trains on {held} until a person has released it"
        did += ", or later intervals show that the world changed." if report.open else "."
        yield _notice(spec, kind, name, "; ".join(report.decision.reasons), did, link=link)
    if isinstance(report, GateReport) and report.decision.verdict != "promote":
        happened = f"{report.decision.verdict}: {'; '.join(report.decision.reasons)}"
        yield _notice(spec, "kept", name, happened, link=link)
    if isinstance(report, GateReport) and report.lost_to:
        happened = f"the champion scores {report.metric} {report.champion_score:.4g} and loses to the baseline"
        happened += f" {report.lost_to} at face value: {'; '.join(report.decision.reasons)}"
        went = report.decision.verdict == "promote"
        did = f"{report.chosen} goes on to serve in its place." if went else "Nothing may replace it; it serves on."
        yield _notice(spec, "lost-to-baseline", name, happened, did, link=link)
    if isinstance(report, PromoteReport) and report.decision.verdict in KIND_OF_PROMOTE:
        kind = KIND_OF_PROMOTE[report.decision.verdict]
        if kind == "not-approved" and report.version is None:
            return  # nothing was registered, so nobody was asked
        before = f", version {report.previous} before" if report.previous else ", the first"
        happened = f"version {report.version} serves{before}: " if kind == "promoted" else ""
        # The same version may be put back twice.
        about = f"v{report.version}/{report.sequence}" if kind == "rolled-back" else f"v{report.version}"
        yield _notice(spec, kind, name, happened + "; ".join(report.decision.reasons), link=link, about=about)
    if isinstance(report, RolloutReport) and report.decision.verdict in KIND_OF_ROLLOUT:
        kind = KIND_OF_ROLLOUT[report.decision.verdict]
        did = "Nothing was put back: both fell together." if kind == "drift" else ""
        about = f"v{report.version}"
        yield _notice(spec, kind, name, "; ".join(report.decision.reasons), did, link=link, about=about)
    if isinstance(report, ScoreReport) and report.alias_moved:
        did = "The alias was left where it is; the version on record has scored."
        yield _notice(spec, "alias-moved", name, report.alias_moved, did, link=link)
    if isinstance(report, ScoreReport) and report.library_skew:
        happened = f"version {report.version} was fitted under other libraries: {'; '.join(report.library_skew)}"
        did = (
            "The version answers all the same, as serving.library_skew says; each report and record of scores tells it."
        )
        # Once for a version and what is installed, and not for every interval.
        about = f"v{report.version}/{json_digest(report.library_skew)[:8]}"
        yield _notice(spec, "library-skew", "", happened, did, link=link, about=about)


def notices_of_monitoring(
    spec: Spec,
    drift: DriftReport,
    estimate: EstimateReport,
    measure: MeasureReport,
    decide: DecideReport,
    *,
    link: str,
) -> Iterator[Notice]:
    """What the monitor has found about the champion, with what was decided about it."""
    retrains = decide.decision.verdict == "retrain"
    did = f"{'A retraining is started' if retrains else 'No retraining'}: {'; '.join(decide.decision.reasons)}"
    findings = {
        "drift": drift.decision if drift.decision.verdict == "drift" else None,
        "estimate-fell": estimate.decision if estimate.decision.verdict == "alarm" else None,
        "performance-fell": measure.decision if measure.decision.verdict == "alarm" else None,
        "estimate-unreliable": estimate.decision if estimate.reliable is False else None,
    }
    for kind, decision in findings.items():
        if decision:
            yield _notice(spec, kind, decide.interval.name, "; ".join(decision.reasons), did, link=link)


def notice_of_start(spec: Spec, interval: str, reason: str, run: str, *, paused: bool, link: str) -> Notice:
    """The notice of a retraining that the monitor has started."""
    did = f"The run {run} of {spec.model}_retrain is queued"
    did += "; that DAG is paused: it begins when somebody unpauses it." if paused else "."
    return _notice(spec, "retraining-started", interval, reason, did, link=link)


def _notice(
    spec: Spec, kind: str, interval: str, happened: str, did: str = "", *, link: str, about: str = ""
) -> Notice:
    return Notice(
        kind=kind,
        severity=KINDS[kind].severity,
        model=spec.model,
        interval=interval,
        owner=f"{spec.owner.name} <{spec.owner.contact}>",
        happened=clean(happened),
        did=clean(did or KINDS[kind].did),
        link=link,
        about=about,
    )


def clean(text: str) -> str:
    """`text` without passwords of addresses, tokens and the like, and not too long.

    >>> clean("postgresql://ada:pa55@db/x did not answer; token=abc")
    'postgresql://***@db/x did not answer; token=***'
    """
    text = _SECRET.sub(r"\1***", masked(text))
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 2]} …"
