"""The inventory of models: who answers for each, which version serves, how old it is and how it does.

Light, since the Airflow plugin may show it: specs and ledger only, no pandas, no MLflow.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from html import escape

from rich.table import Table
from rich.text import Text

from retrain.errors import RetrainError
from retrain.rendering.text import NONE, plain, stamp
from retrain.reporting import status
from retrain.reporting.status import IntervalStatus
from retrain.results import Champion
from retrain.spec import Spec, load
from retrain.state.ledger import Ledger, Record
from retrain.state.projections import rollout_at
from retrain.state.settings import Home


@dataclass(frozen=True)
class InventoryEntry:
    """A model; what is not known of it is empty.

    Attributes:
        model: its name.
        owner: who answers for it.
        contact: how to reach them.
        objective: what it is for.
        task: binary, multiclass or regression.
        serves: the champion's version.
        since: the moment of the data's clock from which on it serves.
        recorded: the moment of the wall's clock at which that was put on record.
        trained_until: end of its newest training row's interval.
        age: how much newer the model's newest record is than that, on the data's clock.
        scored: the newest interval with scores.
        health: what the monitor found last, the questions that are in alarm or could not be told, the intervals that
            are held, and why the newest one was refused.
        pending: what scores beside the champion, or waits for a person.
        problem: why the model does not run: its spec, or its ledger.
    """

    model: str
    owner: str = ""
    contact: str = ""
    objective: str = ""
    task: str = ""
    serves: int | None = None
    since: datetime | None = None
    recorded: datetime | None = None
    trained_until: datetime | None = None
    age: timedelta | None = None
    scored: str = ""
    health: str = ""
    pending: str = ""
    problem: str = ""


def entries(home: Home, now: datetime | None = None) -> tuple[InventoryEntry, ...]:
    """An entry per spec, the broken ones too, and per model that only the ledger knows; by name.

    Args:
        home: whose specs and ledger are read.
        now: on the wall's clock, for proposals that expire.
    """
    ledger, by_model = Ledger(home.ledger), {}
    for file in home.specs:
        try:
            spec = load(file)
            records = ledger.records(spec.model)
            by_model[file.stem] = _entry(spec, records, status.rows(ledger, spec.model), now or datetime.now(UTC))
        except RetrainError as error:
            by_model[file.stem] = InventoryEntry(model=file.stem, problem=error.found)
        except Exception as error:  # whatever one model's records hold, the others are listed
            problem = f"cannot be read: {type(error).__name__}: {error}"
            by_model[file.stem] = InventoryEntry(model=file.stem, problem=problem)
    for model in ledger.models():
        by_model.setdefault(
            model, InventoryEntry(model=model, problem="it has records and no spec: it does not run any more")
        )
    return tuple(by_model[model] for model in sorted(by_model))


def _entry(spec: Spec, records: Sequence[Record], intervals: Sequence[IntervalStatus], now: datetime) -> InventoryEntry:
    promotions = [record for record in records if record.kind == "promotion"]
    entry = InventoryEntry(
        model=spec.model,
        owner=spec.owner.name,
        contact=spec.owner.contact,
        objective=spec.objective,
        task=spec.task,
        scored=max((record.body["interval"] for record in records if record.kind == "score"), default=""),
        pending="; ".join(_pending(spec, records, promotions, now)),
    )
    if not promotions:
        return entry
    last = promotions[-1]
    champion = Champion.model_validate(last.body["champion"])
    return replace(
        entry,
        serves=champion.version,
        since=last.effective_at,
        recorded=last.recorded_at,
        trained_until=champion.trained_until,
        age=max(record.effective_at for record in records) - champion.trained_until,
        health="; ".join([_health(records, champion.version), *_stopped(intervals)]),
    )


def _health(records: Iterable[Record], version: int) -> str:
    """What the monitor's newest answer to each of its questions about the champion says."""
    newest: dict[str, Record] = {}
    for record in records:
        if record.kind == "signal" and record.body["champion"] == version:
            before = newest.get(record.body["question"])
            if before is None or before.effective_at <= record.effective_at:
                newest[record.body["question"]] = record
    kind = newest.pop("kind", None)
    alarms = [question for question, record in sorted(newest.items()) if record.body["verdict"] == "alarm"]
    untold = [question for question, record in sorted(newest.items()) if record.body["verdict"] == "undetermined"]
    state = str(kind.body["verdict"]) if kind else "not looked at yet"
    if state == "sound" and len(untold) == len(newest):
        return "nothing could be told"
    parts = (("alarm", alarms), ("undetermined", untold))
    return ", ".join([state, *(f"{what}: {', '.join(questions)}" for what, questions in parts if questions)])


def _stopped(intervals: Sequence[IntervalStatus]) -> Iterable[str]:
    """What nobody learns from: held intervals, and the newest one where it was refused."""
    if held := [row.interval for row in intervals if row.held]:
        yield f"held: {', '.join(held)}"
    if intervals and intervals[-1].refusal:
        yield f"{intervals[-1].interval} {intervals[-1].refusal}"


def _pending(spec: Spec, records: Sequence[Record], promotions: Sequence[Record], now: datetime) -> Iterable[str]:
    rollouts = [record for record in records if record.kind == "rollout"]
    if rollout := rollout_at(promotions, rollouts, datetime.max.replace(tzinfo=UTC)):
        share = f" at {rollout.share:.0%}" if rollout.share else ""
        yield f"version {rollout.shadow.version} beside ({rollout.purpose}{share})"
    answered = {record.key for record in promotions} | {record.run for record in records if record.kind == "approval"}
    for record in records:
        expires = record.recorded_at + spec.promotion.approval.expires
        if record.kind == "proposal" and record.key not in answered and now < expires:
            yield f"version {record.body['version']} waits for approval until {stamp(expires)}"


# --- shown


HEAD = ("model", "owner", "serves", "since\nnewest row", "age", "scored", "health\npending")


def table(inventory: Sequence[InventoryEntry]) -> Table:
    """The entries as a rich table; what is wrong with a model stands in its row."""
    grid = Table(title="Models", title_justify="left", caption_justify="left", caption=CAPTION)
    for name in HEAD:
        narrow = name in ("serves", "since\nnewest row", "age", "scored")
        grid.add_column(name, justify="right" if name == "age" else "left", no_wrap=narrow, overflow="fold")
    for entry in inventory:
        grid.add_row(*map(Text, _cells(entry)))
    return grid


CAPTION = "since, newest row and age are on the data's clock"


def page(inventory: Sequence[InventoryEntry]) -> str:
    """The entries as an HTML page of its own, with each model's objective; everything escaped."""
    lines = [(*HEAD, "objective"), *((*_cells(entry), plain(entry.objective)) for entry in inventory)]
    table = "".join("<tr>" + "".join(f"<td>{_escaped(cell)}</td>" for cell in line) + "</tr>" for line in lines)
    return (
        "<!doctype html><html><head><meta charset='utf-8'><title>Models</title><style>"
        "body{font:14px/1.5 system-ui,sans-serif;margin:2rem}table{border-collapse:collapse}"
        "td{padding:.3rem .7rem;border-bottom:1px solid #ddd;vertical-align:top}tr:first-child{font-weight:600}"
        f"</style></head><body><h1>Models</h1><table>{table}</table><p>{CAPTION}</p></body></html>\n"
    )


def _escaped(cell: str) -> str:
    return escape(cell).replace("\n", "<br>")


def _cells(entry: InventoryEntry) -> tuple[str, ...]:
    if entry.problem:
        return (entry.model, *[NONE] * (len(HEAD) - 2), plain(entry.problem))
    return (
        f"{entry.model}\n{entry.task}",
        f"{plain(entry.owner)}\n{plain(entry.contact)}",
        f"v{entry.serves}" if entry.serves else NONE,
        f"{_day(entry.since)}\n{_day(entry.trained_until)}",
        NONE if entry.age is None else f"{entry.age / timedelta(days=1):.0f} d",
        entry.scored or NONE,
        f"{entry.health or NONE}\n{entry.pending}".strip(),
    )


def _day(moment: datetime | None) -> str:
    return stamp(moment).removesuffix(" 00:00") if moment else NONE
