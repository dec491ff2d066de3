"""The table of what happened to a model, from the ledger alone: one row an interval, its newest run."""

from __future__ import annotations

from dataclasses import dataclass, field

from rich.table import Table

from retrain.results import HELD
from retrain.state.ledger import Ledger

WORDS = {"accept": "ok", "Quarantined": "quarantined", "BatchMissing": "not delivered"}
"""Verdict on record → word in the table, where they differ."""


@dataclass
class IntervalStatus:
    """One interval of one model, as far as its newest run has come.

    Attributes:
        interval: its name.
        run: key of the newest run.
        stages: stage → the body of its record, in the order in which they ran.
        seconds: spent in stages, failed tries included.
        champion: version that served when the run ended.
        watched: what the interval's diagnosis said last: sound, changed, broken or suspect.
        questions: question of the monitor about the interval → its newest answer.
        released: whether a person has let the interval through.
    """

    interval: str
    run: str
    stages: dict[str, dict[str, object]] = field(default_factory=dict)
    seconds: float = 0.0
    champion: int | None = None
    watched: str = ""
    questions: dict[str, str] = field(default_factory=dict)
    released: bool = False

    def verdict(self, stage: str) -> str:
        """The verdict of a stage, as the table shows it; empty where it has not run."""
        verdict = str(self.stages.get(stage, {}).get("verdict", ""))
        return WORDS.get(verdict, verdict)

    def fact(self, stage: str, name: str) -> object:
        """A fact that a stage put on record; None where there is none."""
        facts = self.stages.get(stage, {}).get("facts", {})
        return facts.get(name) if isinstance(facts, dict) else None

    @property
    def monitor(self) -> str:
        """What was found about the interval, and how far it was looked at."""
        kind = self.questions.get("kind", self.watched)
        if self.questions.get("kind") in HELD:
            return f"{kind}, {'held' if self.held else 'released'}"
        answered = {question for question, answer in self.questions.items() if answer != "undetermined"} - {"kind"}
        if kind == "sound" and not answered:
            return "not looked at"
        return kind if "realised" in answered or kind != "sound" else f"{kind}, not measured"

    @property
    def held(self) -> bool:
        """Whether nothing may learn from the interval until a person has released it."""
        return self.questions.get("kind") in HELD and not self.released

    @property
    def refusal(self) -> str:
        """The stage at which the run stopped, and why; empty where it did not."""
        for stage, body in self.stages.items():
            if str(body["verdict"])[:1].isupper() or body["verdict"] == "crashed":
                return f"{stage}: {WORDS.get(str(body['verdict']), body['verdict'])}"
        return ""

    @property
    def outcome(self) -> str:
        """What came of the run: the gate's verdict, or where it stopped and why."""
        if self.refusal:
            return self.refusal
        if "decide" in self.stages and self.verdict("decide") == "skip":
            return ""
        return self.verdict("gate")

    @property
    def reason(self) -> str:
        """The first reason of the gate's verdict, or of the stage that the run has come to."""
        last = list(self.stages.values())[-1] if self.stages else {}
        for stage in ("gate", "decide"):
            if stage in self.stages and self.verdict(list(self.stages)[-1])[:1].islower():
                last = self.stages[stage]
                break
        reasons = last.get("reasons", [])
        return str(reasons[0]) if isinstance(reasons, list) and reasons else ""


def rows(ledger: Ledger, model: str) -> list[IntervalStatus]:
    """One row an interval, oldest first."""
    by_interval: dict[str, IntervalStatus] = {}
    promotions = ledger.records(model, "promotion")
    for record in ledger.records(model, "stage"):
        name = str(record.body["interval"])
        row = by_interval.get(name)
        # A rehearsal, `dvc repro` with its history above all, takes no row from a run that counts.
        anew = record.body["stage"] == "ingest" and not record.body["trigger"]["dry_run"]
        if row is None or (row.run != record.run and anew):
            row = by_interval[name] = IntervalStatus(interval=name, run=record.run)
        if row.run == record.run:
            row.stages[str(record.body["stage"])] = record.body
            row.seconds += float(record.body["seconds"])
            served = [
                promotion.body["version"] for promotion in promotions if promotion.effective_at <= record.effective_at
            ]
            row.champion = served[-1] if served else None
    for kind in ("stage", "monitor stage"):
        for record in ledger.records(model, kind):
            rehearsed = record.body["trigger"]["dry_run"]
            if record.body["stage"] == "diagnose" and not rehearsed and record.body["interval"] in by_interval:
                by_interval[record.body["interval"]].watched = str(record.body["verdict"])
    for record in ledger.records(model, "signal"):
        row, question = by_interval.get(str(record.body["interval"])), str(record.body["question"])
        # Once held, an interval is held until it is released, whatever is found later.
        if row and not (question == "kind" and row.questions.get("kind") in HELD):
            row.questions[question] = str(record.body["verdict"])
    for record in ledger.records(model, "release"):
        if row := by_interval.get(record.key.rpartition("/")[0]):
            row.released = True
    return [by_interval[name] for name in sorted(by_interval)]


def table(ledger: Ledger, model: str) -> Table:
    """The rows as a rich table."""
    intervals = rows(ledger, model)
    metric = next((str(row.fact("gate", "metric")) for row in intervals if row.fact("gate", "metric")), "score")
    grid = Table(title=f"{model} ({metric} on the same holdout rows)", title_justify="left")
    for name in (
        "interval",
        "rows",
        "quality",
        "drift",
        "decision",
        "challenger",
        "champion",
        "verdict",
        "serves",
        "monitor",
        "s",
    ):
        right = name in ("rows", "challenger", "champion", "serves", "s")
        grid.add_column(name, justify="right" if right else "left", no_wrap=True)
    for row in intervals:
        count = row.fact("ingest", "rows")
        grid.add_row(
            row.interval,
            f"{count:,}" if isinstance(count, int) else "",
            row.verdict("validate") or row.verdict("ingest"),
            row.verdict("drift"),
            row.verdict("decide"),
            _score(row.fact("gate", "challenger")),
            _score(row.fact("gate", "champion")),
            row.outcome,
            f"v{row.champion}" if row.champion else "",
            row.monitor,
            f"{row.seconds:.0f}",
        )
    last = intervals[-1] if intervals else None
    grid.caption = f"{last.interval}: {last.reason}" if last else "nothing has run yet"
    grid.caption_justify = "left"
    return grid


def _score(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else ""
