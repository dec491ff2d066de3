"""A home that former code wrote (`tests/former/README.md`) is read, judged, scored and carried on by today's."""

from __future__ import annotations

import json
import lzma
import re
import shutil
import sqlite3
import tarfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner

from retrain import results
from retrain.cli import app
from retrain.errors import InvalidSpec, ModelBlocked
from retrain.pipeline import run_all
from retrain.registry import promotion
from retrain.registry.mlflow import load_model
from retrain.reporting import history
from retrain.results import (
    Champion,
    Context,
    DecideReport,
    EvaluateReport,
    FittedModel,
    GateReport,
    SmokeTestReport,
    TrainReport,
    Trigger,
)
from retrain.stages.evaluate import evaluate
from retrain.stages.promote import promote
from retrain.state.former import KEYS
from retrain.state.ledger import Ledger
from retrain.state.run import Run
from retrain.state.settings import Home

FORMER = Path(__file__).parent / "former"
EXPECTED: dict[str, Any] = json.loads((FORMER / "expected.json").read_text())
PLACE = "/srv/former"
"""Where the home was made; MLflow's database names its files by it."""
HEAD = "ebe6eac67877"
"""The hash of the newest record, as the former code computed it."""
DIGESTS = {1: "472112fb7295", 2: "f42fe64a0e06", 3: "1809da7eab49", 4: "ae938af54d3c"}
NEXT = "2024-09-01"
CLOSE = 1e-9
NEWTON = 1e-4
"""What is expected of rows is fitted by another method than it was: the same line, not the same last digits."""


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home as it was packed, which must only be read."""
    folder = tmp_path_factory.mktemp("former")
    with lzma.open(FORMER / "home.tar.xz") as stream, tarfile.open(fileobj=stream) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture
def former(home: Home, unpacked: Path) -> Home:
    """The former home in a place of its own, its spec called as the refusal of the former key asks for."""
    shutil.copytree(unpacked, home.root, dirs_exist_ok=True)
    with sqlite3.connect(home.mlflow.removeprefix("sqlite:///")) as database:
        for statement in (
            "UPDATE experiments SET artifact_location = replace(artifact_location, ?, ?)",
            "UPDATE runs SET artifact_uri = replace(artifact_uri, ?, ?)",
            "UPDATE model_versions SET source = replace(source, ?, ?)",
            "UPDATE model_versions SET storage_location = replace(storage_location, ?, ?)",
        ):
            database.execute(statement, (PLACE, str(home.root)))
    spec = home.models / "churn.yaml"
    spec.write_text(spec.read_text().replace("  sealed: 2", "  holdout: 2"))
    return home


def retrain(*arguments: str, exit_code: int = 0) -> str:
    """What `retrain …` prints, frames and white space taken out."""
    answer = CliRunner().invoke(app, arguments, env={"COLUMNS": "240"}, catch_exceptions=False)
    assert answer.exit_code == exit_code, answer.output
    return re.sub(r"[\s│├└─]+", " ", answer.output)


def run_of(home: Home, key: str, start: str = NEXT, **facts: Any) -> Run:
    spec = home.spec("churn")
    return Run(home, spec, spec.at(start), key, **facts)


def run_next_month(home: Home, loop: str = "retrain", **asked: Any) -> Run:
    """A loop of the next month; no pages are drawn."""
    run = run_of(home, f"{loop}-{NEXT}", trigger=Trigger(kind="laptop", **asked), loop=loop, pages=False)
    for _ in run_all(run):
        pass
    return run


def reports_of(home: Home, key: str) -> dict[str, Any]:
    """Each report of a run as it lies in the store, by its file's name."""
    files = Path(home.store, "churn", "runs", key).glob("*.json")
    return {file.stem: json.loads(file.read_text()) for file in files if file.stem != "spec"}


LATER = {"regret"}
"""Stages that the former code had not."""


def verdicts_of(home: Home, key: str) -> dict[str, str]:
    """The verdicts of a run, without those of stages that the former loop had not."""
    added = LATER if key.startswith("monitor") else {*LATER, "measure", "diagnose"}
    return {
        stage: report["decision"]["verdict"]
        for stage, report in reports_of(home, key).items()
        if "decision" in report and stage not in added
    }


def expected_verdicts(run: dict[str, Any]) -> dict[str, str]:
    """The verdicts of a former run, by the stages' names of today."""
    verdicts = {stage: verdict for stage, verdict in run.items() if stage in (*results_of_stages(), "probe")}
    return {"smoke_test" if stage == "probe" else stage: verdict for stage, verdict in verdicts.items()}


def results_of_stages() -> dict[str, type[results.Result]]:
    """The class of each stage's report."""
    names = [name for name in results.__all__ if name.endswith("Report") and name != "StageReport"]
    stages = {re.sub(r"(?<!^)([A-Z])", r"_\1", name.removesuffix("Report")).lower(): name for name in names}
    return {stage: getattr(results, name) for stage, name in stages.items()} | {"context": Context}


def keys_of(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set(value) | {key for part in value.values() for key in keys_of(part)}
    return {key for part in value for key in keys_of(part)} if isinstance(value, list) else set()


# --- what stands in the home


def test_the_former_spec_is_refused_with_the_key_of_today(former: Home, unpacked: Path) -> None:
    text = (unpacked / "include" / "models" / "churn.yaml").read_text()
    (former.models / "churn.yaml").write_text(text)
    line = text.splitlines().index("  sealed: 2") + 1
    with pytest.raises(InvalidSpec, match=f"churn.yaml:{line}: evaluation.sealed: is now called evaluation.holdout"):
        former.spec("churn")


def test_everything_on_record_is_there_and_unaltered(former: Home) -> None:
    printed = retrain("verify", "churn")
    assert f"chain 233 records, the newest is {HEAD}" in printed
    assert "anchors 4 agree" in printed
    assert "champion alias version 3, as the ledger says" in printed
    for what in ("versions 3 of 3", "snapshots 8 of 8", "batches 8 of 8", "scores 5 of 5"):
        assert f"{what} as recorded" in printed


def test_a_record_that_was_altered_is_still_told(former: Home) -> None:
    """A record is read with today's names; what is hashed is what was written."""
    with sqlite3.connect(former.ledger.removeprefix("sqlite:///")) as database:
        database.execute("DROP TRIGGER retrain_records_no_update")
        database.execute(
            "UPDATE retrain_records SET kind = 'interim_analysis', body = replace(body, 'beside', 'shadow')"
            " WHERE kind = 'look'"
        )
    assert "was altered" in retrain("verify", "churn", exit_code=1)


def test_the_ledger_is_read_in_todays_words(former: Home) -> None:
    records = Ledger(former.ledger).records("churn")
    assert not {"look"} & {record.kind for record in records}
    for record in records:
        assert not keys_of({name: part for name, part in record.body.items() if name != "champion"}) & {*KEYS}, record
    assert not {"probe"} & {record.body.get("stage") for record in records}


def test_every_report_is_read_in_todays_words(former: Home) -> None:
    classes, read = results_of_stages(), set()
    store = Path(former.store, "churn")
    reports = {file: file.stem for file in store.glob("runs/*/*.json") if file.stem != "spec"}
    reports |= dict.fromkeys(store.glob("scores/*/*.json"), "score")
    reports |= dict.fromkeys(store.glob("quality/*/*.json"), "validate")
    for file, stage in reports.items():
        kind = classes["smoke_test" if stage == "probe" else stage]
        report = kind.from_json(file.read_text())
        today = json.loads(report.to_json())
        names = keys_of(today) | {check["name"] for check in today.get("checks", ()) if "name" in check}
        assert not names & {"promised", "sealed", "looks", "pinned", "pins", "barred", "beside"}, file
        assert kind.from_json(report.to_json()) == report
        read.add(kind)
    assert read == {kind for stage, kind in classes.items() if stage not in LATER}


def test_every_model_is_loaded_and_answers_as_it_did(former: Home) -> None:
    """Linear models and trees, with a feature function, date parts, codes and types of ours in them."""
    store, loaded = Path(former.store), set()
    for file in sorted(store.glob("churn/runs/*/*.json")):
        if file.stem not in ("train", "refit"):
            continue
        report = json.loads(file.read_text())
        for fitted in map(FittedModel.model_validate, report["fitted"] if file.stem == "train" else [report["fitted"]]):
            model = load_model(store / fitted.key, fitted.digest)
            loaded.add(fitted.configuration.estimator)
            if file.stem == "refit":
                golden = json.loads((file.parent / "refit" / "golden.json").read_text())
                answers = model.predict_proba(pd.DataFrame(golden["rows"]))[:, 1]
                assert answers.tolist() == pytest.approx(golden["predictions"], rel=CLOSE)
    assert loaded == {"linear", "xgboost", "naive", "simple"}


# --- what is asked of it


def test_history(former: Home) -> None:
    happened = {
        42: ("promoted", "v1", "new is better than the naive baseline: log_loss gain +0.1455, 96% interval"),
        65: ("promoted", "v1 → v2", "refresh is within 0.02841 of champion v1: log_loss gain -0.005911, 96% interval"),
        103: ("gate: inconclusive", "", "refresh may or may not be within 0.03552 of champion v2"),
        120: ("rolled back", "v2 → v1", "support reports odd answers"),
        142: ("waits for approval", "v3", "refresh is within 0.03759 of champion v1"),
        159: ("approved", "v3", "seen and agreed"),
        160: ("promoted", "v1 → v3", "refresh is within 0.03759 of champion v1"),
        163: ("alias put back", "v1 → v3", "a slip of the hand"),
        180: ("gate: inconclusive", "", "new may or may not be better than champion v3"),
        217: ("canary 25%: begun", "v4 beside v3", ""),
    }
    rows = {row.place: row for row in history.rows(Ledger(former.ledger), "churn")}
    assert {place: (row.what, row.change) for place, row in rows.items()} == {
        place: (what, change) for place, (what, change, _) in happened.items()
    }
    for place, (_, _, why) in happened.items():
        assert rows[place].why.startswith(why)
    assert rows[217].evidence == "log_loss 0.5668 / 0.699, laptop-2024-08-01"
    assert {row.who for row in rows.values()} == {"ada"}
    assert "support reports odd answers" in retrain("history", "churn")


@pytest.mark.parametrize(
    ("moment", "version", "reason"),
    [
        ("2024-03-31", None, "nobody served yet: version 1 was the first, from 2024-04-01 00:00 on"),
        ("2024-04-15", 1, "because promoted: new is better than the naive baseline: log_loss gain +0.1455"),
        ("2024-05-15", 2, "because promoted: refresh is within 0.02841 of champion v1: log_loss gain -0.005911"),
        ("2024-06-15", 1, "because rolled back: support reports odd answers"),
        ("2024-07-01", 3, "because promoted: refresh is within 0.03759 of champion v1: log_loss gain -0.001882"),
        ("2024-09-15", 3, "because promoted: refresh is within 0.03759 of champion v1: log_loss gain -0.001882"),
    ],
)
def test_who_served(former: Home, moment: str, version: int | None, reason: str) -> None:
    printed = retrain("served", "churn", "--at", moment)
    assert reason in printed
    if version is not None:
        assert f"version {version} served, digest {DIGESTS[version]}" in printed
        assert "2024-01-01: 250 rows, sha256 ca9ac536fe9e, DVC 962169afa77d at commit d0ccc36d900a" in printed
    if moment == "2024-05-15":
        assert "scored 2024-05-01: 249 of 250 rows by version 2" in printed
        assert "the file is there, unaltered" in printed


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_every_version_is_explained(former: Home, version: int) -> None:
    printed = retrain("explain", "churn", str(version))
    assert f"churn version {version}, digest {DIGESTS[version]}" in printed
    facts = {
        1: ("750 labelled rows of 3 intervals", "gate: promote new (first)", "rollback: version 2 → 1"),
        2: ("1,000 labelled rows of 4 intervals", "blocked from coming back: support reports odd answers"),
        3: (
            "1,500 labelled rows of 6 intervals",
            "approve: seen and agreed",
            "record 160, sequence 4",
            "smoke test · golden",
        ),
        4: (
            "750 labelled rows of 3 intervals",
            "level 0.01 for each comparison, after 1 earlier analyses of these rows",
            "reference_champion: log_loss 0.7562, 0.7037 to 0.7998",
            "passed: new · blocklist",
            "canary beside version 3",
            "alias challenger: this version",
        ),
    }
    for fact in facts[version]:
        assert fact in printed


def test_changelog_inventory_and_status(former: Home) -> None:
    changes = retrain("changelog", "churn")
    for line in (
        "## Version 4 · 2024-09-01 - xgboost, last 3; against version 3: estimator linear → xgboost",
        "log_loss 0.5668 on the holdout rows, version 3 0.699 on the same",
        "2024-07-01 00:00: approved by ada: seen and agreed",
        "2024-06-01 00:00: was taken back, version 1 serves again: support reports odd answers",
        "## Version 1 · 2024-04-01 - the first model: linear, all",
    ):
        assert line in changes
    entry = retrain("inventory")
    assert "version 4 beside (canary at 25%)" in entry
    assert "changed, alarm: drift, estimated" in entry
    months = retrain("status", "churn")
    assert "2024-05-01 250 ok stable retrain 0.5917 0.5920 inconclusive v1 sound" in months
    assert "2024-08-01 250 ok drift retrain 0.5668 0.6990 promote v3 changed" in months


# --- what goes on in it


def test_the_next_month_is_scored_and_watched_as_the_former_code_does(former: Home) -> None:
    """The canary goes on: the champion and the challenger answer the same rows with the same figures."""
    run = run_next_month(former)
    assert verdicts_of(former, run.key) == expected_verdicts(EXPECTED["run"])
    skipped = "version 4 is in canary since 2024-09-01: one challenger at a time"
    assert run.read(DecideReport, "decide").decision.reasons == (skipped,)

    run_next_month(former, "score")
    (file,) = Path(former.store, "churn", "scores", NEXT).glob("*.parquet")
    table = pd.read_parquet(file).set_index("id")
    expected = pd.DataFrame.from_dict(
        EXPECTED["scores"], orient="index", columns=["version", "score", "shadow_version", "shadow_score"]
    )
    pd.testing.assert_frame_equal(
        table[list(expected)], expected, check_dtype=False, check_names=False, rtol=CLOSE, atol=0
    )

    key = run_next_month(former, "monitor").key
    assert verdicts_of(former, key) == expected_verdicts(EXPECTED["monitor"])
    reports = reports_of(former, key)
    estimate = [reports["estimate"][name] for name in ("value", "low", "high", "expected_score", "rows")]
    assert estimate == pytest.approx(EXPECTED["estimate"], rel=NEWTON)
    names = ("version", "rows", "value", "low", "high", "expected", "excess", "excess_low")
    (realised,), (as_expected,) = reports["measure"]["realised"], EXPECTED["measure"]
    assert [realised[name] for name in names] == pytest.approx(as_expected, rel=NEWTON)
    names = ("version", "champion", "rows", "gain", "low", "high")
    assert [reports["rollout"][name] for name in names] == pytest.approx(EXPECTED["rollout"], rel=CLOSE)


def judged_as_expected(run: Run, expected: dict[str, Any]) -> None:
    """The run came to the verdicts of the former code, and may spend what that left.

    Its figures are others: today the holdout teaches before it judges, and a refresh shares no level.
    """
    verdicts = verdicts_of(run.home, run.key)
    # Fitted on more of the newest rows, the gated candidate is nearer to the refit.
    assert (verdicts.pop("refit"), verdicts) == (
        "refit",
        {stage: verdict for stage, verdict in expected_verdicts(expected).items() if stage != "refit"},
    )
    train, evaluate, gate = (
        run.read(TrainReport, "train"),
        run.read(EvaluateReport, "evaluate"),
        run.read(GateReport, "gate"),
    )
    assert evaluate.earlier_analyses == expected["looks"]
    assert evaluate.level == pytest.approx(2 * expected["level"]), "the new configuration has all of it"
    assert 0.5 * expected["rows"] < evaluate.rows < expected["rows"]
    assert all(fitted.chain for fitted in train.fitted)
    assert {*evaluate.metrics} - {"recalibrated"} == {results.current_name(model) for model in expected["metrics"]}
    # The champion of that home loses to a baseline on these rows: today the best score serves.
    scores = {name: of["log_loss"].value or 0.0 for name, of in evaluate.metrics.items()}
    assert gate.lost_to in ("naive", "simple")
    assert gate.challenger_score == min(score for name, score in scores.items() if "champion" not in name)
    assert scores["champion"] > scores[gate.lost_to]


def test_a_forced_month_pays_for_the_former_analyses_of_its_rows(former: Home) -> None:
    """The former record of a look at August's rows is found: what is left of their level is as small as it was."""
    run = run_next_month(former, force=True)
    judged_as_expected(run, EXPECTED["forced"])
    context = run.read(Context, "context")
    assert context.champion
    assert context.champion.version == 3
    assert context.reference_champion
    assert context.reference_champion.version == 1
    assert [blocked.version for blocked in context.blocklist] == [2]
    assert context.rollout
    assert (context.rollout.purpose, context.rollout.shadow.version) == ("canary", 4)
    assert "chain" in retrain("verify", "churn")


def test_a_rollback_and_the_month_after_it(former: Home) -> None:
    printed = retrain("rollback", "churn", "--reason", "as a test")
    assert "rolled back: version 1 serves again: as a test" in printed
    # Today's retraining sees for itself that version 1 fell in this month, and would also try the rows since then.
    spec = former.models / "churn.yaml"
    spec.write_text(spec.read_text().replace("  - 3\n  - change\n", "  - 3\n"))
    run = run_next_month(former)
    judged_as_expected(run, EXPECTED["rolled back"])
    context = run.read(Context, "context")
    assert context.champion
    assert context.champion.digest.startswith(DIGESTS[1])
    assert {blocked.version: blocked.digest[:12] for blocked in context.blocklist} == {2: DIGESTS[2], 3: DIGESTS[3]}
    assert "version 1 served" in retrain("served", "churn", "--at", NEXT)
    assert "ok" in retrain("verify", "churn")


def test_what_was_taken_back_does_not_come_back(former: Home) -> None:
    run = run_of(former, f"laptop-{NEXT}")
    promotions = run.ledger.records("churn", "promotion")
    taken = next(Champion.model_validate(one.body["champion"]) for one in promotions if one.body["version"] == 2)
    with pytest.raises(ModelBlocked, match=r"version 2 is the model of version 2, which is blocked: support reports"):
        promotion.check_promotable(run, promotions, taken, run.as_of)
    retrain("rollback", "churn", "--to", "2", "--reason", "it was good after all")
    assert "version 2 served" in retrain("served", "churn", "--at", "2024-09-02")


def test_a_deleted_champion_is_registered_again_from_its_former_files(former: Home) -> None:
    MlflowClient(former.mlflow).delete_model_version("churn", "3")
    printed = retrain("reconcile", "churn")
    assert "version 3 was gone from MLflow: the same files serve as version 5" in printed
    assert "since 2024-07-01 00:00" in retrain("served", "churn", "--at", NEXT)
    assert "champion alias version 5, as the ledger says" in retrain("verify", "churn")


def test_a_former_run_is_finished_by_todays_code(former: Home) -> None:
    """A task that is tried again after the upgrade finds what the stages before it wrote, by their former names."""
    run = run_of(former, "laptop-2024-06-01", "2024-06-01")
    assert run.read(SmokeTestReport, "smoke_test").version == 3
    decision = promote(run).decision
    assert (decision.verdict, *decision.reasons) == ("promoted", "version 3 serves, was version 1")


def test_the_same_question_about_the_same_rows_is_still_one_analysis(former: Home) -> None:
    """A gate that is tried again after the upgrade spends no level, and comes to the same figures."""
    run = run_of(former, "laptop-2024-08-01", "2024-08-01")
    before = run.read(EvaluateReport, "evaluate")
    analyses = run.ledger.records("churn", "interim_analysis")
    again = evaluate(run)
    assert run.ledger.records("churn", "interim_analysis") == analyses
    # What is said of a finding has today's words. The level is today's of one new configuration.
    apart = {"findings", "decision", "level", "paired"}
    assert again.model_dump(exclude=apart) == before.model_dump(exclude=apart)
    assert [part.model_copy(update={"text": ""}) for part in again.findings] == [
        part.model_copy(update={"text": ""}) for part in before.findings
    ]
    gains = {(pair.model, pair.against): pair.gain for pair in before.paired}
    assert {(pair.model, pair.against): pair.gain for pair in again.paired if pair.metric == "log_loss"} == gains


@pytest.mark.parametrize("version", [2, 4])
def test_a_former_version_is_made_again(former: Home, version: int) -> None:
    """It is made from the same data and spec; the holdout is judged as today, so that its figures are others."""
    printed = retrain("reproduce", "churn", str(version), exit_code=1)
    assert " same data:" in printed
    assert " same spec:" in printed
    chosen = {2: "refresh", 4: "new"}[version]
    assert f", was promote {chosen};" in printed
