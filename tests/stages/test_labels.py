"""Labels apart from the rows: late, missing, doubled, contradictory and strange ones each have their way."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from retrain import pipeline
from retrain.data import dataset
from retrain.data.versions import DataVersion, registry_of
from retrain.errors import BatchMissing, ContradictoryLabels, DtypeChanged, SchemaChanged, SnapshotCorrupt
from retrain.results import (
    AcceptedBatch,
    Decision,
    IngestReport,
    LabelBatch,
    LabelsReport,
    ValidateReport,
)
from retrain.stages.context import context
from retrain.stages.train import train
from retrain.state.ledger import Ledger, Record
from retrain.state.store import json_digest

if TYPE_CHECKING:
    from tests.conftest import Model

JAN, FEB, MAR, APR = (f"2024-0{month}-01" for month in range(1, 5))
Frames = Callable[..., pd.DataFrame]


class Disparity:
    """The churn model with its labels in files of their own, mature 14 days after the month."""

    def __init__(self, model: Model, spec: dict[str, Any]) -> None:
        self.model, self.spec = model, spec
        self.declare()

    def declare(self, *, source: dict[str, Any] | None = None, **labels: Any) -> None:
        source = {"path": "labels/churn-{start:%Y-%m}.csv"} | (source or {})
        self.spec["labels"] = {"source": source, "mature_after": "14d", **labels}
        self.model.write_spec(self.spec)

    def accept(self, start: str, frame: pd.DataFrame, **trigger: Any) -> AcceptedBatch:
        """The batch without its target through ingest and snapshot; validate has its own tests."""
        self.model.deliver(start, frame.drop(columns=self.spec["target"]["column"], errors="ignore"))
        run = self.model.run(start, **trigger)
        pipeline.run_stage("ingest", run)
        batch = run.read(IngestReport, "ingest").batch
        sound = Decision(verdict="accept", reasons=("as the test has it",))
        run.write(
            ValidateReport(
                model=run.model,
                interval=run.interval,
                effective_at=run.as_of,
                decision=sound,
                sha256=batch.sha256,
                checks=(),
            ),
            "validate",
        )
        pipeline.run_stage("snapshot", run)
        return AcceptedBatch.model_validate(run.ledger.records(run.model, "snapshot")[-1].body["accepted"])

    def label(self, start: str, frame: pd.DataFrame) -> Path:
        file = self.model.home.root / "labels" / f"churn-{start[:7]}.csv"
        file.parent.mkdir(exist_ok=True)
        frame.to_csv(file, index=False)
        return file

    def take(self, start: str = FEB, *, key: str = "", **trigger: Any) -> LabelsReport:
        """The stage in a run of this month: its end is the as-of time."""
        report = pipeline.run_stage("labels", self.model.run(start, key=key, **trigger))
        assert isinstance(report, LabelsReport)
        return report

    @property
    def records(self) -> list[Record]:
        return self.model.run().ledger.records("churn", "labels")

    def read(self, one: AcceptedBatch, record: Record | None = None) -> pd.DataFrame:
        """The rows of a batch with the labels that are on record, in the order of the file."""
        labels = LabelBatch.model_validate((record or self.records[-1]).body["labels"])
        return dataset.read(self.model.run(), [one.model_copy(update={"labels": labels})], ordered=False)


@pytest.fixture
def apart(churn: Model, spec_of: Callable[[], dict[str, Any]]) -> Disparity:
    return Disparity(churn, spec_of())


def of(frame: pd.DataFrame) -> pd.DataFrame:
    """What a label system exports: more than the outcome, and in an order of its own."""
    return frame[["id", "churned"]].assign(booked="2024-02-10", note="by call, or letter")[::-1]


def test_labels_that_come_with_the_rows_are_not_looked_for(churn: Model) -> None:
    report = pipeline.run_stage("labels", churn.run())
    assert isinstance(report, LabelsReport)
    assert report.decision == Decision(verdict="same", reasons=("churned comes with the rows",))
    assert churn.run().ledger.records("churn", "labels") == []


def test_labels_are_joined_by_key_whatever_their_order(apart: Disparity, rows_of: Frames) -> None:
    frame = rows_of(JAN).sample(frac=1, random_state=0)
    one = apart.accept(JAN, frame)
    apart.label(JAN, of(frame))
    report = apart.take()
    assert report.decision.verdict == "joined"
    assert report.decision.reasons == (
        "1 of 1 matured intervals have their labels",
        "2024-01-01: 200 of 200 rows (100.0%)",
    )
    read = apart.read(one)
    assert read["id"].tolist() == frame["id"].tolist()
    assert read["churned"].tolist() == frame["churned"].astype(float).tolist()
    assert list(read) == list(apart.model.run().spec.columns)
    (record,) = apart.records
    assert record.key == f"2024-01-01/{record.body['labels']['sha256']}"
    assert (record.effective_at, record.body["coverage"], record.body["rows"]) == (
        datetime(2024, 3, 1, tzinfo=UTC),
        1,
        200,
    )


def test_what_is_on_record_brings_back_the_exact_bytes(apart: Disparity, rows_of: Frames, tmp_path: Path) -> None:
    apart.accept(JAN, rows_of(JAN))
    apart.label(JAN, of(rows_of(JAN)))
    apart.take()
    body = apart.records[0].body
    back = registry_of(apart.model.home).fetch(DataVersion(**body["version"]), tmp_path / "back.parquet")
    assert back.read_bytes() == apart.model.run().store.read(body["labels"]["key"])
    assert body["version"]["path"] == "churn/labels/2024-01-01.parquet"


def test_labels_after_a_lost_data_registry_bring_back_what_is_on_record(apart: Disparity, rows_of: Frames) -> None:
    for month in (JAN, FEB):
        apart.accept(month, rows_of(month))
    apart.label(JAN, of(rows_of(JAN)))
    apart.take()
    home, ledger = apart.model.home, apart.model.run().ledger
    shutil.rmtree(home.registry)
    apart.label(FEB, of(rows_of(FEB)))
    assert apart.take(MAR).decision.verdict == "joined"
    (record,) = ledger.records("churn", "data restored")
    assert len(record.body["commits"]) == 3, "two batches and one month's labels"
    assert len(apart.records) == 2
    for published in (*ledger.records("churn", "snapshot"), *apart.records):
        version = registry_of(home).lookup(published.body["version"]["tag"])
        assert version is not None
        assert version.md5 == published.body["version"]["md5"]


def test_nothing_is_read_before_it_is_mature(apart: Disparity, rows_of: Frames) -> None:
    apart.accept(JAN, rows_of(JAN))
    apart.label(JAN, of(rows_of(JAN)))
    report = apart.take(JAN)
    assert (report.decision.verdict, report.matured) == ("waiting", 0)
    assert report.decision.reasons == ("no labels have matured by 2024-02-01 00:00",)
    assert apart.records == []


def test_a_late_delivery_is_found_by_a_later_run(apart: Disparity, rows_of: Frames) -> None:
    for month in (JAN, FEB):
        apart.accept(month, rows_of(month))
    report = apart.take(FEB)
    waits = "2024-01-01 waits: nothing lies at labels/churn-2024-01.csv yet"
    assert report.decision == Decision(verdict="waiting", reasons=("0 of 1 matured intervals have their labels", waits))
    apart.label(JAN, of(rows_of(JAN)))
    report = apart.take(MAR)
    assert (report.decision.verdict, report.matured, report.joined) == ("waiting", 2, 1)
    assert "2024-02-01 waits: nothing lies at labels/churn-2024-02.csv yet" in report.decision.reasons
    apart.label(FEB, of(rows_of(FEB)))
    assert apart.take(APR).decision.verdict == "joined"
    assert [record.body["interval"] for record in apart.records] == [JAN, FEB]
    again = apart.take(FEB, key="again")
    assert again.decision.reasons[1:] == ("2024-01-01 waits: they came later",), "the past stays as it was"


def test_a_missing_label_is_never_a_negative(apart: Disparity, rows_of: Frames) -> None:
    frame = rows_of(JAN)
    one = apart.accept(JAN, frame)
    given = of(frame)
    given = given[given["id"] >= "202401-00050"].astype({"churned": object})
    given.loc[given["id"] >= "202401-00150", "churned"] = None
    apart.label(JAN, given)
    (result,) = apart.take().intervals
    assert (result.rows, result.labelled, result.empty, result.coverage) == (200, 100, 50, 0.5)
    read = apart.read(one).set_index("id")["churned"]
    expected = frame.set_index("id")["churned"].astype(float)
    expected[(expected.index < "202401-00050") | (expected.index >= "202401-00150")] = np.nan
    pd.testing.assert_series_equal(read, expected, check_index_type=False)


def test_doubles_contradictions_and_strangers_are_counted_and_give_no_wrong_label(
    apart: Disparity, rows_of: Frames
) -> None:
    frame = rows_of(JAN)
    one = apart.accept(JAN, frame)
    given = of(frame)
    torn = given.head(2).assign(churned=~given.head(2)["churned"])
    strange = given.head(5).assign(id=["x0", "x1", "x2", "x3", ""])
    apart.label(JAN, pd.concat([given, given.head(10).tail(3), torn, strange]))
    report = apart.take()
    (result,) = report.intervals
    assert (result.duplicates, result.contradictory, result.strangers, result.labelled) == (3, 2, 5, 198)
    counted = "2024-01-01: 198 of 200 rows (99.0%), 3 duplicated, 2 contradictory, 5 without a row"
    assert counted in report.decision.reasons
    read = apart.read(one).set_index("id")["churned"]
    assert set(read.index[read.isna()]) == set(torn["id"])
    assert read.dropna().to_dict() == frame.set_index("id")["churned"].drop(torn["id"]).astype(float).to_dict()


def test_too_many_contradictions_are_refused_and_keep_no_other_month_from_its_labels(
    apart: Disparity, rows_of: Frames
) -> None:
    for month in (JAN, FEB):
        apart.accept(month, rows_of(month))
        apart.label(month, of(rows_of(month)))
    given = of(rows_of(JAN))
    apart.label(JAN, pd.concat([given, given.head(3).assign(churned=~given.head(3)["churned"])]))
    with pytest.raises(ContradictoryLabels, match=r"churn · labels · .*3 of 200 keys in the labels of \[2024-01-01"):
        apart.take(MAR)
    assert [record.body["interval"] for record in apart.records] == [FEB]
    assert not apart.model.run().store.exists("churn/labels/2024-01-01")
    apart.declare(source={"contradictory": 0.015})
    assert apart.take(MAR, key="allowed").decision.verdict == "joined"


def test_half_a_delivery_is_not_taken_for_the_whole(apart: Disparity, rows_of: Frames) -> None:
    apart.declare(min_coverage=0.8)
    apart.accept(JAN, rows_of(JAN))
    apart.label(JAN, of(rows_of(JAN)).head(100))
    report = apart.take()
    assert (report.decision.verdict, report.intervals[0].labelled, report.intervals[0].coverage) == (
        "waiting",
        100,
        0.5,
    )
    assert "100 of 200 rows (50.0%) have a label; labels.min_coverage is 0.8" in report.decision.reasons[1]
    assert apart.records == []
    apart.label(JAN, of(rows_of(JAN)).head(160))
    assert apart.take(MAR).decision.verdict == "joined"
    assert apart.records[0].body["coverage"] == 0.8


@pytest.mark.parametrize("kept", [slice(0, 0), slice(0, 200)], ids=["no rows", "only empty labels"])
def test_a_delivery_without_a_label_is_waited_for(apart: Disparity, rows_of: Frames, kept: slice) -> None:
    apart.accept(JAN, rows_of(JAN))
    apart.label(JAN, of(rows_of(JAN)).astype({"churned": object}).assign(churned=None)[kept])
    assert apart.take().decision.verdict == "waiting"
    assert apart.records == []


def test_what_was_taken_is_not_looked_at_again_unless_it_is_revised(apart: Disparity, rows_of: Frames) -> None:
    frame = rows_of(JAN)
    one = apart.accept(JAN, frame)
    apart.label(JAN, of(frame))
    apart.take()
    apart.label(JAN, of(frame.assign(churned=~frame["churned"])))
    assert apart.take(MAR).intervals == ()
    assert apart.take(FEB, key="of-another-month", revise=True).intervals == ()
    assert len(apart.records) == 1
    for _ in range(2):
        assert apart.take(JAN, key="revision", revise=True).intervals[0].labelled == 200
    first, second = apart.records
    assert apart.read(one, first)["churned"].tolist() == frame["churned"].astype(float).tolist()
    assert apart.read(one, second)["churned"].tolist() == (~frame["churned"]).astype(float).tolist()
    assert second.effective_at == one.mature_at, "nobody before their maturity knows of them"


def test_going_back_from_a_revision_is_a_revision(apart: Disparity, rows_of: Frames) -> None:
    frame = rows_of(JAN)
    apart.accept(JAN, frame)
    for turn, flipped in enumerate([False, True, False]):
        apart.label(JAN, of(frame.assign(churned=frame["churned"] ^ flipped)))
        apart.take(FEB if turn == 0 else JAN, key=f"turn-{turn}", revise=turn > 0)
    shas = [record.body["labels"]["sha256"] for record in apart.records]
    assert len(shas) == 3
    assert shas[0] == shas[2] != shas[1]


def test_labels_follow_a_revised_batch(apart: Disparity, rows_of: Frames) -> None:
    frame = rows_of(JAN)
    apart.label(JAN, of(frame))
    apart.accept(JAN, frame.head(120))
    apart.take()
    one = apart.accept(JAN, frame, revise=True)
    assert apart.take(MAR).intervals[0].labelled == 200
    assert [record.body["rows"] for record in apart.records] == [120, 200]
    assert apart.read(one)["churned"].notna().all()


def test_a_second_run_finds_the_work_done(apart: Disparity, rows_of: Frames) -> None:
    apart.accept(JAN, rows_of(JAN))
    apart.label(JAN, of(rows_of(JAN)))
    first = apart.take()
    assert apart.take() == first, "a retry says what its first attempt said"
    assert apart.take(key="another").joined == 1
    assert len(apart.records) == 1


def test_the_same_labels_in_another_order_are_the_same_bytes(apart: Disparity, rows_of: Frames) -> None:
    apart.accept(JAN, rows_of(JAN))
    apart.label(JAN, of(rows_of(JAN)))
    apart.take()
    apart.label(JAN, of(rows_of(JAN)).sample(frac=1, random_state=1))
    apart.take(JAN, key="revision", revise=True)
    assert len(apart.records) == 1


@pytest.mark.parametrize("victim", ["put", "publish", "append"])
def test_a_kill_leaves_nothing_half_done(
    apart: Disparity, rows_of: Frames, victim: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from retrain.data.versions import DataRegistry
    from retrain.state.store import Store

    apart.accept(JAN, rows_of(JAN))
    apart.label(JAN, of(rows_of(JAN)))

    def killed(self: object, *arguments: object, **more: object) -> None:
        if victim != "append" or arguments[1] == "labels":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr({"put": Store, "publish": DataRegistry, "append": Ledger}[victim], victim, killed)
        with pytest.raises(KeyboardInterrupt):
            apart.take()
    assert apart.records == []
    assert apart.take().decision.verdict == "joined"
    assert len(apart.records) == 1


def test_a_file_that_is_not_the_recorded_one_is_refused(apart: Disparity, rows_of: Frames) -> None:
    one = apart.accept(JAN, rows_of(JAN))
    apart.label(JAN, of(rows_of(JAN)))
    apart.take()
    run = apart.model.run()
    run.store.write(apart.records[0].body["labels"]["key"], b"other bytes")
    with pytest.raises(SnapshotCorrupt):
        apart.read(one)


# --- deliveries ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_other_columns_are_ignored_in_every_format(apart: Disparity, rows_of: Frames, kind: str) -> None:
    frame = rows_of(JAN)
    one = apart.accept(JAN, frame)
    apart.declare(source={"path": f"labels.{kind}"})
    file = apart.model.home.root / f"labels.{kind}"
    given = of(frame)
    given["mixed"] = pd.Series(["1", *["x"] * 199], index=given.index)
    if kind == "csv":
        given.to_csv(file, index=False)
    elif kind == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in given.to_dict("records")))
    else:
        given.to_parquet(file, index=False)
    assert apart.take().joined == 1
    assert apart.read(one)["churned"].tolist() == frame["churned"].astype(float).tolist()


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("id,left\na,true\n", SchemaChanged, "missing: churned"),
        ("id,churned,churned\na,true,true\n", SchemaChanged, "doubled: churned"),
        ("id,churned\na,perhaps\n", DtypeChanged, "line 2, column 'churned': 'perhaps'"),
    ],
    ids=["no label column", "two label columns", "not of its type"],
)
def test_a_delivery_that_cannot_be_labels_is_refused(
    apart: Disparity, rows_of: Frames, text: str, error: type[Exception], says: str
) -> None:
    apart.accept(JAN, rows_of(JAN))
    apart.label(JAN, of(rows_of(JAN))).write_text(text)
    with pytest.raises(error, match=says):
        apart.take()
    assert apart.records == []


def test_a_batch_that_brings_the_target_is_refused(apart: Disparity, rows_of: Frames) -> None:
    apart.model.deliver(JAN, rows_of(JAN))
    with pytest.raises(SchemaChanged, match="not declared: churned"):
        pipeline.run_stage("ingest", apart.model.run(JAN))


def test_a_database(apart: Disparity, rows_of: Frames) -> None:
    frame = rows_of(JAN)
    one = apart.accept(JAN, frame)
    query = "SELECT id, churned, booked FROM outcomes WHERE signup >= :start AND signup < :end"
    source = {"path": None, "sql": query, "url": "sqlite:///outcomes.db"}
    apart.declare(source=source)
    given = of(frame).assign(signup=frame["signup"][::-1]).astype({"churned": int})
    with sqlite3.connect(apart.model.home.root / "outcomes.db") as database:
        given.head(0).to_sql("outcomes", database, index=False)
        assert apart.take().decision.verdict == "waiting"
        given.to_sql("outcomes", database, index=False, if_exists="append")
    assert apart.take(MAR).joined == 1
    assert apart.records[0].body["source"] == "sqlite:///outcomes.db"
    assert apart.read(one)["churned"].tolist() == frame["churned"].astype(float).tolist()


def test_regression(apart: Disparity, rows_of: Frames) -> None:
    frame = rows_of(JAN)
    apart.spec |= {"task": "regression", "target": {"column": "spend"}}
    del apart.spec["columns"]["churned"]
    apart.declare()
    one = apart.accept(JAN, frame.drop(columns="churned"))
    given = frame[["id", "spend"]].astype({"spend": object})
    given.loc[:9, "spend"] = None
    given.loc[10, "spend"] = "inf"
    apart.label(JAN, given)
    (result,) = apart.take().intervals
    assert (result.labelled, result.empty, result.unknown, result.unknown_values) == (189, 10, 1, ("inf",))
    read = apart.read(one)["spend"]
    assert read[:11].isna().all()
    assert read[11:].tolist() == frame["spend"][11:].tolist()


def test_classes_and_keys_of_several_columns(apart: Disparity, rows_of: Frames) -> None:
    frame = rows_of(JAN).assign(no=range(200))
    frame["id"] = frame["id"].str[-1]
    frame["churned"] = frame["churned"].map({True: "gone", False: "here"})
    apart.spec["source"]["key"] = ["id", "plan", "no"]
    apart.spec["target"]["classes"] = ["here", "gone"]
    apart.spec["columns"] |= {"churned": {"type": "category"}, "no": {"type": "integer"}}
    apart.declare()
    one = apart.accept(JAN, frame)
    given = frame[["no", "plan", "id", "churned"]].sample(frac=1, random_state=0)
    given.loc[7, "churned"] = "asleep"
    apart.label(JAN, given)
    (result,) = apart.take().intervals
    assert (result.labelled, result.unknown, result.strangers) == (199, 1, 0)
    assert result.unknown_values == ("asleep",)
    read = apart.read(one)
    assert read["churned"].astype(object).drop(7).tolist() == frame["churned"].drop(7).tolist()
    assert dataset.outcome(apart.model.run().spec, read).isna().tolist() == [place == 7 for place in range(200)]


# --- reading ---------------------------------------------------------------------------------------


def test_without_their_labels_the_target_is_empty(apart: Disparity, rows_of: Frames) -> None:
    one = apart.accept(JAN, rows_of(JAN))
    read = dataset.read(apart.model.run(), [one])
    assert read["churned"].isna().all()
    assert read["churned"].dtype == float


def test_features_alone_are_read_without_the_labels(apart: Disparity, rows_of: Frames) -> None:
    one = apart.accept(JAN, rows_of(JAN))
    gone = LabelBatch(sha256="0" * 64, rows=1, key="churn/labels/gone.parquet")
    read = dataset.read(apart.model.run(), [one.model_copy(update={"labels": gone})], ["visits"], ordered=False)
    assert list(read) == ["visits"]


def test_a_batch_from_before_labels_came_apart_does_not_answer_for_them(
    churn: Model, spec_of: Callable[[], dict[str, Any]], rows_of: Frames
) -> None:
    churn.deliver(JAN, rows_of(JAN))
    run = churn.run()
    pipeline.run_stage("ingest", run)
    batch = run.read(IngestReport, "ingest").batch
    one = AcceptedBatch(batch=batch, md5="0" * 32, commit="0" * 40, mature_at=run.as_of)
    assert dataset.read(churn.run(), [one])["churned"].notna().all()
    Disparity(churn, spec_of())
    assert dataset.read(churn.run(), [one])["churned"].isna().all()


def test_the_digest_of_training_rows_knows_their_labels(apart: Disparity, rows_of: Frames) -> None:
    one = apart.accept(JAN, rows_of(JAN))
    labelled = [one.model_copy(update={"labels": LabelBatch(sha256=letter * 64, rows=1, key="k")}) for letter in "ab"]
    assert len({dataset.training_digest([each]) for each in (one, *labelled)}) == 3
    assert dataset.training_digest([one]) == json_digest([one.batch.sha256])


# --- in the loop -----------------------------------------------------------------------------------


def test_training_reads_the_joined_labels_and_only_months_that_have_them(apart: Disparity, rows_of: Frames) -> None:
    apart.declare(min_coverage=0.8)
    for month, labelled in {JAN: 190, FEB: 180, MAR: 100, APR: 0}.items():
        apart.accept(month, rows_of(month))
        if labelled:
            apart.label(month, of(rows_of(month)).head(labelled))
    run = apart.model.run("2024-05-01")
    apart.accept("2024-05-01", rows_of("2024-05-01"))
    apart.label(APR, of(rows_of(APR)))
    pipeline.run_stage("labels", run)
    known = context(run)
    run.write(known, "context")
    training, holdout = dataset.split(known, run.spec)
    assert [[one.batch.interval.name for one in part] for part in (training, holdout)] == [[JAN, FEB], [APR]]
    report = train(run)
    assert report.unlabelled == 10 + 20
    assert {one.rows for one in report.fitted} == {370}
    assert {one.training for one in report.fitted} == {dataset.training_digest(training)}


def test_the_contract_does_not_ask_a_batch_for_its_labels(apart: Disparity, rows_of: Frames) -> None:
    apart.model.deliver(JAN, rows_of(JAN).drop(columns="churned"))
    run = apart.model.run()
    for stage in ("ingest", "validate"):
        report = pipeline.run_stage(stage, run)
    assert isinstance(report, ValidateReport)
    assert report.decision.verdict == "accept"
    assert "churned" not in {check.column for check in report.checks}


def test_a_month_without_a_batch_waits_for_no_labels(apart: Disparity) -> None:
    with pytest.raises(BatchMissing):
        pipeline.run_stage("ingest", apart.model.run(JAN))
    assert apart.take(MAR).matured == 0


def test_check_says_where_labels_come_from(apart: Disparity) -> None:
    from retrain.authoring.check import check_specs

    apart.spec["quality"]["expectations"] = [
        {"expect": "expect_column_values_to_not_be_null", "args": {"column": "churned"}}
    ]
    apart.declare(min_coverage=0.8)
    (checked,) = check_specs(apart.model.home, "churn")
    (line,) = [line for line in checked.description if line.split()[0] == "labels"]
    assert "apart from labels/churn-{start:%Y-%m}.csv, by id, from 80% of the rows on; mature 2w after" in line
    assert "no column 'churned' comes with a batch: labels come apart" in checked.problems[0]
    apart.declare(source={"path": "ftp://labels"})
    (checked,) = check_specs(apart.model.home, "churn")
    assert "labels.source.path: ftp://labels: the scheme 'ftp' is not allowed" in " ".join(checked.warnings)
