"""What is expected of a new version: never taken from rows on which the champion fell for no known reason."""

from __future__ import annotations

from typing import Any

import pytest

from retrain.registry.champion import refit_as_champion
from retrain.results import (
    AcceptedBatch,
    Batch,
    Configuration,
    Decision,
    FittedModel,
    GateReport,
    MeasureReport,
    RealisedPerformance,
    RefitReport,
    TrainReport,
)
from retrain.state.settings import Home
from tests.conftest import churn_spec
from tests.trained import begun, champion_of, spec_from


@pytest.mark.parametrize(
    ("verdict", "cause", "expected"),
    [("calm", "", 0.5), ("alarm", "", 0.3), ("alarm", "noise", 0.3), ("alarm", "world", 0.5), (None, "", 0.5)],
)
def test_an_expectation_is_not_taken_from_an_unexplained_fall(
    home: Home, verdict: Any, cause: Any, expected: float
) -> None:
    spec = spec_from(churn_spec())
    interval = spec.at("2024-03-01")
    plain = Configuration(estimator="linear", parameters={}, pipeline="")
    fitted = FittedModel(
        name="new", kind="new", key="model", digest="0", configuration=plain, training="", rows=1,
        intervals=(spec.at("2024-01-01"), interval),
    )  # fmt: skip
    champion = champion_of(fitted).model_copy(update={"expected_score": 0.3})
    batch = Batch(interval=interval, sha256="", rows=1, bytes=1, key="")
    accepted = (AcceptedBatch(batch=batch, md5="", commit="", mature_at=interval.end),)
    run = begun(home, spec, accepted, champion=champion)
    begin = {"model": "churn", "interval": interval, "effective_at": run.as_of}
    decision = Decision(verdict="done", reasons=("done",))
    run.write(TrainReport(**begin, fitted=(fitted,), holdout=(interval,), search=(), seed=0), "train")
    run.write(GateReport(**begin, decision=decision, chosen="new", challenger_score=0.5), "gate")
    run.write(RefitReport(**begin, decision=decision, fitted=fitted, golden="", mean_prediction=(0.5,)), "refit")
    if verdict:
        performance = RealisedPerformance(interval=interval, version=1, verdict=verdict, reason="why", cause=cause)
        run.write(MeasureReport(**begin, decision=decision, realised=(performance,)), "measure")
    assert refit_as_champion(run, 2, "run").expected_score == expected
    assert refit_as_champion(run, 2, "run").stands_in_for is None

    baseline = fitted.model_copy(update={"configuration": plain.model_copy(update={"estimator": "simple"})})
    run.write(RefitReport(**begin, decision=decision, fitted=baseline, golden="", mean_prediction=(0.5,)), "refit")
    assert refit_as_champion(run, 2, "run").renewed_as == plain, "what a retraining asks again"
