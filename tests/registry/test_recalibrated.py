"""The champion with its answers recalibrated: on which rows, what is on record of it, and its files."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from retrain.data import dataset
from retrain.errors import DegenerateTraining
from retrain.modeling import pipelines, trainer
from retrain.registry.candidates import fit_candidate
from retrain.registry.mlflow import load_model
from retrain.registry.recalibrated import RECALIBRATED, fit_recalibrated, method_needed
from retrain.rendering.text import differences
from retrain.results import AcceptedBatch, Champion, Configuration, Context, FittedModel
from retrain.state.run import Run
from retrain.state.settings import Home
from tests.trained import begun, champion_of, publish, spec_from

MONTHS = ("2024-01-01", "2024-02-01", "2024-03-01", "2024-04-01", "2024-05-01")
Data = dict[str, Any]


def lay(run: Run, fitted: FittedModel, version: int) -> Champion:
    """The fitted model as the champion, its files where this machine keeps its copies."""
    with run.store.local(fitted.key) as folder:
        shutil.copytree(folder, run.home.state / "models" / fitted.digest)
    return champion_of(fitted).model_copy(update={"version": version, "rows": fitted.rows})


@pytest.fixture
def world(
    home: Home, tmp_path: Path, spec_of: Callable[[], Data], rows_of: Callable[..., pd.DataFrame]
) -> Callable[..., tuple[Run, Champion, tuple[AcceptedBatch, ...]]]:
    """Five months, and a champion of the first three; from April on more rows have the outcome, if it is to shift."""

    def make(shift: bool = True, **more: Any) -> tuple[Run, Champion, tuple[AcceptedBatch, ...]]:
        data = spec_of() | {"gate": {"min_rows": 150}} | more
        data["training"] |= {"candidates": [{"estimator": "linear"}]}
        spec, frames = spec_from(data), {}
        for place, month in enumerate(MONTHS):
            frame, random = rows_of(month, 800, seed=place), np.random.default_rng(place)
            if shift and month >= "2024-04":
                frame = frame[frame["churned"].astype(bool) | (random.random(len(frame)) < 0.3)]
            frame = frame.sample(300, random_state=place).sort_index()
            frames[month] = frame
        accepted = publish(home, spec, frames, tmp_path)
        run = begun(home, spec, accepted)
        configuration = Configuration(estimator="linear", parameters={}, pipeline=pipelines.pipeline_digest(spec))
        known, _ = trainer.labelled_rows(run, accepted[:3])
        _, fitted = fit_candidate(run, run.path("x", "base"), "new", "new", configuration, accepted[:3], known)
        return run, lay(run, fitted, 1), accepted

    return make


def test_the_newest_unseen_rows_teach_and_the_estimator_stays(world: Callable[..., Any]) -> None:
    run, champion, accepted = world()
    known, _ = trainer.labelled_rows(run, accepted)
    method, reason = method_needed(run, champion, known)
    assert method == "intercept", reason
    model, fitted = fit_recalibrated(run, run.path("x", "again"), champion, method, accepted, known)
    assert (fitted.name, fitted.kind) == (RECALIBRATED, "recalibrated")
    assert [interval.name for interval in fitted.intervals] == list(MONTHS)
    newest = known.interval == 4
    assert fitted.rows == champion.rows + newest.sum(), "May alone has gate.min_rows rows"
    answers = pipelines.predict(model, "binary", known.frame.loc[newest])
    assert answers.mean() == pytest.approx(known.y[newest].mean(), abs=1e-6)

    with run.store.local(fitted.key) as folder:
        again = load_model(folder, fitted.digest)
        assert (folder / "code" / "retrain" / "modeling" / "recalibration.py").is_file()
    assert np.array_equal(pipelines.predict(again, "binary", known.frame.loc[newest]), answers)
    _, twin = fit_recalibrated(run, run.path("x", "twin"), champion, method, accepted, known)
    assert twin.digest == fitted.digest, "the same champion and rows give the same files"


def test_what_is_on_record_names_base_and_rows(world: Callable[..., Any]) -> None:
    run, champion, accepted = world()
    known, _ = trainer.labelled_rows(run, accepted)
    _, fitted = fit_recalibrated(run, run.path("x", "again"), champion, "intercept", accepted, known)
    origin = fitted.configuration.recalibrated
    assert origin is not None
    assert (origin.version, origin.digest, origin.rows) == (1, champion.digest, champion.rows)
    assert origin.trained_until == champion.trained_until
    assert champion_of(fitted).trained_until == accepted[-1].batch.interval.end, "no newer row judges it"
    assert fitted.training == trainer.training_digest(accepted, fitted.configuration)
    assert fitted.training != dataset.training_digest(accepted)
    assert fitted.configuration.label == "linear, all, version 1 with another intercept"
    assert fitted.configuration.fitted_as == champion.configuration
    assert Configuration.from_json(fitted.configuration.to_json()) == fitted.configuration
    assert differences(champion.configuration, fitted.configuration) == [
        "the estimator of version 1 with another intercept"
    ]


def test_up_to_a_cut_only_earlier_rows_teach(world: Callable[..., Any]) -> None:
    run, champion, accepted = world()
    known, _ = trainer.labelled_rows(run, accepted)
    cut = accepted[-1].batch.interval.start + timedelta(days=20)
    when = known.frame[run.spec.source.time]
    cut_rows = known.take(np.flatnonzero(when < cut))
    _, part = fit_recalibrated(run, run.path("x", "part"), champion, "intercept", accepted, known, until=cut)
    _, same = fit_recalibrated(run, run.path("x", "same"), champion, "intercept", accepted, cut_rows, until=cut)
    assert part.digest == same.digest
    assert part.intervals[-1].end == cut
    early = accepted[-1].batch.interval.start + timedelta(days=2)
    _, wide = fit_recalibrated(run, run.path("x", "wide"), champion, "intercept", accepted, known, until=early)
    assert wide.rows - champion.rows > 300, "two days have too few rows, so April teaches as well"
    _, april = fit_recalibrated(
        run, run.path("x", "april"), champion, "intercept", accepted, known, until=accepted[-1].batch.interval.start
    )
    assert april.training == trainer.training_digest(accepted[:-1], april.configuration)


def test_within_chance_nothing_is_asked(world: Callable[..., Any]) -> None:
    run, champion, accepted = world(shift=False)
    method, reason = method_needed(run, champion, trainer.labelled_rows(run, accepted)[0])
    assert (method, "within chance" in reason) == (None, True)


def test_rows_that_the_estimator_has_seen_teach_nothing(world: Callable[..., Any]) -> None:
    run, champion, accepted = world()
    known, _ = trainer.labelled_rows(run, accepted[:3])
    with pytest.raises(DegenerateTraining, match="no labelled row is newer than 2024-04-01"):
        method_needed(run, champion, known)
    with pytest.raises(DegenerateTraining, match="no labelled row is newer than 2024-04-01"):
        fit_recalibrated(run, run.path("x", "none"), champion, "intercept", accepted[:3], known)


def test_a_recalibrated_champion_gets_another_calibration(world: Callable[..., Any]) -> None:
    run, champion, accepted = world()
    april, _ = trainer.labelled_rows(run, accepted[:4])
    _, first = fit_recalibrated(run, run.path("x", "first"), champion, "intercept", accepted[:4], april)
    serving = lay(run, first, 2)
    assert run.read(Context, "context").champion is None
    known, _ = trainer.labelled_rows(run, accepted)
    model, second = fit_recalibrated(run, run.path("x", "second"), serving, "intercept", accepted, known)
    assert second.configuration == first.configuration, "still the estimator of version 1"
    assert second.training != first.training
    direct, _ = fit_recalibrated(run, run.path("x", "direct"), champion, "intercept", accepted, known)
    assert type(model[-1].estimator) is type(direct[-1].estimator)
    apart = pipelines.predict(model, "binary", known.frame) - pipelines.predict(direct, "binary", known.frame)
    assert np.abs(apart).max() < 1e-6
