"""The table of what happened, from the ledger alone: one row an interval, its newest run."""

from __future__ import annotations

from dataclasses import dataclass, field

from rich.table import Table

from retrain.state.ledger import Ledger

WORDS = {"accept": "ok", "Quarantined": "quarantined", "BatchMissing": "not delivered"}


@dataclass
class Row:
    """One interval of one model, as far as its newest run has come."""

    interval: str
    run: str
    stages: dict[str, dict[str, object]] = field(default_factory=dict)
    seconds: float = 0.0
    champion: int | None = None
    watched: str = ""
    """What the monitor's newest look at the interval found: sound, changed, broken or suspect."""

    def verdict(self, stage: str) -> str:
        found = str(self.stages.get(stage, {}).get("verdict", ""))
        return WORDS.get(found, found)

    def fact(self, stage: str, name: str) -> object:
        facts = self.stages.get(stage, {}).get("facts", {})
        return facts.get(name) if isinstance(facts, dict) else None

    @property
    def outcome(self) -> str:
        """What came of the run: the gate's word, or where it stopped and why."""
        for stage, body in self.stages.items():
            if str(body["verdict"])[:1].isupper() or body["verdict"] == "crashed":
                return f"{stage}: {WORDS.get(str(body['verdict']), body['verdict'])}"
        if "decide" in self.stages and self.verdict("decide") == "skip":
            return ""
        return self.verdict("gate")

    @property
    def reason(self) -> str:
        """The last word said, for people."""
        last = list(self.stages.values())[-1] if self.stages else {}
        for stage in ("gate", "decide"):
            if stage in self.stages and self.verdict(list(self.stages)[-1])[:1].islower():
                last = self.stages[stage]
                break
        reasons = last.get("reasons", [])
        return str(reasons[0]) if isinstance(reasons, list) and reasons else ""


def rows(ledger: Ledger, model: str) -> list[Row]:
    """One row an interval, oldest first. Seconds are those spent in stages, failed tries included."""
    found: dict[str, Row] = {}
    promotions = ledger.records(model, "promotion")
    for record in ledger.records(model, "stage"):
        name = str(record.body["interval"])
        row = found.get(name)
        # A rehearsal, `dvc repro` with its history above all, takes no row from a run that counts.
        anew = record.body["stage"] == "ingest" and not record.body["trigger"]["dry_run"]
        if row is None or (row.run != record.run and anew):
            row = found[name] = Row(interval=name, run=record.run)
        if row.run == record.run:
            row.stages[str(record.body["stage"])] = record.body
            row.seconds += float(record.body["seconds"])
            served = [one.body["version"] for one in promotions if one.effective_at <= record.effective_at]
            row.champion = served[-1] if served else None
    for record in ledger.records(model, "monitor stage"):
        if record.body["stage"] == "diagnose" and (row := found.get(str(record.body["interval"]))):
            row.watched = str(record.body["verdict"])
    return [found[name] for name in sorted(found)]


def table(ledger: Ledger, model: str) -> Table:
    """The rows as a rich table."""
    made = rows(ledger, model)
    metric = next((str(row.fact("gate", "metric")) for row in made if row.fact("gate", "metric")), "score")
    shown = Table(title=f"{model} ({metric} on the same holdout rows)", title_justify="left")
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
        shown.add_column(name, justify="right" if right else "left", no_wrap=True)
    for row in made:
        count = row.fact("ingest", "rows")
        shown.add_row(
            row.interval,
            f"{count:,}" if isinstance(count, int) else "",
            row.verdict("validate") or row.verdict("ingest"),
            row.verdict("drift"),
            row.verdict("decide"),
            _score(row.fact("gate", "challenger")),
            _score(row.fact("gate", "champion")),
            row.outcome,
            f"v{row.champion}" if row.champion else "",
            row.watched,
            f"{row.seconds:.0f}",
        )
    last = made[-1] if made else None
    shown.caption = f"{last.interval}: {last.reason}" if last else "nothing has run yet"
    shown.caption_justify = "left"
    return shown


def _score(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else ""
