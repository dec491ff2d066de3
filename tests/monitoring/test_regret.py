"""Shadows beside a champion: real models on small months, whose world changes in the fourth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from retrain.data import dataset
from retrain.modeling import pipelines, trainer
from retrain.monitoring import regret
from retrain.monitoring.estimation.losses import loss_of
from retrain.monitoring.regret import BlockLosses, known_at, measure_regret, paired_regret
from retrain.results import Signal
from retrain.state.settings import Home
from tests.monitoring.stale import ROWS, Stale, counted, names


def measured(world: Stale, month: int, window: int | None = None) -> Signal:
    """The regret of the champion of three months on a later month."""
    champion, model = world.champion(window=window)
    run = world.run(month)
    mature = [batch for batch in world.accepted if batch.mature_at <= run.as_of]
    return measure_regret(run, champion, model, mature, world.accepted[month - 1])


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    noted: list[str] = []
    monkeypatch.setattr(pipelines, "fit", counted(noted))
    return noted


def test_a_stale_champion_has_regret_above_the_shadow_of_the_newest_rows(home: Home) -> None:
    world = Stale(home)
    by_window = {of.window: of for of in measured(world, 6).regret}
    assert set(by_window) == {"all", "last 2"}
    assert by_window["last 2"].relative > by_window["all"].relative > 0.02
    assert by_window["last 2"].error is not None
    assert by_window["last 2"].gain > 3 * by_window["last 2"].error
    assert {of.aged for of in by_window.values()} == {None}, "labels are prompt"
    assert (by_window["all"].rows, by_window["all"].blocks) == (ROWS, 30)


def test_the_figures_are_those_of_the_models_on_the_rows(home: Home) -> None:
    world = Stale(home)
    champion, model = world.champion()
    of = next(of for of in measured(world, 6).regret if of.window == "last 2")
    run, batch = world.run(6), world.accepted[5]
    rows = trainer.labelled_rows(run, (batch,), least=1)[0]
    taught = trainer.labelled_rows(run, world.accepted[3:5])[0]
    shadow = pipelines.fit(world.spec, champion.configuration, taught.frame, taught.y)
    loss = loss_of("binary", "log_loss")
    served, newer = (loss(rows.y, pipelines.predict(of, "binary", rows.frame)) for of in (model, shadow))
    assert of.gain == pytest.approx(served.mean() - newer.mean(), rel=1e-9)
    assert of.relative == pytest.approx(1 - newer.mean() / served.mean(), rel=1e-9)


def test_the_shadows_of_a_baseline_are_of_what_it_stands_in_for(home: Home) -> None:
    world = Stale(home)
    champion, _ = world.champion()
    baseline = champion.configuration.model_copy(update={"estimator": "naive", "parameters": {}})
    serves = champion.model_copy(update={"configuration": baseline, "stands_in_for": champion.configuration})
    assert regret.configurations(world.spec, serves) == regret.configurations(world.spec, champion)
    of_baseline = regret.configurations(world.spec, champion.model_copy(update={"configuration": baseline}))
    assert {of.estimator for of in of_baseline.values()} == {"naive"}, "an old record knows no other"


def test_the_champion_s_own_rows_are_no_regret_and_nothing_is_fitted(home: Home, fits: list[str]) -> None:
    world = Stale(home)
    champion, model = world.champion()
    fits.clear()
    at_once = measure_regret(world.run(4), champion, model, world.accepted[:4], world.accepted[3])
    by_window = {of.window: of for of in at_once.regret}
    assert (by_window["all"].relative, by_window["all"].gain, by_window["all"].note) == (0, 0, regret.SAME)
    assert fits == ["last 2"], "other rows of the same time are another model"


def test_nothing_is_fitted_twice(home: Home, fits: list[str]) -> None:
    world = Stale(home)
    champion, model = world.champion()
    fits.clear()
    first = measure_regret(world.run(6), champion, model, world.accepted[:6], world.accepted[5])
    assert fits == ["all", "last 2"]
    again = measure_regret(world.run(6, "retrain-6"), champion, model, world.accepted[:6], world.accepted[5])
    assert fits == ["all", "last 2"], "another run of the same moment reads what lies in the store"
    assert again == first
    assert len(list((Path(home.store) / "churn/regret/2024-06-01").iterdir())) == 3, "two shadows, one champion"


def test_rows_or_labels_that_changed_are_fitted_anew(home: Home, fits: list[str]) -> None:
    world = Stale(home)
    champion, model = world.champion()
    measure_regret(world.run(6), champion, model, world.accepted[:6], world.accepted[5])
    fits.clear()
    without = [batch for batch in world.accepted[:6] if batch.batch.interval.name != "2024-04-01"]
    measure_regret(world.run(6), champion, model, without, world.accepted[5])
    assert fits == ["all", "last 2"], "a month that is held by now has taught neither"


def test_a_shadow_knows_only_what_had_matured_when_the_interval_began(home: Home) -> None:
    world = Stale(home, late=20)
    assert names(known_at(world.accepted, world.accepted[5].batch.interval.start)) == [
        "2024-01-01", "2024-02-01", "2024-03-01", "2024-04-01",
    ]  # fmt: skip
    prompt = Stale(home)
    assert len(known_at(prompt.accepted, prompt.accepted[5].batch.interval.start)) == 5


def test_where_no_shadow_is_newer_that_is_said_and_nothing_is_fitted(home: Home, fits: list[str]) -> None:
    world = Stale(home, late=20)
    champion, model = world.champion()
    fits.clear()
    blind = measure_regret(world.run(5), champion, model, world.accepted[:4], world.accepted[3])
    assert blind.regret == ()
    assert "no labels newer than those of version 1 were there as it began" in blind.reason
    assert fits == []


def test_a_window_with_too_few_rows_is_left_out_and_named(home: Home) -> None:
    training = {"candidates": [{"estimator": "linear"}], "min_rows": 400, "windows": ["all", 1]}
    world = Stale(home, training=training)
    answer = measured(world, 6)
    assert [of.window for of in answer.regret] == ["all"]
    assert "no shadow on last 1: 300 labelled rows in 1 training intervals" in answer.reason


def test_the_champion_s_own_window_is_asked_too(home: Home) -> None:
    assert [of.window for of in measured(Stale(home), 6, window=3).regret] == ["all", "last 2", "last 3"]


def test_rows_are_capped(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    world = Stale(home, policy={"regret": {"max_rows": 250}})
    champion, model = world.champion()
    sizes = []
    fit = pipelines.fit
    monkeypatch.setattr(pipelines, "fit", lambda *of: sizes.append(len(of[3])) or fit(*of))
    measure_regret(world.run(6), champion, model, world.accepted[:6], world.accepted[5])
    assert sizes == [250, 250]


def test_late_labels_show_what_an_interval_of_age_costs(home: Home, fits: list[str]) -> None:
    world = Stale(home, late=20)
    champion, model = world.champion()
    fits.clear()
    late = measure_regret(world.run(7), champion, model, world.accepted[:6], world.accepted[5])
    by_window = {of.window: of for of in late.regret}
    assert by_window["last 2"].aged is not None
    assert by_window["last 2"].aged > 0.02, "in June one knew of April, in May of March: the world changed between"
    assert len(fits) == 4
    measure_regret(world.run(7), champion, model, world.accepted[:6], world.accepted[5])
    assert len(fits) == 4


def test_one_block_has_no_error() -> None:
    one = BlockLosses(np.array([10.0]), np.array([50.0]))
    assert paired_regret("all", one, one).error is None


def test_the_error_is_that_of_resampled_blocks() -> None:
    random = np.random.default_rng(0)
    rows = random.integers(5, 20, 200).astype(float)
    served = rows * random.gamma(4.0, 0.2, 200)
    newer = served * random.normal(0.95, 0.1, 200)
    of = paired_regret("all", BlockLosses(rows, served), BlockLosses(rows, newer))
    times = random.multinomial(200, np.full(200, 1 / 200), size=4000)
    drawn = (times @ (served - newer)) / (times @ rows)
    assert of.error == pytest.approx(drawn.std(), rel=0.1)


def test_a_champion_of_another_pipeline_is_compared_with_today_s(home: Home) -> None:
    world = Stale(home)
    champion, _ = world.champion()
    old = champion.model_copy(
        update={"configuration": champion.configuration.model_copy(update={"pipeline": "of another time"})}
    )
    today = {configuration.pipeline for configuration in regret.configurations(world.spec, old).values()}
    assert today == {pipelines.pipeline_digest(world.spec)}
    assert dataset.training_digest(world.accepted[:3]) == old.training, "the same rows, and yet another model"
