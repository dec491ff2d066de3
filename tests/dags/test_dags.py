"""The DAG folder as Airflow reads it, in a process of its own: what is there, what is broken, what it costs."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import jsonschema
import pytest
import yaml

from retrain.errors import BatchMissing, InvalidName, InvalidParameter
from retrain.results import Trigger
from tests.conftest import INCLUDE, Model, churn_spec

DAGS = Path(__file__).parents[2] / "dags"
READ = """
import json, sys
from pathlib import Path
from airflow.dag_processing.dagbag import BundleDagBag
from airflow.serialization.serialized_objects import DagSerialization
bag = BundleDagBag(sys.argv[1], bundle_path=Path(sys.argv[1]), bundle_name="dags")
heavy = {"pandas", "numpy", "sklearn", "xgboost", "mlflow", "great_expectations", "evidently", "dvc", "pyarrow"}
print(json.dumps({
    "dags": {name: [task.task_id for task in dag.topological_sort()] for name, dag in bag.dags.items()},
    "params": {name: dag.params.dump() for name, dag in bag.dags.items()},
    "schemas": {
        name: {key: dag.params.get_param(key).schema for key in dag.params.dump()} for name, dag in bag.dags.items()
    },
    "about": {
        name: [str(d.start_date), str(d.end_date), d.catchup, d.max_active_runs, getattr(d.timetable, "summary", "")]
        for name, d in bag.dags.items()
    },
    "paused": {name: bool(dag.is_paused_upon_creation) for name, dag in bag.dags.items()},
    "without_notice": [task.task_id for dag in bag.dags.values() for task in dag.tasks if not task.on_failure_callback],
    "errors": bag.import_errors,
    "edges": {
        name: {task.task_id: sorted(task.downstream_task_ids) for task in dag.tasks} for name, dag in bag.dags.items()
    },
    "serialized": sorted(DagSerialization.to_dict(dag)["dag"]["dag_id"] for dag in bag.dags.values()),
    "heavy": sorted(heavy & set(sys.modules)),
}))
"""


def read(root: Path, before: str = "", **environment: str) -> dict[str, Any]:
    env = {
        **os.environ,
        "AIRFLOW_HOME": str(root / "airflow"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(root / "none"),
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "CRITICAL",
        "PYTHONPATH": str(INCLUDE),
        "RETRAIN_ROOT": str(root),
        **environment,
    }
    done = subprocess.run(
        [sys.executable, "-c", before + READ, str(DAGS)], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sound specs and four broken ones, one of them without an owner, one with a list where a word belongs."""
    root = tmp_path_factory.mktemp("dags")
    models = root / "include" / "models"
    models.mkdir(parents=True)
    ended = {**churn_spec(), "interval": {"every": "month", "start": "2024-01-01", "end": "2024-07-01"}}
    (models / "churn.yaml").write_text(yaml.safe_dump(ended))
    (models / "weekly.yaml").write_text(
        yaml.safe_dump(
            {
                **churn_spec(),
                "model": "weekly",
                "interval": {"every": "week", "start": "2024-01-01"},
                "monitor": {"every": "day"},
                "promotion": "approve",
            }
        )
    )
    (models / "typo.yaml").write_text(yaml.safe_dump({**churn_spec(), "model": "typo", "quallity": {}}))
    (models / "torn.yaml").write_text("model: [torn")
    (models / "listed.yaml").write_text(yaml.safe_dump({**churn_spec(), "model": "listed", "task": ["regression"]}))
    nobody = {**churn_spec(), "model": "nobody", "owner": {"name": " ", "contact": "ada@example.org"}}
    (models / "nobody.yaml").write_text(yaml.safe_dump(nobody))
    return root


@pytest.fixture(scope="module")
def bag(root: Path) -> dict[str, Any]:
    return read(root)


def test_every_sound_spec_has_its_family(bag: dict[str, Any]) -> None:
    from retrain.pipeline import MONITORING, NAMES, SCORING

    family = ("retrain", "score", "monitor", "rollback")
    all_of = {f"{model}_{name}" for model in ("churn", "weekly") for name in family}
    assert set(bag["dags"]) == {*all_of, "weekly_approve"}, "where the spec asks for approval, there is one more"
    assert set(bag["serialized"]) == set(bag["dags"])
    assert bag["dags"]["churn_retrain"] == list(NAMES)
    assert bag["dags"]["churn_score"] == [stage.name for stage in SCORING]
    assert set(bag["dags"]["churn_monitor"]) == {*(stage.name for stage in MONITORING), "start"}


def test_the_monitor_asks_its_questions_side_by_side(bag: dict[str, Any]) -> None:
    questions = ["drift", "estimate", "measure"]
    assert bag["edges"]["churn_monitor"] == {
        "labels": ["context"],
        "context": questions,
        **{question: ["diagnose"] for question in questions},
        "diagnose": ["regret"],
        "regret": ["rollout"],
        "rollout": ["decide"],
        "decide": ["start"],
        "start": [],
    }


def test_a_version_that_waits_is_asked_about_in_a_dag_of_its_own(bag: dict[str, Any]) -> None:
    from retrain.pipeline import NAMES

    assert bag["dags"]["weekly_retrain"] == [*NAMES, "ask"]
    assert bag["dags"]["weekly_approve"] == ["approve", "promote"]
    assert bag["about"]["weekly_approve"][3] > 1, "one that waits keeps no other waiting"
    assert [bag["paused"][f"weekly_{name}"] for name in ("approve", "rollback")] == [False, False]
    assert set(bag["params"]["weekly_approve"]) == {"version", "digest"}


def test_a_broken_spec_is_shown_and_takes_nothing_with_it(bag: dict[str, Any]) -> None:
    (file,) = bag["errors"]
    assert file.endswith("broken_specs.py"), "a file without DAGs: Airflow deactivates the DAGs of a failing file"
    assert "typo.yaml" in bag["errors"][file]
    assert "did you mean 'quality'?" in bag["errors"][file]
    assert "torn.yaml:1" in bag["errors"][file]
    assert ": task: Input should be 'binary'" in bag["errors"][file]
    assert "owner.name: names nobody" in bag["errors"][file]


def test_whatever_lies_in_the_folder_the_sound_models_keep_their_dags(root: Path, bag: dict[str, Any]) -> None:
    models = root / "include" / "models"
    odd = {
        "latin": "objective: Zürich".encode("latin-1"),
        "crash": b"model: crash",
        "endless": b" " * (300 * 1024),
        "piped": yaml.safe_dump(
            {**churn_spec(), "model": "piped", "training": {
                "candidates": [{"estimator": "linear"}],
                "features": {"file": "piped.py", "adds": {"x": "number"}},
            }}
        ).encode(),
    }  # fmt: skip
    paths = [models / f"{name}.yaml" for name in odd]
    for path, text in zip(paths, odd.values(), strict=True):
        path.write_bytes(text)
    (models / "folder.yaml").mkdir()
    (models / "gone.yaml").symlink_to(models / "nowhere")
    pipes = [models / "pipe.yaml", models / "piped.py"]
    for pipe in pipes:
        os.mkfifo(pipe)
    unforeseen = """
import retrain.spec
load = retrain.spec.load
retrain.spec.load = lambda file: {}["nobody thought of this"] if file.stem == "crash" else load(file)
"""
    try:
        odd_bag = read(root, unforeseen)
    finally:
        for path in (*paths, *pipes, models / "gone.yaml"):
            path.unlink()
        (models / "folder.yaml").rmdir()
    assert odd_bag["dags"] == bag["dags"]
    (file,) = odd_bag["errors"]
    for words in ("latin.yaml: 'utf-8' codec", "crash.yaml: cannot be read: KeyError: 'nobody thought of this'",
                  "endless.yaml: is larger than", "piped.yaml: piped.py is no file", "folder.yaml: is no file",
                  "pipe.yaml: is no file", "gone.yaml: is no file"):  # fmt: skip
        assert words in odd_bag["errors"][file], words
    assert "typo.yaml" in odd_bag["errors"][file], "one hides no other"


def test_reading_imports_nothing_heavy(bag: dict[str, Any]) -> None:
    assert bag["heavy"] == []


@pytest.mark.parametrize("loop", ["retrain", "score", "monitor"])
def test_a_run_is_an_interval_in_order(bag: dict[str, Any], loop: str) -> None:
    start, end, catchup, active, cron = bag["about"][f"churn_{loop}"]
    assert start.startswith("2024-01-01")
    assert end.startswith("2024-06-30")
    assert (catchup, active, cron) == (True, 1, "0 0 1 * *")


def test_the_monitor_has_a_schedule_of_its_own(bag: dict[str, Any]) -> None:
    assert [bag["about"][f"weekly_{loop}"][-1] for loop in ("retrain", "score", "monitor")] == [
        *("0 0 * * 1", "0 0 * * 1", "0 0 * * *")
    ]


def test_a_manual_start_has_its_form(bag: dict[str, Any]) -> None:
    assert set(bag["params"]["churn_retrain"]) == {"interval", "force", "dry_run", "revise", "reason", "alert"}
    assert set(bag["params"]["churn_score"]) == set(bag["params"]["churn_monitor"]) == {"interval"}
    assert set(bag["params"]["churn_rollback"]) == {"reason", "to"}


@pytest.mark.parametrize(
    ("dag", "param", "good", "bad"),
    [
        ("churn_retrain", "interval", ["2024-01-31", "2024-01-31T23:00", "2024-01-31T23:00:00+00:00"],
         ["2024-13-01", "2024-01-32", "2024-01-31; rm", "2024-01-31\n", " 2024-01-31", "2024-01-31T25:00", "x"]),
        ("churn_retrain", "alert", ["", "drift-2024.01:1+2"], ["a b", "a\n", "../x", "a;b"]),
        ("weekly_approve", "digest", ["", "0a" * 32], ["0a", "0A" * 32, "0a" * 32 + "\n"]),
    ],
)  # fmt: skip
def test_a_parameter_is_asked_for_whole(
    bag: dict[str, Any], dag: str, param: str, good: list[str], bad: list[str]
) -> None:
    """Airflow refuses what does not fit when a run is asked for, in the form and in its API."""
    schema = bag["schemas"][dag][param]
    for value, fits in [*((value, True) for value in good), *((value, False) for value in bad)]:
        assert jsonschema.Draft7Validator(schema).is_valid(value) == fits, value


def test_the_forms_ask_for_the_known_parameters(bag: dict[str, Any]) -> None:
    from retrain.state.parameters import PARAMETERS

    for kind, known in PARAMETERS.items():
        assert set(bag["params"][f"weekly_{kind}"]) == set(known), kind


def test_whoever_fails_the_owner_is_told(bag: dict[str, Any]) -> None:
    assert bag["without_notice"] == []


def test_a_task_builds_only_its_own_dag(root: Path) -> None:
    only = read(root, _AIRFLOW_PARSING_CONTEXT_DAG_ID="weekly_retrain", _AIRFLOW_PARSING_CONTEXT_TASK_ID="train")
    assert set(only["dags"]) == {"weekly_retrain"}


# --- what an Airflow run is to the loop


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The file of the stage tasks, read in this process."""
    with pytest.MonkeyPatch.context() as patch:
        empty = tmp_path_factory.mktemp("none")
        patch.setenv("AIRFLOW_HOME", str(empty))
        patch.setenv("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
        patch.setenv("RETRAIN_ROOT", str(empty))
        patch.syspath_prepend(str(DAGS))
        spec = importlib.util.spec_from_file_location("stage_tasks", DAGS / "stage_tasks.py")
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module


def context(
    end: str = "", *, run_id: str = "r", kind: str = "scheduled", by: Any = None, conf: Any = None, **params: Any
) -> Any:
    """What a task is given, of a run whose data interval ends at `end`."""
    stop = datetime.fromisoformat(end).replace(tzinfo=UTC) if end else None
    start = stop and stop.replace(month=stop.month - 1)
    run = SimpleNamespace(
        run_id=run_id, run_type=kind, data_interval_start=start, data_interval_end=stop, triggering_user_name=by,
        conf=conf,
    )  # fmt: skip
    return {"dag_run": run, "params": {"interval": None, **params}}


@pytest.mark.parametrize(
    ("end", "interval", "known_at"),
    [("2024-03-01", "2024-02-01", None), ("2024-03-15", "2024-02-01", datetime(2024, 3, 15, tzinfo=UTC))],
    ids=["at its end", "in between"],
)
def test_the_monitor_knows_what_is_known_when_it_runs(
    tasks: ModuleType, churn: Model, end: str, interval: str, known_at: datetime | None
) -> None:
    run = tasks.current_run(churn.run().spec, "monitor", context(end))
    assert (run.interval.name, run.known_at, run.loop, run.key) == (interval, known_at, "monitor", "monitor-r")


def test_a_monitor_before_the_first_interval_has_ended_is_skipped(tasks: ModuleType, churn: Model) -> None:
    from airflow.sdk.exceptions import AirflowSkipException

    with pytest.raises(AirflowSkipException, match="no interval of churn has ended by 2024-01-15"):
        tasks.newest_interval(churn.run().spec, datetime(2024, 1, 15, tzinfo=UTC))


def test_a_retraining_knows_what_the_decision_knew_that_started_it(tasks: ModuleType, churn: Model) -> None:
    spec, moment = churn.run().spec, datetime(2024, 3, 15, tzinfo=UTC)
    churn.run().ledger.append("churn", "decision", "monitor-x", {"verdict": "retrain"}, effective_at=moment)
    params = {"kind": "operator_triggered", "run_id": "alert-monitor-x", "alert": "monitor-x"}
    run = tasks.current_run(spec, "retrain", context(**params, interval="2024-02-01"))
    assert (run.interval.name, run.as_of, run.key) == ("2024-02-01", moment, "alert-monitor-x")
    assert (run.trigger.kind, run.trigger.id) == ("alert", "monitor-x")
    other = tasks.current_run(spec, "retrain", context(**{**params, "alert": "42"}, interval="2024-02-01"))
    assert other.as_of == other.interval.end


def test_a_run_by_hand_takes_its_parameters(tasks: ModuleType, churn: Model) -> None:
    params = {"force": True, "dry_run": True, "revise": True, "reason": "to see", "alert": ""}
    hand = context(kind="manual", by="ada", interval="2024-02-01", **params)
    run = tasks.current_run(churn.run().spec, "retrain", hand)
    assert (run.trigger.kind, run.interval.name, run.known_at) == ("manual", "2024-02-01", None)
    assert run.trigger == Trigger(
        kind="manual", id="r", force=True, dry_run=True, revise=True, reason="to see", by="ada"
    )
    assert tasks.current_run(churn.run().spec, "score", context("2024-03-01")).trigger.by == ""
    with pytest.raises(InvalidName):
        tasks.current_run(churn.run().spec, "retrain", context("2024-03-01", run_id="monitor-x"))


def test_what_the_form_does_not_know_is_refused_by_the_first_task(tasks: ModuleType, churn: Model) -> None:
    """However the run came: a command line or a task starts one without Airflow's API."""
    spec = churn.run().spec
    for loop, conf in (("retrain", {"dryrun": True}), ("score", {"force": True}), ("monitor", {"alert": "x"})):
        with pytest.raises(InvalidParameter, match=f"churn_{loop} has no parameter"):
            tasks.current_run(spec, loop, context("2024-03-01", conf=conf))


def test_a_refusal_is_told_by_its_own_kind(tasks: ModuleType, churn: Model) -> None:
    error = tasks.Refusal(BatchMissing("no file", do="deliver it"))
    ti = SimpleNamespace(task_id="ingest", log_url="http://127.0.0.1/x")
    notice_of = tasks.failure_notifier(churn.run().spec, "score").notice
    notice, run = notice_of(context("2024-03-01") | {"ti": ti, "exception": error})
    assert (notice.kind, notice.interval, run.loop) == ("batch-missing", "2024-02-01", "score")
    notice, run = notice_of({"ti": ti})
    assert (notice.kind, notice.interval, run) == ("task-failed", "", None), "a killed task has no more than a name"
