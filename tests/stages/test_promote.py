from __future__ import annotations

import multiprocessing
import shutil
from pathlib import Path

import pandas as pd
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.pipeline import Pipeline

from retrain import pipeline
from retrain.errors import ArtifactMissing, NothingToRollBack, OutOfBandChange, PromotionConflict, StaleRun
from retrain.results import Configuration, Context, Decision, Fitted, GateReport, RefitReport, RegisterReport, Trigger
from retrain.run import Run
from retrain.stages.promote import promote, rollback
from retrain.tools.registry import Registry, save_model
from tests.conftest import Model

pytestmark = pytest.mark.usefixtures("mlflow")
MONTHS = ["2024-01-01", "2024-02-01", "2024-03-01", "2024-04-01"]


def registered(model: Model, month: str, *, key: str = "") -> Run:
    """A run that has come as far as a registered version."""
    run = model.run(month, key=key)
    folder = Path(run.store.url(run.path("refit", "model")))
    frame = pd.DataFrame({"x": [0.0, 1.0]})
    pipe = Pipeline([("model", DummyClassifier(strategy="constant", constant=int(month[5:7]) % 2))]).fit(frame, [0, 1])
    digest = save_model(pipe, folder, example=frame, requirements=["scikit-learn"])
    registry = Registry(run.home.mlflow)
    run_id = registry.record(
        experiment="churn", key=run.key, name=month, description="", params={}, metrics={}, tags={}, files={}
    )
    version = registry.register(model="churn", run_id=run_id, folder=folder, digest=digest, tags={}, description="")
    about = {"model": "churn", "interval": run.interval, "effective_at": run.as_of}
    yes = Decision(verdict="promote", reasons=("better",))
    fitted = Fitted(
        name="new", kind="new", training=month, intervals=(run.interval,), rows=2, key=run.path("refit", "model"),
        digest=digest, configuration=Configuration(estimator="linear", parameters={}, pipeline="p"),
    )  # fmt: skip
    run.write(Context(**about, spec_digest="s", trigger=Trigger(), accepted=()), "context")
    run.write(GateReport(**about, decision=yes, chosen="new", kind="new"), "gate")
    run.write(RefitReport(**about, decision=yes, fitted=fitted, golden="", mean_prediction=(0.5,)), "refit")
    run.write(RegisterReport(**about, decision=yes, run_id=run_id, version=version, digest=digest), "register")
    return run


def serving(model: Model) -> int | None:
    return Registry(model.home.mlflow).alias("churn", "champion")


def test_the_alias_moves_once_and_stands_on_record(churn: Model) -> None:
    first, second = registered(churn, MONTHS[0]), registered(churn, MONTHS[1])
    assert promote(first).version == serving(churn) == 1
    said = promote(second)
    assert (said.version, said.previous, said.sequence) == (2, 1, 2)
    assert promote(second) == said, "a retry is the same promotion"
    records = first.ledger.records("churn", "promotion")
    assert [record.body["version"] for record in records] == [1, 2] == [record.sequence for record in records]
    assert records[1].body["reasons"] == ["better"]
    assert serving(churn) == 2


def test_an_older_run_never_replaces_a_newer_champion(churn: Model) -> None:
    older, newer = registered(churn, MONTHS[0]), registered(churn, MONTHS[1])
    promote(newer)
    with pytest.raises(StaleRun):
        promote(older)
    assert serving(churn) == 2


def test_a_retry_of_a_replaced_promotion_changes_nothing(churn: Model) -> None:
    first, second = registered(churn, MONTHS[0]), registered(churn, MONTHS[1])
    promote(first)
    promote(second)
    promote(first)
    assert serving(churn) == 2


def test_a_kill_between_record_and_alias_is_completed(churn: Model) -> None:
    first, second, third = (registered(churn, month) for month in MONTHS[:3])
    promote(first)
    promote(second)
    Registry(churn.home.mlflow).point("churn", "champion", 1)  # as if the second was killed before the alias moved
    promote(second)
    assert serving(churn) == 2
    Registry(churn.home.mlflow).point("churn", "champion", 1)
    assert promote(third).previous == 2, "and whoever comes next completes it too"


def test_an_alias_moved_by_hand_is_never_overwritten(churn: Model) -> None:
    runs = [registered(churn, month) for month in MONTHS]
    for run in runs[:3]:
        promote(run)
    Registry(churn.home.mlflow).point("churn", "champion", 1)
    with pytest.raises(OutOfBandChange, match="points at version 1, the ledger says 3"):
        promote(runs[3])
    with pytest.raises(OutOfBandChange):
        pipeline.roll_back(churn.home, churn.home.spec("churn"), "rb", "bad")
    assert serving(churn) == 1
    assert len(runs[0].ledger.records("churn", "promotion")) == 3


def _race(run: Run) -> str:
    try:
        promote(run)
    except (PromotionConflict, StaleRun) as error:
        return type(error).__name__
    return "won"


def test_of_racing_promoters_the_alias_follows_the_ledger(churn: Model) -> None:
    runs = [registered(churn, MONTHS[0], key=f"racer-{place}") for place in range(4)]
    with multiprocessing.get_context("fork").Pool(4) as pool:
        outcomes = pool.map(_race, runs)
    records = runs[0].ledger.records("churn", "promotion")
    assert outcomes.count("won") == len(records) >= 1
    assert [record.sequence for record in records] == list(range(1, len(records) + 1))
    assert serving(churn) == records[-1].body["version"]


def test_rollback_puts_the_predecessor_back_and_again(churn: Model) -> None:
    runs = [registered(churn, month) for month in MONTHS[:3]]
    for run in runs:
        promote(run)
    spec = churn.home.spec("churn")
    assert pipeline.roll_back(churn.home, spec, "rb-1", "bad scores").version == serving(churn) == 2
    assert pipeline.roll_back(churn.home, spec, "rb-1", "bad scores").version == serving(churn) == 2, "the same one"
    assert pipeline.roll_back(churn.home, spec, "rb-2", "still bad").version == serving(churn) == 1
    with pytest.raises(NothingToRollBack):
        pipeline.roll_back(churn.home, spec, "rb-3", "still bad")
    newest = runs[0].ledger.records("churn", "promotion")[-1]
    assert (newest.body["action"], newest.body["reasons"]) == ("rollback", ["still bad"])


def test_after_a_rollback_a_newer_run_promotes_again(churn: Model) -> None:
    runs = [registered(churn, month) for month in MONTHS[:3]]
    for run in runs[:2]:
        promote(run)
    pipeline.roll_back(churn.home, churn.home.spec("churn"), "rb-1", "bad")
    said = promote(runs[2])
    assert (said.version, said.previous) == (serving(churn), 1) == (3, 1)


def test_a_predecessor_whose_files_are_gone_is_refused(churn: Model) -> None:
    runs = [registered(churn, month) for month in MONTHS[:2]]
    for run in runs:
        promote(run)
    files = [path for path in churn.home.state.rglob("model.skops") if "mlartifacts" in str(path)]
    shutil.rmtree(min(files, key=lambda path: path.stat().st_mtime_ns).parent)
    with pytest.raises(ArtifactMissing):
        rollback(churn.run(MONTHS[2], key="rb"), "bad")
    assert serving(churn) == 2
