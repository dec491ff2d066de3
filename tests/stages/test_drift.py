"""The batch against the champion's reference and against the interval before, by blocks, weighted, and when broken."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from retrain.results import AcceptedBatch, ColumnDrift, Context, Decision, DriftReport, GateReport, TrainReport
from retrain.stages.drift import drift
from retrain.stages.evaluate import evaluate
from retrain.stages.refit import refit
from retrain.stages.train import train
from retrain.state.run import Run
from retrain.state.settings import Home
from tests.conftest import churn_rows, churn_spec
from tests.trained import begun, champion_of, publish, spec_from

TRAINED = ("2024-01-01", "2024-02-01", "2024-03-01")
PREVIOUS, NOW = "2024-04-01", "2024-05-01"
ROWS = 600
Data = dict[str, Any]
Change = Callable[[pd.DataFrame], pd.DataFrame]


class World:
    """A champion of the first quarter, and what comes after it."""

    def __init__(self, home: Home, folder: Path, data: Data, rows_of: Callable[..., pd.DataFrame]) -> None:
        self.home, self.folder, self.rows_of, self.data = home, folder, rows_of, data
        self.spec = spec_from(data)
        run = begun(home, self.spec, self.published(TRAINED), key="training")
        run.write(train(run), "train")
        run.write(evaluate(run), "evaluate")
        decision = Decision(verdict="promote", reasons=("so it was",))
        gate = {"model": run.model, "interval": run.interval, "effective_at": run.as_of}
        run.write(GateReport(**gate, decision=decision, chosen=run.read(TrainReport, "train").fitted[0].name), "gate")
        report = refit(run)
        self.champion = champion_of(report.fitted).model_copy(update={"reference": run.path("refit")})
        with run.store.local(report.fitted.key) as model:
            shutil.copytree(model, home.state / "models" / report.fitted.digest)

    def elsewhere(self, home: Home, folder: Path) -> World:
        """The same world in another home."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        other = copy.copy(self)
        other.home, other.folder = home, folder
        return other

    @property
    def training(self) -> Run:
        return Run(self.home, self.spec, self.spec.at(TRAINED[-1]), "training")

    def published(self, months: tuple[str, ...], change: Change = lambda frame: frame) -> tuple[AcceptedBatch, ...]:
        frames = {month: self.rows_of(month, ROWS) for month in months}
        homes = [f"home {place % 40}" for place in range(ROWS)]
        return publish(
            self.home,
            self.spec,
            {month: change(frame.assign(home=homes)) for month, frame in frames.items()},
            self.folder,
        )

    def report(
        self, change: Change = lambda frame: frame, *, before: Change | None = None, held: bool = False, **more: Any
    ) -> tuple[Run, DriftReport]:
        """The fifth month's drift; `before` changes the fourth, which is left out if `held`."""
        if more:
            self.spec = spec_from(self.data | {"drift": more})
        accepted = self.published(TRAINED)
        accepted += self.published((PREVIOUS,), before or (lambda frame: frame)) + self.published((NOW,), change)
        run = begun(self.home, self.spec, accepted, champion=self.champion)
        if held:
            context = run.read(Context, "context").model_copy(update={"held": (accepted[-2].batch.interval.name,)})
            run.write(context, "context")
        run = dataclasses.replace(run, loop="monitor")
        return run, drift(run)

    def rewrite(self, **facts: Any) -> None:
        """The champion's reference as one from before this or that was in it."""
        key = f"{self.champion.reference}/reference"
        table = pd.read_parquet(io.BytesIO(self.training.store.read(f"{key}.parquet")))
        kept = table[[name for name in table if not name.startswith("__")]]
        self.training.store.write(f"{key}.parquet", kept.to_parquet(index=False))
        old = json.loads(self.training.store.read(f"{key}.json"))
        old.pop("importance", None)
        self.training.store.write(f"{key}.json", json.dumps(old | facts).encode())


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Trained once: every test works in a copy."""
    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RETRAIN_ROOT", str(folder))
        return World(Home.from_environment(), folder, churn_spec(), churn_rows)


@pytest.fixture
def world(plain: World, home: Home, tmp_path: Path) -> World:
    return plain.elsewhere(home, tmp_path)


def verdicts(rows: tuple[ColumnDrift, ...]) -> dict[str, str]:
    return {row.column: row.verdict for row in rows}


def test_a_month_like_the_others_is_stable_against_both(world: World) -> None:
    run, report = world.report()
    assert (report.decision.verdict, report.broken) == ("stable", ())
    assert verdicts(report.columns) == dict.fromkeys(
        ["plan", "visits", "spend", "member", "prediction", "target"], "stable"
    )
    assert verdicts(report.recent) == dict.fromkeys(["plan", "visits", "spend", "member"], "stable")
    assert (report.reference_rows, report.current_rows) == (3 * ROWS, ROWS)
    assert "blocks" in report.columns[0].reason
    for key in (report.html, report.recent_html):
        assert key is not None
        assert b"Data drift: stable" in run.store.read(key)
    assert drift(run) == report
    assert drift(dataclasses.replace(run, loop="retrain")).recent_html is None, "nobody watches a retraining for that"


def test_importance_comes_from_the_gated_model(world: World) -> None:
    """Few visits and the plan make people leave; being a member does not matter."""
    shift = {"visits": lambda t: t["visits"] + 25}
    _, report = world.report(lambda frame: frame.assign(**shift))
    weights = {row.column: row.weight for row in report.columns if row.weight is not None}
    assert sum(weights.values()) == pytest.approx(1, abs=1e-4)
    assert weights["visits"] > 0.5 > 0.1 > weights["member"]
    assert report.decision.verdict == "drift"
    assert report.share == pytest.approx(weights["visits"], abs=1e-4)
    assert verdicts(report.recent)["visits"] == "drift"


def test_an_unimportant_feature_alone_is_no_drift(world: World) -> None:
    _, report = world.report(lambda frame: frame.assign(member=np.arange(len(frame)) % 20 > 0))
    assert verdicts(report.columns)["member"] == "drift"
    assert report.decision.verdict == "stable"


def test_another_unit_is_broken_and_no_changed_world(world: World) -> None:
    _, report = world.report(lambda frame: frame.assign(spend=frame["spend"] * 100))
    assert report.decision.verdict == "broken"
    assert len(report.broken) == 1
    assert report.broken[0].startswith("spend: its values look × 100")
    assert report.decision.reasons[0] == f"broken: {report.broken[0]}"


def test_the_interval_before_is_the_newest_sound_one(world: World) -> None:
    """A fault that goes on is compared with the last batch that nobody held back, not with the faulty one before."""

    def lost(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(visits=frame["visits"].where(frame.index % 2 == 0))

    assert world.report(lost, before=lost)[1].decision.verdict == "drift"
    _, report = world.report(lost, before=lost, held=True)
    assert report.decision.verdict == "broken"
    assert report.broken[0].startswith("visits: 50% of its values are missing, 0% in the interval before")


def test_a_champion_from_before_is_compared_by_rows_and_says_so(world: World) -> None:
    world.rewrite()
    _, report = world.report()
    assert report.decision.verdict == "stable"
    assert report.decision.reasons[-1].startswith("the champion is older than blocks of drift")
    assert {row.weight for row in report.columns} == {None}
    assert "blocks" not in report.columns[0].reason
    assert world.report(lambda frame: frame.assign(spend=frame["spend"] * 100))[1].decision.verdict == "broken"


@pytest.mark.parametrize(("block", "blocks"), [("row", ""), ("week", "in 1"), ("hour", "blocks"), ("interval", "")])
def test_the_spec_says_what_depends(world: World, block: str, blocks: str) -> None:
    _, report = world.report(block=block)
    assert blocks in report.columns[0].reason
    if block == "interval":
        assert report.decision.reasons == ("3 and 1 blocks in which rows depend, 5 in all are needed to tell chance",)
    else:
        assert report.decision.verdict == "stable"


def test_limits_come_from_the_spec(world: World) -> None:
    shift = {"visits": lambda t: t["visits"] + 25}
    for limits in ({"effect": 0.9}, {"thresholds": {"visits": 0.9}, "share": 1.0}, {"ignore": ["visits"]}):
        _, report = world.report(lambda frame: frame.assign(**shift), **limits)
        assert verdicts(report.columns).get("visits") in ("stable", None)
    assert world.report(min_rows=ROWS + 1)[1].decision.verdict == "undetermined"


def test_without_a_champion_or_a_batch_the_verdict_is_undetermined(world: World) -> None:
    accepted = world.published(TRAINED)
    assert drift(begun(world.home, world.spec, accepted, key="a")).decision.verdict == "undetermined"
    run = begun(world.home, world.spec, accepted, key="b", champion=world.champion)
    run.write(run.read(Context, "context").model_copy(update={"accepted": accepted[:1]}), "context")
    assert drift(run).decision.reasons == ("this interval has no accepted batch",)


def test_rows_of_one_group_are_a_block(home: Home, tmp_path: Path) -> None:
    data = churn_spec()
    data["columns"]["home"] = {"type": "string", "feature": False}
    data["training"]["group"] = "home"
    world = World(home, tmp_path, data, churn_rows)
    reference = pd.read_parquet(io.BytesIO(world.training.store.read(f"{world.champion.reference}/reference.parquet")))
    assert reference["__group"].nunique() == 40
    assert "in 80 blocks" in world.report()[1].columns[0].reason
