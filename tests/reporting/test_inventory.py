"""All models at a glance: those that serve, those that wait, and those that cannot run."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml
from rich.console import Console

from retrain.errors import InvalidSpec
from retrain.reporting import inventory
from retrain.results import Champion, Configuration, Rollout
from retrain.spec import parse
from retrain.state.ledger import Ledger
from tests.conftest import INCLUDE, Model, churn_spec
from tests.trained import spec_from

MARCH, APRIL, MAY = (datetime(2024, month, 1, tzinfo=UTC) for month in (3, 4, 5))


def champion(version: int) -> Champion:
    return Champion(
        version=version, run_id="r", digest=f"{version}" * 64, training="t",
        configuration=Configuration(estimator="linear", parameters={}, pipeline="p"),
        reference=f"churn/runs/run-{version}/refit", trained_until=MARCH, effective_at=MARCH,
    )  # fmt: skip


def promoted(ledger: Ledger, model: str = "churn") -> None:
    facts = champion(1).model_dump(mode="json")
    body = {"action": "promote", "version": 1, "previous": None, "champion": facts, "reasons": ["first"]}
    ledger.append(model, "promotion", "run-1", body, effective_at=MARCH, run="run-1", sequence=1)


def signal(ledger: Ledger, question: str, verdict: str, when: datetime, version: int = 1) -> None:
    body = {"question": question, "verdict": verdict, "champion": version, "interval": f"{when:%Y-%m-%d}"}
    ledger.append("churn", "signal", f"{question}/{when:%Y-%m}/v{version}", body, effective_at=when)


def only_entry(churn: Model, now: datetime | None = None) -> inventory.InventoryEntry:
    (entry,) = inventory.entries(churn.home, now)
    return entry


def test_a_model_before_its_first_champion(churn: Model) -> None:
    entry = only_entry(churn)
    assert (entry.model, entry.owner, entry.contact, entry.task) == (
        "churn",
        "Ada Example",
        "ada@example.org",
        "binary",
    )
    assert (entry.serves, entry.age, entry.health, entry.problem) == (None, None, "", "")


def test_a_model_that_serves(churn: Model) -> None:
    ledger = Ledger(churn.home.ledger)
    promoted(ledger)
    ledger.append("churn", "score", "2024-03-01", {"interval": "2024-03-01"}, effective_at=APRIL)
    ledger.append("churn", "score", "2024-02-01", {"interval": "2024-02-01"}, effective_at=MAY)
    entry = only_entry(churn)
    assert (entry.serves, entry.since, entry.trained_until) == (1, MARCH, MARCH)
    assert entry.age == timedelta(days=61)
    assert entry.scored == "2024-03-01"
    assert entry.health == "not looked at yet"
    assert entry.recorded
    assert entry.recorded.year >= 2024


def test_health_is_what_the_monitor_said_last_of_the_champion(churn: Model) -> None:
    ledger = Ledger(churn.home.ledger)
    promoted(ledger)
    signal(ledger, "kind", "broken", APRIL)
    signal(ledger, "drift", "alarm", APRIL)
    signal(ledger, "kind", "changed", MAY)
    signal(ledger, "drift", "calm", MAY)
    signal(ledger, "realised", "alarm", MAY)
    signal(ledger, "estimated", "alarm", MAY, version=9)
    assert only_entry(churn).health == "changed, alarm: realised"


def test_health_is_not_sound_where_nothing_was_looked_at(churn: Model) -> None:
    ledger = Ledger(churn.home.ledger)
    promoted(ledger)
    signal(ledger, "drift", "undetermined", APRIL)
    assert only_entry(churn).health == "not looked at yet, undetermined: drift"
    signal(ledger, "kind", "sound", APRIL)
    signal(ledger, "realised", "undetermined", APRIL)
    assert only_entry(churn).health == "nothing could be told"
    signal(ledger, "drift", "calm", MAY)
    assert only_entry(churn).health == "sound, undetermined: realised"


def test_what_nobody_learns_from_is_part_of_the_health(churn: Model) -> None:
    ledger = Ledger(churn.home.ledger)
    promoted(ledger)
    body = {"trigger": {"dry_run": False}, "seconds": 1.0, "reasons": ["r"], "facts": {}}
    for when, stage, verdict in ((APRIL, "ingest", "done"), (MAY, "ingest", "done"), (MAY, "validate", "Quarantined")):
        facts = {**body, "stage": stage, "verdict": verdict, "interval": f"{when:%Y-%m-%d}"}
        ledger.append("churn", "stage", f"{when:%m}/{stage}", facts, effective_at=when, run=f"run-{when:%m}")
    signal(ledger, "kind", "broken", APRIL)
    assert only_entry(churn).health == "broken; held: 2024-04-01; 2024-05-01 validate: quarantined"
    ledger.append("churn", "release", "2024-04-01/abc", {}, effective_at=APRIL)
    assert only_entry(churn).health == "broken; 2024-05-01 validate: quarantined"


def test_what_waits_for_a_person(churn: Model) -> None:
    ledger = Ledger(churn.home.ledger)
    promoted(ledger)
    body = {"version": 2, "digest": "d", "champion": champion(2).model_dump(mode="json"), "reasons": ["r"]}
    proposal = ledger.append("churn", "proposal", "run-2", body, effective_at=APRIL, run="run-2")
    assert only_entry(churn).pending.startswith("version 2 waits for approval until")
    assert only_entry(churn, proposal.recorded_at + timedelta(days=8)).pending == "", "nobody answered in time"
    ledger.append(
        "churn", "approval", "run-2/bob", {"version": 2, "verdict": "reject"}, effective_at=APRIL, run="run-2"
    )
    assert only_entry(churn).pending == ""


def test_what_scores_beside_the_champion(churn: Model) -> None:
    ledger = Ledger(churn.home.ledger)
    promoted(ledger)
    rollout = Rollout(purpose="canary", shadow=champion(2), champion=1, share=0.05, since=APRIL, began=APRIL)
    ledger.append("churn", "rollout", "begun", {"rollout": rollout.model_dump(mode="json")}, effective_at=APRIL)
    assert only_entry(churn).pending == "version 2 beside (canary at 5%)"
    ledger.append("churn", "rollout", "over", {"rollout": None}, effective_at=MAY)
    assert only_entry(churn).pending == ""


def test_a_broken_spec_and_a_model_without_one_are_shown(churn: Model) -> None:
    (churn.home.models / "typo.yaml").write_text(yaml.safe_dump({**churn_spec(), "model": "typo", "quallity": {}}))
    promoted(Ledger(churn.home.ledger), "gone")
    entries = {entry.model: entry for entry in inventory.entries(churn.home)}
    assert list(entries) == ["churn", "gone", "typo"]
    assert "did you mean 'quality'?" in entries["typo"].problem
    assert "no spec" in entries["gone"].problem
    assert not entries["churn"].problem


def test_the_page_and_the_table_show_texts_as_they_are(churn: Model) -> None:
    owner = {"name": "[red]<script>alert(1)</script>\x1b[2J", "contact": "a@b"}
    churn.write_spec({**churn_spec(), "owner": owner, "objective": "<b>bold</b> objective"})
    entries = inventory.entries(churn.home)
    page = inventory.page(entries)
    assert "<script>" not in page
    assert "<b>" not in page
    assert "&lt;b&gt;bold&lt;/b&gt; objective" in page
    for width in (100, 140):
        console = Console(file=io.StringIO(), width=width)
        console.print(inventory.table(entries))
        text = console.file.getvalue()  # type: ignore[attr-defined]
        assert "\x1b" not in text
        assert "[red]<script>" in text
        assert max(map(len, text.splitlines())) <= width


@pytest.mark.parametrize("name", ["", "  ", "\t\n", "-", "\u200b"])
@pytest.mark.parametrize("key", ["name", "contact"])
def test_nobody_owns_no_model(key: str, name: str) -> None:
    data = {**churn_spec(), "owner": {**churn_spec()["owner"], key: name}}
    with pytest.raises(InvalidSpec, match=f"owner.{key}"):
        parse(yaml.safe_dump(data), "churn")


def test_an_owner_is_told_without_the_blanks_around() -> None:
    owner: dict[str, Any] = {"name": "  Ada ", "contact": "#team-ada"}
    assert spec_from({**churn_spec(), "owner": owner}).owner.name == "Ada"


def test_an_inventory_costs_no_library_of_data(churn: Model) -> None:
    """The plugin is loaded by every component of Airflow."""
    heavy = {"pandas", "mlflow", "sklearn", "pyarrow"}
    code = f"import sys, retrain.reporting.inventory; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(INCLUDE)}, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]", done.stderr
