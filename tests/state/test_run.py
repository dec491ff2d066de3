"""The keys of runs: of no two ids the same, names of files everywhere, and for what is on record those of before."""

from __future__ import annotations

import itertools
import random

import pytest

from retrain.errors import InvalidName
from retrain.results import inside
from retrain.state.readiness import RUN_PREFIX, loop_run_key
from retrain.state.run import PLAIN, former_run_key, run_key

AIRFLOW = (
    "scheduled__2013-02-01T00:00:00+00:00",
    "backfill__2013-02-01T00:00:00+00:00",
    "manual__2026-11-30T09:06:59.123456+00:00",
    "asset_triggered__2026-11-30T09:06:59.123456+00:00_a8Zk20xY",
)


@pytest.mark.parametrize("run_id", AIRFLOW)
def test_an_id_of_airflows_own_keeps_its_folder(run_id: str) -> None:
    assert run_key(run_id) == former_run_key(run_id)


@pytest.mark.parametrize("text", ["alert-42", "laptop-2024-01-01", "dvc", "v1.2", "_x", "laptop-2024-01-01T06-2"])
def test_a_plain_text_is_its_own_key(text: str) -> None:
    assert run_key(text) == text


def test_of_no_two_ids_the_same_key() -> None:
    draw = random.Random(0)
    short = {"".join(letters) for length in range(4) for letters in itertools.product("aA.:+-_~ é\n", repeat=length)}
    long = {letter * length for letter in "ab:" for length in (179, 180, 181, 250, 300)}
    near = {f"{'x' * 200}{tail}" for tail in "ab:"}
    mutated = set()
    for run_id in AIRFLOW:
        for _ in range(300):
            letters = list(run_id)
            for _ in range(draw.randint(1, 3)):
                letters[draw.randrange(len(letters))] = draw.choice("-:+.0_T~")
            mutated.add("".join(letters))
    texts = short | long | near | mutated | {*AIRFLOW, *map(former_run_key, AIRFLOW)}
    texts |= {run_key(text) for text in texts}  # a key, typed as an id
    texts |= {run_key(text) for text in texts}
    keys = {text: run_key(text) for text in texts}
    assert len(set(keys.values())) == len(texts)
    for text, key in keys.items():
        assert PLAIN.fullmatch(inside(key)), (text, key)
    kinds = {loop_run_key(kind, text) for kind in RUN_PREFIX if kind != "retrain" for text in texts}
    for text in texts:
        try:
            assert loop_run_key("retrain", text) not in kinds
        except InvalidName:
            assert keys[text].startswith(("score-", "monitor-", "rollback-", "reconcile-", "undo-"))
