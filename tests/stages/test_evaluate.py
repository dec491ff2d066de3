"""Models on the same holdout rows: what is measured, what is refused, what is written."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from sklearn import metrics as sk
from sklearn.compose import ColumnTransformer
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

import retrain.stages.evaluate as evaluate_module
from retrain.data import dataset
from retrain.errors import (
    ArtifactMissing,
    DigestMismatch,
    MissingInput,
    NonFiniteMetric,
    RegistryDown,
    SchemaChanged,
    ScoringFailed,
)
from retrain.gate.judge import judge
from retrain.modeling import pipelines
from retrain.modeling.features import Typed
from retrain.registry.mlflow import Registry, save_model
from retrain.results import (
    AcceptedBatch,
    Batch,
    ChainLink,
    Champion,
    Configuration,
    Context,
    EvaluateReport,
    FittedModel,
    Interval,
    TrainReport,
    Trigger,
)
from retrain.stages.evaluate import evaluate
from retrain.state.ledger import Record
from retrain.state.run import Run
from retrain.state.settings import Home
from retrain.state.store import sha256_of

CONFIGURATION = Configuration(estimator="linear", parameters={}, pipeline="p")
TARGETS: dict[str, dict[str, Any]] = {
    "binary": {"target": {"column": "late"}},
    "multiclass": {"target": {"column": "kind", "classes": ["calm", "windy", "stormy"]}},
    "regression": {"target": {"column": "delay"}},
}
MODELS: dict[str, dict[str, Callable[[], Any]]] = {
    "binary": {
        "new": lambda: DecisionTreeClassifier(max_depth=3, random_state=0),
        "simple": lambda: LogisticRegression(max_iter=500),
        "naive": DummyClassifier,
    },
    "regression": {
        "new": lambda: DecisionTreeRegressor(max_depth=3, random_state=0),
        "simple": LinearRegression,
        "naive": DummyRegressor,
    },
}
MODELS["multiclass"] = MODELS["binary"]


def spec_of(task: str, **more: Any) -> dict[str, Any]:
    return {
        "model": "trips",
        "objective": "Say how a trip will go before it begins.",
        "owner": {"name": "Ada Example", "contact": "ada@example.org"},
        "task": task,
        "interval": {"every": "month", "start": "2024-01-01"},
        "source": {"path": "x.csv", "time": "at", "key": ["id"]},
        "columns": {
            "id": {"type": "string"},
            "at": {"type": "datetime"},
            "road": {"type": "category"},
            "wind": {"type": "number", "max_missing": 1},
            "load": {"type": "integer"},
            "late": {"type": "boolean", "feature": False, "max_missing": 1},
            "kind": {"type": "category", "feature": False},
            "delay": {"type": "number", "feature": False},
        },
        "quality": {"min_rows": 10},
        "training": {"candidates": [{"estimator": "linear"}]},
        "evaluation": {"resamples": 200, "slices": ["road", "wind"]},
        **TARGETS[task],
        **more,
    }


def month(number: int, count: int = 400) -> pd.DataFrame:
    rng = np.random.default_rng(number)
    at = pd.Timestamp(f"2024-0{number}-01", tz="UTC") + pd.to_timedelta(
        np.sort(rng.integers(0, 28 * 86_400, count)), unit="s"
    )
    wind, road = rng.gamma(2, 2, count), rng.choice(["hill", "coast"], count)
    push = wind + 2 * (road == "coast") + rng.normal(0, 1, count)
    return pd.DataFrame(
        {
            "id": [f"{number}-{place}" for place in range(count)],
            "at": at,
            "road": road,
            "wind": np.where(rng.random(count) < 0.05, np.nan, wind),
            "load": rng.integers(0, 5, count),
            "late": push > 6,
            "kind": pd.cut(push, [-99, 3, 6, 99], labels=["calm", "windy", "stormy"]).astype(str),
            "delay": 10 * push,
        }
    )


class Bench:
    """A run whose batches, context and training are laid by hand: three months to train on, one holdout."""

    def __init__(self, home: Home, task: str, holdout: pd.DataFrame | None = None, **more: Any) -> None:
        (home.models / "trips.yaml").write_text(yaml.safe_dump(spec_of(task, **more)))
        self.task, self.home, self.spec = task, home, home.spec("trips")
        self.run = Run(home, self.spec, self.spec.at("2024-04-01"), "test", Trigger())
        frames = [month(1), month(2), month(3), month(4) if holdout is None else holdout]
        self.accepted = [self.accept(n, frame) for n, frame in enumerate(frames, start=1)]
        self.training = dataset.read(self.run, self.accepted[:3])
        self.fitted: list[FittedModel] = []
        self.champion: Champion | None = None
        self.reference_champion: Champion | None = None

    def accept(self, number: int, frame: pd.DataFrame) -> AcceptedBatch:
        interval = self.spec.at(f"2024-0{number}-01")
        file = Path(self.home.state) / f"{number}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pandas(frame, schema=dataset.arrow_schema(self.spec), preserve_index=False), file)
        batch = Batch(
            interval=interval, sha256=sha256_of(file), rows=len(frame), bytes=1, key=f"trips/{number}.parquet"
        )
        self.run.store.put(batch.key, file)
        return AcceptedBatch(batch=batch, md5="m", commit="c", mature_at=interval.end)

    def pipeline(self, estimator: Any) -> Pipeline:
        columns = ColumnTransformer(
            [
                ("words", OneHotEncoder(handle_unknown="ignore"), ["road"]),
                ("numbers", SimpleImputer(), ["wind", "load"]),
            ]
        )
        typed = Typed({"road": "category", "wind": "number", "load": "integer"}, self.outcomes)
        y = dataset.outcome(self.spec, self.training)
        return make_pipeline(typed, columns, estimator).fit(self.training, y)

    @property
    def outcomes(self) -> tuple[str, ...]:
        return tuple(str(name) for name in self.spec.classes)

    def save(self, model: Pipeline, name: str) -> tuple[Path, str]:
        folder = self.home.state / "models" / name
        digest = save_model(model, folder, example=self.training[list(self.spec.inputs)], requirements=["scikit-learn"])
        return folder, digest

    def fit(self, name: str, kind: Any, model: Pipeline) -> None:
        folder, digest = self.save(model, name)
        self.run.store.put_folder(self.run.path("train", name), folder)
        self.fitted.append(
            FittedModel(
                name=name,
                kind=kind,
                configuration=CONFIGURATION,
                training="t",
                intervals=dataset.intervals(self.accepted[:3]),
                rows=1200,
                key=self.run.path("train", name),
                digest=digest,
            )
        )

    def fit_all(self) -> Bench:
        for name, make in MODELS[self.task].items():
            self.fit(name, "new" if name == "new" else "baseline", self.pipeline(make()))
        return self

    def serve(self, model: Pipeline, until: int = 3) -> Bench:
        """Register `model` as the champion, fitted on all months up to `until`."""
        self.champion = self.register(model, "champion", until)
        return self

    def serve_before(self, model: Pipeline, until: int = 3) -> Bench:
        """The same for the reference champion, which nothing may creep away from."""
        self.reference_champion = self.register(model, "reference_champion", until)
        return self

    def register(self, model: Pipeline, name: str, until: int) -> Champion:
        folder, digest = self.save(model, name)
        registry = Registry(self.home.mlflow)
        # The registry is shared by the tests of this file: each is a run of its own.
        key = f"{self.task}-{name}-{self.home.root}"
        run_id = registry.record(
            experiment="trips", key=key, name="n", description="d", params={}, metrics={}, tags={}, files={}
        )
        version = registry.register(
            model="trips", run_id=run_id, folder=folder, digest=digest, tags={}, description="d"
        )
        end = self.accepted[until - 1].batch.interval.end
        return Champion(
            version=version,
            run_id=run_id,
            digest=digest,
            configuration=CONFIGURATION,
            training="t",
            reference="r",
            trained_until=end,
            effective_at=end,
        )

    def evaluate(self, holdout: tuple[Interval, ...] | None = None, judged_from: str | None = None) -> EvaluateReport:
        about = {"model": "trips", "interval": self.run.interval, "effective_at": self.run.as_of}
        self.run.write(
            Context(
                **about,
                spec_digest=self.spec.digest,
                trigger=Trigger(),
                accepted=tuple(self.accepted),
                champion=self.champion,
                reference_champion=self.reference_champion or self.champion,
            ),
            "context",
        )
        holdout = dataset.intervals(self.accepted[3:]) if holdout is None else holdout
        cut = judged_from and pd.Timestamp(judged_from, tz="UTC").to_pydatetime()
        train = TrainReport(**about, fitted=tuple(self.fitted), holdout=holdout, judged_from=cut, seed=1)
        self.run.write(train, "train")
        report = evaluate(self.run)
        assert EvaluateReport.from_json(report.to_json()) == report
        return report

    def read(self, name: str) -> bytes:
        return self.run.store.read(self.run.path("evaluate", name))


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One MLflow database for the file: making it takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture
def place(home: Home, registry: str) -> Home:
    return dataclasses.replace(home, mlflow=registry)


# --- what is measured


@pytest.mark.parametrize("task", TARGETS)
def test_every_model_is_measured_on_the_holdout_rows(home: Home, task: str) -> None:
    bench = Bench(home, task).fit_all()
    report = bench.evaluate()
    metric = bench.spec.gate.metric

    assert report.decision.verdict == "measured"
    assert (report.rows, report.blocks) == (400, 28)
    assert list(report.metrics) == ["new", "simple", "naive"]
    assert {(pair.model, pair.against) for pair in report.paired} == {("new", "simple"), ("new", "naive")}
    over_naive = next(pair for pair in report.paired if pair.against == "naive")
    assert over_naive.low > 0
    for of in report.metrics.values():
        assert of[metric].low < of[metric].value < of[metric].high  # type: ignore[operator]

    predictions = pd.read_parquet(io.BytesIO(bench.read("predictions.parquet")))
    assert predictions["id"].tolist() == month(4)["id"].tolist()
    p = predictions[[f"new:{code}" for code in range(3)]] if task == "multiclass" else predictions["new"]
    score = sk.root_mean_squared_error if task == "regression" else sk.log_loss
    assert report.metrics["new"][metric].value == pytest.approx(score(predictions["y"], p))

    flat = json.loads(bench.read("metrics.json"))
    assert flat[f"naive.{metric}"] == report.metrics["naive"][metric].value
    assert report.importance["new"]["wind"] > report.importance["new"]["load"]
    assert {part.column for part in report.slices} == {"road", "wind"}
    assert report.unknown_categories == {}
    assert sum(part.rows for part in report.slices if part.column == "wind") == 400
    for name in report.plots:
        assert bench.run.store.read(name).startswith(b"\x89PNG")
    tables = {Path(name).stem: pd.read_csv(io.BytesIO(bench.run.store.read(name))) for name in report.tables}
    assert all(0 < len(table) <= 200 * 3 * 3 for table in tables.values())
    assert set(tables) >= {"calibration", "gains", "importance"} | (set() if task == "regression" else {"roc", "pr"})


def test_twice_the_same_bytes(home: Home) -> None:
    bench = Bench(home, "binary").fit_all()
    first = bench.evaluate()
    names = [*first.plots, *first.tables, bench.run.path("evaluate", "predictions.parquet")]
    files = [bench.run.store.read(name) for name in names]
    assert bench.evaluate().to_json() == first.to_json()
    assert [bench.run.store.read(name) for name in names] == files


def test_a_category_that_nobody_has_seen_is_counted(home: Home) -> None:
    holdout = month(4)
    holdout.loc[:6, "road"] = "tunnel"
    assert Bench(home, "binary", holdout).fit_all().evaluate().unknown_categories == {"road": 7}


def test_rows_without_a_label_are_left_out_and_counted(home: Home) -> None:
    holdout = month(4).astype({"late": "boolean"})
    holdout.loc[:99, "late"] = None
    report = Bench(home, "binary", holdout).fit_all().evaluate()
    assert report.rows == 300
    assert "100 without a label left out" in report.decision.reasons[0]


def test_degenerate_slices_have_no_score_or_one(home: Home) -> None:
    holdout = month(4).assign(wind=np.nan)
    holdout["road"] = ["ferry", *(["hill"] * 399)]
    more = {"gate": {"metric": "roc_auc"}}
    report = Bench(home, "binary", holdout, **more).fit_all().evaluate()
    by_value = {(part.column, part.value): part for part in report.slices}
    assert set(by_value) == {("road", "ferry"), ("road", "hill"), ("wind", "(missing)")}
    assert by_value["road", "ferry"].scores == {"new": None, "simple": None, "naive": None}
    assert by_value["wind", "(missing)"].rows == 400


# --- one class, no labels


def test_one_class_leaves_auc_undefined_and_log_loss_fine(home: Home) -> None:
    report = Bench(home, "binary", month(4).assign(late=False)).fit_all().evaluate()
    assert report.decision.verdict == "measured"
    assert report.metrics["new"]["roc_auc"].value is None
    assert report.metrics["new"]["log_loss"].value is not None
    assert report.paired


def test_one_class_cannot_be_judged_by_auc(home: Home) -> None:
    report = Bench(home, "binary", month(4).assign(late=False), gate={"metric": "roc_auc"}).fit_all().evaluate()
    assert report.decision.verdict == "inconclusive"
    assert "roc_auc is undefined" in report.decision.reasons[0]
    assert not report.paired


def test_no_label_at_all_is_inconclusive(home: Home) -> None:
    holdout = month(4).assign(late=pd.array([None] * 400, dtype="boolean"))
    bench = Bench(home, "binary", holdout).fit_all()
    report = bench.evaluate()
    assert report.decision.verdict == "inconclusive"
    assert report.decision.reasons[0].startswith("no fresh labels: none of 400 rows")
    assert bench.read("metrics.json") == b"{}\n"


def test_rows_that_a_candidate_was_fitted_on_do_not_judge(home: Home) -> None:
    bench = Bench(home, "binary").fit_all()
    report = bench.evaluate(holdout=dataset.intervals(bench.accepted[2:3]))
    assert report.decision.verdict == "inconclusive"
    assert not report.metrics


def test_training_on_another_context_is_refused(home: Home) -> None:
    bench = Bench(home, "binary").fit_all()
    with pytest.raises(MissingInput, match=r"not in context\.json"):
        bench.evaluate(holdout=(bench.spec.at("2024-06-01"),))


# --- the champion


def test_the_champion_is_measured_on_the_same_rows_by_its_own_pipeline(place: Home) -> None:
    bench = Bench(place, "binary").fit_all()
    report = bench.serve(bench.pipeline(DecisionTreeClassifier(max_depth=3, random_state=0))).evaluate()
    pair = next(pair for pair in report.paired if pair.against == "champion")
    assert (pair.gain, pair.low, pair.high) == (0, 0, 0)
    assert report.metrics["champion"] == report.metrics["new"]
    assert set(report.importance) == {"new"}


def test_a_champion_that_has_seen_the_holdout_rows_is_not_compared(place: Home) -> None:
    bench = Bench(place, "binary").fit_all()
    report = bench.serve(bench.pipeline(DummyClassifier()), until=4).evaluate()
    assert report.decision.verdict == "inconclusive"
    assert report.decision.reasons[0].startswith("no fresh labels: champion v")
    assert not report.metrics


def test_only_what_the_champion_has_not_seen_judges(place: Home) -> None:
    bench = Bench(place, "binary").fit_all()
    bench.fitted = [
        fitted.model_copy(update={"intervals": dataset.intervals(bench.accepted[:2])}) for fitted in bench.fitted
    ]
    report = bench.serve(bench.pipeline(DummyClassifier()), until=3).evaluate(
        holdout=dataset.intervals(bench.accepted[2:])
    )
    assert report.holdout == dataset.intervals(bench.accepted[3:])


def test_a_champion_that_cannot_score_is_an_error(place: Home) -> None:
    bench = Bench(place, "binary").fit_all()
    training = bench.training.assign(gone=1.0)
    model = make_pipeline(Typed({"gone": "number"}, bench.outcomes), LogisticRegression())
    model.fit(training, dataset.outcome(bench.spec, training))
    bench.training = training[[*bench.spec.columns]]
    folder = bench.home.state / "models" / "champion"
    digest = save_model(model, folder, example=training[["gone"]], requirements=["scikit-learn"])
    bench.save = lambda *_: (folder, digest)  # type: ignore[method-assign]
    with pytest.raises(SchemaChanged, match="gone"):
        bench.serve(model).evaluate()


def test_a_champion_whose_files_are_gone_is_an_error(place: Home) -> None:
    bench = Bench(place, "binary").fit_all()
    bench.serve(bench.pipeline(DummyClassifier()))
    assert bench.champion
    bench.champion = bench.champion.model_copy(update={"version": 999, "digest": "0" * 64})
    with pytest.raises(ArtifactMissing):
        bench.evaluate()


# --- a candidate that is forward chained


def chained(bench: Bench, name: str, first: Any, cut: str) -> None:
    """Let another model answer the holdout rows up to a cut; the one that was fitted answers those from there on."""
    folder, digest = bench.save(bench.pipeline(first), f"{name}-1")
    key = bench.run.path("train", f"{name}-1")
    bench.run.store.put_folder(key, folder)
    (fitted,) = (fitted for fitted in bench.fitted if fitted.name == name)
    last = Interval(start=bench.accepted[3].batch.interval.start, end=pd.Timestamp(cut, tz="UTC").to_pydatetime())
    link = ChainLink(until=pd.Timestamp("2024-04-11", tz="UTC").to_pydatetime(), key=key, digest=digest, rows=1200)
    change = {"chain": (link,), "intervals": (*fitted.intervals, last)}
    bench.fitted[bench.fitted.index(fitted)] = fitted.model_copy(update=change)


def test_each_row_is_answered_by_the_newest_model_that_has_not_seen_it(place: Home) -> None:
    bench = Bench(place, "binary").fit_all().serve(Bench(place, "binary").pipeline(DummyClassifier()))
    alone = bench.evaluate()
    answers = pd.read_parquet(io.BytesIO(bench.read("predictions.parquet")))
    for name in MODELS["binary"]:
        chained(bench, name, DummyClassifier(), "2024-04-21")
    report = bench.evaluate(judged_from="2024-04-11")
    assert report.holdout == alone.holdout
    assert 200 < report.rows < 300
    assert "from 2024-04-11 00:00 on" in report.decision.reasons[0]
    rows = pd.read_parquet(io.BytesIO(bench.read("predictions.parquet")))
    late = rows["at"] >= "2024-04-21"
    assert (rows["at"] >= "2024-04-11").all()
    assert rows.loc[~late, "new"].nunique() == 1, "the first link knows the prior"
    of_last = answers.set_index("id")["new"].loc[rows.loc[late, "id"]]
    assert np.array_equal(rows.loc[late, "new"], of_last)
    # What a candidate was fitted on does not judge it, whatever the report says.
    assert bench.evaluate(judged_from="2024-04-10").decision.verdict == "inconclusive"


def test_another_first_link_is_another_question(place: Home) -> None:
    bench = Bench(place, "binary").fit_all()
    for first in (DummyClassifier(), LogisticRegression()):
        for name in MODELS["binary"]:
            chained(bench, name, first, "2024-04-21")
        bench.evaluate(judged_from="2024-04-11")
    assert len(interim_analyses(bench)) == 2


def test_a_champion_that_answers_far_outside_with_certainty_is_replaced_in_that_very_run(place: Home) -> None:
    bench = Bench(place, "binary", gate={"min_rows": 100}).fit_all()
    absurd = bench.pipeline(LogisticRegression())
    absurd[-1].coef_ *= -40
    bench.fit("refresh", "refresh", absurd)
    report = bench.serve(absurd).evaluate()
    score = {name: of["log_loss"].value or 0.0 for name, of in report.metrics.items()}
    assert score["champion"] > 5 > 1 > score["naive"] > score["new"]
    train, context = bench.run.read(TrainReport, "train"), bench.run.read(Context, "context")
    gate = judge(bench.spec, context, train, report)
    assert (gate.decision.verdict, gate.lost_to, gate.kind) == (
        "promote",
        "naive",
        "new" if gate.chosen == "new" else "baseline",
    )
    assert gate.challenger_score == min(value for name, value in score.items())
    assert {finding.model for finding in report.findings} == {*score}, "a baseline may serve, so it is examined too"


def test_the_loss_without_a_bound_is_compared_by_its_companion_too(place: Home) -> None:
    bench = Bench(place, "binary").fit_all()
    report = bench.serve(bench.pipeline(DummyClassifier())).evaluate()
    pairs = {(pair.against, pair.metric) for pair in report.paired}
    assert pairs == {("champion", "log_loss"), ("champion", "brier"), ("naive", "log_loss"), ("simple", "log_loss")}


def test_one_block_is_measured_without_intervals(home: Home) -> None:
    holdout = month(4).assign(at=pd.Timestamp("2024-04-01T12:00", tz="UTC"))
    report = Bench(home, "binary", holdout).fit_all().evaluate()
    assert (report.decision.verdict, report.blocks, report.paired) == ("measured", 1, ())
    assert "has no interval: 1 block(s)" in report.decision.reasons[0]


# --- the reference champion


def lasting(bench: Bench) -> Bench:
    """Old and new champion of before, and a candidate that is better than both."""
    bench.serve_before(bench.pipeline(DecisionTreeClassifier(max_depth=1, random_state=0)), until=2)
    return bench.serve(bench.pipeline(DecisionTreeClassifier(max_depth=2, random_state=0)))


def test_every_candidate_is_paired_with_the_reference_champion(place: Home) -> None:
    report = lasting(Bench(place, "binary").fit_all()).evaluate()
    over = {pair.against: pair for pair in report.paired if pair.model == "new"}
    assert set(over) == {"champion", "reference_champion", "naive", "simple"}
    assert over["reference_champion"].gain > over["champion"].gain > 0
    assert set(report.importance) == {"new"}
    assert report.lost == ""


def test_a_champion_that_is_its_own_reference_is_scored_once(place: Home) -> None:
    bench = Bench(place, "binary").fit_all()
    report = bench.serve(bench.pipeline(DummyClassifier())).evaluate()
    assert "reference_champion" not in report.metrics
    assert report.lost == ""


def test_rows_that_the_reference_champion_has_seen_do_not_judge(place: Home) -> None:
    bench = Bench(place, "binary").fit_all()
    bench.serve_before(bench.pipeline(DummyClassifier()), until=4)
    report = bench.serve(bench.pipeline(DummyClassifier())).evaluate()
    assert report.decision.verdict == "inconclusive"
    assert bench.reference_champion
    fitted_until = f"champion v{bench.reference_champion.version} was fitted on rows until"
    assert fitted_until in report.decision.reasons[0]


def test_a_reference_champion_that_is_gone_stops_nothing(place: Home) -> None:
    bench = lasting(Bench(place, "binary").fit_all())
    assert bench.reference_champion
    bench.reference_champion = bench.reference_champion.model_copy(update={"version": 999, "digest": "0" * 64})
    report = bench.evaluate()
    assert report.decision.verdict == "measured"
    assert "999" in report.lost
    assert any("the reference champion is lost" in reason for reason in report.decision.reasons)
    assert "reference_champion" not in report.metrics
    assert {pair.against for pair in report.paired} == {"champion", "naive", "simple"}


def test_a_reference_champion_of_other_classes_stops_nothing(place: Home) -> None:
    bench = Bench(place, "binary").fit_all()
    model = bench.pipeline(DummyClassifier())
    model[0].outcomes = ("no", "yes")
    report = bench.serve_before(model).serve(bench.pipeline(DummyClassifier())).evaluate()
    assert report.decision.verdict == "measured"
    assert report.lost.startswith("reference champion knows the classes")
    assert "reference_champion" not in report.metrics


def test_a_registry_that_is_down_is_asked_again_for_the_reference_champion(
    place: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be a pity to lose the reference champion to an hour without network."""
    bench = lasting(Bench(place, "binary").fit_all())
    real = evaluate_module.load_champion

    def load(run: Run, champion: Champion) -> Pipeline:
        if champion == bench.reference_champion:
            raise RegistryDown("no answer", do="try again")
        return real(run, champion)

    monkeypatch.setattr(evaluate_module, "load_champion", load)
    with pytest.raises(RegistryDown):
        bench.evaluate()


# --- what an interim analysis costs


def interim_analyses(bench: Bench) -> list[Record]:
    return bench.run.ledger.records("trips", "interim_analysis")


def test_an_interim_analysis_is_on_record_before_the_rows_are_scored(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(home, "binary").fit_all()
    records: list[Record] = []

    def predict(*_: Any) -> Any:
        records.extend(interim_analyses(bench))
        raise KeyboardInterrupt

    monkeypatch.setattr(pipelines, "predict", predict)
    with pytest.raises(KeyboardInterrupt):
        bench.evaluate()
    assert [record.body["batches"] for record in records] == [[bench.accepted[3].batch.sha256]]


def test_rows_that_nobody_can_judge_by_cost_nothing(home: Home) -> None:
    Bench(home, "binary", month(4).assign(late=pd.array([None] * 400, dtype="boolean"))).fit_all().evaluate()
    bench = Bench(home, "binary").fit_all()
    bench.evaluate(holdout=dataset.intervals(bench.accepted[2:3]))
    assert not interim_analyses(bench)


def test_candidates_of_one_run_share_the_level(place: Home) -> None:
    bench = Bench(place, "binary").fit_all()
    report = bench.evaluate()
    assert report.level == pytest.approx(0.8 * bench.spec.gate.level)
    assert {pair.level for pair in report.paired} == {report.level}
    bench.fit("refresh", "refresh", bench.pipeline(LogisticRegression()))
    assert bench.evaluate().level == pytest.approx(0.16 * bench.spec.gate.level), "the first model is one candidate"
    report = bench.serve(bench.pipeline(DummyClassifier())).evaluate()
    assert report.level == pytest.approx(0.032 * bench.spec.gate.level), "a refresh need not be shown better"
    bench.fit("changed", "new", bench.pipeline(DecisionTreeClassifier(max_depth=2, random_state=0)))
    report = bench.evaluate()
    assert report.level == pytest.approx(0.0064 * bench.spec.gate.level / 2)
    assert {pair.level for pair in report.paired} == {report.level}
    assert any("for each of 2 candidates" in reason for reason in report.decision.reasons)


def test_the_same_question_again_is_the_same_analysis(home: Home) -> None:
    bench = Bench(home, "binary").fit_all()
    first = bench.evaluate()
    for key in ("test", "another"):
        bench.run = dataclasses.replace(bench.run, key=key, trigger=Trigger(kind="laptop", dry_run=True))
        again = bench.evaluate()
        assert (again.level, again.earlier_analyses, again.paired) == (first.level, 0, first.paired)
    assert len(interim_analyses(bench)) == 1


def test_another_question_to_the_same_rows_is_counted_and_paid_for(home: Home) -> None:
    bench = Bench(home, "binary").fit_all()
    first = bench.evaluate()
    wide = {pair.against: pair.gain - pair.low for pair in first.paired}
    bench.fitted.pop(0)
    bench.fit("new", "new", bench.pipeline(DecisionTreeClassifier(max_depth=4, random_state=0)))
    bench.run = dataclasses.replace(bench.run, key="another", trigger=Trigger(kind="laptop", dry_run=True))
    second = bench.evaluate()
    assert second.earlier_analyses == 1
    assert second.level == pytest.approx(0.2 * (first.level or 0))
    assert any("looked at once before" in reason for reason in second.decision.reasons)
    assert all(pair.gain - pair.low > 1.2 * wide[pair.against] for pair in second.paired if pair.against == "naive")


def test_rows_whose_level_is_spent_judge_no_more(home: Home) -> None:
    bench = Bench(home, "binary").fit_all()
    body = {"batches": [bench.accepted[3].batch.sha256], "level": bench.spec.gate.level, "expected": 1}
    for place in range(20):
        bench.run.ledger.append("trips", "interim_analysis", f"{place}", body, effective_at=bench.run.as_of)
    report = bench.evaluate()
    assert (report.decision.verdict, report.earlier_analyses) == ("inconclusive", 20)
    assert "have spent gate.level" in report.decision.reasons[0]
    assert not report.metrics


def test_a_changed_candidate_is_an_error(home: Home) -> None:
    bench = Bench(home, "binary").fit_all()
    bench.fitted[0] = bench.fitted[0].model_copy(update={"digest": "0" * 64})
    with pytest.raises(DigestMismatch):
        bench.evaluate()


def test_a_model_that_answers_nan_is_an_error(home: Home) -> None:
    bench = Bench(home, "regression").fit_all()
    model = bench.pipeline(LinearRegression())
    model[-1].coef_[:] = np.nan
    bench.fit("refresh", "refresh", model)
    with pytest.raises(NonFiniteMetric, match="refresh: 400 of 400 predictions"):
        bench.evaluate()


def test_a_candidate_whose_files_are_gone_is_an_error(home: Home) -> None:
    bench = Bench(home, "binary").fit_all()
    shutil.rmtree(Path(bench.run.store.path) / bench.fitted[0].key)
    with pytest.raises(MissingInput):
        bench.evaluate()


def test_a_model_of_other_classes_is_an_error(home: Home) -> None:
    bench = Bench(home, "multiclass").fit_all()
    turned = {"target": {"column": "kind", "classes": ["stormy", "windy", "calm"]}}
    (home.models / "trips.yaml").write_text(yaml.safe_dump(spec_of("multiclass", **turned)))
    bench.run = dataclasses.replace(bench.run, spec=home.spec("trips"))
    with pytest.raises(ScoringFailed, match="new knows the classes"):
        bench.evaluate()


def test_a_model_that_crashes_is_an_error(home: Home) -> None:
    holdout = month(4)
    holdout.loc[3, "road"] = "tunnel"
    bench = Bench(home, "binary", holdout).fit_all()
    model = bench.pipeline(LogisticRegression())
    model[1].named_transformers_["words"].handle_unknown = "error"
    bench.fit("refresh", "refresh", model)
    with pytest.raises(ScoringFailed, match="refresh failed on the holdout rows: ValueError: Found unknown categories"):
        bench.evaluate()
