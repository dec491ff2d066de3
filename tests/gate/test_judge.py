"""The gate on constructed reports: what promotes, what keeps, what cannot be told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from retrain.data import dataset
from retrain.gate.judge import judge
from retrain.results import (
    AcceptedBatch,
    Batch,
    BlockedModel,
    Champion,
    Configuration,
    Context,
    Decision,
    EvaluateReport,
    FittedModel,
    GateCheck,
    GateReport,
    MetricEstimate,
    PairedGain,
    Slice,
    TrainReport,
    Trigger,
)
from retrain.spec import EXAMPLE, Spec, parse

NEW = Configuration(estimator="xgboost", parameters={"max_depth": 6}, pipeline="p1")
OLD = Configuration(estimator="linear", parameters={"C": 1.0}, pipeline="p1")
GAIN = (0.02, 0.01, 0.03)
BOTH = (0.004, -0.004, 0.012)
TIE = (0.0, 0.0, 0.0)
WORSE = (-0.02, -0.03, -0.01)
RENEWED = {(name, "champion") for name in ("refresh", "recalibrated")}
"""Pairs whose scores are as far apart as their gain says."""

SPEC = parse(
    EXAMPLE + "gate: {margin: 0.01, min_rows: 500, min_blocks: 10, slice_margin: 0.1, slice_min_rows: 200}", "churn"
)
INTERVALS = tuple(SPEC.intervals_until(SPEC.at("2024-04-01").end))
ACCEPTED = tuple(
    AcceptedBatch(
        batch=Batch(interval=interval, sha256=f"{place}" * 64, rows=900, bytes=9, key=f"k{place}"),
        md5="m",
        commit="c",
        mature_at=interval.end,
    )
    for place, interval in enumerate(INTERVALS)
)


def champion(**change: Any) -> Champion:
    facts = {
        "version": 3,
        "run_id": "r",
        "digest": "d",
        "configuration": OLD,
        "training": dataset.training_digest(ACCEPTED[:-1]),
        "reference": "x",
        "trained_until": INTERVALS[-2].end,
        "effective_at": INTERVALS[-2].end,
    }
    return Champion(**{**facts, **change})


def fitted(name: str, kind: Any, configuration: Configuration, inner: float | None = None) -> FittedModel:
    return FittedModel(
        name=name,
        kind=kind,
        configuration=configuration,
        training="t",
        intervals=INTERVALS[:-1],
        rows=2700,
        key=name,
        digest="d",
        inner_score=inner,
    )


def about() -> dict[str, Any]:
    return {"model": "churn", "interval": INTERVALS[-1], "effective_at": INTERVALS[-1].end}


def verdict(
    gains: dict[tuple[str, str], tuple[float, float, float]],
    *,
    spec: Spec = SPEC,
    serving: Champion | None = None,
    scores: dict[str, float | None] | None = None,
    rows: int = 900,
    blocks: int = 30,
    slices: tuple[Slice, ...] = (),
    decision: Decision | None = None,
    candidates: tuple[FittedModel, ...] | None = None,
    reference_champion: Champion | None = None,
    blocklist: tuple[BlockedModel, ...] = (),
    lost: str = "",
    granted: float = 1.0,
    companion: dict[tuple[str, str], tuple[float, float, float]] | None = None,
) -> GateReport:
    """The gate on these paired gains; baselines are beaten unless said otherwise.

    `granted` is the part of the margin that the uncertainty of the other's score leaves.
    """
    if candidates is None:
        names = sorted({model for model, _ in gains})
        candidates = tuple(fitted(name, name, NEW if name == "new" else OLD, 0.5) for name in names)
    renewed = {model: 0.51 - gain[0] for (model, against), gain in gains.items() if (model, against) in RENEWED}
    for candidate in candidates:
        gains = {(candidate.name, "naive"): GAIN, (candidate.name, "simple"): GAIN, **gains}
    scores = {
        "new": 0.49,
        "refresh": 0.5,
        "champion": 0.51,
        "reference_champion": 0.52,
        "naive": 0.6,
        "simple": 0.55,
        **renewed,
        **(scores or {}),
    }
    context = Context(
        **about(),
        spec_digest="s",
        trigger=Trigger(),
        accepted=ACCEPTED,
        champion=serving,
        reference_champion=reference_champion or serving,
        blocklist=blocklist,
    )
    train = TrainReport(
        **about(),
        fitted=(*candidates, fitted("naive", "baseline", OLD), fitted("simple", "baseline", OLD)),
        holdout=INTERVALS[-1:],
        seed=1,
    )
    evaluate = EvaluateReport(
        **about(),
        decision=decision or Decision(verdict="measured", reasons=("measured",)),
        lost=lost,
        holdout=INTERVALS[-1:],
        rows=rows,
        blocks=blocks,
        metrics={name: {"log_loss": MetricEstimate(value=value)} for name, value in scores.items()},
        paired=tuple(
            PairedGain(
                model=model,
                against=against,
                metric=metric,
                gain=gain,
                low=low,
                high=high,
                within_low=low + granted * spec.gate.margin * abs(scores[against] or 0),
                within_high=high + spec.gate.margin * abs(scores[against] or 0),
                level=0.05,
                blocks=blocks,
                resamples=1000,
            )
            for metric, of_metric in (("log_loss", gains), ("brier", companion or {}))
            for (model, against), (gain, low, high) in of_metric.items()
        ),
        slices=slices,
    )
    report = judge(spec, context, train, evaluate)
    assert GateReport.from_json(report.to_json()) == report
    return report


def check(report: GateReport, name: str, model: str = "new") -> GateCheck:
    return next(result for result in report.checks if (result.name, result.model) == (name, model))


# --- the first model


@pytest.mark.parametrize(
    ("naive", "simple", "expected"),
    [
        (GAIN, GAIN, "promote"),
        (GAIN, TIE, "promote"),  # the candidate may be that very baseline
        (GAIN, (-0.001, -0.004, 0.002), "promote"),  # within 1 % of the simple baseline's 0.55
        (GAIN, (-0.001, -0.02, 0.018), "inconclusive"),
        (GAIN, WORSE, "keep"),
        (BOTH, GAIN, "inconclusive"),
        (TIE, GAIN, "keep"),
        (WORSE, GAIN, "keep"),
    ],
)
def test_the_first_model_must_beat_the_baselines(naive: Any, simple: Any, expected: str) -> None:
    report = verdict({("new", "naive"): naive, ("new", "simple"): simple})
    assert report.decision.verdict == expected, report.decision
    assert (report.chosen, report.kind) == ("new", "first")


def test_the_first_model_is_the_best_by_its_inner_score() -> None:
    two = (fitted("one", "new", NEW, 0.52), fitted("two", "new", NEW, 0.48), fitted("none", "new", NEW))
    report = verdict({}, candidates=two, scores={"one": 0.4, "two": 0.5, "none": 0.3})
    assert (report.decision.verdict, report.chosen) == ("promote", "two")


# --- against the champion


@pytest.mark.parametrize("name", ["refresh", "recalibrated"])
@pytest.mark.parametrize(
    ("gain", "expected"),
    [
        (GAIN, "promote"),
        (TIE, "promote"),  # the same answers, newer rows
        ((0.0, -0.05, 0.05), "promote"),  # one bad day in thirty is no reason to keep older rows
        ((-0.005, -0.05, 0.05), "promote"),  # the margin is 1 % of the champion's 0.51
        ((-0.0052, -0.05, 0.05), "keep"),
        ((-0.002, -0.003, -0.001), "keep"),  # shown worse, though by less than the margin
        ((-0.002, -0.003, 0.0), "promote"),
        (WORSE, "keep"),
    ],
)
def test_newer_rows_are_refused_where_shown_worse_or_worse_by_the_margin(name: str, gain: Any, expected: str) -> None:
    report = verdict({(name, "champion"): gain}, serving=champion())
    assert report.decision.verdict == expected, report.decision
    assert (report.chosen, report.kind) == (name, name)
    assert check(report, "champion", name).bound == pytest.approx(-0.0051)


def test_newer_rows_are_judged_on_few_blocks_too() -> None:
    assert verdict({("refresh", "champion"): TIE}, serving=champion(), blocks=2).decision.verdict == "promote"
    one = verdict({}, candidates=(fitted("refresh", "refresh", OLD),), serving=champion(), blocks=1)
    assert one.decision.verdict == "promote", "without an interval the face value decides"
    few = verdict({("refresh", "champion"): TIE}, serving=champion(), rows=499)
    assert few.decision.verdict == "inconclusive"


def test_newer_rows_never_lose_to_the_naive_baseline() -> None:
    step = {("refresh", "champion"): (-0.004, -0.05, 0.05)}
    assert verdict(step, serving=champion(), scores={"naive": 0.514}).decision.verdict == "promote"
    lost = verdict(step, serving=champion(), scores={"naive": 0.513})
    assert (lost.decision.verdict, lost.lost_to) == ("keep", "")
    assert check(lost, "naive", "refresh").passed is False


@pytest.mark.parametrize(("gain", "expected"), [(BOTH, "promote"), (TIE, "promote"), (WORSE, "keep")])
def test_the_simple_baseline_stops_newer_rows_only_when_shown_better(gain: Any, expected: str) -> None:
    """What would go on serving is the same configuration on older rows, not the baseline."""
    report = verdict({("refresh", "champion"): TIE, ("refresh", "simple"): gain}, serving=champion())
    assert report.decision.verdict == expected, report.decision


@pytest.mark.parametrize(
    ("refresh", "recalibrated", "chosen"),
    [
        ((0.01, 0.0, 0.02), (0.011, 0.0, 0.02), "recalibrated"),
        ((0.01, 0.0, 0.02), (0.01, 0.0, 0.02), "recalibrated"),  # of equals the one that changes least
        ((0.01, 0.0, 0.02), (0.009, 0.0, 0.02), "refresh"),
        (WORSE, TIE, "recalibrated"),
        (TIE, WORSE, "refresh"),
    ],
)
def test_of_what_renews_the_champion_the_better_serves(refresh: Any, recalibrated: Any, chosen: str) -> None:
    gains = {("refresh", "champion"): refresh, ("recalibrated", "champion"): recalibrated}
    report = verdict(gains, serving=champion())
    assert (report.decision.verdict, report.chosen) == ("promote", chosen)
    new = verdict({**gains, ("new", "champion"): GAIN}, serving=champion(), scores={"new": 0.45})
    assert new.chosen == "new", "what is shown better comes first"


# --- where the champion loses to a baseline

ABSURD = {"champion": 8.3, "reference_champion": 8.3, "naive": 0.65, "simple": 9.0}
OPEN_WIDE = (7.8, -1.0, 16.0)
"""A few enormous losses of the champion, which leave the interval wide."""


def test_a_champion_that_answers_absurdly_is_replaced_at_face_value() -> None:
    report = verdict({("new", "champion"): OPEN_WIDE}, serving=champion(), scores={**ABSURD, "new": 0.5}, blocks=4)
    assert (report.decision.verdict, report.chosen, report.kind, report.lost_to) == ("promote", "new", "new", "naive")
    assert report.becomes_reference
    few = verdict({("new", "champion"): OPEN_WIDE}, serving=champion(), scores={**ABSURD, "new": 0.5}, rows=499)
    assert few.decision.verdict == "inconclusive", "gate.min_rows still holds"


@pytest.mark.parametrize(
    ("scores", "chosen", "kind"),
    [
        ({"new": 0.66, "refresh": 4.7}, "naive", "baseline"),
        ({"new": 0.64, "refresh": 0.63}, "refresh", "refresh"),
        ({"new": 0.65, "refresh": 4.7}, "new", "new"),  # a tie with the naive baseline is no loss
    ],
)
def test_then_the_best_score_serves_whatever_it_is(scores: dict[str, float], chosen: str, kind: str) -> None:
    gains = {("new", "champion"): OPEN_WIDE, ("refresh", "champion"): OPEN_WIDE}
    report = verdict(gains, serving=champion(), scores={**ABSURD, **scores})
    assert (report.decision.verdict, report.chosen, report.kind) == ("promote", chosen, kind)


def test_the_privilege_ends_beyond_the_margin_of_the_simple_baseline() -> None:
    gains = {("refresh", "champion"): TIE}
    assert verdict(gains, serving=champion(), scores={"simple": 0.505}).lost_to == "", "0.51 is within 1 % of it"
    report = verdict(gains, serving=champion(), scores={"simple": 0.504})
    assert (report.lost_to, report.chosen, report.kind) == ("simple", "simple", "baseline")


def test_a_baseline_that_serves_has_no_privilege() -> None:
    """It has won at face value, so that is how it is replaced: by another configuration, or by its own newer rows."""
    baseline = champion(configuration=OLD.model_copy(update={"estimator": "simple"}))
    better = {"new": 0.505, "refresh": 0.508, "simple": 0.509}
    report = verdict({("new", "champion"): BOTH}, serving=baseline, scores=better)
    assert (report.decision.verdict, report.chosen, report.lost_to) == ("promote", "new", "")
    other = verdict({("new", "champion"): BOTH}, serving=champion(), scores=better)
    assert other.decision.verdict == "inconclusive", "against any other champion it has to be shown"
    best = verdict({("new", "champion"): BOTH}, serving=baseline, scores={**better, "simple": 0.504, "champion": 0.505})
    assert (best.decision.verdict, best.chosen, best.kind) == ("promote", "simple", "baseline")


def test_a_model_on_the_blocklist_stays_there_where_the_champion_lost_its_privilege() -> None:
    report = verdict(
        {("new", "champion"): OPEN_WIDE},
        serving=champion(),
        scores={**ABSURD, "new": 0.5},
        blocklist=(blocked(NEW, ACCEPTED),),
    )
    assert (report.decision.verdict, report.chosen) == ("promote", "naive")


# --- the robust companion


@pytest.mark.parametrize(("name", "step"), [("refresh", TIE), ("new", GAIN)])
def test_a_candidate_that_the_companion_shows_worse_is_refused(name: str, step: Any) -> None:
    gains = {(name, "champion"): step}
    for by_companion, expected in ((WORSE, "keep"), ((-0.004, -0.02, 0.01), "promote"), (GAIN, "promote")):
        report = verdict(gains, serving=champion(), companion={(name, "champion"): by_companion})
        assert report.decision.verdict == expected, report.decision
    assert check(report, "companion", name).passed


@pytest.mark.parametrize(
    ("new", "expected"),
    [(GAIN, "promote"), (TIE, "keep"), (BOTH, "inconclusive"), ((0.01, 0.0, 0.02), "inconclusive"), (WORSE, "keep")],
)
def test_a_new_configuration_must_be_better(new: Any, expected: str) -> None:
    report = verdict({("new", "champion"): new}, serving=champion())
    assert report.decision.verdict == expected, report.decision
    assert (report.chosen, report.kind) == ("new", "new")
    assert (report.challenger_score, report.champion_score) == (0.49, 0.51)


@pytest.mark.parametrize(
    ("new", "refresh", "expected"),
    [
        (GAIN, GAIN, ("promote", "new")),
        (BOTH, GAIN, ("promote", "refresh")),
        (TIE, TIE, ("promote", "refresh")),
        (WORSE, WORSE, ("keep", "new")),
        (WORSE, BOTH, ("promote", "refresh")),
        (BOTH, WORSE, ("inconclusive", "new")),
        (WORSE, (-0.002, -0.02, 0.02), ("promote", "refresh")),
    ],
)
def test_new_is_asked_first_then_refresh(new: Any, refresh: Any, expected: tuple[str, str]) -> None:
    report = verdict({("new", "champion"): new, ("refresh", "champion"): refresh}, serving=champion())
    assert (report.decision.verdict, report.chosen) == expected, report.decision


def test_new_must_score_at_least_what_the_refresh_scores() -> None:
    gains = {("new", "champion"): GAIN, ("refresh", "champion"): GAIN}
    report = verdict(gains, serving=champion(), scores={"new": 0.50001})
    assert (report.decision.verdict, report.chosen) == ("promote", "refresh")
    assert check(report, "refresh").passed is False


def test_greater_can_be_better() -> None:
    spec = SPEC.model_copy(update={"gate": SPEC.gate.model_copy(update={"metric": "roc_auc"})})
    report = verdict({("new", "champion"): GAIN}, spec=spec, serving=champion())
    assert report.decision.verdict == "inconclusive"  # only log_loss was measured
    assert check(report, "champion").passed is None


@pytest.mark.parametrize(("granted", "expected"), [(1.0, "promote"), (0.9, "inconclusive")])
def test_the_margin_is_as_uncertain_as_the_score_that_it_is_a_share_of(granted: float, expected: str) -> None:
    gains = {("new", "champion"): GAIN, ("new", "simple"): (-0.002, -0.0052, 0.001)}
    report = verdict(gains, serving=champion(), granted=granted)
    assert report.decision.verdict == expected, report.decision
    margin = check(report, "simple")
    assert margin.value is not None
    assert margin.bound is not None
    assert (margin.value > margin.bound) is (expected == "promote"), "what the table shows says what the gate said"


# --- against the reference champion

REFERENCE = champion(version=1)


STEP = (-0.001, -0.004, 0.002)
"""Within 1 % of the champion's 0.5, and a use of that margin."""
OPEN = (-0.002, -0.0053, 0.001)


@pytest.mark.parametrize(
    ("name", "step", "behind", "score", "expected"),
    [
        *((name, GAIN, behind, 0.52, "promote") for name in ("new", "refresh") for behind in (GAIN, TIE, OPEN)),
        ("refresh", STEP, OPEN, 0.507, "promote"),  # 0.511 is within 1 % of the reference champion's 0.507
        ("refresh", STEP, OPEN, 0.505, "keep"),
        ("refresh", TIE, OPEN, 0.504, "promote"),  # no step below the champion
        ("new", GAIN, WORSE, 0.52, "keep"),
        ("refresh", TIE, WORSE, 0.52, "keep"),
    ],
)
def test_nothing_creeps_away_from_the_reference_champion(
    name: str, step: Any, behind: Any, score: float, expected: str
) -> None:
    gains = {(name, "champion"): step, (name, "reference_champion"): behind}
    report = verdict(
        gains, serving=champion(), reference_champion=REFERENCE, scores={"reference_champion": score, "new": 0.49}
    )
    assert report.decision.verdict == expected, report.decision
    assert check(report, "reference_champion", name).bound == pytest.approx(-0.01 * score)


def test_a_candidate_that_was_not_compared_with_the_reference_champion_is_not_promoted() -> None:
    report = verdict({("new", "champion"): GAIN}, serving=champion(), reference_champion=REFERENCE)
    assert report.decision.verdict == "inconclusive"


def test_a_lost_reference_champion_moves_on_and_stops_nothing() -> None:
    gains = {("refresh", "champion"): TIE}
    report = verdict(gains, serving=champion(), reference_champion=REFERENCE, lost="version 1 has no files")
    assert (report.decision.verdict, report.becomes_reference) == ("promote", True)
    assert check(report, "reference_champion", "refresh").reason.endswith("version 1 has no files")
    worse = verdict(
        {("refresh", "champion"): WORSE},
        serving=champion(),
        reference_champion=REFERENCE,
        lost="version 1 has no files",
    )
    assert (worse.decision.verdict, worse.becomes_reference) == ("keep", False)


@pytest.mark.parametrize(
    ("gains", "serving", "reference_champion", "becomes_reference"),
    [
        ({("new", "naive"): GAIN}, None, None, True),
        ({("refresh", "champion"): TIE}, champion(), None, False),
        ({("refresh", "champion"): GAIN}, champion(), None, True),
        ({("refresh", "champion"): GAIN, ("refresh", "reference_champion"): TIE}, champion(), REFERENCE, False),
        ({("refresh", "champion"): TIE, ("refresh", "reference_champion"): GAIN}, champion(), REFERENCE, True),
        ({("new", "champion"): WORSE, ("new", "reference_champion"): GAIN}, champion(), REFERENCE, False),
    ],
)
def test_who_is_shown_better_than_the_reference_champion_is_the_next(
    gains: Any, serving: Any, reference_champion: Any, becomes_reference: bool
) -> None:
    assert verdict(gains, serving=serving, reference_champion=reference_champion).becomes_reference is becomes_reference


# --- a model that was taken back


def blocked(configuration: Configuration, read: tuple[AcceptedBatch, ...]) -> BlockedModel:
    training = dataset.training_digest(read)
    return BlockedModel(
        version=7, digest="b", training=training, configuration=configuration, reason="it failed at night"
    )


@pytest.mark.parametrize(
    ("blocklist", "passed"),
    [((NEW, ACCEPTED), False), ((OLD, ACCEPTED), True), ((NEW, ACCEPTED[:-1]), True)],
)
def test_a_model_on_the_blocklist_does_not_come_back(blocklist: Any, passed: bool) -> None:
    report = verdict({("new", "champion"): GAIN}, serving=champion(), blocklist=(blocked(*blocklist),))
    assert check(report, "blocklist").passed is passed
    assert report.decision.verdict == ("promote" if passed else "keep")
    assert passed or "v7 again, which is blocked: it failed at night" in report.decision.reasons[0]


def test_a_refresh_may_come_where_the_blocked_model_is_another() -> None:
    gains = {("new", "champion"): GAIN, ("refresh", "champion"): TIE}
    report = verdict(gains, serving=champion(), blocklist=(blocked(NEW, ACCEPTED),))
    assert (report.decision.verdict, report.chosen) == ("promote", "refresh")


# --- the same model again


def test_the_same_model_again_is_no_promotion() -> None:
    gains = {("refresh", "champion"): TIE}
    report = verdict(gains, serving=champion(training=dataset.training_digest(ACCEPTED)))
    assert report.decision.verdict == "keep"
    assert "the same model again is no promotion" in report.decision.reasons[0]
    changed = champion(training=dataset.training_digest(ACCEPTED), configuration=NEW)
    assert verdict(gains, serving=changed).decision.verdict == "promote"


def test_the_same_window_of_rows_again_is_no_promotion() -> None:
    last = OLD.model_copy(update={"window": 2})
    candidates = (fitted("refresh", "refresh", last),)
    serving = champion(configuration=last, training=dataset.training_digest(ACCEPTED[-2:]))
    report = verdict({("refresh", "champion"): GAIN}, candidates=candidates, serving=serving)
    assert check(report, "another", "refresh").passed is False


# --- what cannot be told


@pytest.mark.parametrize("few", [{"rows": 499}, {"blocks": 9}, {"scores": {"naive": None}}, {"scores": {"new": None}}])
def test_too_little_to_judge_by_is_inconclusive(few: dict[str, Any]) -> None:
    report = verdict({("new", "champion"): GAIN}, serving=champion(), **few)
    assert report.decision.verdict == "inconclusive", report.decision


def test_an_evaluation_without_fresh_labels_is_inconclusive() -> None:
    measured = Decision(verdict="inconclusive", reasons=("no fresh labels: …",))
    report = verdict({("new", "champion"): GAIN}, serving=champion(), decision=measured)
    assert (report.decision, report.checks) == (measured, ())


def test_no_candidate_keeps() -> None:
    report = verdict({}, candidates=(), serving=champion())
    assert (report.decision.verdict, report.chosen) == ("keep", None)


def test_inconclusive_says_how_many_rows_would_do() -> None:
    report = verdict({("new", "champion"): BOTH}, serving=champion())
    # The lower bound must come from twice as far: four times the 900 rows.
    assert "some 3,600 rows like these would settle it" in report.decision.reasons[0]
    level = verdict({("new", "champion"): (0.0, -0.01, 0.01)}, serving=champion())
    assert "no reachable number of rows" in level.decision.reasons[0]


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_never_passes(place: int, bad: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports refuse NaN; the gate does not rely on it."""
    good = verdict({("new", "champion"): GAIN}, serving=champion())
    assert good.decision.verdict == "promote"
    build: Callable[..., PairedGain] = PairedGain.model_construct
    numbers = dict(zip(("gain", "low", "high"), (bad if i == place else 0.02 for i in range(3)), strict=True))
    numbers |= {"within_low": 0.02, "within_high": 0.02}
    pair = build(model="new", against="champion", metric="log_loss", level=0.05, blocks=30, resamples=9, **numbers)
    context = Context(**about(), spec_digest="s", trigger={}, accepted=ACCEPTED, champion=champion())  # type: ignore[arg-type]
    train = TrainReport(**about(), fitted=(fitted("new", "new", NEW),), holdout=INTERVALS[-1:], seed=1)
    evaluate = EvaluateReport.model_construct(
        **about(),
        decision=Decision(verdict="measured", reasons=("measured",)),
        rows=900,
        blocks=30,
        metrics={name: {"log_loss": MetricEstimate.model_construct(value=0.5)} for name in ("new", "champion")},
        paired=(
            pair,
            *(pair.model_copy(update={"against": n, "gain": 1, "low": 1, "high": 1}) for n in ("naive", "simple")),
        ),
        slices=(),
    )
    report = judge(SPEC, context, train, evaluate)
    assert report.decision.verdict == "inconclusive"
    assert check(report, "champion").passed is None


# --- slices


def part(new: float | None, old: float | None, rows: int = 300) -> tuple[Slice, ...]:
    return (Slice(column="plan", value="basic", rows=rows, scores={"new": new, "champion": old}),)


@pytest.mark.parametrize(
    ("slices", "expected", "passed"),
    [
        (part(0.54, 0.50), "promote", True),
        (part(0.56, 0.50), "keep", False),
        (part(0.90, 0.50, rows=199), "promote", None),
        (part(None, 0.50), "promote", None),
    ],
)
def test_no_slice_may_collapse(slices: tuple[Slice, ...], expected: str, passed: bool | None) -> None:
    report = verdict({("new", "champion"): GAIN}, serving=champion(), slices=slices)
    assert report.decision.verdict == expected, report.decision
    assert check(report, "slice plan=basic").passed is passed


def test_reasons_name_what_failed() -> None:
    report = verdict({("new", "champion"): GAIN}, serving=champion(), slices=part(0.56, 0.50))
    assert report.decision.reasons == ("new scores 0.56 on 300 rows of plan=basic, the champion 0.5",)
