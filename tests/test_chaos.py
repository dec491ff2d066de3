"""The short form of `make chaos`, and that its histories can find something."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from retrain.registry import anchors, promotion
from retrain.registry.mlflow import Registry
from retrain.state import evidence, ledger
from tests.chaos import histories as chaos_histories
from tests.chaos.__main__ import FAMILIES, histories, table
from tests.chaos.backups import backups
from tests.chaos.edited import edits
from tests.chaos.hands import HANDS
from tests.chaos.histories import CHANGES, History, killed, write_points
from tests.chaos.play import MEMORY, play, play_one
from tests.chaos.prepared import Worlds


@pytest.fixture(scope="module")
def worlds() -> Iterator[Worlds]:
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        patch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
        yield Worlds(Path(folder))


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "two kills"])
def test_nothing_is_violated(worlds: Worlds, family: str) -> None:
    played = play(histories(worlds, quick=True, only=(family,)), worlds, workers=1)
    assert played
    assert {history.name: findings.wrong for history, findings in played if findings.wrong} == {}
    *_, (_, count, kills, races, _) = table(played)
    assert count == len(played)
    assert bool(kills) == (family in ("one kill", "server", "schedule", "backup", "first start", "edited spec"))
    assert bool(races) == (family in ("race", "first start"))


def test_the_points_of_a_promotion_are_those_where_it_writes(worlds: Worlds) -> None:
    names = write_points(worlds, CHANGES[1])
    records = [place for place, name in enumerate(names) if name == "INSERT retrain_records"]
    alias = next(place for place, name in enumerate(names) if "registered_model_aliases" in name)
    assert records[0] < alias < records[1], "intent, alias, completed"
    assert {"git push", "git push under way", "git pushed"} <= set(names)
    assert any(name.startswith("os.rename") and "promote.json" in name for name in names)


def planted(history: History, worlds: Worlds) -> list[str]:
    return play_one(history, worlds).wrong


def test_an_alias_that_nobody_finishes_is_found(worlds: Worlds, monkeypatch: pytest.MonkeyPatch) -> None:
    place = write_points(worlds, CHANGES[1]).index("committed") + 1
    history = History("planted", "", killed(CHANGES[1], place, "newer run"))
    assert planted(history, worlds) == []
    monkeypatch.setattr(promotion, "finish_pending", lambda run, registry, changes: changes[-1])
    assert any("never completed" in text for text in planted(history, worlds))


def test_a_candidate_that_was_held_against_another_champion_is_found(
    worlds: Worlds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(promotion, "check_same_champion", lambda compared_with, changes: None)
    history = History("planted", "", killed(CHANGES[1], len(write_points(worlds, CHANGES[1])), "newer run"))
    assert any("was held against version 3, and replaced version 4" in text for text in planted(history, worlds))


def restored(what: str) -> History:
    (history,) = (h for h in backups(random.Random(0)) if h.name == f"{what} restored, ledger taken")
    return history


def test_a_promotion_on_a_ledger_from_a_backup_is_found(worlds: Worlds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anchors, "check_anchor", lambda run, urgent=False: None)
    assert any("LedgerContradicted was expected" in text for text in planted(restored("ledger"), worlds))


def test_a_completed_change_that_is_undone_is_found(worlds: Worlds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(promotion, "_is_completed", lambda run, record: False)
    assert any("undoes a change" in text for text in planted(restored("MLflow"), worlds))


def test_a_hand_that_is_overwritten_is_found(worlds: Worlds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Registry, "last_set_alias", Registry.alias)
    assert any("OutOfBandChange" in text for text in planted(History("planted", "", HANDS["alias moved"]), worlds))


def test_a_race_without_the_ledgers_sequence_is_found(worlds: Worlds, monkeypatch: pytest.MonkeyPatch) -> None:
    append = ledger.Ledger.append

    def unnumbered(self: Any, *arguments: Any, sequence: int | None = None, **named: Any) -> Any:
        return append(self, *arguments, sequence=None, **named)

    monkeypatch.setattr(ledger.Ledger, "append", unnumbered)
    (history, *_) = chaos_histories.races((2,), 1)
    assert planted(history, worlds) != []


def test_a_version_whose_evidence_is_overwritten_is_found(worlds: Worlds, monkeypatch: pytest.MonkeyPatch) -> None:
    *_, history = edits(worlds, random.Random(0), quick=False)
    monkeypatch.setattr(evidence, "seal_of", lambda run: None)
    assert any("which is on record" in text or "is said to have made" in text for text in planted(history, worlds))
