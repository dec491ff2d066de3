"""Groups between training and judgement: no row judges of which a compared model knows the entity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from retrain.data import dataset
from retrain.gate import groups
from retrain.results import (
    AcceptedBatch,
    ChainLink,
    Configuration,
    Context,
    EvaluateReport,
    FittedModel,
    GateReport,
    TrainReport,
)
from retrain.spec import Spec
from retrain.stages.evaluate import evaluate
from retrain.stages.gate import gate
from retrain.stages.train import train
from retrain.state.run import Run
from retrain.state.settings import Home
from tests.conftest import churn_rows, churn_spec
from tests.trained import begun, champion_of, publish, spec_from

MONTHS = ("2024-01-01", "2024-02-01", "2024-03-01", "2024-04-01", "2024-05-01")
ALL = Configuration(estimator="linear", parameters={}, pipeline="p")
LAST = ALL.model_copy(update={"window": 1})


def customers(place: int, count: int = 120) -> list[str]:
    """Those of a month: one in three comes every month, one in three comes back from the month before."""
    every = [f"every-{n}" for n in range(count // 3)]
    back = [f"{place - 1}-{n}" for n in range(count // 3)]
    return [*every, *back, *(f"{place}-{n}" for n in range(count - 2 * (count // 3)))]


class Laid:
    """Five published months of customers; the last one is fresh."""

    def __init__(self, home: Home, folder: Path, names: dict[int, list[Any]] | None = None) -> None:
        data = churn_spec()
        data["columns"]["customer"] = {"type": "string", "max_missing": 1.0}
        data["training"]["group"] = "customer"
        self.spec: Spec = spec_from(data)
        frames = {}
        for place, month in enumerate(MONTHS, start=1):
            of_month = (names or {}).get(place) or customers(place)
            shuffled = np.random.default_rng(place).permutation(np.array(of_month, dtype=object))
            frames[month] = churn_rows(month, len(of_month)).assign(customer=shuffled)
        self.accepted: tuple[AcceptedBatch, ...] = publish(home, self.spec, frames, folder)
        self.run: Run = begun(home, self.spec, self.accepted)

    def fitted(self, months: slice, configuration: Configuration = ALL) -> FittedModel:
        batches = self.accepted[months]
        return FittedModel(
            name="new",
            kind="new",
            configuration=configuration,
            training=dataset.training_digest(batches),
            intervals=dataset.intervals(batches),
            rows=9,
            key="k",
            digest="d",
        )

    def left(self, *fitted: FittedModel, champion: Any = None) -> tuple[pd.DataFrame, np.ndarray]:
        about = {"model": "churn", "interval": self.run.interval, "effective_at": self.run.as_of}
        trained = TrainReport(**about, fitted=fitted, holdout=dataset.intervals(self.accepted[4:]), seed=1)
        context = self.run.read(Context, "context").model_copy(update={"champion": champion})
        frame = dataset.read(self.run, self.accepted[4:], ["customer", "churned"])
        return frame, groups.unseen(self.run, context, trained, self.accepted[4:], frame)


@pytest.fixture
def laid(home: Home, tmp_path: Path) -> Laid:
    return Laid(home, tmp_path)


def test_only_customers_whom_no_candidate_knows_judge(laid: Laid) -> None:
    frame, kept = laid.left(laid.fitted(slice(0, 4)))
    assert {name.split("-")[0] for name in frame.loc[kept, "customer"]} == {"5"}
    assert kept.sum() == 40
    # A model that never saw April has not met April's customers.
    frame, kept = laid.left(laid.fitted(slice(0, 3)))
    assert {name.split("-")[0] for name in frame.loc[kept, "customer"]} == {"4", "5"}


def test_what_the_champion_was_fitted_on_counts_for_all(laid: Laid) -> None:
    early = laid.fitted(slice(0, 1))
    for configuration, months, seen in (
        (ALL, slice(0, 4), {"every", "4"}),
        (LAST, slice(2, 3), {"every"}),  # March alone: customers of April have not taught it
    ):
        champion = champion_of(laid.fitted(months, configuration))
        frame, kept = laid.left(early, champion=champion)
        assert {name.split("-")[0] for name in frame.loc[~kept, "customer"]} == seen


@pytest.mark.parametrize(("training", "judge"), [("others by now", False), (None, True)])
def test_a_champion_whose_rows_are_others_by_now_has_seen_all_until_then(
    training: str | None, judge: bool, home: Home, tmp_path: Path
) -> None:
    laid = Laid(home, tmp_path, {5: [f"2-{n}" for n in range(120)]})
    champion = champion_of(laid.fitted(slice(3, 4), LAST), training=training)
    frame, kept = laid.left(laid.fitted(slice(0, 1)), champion=champion)
    known = frame["customer"].isin([f"2-{n}" for n in range(40)]).to_numpy()
    assert kept[known].all() == judge, "customers of February, whom April's rows do not know"


def test_rows_before_a_cut_teach_and_their_customers_do_not_judge_after_it(home: Home, tmp_path: Path) -> None:
    laid = Laid(home, tmp_path, {5: [f"5-{n % 40}" for n in range(120)]})
    spec, first = laid.spec, laid.fitted(slice(0, 4))
    frame, whole = laid.left(first)
    assert whole.all(), "without a cut a customer's own later rows are as new as the first"
    cuts = [frame[spec.source.time].iloc[place].to_pydatetime() for place in (40, 80)]
    newest = first.intervals[-1].model_copy(update={"end": cuts[1]})
    link = ChainLink(until=cuts[0], key="k", digest="d", rows=9)
    _, kept = laid.left(first.model_copy(update={"intervals": (*first.intervals[:-1], newest), "chain": (link,)}))
    part = np.searchsorted(np.array([40, 80]), np.arange(120), side="right")
    expected = [
        not any(frame["customer"].iloc[other] == name and part[other] < part[at] for other in range(at))
        for at, name in enumerate(frame["customer"])
    ]
    assert kept.tolist() == expected
    assert 40 < kept.sum() < 120


def test_a_row_without_a_label_has_taught_nobody(laid: Laid) -> None:
    frame = pd.DataFrame(
        {
            "signup": pd.to_datetime(["2024-05-01", "2024-05-02", "2024-05-03", "2024-05-04"], utc=True),
            "customer": ["a", "b", "a", "b"],
            "churned": [1.0, np.nan, 1.0, 0.0],
        }
    )
    kept = groups.newly_seen(laid.spec, frame, [frame["signup"][2].to_pydatetime()])
    assert kept.tolist() == [True, True, False, True]


def test_rows_without_a_customer_are_one_that_was_seen(home: Home, tmp_path: Path) -> None:
    """Nobody knows whose they are, so nobody can say that they are new."""
    laid = Laid(home, tmp_path, {1: [None, *customers(1)], 5: [None, None, *customers(5)]})
    frame, kept = laid.left(laid.fitted(slice(0, 4)))
    assert not kept[frame["customer"].isna().to_numpy()].any()


def accounts(start: str, rng: np.random.Generator) -> pd.DataFrame:
    """Half of a month's rows are of accounts that come every month, half of new ones; an account churns or does not."""
    place = MONTHS.index(start) + 1
    account = np.concatenate([np.arange(300), 1000 * place + np.arange(300)])
    decided = np.random.default_rng(0).random(10_000) < 0.5
    return churn_rows(start, 600).assign(
        account=rng.permutation(account), churned=lambda rows: decided[rows["account"]]
    )


@pytest.mark.parametrize(("group", "promoted"), [(None, True), ("account", False)])
def test_a_model_that_knows_the_entities_is_seen_through_only_where_they_do_not_judge(
    group: str | None, promoted: bool, home: Home, tmp_path: Path
) -> None:
    """The account's number nearly tells the outcome of an account that was seen, and nothing of a new one."""
    data = churn_spec()
    data["columns"]["account"] = {"type": "integer"}
    for name in ("plan", "visits", "spend", "member"):
        data["columns"][name]["feature"] = False
    data["training"] = {
        "candidates": [{"estimator": "sklearn.tree.DecisionTreeClassifier"}],
        "min_rows": 100,
        "group": group,
        "search": {"split": "time" if group is None else "group"},
    }
    data["gate"] = {"metric": "roc_auc", "min_rows": 100, "calibration": None, "leak": False}
    spec, rng = spec_from(data), np.random.default_rng(1)
    accepted = publish(home, spec, {month: accounts(month, rng) for month in MONTHS[:4]}, tmp_path)
    run = begun(home, spec, accepted)
    for stage in (train, evaluate, gate):
        run.write(stage(run), stage.__name__)
    judged, measured = run.read(GateReport, "gate"), run.read(EvaluateReport, "evaluate")
    assert (judged.decision.verdict == "promote") is promoted, judged.decision
    score = measured.metrics["new"]["roc_auc"].value
    assert score is not None
    if group is None:
        assert score > 0.7
    else:
        assert 0.4 < score < 0.6, "it knows nothing of a new account"
        assert 100 < measured.rows <= 300
        assert any("other rows of the same account" in reason for reason in measured.decision.reasons)


def test_where_only_known_entities_are_left_nothing_is_judged_and_no_level_spent(home: Home, tmp_path: Path) -> None:
    laid = Laid(home, tmp_path, {place: [f"every-{n}" for n in range(600)] for place in range(1, 6)})
    for stage in (train, evaluate):
        laid.run.write(stage(laid.run), stage.__name__)
    report = laid.run.read(EvaluateReport, "evaluate")
    assert report.decision.verdict == "inconclusive"
    (reason,) = report.decision.reasons
    assert reason.startswith("too few rows of a new customer: 0, 500 are needed; ")
    assert "take training.group out" in reason
    assert laid.run.ledger.records("churn", "interim_analysis") == []
