from __future__ import annotations

import multiprocessing
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mlflow import MlflowClient
from sklearn.dummy import DummyClassifier
from sklearn.pipeline import Pipeline

from retrain import actions
from retrain.errors import (
    ArtifactMissing,
    ModelBlocked,
    NotApproved,
    NothingToRollBack,
    OutOfBandChange,
    PromotionConflict,
    StaleRun,
)
from retrain.registry import approval, promotion, smoke_test
from retrain.registry.mlflow import Registry, save_model
from retrain.results import (
    Champion,
    Configuration,
    Context,
    Decision,
    FittedModel,
    GateCheck,
    GateReport,
    RefitReport,
    RegisterReport,
    SmokeTestReport,
)
from retrain.stages.promote import promote
from retrain.state import projections
from retrain.state.ledger import Ledger, Record
from retrain.state.run import Run, former_run_key
from tests.conftest import Model

pytestmark = pytest.mark.usefixtures("mlflow")
MONTHS = ["2024-01-01", "2024-02-01", "2024-03-01", "2024-04-01"]


def registered(
    model: Model, month: str, *, key: str = "", becomes_reference: bool = True, seed: int = 0, **trigger: Any
) -> Run:
    """A run whose version is registered and has passed its smoke test; another seed makes other files."""
    run = model.run(month, key=key, **trigger)
    folder = Path(run.store.url(run.path("refit", "model")))
    frame = pd.DataFrame({"x": [0.0, 1.0]})
    dummy = DummyClassifier(strategy="constant", constant=int(month[5:7]) % 2, random_state=seed)
    pipe = Pipeline([("model", dummy)]).fit(frame, [0, 1])
    digest = save_model(pipe, folder, example=frame, requirements=["scikit-learn"])
    registry = Registry(run.home.mlflow)
    run_id = registry.record(
        experiment="churn", key=run.key, name=month, description="", params={}, metrics={}, tags={}, files={}
    )
    tags = {"retrain.run": run.key}
    version = registry.register(model="churn", run_id=run_id, folder=folder, digest=digest, tags=tags, description="")
    about = {"model": "churn", "interval": run.interval, "effective_at": run.as_of}
    yes = Decision(verdict="promote", reasons=("better",))
    fitted = FittedModel(
        name="new", kind="new", training=month, intervals=(run.interval,), rows=2, key=run.path("refit", "model"),
        digest=digest, configuration=Configuration(estimator="linear", parameters={}, pipeline="p"),
    )  # fmt: skip
    served = [record for record in run.ledger.records("churn", "promotion") if record.run != run.key]
    champion = Champion.model_validate(served[-1].body["champion"]) if served else None
    reference_champion = projections.reference_champion(served)
    run.write(
        Context(
            **about,
            spec_digest="s",
            trigger=run.trigger,
            accepted=(),
            champion=champion,
            reference_champion=reference_champion,
        ),
        "context",
    )
    run.write(GateReport(**about, decision=yes, chosen="new", kind="new", becomes_reference=becomes_reference), "gate")
    run.write(RefitReport(**about, decision=yes, fitted=fitted, golden="", mean_prediction=(0.5,)), "refit")
    run.write(RegisterReport(**about, decision=yes, run_id=run_id, version=version, digest=digest), "register")
    run.write(SmokeTestReport(**about, decision=yes, version=version), "smoke_test")
    return run


@pytest.fixture(autouse=True)
def quick_smoke_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """The files are compared by their digest; a process that loads them has its own tests."""

    def run_smoke_test(run: Run, target: Champion, **_: Any) -> tuple[GateCheck, ...]:
        with tempfile.TemporaryDirectory() as folder:
            Registry(run.home.mlflow).fetch(run.model, target.version, target.digest, Path(folder) / "model")
        return ()

    monkeypatch.setattr(smoke_test, "run_smoke_test", run_smoke_test)


def move_by_hand(model: Model, version: int) -> None:
    MlflowClient(model.home.mlflow).set_registered_model_alias("churn", "champion", str(version))


def chain(model: Model) -> list[Record]:
    return Ledger(model.home.ledger).records("churn", "promotion")


def sound(model: Model) -> None:
    """One champion, alias and ledger agree, everything completed, the sequence without a gap."""
    changes = chain(model)
    assert [record.sequence for record in changes] == list(range(1, len(changes) + 1))
    assert serving(model) == changes[-1].body["version"]
    assert Ledger(model.home.ledger).find("churn", "completed", str(changes[-1].sequence))


def serving(model: Model) -> int | None:
    return Registry(model.home.mlflow).alias("churn", "champion")


def test_the_alias_moves_once_and_stands_on_record(churn: Model) -> None:
    first = registered(churn, MONTHS[0])
    assert promote(first).version == serving(churn) == 1
    second = registered(churn, MONTHS[1], by="ada")
    report = promote(second)
    assert (report.version, report.previous, report.sequence) == (2, 1, 2)
    assert promote(second) == report, "a retry is the same promotion"
    changes = chain(churn)
    assert [record.body["version"] for record in changes] == [1, 2]
    assert (changes[1].body["reasons"], changes[1].by) == (["better"], "ada")
    sound(churn)


def test_the_reference_champion_is_kept_until_another_is_shown_better(churn: Model) -> None:
    for month, becomes_reference in zip(MONTHS, (True, False, False, True), strict=True):
        promote(registered(churn, month, becomes_reference=becomes_reference))
    reference_versions = [record.body["reference_champion"]["version"] for record in chain(churn)]
    assert reference_versions == [1, 1, 1, 4]
    actions.roll_back(churn.home, churn.home.spec("churn"), "rb", "bad")
    back = projections.reference_champion(chain(churn))
    assert back
    assert back.version == 1, "the reference champion goes back with the champion"


def test_an_older_run_never_replaces_a_newer_champion(churn: Model) -> None:
    older, newer = registered(churn, MONTHS[0]), registered(churn, MONTHS[1])
    promote(newer)
    with pytest.raises(StaleRun):
        promote(older)
    assert serving(churn) == 2
    sound(churn)


def test_a_candidate_replaces_no_champion_but_the_one_it_was_held_against(
    churn: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote(registered(churn, MONTHS[0]))
    quick, slow = registered(churn, MONTHS[1]), registered(churn, MONTHS[2])
    check_promotable = promotion.check_promotable

    def overtaken(run: Run, *about: Any) -> None:
        check_promotable(run, *about)
        if run.key == slow.key and serving(churn) == 1:
            promote(quick)

    monkeypatch.setattr(promotion, "check_promotable", overtaken)
    for _ in range(2):
        with pytest.raises(PromotionConflict, match="held against version 1, version 2 serves"):
            promote(slow)
    assert serving(churn) == 2
    sound(churn)


def test_a_retry_of_a_replaced_promotion_changes_nothing(churn: Model) -> None:
    first, second = registered(churn, MONTHS[0]), registered(churn, MONTHS[1])
    promote(first)
    promote(second)
    promote(first)
    sound(churn)
    assert serving(churn) == 2


def test_a_kill_between_record_and_alias_is_completed(churn: Model) -> None:
    first, second, third = (registered(churn, month) for month in MONTHS[:3])
    promote(first)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(promotion, "finish", killed)
        with pytest.raises(KeyboardInterrupt):
            promote(second)
    assert serving(churn) == 1
    assert promote(second).version == serving(churn) == 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(promotion, "finish", killed)
        with pytest.raises(KeyboardInterrupt):
            promote(third)
    assert promote(registered(churn, MONTHS[3])).previous == 3, "and whoever comes next completes it too"
    assert Ledger(churn.home.ledger).find("churn", "completed", "3")
    sound(churn)


def killed(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_a_version_deleted_before_the_alias_could_follow_is_undone(churn: Model) -> None:
    first, second = registered(churn, MONTHS[0]), registered(churn, MONTHS[1])
    promote(first)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(promotion, "finish", killed)
        with pytest.raises(KeyboardInterrupt):
            promote(second)
    MlflowClient(churn.home.mlflow).delete_model_version("churn", "2")
    with pytest.raises(ArtifactMissing, match="undone, version 1 serves"):
        promote(second)
    assert [record.body["action"] for record in chain(churn)] == ["promote", "promote", "undo"]
    sound(churn)
    assert promote(registered(churn, MONTHS[2])).previous == 1


def test_a_slow_promoter_does_not_take_the_alias_back(churn: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = registered(churn, MONTHS[0]), registered(churn, MONTHS[1])
    set_alias = Registry.set_alias
    came: list[int] = []

    def slowly(self: Registry, model: str, name: str, version: int, digest: str) -> None:
        if not came:
            came.append(version)
            promote(second)  # while the first stands before the alias
        set_alias(self, model, name, version, digest)

    monkeypatch.setattr(Registry, "set_alias", slowly)
    promote(first)
    assert serving(churn) == 2
    sound(churn)


def test_an_alias_moved_by_hand_is_never_overwritten(churn: Model) -> None:
    runs = [registered(churn, month) for month in MONTHS]
    for run in runs[:3]:
        promote(run)
    move_by_hand(churn, 2)
    with pytest.raises(OutOfBandChange, match="points at version 2, the ledger says version 3"):
        promote(runs[3])
    spec = churn.home.spec("churn")
    with pytest.raises(OutOfBandChange):
        actions.roll_back(churn.home, spec, "rb", "bad")
    with pytest.raises(OutOfBandChange, match="--take ledger"):
        actions.reconcile(churn.home, spec, "rc", "", "")
    assert serving(churn) == 2
    assert len(chain(churn)) == 3


def test_a_person_settles_an_alias_moved_by_hand(churn: Model) -> None:
    for month in MONTHS[:3]:
        promote(registered(churn, month))
    spec, home = churn.home.spec("churn"), churn.home
    move_by_hand(churn, 2)
    assert "put back to version 3" in actions.reconcile(home, spec, "rc-1", "ledger", "a slip", by="ada")
    sound(churn)
    move_by_hand(churn, 1)
    assert "version 1 serves" in actions.reconcile(home, spec, "rc-2", "alias", "as she said", by="ada")
    sound(churn)
    last = chain(churn)[-1]
    assert (last.body["action"], last.body["version"], last.by) == ("adopt", 1, "ada")
    registered(churn, MONTHS[3], seed=1)
    move_by_hand(churn, 4)
    assert "version 4 serves" in actions.reconcile(home, spec, "rc-3", "alias", "it passed the gate, and is wanted")
    sound(churn)
    assert "by ledger and alias" in actions.reconcile(home, spec, "rc-5", "", "")


def test_a_deleted_champion_is_registered_again(churn: Model) -> None:
    for month in MONTHS[:2]:
        promote(registered(churn, month))
    MlflowClient(churn.home.mlflow).delete_model_version("churn", "2")
    before = chain(churn)[-1].body["champion"]
    assert "serve as version" in actions.reconcile(churn.home, churn.home.spec("churn"), "rc", "", "deleted by a slip")
    after = chain(churn)[-1].body["champion"]
    assert after["digest"] == before["digest"]
    assert serving(churn) == after["version"] != 2
    sound(churn)
    assert actions.roll_back(churn.home, churn.home.spec("churn"), "rb", "bad").version == 1


def test_a_deleted_champion_whose_alias_a_hand_moved_is_registered_again_too(churn: Model) -> None:
    for month in MONTHS[:2]:
        promote(registered(churn, month))
    MlflowClient(churn.home.mlflow).delete_model_version("churn", "2")
    move_by_hand(churn, 1)
    assert "serve as version" in actions.reconcile(churn.home, churn.home.spec("churn"), "rc", "ledger", "both slips")
    assert chain(churn)[-1].body["action"] == "restore"
    sound(churn)


def _race(run: Run) -> str:
    try:
        promote(run)
    except (PromotionConflict, StaleRun) as error:
        return type(error).__name__
    return "won"


@pytest.mark.parametrize("racers", [2, 6])
def test_of_racing_promoters_the_alias_follows_the_ledger(churn: Model, racers: int) -> None:
    runs = [replace(registered(churn, MONTHS[0], key=f"racer-{place}")) for place in range(racers)]
    with multiprocessing.get_context("fork").Pool(racers) as pool:
        outcomes = pool.map(_race, runs)
    assert outcomes.count("won") == len(chain(churn)) >= 1
    sound(churn)


def test_rollback_puts_the_predecessor_back_and_again(churn: Model) -> None:
    for month in MONTHS[:3]:
        promote(registered(churn, month))
    spec, home = churn.home.spec("churn"), churn.home
    assert actions.roll_back(home, spec, "rb-1", "bad scores", by="ada").version == serving(churn) == 2
    assert actions.roll_back(home, spec, "rb-1", "bad scores", by="ada").version == serving(churn) == 2, "the same one"
    assert actions.roll_back(home, spec, "rb-2", "still bad").version == serving(churn) == 1
    with pytest.raises(NothingToRollBack):
        actions.roll_back(home, spec, "rb-3", "still bad")
    changes = chain(churn)
    assert (changes[-1].body["action"], changes[-1].body["reasons"]) == ("rollback", ["still bad"])
    assert changes[-2].by == "ada"
    sound(churn)


def test_a_retraining_and_a_rollback_of_one_id_are_two(churn: Model) -> None:
    promote(registered(churn, MONTHS[0]))
    promote(registered(churn, MONTHS[1], key="one-id"))
    spec, home = churn.home.spec("churn"), churn.home
    assert actions.roll_back(home, spec, "one-id", "bad").version == serving(churn) == 1
    assert promote(registered(churn, MONTHS[2], key="a-b")).version == serving(churn) == 3
    assert actions.roll_back(home, spec, "a:b", "bad", to=2).version == serving(churn) == 2
    assert actions.reconcile(home, spec, "one-id", "", "?") == "version 2 serves, by ledger and alias"
    sound(churn)


def test_a_rollback_of_an_earlier_version_that_is_tried_again_is_the_same(
    churn: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    for month in MONTHS[:3]:
        promote(registered(churn, month))
    spec, home = churn.home.spec("churn"), churn.home
    with monkeypatch.context() as patch:  # its key said nothing of its kind
        patch.setattr(actions, "loop_run_key", lambda kind, run_id: former_run_key(run_id))
        actions.roll_back(home, spec, "by-hand__10:00", "bad")
    assert chain(churn)[-1].key == "by-hand__10-00"
    assert actions.roll_back(home, spec, "by-hand__10:00", "bad").version == serving(churn) == 2
    assert len(chain(churn)) == 4
    with pytest.raises(PromotionConflict, match="the key by-hand__10-00 is that of a rollback on record"):
        promote(registered(churn, MONTHS[3], key="by-hand__10-00"))
    assert actions.roll_back(home, spec, "by-hand__10-00", "worse still").version == serving(churn) == 1
    sound(churn)


def test_a_predecessor_of_other_libraries_is_told_on_record(churn: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    for month in MONTHS[:2]:
        promote(registered(churn, month))
    skew = GateCheck(name="requirements", model="v1", passed=False, reason="pandas is 3.0, 2.2 is pinned")
    monkeypatch.setattr(smoke_test, "run_smoke_test", lambda *_, **__: (skew,))
    for _ in range(2):
        report = actions.roll_back(churn.home, churn.home.spec("churn"), "rb", "bad")
        assert report.decision.reasons == ("version 1 serves again: bad; warning: pandas is 3.0, 2.2 is pinned",)
    assert chain(churn)[-1].body["reasons"] == ["bad", "warning: pandas is 3.0, 2.2 is pinned"]


def test_what_was_put_back_does_not_come_again(churn: Model) -> None:
    first, second = registered(churn, MONTHS[0]), registered(churn, MONTHS[1])
    promote(first)
    promote(second)
    spec, home = churn.home.spec("churn"), churn.home
    actions.roll_back(home, spec, "rb-1", "bad")
    again = registered(churn, MONTHS[3], key="again")  # April's files are February's
    with pytest.raises(ModelBlocked, match="version 3 is the model of version 2, which is blocked: bad"):
        promote(again)
    assert serving(churn) == 1
    actions.roll_back(home, spec, "rb-2", "it was not that one", to=2)
    assert serving(churn) == 2
    assert projections.blocklist(chain(churn))[0].version == 1, (
        "named by a person it is blocked no more; the other one is"
    )
    sound(churn)


def test_on_the_datas_clock_a_rollback_serves_from_now_on(churn: Model) -> None:
    for month in MONTHS[:2]:
        promote(registered(churn, month))
    third = churn.run(MONTHS[2])
    third.ledger.append("churn", "stage", "later", {}, effective_at=third.as_of)
    actions.roll_back(churn.home, churn.home.spec("churn"), "rb", "bad")
    served = [projections.champion_at(chain(churn), churn.run(month).interval.end) for month in MONTHS[:3]]
    assert [champion and champion.version for champion in served] == [1, 2, 1]


def test_after_a_rollback_a_newer_run_promotes_again(churn: Model) -> None:
    runs = [registered(churn, month) for month in MONTHS[:3]]
    for run in runs[:2]:
        promote(run)
    actions.roll_back(churn.home, churn.home.spec("churn"), "rb-1", "bad")
    report = promote(runs[2])
    assert (report.version, report.previous) == (serving(churn), 1) == (3, 1)


def lose_the_artifacts(model: Model) -> None:
    files = [path for path in model.home.state.rglob("model.skops") if "mlartifacts" in str(path)]
    shutil.rmtree(min(files, key=lambda path: path.stat().st_mtime_ns).parent)


def lose_the_version(model: Model) -> None:
    MlflowClient(model.home.mlflow).delete_model_version("churn", "1")


def lose_the_run_too(model: Model) -> None:
    run_id = Registry(model.home.mlflow).describe("churn", 1)["run_id"]
    lose_the_version(model)
    MlflowClient(model.home.mlflow).delete_run(run_id)


@pytest.mark.parametrize("lose", [lose_the_artifacts, lose_the_version, lose_the_run_too])
def test_a_predecessor_that_mlflow_has_lost_comes_back_from_the_store(
    churn: Model, lose: Callable[[Model], None]
) -> None:
    runs = [registered(churn, month) for month in MONTHS[:2]]
    for run in runs:
        promote(run)
    digest = chain(churn)[0].body["champion"]["digest"]
    lose(churn)
    report = actions.roll_back(churn.home, churn.home.spec("churn"), "rb", "bad")
    assert chain(churn)[-1].body["champion"]["digest"] == digest
    assert report.version == serving(churn) == (1 if lose is lose_the_artifacts else 3)
    sound(churn)
    assert actions.roll_back(churn.home, churn.home.spec("churn"), "rb", "bad").version == report.version, "the same"


def test_a_predecessor_whose_files_are_nowhere_is_refused(churn: Model) -> None:
    runs = [registered(churn, month) for month in MONTHS[:2]]
    for run in runs:
        promote(run)
    lose_the_artifacts(churn)
    shutil.rmtree(runs[0].store.url(runs[0].path("refit", "model")))
    with pytest.raises(ArtifactMissing, match="not in the store"):
        actions.roll_back(churn.home, churn.home.spec("churn"), "rb", "bad")
    assert serving(churn) == 2
    assert len(chain(churn)) == 2


# --- ways other than at once


def asks(model: Model, spec: dict[str, Any], promotion: Any) -> None:
    model.write_spec(spec | {"promotion": promotion})


def test_an_approval_is_bound_to_version_and_files(churn: Model, spec_of: Any) -> None:
    promote(registered(churn, MONTHS[0]))
    asks(churn, spec_of(), "approve")
    run = registered(churn, MONTHS[1])
    report = promote(run)
    assert report.decision.verdict == "waiting"
    assert serving(churn) == 1
    proposal = approval.proposal_of(run, 2)
    run.ledger.append(
        "churn", "approval", "forged", {"version": 2, "digest": "another", "verdict": "approve", "reason": ""},
        effective_at=run.as_of, by="eve",
    )  # fmt: skip
    assert promote(run).decision.verdict == "waiting", "of other files"
    approval.answer_proposal(run, proposal, "approve", "bob", "looks right")
    assert promote(run).version == serving(churn) == 2
    sound(churn)


def test_a_rejected_version_does_not_serve(churn: Model, spec_of: Any) -> None:
    promote(registered(churn, MONTHS[0]))
    asks(churn, spec_of(), "approve")
    run = registered(churn, MONTHS[1])
    promote(run)
    report = actions.answer(churn.home, churn.home.spec("churn"), 2, "reject", "bob", "not now")
    assert report.decision.verdict == "kept"  # type: ignore[attr-defined]
    assert "reject by bob: not now" in report.decision.reasons[0]  # type: ignore[attr-defined]
    assert serving(churn) == 1


@pytest.mark.parametrize(("otherwise", "serves"), [("reject", 1), ("approve", 2)])
def test_where_nobody_answers_the_default_does(churn: Model, spec_of: Any, otherwise: str, serves: int) -> None:
    promote(registered(churn, MONTHS[0]))
    asks(churn, spec_of(), {"mode": "approve", "approval": {"expires": "0m", "otherwise": otherwise}})
    promote(registered(churn, MONTHS[1]))
    assert serving(churn) == serves


def test_of_two_first_versions_that_waited_one_serves(churn: Model, spec_of: Any) -> None:
    asks(churn, spec_of(), "approve")
    for month in MONTHS[:2]:
        promote(registered(churn, month))
    spec = churn.home.spec("churn")
    actions.answer(churn.home, spec, 1, "approve", "bob", "the first")
    with pytest.raises(PromotionConflict, match="held against no champion, version 1 serves now"):
        actions.answer(churn.home, spec, 2, "approve", "bob", "it was never held against it")
    assert serving(churn) == 1
    sound(churn)


def test_two_people_are_two(churn: Model, spec_of: Any) -> None:
    promote(registered(churn, MONTHS[0]))
    asks(churn, spec_of(), {"mode": "approve", "approval": {"two_people": True}})
    run = registered(churn, MONTHS[1], by="ada")
    promote(run)
    spec = churn.home.spec("churn")
    for nobody in ("ada", ""):
        with pytest.raises(NotApproved):
            actions.answer(churn.home, spec, 2, "approve", nobody, "mine")
    assert serving(churn) == 1
    actions.answer(churn.home, spec, 2, "approve", "bob", "his")
    assert serving(churn) == 2


def test_an_approval_after_its_time_is_none(churn: Model, spec_of: Any) -> None:
    promote(registered(churn, MONTHS[0]))
    asks(churn, spec_of(), {"mode": "approve", "approval": {"expires": "1h"}})
    run = registered(churn, MONTHS[1])
    promote(run)
    proposal = approval.proposal_of(run, 2)
    assert approval.approval_at(run, proposal, datetime.now(UTC))[0] == "wait"
    assert approval.approval_at(run, proposal, datetime.now(UTC) + timedelta(hours=2))[0] == "reject"


@pytest.mark.parametrize(("mode", "share"), [("shadow", 0.0), ("canary", 0.05)])
def test_a_challenger_first_scores_beside_the_champion(churn: Model, spec_of: Any, mode: Any, share: float) -> None:
    promote(registered(churn, MONTHS[0]))
    asks(churn, spec_of(), mode)
    run = registered(churn, MONTHS[1])
    assert promote(run).decision.verdict == mode
    assert promote(run).decision.verdict == mode
    assert serving(churn) == 1
    rollouts = run.ledger.records("churn", "rollout")
    assert len(rollouts) == 1
    rollout = projections.rollout_at(chain(churn), rollouts, run.as_of)
    assert rollout
    assert (rollout.shadow.version, rollout.champion, rollout.share) == (2, 1, share)
    assert projections.rollout_at(chain(churn), rollouts, run.interval.start) is None


def test_the_predecessor_goes_on_scoring_beside_a_new_champion(churn: Model, spec_of: Any) -> None:
    promote(registered(churn, MONTHS[0]))
    run = registered(churn, MONTHS[1])
    promote(run)
    rollout = projections.rollout_at(chain(churn), run.ledger.records("churn", "rollout"), run.as_of)
    assert rollout
    assert (rollout.purpose, rollout.shadow.version, rollout.champion) == ("watch", 1, 2)
    actions.roll_back(churn.home, churn.home.spec("churn"), "rb", "bad")
    assert projections.rollout_at(chain(churn), run.ledger.records("churn", "rollout"), run.as_of) is None
