"""What chance does to each statistic, by rows and by blocks, and how often anything is called drift."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import jensenshannon

from retrain.monitoring.drift import Codes, Kind, Limits, compare
from retrain.monitoring.drift.blocks import Blocks
from retrain.monitoring.drift.null_distribution import holm_level, jensen_shannon_null, ks_null, share_null
from tests.drift_rows import KINDS, ROLES, days, flights


@pytest.mark.parametrize(
    ("p_values", "level", "rejected"),
    [
        ([0.001, 0.2, 0.004], 0.01, 2),
        ([0.001, 0.006, 0.2], 0.005, 1),
        ([0.02, 0.5], 0.005, 0),
        ([0.009], 0.01, 1),
        ([0.011], 0.01, 0),
        ([0.001, 0.002, 0.003], 0.01, 3),
        ([], 0.01, 0),
    ],
)
def test_one_level_says_what_holm_says(p_values: list[float], level: float, rejected: int) -> None:
    assert holm_level(p_values, 0.01) == pytest.approx(level)
    assert sum(p_value <= holm_level(p_values, 0.01) for p_value in p_values) == rejected


@pytest.mark.parametrize("levels", [2, 20, 100])
@pytest.mark.parametrize("rows", [200, 500])
def test_chance_is_above_what_equal_samples_show(levels: int, rows: int) -> None:
    rng = np.random.default_rng(levels)
    shares = np.full(levels, 1 / levels)
    ratios = []
    for _ in range(60):
        ref, cur = (rng.choice(levels, rows, p=shares) for _ in range(2))
        distance = jensenshannon(np.bincount(ref, minlength=levels), np.bincount(cur, minlength=levels))
        ratios.append(distance / jensen_shannon_null(ref, cur, None, rng).critical(0.001))
    assert max(ratios) < 1.02
    assert np.median(ratios) > 0.1, "a limit far above chance would see nothing"


@pytest.mark.parametrize("blocks", [False, True])
def test_a_critical_value_has_its_chance(blocks: bool) -> None:
    rng = np.random.default_rng(0)
    ref, cur = days(rng, 30), days(rng, 20)
    by = Blocks(ref["day"].to_numpy(), cur["day"].to_numpy()) if blocks else None
    late = [(side["x"] > 1).to_numpy() for side in (ref, cur)]
    for null in (
        ks_null(ref["x"].to_numpy(), cur["x"].to_numpy(), by),
        jensen_shannon_null(*(side.astype(int) for side in late), by, rng),
        share_null(0.2, 1 / len(ref) + 1 / len(cur), by, np.concatenate(late)),
    ):
        for level in (0.05, 0.001, 1e-5):
            assert null.p_value(null.critical(level)) == pytest.approx(level, rel=0.01)


# --- false alarms


def alarms(rounds: int, batch: int, effect: float, **limits: float) -> dict[str, int]:
    """How often anything is called drift in batches of so many days, blocks counted as they are or not at all."""
    kinds: dict[str, Kind] = {"x": "number", "kind": "category", "y": "number"}
    alarmed = {"block": 0, "row": 0}
    for seed in range(rounds):
        rng = np.random.default_rng(seed)
        before, now = days(rng, 60, effect=effect), days(rng, batch, 1200 // batch, effect=effect)
        codes: Codes = (before["day"].to_numpy(), now["day"].to_numpy())
        for name, blocks in (("block", codes), ("row", None)):
            _, columns, _, _ = compare(
                before,
                now,
                kinds,
                {},
                replace(Limits(effect=0.0, missing=0.0), **limits),
                seed=seed,
                html=False,
                blocks=blocks,
            )
            alarmed[name] += any(row.verdict == "drift" for row in columns)
    return alarmed


def test_independent_rows_give_no_more_alarms_than_stated() -> None:
    """Without any floor, at 10 %: of 100 checks more than 18 would happen once in 200."""
    kinds: dict[str, Kind] = {"delay": "number", "carrier": "category", "score": "number"}
    alarmed = 0
    for seed in range(100):
        limits = Limits(effect=0.0, false_alarms=0.1)
        columns = compare(flights(seed, 300), flights(1_000 + seed, 250), kinds, ROLES, limits, seed=0, html=False)[1]
        alarmed += any(row.verdict == "drift" for row in columns)
    assert 0 < alarmed <= 18


@pytest.mark.parametrize(("batch", "by_row"), [(30, 12), (3, 30)])
def test_dependent_rows_keep_the_stated_rate_by_blocks_and_not_by_rows(batch: int, by_row: int) -> None:
    """At 1 %: of 40 checks more than 2 would happen once in 130."""
    rates = alarms(40, batch, 0.5)
    assert rates["block"] <= 2
    assert rates["row"] >= by_row


def test_blocks_that_do_not_matter_change_little() -> None:
    rng = np.random.default_rng(0)
    before, now = days(rng, 60, effect=0.0), days(rng, 30, effect=0.0)
    sides = before["x"].to_numpy(), now["x"].to_numpy()
    by_row = ks_null(*sides, None).critical(0.001)
    by_day = ks_null(*sides, Blocks(before["day"].to_numpy(), now["day"].to_numpy())).critical(0.001)
    assert by_row <= by_day < 1.5 * by_row


def test_a_shift_of_dependent_rows_is_found() -> None:
    rng = np.random.default_rng(0)
    before, now = days(rng, 60), days(rng, 30)
    codes: Codes = (before["day"].to_numpy(), now["day"].to_numpy())
    moved = now.assign(x=now["x"] + 1)
    _, columns, _, _ = compare(before, moved, {"x": "number"}, {}, Limits(), seed=0, html=False, blocks=codes)
    assert columns[0].verdict == "drift"
    assert "in 90 blocks" in columns[0].reason


def test_too_few_blocks_are_undetermined() -> None:
    before, now = flights(0), flights(1).assign(delay=100.0)
    codes: Codes = (np.arange(600) // 300, np.zeros(600, dtype=int))
    decision, columns, _, _ = compare(before, now, KINDS, ROLES, Limits(), seed=0, html=False, blocks=codes)
    assert decision.verdict == "undetermined"
    assert decision.reasons == ("2 and 1 blocks in which rows depend, 5 in all are needed to tell chance",)
    assert {row.verdict for row in columns} == {"undetermined"}


def test_a_new_category_of_one_day_is_chance_where_days_bring_their_own() -> None:
    rng = np.random.default_rng(0)
    before, now = (pd.DataFrame({"day": np.repeat(np.arange(60), 20)}) for _ in range(2))
    codes: Codes = (before["day"].to_numpy(), now["day"].to_numpy())
    for side, sign in ((before, "b"), (now, "n")):
        guest = rng.random(60) < 0.3
        side["x"] = np.where(guest[side["day"]] & (rng.random(1200) < 0.5), sign + side["day"].astype(str), "home")
    for blocks, expected in ((codes, "stable"), (None, "drift")):
        columns = compare(before, now, {"x": "category"}, {}, Limits(), seed=0, html=False, blocks=blocks)[1]
        assert next(row for row in columns if row.test == "new categories").verdict == expected
    now.loc[now.index % 10 == 0, "x"] = "ZZ"
    columns = compare(before, now, {"x": "category"}, {}, Limits(), seed=0, html=False, blocks=codes)[1]
    assert next(row for row in columns if row.test == "new categories").verdict == "drift"
