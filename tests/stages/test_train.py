"""The search and the fits of a run, on real libraries and small months."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from retrain.data import dataset
from retrain.errors import DegenerateTraining, EstimatorRefused, FeatureCodeRefused, MissingInput
from retrain.modeling import early_stopping, folds, pipelines, search
from retrain.modeling.folds import Rows
from retrain.modeling.trainer import labelled_rows
from retrain.registry.mlflow import load_model
from retrain.results import Champion, Context, Signal, TrainReport, WindowRegret
from retrain.stages.train import train
from retrain.state.run import Run
from retrain.state.settings import Home
from tests.conftest import churn_rows
from tests.trained import begun, champion_of, publish, spec_from

MONTHS = ("2024-01-01", "2024-02-01", "2024-03-01", "2024-04-01")
XGBOOST = {"estimator": "xgboost", "parameters": {"n_estimators": 60, "max_depth": 2, "min_child_weight": 1}}
Data = dict[str, Any]


@pytest.fixture
def begin(
    home: Home, tmp_path: Path, spec_of: Callable[[], Data], rows_of: Callable[..., pd.DataFrame]
) -> Callable[..., Run]:
    """A run of April with four accepted months."""

    def make(
        change: Callable[[str, pd.DataFrame], pd.DataFrame] = lambda _, frame: frame,
        *,
        months: tuple[str, ...] = MONTHS,
        champion: Champion | None = None,
        key: str = "run",
        data: Data | None = None,
        **training: Any,
    ) -> Run:
        data = data or spec_of()
        data["training"] |= training
        spec = spec_from(data)
        accepted = publish(home, spec, {month: change(month, rows_of(month)) for month in months}, tmp_path)
        return begun(home, spec, accepted, key=key, champion=champion)

    return make


def by_name(report: TrainReport) -> dict[str, Any]:
    return {fitted.name: fitted for fitted in report.fitted}


@pytest.fixture
def serving(begin: Callable[..., Run]) -> Champion:
    """A champion of before April, made by another pipeline: it is neither refreshed nor recalibrated."""
    champion = champion_of(by_name(train(begin(months=MONTHS[:3], key="before")))["new"])
    other = champion.configuration.model_copy(update={"pipeline": "another"})
    april = pd.Timestamp("2024-04-01", tz="UTC")
    return champion.model_copy(update={"configuration": other, "trained_until": april})


def loaded(run: Run, fitted: Any) -> Any:
    with run.store.local(fitted.key) as folder:
        return load_model(folder, fitted.digest)


def scored(run: Run, fitted: Any) -> np.ndarray[Any, Any]:
    context_rows = dataset.read(run, run.read(Context, "context").accepted)
    return pipelines.predict(loaded(run, fitted), run.spec.task, context_rows)


def test_candidates_and_baselines_are_fitted_at_each_cut_of_the_holdout_month(
    begin: Callable[..., Run], serving: Champion
) -> None:
    run = begin(candidates=[{"estimator": "linear"}, XGBOOST], champion=serving)
    report = train(run)
    assert [fitted.name for fitted in report.fitted] == ["new", "naive", "simple"]
    assert [interval.name for interval in report.holdout] == ["2024-04-01"]
    rows = dataset.read(run, run.read(Context, "context").accepted)["signup"]
    for fitted in report.fitted:
        assert [interval.name for interval in fitted.intervals] == list(MONTHS)
        (link,) = fitted.chain
        cut = fitted.intervals[-1].end
        assert (report.judged_from, link.until) == (link.until, pd.Timestamp("2024-04-11", tz="UTC"))
        assert cut == pd.Timestamp("2024-04-21", tz="UTC"), "thirds of 30 days"
        assert (link.rows, fitted.rows) == ((rows < link.until).sum(), (rows < cut).sum())
        assert link.digest != fitted.digest
        assert np.isfinite(scored(run, fitted)).all()
        assert np.isfinite(scored(run, link)).all()
    assert len(report.search) == 2
    assert sum(trial["chosen"] for trial in report.search) == 1
    assert by_name(report)["new"].inner_score == pytest.approx(
        next(trial["mean"] for trial in report.search if trial["chosen"])
    )
    record = run.ledger.records(run.model, "training")[-1]
    assert (record.key, record.effective_at) == (run.key, run.as_of)


def test_all_holdout_rows_judge_a_first_model(begin: Callable[..., Run]) -> None:
    report = train(begin())
    assert report.judged_from is None
    assert {fitted.chain for fitted in report.fitted} == {()}
    assert [interval.name for interval in report.fitted[0].intervals] == list(MONTHS[:3])
    assert not any("cut" in note for note in report.notes)


def test_rows_that_judge_change_nothing(begin: Callable[..., Run], serving: Champion) -> None:
    def plant(since: str) -> Callable[[str, pd.DataFrame], pd.DataFrame]:
        def change(_: str, frame: pd.DataFrame) -> pd.DataFrame:
            late = frame["signup"] >= since
            plan = frame["plan"].where(~late, "gold")
            return frame.assign(plan=plan, spend=frame["spend"].where(~late, 1e9), churned=frame["churned"] ^ late)

        return change

    def digests(report: TrainReport) -> list[tuple[str, str]]:
        return [(fitted.chain[0].digest, fitted.digest) for fitted in report.fitted]

    candidates = [{"estimator": "linear"}, XGBOOST]
    plain = train(begin(candidates=candidates, champion=serving))
    late = train(begin(plant("2024-04-21"), candidates=candidates, champion=serving))
    assert (digests(late), late.search, late.notes) == (digests(plain), plain.search, plain.notes)
    planted = train(begin(plant("2024-04-18"), candidates=candidates, champion=serving))
    for (first, last), (earlier, later) in zip(digests(plain), digests(planted), strict=True):
        assert first == earlier
        assert last != later, "what the first cut judges, the second learns from"


def test_a_holdout_that_would_be_too_small_is_cut_earlier_or_not_at_all(
    begin: Callable[..., Run], spec_of: Callable[[], Data], serving: Champion
) -> None:
    def cut(**gate: int) -> Any:
        data = spec_of()
        data["gate"] = gate
        return train(begin(data=data, champion=serving)).judged_from

    assert cut(min_rows=500) == pd.Timestamp("2024-04-11", tz="UTC"), "200 rows are too few whatever is done"
    assert cut(min_rows=20, min_blocks=25) == pd.Timestamp("2024-04-06", tz="UTC")
    early = cut(min_rows=180)
    assert pd.Timestamp("2024-04-02", tz="UTC") <= early < pd.Timestamp("2024-04-07", tz="UTC")
    assert cut(min_rows=200) is None


def test_rows_of_one_day_are_not_cut(begin: Callable[..., Run], serving: Champion) -> None:
    def one_day(month: str, frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(signup=f"{month}T12:00:00Z")

    report = train(begin(one_day, champion=serving))
    assert (report.judged_from, {fitted.chain for fitted in report.fitted}) == (None, {()})
    assert [interval.name for interval in report.fitted[0].intervals] == list(MONTHS[:3])
    assert any("too few to be cut" in note for note in report.notes)


def test_only_rows_that_no_champion_has_seen_are_cut(begin: Callable[..., Run], spec_of: Callable[[], Data]) -> None:
    first = by_name(train(begin(months=MONTHS[:3])))["new"]
    serving = champion_of(first).model_copy(update={"trained_until": pd.Timestamp("2024-04-01", tz="UTC")})
    data = spec_of()
    data["evaluation"] = {"holdout": 2}
    report = train(begin(champion=serving, data=data))
    assert report.judged_from == pd.Timestamp("2024-04-11", tz="UTC")
    assert [interval.name for interval in report.holdout] == list(MONTHS[2:])


def test_what_the_champion_has_seen_of_the_holdout_teaches_where_the_rest_is_too_little_to_be_cut(
    begin: Callable[..., Run], spec_of: Callable[[], Data]
) -> None:
    first = by_name(train(begin(months=MONTHS[:3])))["new"]
    serving = champion_of(first).model_copy(update={"trained_until": pd.Timestamp("2024-04-01", tz="UTC")})
    data = spec_of()
    data["evaluation"] = {"holdout": 2}
    data["gate"] = {"min_rows": 200}  # April has so many
    report = train(begin(champion=serving, data=data))
    assert report.judged_from == pd.Timestamp("2024-04-01", tz="UTC")
    assert {fitted.chain for fitted in report.fitted} == {()}
    assert [interval.name for interval in report.fitted[0].intervals] == list(MONTHS[:3])


def test_two_runs_give_the_same_report_and_the_same_files(begin: Callable[..., Run]) -> None:
    candidates = [{**XGBOOST, "search": {"max_depth": [1, 2, 3], "learning_rate": [0.1, 0.3]}}]
    first, second = (train(begin(key=key, candidates=candidates, windows=["all", 2])) for key in ("one", "two"))
    assert first.search == second.search
    assert [fitted.digest for fitted in first.fitted] == [fitted.digest for fitted in second.fitted]


def test_rows_without_a_label_are_left_out_and_counted(begin: Callable[..., Run]) -> None:
    report = train(
        begin(lambda _, frame: frame.assign(churned=frame["churned"].astype("boolean").mask(frame.index < 9)))
    )
    assert report.unlabelled == 27
    assert {fitted.rows for fitted in report.fitted} == {573}
    assert any("27" in note for note in report.notes)


def test_the_number_of_trees_is_counted_and_carried(begin: Callable[..., Run]) -> None:
    run = begin(
        candidates=[{**XGBOOST, "parameters": {**XGBOOST["parameters"], "n_estimators": 400}}], early_stopping=5
    )
    new = by_name(train(run))["new"]
    count = new.configuration.parameters["n_estimators"]
    assert 1 <= count < 400
    model = loaded(run, new)
    assert model[-1].get_booster().num_boosted_rounds() == count
    assert model[-1].early_stopping_rounds is None


def test_a_window_trains_on_the_newest_months_only(begin: Callable[..., Run], serving: Champion) -> None:
    def turn(month: str, frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(churned=~frame["churned"]) if month < "2024-03" else frame

    run = begin(turn, windows=["all", 1], months=(*MONTHS, "2024-05-01"), champion=serving)
    new = by_name(train(run))["new"]
    assert new.configuration.window == 1
    assert [interval.name for interval in new.intervals] == ["2024-04-01", "2024-05-01"]
    assert 160 < new.rows < 240, "from the cut a window reaches back a whole month"
    assert 160 < new.chain[0].rows < 240


def test_windows_that_reach_the_beginning_are_tried_once(begin: Callable[..., Run]) -> None:
    run = begin(windows=["all", 2, 3, 7])
    assert [configuration.window for configuration in search.configurations(run.spec, 3)] == [None, 2]
    assert [configuration.window for configuration in search.configurations(run.spec, 9)] == [None, 2, 3, 7]


def test_a_champions_configuration_is_refreshed_where_nothing_is_better(begin: Callable[..., Run]) -> None:
    first = by_name(train(begin(months=MONTHS[:3])))["new"]
    report = train(begin(champion=champion_of(first), candidates=[{"estimator": "linear", "parameters": {"C": 1e-9}}]))
    refresh = by_name(report)["refresh"]
    assert refresh.configuration == first.configuration
    assert [interval.name for interval in refresh.intervals] == list(MONTHS)
    assert "new" not in by_name(report), "a worse configuration does not displace the champion's"
    assert any("only the refresh remains" in note for note in report.notes)


@pytest.mark.parametrize(("ahead", "window"), [("last 2", 2), ("all", None), ("last 7", None)])
def test_a_refresh_is_on_the_rows_whose_shadows_did_best_lately(
    begin: Callable[..., Run], ahead: str, window: int | None
) -> None:
    first = by_name(train(begin(months=MONTHS[:3])))["new"]
    run = begin(champion=champion_of(first), windows=["all", 2])
    gains = {"all": 0.01, "last 2": 0.01} | {ahead: 0.02}
    regret = tuple(WindowRegret(window=name, loss=0.5, gain=gain, rows=9, blocks=3) for name, gain in gains.items())
    signal = Signal(
        question="regret",
        interval=run.interval,
        champion=1,
        verdict="measured",
        reason="it was",
        effective_at=run.as_of,
        regret=regret,
    )
    run.write(run.read(Context, "context").model_copy(update={"signals": (signal,)}), "context")
    report = train(run)
    refresh = by_name(report)["refresh"]
    assert (refresh.kind, refresh.configuration.window) == ("refresh", window)
    assert any("whose shadows lost least" in note for note in report.notes) == (window is not None)


def test_a_baseline_that_serves_is_refreshed_and_wins_no_search(begin: Callable[..., Run]) -> None:
    naive = by_name(train(begin(months=MONTHS[:3])))["naive"]
    report = by_name(train(begin(champion=champion_of(naive))))
    assert report["refresh"].configuration == naive.configuration
    assert report["refresh"].digest == report["naive"].digest
    assert report["new"].configuration.estimator == "linear"


def test_what_a_baseline_stands_in_for_is_fitted_again(begin: Callable[..., Run]) -> None:
    first = by_name(train(begin(months=MONTHS[:3])))
    serving = champion_of(first["naive"]).model_copy(update={"stands_in_for": first["new"].configuration})
    refresh = by_name(train(begin(champion=serving)))["refresh"]
    assert (refresh.configuration, refresh.digest != first["new"].digest) == (first["new"].configuration, True)


def test_no_refresh_across_pipelines(begin: Callable[..., Run]) -> None:
    first = by_name(train(begin(months=MONTHS[:3])))["new"]
    report = train(begin(champion=champion_of(first), date_parts={"signup": ["weekday"]}))
    assert "refresh" not in by_name(report)
    assert any("another pipeline" in note for note in report.notes)


def test_no_refresh_where_the_spec_wants_none(begin: Callable[..., Run]) -> None:
    first = by_name(train(begin(months=MONTHS[:3])))["new"]
    assert list(by_name(train(begin(champion=champion_of(first), refresh=False)))) == ["new", "naive", "simple"]


def test_luck_does_not_displace_the_first_candidate() -> None:
    first = [0.60, 0.70, 0.65]
    assert search._within_one_standard_error(first, [0.66, 0.66, 0.66])
    assert not search._within_one_standard_error(first, [0.62, 0.73, 0.67])


def test_the_champions_configuration_may_come_back_with_more_trees(begin: Callable[..., Run]) -> None:
    slow = {**XGBOOST, "parameters": {**XGBOOST["parameters"], "learning_rate": 0.05, "n_estimators": 200}}
    first = by_name(train(begin(months=MONTHS[:3], candidates=[slow])))["new"]
    few = first.configuration.model_copy(update={"parameters": {**first.configuration.parameters, "n_estimators": 2}})
    serving = champion_of(first.model_copy(update={"configuration": few}))
    report = by_name(train(begin(champion=serving, candidates=[slow])))
    assert report["refresh"].configuration == few, "its own number of trees"
    assert report["new"].configuration.parameters["n_estimators"] > 2
    assert early_stopping.same_except_trees(begin().spec, report["new"].configuration, few)


@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_other_tasks(begin: Callable[..., Run], spec_of: Callable[[], Data], task: str) -> None:
    data = spec_of()
    data["task"] = task
    if task == "multiclass":
        data["columns"]["churned"] = {"type": "category"}
        data["target"] = {"column": "churned", "classes": ["no", "yes", "perhaps"]}
    else:
        data["columns"]["churned"] = {"type": "number"}

    def change(month: str, frame: pd.DataFrame) -> pd.DataFrame:
        if task == "regression":
            return frame.assign(churned=frame["visits"].astype(float) * 2 + frame["spend"])
        named = np.where(frame["churned"], "yes", "no")
        # One class is not met before March: folds that miss it are scored all the same.
        return frame.assign(churned=np.where((frame["visits"] > 50) & (month > "2024-02-15"), "perhaps", named))

    run = begin(change, data=data, candidates=[XGBOOST, {"estimator": "linear"}])
    report = train(run)
    naive, new = (scored(run, by_name(report)[name]) for name in ("naive", "new"))
    assert new.shape == naive.shape == ((800, 3) if task == "multiclass" else (800,))
    assert new.std() > naive.std(axis=0).max()


def test_too_few_labels(begin: Callable[..., Run]) -> None:
    with pytest.raises(DegenerateTraining, match="600 labelled rows in 3"):
        train(begin(min_rows=601))


def test_nothing_before_the_holdout_month(begin: Callable[..., Run]) -> None:
    with pytest.raises(DegenerateTraining, match="0 training intervals"):
        train(begin(months=MONTHS[:1]))


def test_one_outcome(begin: Callable[..., Run]) -> None:
    with pytest.raises(DegenerateTraining, match="outcome False"):
        train(begin(lambda _, frame: frame.assign(churned=False)))


def test_a_feature_function_is_tried_elsewhere_before_it_is_fitted(
    home: Home, tmp_path: Path, spec_of: Callable[[], Data]
) -> None:
    data = spec_of()
    data["training"]["features"] = {"file": "more.py", "adds": {"double": "number"}}
    spec = spec_from(data, "import os\ndef build(frame):\n    getattr(os, '_ex' + 'it')(3)\n")
    accepted = publish(home, spec, {month: churn_rows(month) for month in MONTHS}, tmp_path)
    with pytest.raises(FeatureCodeRefused, match=r"build\(\) was tried, and its process ended with 3"):
        train(begun(home, spec, accepted))


def test_an_estimator_off_the_list(begin: Callable[..., Run]) -> None:
    with pytest.raises(EstimatorRefused, match=r"os\.system"):
        train(begin(candidates=[{"estimator": "os.system"}]))


def test_without_a_context(begin: Callable[..., Run], home: Home) -> None:
    run = begin()
    with pytest.raises(MissingInput):
        train(Run(home, run.spec, run.interval, "other"))


# --- folds


@pytest.fixture
def known(begin: Callable[..., Run]) -> Callable[..., tuple[Run, Rows]]:
    def make(**training: Any) -> tuple[Run, Rows]:
        def grouped(_: str, frame: pd.DataFrame) -> pd.DataFrame:
            return frame.assign(plan=[f"p{place % 23}" for place in range(len(frame))])

        run = begin(grouped, **training)
        context = run.read(Context, "context")
        return run, labelled_rows(run, context.accepted)[0]

    return make


def test_folds_by_time_train_on_the_past_and_validate_on_the_next_month(known: Callable[..., Any]) -> None:
    run, part = known()
    pairs = [(set(part.interval[train_]), set(part.interval[valid])) for train_, valid in folds.folds(run.spec, part)]
    assert pairs == [({0}, {1}), ({0, 1}, {2}), ({0, 1, 2}, {3})]


def test_few_months_are_cut_by_time(known: Callable[..., Any]) -> None:
    run, part = known(months=MONTHS[:1])
    when = part.frame["signup"]
    pairs = list(folds.folds(run.spec, part))
    assert len(pairs) == 3
    for train_, valid in pairs:
        assert when.iloc[train_].max() < when.iloc[valid].min()


@pytest.mark.parametrize("split", ["time", "group"])
def test_groups_stay_on_one_side(known: Callable[..., Any], split: str) -> None:
    if split == "time":
        run, part = known(group="id")
    else:
        run, part = known(group="plan", search={"split": "group"})
    groups = part.frame[run.spec.training.group].astype(str).to_numpy()
    for train_, valid in [*folds.folds(run.spec, part), *early_stopping.stretches(run.spec, part)]:
        assert len(train_)
        assert not set(groups[train_]) & set(groups[valid])


def test_stratified_folds_validate_where_every_window_trains(known: Callable[..., Any]) -> None:
    run, part = known(windows=["all", 2], search={"split": "stratified"})
    for train_, valid in folds.folds(run.spec, part):
        assert set(part.interval[valid]) == {2, 3}
        assert set(part.interval[train_]) == {0, 1, 2, 3}
        assert part.y[valid].mean() == pytest.approx(part.y.mean(), abs=0.1)


def test_trees_are_counted_on_later_rows_than_they_are_fitted_on(known: Callable[..., Any]) -> None:
    run, part = known()
    when = part.frame["signup"]
    stretches = list(early_stopping.stretches(run.spec, part))
    assert len(stretches) == 3
    for fit, rest in stretches:
        assert when.iloc[fit].max() < when.iloc[rest].min()
    assert stretches[-1][1][-1] == len(part.y) - 1


def test_what_is_fitted_in_a_fold_has_not_seen_its_validation_rows(known: Callable[..., Any]) -> None:
    run, part = known(candidates=[{"estimator": "linear"}, XGBOOST], months=MONTHS[:1])
    pairs = list(folds.folds(run.spec, part))
    train_, valid = pairs[0]
    scores = []
    for spend in (1.0, 1e7):
        frame = part.frame.copy()
        frame.loc[valid, "spend"] = frame.loc[valid, "spend"] * spend
        frame["plan"] = frame["plan"].astype(str)
        frame.loc[valid, "plan"] = "only here" if spend > 1 else "other"
        door = pipelines.build(run.spec, search.configurations(run.spec, 1)[0])[:-2]
        planted = Rows(search._with_fold_columns(frame, door.fit_transform(frame), run.spec), part.y, part.interval)
        race = search._Race(run.spec, planted, [pairs[0]], list(search.configurations(run.spec, 1)))
        cache: search.Cache = {}
        for trial in range(2):
            race._answer(trial, train_, valid, cache)
        scores.append((race.counts, [encoded for encoded, _ in cache.values()]))
    assert scores[0][0] == scores[1][0]
    for left, right in zip(scores[0][1], scores[1][1], strict=True):
        assert np.array_equal(_dense(left), _dense(right), equal_nan=True)


def _dense(encoded: Any) -> np.ndarray[Any, Any]:
    return np.asarray(encoded.todense() if hasattr(encoded, "todense") else encoded)


def test_a_better_trial_survives_the_rungs(begin: Callable[..., Run]) -> None:
    candidates = [
        {
            "estimator": "linear",
            "parameters": {"C": 1e-9},
            "search": {"C": [1e-9, 2e-9, 3e-9, 4e-9, 5e-9, 6e-9, 7e-9, 8e-9, 1.0]},
        }
    ]
    report = train(begin(candidates=candidates, search={"trials": 10}))
    assert by_name(report)["new"].configuration.parameters["C"] == 1.0


def more_of_them(month: str, _: pd.DataFrame, since: str = "2024-04") -> pd.DataFrame:
    """From April on most rows without the outcome stay away: a label shift."""
    frame = churn_rows(month, 600)
    rare = np.random.default_rng(int(month[5:7])).random(len(frame)) < 0.3
    return frame if month < since else frame[frame["churned"].astype(bool) | rare]


def served(run: Run, fitted: Any) -> Champion:
    """A fitted model as the champion, its files where this machine keeps its copies."""
    with run.store.local(fitted.key) as folder:
        shutil.copytree(folder, run.home.state / "models" / fitted.digest, dirs_exist_ok=True)
    return champion_of(fitted)


@pytest.fixture
def shifted(begin: Callable[..., Run], spec_of: Callable[[], Data]) -> Callable[..., tuple[Run, TrainReport]]:
    """A run of April whose champion was trained in March, and what it has trained."""

    def make(
        change: Callable[[str, pd.DataFrame], pd.DataFrame] = more_of_them, of: str = "new", **training: Any
    ) -> tuple[Run, TrainReport]:
        data = spec_of() | {"gate": {"min_rows": 50}}
        data["training"] |= {"candidates": [{"estimator": "linear"}]} | training
        first = begin(change, months=MONTHS[:3], key="first", data=data)
        run = begin(change, champion=served(first, by_name(train(first))[of]), data=data, key="second")
        return run, train(run)

    return make


def test_a_label_shift_asks_for_a_recalibration_first(shifted: Callable[..., Any]) -> None:
    run, report = shifted()
    recalibrated = report.fitted[0]
    assert (recalibrated.name, recalibrated.kind) == ("recalibrated", "recalibrated")
    assert any(note.startswith("recalibrated: intercept") for note in report.notes)
    assert len(recalibrated.chain) == len(by_name(report)["refresh"].chain) == 1
    assert recalibrated.chain[0].digest != recalibrated.digest, "later cuts know more"
    assert recalibrated.answers_from == by_name(report)["refresh"].answers_from
    assert recalibrated.configuration.recalibrated.trained_until < recalibrated.answers_from
    again = train(run)
    assert [fitted.digest for fitted in again.fitted] == [fitted.digest for fitted in report.fitted]


def test_nothing_is_recalibrated_within_chance(shifted: Callable[..., Any]) -> None:
    _, report = shifted(partial(more_of_them, since="never"))
    assert "recalibrated" not in by_name(report)
    assert any("not recalibrated: its calibration on" in note for note in report.notes)


def test_the_rows_that_judge_do_not_recalibrate(shifted: Callable[..., Any]) -> None:
    _, report = shifted()
    cut = report.fitted[0].intervals[-1].end

    def planted(month: str, frame: pd.DataFrame) -> pd.DataFrame:
        frame = more_of_them(month, frame)
        late = pd.to_datetime(frame["signup"], utc=True) >= cut
        return frame.assign(churned=frame["churned"].astype(bool) ^ late)

    _, other = shifted(planted)
    assert other.fitted[0].digest == report.fitted[0].digest


def test_the_refresh_of_a_recalibrated_champion_is_its_whole_configuration(
    shifted: Callable[..., Any], begin: Callable[..., Run]
) -> None:
    run, report = shifted()
    data = yaml.safe_load(run.spec.text)
    later = begin(more_of_them, months=(*MONTHS, "2024-05-01"), champion=served(run, report.fitted[0]), data=data)
    refresh = by_name(train(later))["refresh"]
    assert refresh.configuration == by_name(report)["refresh"].configuration
    assert refresh.configuration.recalibrated is None
