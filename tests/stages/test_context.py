"""What a run knows: intervals that are held, those that later ones may answer, and the signals of the lineage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from retrain.stages.context import context
from retrain.state.run import Run
from retrain.state.settings import Home
from tests.conftest import churn_rows, churn_spec
from tests.trained import publish, spec_from

MONTHS = ("2024-01-01", "2024-02-01", "2024-03-01")


@pytest.fixture
def run(home: Home, tmp_path: Path) -> Run:
    """A run of March, three months accepted."""
    spec = spec_from(churn_spec())
    this = Run(home, spec, spec.at(MONTHS[-1]), "this")
    for batch in publish(home, spec, {month: churn_rows(month) for month in MONTHS}, tmp_path):
        body = {"interval": batch.batch.interval.name, "accepted": batch.model_dump(mode="json")}
        this.ledger.append("churn", "snapshot", batch.batch.interval.name, body, effective_at=batch.batch.interval.end)
    return this


def signal(
    run: Run, month: str, verdict: str, at: str, doubt: str = "", question: str = "kind", version: int = 1
) -> None:
    interval = run.spec.at(month)
    body = {
        "question": question, "interval": interval, "champion": version, "verdict": verdict, "reason": "why",
        "effective_at": run.spec.at(at).end, "doubt": doubt,
    }  # fmt: skip
    from retrain.results import Signal

    record = Signal.model_validate(body).model_dump(mode="json")
    short = {"question": question, "interval": interval.name, "champion": version, "verdict": verdict}
    key = f"{question}/{interval.name}/v{version}/{at}/{verdict}"
    run.ledger.append(
        "churn", "signal", key, {**short, "signal": record}, effective_at=body["effective_at"], run="other"
    )


def known(run: Run) -> tuple[tuple[str, ...], list[str]]:
    """The held intervals, and those of them that later ones may answer."""
    report = context(run)
    return report.held, [batch.batch.interval.name for batch in report.doubtful]


def test_a_month_in_doubt_is_held_until_a_later_one_answers(run: Run) -> None:
    signal(run, MONTHS[0], "suspect", MONTHS[0], "open")
    assert known(run) == (("2024-01-01",), ["2024-01-01"])
    signal(run, MONTHS[0], "changed", MONTHS[1])
    assert known(run) == (("2024-01-01",), ["2024-01-01"]), "that is no answer"
    signal(run, MONTHS[0], "changed", MONTHS[2], "answered")
    assert known(run) == ((), [])


@pytest.mark.parametrize("verdict", ["broken", "suspect"])
def test_broken_data_and_labels_turned_round_wait_for_a_person(run: Run, verdict: str) -> None:
    signal(run, MONTHS[0], "suspect", MONTHS[0], "open")
    signal(run, MONTHS[0], verdict, MONTHS[1])
    signal(run, MONTHS[0], "changed", MONTHS[2], "answered")
    assert known(run) == (("2024-01-01",), [])


def test_the_monitor_of_a_moment_asks_anew_what_was_answered_at_it(run: Run) -> None:
    signal(run, MONTHS[2], "suspect", MONTHS[2], "open")
    assert known(run)[0] == ("2024-03-01",)
    assert known(replace(run, loop="monitor"))[0] == ()


def test_an_interval_is_measured_once_and_again_where_it_could_not_be_told(run: Run) -> None:
    for month, verdict in zip(MONTHS, ("calm", "undetermined", "alarm"), strict=True):
        signal(run, month, verdict, month, question="realised")
    assert context(run).measured == ("2024-01-01",), "March is of this very moment"
