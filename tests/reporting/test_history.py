"""Who served when, and why: on both clocks, from the ledger's records."""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from retrain.errors import InvalidInterval
from retrain.reporting import changelog, history
from retrain.results import Champion, Configuration, Trigger
from retrain.state.ledger import Ledger
from retrain.state.projections import champion_at
from retrain.state.store import Store, sha256_of
from tests.conftest import Model


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def champion(version: int, as_of: str, *, trees: int = 100) -> dict[str, Any]:
    return Champion(
        version=version,
        run_id=f"mlflow-{version}",
        digest=f"{version}" * 64,
        configuration=Configuration(estimator="xgboost", parameters={"n_estimators": trees}, pipeline="p"),
        training="t" * 64,
        reference=f"churn/runs/run-{version}/refit",
        trained_until=at(as_of),
        rows=1000 * version,
        effective_at=at(as_of),
    ).model_dump(mode="json")


class Story:
    """A ledger, written to as the loop writes."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger, self.sequence, self.serves = ledger, 0, None

    def champion(self, version: int, as_of: str, action: str = "promote", *, why: str = "better", **more: Any) -> None:
        self.sequence += 1
        facts = champion(version, as_of, trees=100 * version)
        body = {"action": action, "version": version, "previous": self.serves, "kind": action, "reasons": [why]}
        body |= {"champion": facts, "reference_champion": facts, "trigger": Trigger().model_dump(mode="json")}
        key = f"{action}-{self.sequence}"
        self.ledger.append(
            "churn",
            "promotion",
            key,
            body,
            effective_at=at(as_of),
            run=f"run-{version}",
            sequence=self.sequence,
            **more,
        )
        self.serves = version

    def stage(self, stage: str, verdict: str, run: str, as_of: str, *, dry: bool = False, **facts: Any) -> None:
        body = {"stage": stage, "verdict": verdict, "reasons": [f"{stage} said {verdict}"], "facts": facts}
        body |= {"trigger": Trigger(dry_run=dry).model_dump(mode="json"), "interval": "2024-01-01"}
        key = f"{run}/{stage}/{len(self.ledger.records('churn'))}"
        self.ledger.append("churn", "stage", key, body, effective_at=at(as_of), run=run)

    def record(self, kind: str, key: str, as_of: str, run: str, body: dict[str, Any], by: str = "") -> None:
        self.ledger.append("churn", kind, key, body, effective_at=at(as_of), run=run, by=by)


@pytest.fixture
def story(churn: Model) -> Story:
    """Version 1, a tie that kept it, a refused run, version 2 after a person's word, and back to version 1."""
    story = Story(Ledger(churn.home.ledger))
    story.stage("gate", "promote", "run-1", "2024-03-01", challenger=0.51, champion=None, metric="log_loss")
    story.champion(1, "2024-03-01")
    story.stage("gate", "inconclusive", "run-x", "2024-04-01", challenger=0.52, champion=0.52, metric="log_loss")
    story.stage("promote", "LedgerBusy", "run-y", "2024-04-01")
    for _ in range(3):
        story.stage("promote", "StaleRun", "run-y", "2024-04-01")
    story.stage("gate", "keep", "run-z", "2024-04-01", dry=True)
    story.stage("gate", "promote", "run-2", "2024-05-01", challenger=0.48, champion=0.5, metric="log_loss")
    proposal = {
        "version": 2,
        "digest": "2" * 64,
        "reasons": ["better"],
        "champion": champion(2, "2024-05-01", trees=200),
    }
    story.record("proposal", "run-2", "2024-05-01", "run-2", proposal)
    approval = {"version": 2, "digest": "2" * 64, "verdict": "approve", "reason": "[red]fine[/red]\x1b[2J | `go`"}
    story.record("approval", "run-2/bob/approve", "2024-05-01", "run-2", approval, by="bob")
    story.champion(2, "2024-05-01", why="shown to be better")
    story.champion(1, "2024-06-01", "rollback", why="paired loss", by="ada")
    return story


def shown(table: Any, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_a_row_per_change_and_per_refusal(story: Story) -> None:
    rows = history.rows(story.ledger, "churn")
    assert [(row.what, row.change, row.who) for row in rows] == [
        ("promoted", "v1", "schedule"),
        ("gate: inconclusive", "", "schedule"),
        ("refused: StaleRun", "", "schedule"),
        ("waits for approval", "v2", "the loop"),
        ("approved", "v2", "bob"),
        ("promoted", "v1 → v2", "schedule"),
        ("rolled back", "v2 → v1", "ada"),
    ]
    assert rows[5].evidence == "log_loss 0.48 / 0.5, run-2"
    assert rows[-1].why == "paired loss"
    assert [row.place for row in rows] == sorted(row.place for row in rows)


@pytest.mark.parametrize("width", [100, 140])
def test_the_table_shows_texts_as_they_are(story: Story, width: int) -> None:
    text = shown(history.table(story.ledger, "churn"), width)
    assert max(map(len, text.splitlines())) <= width
    assert "\x1b" not in text
    words = "".join(text.split())
    assert "[red]fine" in words, "markup in a reason is a text like any other"
    assert "2024-05-01" in text


MOMENTS = [at("2024-02-29") + timedelta(days=n) for n in range(0, 120, 3)]


def test_served_agrees_with_what_scoring_asks(story: Story, churn: Model) -> None:
    promotions = story.ledger.records("churn", "promotion")
    for moment in MOMENTS:
        serving = champion_at(promotions, moment)
        lines = history.served(churn.home, churn.home.spec("churn"), moment)
        expected = f"  version {serving.version} served" if serving else "  nobody served yet"
        assert lines[1].startswith(expected), (moment, lines)


def test_served_says_since_when_until_when_and_why(story: Story, churn: Model) -> None:
    lines = "\n".join(history.served(churn.home, churn.home.spec("churn"), history.moment("2024-05-04T12:00Z")))
    assert "version 2 served" in lines
    assert "since    2024-05-01 00:00, until 2024-06-01 00:00" in lines
    assert "because  promoted: shown to be better" in lines
    assert "its run's files are gone" in lines, "the story has no store"
    assert "has not been scored" in lines
    assert "on the wall's clock nothing was on record then" in lines


def test_the_wall_s_clock_is_another_question(story: Story, churn: Model) -> None:
    spec, second = churn.home.spec("churn"), story.ledger.records("churn", "promotion")[1]
    lines = history.served(churn.home, spec, second.recorded_at, recorded=True)
    assert lines[1].startswith("  version 2 served")
    assert lines[-1] == "  on the data's clock version 1 served then", "the rollback is as of June 2024"
    long_ago = history.served(churn.home, spec, at("2024-05-04"), recorded=True)
    assert long_ago[1].startswith("  nobody served yet: version 1 was the first, from")


def test_a_record_written_late_speaks_for_its_own_time(churn: Model) -> None:
    """The alias was followed by hand in July, as of May: on the data's clock it served from May on."""
    story = Story(Ledger(churn.home.ledger))
    story.champion(1, "2024-03-01")
    story.champion(2, "2024-06-01")
    story.champion(3, "2024-05-01", "adopt")
    spec = churn.home.spec("churn")
    assert (
        history.served(churn.home, spec, at("2024-04-15"))[2] == "  since    2024-03-01 00:00, until 2024-05-01 00:00"
    )
    assert "version 3 served" in history.served(churn.home, spec, at("2024-07-01"))[1]


def test_served_counts_the_rows_that_each_version_answered(story: Story, churn: Model) -> None:
    store, spec = Store(churn.home.store), churn.home.spec("churn")
    buffer = io.BytesIO()
    pq.write_table(pa.table({"version": pa.array([1, 1, 2, None])}), buffer)
    store.write("churn/scores/file.parquet", buffer.getvalue())
    with store.local("churn/scores/file.parquet") as path:
        sha256 = sha256_of(path)
    body = {"interval": "2024-04-01", "version": 1, "key": "churn/scores/file.parquet", "sha256": sha256}
    body |= {"data": "d" * 64, "rows": 4, "scored": 3}
    story.record("score", "2024-04-01", "2024-05-01", "score-run", body)
    lines = "\n".join(history.served(churn.home, spec, at("2024-04-20")))
    assert "2024-04-01: 3 of 4 rows by version 1, churn/scores/file.parquet" in lines
    assert f"sha256 {sha256}" in lines
    assert "unaltered: 2 rows by version 1, 1 rows by version 2" in lines
    store.write("churn/scores/file.parquet", buffer.getvalue() + b"x")
    assert "the file is not the one on record" in "\n".join(history.served(churn.home, spec, at("2024-04-20")))


def test_an_interval_belongs_to_the_champion_of_its_begin(churn: Model) -> None:
    story = Story(Ledger(churn.home.ledger))
    story.champion(1, "2024-03-01")
    story.champion(2, "2024-04-10")
    body = {"interval": "2024-04-01", "version": 1, "key": "gone", "sha256": "0", "data": "d", "rows": 4, "scored": 4}
    story.record("score", "2024-04-01", "2024-05-01", "score-run", body)
    lines = "\n".join(history.served(churn.home, churn.home.spec("churn"), at("2024-04-20")))
    assert "version 2 served" in lines
    assert "not by version 2: the interval began before that served" in lines


@pytest.mark.parametrize("text", ["soon", "2024-13-01", "", "2024-05-04T12:00Q"])
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(InvalidInterval, match="is no moment"):
        history.moment(text)


def test_before_anything_ran_there_is_a_plain_answer(churn: Model) -> None:
    ledger = Ledger(churn.home.ledger)
    assert history.served(churn.home, churn.home.spec("churn"), at("2024-01-01"))[1].startswith("  nobody served")
    assert "nobody has served yet" in shown(history.table(ledger, "churn"), 100)
    assert "No version was to serve yet" in changelog.changelog("churn", ledger.records("churn"))


# --- the changelog


@pytest.fixture
def log(story: Story) -> Callable[[], str]:
    return lambda: changelog.changelog("churn", story.ledger.records("churn"))


def test_the_changelog_says_what_is_new_and_what_became_of_it(log: Callable[[], str]) -> None:
    newest, first = log().split("## Version ")[1:]
    assert newest.startswith("2 · 2024-05-01")
    assert "xgboost, all; against version 1: n_estimators 100 → 200" in newest
    assert "trained on 2,000 rows until 2024-05-01 00:00, version 1 on 1,000" in newest
    assert "log_loss 0.48 on the holdout rows, version 1 0.5 on the same" in newest
    assert "2024-05-01 00:00: came to serve, by schedule: shown to be better" in newest
    assert "2024-06-01 00:00: was taken back, version 1 serves again: paired loss" in newest
    assert "the first model: xgboost, all" in first
    assert "2024-06-01 00:00: was put back, by ada: paired loss" in first


def test_the_changelog_is_escaped(log: Callable[[], str]) -> None:
    assert r"approved by bob: \[red\]fine\[/red\] \[2J \| \`go\`" in log()


def test_a_version_that_is_coming_stands_on_top(story: Story) -> None:
    coming = Champion.model_validate(champion(3, "2024-07-01", trees=100))
    text = changelog.changelog("churn", story.ledger.records("churn"), coming)
    assert text.index("## Version 3") < text.index("## Version 2")
    assert "xgboost, all: the configuration of version 1 on newer rows" in text
