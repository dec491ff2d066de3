"""Every benchmark at a tiny size: finite figures, and the same work on both sides. Nothing is said about time."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from benchmarks import alarms, cycle, gates, measure, parse, rollback, rows, timelines
from retrain import pipeline
from retrain.modeling import metrics
from retrain.results import Trigger
from retrain.state.run import Run
from retrain.state.settings import Home

MONTHS = ("2013-01-01", "2013-02-01", "2013-03-01", "2013-04-01")


def tiny_flights(root: Path) -> None:
    """Made-up flights in a spec that has all that the script reads from it: late in the evening and in snow."""
    spec = yaml.safe_load((measure.ROOT / "include" / "models" / "flights.yaml").read_text())
    kept = ("id", "scheduled_departure", "departure_minute", "carrier", "origin", "temp", "arr_delay")
    spec["columns"] = {name: spec["columns"][name] for name in kept}
    spec["quality"] = {"min_rows": 50, "freshness": "5d"}
    # Of several windows the loop may take another for its refresh once it has measured the newest month.
    spec["training"] |= {"min_rows": 100, "windows": [2]}
    boosted = spec["training"]["candidates"][0]
    boosted["parameters"] = {"n_estimators": 30, "learning_rate": 0.3, "min_child_weight": 5}
    boosted["search"] = {"max_depth": [2, 4]}
    spec["evaluation"] = {"resamples": 200, "slices": ["origin"]}
    spec["gate"]["min_rows"] = 100
    (root / "include" / "models" / "flights.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    (root / "data" / "flights").mkdir(parents=True)
    for month in MONTHS:
        draw, size = np.random.default_rng(int(month[5:7])), 900
        start, hours = pd.Timestamp(month, tz="UTC"), np.sort(draw.integers(0, 28 * 24, 900))
        minute, temp = (hours % 24) * 60 + draw.integers(0, 60, size), np.round(draw.normal(45, 15, size), 1)
        delay = 12 * (minute > 900) - 0.3 * (temp - 45) + draw.normal(5, 10, size)
        frame = pd.DataFrame(
            {
                "id": [f"{month}-{n}" for n in range(size)],
                "scheduled_departure": (start + pd.to_timedelta(hours, "h")).strftime("%Y-%m-%dT%H:%M:%SZ"),
                "departure_minute": minute,
                "carrier": draw.choice(["AA", "DL", "UA", "B6"], size),
                "origin": draw.choice(["EWR", "JFK", "LGA"], size),
                "temp": np.where(draw.random(size) < 0.03, np.nan, temp.clip(-20, 110)),
                "arr_delay": pd.array(np.where(draw.random(size) < 0.02, np.nan, delay.round()), dtype="Int64"),
            }
        )
        frame.to_csv(root / "data" / "flights" / f"flights-{month[:7]}.csv", index=False)


def test_the_script_does_the_work_of_the_loop(mlflow: Home, tmp_path: Path) -> None:
    """Same candidates, same scores to the last digit that counts, same verdict: else the ratio means nothing."""
    tiny_flights(mlflow.root)
    spec = mlflow.spec("flights")
    runs = [Run(mlflow, spec, spec.at(month), f"run-{month}", Trigger(kind="manual", force=True)) for month in MONTHS]
    for run in runs[:-1]:
        list(pipeline.run_all(run))
    serving = cycle.champion(mlflow, "flights")
    file = mlflow.models / "flights.yaml"
    script = cycle.bare(file, MONTHS[-1], mlflow.root, tmp_path / "bare" / "work", serving, mlflow.mlflow)
    # The script has loaded the champion by MLflow's own loader; the loop must still take it for what it is.
    list(pipeline.run_all(runs[-1]))
    verdict, scores = cycle.judged(mlflow, "flights", runs[-1].key)
    through = cycle.Cycle(1.0, 1.0, 1.0, (), verdict, scores)
    pair = cycle.Pair(MONTHS[-1], through, script)
    assert pair.same, (through, script)
    assert {"refresh", "champion", "naive", "simple"} <= set(scores)
    assert all(
        math.isfinite(value) and value > 0 for value in (script.wall, script.cpu, script.peak, script.imports_cpu)
    )
    assert {"ingest", "validate", "snapshot", "drift", "train", "evaluate", "gate", "register"} <= set(script.seconds)
    other = replace(script, scores={**script.scores, "refresh": script.scores["refresh"] + 1e-3})
    assert not cycle.Pair(MONTHS[-1], through, other).same
    assert "THE SIDES DIFFER" in cycle.ratios([cycle.Pair(MONTHS[-1], through, other)]).notes[0]


def test_a_missed_bar_is_said() -> None:
    script = cycle.Bare(10.0, 10.0, 100.0, 4.0, 3.0, {"train": 6.0}, "keep", {"new": 0.5})
    slow = cycle.Cycle(13.0, 9.0, 100.0, (cycle.Task("train", 0.1, 0.2, 0.3, 12.0, 0.4),), "keep", {"new": 0.5})
    table = cycle.ratios([cycle.Pair("2013-04-01", slow, script)])
    assert [row[-1] for row in table.rows] == ["MISSED", "met", "met"]
    assert [row[3:5] for row in table.rows[:2]] == [("1.30", "2.17"), ("0.90", "1.29")]
    where = cycle.where([cycle.Pair("2013-04-01", slow, script)], {"cores": 0.2, "MiB": 1000.0})
    assert where.rows[0] == ("train", "0.10", "0.20", "0.30", "12.00", "0.40", "6.00")


def test_the_dag_folder_is_read_with_many_specs_and_nothing_heavy() -> None:
    every, single = parse.read(3, repeats=1), parse.read(3, task=True, repeats=1)
    assert (every.dags, single.dags) == (12, 1)
    assert (every.heavy, single.heavy) == ((), ())
    assert all(math.isfinite(value) and value > 0 for value in (every.first, every.again, single.first, single.again))


def test_every_data_stage_is_measured(tmp_path: Path) -> None:
    measured = rows.stages(2_000, tmp_path)
    assert [stage.name for stage in measured] == list(rows.STAGES)
    assert all(math.isfinite(stage.seconds) and stage.seconds > 0 and stage.peak > 50 for stage in measured)
    verdicts = {stage.name: stage.verdict for stage in measured}
    assert verdicts["validate"] == "accept"
    assert verdicts["drift"] in ("stable", "drift")


def test_the_gates_world_is_as_true_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores of many rows are those that the noise was solved for; then every judge is asked once."""
    for metric in gates.TASKS:
        for kind, rare in (("independent", False), ("rare mistakes", True)):
            world = gates.World(np.random.default_rng(1), metric, kind, 2_000)
            champion = metrics.metric_value(world.task, metric, world.y, world.answers(gates.NOISE))
            assert champion == pytest.approx(gates.true_score(metric, gates.NOISE, False), rel=0.02)
            refresh = metrics.metric_value(world.task, metric, world.y, world.challenger(-0.05))
            wanted = champion * (0.95 if metric == "roc_auc" else 1.05)
            assert refresh == pytest.approx(wanted, rel=0.02), (metric, rare)
    outcomes = gates.cycles(("log_loss", "days", 30, 0, 6, (0.10, -0.10)))
    assert sum(outcome["gate: new"] for outcome in outcomes) >= 5
    assert sum(outcome["gate: both"] for outcome in outcomes) >= 4
    monkeypatch.setattr(gates, "STEPS_BELOW", (0, 10))
    renewed = gates.refreshes(("log_loss", "days", 30, 0.99, 0, 4))
    for judge in ("gate", "point", "mlflow"):
        assert [sum(outcome[judge, below] for outcome in renewed) for below in (0, 10)] == [4, 0], judge
    assert all(outcome["mlflow: new"] for outcome in outcomes)
    monkeypatch.setattr(gates, "STEPS", 2)
    assert gates.creep((0, True, 0.999))[1] <= 2
    crept = [((0, held, 0.999), (lost, 9)) for held, lost in ((False, 0.09), (False, 0.1), (True, 0.01), (True, 0.03))]
    figures = gates._history(crept, [(False, True)] * 100)
    assert figures.rows[3][1] == "100.0% wrong"
    assert "50% of 2 histories" in figures.notes[0]
    assert "met" in figures.notes[1]


def test_figures_land_between_their_markers(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- rows: begin -->\nold\n<!-- rows: end -->\nafter\n")
    table: Any = measure.Figures("Some", ("what", "s"), (("one", "1.0"),), ("note.",))
    measure.write("rows", table.markdown(), page)
    written = page.read_text()
    assert written.startswith("before\n<!-- rows: begin -->\n**Some**")
    assert written.endswith("- note.\n<!-- rows: end -->\nafter\n")
    assert "old" not in written
    with pytest.raises(ValueError, match="no markers"):
        measure.write("cycle", "x", page)


def test_the_oracle_and_the_schedules_are_read_from_the_staleness_matrix() -> None:
    """A change at place 3: the oracle trains once, when its first rows are there, and no schedule beats it."""
    scores: dict[tuple[int | str, int], dict[int, float]] = {
        (window, moment): {
            place: 1.0 if (place >= 3) == (moment > 3 and window == 1) or (window == "all" and place < 3) else 2.0
            for place in range(moment, 6)
        }
        for window in ("all", 1)
        for moment in range(2, 6)
    }
    matrix = timelines.Matrix(scores, dict.fromkeys(scores, 0.5), first=2, intervals=6)
    walked = timelines.fixed(matrix, ("all", 1))
    assert walked["never"].scores == {2: 1.0, 3: 2.0, 4: 2.0, 5: 2.0}
    assert (walked["every 2, last 1"].trainings, walked["every 2, last 1"].cpu) == (1, 1.0)
    best = timelines.oracle(matrix, ("all", 1))
    assert (best.trainings, best.scores) == (1, {2: 1.0, 3: 2.0, 4: 1.0, 5: 1.0})
    assert min(np.mean(list(walk.scores.values())) for walk in walked.values()) >= np.mean(list(best.scores.values()))
    assert timelines.oracle(matrix, ("all", 1), price=10.0).trainings == 0


def test_ours_is_held_against_the_best_schedule_and_one_of_as_many_trainings() -> None:
    def row(kind: str, score: float, trainings: int, cpu: float, month: int = 0) -> timelines.Row:
        steps = tuple(f"{place} trained: why" if place == month else f"{place} skip: why" for place in range(20))

        def walked(score: float, trainings: int, cpu: float) -> dict[int, timelines.Walked]:
            return {
                seed: timelines.Walked({6: score + seed / 1e3, 7: score - seed / 1e3}, trainings, cpu, steps)
                for seed in range(4)
            }

        walks = {
            "never": walked(0.6, 0, 0.0),
            "every 1, all rows": walked(0.5, 14, 1.0),
            "every 6, all rows": walked(0.55, 2, 0.2),
            "ours": walked(score, trainings, cpu),
            timelines.THROUGH_STAGES: {0: walked(0.4, 14, 20.0)[0]},  # of one seed, through our gate: no rival
        }
        return timelines.Row((kind, "binary", "prompt"), walks)

    table = timelines.bars(
        [
            row("abrupt", 0.45, 7, 9.0),
            row("gradual", 0.504, 8, 11.0),
            row("no change", 0.58, 2, 9.0),
            row("broken unit", 0.5, 1, 9.0, month=timelines.CHANGE + 1),
        ]
    )
    sound = timelines.bars([row("broken unit", 0.5, 1, 9.0, month=timelines.CHANGE - 1)]).rows[0]
    assert (sound[3], sound[-1]) == ("1.0 of 1, 0.0 in the broken months", "met")
    assert [line[1] for line in table.rows] == ["every 1, all rows"] * 4
    assert [line[2] for line in table.rows] == ["-10.0% ± 0.0", "+0.8% ± 0.0", "+16.0% ± 0.0", "+0.0% ± 0.0"]
    assert [line[4] for line in table.rows] == ["every 6, all rows"] * 3 + ["never"]
    assert [line[-1] for line in table.rows] == [
        "met",
        "MISSED: trainings and CPU",
        "MISSED: score and trainings and schedule",
        "MISSED: trainings",
    ]
    assert "1 of 4 worlds, 0 allowed: MISSED" in table.notes[1]


def test_of_a_history_that_there_is_one_of_the_interval_is_over_its_intervals() -> None:
    walks = {
        name: {0: timelines.Walked({6: scores[0], 7: scores[1]}, 1, 1.0)}
        for name, scores in {"ours": (0.5, 0.4), "never": (0.6, 0.4)}.items()
    }
    share, half = timelines.apart(timelines.Row(("weather", "binary", "prompt"), walks), "ours", "never", [0])
    assert share == pytest.approx(-0.1)
    assert half == pytest.approx(0.1 * 12.706, rel=1e-3), "Student's t with one degree of freedom"


def test_a_broken_history_is_walked_by_schedules_and_by_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals that count in no score are in nobody's; what was walked is kept and read again."""
    monkeypatch.setattr(timelines, "MONTHS", timelines.FIRST + 2)
    monkeypatch.setattr(timelines, "CHANGE", timelines.FIRST)
    world = timelines.World("all labels wrong", "binary", "prompt", 5)
    walked = timelines.job(world, "fixed", tmp_path)
    assert all(list(walk.scores) == [timelines.FIRST + 1] for walk in walked.values())
    ours = timelines.job(world, "the spec's", tmp_path)["the spec's"]
    assert list(ours.scores) == [timelines.FIRST + 1]
    assert ours.cpu > 0
    assert len(ours.steps) == timelines.MONTHS
    monkeypatch.setattr(timelines, "stream_of", None)
    assert timelines.job(world, "the spec's", tmp_path)["the spec's"] == ours


def test_rollbacks_are_of_models_that_are_as_much_worse_as_they_should_be() -> None:
    draw = np.random.default_rng(0)
    for share in (0.0, 0.1):
        newer, older = rollback.losses(draw, 100, 3_000, (rollback.error_of(share), rollback.ERROR))
        assert newer.mean() / older.mean() - 1 == pytest.approx(share, abs=0.01)
    assert [ours for ours, _ in rollback.months(draw.normal(1, 1, 90), np.arange(90), 30)] == [True] * 3
    assert rollback.first([False, True, True]) == 2
    assert rollback.first([False] * 3) == 4


def test_alarms_are_counted_and_the_other_side_is_tuned() -> None:
    low, high = alarms.wilson(5, 100)
    assert low < 0.05 < high
    columns = len(alarms.KINDS)
    assert alarms.tuned([0, 0, 1, 2], 0.25) == 2 / columns
    assert alarms.tuned([columns] * 4, 0.25) > 1, "no share is large enough"
