"""All models of an installation: who answers for each, which version serves, how old it is and how it does.

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
from retrain.results import Champion
from retrain.spec import Spec, load
from retrain.state.ledger import Ledger, Record
from retrain.state.projections import rollout_at
from retrain.state.settings import Home


@dataclass(frozen=True)
class Entry:
    """A model; what is not known of it is empty.

    Attributes:
        serves: the champion's version.
        since: the moment of the data's clock from which on it serves.
        recorded: the moment of the wall's clock at which that was put on record.
        trained_until: end of its newest training row's interval.
        age: how much newer the model's newest record is than that, on the data's clock.
        scored: the newest interval with scores.
        health: what the monitor's newest look found, and the questions that are in alarm.
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


def entries(home: Home, now: datetime | None = None) -> tuple[Entry, ...]:
    """A row per spec, the broken ones too, and per model that only the ledger knows.

    Args:
        now: on the wall's clock, for proposals that expire.
    """
    ledger, found = Ledger(home.ledger), {}
    for file in home.specs:
        try:
            spec = load(file)
            found[file.stem] = _entry(spec, ledger.records(spec.model), now or datetime.now(UTC))
        except RetrainError as error:
            found[file.stem] = Entry(model=file.stem, problem=error.found)
    for model in ledger.models():
        found.setdefault(model, Entry(model=model, problem="it has records and no spec: it does not run any more"))
    return tuple(found[model] for model in sorted(found))


def _entry(spec: Spec, records: Sequence[Record], now: datetime) -> Entry:
    promotions = [one for one in records if one.kind == "promotion"]
    about = Entry(
        model=spec.model,
        owner=spec.owner.name,
        contact=spec.owner.contact,
        objective=spec.objective,
        task=spec.task,
        scored=max((one.body["interval"] for one in records if one.kind == "score"), default=""),
        pending="; ".join(_pending(spec, records, promotions, now)),
    )
    if not promotions:
        return about
    last = promotions[-1]
    champion = Champion.model_validate(last.body["champion"])
    return replace(
        about,
        serves=champion.version,
        since=last.effective_at,
        recorded=last.recorded_at,
        trained_until=champion.trained_until,
        age=max(one.effective_at for one in records) - champion.trained_until,
        health=_health(records, champion.version),
    )


def _health(records: Iterable[Record], version: int) -> str:
    """What the monitor's newest answer to each of its questions about the champion says."""
    newest: dict[str, Record] = {}
    for one in records:
        if one.kind == "signal" and one.body["champion"] == version:
            before = newest.get(one.body["question"])
            if before is None or before.effective_at <= one.effective_at:
                newest[one.body["question"]] = one
    kind = newest.pop("kind", None)
    alarms = [question for question, one in sorted(newest.items()) if one.body["verdict"] == "alarm"]
    said = str(kind.body["verdict"]) if kind else "not looked at yet" if not newest else "sound"
    return f"{said}, alarm: {', '.join(alarms)}" if alarms else said


def _pending(spec: Spec, records: Sequence[Record], promotions: Sequence[Record], now: datetime) -> Iterable[str]:
    rollouts = [one for one in records if one.kind == "rollout"]
    if rollout := rollout_at(promotions, rollouts, datetime.max.replace(tzinfo=UTC)):
        share = f" at {rollout.share:.0%}" if rollout.share else ""
        yield f"version {rollout.shadow.version} beside ({rollout.purpose}{share})"
    done = {one.key for one in promotions} | {one.run for one in records if one.kind == "approval"}
    for one in records:
        expires = one.recorded_at + spec.promotion.approval.expires
        if one.kind == "proposal" and one.key not in done and now < expires:
            yield f"version {one.body['version']} waits for approval until {stamp(expires)}"


# --- shown


HEAD = ("model", "owner", "serves", "since\nnewest row", "age", "scored", "health\npending")


def table(found: Sequence[Entry]) -> Table:
    """The entries as a rich table; what is wrong with a model stands in its row."""
    shown = Table(title="Models", title_justify="left", caption_justify="left", caption=CAPTION)
    for name in HEAD:
        narrow = name in ("serves", "since\nnewest row", "age", "scored")
        shown.add_column(name, justify="right" if name == "age" else "left", no_wrap=narrow, overflow="fold")
    for one in found:
        shown.add_row(*map(Text, _cells(one)))
    return shown


CAPTION = "since, newest row and age are on the data's clock"


def page(found: Sequence[Entry]) -> str:
    """The entries as an HTML page of its own, with each model's objective; everything escaped."""
    lines = [(*HEAD, "objective"), *((*_cells(one), plain(one.objective)) for one in found)]
    table = "".join("<tr>" + "".join(f"<td>{_shown(cell)}</td>" for cell in line) + "</tr>" for line in lines)
    return (
        "<!doctype html><html><head><meta charset='utf-8'><title>Models</title><style>"
        "body{font:14px/1.5 system-ui,sans-serif;margin:2rem}table{border-collapse:collapse}"
        "td{padding:.3rem .7rem;border-bottom:1px solid #ddd;vertical-align:top}tr:first-child{font-weight:600}"
        f"</style></head><body><h1>Models</h1><table>{table}</table><p>{CAPTION}</p></body></html>\n"
    )


def _shown(cell: str) -> str:
    return escape(cell).replace("\n", "<br>")


def _cells(one: Entry) -> tuple[str, ...]:
    if one.problem:
        return (one.model, *[NONE] * (len(HEAD) - 2), plain(one.problem))
    return (
        f"{one.model}\n{one.task}",
        f"{plain(one.owner)}\n{plain(one.contact)}",
        f"v{one.serves}" if one.serves else NONE,
        f"{_day(one.since)}\n{_day(one.trained_until)}",
        NONE if one.age is None else f"{one.age / timedelta(days=1):.0f} d",
        one.scored or NONE,
        f"{one.health or NONE}\n{one.pending}".strip(),
    )


def _day(moment: datetime | None) -> str:
    return stamp(moment).removesuffix(" 00:00") if moment else NONE
