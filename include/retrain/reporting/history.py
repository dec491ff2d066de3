"""The history of a model's champion: which version served when, and why, by the ledger alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rich.table import Table
from rich.text import Text

from retrain import errors
from retrain.errors import EvidenceChanged, InvalidInterval, MissingInput, RetrainError, SnapshotCorrupt
from retrain.rendering.text import number, plain, run_key_of, stamp, who
from retrain.results import AcceptedBatch, Champion, Context, RefitReport
from retrain.spec import Spec
from retrain.state.ledger import Ledger, Record
from retrain.state.projections import champion_at
from retrain.state.run import Run
from retrain.state.settings import Home
from retrain.state.store import Store

ACTIONS = {
    "promote": "promoted",
    "rollback": "rolled back",
    "undo": "undone",
    "adopt": "alias followed",
    "restore": "restored",
}
"""Action of a promotion record → what it did, for people."""
REFUSING = ("refit", "register", "smoke_test", "promote")
"""Stages whose refusal keeps a version from serving."""
INTERVALS = 12
"""How many intervals of the training rows are listed."""


@dataclass(frozen=True)
class ChampionEvent:
    """A change of a model's champion, a step towards one, or a refusal.

    Attributes:
        effective_at: on the data's clock.
        recorded_at: on the wall's.
        what: happened.
        change: from which version to which.
        why: the first reason on record.
        who: asked for it.
        evidence: the gate's scores of challenger and champion on the same rows, and the run.
        place: of the record in the model's chain.
    """

    effective_at: datetime
    recorded_at: datetime
    what: str
    change: str
    why: str
    who: str
    evidence: str
    place: int


def rows(ledger: Ledger, model: str) -> list[ChampionEvent]:
    """Every change of the champion, with proposals, approvals, rollouts and refusals, in the order of the record."""
    records = ledger.records(model)
    stages = [record for record in records if record.kind == "stage"]
    evidence = {
        record.run: f"{facts['metric']} {number(facts['challenger'])} / {number(facts['champion'])}, {record.run}"
        for record in stages
        if record.body["stage"] == "gate" and (facts := record.body["facts"]).get("challenger") is not None
    }
    # A task that is tried again is refused again: its last refusal stands for all of them.
    last = {(record.run, record.body["stage"], record.body["verdict"]): record.id for record in stages}
    events = []
    for record in records:
        if record.kind == "stage" and last[record.run, record.body["stage"], record.body["verdict"]] != record.id:
            continue
        if (summary := _summary(record)) is not None:
            what, change, why = summary
            run = _run(record)
            events.append(
                ChampionEvent(
                    effective_at=record.effective_at,
                    recorded_at=record.recorded_at,
                    what=what,
                    change=change,
                    why=plain(why),
                    who=who(record),
                    evidence=plain(evidence.get(run, run)),
                    place=record.place,
                )
            )
    return events


def _run(record: Record) -> str:
    """The run whose figures speak for a record: of a change, the one that made the version."""
    return run_key_of(record.body["champion"]["reference"]) if record.kind == "promotion" else record.run


def _summary(record: Record) -> tuple[str, str, str] | None:
    """What happened, from which version to which, and why; None of a record that changes nothing about who serves."""
    body = record.body
    if record.kind == "promotion":
        return ACTIONS[body["action"]], _arrow(body["previous"], body["version"]), body["reasons"][0]
    if record.kind == "proposal":
        return "waits for approval", f"v{body['version']}", body["reasons"][0]
    if record.kind == "approval":
        answer = {"approve": "approved", "reject": "rejected"}[body["verdict"]]
        return answer, f"v{body['version']}", body["reason"] or "no reason given"
    if record.kind == "rollout":
        rollout, reasons = body.get("was") or body["rollout"], body["reasons"]
        share = f" {rollout['share']:.0%}" if rollout["share"] else ""
        change = f"v{rollout['shadow']['version']} beside v{rollout['champion']}"
        return f"{rollout['purpose']}{share}: {body['verdict']}", change, reasons[0] if reasons else ""
    if record.kind == "access" and body["verdict"] == "refused":
        return "refused: NotAllowed", "", f"access.{body['action']} names others"
    if record.kind == "reconciled" and body.get("given_up"):
        return f"{len(body['given_up'])} lost anchors given up", "", body["reason"]
    if record.kind == "reconciled":
        return "alias put back", _arrow(body["alias"], body["version"]), body["reason"]
    if record.kind == "stage" and not body["trigger"]["dry_run"]:
        if body["stage"] == "gate" and body["verdict"] in ("keep", "inconclusive"):
            return f"gate: {body['verdict']}", "", body["reasons"][0]
        kind = getattr(errors, body["verdict"], None)
        if body["stage"] in REFUSING and kind is not None and not kind.retryable:
            return f"refused: {body['verdict']}", "", body["reasons"][0]
    return None


def _arrow(old: int | None, new: int | None) -> str:
    return " → ".join(f"v{version}" for version in (old, new) if version)


def table(ledger: Ledger, model: str) -> Table:
    """The rows as a rich table."""
    events = rows(ledger, model)
    grid = Table(title=f"{model}: who served, and what was refused", title_justify="left", caption_justify="left")
    for name, wide in {"#": False, "as of\nrecorded": False, "what": False, "by": True, "why\nevidence": True}.items():
        grid.add_column(name, justify="right" if name == "#" else "left", no_wrap=not wide, overflow="fold")
    for event in events:
        when = f"{stamp(event.effective_at)}\n{stamp(event.recorded_at)}"
        what, why = f"{event.what}\n{event.change}", f"{event.why}\n{event.evidence}"
        grid.add_row(*(Text(cell.strip()) for cell in (str(event.place), when, what, event.who, why)))
    grid.caption = "#: place in the ledger's chain; evidence: scores of challenger and champion on the same rows, run"
    if not events:
        grid.caption = "nobody has served yet"
    return grid


# --- who served at a moment


def moment(text: str) -> datetime:
    """A date, or a time in ISO 8601; UTC where no zone is named.

    Raises:
        InvalidInterval: neither.

    >>> str(moment("2013-07-04T12:00Z")), str(moment("2013-07-04"))
    ('2013-07-04 12:00:00+00:00', '2013-07-04 00:00:00+00:00')
    """
    try:
        time = datetime.fromisoformat(text.strip())
    except ValueError:
        raise InvalidInterval(f"{text!r} is no moment", do="give a date or a time like 2013-07-04T12:00Z") from None
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def served(home: Home, spec: Spec, at: datetime, *, recorded: bool = False) -> tuple[str, ...]:
    """Which version served at a moment, why, made of what, and what it scored then; for people, line by line.

    Args:
        home: whose ledger, store and runs are read.
        spec: of the model.
        at: on the data's clock: the version that an interval beginning then is scored by.
        recorded: `at` is on the wall's clock instead: the version that was on record as the champion then.
    """
    records = Ledger(home.ledger).records(spec.model)
    promotions = [record for record in records if record.kind == "promotion"]
    clock = "recorded_at" if recorded else "effective_at"
    earlier = [record for record in promotions if getattr(record, clock) <= at]
    lines = [f"{spec.model} at {stamp(at)} UTC, on the {'wall' if recorded else 'data'}'s clock"]
    if not earlier:
        return (*lines, f"  {_before_the_first(promotions, clock)}")
    promotion = earlier[-1]
    later = promotions[promotions.index(promotion) + 1 :]
    champion = Champion.model_validate(promotion.body["champion"])
    until = min((getattr(record, clock) for record in later), default=None)
    reason, *more_reasons = map(plain, promotion.body["reasons"])
    lines += [
        f"  version {champion.version} served, digest {champion.digest[:12]}",
        f"  since    {stamp(getattr(promotion, clock))}, until {stamp(until) if until else 'now'}",
        f"  because  {ACTIONS[promotion.body['action']]}: {reason}",
        *(f"           {reason}" for reason in more_reasons),
        f"  by       {who(promotion)}, in run {plain(promotion.run)}; record {promotion.place} of the ledger,"
        f" written {stamp(promotion.recorded_at)} UTC",
    ]
    lines += [f"  {line}" for line in _training_lines(home, spec, champion)]
    lines += [f"  {line}" for line in _score_lines(home, spec, records, at, champion)] if not recorded else []
    other = _other_clock(promotions, at, recorded)
    return (*lines, f"  {other}") if other else tuple(lines)


def _before_the_first(promotions: Sequence[Record], clock: str) -> str:
    if not promotions:
        return "nobody served: no version has been promoted yet"
    first = promotions[0]
    return f"nobody served yet: version {first.body['version']} was the first, from {stamp(getattr(first, clock))} on"


def _other_clock(promotions: Sequence[Record], at: datetime, recorded: bool) -> str:
    """What the other clock says of the moment, where it says something else."""
    written = [record.body["version"] for record in promotions if record.recorded_at <= at]
    wall = written[-1] if written else None
    champion = champion_at(promotions, at)
    data = champion.version if champion else None
    if wall == data:
        return ""
    if recorded:
        return f"on the data's clock version {data} served then" if data else "on the data's clock nobody served yet"
    if wall is None:
        begin = stamp(promotions[0].recorded_at)
        return f"on the wall's clock nothing was on record then; the record begins {begin} UTC"
    return f"on the wall's clock version {wall} was on record then (--recorded)"


def _training_lines(home: Home, spec: Spec, champion: Champion) -> Iterator[str]:
    from retrain.registry.lineage import check_maker, run_of  # which loads MLflow; the plugin shows the table without

    yield (
        f"made of  {champion.rows:,} rows until {stamp(champion.trained_until)}, {champion.configuration.label};"
        f" training digest {champion.training[:12]}"
    )
    try:
        run, context = run_of(home, spec, run_key_of(champion.reference))
        check_maker(run, champion)
        batches = training_batches(run, context)
    except (MissingInput, EvidenceChanged) as error:
        yield f"         its run's files are gone: {error.found}"
        return
    for accepted in batches[-INTERVALS:]:
        batch = accepted.batch
        labels = f", labels {accepted.labels.sha256[:12]}" if accepted.labels else ""
        yield (
            f"         {batch.interval.name}: {batch.rows:,} rows, sha256 {batch.sha256[:12]},"
            f" DVC {accepted.md5[:12]} at commit {accepted.commit[:12]}{labels}"
        )
    if len(batches) > INTERVALS:
        more = f"python -m retrain explain {spec.model} {champion.version}"
        yield f"         and {len(batches) - INTERVALS} earlier intervals: {more}"


def training_batches(run: Run, context: Context) -> list[AcceptedBatch]:
    """The batches that the run's version was fitted on, oldest first."""
    spans = run.read(RefitReport, "refit").fitted.intervals
    starts = {span.start for span in spans}
    return [accepted for accepted in context.accepted if accepted.batch.interval.start in starts]


def _score_lines(home: Home, spec: Spec, records: Sequence[Record], at: datetime, champion: Champion) -> Iterator[str]:
    scores = [record for record in records if record.kind == "score" and _covers(spec, record, at)]
    if not scores:
        yield "scored   the interval of that moment has not been scored"
    for record in scores:
        body = record.body
        yield (
            f"scored   {body['interval']}: {body['scored']:,} of {body['rows']:,} rows by version {body['version']},"
            f" {body['key']}"
        )
        yield f"         sha256 {body['sha256']}, of batch {body['data'][:12]}"
        yield f"         {_shares(home, body)}"
        if body["version"] != champion.version:
            yield (
                f"         not by version {champion.version}: the interval began before that served,"
                " and its champion is the one at its begin"
            )


def _covers(spec: Spec, record: Record, at: datetime) -> bool:
    """Whether a record is of the interval that a moment lies in."""
    try:
        interval = spec.at(record.body["interval"])
    except RetrainError:  # the spec has other intervals by now
        return False
    return interval.start <= at < interval.end


def _shares(home: Home, body: Mapping[str, Any]) -> str:
    """Which version answered how many rows, by the file of the scores itself."""
    import pyarrow.parquet as pq

    try:
        with Store(home.store).verified(body["key"], body["sha256"]) as path:
            table = pq.read_table(path, columns=["version"])
    except (MissingInput, SnapshotCorrupt) as error:
        return f"the file is not the one on record: {error.found}"
    counts = Counter(table["version"].drop_null().to_pylist())
    shares = ", ".join(f"{counts[version]:,} rows by version {version}" for version in sorted(counts))
    return f"the file is there, unaltered: {shares}"
