"""A version made again from what is under version control, its chain explained, and its card where people look."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from rich.console import Console

from retrain import pipeline
from retrain.errors import MissingInput, SnapshotCorrupt, UnknownVersion
from retrain.reporting.explain import explain
from retrain.reporting.history import moment, served
from retrain.rerun.reproduce import Reproduction, reproduce
from retrain.results import Context, EvaluateReport, IngestReport, RegisterReport
from retrain.state.ledger import Ledger
from retrain.state.run import Run
from tests.conftest import Model, churn_rows, churn_spec, enter_home, lay_mlflow

MONTHS = ["2024-01-01", "2024-02-01", "2024-03-01"]
ROWS = 300
PREDICTIONS = "predictions.parquet"


def spec() -> dict[str, Any]:
    return {
        **churn_spec(),
        "labels": {"source": {"path": "data/labels-{start:%Y-%m}.csv"}},
        "gate": {"min_rows": 100, "margin": 0.05},
        "drift": {"min_rows": 100},
        "evaluation": {"resamples": 200, "slices": ["plan"]},
    }


@pytest.fixture(scope="module")
def year(tmp_path_factory: pytest.TempPathFactory, empty_mlflow: Path) -> Path:
    """A home with versions 1 and 2; the labels come apart, and version 2's holdout rows had been analysed before."""
    root = tmp_path_factory.mktemp("reproduce")
    with pytest.MonkeyPatch.context() as patch:
        model = Model(enter_home(root, patch))
        lay_mlflow(model.home, empty_mlflow)
        model.write_spec(spec())
        for month in MONTHS:
            frame = churn_rows(month, ROWS)
            model.deliver(month, frame.drop(columns="churned"))
            labels = root / "data" / f"labels-{month[:7]}.csv"
            frame[["id", "churned"]].iloc[:-10].to_csv(labels, index=False)
            run = model.run(month)
            if month == MONTHS[2]:
                pipeline.run_stage("ingest", run)
                analysis = {"intervals": [month], "candidates": ["new"], "level": 0.05, "expected": 1}
                analysis["batches"] = [run.read(IngestReport, "ingest").batch.sha256]
                run.ledger.append(
                    *("churn", "interim_analysis", "earlier", analysis), effective_at=run.as_of, run="another"
                )
            for _ in pipeline.run_all(run):
                pass
    return root


@pytest.fixture
def model(year: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    return Model(enter_home(year, monkeypatch))


@contextmanager
def without(folder: Path) -> Iterator[None]:
    """The folder is away for a while."""
    aside = folder.with_name(f"{folder.name}.aside")
    folder.rename(aside)
    try:
        yield
    finally:
        aside.rename(folder)


@contextmanager
def altered(file: Path, data: bytes) -> Iterator[None]:
    """The file says something else for a while; a read-only one too, as DVC keeps its own."""
    before, mode = file.read_bytes(), file.stat().st_mode
    file.chmod(0o644)
    file.write_bytes(data)
    try:
        yield
    finally:
        file.write_bytes(before)
        file.chmod(mode)


def state(model: Model) -> dict[str, str]:
    """Every file of the installation but MLflow's own database."""
    files = [file for file in model.home.state.rglob("*") if file.is_file() and "mlflow" not in file.parts]
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def reproduced(model: Model, version: int = 2) -> Reproduction:
    return reproduce(model.home, model.home.spec("churn"), version)


def same_parts(report: Reproduction) -> dict[str, bool]:
    """Part → whether it is the same."""
    return {part.name: part.same for part in report.parts}


def test_a_version_comes_out_the_same_without_the_store_s_data(model: Model) -> None:
    evaluate = model.run(MONTHS[2]).read(EvaluateReport, "evaluate")
    assert evaluate.earlier_analyses == 1, "the level hangs on an earlier analysis"
    before = state(model)
    with without(Path(model.home.store) / "churn" / "batches"), without(Path(model.home.store) / "churn" / "labels"):
        report = reproduced(model)
    assert report.same, list(report.lines())
    assert same_parts(report).keys() >= {"data", "spec", "metrics", "predictions", "gate", "the version's files"}
    assert {name for name in same_parts(report) if name.startswith("model ")} >= {"model naive", "model simple"}
    assert report.parts[0].detail == "6 files, 900 rows, back by hash from the data registry"
    assert report.circumstances == ()
    assert next(report.lines()) == "churn version 2: the same"
    assert state(model) == before, "nothing of the installation may change"


def test_the_first_model_comes_out_the_same(model: Model) -> None:
    assert reproduced(model, 1).same


def test_what_the_run_had_measured_is_there_for_its_training(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    run_stage, reports = pipeline.run_stage, list[tuple[bytes, ...]]()

    def keep(name: str, run: Run) -> Any:
        if name == "train":
            reports.append(tuple(run.store.read(f"{run.folder}/{stage}.json") for stage in ("measure", "regret")))
        return run_stage(name, run)

    monkeypatch.setattr(pipeline, "run_stage", keep)
    reproduced(model)
    then = model.run(MONTHS[2])
    assert reports == [tuple(then.store.read(f"{then.folder}/{stage}.json") for stage in ("measure", "regret"))]


@pytest.mark.parametrize("what", ["batch", "labels"])
def test_altered_data_are_refused(model: Model, what: str) -> None:
    md5 = model.run(MONTHS[2]).read(Context, "context").accepted[0].md5
    if what == "labels":
        records = model.run().ledger.records("churn", "labels")
        md5 = next(record.body["version"]["md5"] for record in records if record.body["interval"] == MONTHS[0])
    (file,) = Path(model.home.remote).rglob(md5[2:])
    with altered(file, file.read_bytes() + b"x"), pytest.raises(SnapshotCorrupt):
        reproduced(model)


def test_another_seed_and_other_answers_are_told(model: Model) -> None:
    run = model.run(MONTHS[2])
    kept, answers = (Path(run.store.url(run.path(*at))) for at in (("spec", "spec.yaml"), ("evaluate", PREDICTIONS)))
    seeded = kept.read_text().replace("training:\n", "training:\n  seed: 7\n").encode()
    table = pd.read_parquet(answers)
    moved = table.assign(naive=table["naive"] + 0.25).to_parquet(index=False)
    with altered(kept, seeded), altered(answers, moved):
        report = reproduced(model)
    same = same_parts(report)
    assert not report.same
    assert same["data"]
    assert not same["spec"]
    assert not same["the version's files"]
    assert not same["metrics"], "other resamples"
    lines = "\n".join(report.lines())
    assert f"different  predictions: at most 0.25 apart on {len(table)} rows" in lines
    assert "different  the version's files: digest" in lines


def test_other_circumstances_are_told(model: Model) -> None:
    lock = model.home.root / "requirements.txt"
    lock.write_text("pandas==0\n")
    try:
        report = reproduced(model)
    finally:
        lock.unlink()
    assert report.same
    assert len(report.circumstances) == 1
    assert report.circumstances[0].startswith("lock.digest ")
    assert report.circumstances[0].endswith("was no requirements.txt")


def test_without_the_run_s_spec_today_s_must_be_the_same(model: Model) -> None:
    folder = Path(model.run(MONTHS[2]).store.url(model.run(MONTHS[2]).path("spec")))
    today = model.home.models / "churn.yaml"
    other = today.read_bytes() + b"monitor: {margin: 0.5}\n"
    with without(folder), altered(today, other), pytest.raises(MissingInput, match="kept no spec"):
        reproduced(model)


def test_a_laptop_s_run_keeps_the_spec_that_it_was_last_run_with(churn: Model) -> None:
    churn.deliver("2024-01-01")
    for objective in ("Rank subscribers by risk.", "Rank subscribers by something else."):
        churn.write_spec({**churn_spec(), "objective": objective})
        run = churn.run(kind="laptop")
        pipeline.run_stage("ingest", run)
        assert run.store.read(run.path("spec", "spec.yaml")).decode() == run.spec.text


def test_a_version_that_nobody_registered(model: Model) -> None:
    with pytest.raises(UnknownVersion, match="version 9 of churn"):
        reproduced(model, 9)
    with pytest.raises(UnknownVersion):
        explain(model.home, model.home.spec("churn"), 9)


# --- explain, served and the card, on the same home


def explained(model: Model, version: int) -> str:
    console = Console(file=io.StringIO(), width=500)
    console.print(explain(model.home, model.home.spec("churn"), version))
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_explain_leads_from_bytes_to_the_alias(model: Model) -> None:
    run = model.run(MONTHS[2])
    context, text = run.read(Context, "context"), explained(model, 2)
    delivered = hashlib.sha256((model.home.root / "data" / "churn-2024-01.csv").read_bytes()).hexdigest()
    first = context.accepted[0]
    assert first.labels
    promotion = run.ledger.records("churn", "promotion")[-1]
    for link in (
        delivered, first.batch.sha256, first.md5, first.commit, first.labels.sha256, context.spec_digest,
        "seed 42", "after 1 earlier analyses", "gate: promote", promotion.body["champion"]["digest"],
        run.read(RegisterReport, "register").run_id, "alias champion: this version", "smoke test · golden",
        f"record {promotion.place}, sequence 2, hash {promotion.hash[:12]}", "it serves",
    ):  # fmt: skip
        assert link in text, link
    assert "promote: version 1 → 2" in explained(model, 1).rpartition("after")[2]


def test_explain_goes_on_without_mlflow(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    nowhere = replace(model.home, mlflow="http://127.0.0.1:9")
    console = Console(file=io.StringIO(), width=500)
    console.print(explain(nowhere, nowhere.spec("churn"), 2))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "did not answer" in text
    assert "gate: promote" in text


def test_a_version_that_was_refused_before_it_could_serve_is_explained_too(model: Model, tmp_path: Path) -> None:
    home = replace(model.home, ledger=f"sqlite:///{tmp_path / 'ledger.db'}")
    for record in Ledger(model.home.ledger).records("churn"):
        if record.kind not in ("promotion", "completed", "rollout"):
            facts = (record.kind, record.key, record.body)
            Ledger(home.ledger).append("churn", *facts, effective_at=record.effective_at, run=record.run)
    console = Console(file=io.StringIO(), width=500)
    console.print(explain(home, home.spec("churn"), 2))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert text.startswith("churn version 2, digest ")
    assert "nobody serves" in text


def test_served_names_the_data_of_the_version(model: Model) -> None:
    lines = "\n".join(served(model.home, model.home.spec("churn"), moment("2024-03-20")))
    context = model.run(MONTHS[1]).read(Context, "context")
    assert "version 1 served" in lines
    for batch in context.accepted:
        assert batch.labels
        assert f"sha256 {batch.batch.sha256[:12]}, DVC {batch.md5[:12]} at commit {batch.commit[:12]}" in lines
        assert f"labels {batch.labels.sha256[:12]}" in lines


def test_the_card_and_the_changelog_lie_beside_the_version_in_mlflow(model: Model, tmp_path: Path) -> None:
    run = model.run(MONTHS[2])
    client = mlflow.MlflowClient(model.home.mlflow, model.home.mlflow)
    version = client.get_model_version("churn", "2")
    assert "card/model_card.md" in version.description
    folder = Path(client.download_artifacts(str(version.run_id), "card", str(tmp_path)))
    assert sorted(file.name for file in folder.iterdir()) == ["CHANGELOG.md", "model_card.html", "model_card.md"]
    card, context = (folder / "model_card.md").read_text(), run.read(Context, "context")
    for fact in ("# churn · version 2", "Ada Example", context.accepted[0].md5, "## Slices", "## Gate: promote"):
        assert fact in card, fact
    assert (folder / "CHANGELOG.md").read_text().index("## Version 2") > 0
    assert run.store.read(run.path("register", "model_card.html")) == (folder / "model_card.html").read_bytes()
    assert Ledger(model.home.ledger).records("churn", "stage")[-1].body["stage"] == "promote"


def test_a_second_try_of_register_leaves_one_card(model: Model) -> None:
    run = model.run(MONTHS[2])
    before = run.store.read(run.path("register", "model_card.html"))
    pipeline.run_stage("register", run)
    client = mlflow.MlflowClient(model.home.mlflow, model.home.mlflow)
    run_id = run.read(RegisterReport, "register").run_id
    assert len(client.list_artifacts(run_id, "card")) == 3
    assert run.store.read(run.path("register", "model_card.html")) == before
