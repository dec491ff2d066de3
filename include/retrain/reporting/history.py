"""Which version served when, and why: by the ledger alone, on the data's clock or on the wall's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rich.table import Table
from rich.text import Text

from retrain import errors
from retrain.errors import InvalidInterval, MissingInput, RetrainError, SnapshotCorrupt
from retrain.rendering.text import number, plain, run_key_of, stamp, who
from retrain.results import Accepted, Champion, Context, Interval, RefitReport
from retrain.spec import Spec
from retrain.state.ledger import Ledger, Record
from retrain.state.projections import champion_at
from retrain.state.run import Run
from retrain.state.settings import Home
from retrain.state.store import Store

DID = {
    "promote": "promoted",
    "rollback": "rolled back",
    "undo": "undone",
    "adopt": "alias followed",
    "restore": "restored",
}
REFUSING = ("refit", "register", "smoke_test", "promote")
"""Stages whose refusal keeps a version from serving."""
SHOWN = 12
"""How many intervals of the training rows are listed."""


@dataclass(frozen=True)
class Row:
    """Something that happened to a model's champion, or was refused to.

    Attributes:
        effective_at: on the data's clock.
        recorded_at: on the wall's.
        change: from which version to which.
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


def rows(ledger: Ledger, model: str) -> list[Row]:
    """Every change of the champion, with proposals, approvals, rollouts and refusals, in the order of the record."""
    records = ledger.records(model)
    scores = {
        one.run: f"{one.body['facts']['metric']} {number(one.body['facts']['challenger'])}"
        f" / {number(one.body['facts']['champion'])}, {one.run}"
        for one in records
        if one.kind == "stage" and one.body["stage"] == "gate" and one.body["facts"].get("challenger") is not None
    }
    # A task that is tried again is refused again: its last refusal stands for all of them.
    last = {(one.run, one.body["stage"], one.body["verdict"]): one.id for one in records if one.kind == "stage"}
    told = []
    for one in records:
        if one.kind == "stage" and last[one.run, one.body["stage"], one.body["verdict"]] != one.id:
            continue
        if (said := _said(one)) is not None:
            what, change, why = said
            evidence = scores.get(_run(one), _run(one))
            told.append(
                Row(
                    effective_at=one.effective_at,
                    recorded_at=one.recorded_at,
                    what=what,
                    change=change,
                    why=plain(why),
                    who=who(one),
                    evidence=plain(evidence),
                    place=one.place,
                )
            )
    return told


def _run(record: Record) -> str:
    """The run whose figures speak for a record: of a change, the one that made the version."""
    return run_key_of(record.body["champion"]["reference"]) if record.kind == "promotion" else record.run


def _said(record: Record) -> tuple[str, str, str] | None:
    """What happened, from which version to which, and why; None of a record that changes nothing about who serves."""
    body = record.body
    if record.kind == "promotion":
        return DID[body["action"]], _arrow(body["previous"], body["version"]), body["reasons"][0]
    if record.kind == "proposal":
        return "waits for approval", f"v{body['version']}", body["reasons"][0]
    if record.kind == "approval":
        said = {"approve": "approved", "reject": "rejected"}[body["verdict"]]
        return said, f"v{body['version']}", body["reason"] or "no reason given"
    if record.kind == "rollout":
        rollout, reasons = body.get("was") or body["rollout"], body["reasons"]
        share = f" {rollout['share']:.0%}" if rollout["share"] else ""
        change = f"v{rollout['shadow']['version']} beside v{rollout['champion']}"
        return f"{rollout['purpose']}{share}: {body['verdict']}", change, reasons[0] if reasons else ""
    if record.kind == "reconciled":
        return "alias put back", _arrow(body["alias"], body["version"]), body["reason"]
    if record.kind == "stage" and not body["trigger"]["dry_run"]:
        if body["stage"] == "gate" and body["verdict"] in ("keep", "inconclusive"):
            return f"gate: {body['verdict']}", "", body["reasons"][0]
        kind = getattr(errors, body["verdict"], None)
        if body["stage"] in REFUSING and kind is not None and not kind.retryable:
            return f"refused: {body['verdict']}", "", body["reasons"][0]
    return None


def _arrow(old: int | None, new: int) -> str:
    return f"v{old} → v{new}" if old else f"v{new}"


def table(ledger: Ledger, model: str) -> Table:
    """The rows as a rich table."""
    made = rows(ledger, model)
    shown = Table(title=f"{model}: who served, and what was refused", title_justify="left", caption_justify="left")
    for name, wide in {"#": False, "as of\nrecorded": False, "what": False, "by": True, "why\nevidence": True}.items():
        shown.add_column(name, justify="right" if name == "#" else "left", no_wrap=not wide, overflow="fold")
    for row in made:
        when = f"{stamp(row.effective_at)}\n{stamp(row.recorded_at)}"
        cells = (str(row.place), when, f"{row.what}\n{row.change}", row.who, f"{row.why}\n{row.evidence}")
        shown.add_row(*(Text(cell.strip()) for cell in cells))
    shown.caption = "#: place in the ledger's chain; evidence: scores of challenger and champion on the same rows, run"
    if not made:
        shown.caption = "nobody has served yet"
    return shown


# --- who served at a moment


def moment(text: str) -> datetime:
    """A date, or a time in ISO 8601; UTC where no zone is named.

    Raises:
        InvalidInterval: neither.

    >>> str(moment("2013-07-04T12:00Z")), str(moment("2013-07-04"))
    ('2013-07-04 12:00:00+00:00', '2013-07-04 00:00:00+00:00')
    """
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        raise InvalidInterval(f"{text!r} is no moment", do="give a date or a time like 2013-07-04T12:00Z") from None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def served(home: Home, spec: Spec, at: datetime, *, recorded: bool = False) -> tuple[str, ...]:
    """Which version served at a moment, why, made of what, and what it scored then; for people, line by line.

    Args:
        at: on the data's clock: the version that an interval beginning then is scored by.
        recorded: `at` is on the wall's clock instead: the version that was on record as the champion then.
    """
    records = Ledger(home.ledger).records(spec.model)
    made = [one for one in records if one.kind == "promotion"]
    clock = "recorded_at" if recorded else "effective_at"
    there = [one for one in made if getattr(one, clock) <= at]
    lines = [f"{spec.model} at {stamp(at)} UTC, on the {'wall' if recorded else 'data'}'s clock"]
    if not there:
        return (*lines, f"  {_before_the_first(made, clock)}")
    found, later = there[-1], made[made.index(there[-1]) + 1 :]
    champion = Champion.model_validate(found.body["champion"])
    until = min((getattr(one, clock) for one in later), default=None)
    lines += [
        f"  version {champion.version} served, digest {champion.digest[:12]}",
        f"  since    {stamp(getattr(found, clock))}, until {stamp(until) if until else 'now'}",
        f"  because  {DID[found.body['action']]}: {plain(found.body['reasons'][0])}",
        *(f"           {plain(reason)}" for reason in found.body["reasons"][1:]),
        f"  by       {who(found)}, in run {plain(found.run)}; record {found.place} of the ledger,"
        f" written {stamp(found.recorded_at)} UTC",
    ]
    lines += [f"  {line}" for line in _made_of(home, spec, champion)]
    lines += [f"  {line}" for line in _scored(home, spec, records, at, champion)] if not recorded else []
    other = _other_clock(made, at, recorded)
    return (*lines, f"  {other}") if other else tuple(lines)


def _before_the_first(made: Sequence[Record], clock: str) -> str:
    if not made:
        return "nobody served: no version has been promoted yet"
    first = made[0]
    return f"nobody served yet: version {first.body['version']} was the first, from {stamp(getattr(first, clock))} on"


def _other_clock(made: Sequence[Record], at: datetime, recorded: bool) -> str:
    """What the other clock says of the moment, where it says something else."""
    there = [one.body["version"] for one in made if one.recorded_at <= at]
    wall = there[-1] if there else None
    data = found.version if (found := champion_at(made, at)) else None
    if wall == data:
        return ""
    if recorded:
        return f"on the data's clock version {data} served then" if data else "on the data's clock nobody served yet"
    if wall is None:
        return f"on the wall's clock nothing was on record then; the record begins {stamp(made[0].recorded_at)} UTC"
    return f"on the wall's clock version {wall} was on record then (--recorded)"


def _made_of(home: Home, spec: Spec, champion: Champion) -> Iterator[str]:
    from retrain.registry.lineage import run_of  # which loads MLflow; the plugin shows the table without

    yield (
        f"made of  {champion.rows:,} rows until {stamp(champion.trained_until)}, {champion.configuration.label};"
        f" training digest {champion.training[:12]}"
    )
    try:
        run, context = run_of(home, spec, run_key_of(champion.reference))
        batches = training(run, context)
    except MissingInput as error:
        yield f"         its run's files are gone: {error.found}"
        return
    for one in batches[-SHOWN:]:
        labels = f", labels {one.labels.sha256[:12]}" if one.labels else ""
        yield (
            f"         {one.batch.interval.name}: {one.batch.rows:,} rows, sha256 {one.batch.sha256[:12]},"
            f" DVC {one.md5[:12]} at commit {one.commit[:12]}{labels}"
        )
    if len(batches) > SHOWN:
        more = f"python -m retrain explain {spec.model} {champion.version}"
        yield f"         and {len(batches) - SHOWN} earlier intervals: {more}"


def training(run: Run, context: Context) -> list[Accepted]:
    """The batches that the run's version was fitted on, oldest first."""
    spans = run.read(RefitReport, "refit").fitted.intervals
    return [one for one in context.accepted if any(one.batch.interval.start == span.start for span in spans)]


def _scored(home: Home, spec: Spec, records: Sequence[Record], at: datetime, champion: Champion) -> Iterator[str]:
    found = [
        one for one in records if one.kind == "score" and (span := _span(spec, one)) and span.start <= at < span.end
    ]
    if not found:
        yield "scored   the interval of that moment has not been scored"
    for one in found:
        body = one.body
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


def _shares(home: Home, body: Mapping[str, Any]) -> str:
    """Which version answered how many rows, by the file of the scores itself."""
    import pyarrow.parquet as pq

    try:
        with Store(home.store).verified(body["key"], body["sha256"]) as path:
            table = pq.read_table(path, columns=["version"])
    except (MissingInput, SnapshotCorrupt) as error:
        return f"the file is not the one on record: {error.found}"
    counts = Counter(table["version"].drop_null().to_pylist())
    said = ", ".join(f"{counts[version]:,} rows by version {version}" for version in sorted(counts))
    return f"the file is there, unaltered: {said}"


def _span(spec: Spec, record: Record) -> Interval | None:
    try:
        return spec.at(record.body["interval"])
    except RetrainError:  # the spec has other intervals by now
        return None
