"""Scores: whose, of which rows, once; and how they meet the labels that come later."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import spearmanr
from sklearn.pipeline import Pipeline

from retrain.data import dataset
from retrain.errors import (
    AmbiguousKeys,
    ArtifactMissing,
    LibrarySkew,
    NonFiniteMetric,
    RegistryDown,
    RowsRejected,
    ScoringFailed,
    SnapshotCorrupt,
)
from retrain.modeling import pipelines
from retrain.monitoring import prediction_log
from retrain.registry.answers import AnswersOfTheTime
from retrain.registry.mlflow import Registry, save_model
from retrain.results import AcceptedBatch, Champion, Configuration, IngestReport, Rollout, ScoreReport
from retrain.stages.ingest import ingest
from retrain.stages.measure import UNANSWERED
from retrain.stages.score import score
from retrain.state.ledger import Ledger
from retrain.state.run import Run
from retrain.state.settings import Home
from tests.conftest import Model, churn_rows, churn_spec, home_at

JANUARY, FEBRUARY, MARCH, APRIL = "2024-01-01", "2024-02-01", "2024-03-01", "2024-04-01"
LINEAR = Configuration(estimator="linear", parameters={}, pipeline="p")
STEEP = Configuration(estimator="linear", parameters={"C": 0.001}, pipeline="p")
STIFF = Configuration(estimator="linear", parameters={"alpha": 1e4}, pipeline="p")
FIRST, OTHER = 1, 2
"""Versions that lie in every bench's registry."""
TASKS: dict[str, dict[str, Any]] = {
    "binary": {},
    "multiclass": {"target": {"column": "plan", "classes": ["basic", "plus", "pro"]}},
    "regression": {"target": {"column": "spend"}},
}


def spec_of(task: str = "binary", **more: Any) -> dict[str, Any]:
    return {**churn_spec(), "task": task, **TASKS[task], **more}


def same(frame: pd.DataFrame) -> pd.DataFrame:
    return frame


class Bench:
    """The churn model with deliveries, fitted versions in its registry, and promotions on record.

    Args:
        laid: a registry with versions in it, to copy: registering one takes a second.
        change: what is done to every delivery.
    """

    def __init__(
        self, home: Home, spec: dict[str, Any], laid: Bench | Path, change: Callable[[Any], Any] = same
    ) -> None:
        self.model, self.change = Model(home), change
        self.model.write_spec(spec)
        self.home, self.spec = home, home.spec("churn")
        file = home.mlflow.removeprefix("sqlite:///")
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(laid if isinstance(laid, Path) else laid.home.mlflow.removeprefix("sqlite:///"), file)
        self.registry = Registry(home.mlflow)
        self.models: dict[int, Pipeline] = {} if isinstance(laid, Path) else dict(laid.models)
        self.digests: dict[int, str] = {} if isinstance(laid, Path) else dict(laid.digests)

    def begin(self, start: str, frame: pd.DataFrame | None = None, *, key: str = "") -> Run:
        """A run whose batch is ingested."""
        self.model.deliver(start, self.change(churn_rows(start) if frame is None else frame))
        run = dataclasses.replace(self.model.run(start, key=key), loop="score")
        run.write(ingest(run), "ingest")
        return run

    def score(self, start: str = FEBRUARY, frame: pd.DataFrame | None = None, *, key: str = "") -> ScoreReport:
        report = score(self.begin(start, frame, key=key))
        assert ScoreReport.from_json(report.to_json()) == report
        return report

    def accept(self, run: Run) -> AcceptedBatch:
        batch = run.read(IngestReport, "ingest").batch
        return AcceptedBatch(batch=batch, md5="", commit="", mature_at=batch.interval.end)

    def fit(self, configuration: Configuration = LINEAR) -> Pipeline:
        """A model fitted on January."""
        run = self.begin(JANUARY, key="training")
        frame = dataset.read(run, [self.accept(run)])
        y = dataset.outcome(self.spec, frame).to_numpy()
        return pipelines.fit(self.spec, configuration, frame[np.isfinite(y)], y[np.isfinite(y)])

    def register(self, model: Pipeline, *, as_of: str = FEBRUARY, pins: tuple[str, ...] = ("scikit-learn",)) -> int:
        """A version in the registry, as the stages register it; returns its number."""
        number = len(self.models) + 1
        run = self.begin(JANUARY, key="training")
        example = dataset.read(run, [self.accept(run)])[list(model[0].columns)]
        folder = self.home.root / "made" / str(number)
        digest = save_model(model, folder, example=example, requirements=list(pins))
        run_id = self.registry.record(
            experiment="churn", key=str(number), name="n", description="", params={}, metrics={}, tags={}, files={}
        )
        tags = {"effective_at": self.spec.at(as_of).start.isoformat()}
        version = self.registry.register(
            model="churn", run_id=run_id, folder=folder, digest=digest, tags=tags, description=""
        )
        self.models[version], self.digests[version] = model, digest
        return version

    def champion(
        self, version: int, digest: str, *, reference: str = "nowhere", when: datetime | None = None
    ) -> Champion:
        when = when or self.spec.at(FEBRUARY).start
        return Champion(
            version=version,
            run_id="r",
            digest=digest,
            configuration=LINEAR,
            training="t",
            reference=reference,
            trained_until=when,
            effective_at=when,
        )

    def promote(self, version: int = FIRST, *, as_of: str = FEBRUARY, reference: str = "nowhere") -> None:
        ledger, when = Ledger(self.home.ledger), self.spec.at(as_of).start
        history = ledger.records("churn", "promotion")
        champion = self.champion(version, self.digests[version], reference=reference, when=when)
        body = {"version": version, "previous": None, "champion": champion.model_dump(mode="json")}
        ledger.append(
            "churn", "promotion", f"promotion-{len(history)}", body, effective_at=when, sequence=len(history) + 1
        )
        self.registry.set_alias("churn", "champion", version, self.digests[version])

    def challenge(self, version: int = OTHER, *, champion: int = FIRST, share: float = 0.0, purpose: str = "") -> None:
        """From February on a version is the shadow model."""
        ledger, when = Ledger(self.home.ledger), self.spec.at(FEBRUARY).start
        rollout = Rollout(
            purpose=purpose or ("canary" if share else "shadow"),  # type: ignore[arg-type]
            shadow=self.champion(version, self.digests[version]),
            champion=champion,
            share=share,
            since=when,
            began=when,
        )
        body = {"rollout": rollout.model_dump(mode="json"), "verdict": "begun", "reasons": []}
        key = f"rollout-{len(ledger.records('churn', 'rollout'))}"
        ledger.append("churn", "rollout", key, body, effective_at=when)

    @property
    def store(self) -> Any:
        return self.model.run().store

    def records(self, start: str = FEBRUARY) -> list[Any]:
        return prediction_log.records(self.model.run(start), self.spec.at(start))

    def table(self, report: ScoreReport) -> pd.DataFrame:
        assert report.key
        return pd.read_parquet(io.BytesIO(self.store.read(report.key)))

    def predicted(self, version: int, run: Run) -> Any:
        frame = dataset.read(run, [self.accept(run)], ordered=False)
        return pipelines.predict(self.models[version], self.spec.task, frame)


@pytest.fixture(scope="module")
def laid(tmp_path_factory: pytest.TempPathFactory, empty_mlflow: Path) -> Callable[[str], Bench]:
    """Per task a registry with two versions that were fitted on January."""

    @lru_cache
    def of(task: str) -> Bench:
        home = home_at(tmp_path_factory.mktemp(task))
        bench = Bench(home, spec_of(task), empty_mlflow)
        assert bench.register(bench.fit()) == FIRST
        assert bench.register(bench.fit(STIFF if task == "regression" else STEEP)) == OTHER
        return bench

    return of


Lay = Callable[..., Bench]


@pytest.fixture
def lay(home: Home, laid: Callable[[str], Bench]) -> Lay:
    """A fresh bench of a task, its spec changed as asked; nobody is champion yet."""

    def bench(task: str = "binary", *, change: Callable[[Any], Any] = same, **more: Any) -> Bench:
        return Bench(home, spec_of(task, **more), laid(task), change)

    return bench


@pytest.fixture
def bench(lay: Lay) -> Bench:
    """The first version is champion since February."""
    bench = lay()
    bench.promote()
    return bench


def spoilt(**cells: tuple[int, Any]) -> pd.DataFrame:
    """February's rows with single cells changed: column → (row, value)."""
    frame = churn_rows(FEBRUARY)
    for name, (row, value) in cells.items():
        frame.loc[row, name] = value
    return frame


BROKEN = {"visits": (3, -5), "spend": (7, -1.0), "plan": (7, "gold")}


# --- what is written


def test_scores_are_the_fitted_pipelines_own_answers(bench: Bench) -> None:
    run = bench.begin(FEBRUARY)
    report = score(run)
    table = bench.table(report)

    assert report.decision.verdict == "scored"
    assert report.facts() == {"rows": 200, "scored": 200, "version": 1}
    assert table["score"].tolist() == bench.predicted(1, run).tolist()
    assert list(table) == ["id", "signup", "score", "version", "data", "reason"]
    assert table["id"].tolist() == churn_rows(FEBRUARY)["id"].tolist()
    assert set(table["version"]) == {1}
    assert set(table["data"]) == {run.read(IngestReport, "ingest").batch.sha256} == {report.data}
    assert table["reason"].isna().all()
    (record,) = bench.records()
    assert record.key == FEBRUARY
    assert record.effective_at == run.interval.end
    assert record.body == {
        "interval": FEBRUARY,
        "version": 1,
        "key": f"churn/scores/{FEBRUARY}/{report.sha256}.parquet",
        "sha256": report.sha256,
        "data": report.data,
        "rows": 200,
        "scored": 200,
        "rejected": {},
        "mode": "quarantine",
        "quarantined": None,
        "answered": {"1": 200},
        "shadow": None,
        "breach": None,
    }
    assert report.html == run.path("score", "score.html")
    assert b"200 of 200 rows scored by version 1" in run.store.read(report.html)


def test_the_batch_needs_no_labels(lay: Lay) -> None:
    bench = lay()
    bench.promote()
    assert bench.score(FEBRUARY, churn_rows(FEBRUARY).assign(churned=None)).scored == 200


# --- an interval scored twice


def test_the_same_batch_is_scored_once_whoever_serves_by_then(bench: Bench) -> None:
    first = bench.score()
    assert first.key
    data = bench.store.read(first.key)
    bench.promote(OTHER)
    for key in ("", "another run"):
        again = bench.score(key=key)
        assert again.decision.verdict == "found"
        assert again.decision.reasons[0].startswith("scored before by version 1, in run test-2024-02-01")
        assert again.decision.reasons[1:] == first.decision.reasons
        same = {"decision": first.decision, "html": first.html}
        assert again.model_copy(update=same) == first
        assert again.html
        assert bench.store.exists(again.html)
    assert len(bench.records()) == 1
    assert bench.store.read(first.key) == data
    assert [name for name in bench.store.keys(f"churn/scores/{FEBRUARY}") if name.endswith(".parquet")] == [first.key]


def test_a_revised_batch_is_a_record_of_its_own_and_the_old_one_stays(bench: Bench) -> None:
    first = bench.score()
    revised = bench.score(FEBRUARY, spoilt(visits=(0, 59)), key="revised")
    assert revised.decision.verdict == "scored"
    assert [record.key for record in bench.records()] == [FEBRUARY, f"{FEBRUARY}/{revised.data[:12]}"]  # type: ignore[index]
    old, new = (prediction_log.read(bench.model.run(FEBRUARY), record) for record in bench.records())
    assert old["score"][0] != new["score"][0]
    assert old["score"][1:].tolist() == new["score"][1:].tolist()
    back = bench.score(key="back")
    assert (back.decision.verdict, back.sha256) == ("found", first.sha256)
    assert len(bench.records()) == 2


def test_a_kill_between_file_and_record_is_completed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    run = bench.begin(FEBRUARY)
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "append", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            score(run)
    assert bench.records() == []
    files = bench.store.keys(f"churn/scores/{FEBRUARY}")
    report = score(run)
    assert report.decision.verdict == "scored"
    assert [record.body["sha256"] for record in bench.records()] == [report.sha256]
    assert bench.store.keys(f"churn/scores/{FEBRUARY}") == files


def test_of_two_at_the_same_time_the_record_decides(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    first = bench.score()
    bench.promote(OTHER)
    monkeypatch.setattr(prediction_log, "find", lambda *_: None)  # as a process sees it that looked a moment earlier
    second = bench.score(key="second")
    assert (second.decision.verdict, second.version, second.sha256) == ("found", 1, first.sha256)
    assert len(bench.records()) == 1


def test_scores_that_were_changed_afterwards_are_not_found(bench: Bench) -> None:
    report = bench.score()
    bench.store.write(report.key, b"other")
    with pytest.raises(SnapshotCorrupt):
        bench.score()
    with pytest.raises(SnapshotCorrupt):
        prediction_log.read(bench.model.run(FEBRUARY), bench.records()[0])


# --- rejected rows


def test_stop_scores_nothing(lay: Lay) -> None:
    bench = lay(scoring={"rejected": "stop"})
    bench.promote()
    with pytest.raises(RowsRejected) as caught:
        bench.score(FEBRUARY, spoilt(**BROKEN))
    assert caught.value.found == (
        "2 of 200 rows of [2024-02-01 00:00, 2024-03-01 00:00) break the contract of their columns:"
        " plan: not one of its values (1), spend: below 0 (1), visits: below 0 (1);"
        " the first is id 202402-00003: visits: below 0"
    )
    assert bench.records() == []
    assert bench.store.keys("churn/scores") == []


def test_quarantine_sets_rows_aside(bench: Bench) -> None:
    run = bench.begin(FEBRUARY, spoilt(**BROKEN))
    report = score(run)
    assert (report.rows, report.scored) == (200, 198)
    assert report.rejected == {"plan: not one of its values": 1, "visits: below 0": 1, "spend: below 0": 1}
    assert report.decision.reasons[1].startswith("2 rows set aside: ")
    sound = churn_rows(FEBRUARY).drop(index=[3, 7])
    table = bench.table(report)
    assert table["id"].tolist() == sound["id"].tolist()
    assert table["score"].tolist() == np.delete(bench.predicted(1, run), [3, 7]).tolist()
    aside = pd.read_parquet(io.BytesIO(bench.store.read(report.quarantined)))
    assert list(aside) == [*bench.spec.columns, "reason"]
    assert aside["visits"].tolist() == [-5, churn_rows(FEBRUARY)["visits"][7]]
    assert aside["reason"].tolist() == ["visits: below 0", "plan: not one of its values; spend: below 0"]
    assert bench.records()[0].body["quarantined"] == report.quarantined


def test_abstain_keeps_rows_without_a_score(lay: Lay) -> None:
    bench = lay(scoring={"rejected": "abstain"})
    bench.promote()
    report = bench.score(FEBRUARY, spoilt(**BROKEN))
    table = bench.table(report)
    assert (report.rows, report.scored, len(table)) == (200, 198, 200)
    assert np.flatnonzero(table["score"].isna()).tolist() == [3, 7] == np.flatnonzero(table["reason"].notna()).tolist()
    assert table["reason"][7] == "plan: not one of its values; spend: below 0"
    assert report.quarantined is None
    assert report.decision.reasons[1].startswith("2 rows without a score: ")


@pytest.mark.parametrize("mode", ["stop", "quarantine", "abstain"])
def test_a_batch_of_rejected_rows_is_refused_whatever_the_mode(lay: Lay, mode: str) -> None:
    bench = lay(scoring={"rejected": mode})
    bench.promote()
    with pytest.raises(RowsRejected, match=r"all 200 rows .* visits: below 0 \(200\)"):
        bench.score(FEBRUARY, churn_rows(FEBRUARY).assign(visits=-1))
    assert bench.records() == []


def test_an_infinite_value_costs_its_row_and_no_other(bench: Bench) -> None:
    assert bench.score(FEBRUARY, spoilt(spend=(5, np.inf))).rejected == {"spend: not finite": 1}


def test_an_unseen_category_is_scored_and_counted(lay: Lay) -> None:
    bench = lay(columns={**spec_of()["columns"], "plan": {"type": "category"}})
    facts = {"columns": {"plan": {"missing": 0, "categories": {"basic": 1, "plus": 1, "pro": 1}, "capped": False}}}
    bench.store.write("ref/reference.json", json.dumps(facts).encode())
    bench.promote(reference="ref")
    frame = spoilt(plan=(4, "gold"))
    frame.loc[9, "plan"] = "lead"
    report = bench.score(FEBRUARY, frame)
    assert (report.scored, report.rejected, report.unknown_categories) == (200, {}, {"plan": 2})
    assert not any("no reference" in reason for reason in report.decision.reasons)


def test_a_key_that_is_not_one_rows_own_is_set_aside(bench: Bench) -> None:
    report = bench.score(FEBRUARY, spoilt(id=(1, "202402-00000")))
    assert report.rejected == {"id: repeated": 2}
    assert report.scored == 198


def test_large_whole_numbers_as_keys_stay_what_they_are(lay: Lay) -> None:
    ids = 2**60 + np.arange(200)
    columns = {**spec_of()["columns"], "id": {"type": "integer", "unique": True}}
    bench = lay(columns=columns, change=lambda frame: frame.assign(id=ids))
    bench.promote()
    run = bench.begin(FEBRUARY)
    assert bench.table(score(run))["id"].tolist() == ids.tolist()
    assert prediction_log.join_labels(run, bench.records()[0], bench.accept(run)).counts.both == 200


# --- whose scores


def test_without_a_champion_nothing_is_scored(lay: Lay) -> None:
    bench = lay()
    report = bench.score()
    assert report.decision.verdict == "skipped"
    assert report.decision.reasons == ("no champion yet: none was promoted by 2024-02-01 00:00",)
    assert bench.records() == []
    assert bench.store.keys("churn/scores") == []
    bench.promote(as_of=MARCH)
    assert bench.score().decision.verdict == "skipped", "it has seen February's rows"
    assert bench.score(MARCH).decision.verdict == "scored"


def test_the_champion_of_the_time_scores_not_todays(bench: Bench) -> None:
    bench.promote(OTHER, as_of=APRIL)
    run = bench.begin(MARCH)
    report = score(run)
    assert report.version == 1
    assert bench.table(report)["score"].tolist() == bench.predicted(1, run).tolist()
    assert "version 1 was the champion of that time, version 2 is today's" in report.decision.reasons
    assert bench.score(APRIL).version == 2


def test_an_alias_moved_by_hand_is_said_and_not_followed(bench: Bench) -> None:
    bench.registry.set_alias("churn", "champion", OTHER, bench.digests[OTHER])
    report = bench.score()
    assert report.version == 1
    sentence = "the champion alias points at version 2, the ledger says version 1: version 1 scored"
    assert report.decision.reasons[-1] == sentence
    assert report.alias_moved == sentence.removesuffix(": version 1 scored")


def test_an_alias_of_a_deleted_version_is_said(bench: Bench) -> None:
    bench.registry.set_alias("churn", "champion", OTHER, bench.digests[OTHER])
    bench.registry._client.delete_model_version("churn", str(OTHER))
    report = bench.score()
    assert report.version == 1
    assert any("no longer in the registry" in reason for reason in report.decision.reasons)


def test_a_copy_of_the_model_scores_while_the_registry_is_down(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.score(FEBRUARY)
    bench.challenge()
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    bench.model = Model(dataclasses.replace(bench.home, mlflow="http://127.0.0.1:9"))
    run = bench.begin(MARCH)
    report = score(run)
    assert (report.decision.verdict, report.version, report.shadow) == ("scored", 1, None)
    (record,) = bench.records(MARCH)
    assert record.body["shadow"]["failed"].startswith("RegistryDown: "), "a server's failure"
    assert not record.body["shadow"]["breach"], "is none of the version"
    assert "did not answer" in report.decision.reasons[-1]
    assert "scored from this machine's copy" in report.decision.reasons[-1]
    assert bench.table(report)["score"].tolist() == bench.predicted(1, run).tolist()

    shutil.rmtree(bench.home.state / "models")
    bench.model = Model(dataclasses.replace(bench.home, mlflow="http://127.0.0.1:11"))
    with pytest.raises(RegistryDown):
        bench.score(APRIL)
    assert bench.records(APRIL) == []


# --- a model that cannot score


def test_a_champion_that_reads_another_column_is_an_error(bench: Bench) -> None:
    spec = spec_of()
    spec["columns"]["visits"]["type"] = "category"
    for rule in ("min", "max"):
        del spec["columns"]["visits"][rule]
    spec["columns"]["visits"]["values"] = ["a"]
    bench.model.write_spec(spec)
    with pytest.raises(ScoringFailed, match=r"version 1 failed on the rows of .*: DtypeChanged: column 'visits'"):
        bench.score(FEBRUARY, churn_rows(FEBRUARY).assign(visits="a"))


def test_a_champion_of_other_classes_is_an_error(lay: Lay) -> None:
    bench = lay("multiclass")
    bench.promote()
    bench.model.write_spec(spec_of("multiclass", target={"column": "plan", "classes": ["pro", "plus", "basic"]}))
    with pytest.raises(ScoringFailed, match="version 1 knows the classes"):
        bench.score()


def test_an_answer_that_is_not_finite_is_an_error(lay: Lay) -> None:
    bench = lay("regression")
    model = bench.fit()
    model[-1].coef_[:] = np.nan
    bench.promote(bench.register(model))
    with pytest.raises(NonFiniteMetric, match="version 3: 200 of 200 predictions"):
        bench.score()
    assert bench.records() == []


def test_a_champion_whose_files_are_gone_is_an_error(bench: Bench) -> None:
    bench.digests[99] = "0" * 64
    ledger = Ledger(bench.home.ledger)
    body = dict(ledger.records("churn", "promotion")[0].body)
    body["champion"] = {**body["champion"], "version": 99, "digest": "0" * 64}
    ledger.append("churn", "promotion", "lost", body, effective_at=bench.spec.at(FEBRUARY).start, sequence=2)
    with pytest.raises(ArtifactMissing):
        bench.score()


# --- the shadow model


def test_a_challenger_scores_in_shadow(bench: Bench) -> None:
    bench.challenge()
    run = bench.begin(FEBRUARY, spoilt(**BROKEN))
    report = score(run)
    table, shadow = bench.table(report), report.shadow
    of_champion, of_shadow = (np.delete(bench.predicted(version, run), [3, 7]) for version in (1, 2))

    assert list(table)[-2:] == ["shadow_score", "shadow_version"]
    assert table["score"].tolist() == of_champion.tolist()
    assert table["shadow_score"].tolist() == of_shadow.tolist()
    assert shadow
    assert (shadow.version, shadow.rows) == (2, 198) == (bench.records()[0].body["shadow"]["version"], report.scored)
    assert report.answered == {"1": 198}
    assert shadow.mean_champion == pytest.approx(of_champion.mean())
    assert shadow.mean_shadow == pytest.approx(of_shadow.mean())
    assert shadow.mean_absolute == pytest.approx(np.abs(of_shadow - of_champion).mean()) != 0
    assert shadow.correlation == pytest.approx(spearmanr(of_champion, of_shadow).statistic)
    assert shadow.decided_otherwise == pytest.approx(((of_champion > 0.5) != (of_shadow > 0.5)).mean()) != 0
    assert shadow.quantiles["0.5"] == pytest.approx(np.median(of_shadow - of_champion))
    assert len(shadow.furthest) == 20
    worst = int(np.abs(of_shadow - of_champion).argmax())
    assert shadow.furthest[0].key == (table["id"][worst],)
    assert shadow.furthest[0].shadow == of_shadow[worst]
    page = run.store.read(report.html)  # type: ignore[arg-type]
    assert page.count(b"data:image/png;base64,") == 2
    assert table["id"][worst].encode() in page


def gone(bench: Bench) -> None:
    number = bench.register(bench.fit(STEEP))
    run = bench.registry._client.get_run(bench.registry.describe("churn", number)["run_id"])
    shutil.rmtree(Path(run.info.artifact_uri) / "model")
    bench.challenge(number)


def of_nan(bench: Bench) -> None:
    model = bench.fit(STEEP)
    model[-1].coef_[:] = np.nan
    bench.challenge(bench.register(model), share=0.5)


def spoil_files(bench: Bench, version: int) -> None:
    """The artifact store holds other bytes than were registered; that of this bench alone."""
    artifacts = Path(bench.registry._client.get_experiment_by_name("churn").artifact_location)
    shutil.copytree(artifacts, Path(bench.home.mlflow.removeprefix("sqlite:///")).parent / "mlartifacts" / "churn")
    bench.registry = Registry(bench.home.mlflow)
    run = bench.registry._client.get_run(bench.registry.describe("churn", version)["run_id"])
    with (Path(run.info.artifact_uri) / "model" / "MLmodel").open("a") as file:
        file.write("# another hand\n")


def another_file(bench: Bench) -> None:
    spoil_files(bench, OTHER)
    bench.challenge()


@pytest.mark.parametrize(
    ("arrange", "failure"),
    [
        (gone, "ArtifactMissing: the files of version 3 of churn are gone"),
        (of_nan, "NonFiniteMetric: version 3: 200 of 200 predictions are not finite"),
        (another_file, "DigestMismatch: version 2 of churn"),
    ],
)
def test_a_challenger_that_cannot_score_stops_nothing(
    bench: Bench, arrange: Callable[[Bench], None], failure: str
) -> None:
    arrange(bench)
    report = bench.score()
    assert (report.decision.verdict, report.version, report.shadow) == ("scored", 1, None)
    assert report.answered == {"1": 200}
    assert "shadow_score" not in bench.table(report)
    (noted,) = [
        reason.split(" did not score: ")[1] for reason in report.decision.reasons if " did not score: " in reason
    ]
    assert noted.startswith(failure)
    shadow = bench.records()[0].body["shadow"]
    assert (shadow["failed"], shadow["breach"]) == (noted, True)


def test_without_a_rollout_there_is_no_shadow_model(bench: Bench) -> None:
    bench.registry.set_alias("churn", "challenger", OTHER, bench.digests[OTHER])
    bench.challenge(champion=99)
    report = bench.score()
    assert report.shadow is None
    assert bench.records()[0].body["shadow"] is None


def test_a_canary_answers_its_share_of_the_rows_and_always_the_same(lay: Lay) -> None:
    bench = lay(scoring={"rejected": "abstain"})
    bench.promote()
    bench.challenge(share=0.25)
    run = bench.begin(FEBRUARY, spoilt(visits=(3, -5)))
    report = score(run)
    table, (of_champion, of_shadow) = bench.table(report), (bench.predicted(version, run) for version in (1, 2))
    chosen = prediction_log.canary_rows("churn", pa.table({"id": table["id"]}), 0.25)
    chosen[3] = False
    assert 30 < chosen.sum() < 70, "a quarter of 200"
    assert (table["version"] == 2).tolist() == chosen.tolist() == (table["shadow_version"] == 1).tolist()
    for column, (served, other) in {
        "score": (of_shadow, of_champion),
        "shadow_score": (of_champion, of_shadow),
    }.items():
        expected = np.where(chosen, served, other)
        expected[3] = np.nan
        np.testing.assert_array_equal(table[column], expected)
    assert report.answered == {"1": 199 - int(chosen.sum()), "2": int(chosen.sum())}
    assert bench.records()[0].body["answered"] == report.answered
    assert report.version == 1

    joined = prediction_log.join_labels(run, bench.records()[0], bench.accept(run)).labelled()
    assert joined.prediction.tolist() == np.delete(of_champion, 3).tolist(), "the champion is judged by its own answers"
    assert joined.shadow is not None
    assert joined.shadow.tolist() == np.delete(of_shadow, 3).tolist()

    revised = bench.score(FEBRUARY, churn_rows(FEBRUARY).sample(frac=1, random_state=1), key="revised")
    again = bench.table(revised).set_index("id")["version"]
    assert again.drop("202402-00003").to_dict() == table.set_index("id")["version"].drop("202402-00003").to_dict()


def test_a_share_is_kept_and_grows_by_adding_rows() -> None:
    keys = pa.table({"a": np.arange(20_000), "b": ["x"] * 20_000})
    steps = [prediction_log.canary_rows("churn", keys, share) for share in (0.05, 0.25, 0.5)]
    for share, chosen in zip((0.05, 0.25, 0.5), steps, strict=True):
        assert abs(chosen.mean() - share) < 4 * (share * (1 - share) / 20_000) ** 0.5
    assert steps[1][steps[0]].all()
    assert steps[2][steps[1]].all()
    other = prediction_log.canary_rows("other", keys, 0.05)
    assert (other & steps[0]).mean() < 0.01, "another model's canary has other rows"
    text = pa.table({"a": [str(n) for n in range(20_000)], "b": pa.array(["x"] * 20_000).dictionary_encode()})
    assert prediction_log.canary_rows("churn", text, 0.05).tolist() == steps[0].tolist(), "however the key is stored"


# --- a champion that was fitted under other libraries

PINS = ("numpy==1.0", f"pandas=={pd.__version__}")
SKEW = f"numpy is {np.__version__}, 1.0 is pinned"


def test_a_champion_of_other_libraries_answers_and_it_is_told(lay: Lay, caplog: pytest.LogCaptureFixture) -> None:
    bench = lay()
    old = bench.register(bench.fit(), pins=PINS)
    bench.promote(old)
    report = bench.score()
    assert (report.decision.verdict, report.library_skew) == ("scored", (SKEW,))
    warning = f"version {old} was fitted under other libraries: {SKEW}"
    assert f"warning: {warning}" in report.decision.reasons
    assert warning in caplog.text
    assert bench.records()[0].body["library_skew"] == [SKEW]
    assert report.html is None or SKEW.encode() in bench.store.read(report.html)
    assert SKEW.encode() in bench.store.read((report.key or "").removesuffix("parquet") + "html")
    bench.promote(FIRST, as_of=MARCH)
    assert bench.score(MARCH).library_skew == ()
    assert "library_skew" not in bench.records(MARCH)[0].body


def test_a_champion_of_other_libraries_does_not_answer_where_the_spec_refuses(lay: Lay) -> None:
    bench = lay(serving={"library_skew": "refuse"})
    old = bench.register(bench.fit(), pins=PINS)
    bench.promote(old)
    with pytest.raises(LibrarySkew, match=SKEW):
        bench.score()
    assert bench.records() == []
    bench.challenge(FIRST, champion=old, purpose="watch")
    with pytest.raises(LibrarySkew, match=SKEW):
        bench.score()
    bench.promote(FIRST)
    bench.challenge(old, champion=FIRST)
    report = bench.score()
    assert (report.version, report.shadow) == (FIRST, None)
    shadow = bench.records()[0].body["shadow"]
    assert (shadow["failed"], shadow["breach"]) == (
        f"LibrarySkew: version {old} was fitted under other libraries: {SKEW}", False,
    )  # fmt: skip


def test_answers_are_not_computed_again_under_other_libraries_where_the_spec_refuses(lay: Lay) -> None:
    bench = lay(serving={"library_skew": "refuse"})
    bench.promote(bench.register(bench.fit(), pins=PINS))
    run = bench.begin(FEBRUARY)
    with pytest.raises(LibrarySkew, match=SKEW):
        AnswersOfTheTime(run).of(bench.accept(run))
    assert LibrarySkew in UNANSWERED, "measure says that nothing was measured, and the retraining goes on"


# --- a champion under watch


def test_where_a_champion_under_watch_fails_its_predecessor_answers(bench: Bench) -> None:
    model = bench.fit()
    model[-1].coef_[:] = np.nan
    bad = bench.register(model)
    bench.promote(bad)
    bench.challenge(FIRST, champion=bad, purpose="watch")
    run = bench.begin(FEBRUARY)
    report = score(run)
    assert (report.decision.verdict, report.version, report.answered) == ("scored", FIRST, {"1": 200})
    assert bench.table(report)["score"].tolist() == bench.predicted(FIRST, run).tolist()
    beginning = "version 3 failed, its predecessor answered in its stead: NonFinite"
    assert any(reason.startswith(beginning) for reason in report.decision.reasons)
    breach = bench.records()[0].body["breach"]
    assert breach["version"] == bad
    assert breach["failed"].startswith("NonFiniteMetric: version 3: 200 of 200 predictions")


def test_where_both_fail_nothing_is_scored(bench: Bench) -> None:
    model = bench.fit()
    model[-1].coef_[:] = np.nan
    bad, worse = bench.register(model), OTHER
    bench.promote(bad)
    bench.digests[worse] = "0" * 64
    bench.challenge(worse, champion=bad, purpose="watch")
    with pytest.raises(NonFiniteMetric, match="version 3"):
        bench.score()
    assert bench.records() == []


# --- the other tasks


def test_numbers(lay: Lay) -> None:
    bench = lay("regression")
    bench.promote(reference="ref")
    bench.challenge(bench.register(bench.fit(Configuration(estimator="naive", parameters={}, pipeline="p"))))
    run = bench.begin(FEBRUARY)
    expected = bench.predicted(1, run)
    low, high = np.quantile(expected, [0.1, 0.8])
    facts = {"columns": {"target": {"missing": 0, "min": low, "max": high, "mean": 40.0}}}
    bench.store.write("ref/reference.json", json.dumps(facts).encode())
    report = score(run)
    assert bench.table(report)["score"].tolist() == expected.tolist()
    below, above = (expected < low).mean(), (expected > high).mean()
    assert 0 < below < above
    assert report.outside == pytest.approx(below + above)
    warning = (
        f"warning: {below + above:.1%} of the scores lie outside the target's range in training, {low:g} to {high:g}"
    )
    assert warning in report.decision.reasons
    assert report.shadow
    assert (report.shadow.decided_otherwise, report.shadow.correlation) == (None, None)


def test_classes(lay: Lay) -> None:
    bench = lay("multiclass", scoring={"rejected": "abstain"})
    bench.promote()
    bench.challenge()
    run = bench.begin(FEBRUARY, spoilt(visits=(3, -5)))
    report = score(run)
    table, expected = bench.table(report), bench.predicted(1, run)
    assert table.loc[3, ["score_0", "score_1", "score_2", "predicted", "shadow_predicted"]].isna().all()
    expected[3] = np.nan
    read = prediction_log.read(run, bench.records()[0])
    np.testing.assert_array_equal(prediction_log.scores_in(bench.spec, read), expected)
    shadow = bench.predicted(2, run)
    shadow[3] = np.nan
    np.testing.assert_array_equal(prediction_log.scores_in(bench.spec, read, shadow=True), shadow)
    keep = np.arange(200) != 3
    names = np.asarray(["basic", "plus", "pro"])
    assert table["predicted"][keep].tolist() == names[expected[keep].argmax(axis=1)].tolist()
    otherwise = expected[keep].argmax(axis=1) != shadow[keep].argmax(axis=1)
    assert report.shadow
    assert report.shadow.decided_otherwise == pytest.approx(otherwise.mean())
    joined = prediction_log.join_labels(run, bench.records()[0], bench.accept(run)).labelled()
    assert joined.prediction.shape == (199, 3)


# --- scores and the labels that come later


def test_scores_meet_their_labels_by_key(bench: Bench) -> None:
    frame = spoilt(**BROKEN)
    run = bench.begin(FEBRUARY, frame.assign(churned=None))
    score(run)
    (record,) = bench.records()
    nothing = prediction_log.join_labels(run, record, bench.accept(run)).labelled()
    assert (len(nothing.frame), nothing.counts.unlabelled, nothing.counts.share) == (0, 198, 0)

    # The revision: labels have come, but not all; in another order; one row is new, one is gone.
    late = frame.assign(churned=frame["churned"].astype(object))
    late.loc[[0, 1, 2], "churned"] = None
    extra = late.iloc[[50]].assign(id="202402-99999")
    late = pd.concat([late.drop(index=[10]), extra]).sample(frac=1, random_state=1)
    after = bench.begin(FEBRUARY, late, key="after")
    joined = prediction_log.join_labels(after, record, bench.accept(after)).labelled()

    assert joined.counts.model_dump() == {
        "predictions": 198,
        "labels": 197,  # 200, three not there yet, one gone, one new
        "both": 194,
        "unlabelled": 4,
        "unpredicted": 3,  # two set aside, one new
        "gone": 1,
    }
    assert joined.counts.share == pytest.approx(194 / 198)
    scores = prediction_log.read(run, record).set_index("id")["score"]
    assert joined.prediction.tolist() == scores[joined.frame["id"]].tolist()
    truth = frame.set_index("id")["churned"]
    assert joined.outcome.tolist() == truth[joined.frame["id"]].astype(float).tolist()
    assert {"plan", "visits", "spend", "member", "churned", "signup"} <= set(joined.frame)


def test_abstentions_are_no_predictions(lay: Lay) -> None:
    bench = lay(scoring={"rejected": "abstain"})
    bench.promote()
    run = bench.begin(FEBRUARY, spoilt(**BROKEN))
    score(run)
    counts = prediction_log.join_labels(run, bench.records()[0], bench.accept(run)).counts
    assert (counts.predictions, counts.both, counts.unpredicted) == (198, 198, 2)


def test_labels_of_an_ambiguous_key_are_refused(bench: Bench) -> None:
    run = bench.begin(FEBRUARY)
    score(run)
    twice = bench.begin(FEBRUARY, spoilt(id=(1, "202402-00000")), key="twice")
    with pytest.raises(AmbiguousKeys, match=r"2 rows of the batch of .* share their key \(id\)"):
        prediction_log.join_labels(twice, bench.records()[0], bench.accept(twice)).labelled()


def test_columns_that_are_called_like_the_scores_step_aside(lay: Lay) -> None:
    spec = spec_of()
    bench = lay(
        source={**spec["source"], "key": ["version", "id"]},
        columns={"version": {"type": "integer"}, **spec["columns"], "score": {"type": "number"}},
        change=lambda frame: frame.assign(version=7, score=0.5),
    )
    bench.promote()
    run = bench.begin(FEBRUARY)
    table = bench.table(score(run))
    assert list(table)[:5] == ["version_", "id", "signup", "score", "version"]
    assert (set(table["version_"]), set(table["version"])) == ({7}, {1})
    joined = prediction_log.join_labels(run, bench.records()[0], bench.accept(run)).labelled()
    assert joined.counts.both == 200
    assert set(joined.frame["score"]) == {0.5}
    assert joined.prediction.tolist() == table["score"].tolist()


def test_the_same_scores_are_the_same_bytes(bench: Bench) -> None:
    lead = pa.table({"id": pa.array(["b", "a"]).dictionary_encode(), "signup": [datetime(2024, 2, 1)] * 2})
    scores = prediction_log.Scores(np.asarray([0.25, np.nan]), 3)
    files = [
        prediction_log.to_parquet(bench.spec, lead, scores, None, data="d", reason=[None, "visits: below 0"])
        for _ in range(2)
    ]
    assert files[0] == files[1]
    assert pq.read_table(io.BytesIO(files[0])).select(["id", "score", "reason"]).to_pylist() == [
        {"id": "b", "score": 0.25, "reason": None},
        {"id": "a", "score": None, "reason": "visits: below 0"},
    ]
