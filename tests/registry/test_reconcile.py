"""What a backup, a hand or a move does to MLflow, ledger and data registry; and that a version is its digest."""

from __future__ import annotations

import logging
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from retrain import actions
from retrain.data.versions import registry_of
from retrain.errors import (
    ArtifactMissing,
    DanglingChampion,
    LedgerContradicted,
    NothingToRollBack,
    OutOfBandChange,
    PromotionConflict,
    RegistryDown,
    RegistryUnavailable,
    UnknownVersion,
)
from retrain.registry import promotion
from retrain.registry.champion import load_champion
from retrain.registry.mlflow import Registry
from retrain.reporting.verify import verify
from retrain.results import Champion
from retrain.stages.promote import promote
from retrain.state import projections
from retrain.state.ledger import Ledger
from tests.conftest import Model
from tests.stages.test_promote import MONTHS, chain, move_by_hand, quick_smoke_test, registered, serving, sound

pytestmark = pytest.mark.usefixtures("mlflow")
__all__ = ["quick_smoke_test"]  # a fixture that every test here uses

PARTS = {"mlflow": ("mlflow",), "ledger": ("ledger.db",), "data": ("registry.git", "remote")}


@pytest.fixture
def backup(churn: Model) -> Callable[..., Callable[[], None]]:
    """Take a backup of some parts of the state; what is returned puts it back."""

    def take(*parts: str) -> Callable[[], None]:
        state, aside = churn.home.state, churn.home.root / "backup"
        files = [name for part in parts for name in PARTS[part] if (state / name).exists()]
        for name in files:
            copy(state / name, aside / name)
        return lambda: [copy(aside / name, state / name) for name in files] and None

    return take


def copy(source: Path, target: Path) -> None:
    """In place: MLflow keeps its database open, so the file must stay the same one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_file():
        shutil.copyfile(source, target)
        return
    for path in sorted(target.rglob("*"), reverse=True):
        if not (source / path.relative_to(target)).exists():
            path.rmdir() if path.is_dir() else path.unlink()
    shutil.copytree(source, target, dirs_exist_ok=True, copy_function=shutil.copyfile)


def settle(model: Model, take: Any = "", key: str = "rc") -> str:
    return actions.reconcile(model.home, model.home.spec("churn"), key, take, "a backup was restored", by="ada")


def faults(model: Model) -> dict[str, str]:
    return {outcome.what: outcome.finding for outcome in verify(model.home, "churn") if not outcome.ok}


def promote_months(model: Model, *places: int) -> None:
    for place in places:
        promote(registered(model, MONTHS[place], seed=place))


def digests(model: Model) -> list[str]:
    return [record.body["champion"]["digest"] for record in chain(model)]


# --- MLflow from an older backup


def test_a_completed_promotion_is_not_undone_when_mlflow_is_older(churn: Model, backup: Any) -> None:
    promote_months(churn, 0)
    restore = backup("mlflow")
    promote_months(churn, 1, 2)
    restore()
    late = registered(churn, MONTHS[3], seed=3)
    with pytest.raises(DanglingChampion, match="version 3"):
        promote(late)
    assert [record.body["action"] for record in chain(churn)] == ["promote"] * 3
    assert settle(churn).startswith("version 3 was gone from MLflow: the same files serve as version ")
    sound(churn)
    assert digests(churn)[-1] == digests(churn)[2]
    assert faults(churn) == {}, "what served once is registered again too"
    assert settle(churn, key="again").endswith("by ledger and alias")
    bearers = {(record.body["version"], record.body["champion"]["digest"]) for record in chain(churn)}
    assert len(bearers) == len({number for number, _ in bearers}), "a number on record is nobody else's"


def test_the_run_before_a_restored_champion_is_its_predecessor(churn: Model, backup: Any) -> None:
    promote_months(churn, 0)
    restore = backup("mlflow")
    promote_months(churn, 1)
    restore()
    settle(churn)
    assert serving(churn) == 2, "the number was free, and is its own again"
    report = actions.roll_back(churn.home, churn.home.spec("churn"), "rb", "bad")
    assert (report.version, serving(churn)) == (1, 1)
    with pytest.raises(NothingToRollBack):
        actions.roll_back(churn.home, churn.home.spec("churn"), "rb-2", "bad")


def test_a_number_that_is_another_models_is_refused_by_name(churn: Model) -> None:
    promote_months(churn, 0)
    client = MlflowClient(churn.home.mlflow)
    client.delete_registered_model("churn")
    other = registered(churn, MONTHS[1], seed=1)
    run_id = Registry(churn.home.mlflow).describe("churn", 1)["run_id"]
    client.set_registered_model_alias("churn", "champion", "1")
    assert client.get_run(run_id).data.tags["retrain.key"] == other.key
    with pytest.raises(
        OutOfBandChange, match=r"version 1 of digest .*version 1 of digest .*was one of the two restored"
    ):
        promote(other)
    with pytest.raises(ArtifactMissing, match="the number is that of another model"):
        Registry(churn.home.mlflow).describe("churn", 1, digests(churn)[0])
    assert "points at version 1 of digest" in faults(churn)["champion alias"]
    assert "same files serve as version" in settle(churn, "ledger")
    assert digests(churn)[-1] == digests(churn)[0]
    sound(churn)


def test_a_number_on_record_is_never_given_to_another_model(churn: Model) -> None:
    first = registered(churn, MONTHS[0])
    promote(first)
    known = Registry(churn.home.mlflow).describe("churn", 1)
    MlflowClient(churn.home.mlflow).delete_registered_model("churn")
    registry, folder = Registry(churn.home.mlflow), Path(first.store.url(first.path("refit", "model")))
    about: dict[str, Any] = {"model": "churn", "tags": {}, "description": "", "folder": folder}
    about |= {"digest": known["digest"], "run_id": known["run_id"]}
    taken = {1: "0" * 64, 2: "1" * 64, 3: known["digest"]}
    assert registry.register(**about, taken=taken) == 3, "its own number may come again"
    assert registry.register(**about, taken=taken) == 3
    assert registry.register(**about, taken={3: "0" * 64}) == 4, "of an earlier try that was killed"
    assert projections.numbers(Ledger(churn.home.ledger).records("churn")) == {1: known["digest"]}


def test_a_lost_champion_still_scores_from_what_was_registered_again(churn: Model) -> None:
    promote_months(churn, 0, 1)
    old = Champion.model_validate(chain(churn)[0].body["champion"])
    MlflowClient(churn.home.mlflow).delete_model_version("churn", "1")
    run = churn.run(MONTHS[2])
    with pytest.raises(ArtifactMissing, match="version 1 of churn is not in the registry"):
        load_champion(run, old)
    assert "version 1, which served once, is registered again as version 3" in settle(churn)
    assert load_champion(run, old) is not None


@pytest.mark.parametrize(
    ("status", "refusal"), [("PENDING_REGISTRATION", RegistryDown), ("FAILED_REGISTRATION", ArtifactMissing)]
)
def test_a_version_that_is_not_ready_does_not_serve(churn: Model, status: str, refusal: type[Exception]) -> None:
    promote_months(churn, 0)
    run = registered(churn, MONTHS[1], seed=1)
    with sqlite3.connect(churn.home.mlflow.removeprefix("sqlite:///")) as connection:
        connection.execute("UPDATE model_versions SET status = ? WHERE version = 2", (status,))
    connection.close()
    with pytest.raises(refusal):
        promote(run)
    assert serving(churn) == 1
    with pytest.raises(refusal):
        Registry(churn.home.mlflow).fetch("churn", 2, registered_digest(churn), churn.home.root / "copy")
    assert Registry(churn.home.mlflow).find("churn", registered_digest(churn)) is None


def registered_digest(model: Model) -> str:
    return Registry(model.home.mlflow).describe("churn", 2)["digest"]


# --- the ledger from an older backup


@pytest.mark.parametrize("take", ["ledger", "alias"])
def test_a_ledger_from_a_backup_changes_nothing_until_a_person_says_so(churn: Model, backup: Any, take: str) -> None:
    promote_months(churn, 0)
    restore = backup("ledger")
    promote_months(churn, 1)
    newest = digests(churn)[1]
    restore()
    late = registered(churn, MONTHS[2], seed=2)
    spec = churn.home.spec("churn")
    with pytest.raises(LedgerContradicted, match="is gone, the ledger ends at"):
        promote(late)
    with pytest.raises(LedgerContradicted):
        actions.roll_back(churn.home, spec, "rb", "bad")
    with pytest.raises(LedgerContradicted, match="older backup"):
        settle(churn)
    assert len(chain(churn)) == 1
    assert "anchors" in faults(churn)
    outcome = settle(churn, take)
    assert "1 anchored record(s) that it lacks are given up" in outcome
    assert (digests(churn)[-1] == newest) == (take == "alias")
    assert faults(churn) == {}
    record = Ledger(churn.home.ledger).records("churn", "reconciled")[0]
    assert (record.by, record.body["reason"]) == ("ada", "a backup was restored")
    after = registered(churn, MONTHS[3], seed=3)
    promote(after)
    sound(churn)
    assert faults(churn) == {}
    head = Ledger(churn.home.ledger).records("churn", "completed")[-1]
    newest_anchor = registry_of(churn.home).newest_anchor("churn")
    assert newest_anchor is not None
    assert newest_anchor.hash == head.hash, "new anchors stand where the lost ones stood"


def test_an_empty_ledger_follows_the_alias_or_takes_it_away(churn: Model, backup: Any) -> None:
    restore = backup("ledger")
    promote_months(churn, 0)
    ledger = churn.home.state / "ledger.db"
    for take, serves in (("alias", 1), ("ledger", None)):
        ledger.unlink()
        restore()
        with pytest.raises(LedgerContradicted, match="ends at 0"):
            settle(churn)
        settle(churn, take, key=take)
        assert serving(churn) == serves
        assert [record.body["action"] for record in chain(churn)] == ["adopt"] * (take == "alias")
    assert settle(churn, key="after") == "no champion yet"


def test_an_alias_that_dangles_without_a_ledger_is_removed(churn: Model) -> None:
    registered(churn, MONTHS[0])
    Registry(churn.home.mlflow).set_alias(
        "churn", "champion", 1, Registry(churn.home.mlflow).describe("churn", 1)["digest"]
    )
    MlflowClient(churn.home.mlflow).delete_model_version("churn", "1")
    with pytest.raises(DanglingChampion):
        promote(registered(churn, MONTHS[1], seed=1))
    assert "the alias pointed at a version that is gone" in settle(churn)
    assert settle(churn) == "no champion yet"


def test_an_alias_without_a_ledger_is_another_hand(churn: Model) -> None:
    run = registered(churn, MONTHS[0])
    move_by_hand(churn, 1)
    with pytest.raises(OutOfBandChange, match="the ledger says no version"):
        promote(run)
    assert "it is removed: the ledger has no champion" in settle(churn, "ledger")
    promote(run)
    sound(churn)


def test_ledger_and_data_registry_of_one_backup_leave_it_to_a_person(churn: Model, backup: Any) -> None:
    promote_months(churn, 0)
    restore = backup("ledger", "data")
    promote_months(churn, 1)
    newest = digests(churn)[1]
    restore()
    with pytest.raises(OutOfBandChange, match="knows no such champion: was one of the two restored"):
        promote(registered(churn, MONTHS[2], seed=2))
    assert "version 2 serves, as the alias said" in settle(churn, "alias")
    assert digests(churn)[-1] == newest
    sound(churn)


def test_a_version_of_another_make_is_not_adopted(churn: Model) -> None:
    promote_months(churn, 0)
    registered(churn, MONTHS[1], seed=1)
    client = MlflowClient(churn.home.mlflow)
    client.set_model_version_tag("churn", "2", "digest", "0" * 64)
    client.set_model_version_tag("churn", "2", "retrain.run", churn.run(MONTHS[1]).key)
    move_by_hand(churn, 2)
    with pytest.raises(UnknownVersion, match="neither the ledger nor the store"):
        settle(churn, "alias")
    client.set_model_version_tag("churn", "2", "retrain.run", "no-such-run")
    with pytest.raises(UnknownVersion):
        settle(churn, "alias")
    settle(churn, "ledger")
    sound(churn)


# --- git that does not answer


def test_a_promotion_waits_for_the_anchors_and_a_rollback_does_not(
    churn: Model, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    promote_months(churn, 0, 1)
    head = Path(churn.home.registry) / "HEAD"
    text = head.read_text()
    head.write_text("")
    run = registered(churn, MONTHS[2], seed=2)
    with pytest.raises(RegistryUnavailable):
        promote(run)
    with caplog.at_level(logging.WARNING):
        assert actions.roll_back(churn.home, churn.home.spec("churn"), "rb", "bad").version == serving(churn) == 1
    assert "the anchors were not looked at" in caplog.text
    assert "the ledger was not anchored" in caplog.text
    head.write_text(text)


# --- what is reported


def test_a_promotion_that_was_undone_is_reported_as_that_again(churn: Model) -> None:
    promote_months(churn, 0)
    run = registered(churn, MONTHS[1], seed=1)
    MlflowClient(churn.home.mlflow).delete_model_version("churn", "2")
    for _ in range(2):
        with pytest.raises(ArtifactMissing, match="its promotion was undone, version 1 serves"):
            promote(run)
    assert len(chain(churn)) == 3


def test_a_slower_promoter_does_not_say_that_its_version_serves(churn: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = registered(churn, MONTHS[0]), registered(churn, MONTHS[1], seed=1)
    set_alias, came = Registry.set_alias, []

    def slowly(self: Registry, *arguments: Any) -> None:
        if not came:
            came.append(arguments)
            promote(second)
        set_alias(self, *arguments)

    monkeypatch.setattr(Registry, "set_alias", slowly)
    assert promote(first).decision.reasons == ("promoted before; the champion has changed since",)
    assert serving(churn) == 2


def test_a_change_that_came_while_the_alias_was_looked_at_is_a_conflict(
    churn: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote_months(churn, 0)
    run = churn.run(MONTHS[2])
    before = promotion.promotions(run)
    promote_months(churn, 1)
    with pytest.raises(PromotionConflict, match="at this very moment"):
        promotion.finish_pending(run, Registry(churn.home.mlflow), before)


# --- a folder that was moved


@pytest.mark.parametrize("copied", [False, True], ids=["moved", "copied"])
def test_a_state_folder_elsewhere_works_as_it_is(
    churn: Model, monkeypatch: pytest.MonkeyPatch, copied: bool, caplog: pytest.LogCaptureFixture
) -> None:
    promote_months(churn, 0, 1)
    old, new = churn.home.state, churn.home.root / "another place"
    (shutil.copytree if copied else shutil.move)(old, new)
    monkeypatch.setenv("RETRAIN_HOME", str(new))
    moved = Model(type(churn.home).from_environment())
    before = sorted(path for path in old.rglob("*") if path.is_file())
    with caplog.at_level(logging.WARNING):
        assert actions.roll_back(moved.home, moved.home.spec("churn"), "rb", "bad").version == 1
    assert caplog.text.count("its database follows") == 1
    promote(registered(moved, MONTHS[2], seed=2))
    sound(moved)
    assert faults(moved) == {}
    assert sorted(path for path in old.rglob("*") if path.is_file()) == before, "nothing is written where it was"


def test_a_database_that_was_copied_alone_stays_with_its_files(churn: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    promote_months(churn, 0)
    new = churn.home.root / "elsewhere"
    (new / "mlflow").mkdir(parents=True)
    shutil.copyfile(churn.home.state / "mlflow" / "mlflow.db", new / "mlflow" / "mlflow.db")
    registry = Registry(f"sqlite:///{new}/mlflow/mlflow.db")
    assert registry.fetch("churn", 1, digests(churn)[0], new / "model").is_dir()


# --- what a kill left, and who comes next


def intend(monkeypatch: pytest.MonkeyPatch, change: Callable[[], object]) -> None:
    """A change whose process dies when its record stands and the alias has not moved."""

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Registry, "set_alias", dies)
        with pytest.raises(KeyboardInterrupt):
            change()


def test_a_rollback_gets_past_a_champion_that_was_deleted(churn: Model) -> None:
    promote_months(churn, 0, 1)
    MlflowClient(churn.home.mlflow).delete_model_version("churn", "2")
    assert actions.roll_back(churn.home, churn.home.spec("churn"), "rb", "bad").version == serving(churn) == 1
    sound(churn)


def test_who_comes_while_a_change_is_undone_asks_again(churn: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    promote_months(churn, 0, 1)
    third, last = (registered(churn, MONTHS[place], seed=place) for place in (2, 3))
    late = registered(churn, MONTHS[3], seed=9, key="late")
    for turn, run in enumerate((third, last)):
        intend(monkeypatch, lambda run=run: promote(run))
        MlflowClient(churn.home.mlflow).delete_model_version("churn", str(3 + turn))
        if turn == 0:
            with pytest.raises(PromotionConflict, match="changed meanwhile"):
                actions.roll_back(churn.home, churn.home.spec("churn"), "rb", "bad")
            assert chain(churn)[-1].body["action"] == "undo"
    assert promote(late).version == serving(churn)
    sound(churn)


def test_a_first_promotion_whose_version_is_gone_is_left_to_a_person(
    churn: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = registered(churn, MONTHS[0])
    intend(monkeypatch, lambda: promote(run))
    MlflowClient(churn.home.mlflow).delete_model_version("churn", "1")
    with pytest.raises(ArtifactMissing):
        promote(run)
    with pytest.raises(DanglingChampion):
        promote(registered(churn, MONTHS[1], seed=1))
    assert "same files serve as version" in settle(churn)
    sound(churn)


def test_a_version_whose_row_alone_is_lost_keeps_its_number(churn: Model) -> None:
    promote_months(churn, 0, 1)
    with sqlite3.connect(churn.home.mlflow.removeprefix("sqlite:///")) as connection:
        for table in ("registered_model_aliases", "model_version_tags", "model_versions"):
            connection.execute(f"DELETE FROM {table} WHERE version = 2")  # noqa: S608
    connection.close()
    assert "the same files are registered again, and serve" in settle(churn)
    assert [record.body["action"] for record in chain(churn)] == ["promote", "promote"]
    sound(churn)


def test_what_is_lost_everywhere_is_told(churn: Model) -> None:
    runs = [registered(churn, MONTHS[place], seed=place) for place in (0, 1)]
    promote(runs[0])
    promote_months(churn, 1)
    MlflowClient(churn.home.mlflow).delete_model_version("churn", "1")
    shutil.rmtree(runs[0].store.url(runs[0].path("refit", "model")))
    assert "version 1 is not in the registry, and" in settle(churn)


def test_a_version_without_a_run_of_ours_is_not_adopted(churn: Model) -> None:
    promote_months(churn, 0)
    registered(churn, MONTHS[1], seed=1)
    MlflowClient(churn.home.mlflow).delete_model_version_tag("churn", "2", "retrain.run")
    move_by_hand(churn, 2)
    with pytest.raises(UnknownVersion):
        settle(churn, "alias")
