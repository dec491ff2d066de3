"""A run that has made a version stays as it is: another spec, other bytes or another wish is another run."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from retrain import actions, pipeline
from retrain.cli import app
from retrain.errors import ConfigChanged, EvidenceChanged, IntervalConflict, RunSealed
from retrain.live import run_to_go_on_with
from retrain.registry.lineage import lineage_of
from retrain.reporting.explain import explain
from retrain.reporting.verify import verify
from retrain.results import (
    AcceptedBatch,
    Batch,
    Context,
    IngestReport,
    LabelBatch,
    LabelsReport,
    RefitReport,
    Trigger,
)
from retrain.state.evidence import EVIDENCE, seal
from retrain.state.ledger import Ledger, Record
from retrain.state.run import Run
from tests.conftest import Model, churn_rows, churn_spec, enter_home, lay_mlflow, put_back

MONTHS = ("2024-01-01", "2024-02-01", "2024-03-01", "2024-04-01")
LAST, NEXT = MONTHS[2:]
KEY, KEY_OF_NEXT = f"laptop-{LAST}", f"laptop-{NEXT}"
LATER = ("smoke_test.json", "promote.json")
"""Reports that a run may write anew."""


def spec(**more: Any) -> dict[str, Any]:
    return {
        **churn_spec(),
        "interval": {"every": "month", "start": MONTHS[0], "end": "2024-05-01"},
        "gate": {"min_rows": 100, "margin": 0.45},
        "drift": {"min_rows": 100},
        "evaluation": {"resamples": 200},
        **more,
    }


def command(*arguments: str) -> str:
    """What a command prints; a refusal is raised."""
    done = CliRunner().invoke(app, [*arguments])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(scope="module")
def laptop(tmp_path_factory: pytest.TempPathFactory, empty_mlflow: Path) -> Path:
    """A home in which a laptop has run three months: versions 1 and 2 came to serve; the fourth is delivered."""
    root = tmp_path_factory.mktemp("sealed")
    with pytest.MonkeyPatch.context() as patch:
        model = Model(enter_home(root, patch))
        lay_mlflow(model.home, empty_mlflow)
        model.write_spec(spec())
        for month in MONTHS:
            model.deliver(month, rows=400)
            if month != NEXT:
                command("run", "churn", "--interval", month)
    return root


@pytest.fixture
def model(laptop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Model]:
    with put_back(laptop, tmp_path / "kept"):
        yield Model(enter_home(laptop, monkeypatch))


def again(model: Model, *flags: str) -> str:
    return command("run", "churn", "--interval", LAST, *flags)


def edit(model: Model, **more: Any) -> None:
    model.write_spec(spec(training={**spec()["training"], "seed": 7}, **more))


def records(model: Model, kind: str) -> list[Record]:
    return Ledger(model.home.ledger).records("churn", kind)


def champions(model: Model) -> list[tuple[int, str]]:
    """Version and run of each change."""
    return [
        (record.body["version"], record.body["champion"]["reference"].split("/")[2])
        for record in records(model, "promotion")
    ]


def evidence(model: Model, key: str = KEY) -> dict[str, str]:
    """Every file that the run's version points to, by its bytes."""
    folder = Path(model.run().store.url(f"churn/runs/{key}"))
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name not in LATER)
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def sound(model: Model) -> list[str]:
    return [f"{row.what}: {row.finding}" for row in verify(model.home, "churn") if not row.ok]


def found(model: Model, what: str) -> str:
    return next(row.finding for row in verify(model.home, "churn") if row.what == what)


# --- the same is the same, and something else another run


def test_the_same_again_is_the_same_run(model: Model) -> None:
    before, versions = evidence(model), champions(model)
    assert "version 2 serves" in again(model)
    assert "version 2 serves" in again(model, "--revise"), "the same bytes are no revision"
    assert (evidence(model), champions(model)) == (before, versions)
    assert sound(model) == []


def test_an_edited_spec_is_another_run(model: Model) -> None:
    before, served = evidence(model), champions(model)[-1]
    edit(model)
    first = again(model, "--force")
    assert f"{KEY} has made a version, and stays as it is: this run is {KEY}-2" in first
    assert evidence(model) == before
    again(model, "--force")
    assert not model.run().store.keys(f"churn/runs/{KEY}-3"), "asked twice it is one run"
    model.write_spec(spec())
    assert lineage_of(model.home, model.home.spec("churn"), served[0]).run.key == KEY == served[1]
    console = Console(file=io.StringIO(), width=300)
    console.print(explain(model.home, model.home.spec("churn"), 2))
    assert "seed 42" in console.file.getvalue()  # type: ignore[attr-defined]
    assert sound(model) == []


def test_the_message_of_a_conflict_leads_to_a_run_of_its_own(model: Model) -> None:
    before = evidence(model)
    model.deliver(LAST, churn_rows(LAST, 400, seed=1))
    with pytest.raises(IntervalConflict) as refusal:
        again(model)
    advice = refusal.value.do.split("python -m retrain ")[1].split(",")[0]
    assert advice == f"run churn --interval {LAST} --revise"
    assert f"this run is {KEY}-2" in command(*advice.split())
    assert evidence(model) == before
    command(*advice.split())
    again(model)
    assert not model.run().store.keys(f"churn/runs/{KEY}-3")
    assert sound(model) == []


def test_a_rehearsal_and_force_are_runs_of_their_own(model: Model) -> None:
    before = evidence(model)
    again(model, "--dry-run")
    assert evidence(model) == before
    assert run_to_go_on_with(of_laptop(model, force=True)).key == f"{KEY}-2"
    assert run_to_go_on_with(of_laptop(model)).key == KEY
    with pytest.raises(RunSealed, match="this is a dry run"):
        command("promote", "churn", "--interval", LAST, "--run", KEY, "--dry-run")


def of_laptop(model: Model, **asked: Any) -> Run:
    return model.run(LAST, key=KEY, kind="laptop", **asked)


def test_once_another_serves_the_interval_can_be_run_anew(model: Model) -> None:
    actions.roll_back(model.home, model.home.spec("churn"), "rb", "bad")
    assert run_to_go_on_with(of_laptop(model)).key == KEY
    assert run_to_go_on_with(of_laptop(model, force=True)).key == f"{KEY}-2"
    unserved = Ledger(model.home.ledger).records("churn", "promotion")[0].body["champion"]["reference"].split("/")[2]
    assert unserved == "laptop-2024-02-01"


@pytest.mark.parametrize("kind", ["laptop", "schedule"])
def test_a_sealed_run_is_not_run_otherwise(model: Model, kind: str) -> None:
    before = evidence(model)
    edit(model)
    run = replace(of_laptop(model), trigger=Trigger(kind=kind))  # type: ignore[arg-type]
    for stage in pipeline.SEALED:
        with pytest.raises(RunSealed, match="has made version 2: what that rests on stays as it is"):
            pipeline.run_stage(stage, run)
    with pytest.raises(ConfigChanged):
        pipeline.run_stage("promote", run)
    model.write_spec(spec())
    model.deliver(LAST, churn_rows(LAST, 400, seed=1))
    with pytest.raises(RunSealed, match="the delivery is now"):
        pipeline.run_stage("ingest", replace(run, spec=model.home.spec("churn"), trigger=Trigger(revise=True)))
    assert evidence(model) == before


@pytest.mark.parametrize("kind", ["laptop", "schedule"])
def test_a_cleared_run_needs_no_delivery_and_does_no_new_stage(model: Model, kind: str) -> None:
    (model.home.root / "data" / "churn-2024-03.csv").unlink()
    run = replace(of_laptop(model), trigger=Trigger(kind=kind))  # type: ignore[arg-type]
    assert pipeline.run_stage("ingest", run) == run.read(IngestReport, "ingest")
    key = f"{run.folder}/estimate.json"
    report = pipeline.run_stage("labels", run)
    assert report == run.read(LabelsReport, "labels")
    assert not run.store.exists(key)


def test_revised_labels_are_other_bytes(churn: Model) -> None:
    run = churn.run(LAST, key=KEY)
    about: dict[str, Any] = {"model": "churn", "interval": run.interval, "effective_at": run.as_of}
    batch = Batch(interval=run.interval, sha256="b", rows=1, bytes=1, key="b")
    labels = LabelBatch(sha256="first", rows=1, key="l")
    accepted = AcceptedBatch(batch=batch, md5="m", commit="c", mature_at=run.as_of, labels=labels)
    run.write(IngestReport(**about, batch=batch, source="here", source_digest="d"), "ingest")
    run.write(Context(**about, spec_digest=run.spec.digest, trigger=run.trigger, accepted=(accepted,)), "context")
    seal(run)
    for sha256, key in (("first", KEY), ("second", f"{KEY}-2")):
        body = {"interval": LAST, "labels": {"sha256": sha256}}
        run.ledger.append("churn", "labels", sha256, body, effective_at=run.as_of, run=run.key)
        assert run_to_go_on_with(run).key == key


# --- killed, then run again


class Killed(BaseException):
    """The end of a process."""


def run_killed(model: Model, monkeypatch: pytest.MonkeyPatch, place: str, *flags: str) -> None:
    """Run the newest interval, and end it where it calls `place`."""

    def killed(*_: Any, **__: Any) -> Any:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(place, killed)
        with pytest.raises(Killed):
            command("run", "churn", *flags)


@pytest.mark.parametrize(
    ("place", "stage"),
    [
        ("retrain.registry.mlflow.Registry.record", "register"),
        ("retrain.registry.mlflow.Registry.set_alias", "register"),
        ("retrain.stages.promote.promote", "promote"),
    ],
)
def test_killed_once_it_has_begun_to_make_a_version(
    model: Model, monkeypatch: pytest.MonkeyPatch, place: str, stage: str
) -> None:
    """By the same spec it goes on in the same run; by another one another goes on, held against the same champion."""
    run_killed(model, monkeypatch, place)
    before = evidence(model, KEY_OF_NEXT)
    edit(model)
    run_killed(model, monkeypatch, "retrain.stages.promote.promote", "--force")
    assert evidence(model, KEY_OF_NEXT) == before
    second = evidence(model, f"{KEY_OF_NEXT}-2")
    assert second["context.json"] != before["context.json"]
    model.write_spec(spec())
    command("run", "churn")
    ran = [record.body["stage"] for record in records(model, "stage") if record.run == KEY_OF_NEXT]
    assert ran.count(stage) == 2
    assert champions(model)[-1][1] == KEY_OF_NEXT
    after = {name: sha256 for name, sha256 in evidence(model, KEY_OF_NEXT).items() if name in before}
    assert (after, evidence(model, f"{KEY_OF_NEXT}-2")) == (before, second)
    versions = {record.body["facts"].get("version") for record in records(model, "stage")}
    assert sorted(versions - {None}) == [1, 2, 3, 4], "one a run"
    assert sound(model) == []


# --- what a version rests on is held against the record


def test_what_was_edited_after_the_smoke_test_is_not_promoted(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    run_killed(model, monkeypatch, "retrain.stages.promote.promote")
    run, before = model.run(NEXT, key=KEY_OF_NEXT, kind="laptop"), champions(model)
    for name in ("refit.json", "gate.json", "register.json", "smoke_test.json", "refit/golden.json"):
        file = Path(run.store.url(f"{run.folder}/{name}"))
        data = file.read_bytes()
        file.write_text(json.dumps(json.loads(data), indent=3))
        with pytest.raises(EvidenceChanged, match=name):
            pipeline.run_stage("promote", run)
        if name != "smoke_test.json":  # what is tested anew is on record anew
            with pytest.raises(EvidenceChanged, match=name):
                pipeline.run_stage("smoke_test" if name.startswith("refit/") else name.removesuffix(".json"), run)
        file.write_bytes(data)
    assert champions(model) == before
    command("run", "churn")
    assert champions(model)[-1] == (3, KEY_OF_NEXT)


def test_verify_finds_an_edited_golden_row_and_a_lost_file(model: Model) -> None:
    run = of_laptop(model)
    assert found(model, "evidence").endswith(" as recorded")
    golden = Path(run.store.url(run.path("refit", "golden.json")))
    golden.write_text(golden.read_text().replace("0.", "1.", 1))
    Path(run.store.url(run.path("refit", "holdout.parquet"))).unlink()
    wrong = sound(model)
    assert len(wrong) == 3, wrong
    assert any("refit/golden.json does not have the digest" in text for text in wrong)
    assert any("refit/holdout.parquet" in text for text in wrong)
    actions.roll_back(model.home, model.home.spec("churn"), "rb-1", "bad")
    with pytest.raises(EvidenceChanged, match=r"golden\.json has the digest"):
        actions.roll_back(model.home, model.home.spec("churn"), "rb-2", "good after all", to=2)
    assert champions(model)[-1][0] == 1


def test_of_versions_from_before_there_was_a_record_verify_says_how_many(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ledger, "records", without_evidence(Ledger.records))
    assert found(model, "evidence") == "0 of 0 as recorded; of 2 earlier versions none is on record"
    assert sound(model) == []
    edit(model)
    with pytest.raises(RunSealed):
        pipeline.run_stage("train", of_laptop(model))


def without_evidence(records: Any) -> Any:
    def all_but(self: Ledger, model: str, kind: str | None = None, **more: Any) -> list[Record]:
        return [record for record in records(self, model, kind, **more) if record.kind != EVIDENCE]

    return all_but


def test_the_reports_of_another_model_explain_no_version(model: Model) -> None:
    run = of_laptop(model)
    other = model.run(MONTHS[1], key="laptop-2024-02-01").read(RefitReport, "refit")
    run.write(other, "refit")
    with pytest.raises(EvidenceChanged, match="version 2 is"):
        lineage_of(model.home, run.spec, 2)
    assert "its run's files are gone" in command("served", "churn", "--at", "2024-04-02")
