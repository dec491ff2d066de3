"""When the policy retrains, when it does not, and why."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from retrain.policy.regret import best_window, totals
from retrain.policy.rules import decide_retraining
from retrain.results import (
    AcceptedBatch,
    Alert,
    Batch,
    Champion,
    Configuration,
    Context,
    Decision,
    DriftReport,
    Signal,
    Trigger,
    WindowRegret,
)
from retrain.spec import EXAMPLE, Spec, parse


def spec(**policy: Any) -> Spec:
    words = ", ".join(f"{key}: {value}" for key, value in policy.items()).replace("'", "")
    return parse(EXAMPLE + f"policy: {{{words}}}\n", "churn")


def context(months: int, champion: int | None = None, **more: Any) -> Context:
    """As of the end of month `months`; the champion was fitted up to the end of month `champion`."""
    spans = [spec().at(f"2024-{month:02d}-01") for month in range(1, months + 1)]
    accepted = tuple(
        AcceptedBatch(
            batch=Batch(interval=span, sha256=f"{place}", rows=100, bytes=1, key="k"),
            md5="m", commit="c", mature_at=span.end,
        )
        for place, span in enumerate(spans)
    )  # fmt: skip
    serving = None
    if champion:
        serving = Champion(
            version=1, run_id="r", digest="d", training="t", reference="x",
            configuration=Configuration(estimator="linear", parameters={}, pipeline="p"),
            trained_until=spans[champion - 1].end, effective_at=spans[champion - 1].end,
        )  # fmt: skip
        more = {"last_training_at": serving.effective_at, "newest_promotion_at": serving.effective_at, **more}
    return Context(
        model="churn", interval=spans[-1], effective_at=spans[-1].end, spec_digest="s", accepted=accepted,
        champion=serving, **{"trigger": Trigger(), **more},
    )  # fmt: skip


def drifted(verdict: str = "stable", month: int = 12) -> DriftReport:
    span = spec().at(f"2024-{month:02d}-01")
    return DriftReport(
        model="churn", interval=span, effective_at=span.end, decision=Decision(verdict=verdict, reasons=("because",))
    )


@pytest.mark.parametrize(
    ("policy", "known", "drift", "rule", "verdict"),
    [
        ({}, context(1), "undetermined", "waiting", "skip"),
        ({}, context(2), "undetermined", "first model", "retrain"),
        ({}, context(3, 2), "stable", "schedule", "retrain"),
        ({"schedule": 2}, context(3, 2), "stable", "none", "skip"),
        ({"schedule": 2}, context(4, 2), "stable", "schedule", "retrain"),
        ({"schedule": 0}, context(9, 2), "stable", "none", "skip"),
        ({"schedule": 0}, context(3, 2), "drift", "drift", "retrain"),
        ({"schedule": 0}, context(3, 2), "undetermined", "none", "skip"),
        ({"schedule": 0, "drift": "false"}, context(3, 2), "drift", "none", "skip"),
        ({"schedule": 0, "max_age": "60d"}, context(3, 2), "stable", "none", "skip"),
        ({"schedule": 0, "max_age": "60d"}, context(4, 2), "stable", "age", "retrain"),
        ({"cooldown": "45d"}, context(3, 2), "drift", "cooldown", "skip"),
        ({"min_new_rows": 101}, context(3, 2), "drift", "no new data", "skip"),
        ({}, context(3, 3), "drift", "answered", "skip"),
        ({"cooldown": "45d"}, context(3, 2, trigger=Trigger(kind="manual", force=True)), "stable", "forced", "retrain"),
        ({}, context(1, trigger=Trigger(force=True)), "stable", "waiting", "skip"),
    ],
)  # fmt: skip
def test_the_policy(policy: dict[str, Any], known: Context, drift: str, rule: str, verdict: str) -> None:
    rule_that_decided, decision, evidence = decide_retraining(spec(**policy), known, drifted(drift))
    assert evidence or rule == "none"
    assert (rule_that_decided, decision.verdict) == (rule, verdict)
    assert all(decision.reasons)


def test_an_older_run_is_stale_unless_it_only_looks() -> None:
    newer = context(2).effective_at + timedelta(days=90)
    older = context(3, 2, newest_promotion_at=newer)
    assert decide_retraining(spec(), older, drifted())[0] == "stale"
    looking = context(3, 2, newest_promotion_at=newer, trigger=Trigger(dry_run=True))
    assert decide_retraining(spec(), looking, drifted())[0] == "schedule"


def test_labels_that_are_not_mature_are_not_counted() -> None:
    known = context(2)
    late = known.accepted[1].model_copy(update={"mature_at": known.effective_at + timedelta(hours=1)})
    decision = decide_retraining(spec(), known.model_copy(update={"accepted": (known.accepted[0], late)}), drifted())[1]
    assert decision.verdict == "skip"
    assert "1 so far" in decision.reasons[0]


def test_every_rule_that_said_yes_is_named() -> None:
    decision = decide_retraining(spec(schedule=1, max_age="1d"), context(4, 2), drifted("drift"))[1]
    assert [reason.split(":")[0] for reason in decision.reasons] == ["schedule", "drift", "age"]


# --- signals, and what starts a run


def signal(interval: str, verdict: str, question: str = "realised", after: int = 0) -> Signal:
    """What the monitor said of version 1 about an interval, `after` days past the interval's end."""
    span = spec().at(interval)
    return Signal.model_validate(
        {"question": question, "interval": span, "champion": 1, "verdict": verdict}
        | {"reason": f"{question} {interval} {verdict}", "effective_at": span.end + timedelta(days=after)}
    )


OFF = {"schedule": 0, "drift": "false"}
FELL = (signal("2024-03-01", "alarm"), signal("2024-04-01", "calm"), signal("2024-05-01", "alarm"))


@pytest.mark.parametrize(
    ("policy", "more", "rule", "verdict"),
    [
        ({**OFF, "performance": "true"}, {"signals": FELL}, "performance", "retrain"),
        ({**OFF, "performance": "true"}, {"signals": FELL[:2]}, "none", "skip"),
        ({**OFF, "estimated": "true"}, {"signals": FELL}, "none", "skip"),
        ({**OFF, "performance": "true", "alarms": [2, 3]}, {"signals": FELL}, "performance", "retrain"),
        ({**OFF, "performance": "true", "alarms": [2, 2]}, {"signals": FELL}, "none", "skip"),
        # A training has answered what it could see.
        ({**OFF, "performance": "true"}, {"signals": FELL[:1], "last": "2024-04-01"}, "none", "skip"),
        ({**OFF, "performance": "true"}, {"signals": FELL, "last": "2024-04-01"}, "performance", "retrain"),
        ({**OFF, "new_rows": 1.5}, {}, "new data", "retrain"),
        ({**OFF, "new_rows": 1.6}, {}, "none", "skip"),
        ({"schedule": 4, "performance": "true", "combine": "all"}, {"signals": FELL}, "none", "skip"),
        ({"schedule": 3, "drift": "false", "performance": "true", "combine": "all"}, {"signals": FELL}, "schedule",
         "retrain"),
        ({"budget": {"trainings": 1, "per": "120d"}}, {"trainings": ["2024-03-01"]}, "budget", "skip"),
        ({"budget": {"trainings": 2, "per": "120d"}}, {"trainings": ["2024-03-01"]}, "schedule", "retrain"),
        ({}, {"last": "2024-06-01"}, "answered", "skip"),
        ({}, {"signals": (signal("2024-05-01", "suspect", "kind"),)}, "suspect labels", "skip"),
        ({}, {"quarantined": ("2024-05-01",)}, "quarantined", "skip"),
    ],
)  # fmt: skip
def test_signals_hysteresis_and_budget(policy: dict[str, Any], more: dict[str, Any], rule: str, verdict: str) -> None:
    known = context(5, 2)
    more = dict(more)
    if last := more.pop("last", None):
        more["last_training_at"] = spec().at(last).start
    more["trainings"] = tuple(spec().at(day).start for day in more.get("trainings", ()))
    champion = known.champion and known.champion.model_copy(update={"rows": 200})
    known = known.model_copy(update={**more, "champion": champion})
    rule_that_decided, decision, evidence = decide_retraining(spec(**policy), known, drifted())
    assert (rule_that_decided, decision.verdict) == (rule, verdict)
    if rule == "none":
        rules = {
            "schedule": policy["schedule"],
            "drift": policy.get("drift") != "false",
            "new data": "new_rows" in policy,
        }
        rules |= {name: name in policy for name in ("performance", "estimated")}
        assert set(evidence) == {name for name, wanted in rules.items() if wanted}


# --- regret


def regretted(
    interval: str, champion: int = 1, aged: float | None = None, error: float = 0.0, **gains: float
) -> Signal:
    """The regret of a version on an interval, for each window; the champion loses 0.5 a row."""
    figures = tuple(
        WindowRegret(window=window.replace("_", " "), loss=0.5, gain=gain, error=error, aged=aged, rows=100, blocks=10)
        for window, gain in gains.items()
    )
    verdict = "measured" if gains else "undetermined"
    return signal(interval, verdict, "regret").model_copy(update={"regret": figures, "champion": champion})


GREW = (
    regretted("2024-03-01", all=0.0, last_2=0.005),
    regretted("2024-04-01", all=0.01, last_2=0.015),
    regretted("2024-05-01", all=0.015, last_2=0.02),
)
"""0.04 in all, 0.08 of the loss of one interval."""


@pytest.mark.parametrize(
    ("regret", "more", "verdict", "reason"),
    [
        ({"price": 0.07, "horizon": 0}, {"signals": GREW}, "retrain", "regret: 0.0800 over 3 interval(s)"),
        ({"price": 0.09, "horizon": 0}, {"signals": GREW}, "skip", "(window last 2)"),
        ({"price": 0.09, "horizon": 1}, {"signals": GREW}, "retrain", "+ 1 x 0.0267 ahead = 0.1067"),
        ({"price": 0.06, "horizon": 0}, {"signals": GREW, "last": "2024-04-01"}, "retrain", "0.0700 over 2"),
        ({"price": 0.01}, {"signals": GREW, "last": "2024-06-01"}, "skip", "answered"),
        ({"price": 0.01}, {"signals": ()}, "skip", "blind"),
        ({"price": 0.01}, {"signals": (regretted("2024-05-01"),)}, "skip", "blind"),
        # That of another version is no regret of this one.
        ({"price": 0.01}, {"signals": (regretted("2024-05-01", 2, all=0.1),)}, "skip", "blind"),
        # The newest word on an interval counts, once.
        ({"price": 0.07, "horizon": 0}, {"signals": (*GREW, GREW[2])}, "retrain", "0.0800 over 3"),
        ({"price": 0.01}, {"signals": (regretted("2024-05-01", all=-0.2, last_2=-0.1),)}, "skip", "+ 2 x 0.0000 ahead"),
        # A sum is lowered by half its standard error.
        ({"price": 0.05, "horizon": 0}, {"signals": (regretted("2024-05-01", error=0.02, all=0.03),)}, "skip", "0.04"),
    ],
)  # fmt: skip
def test_regret_retrains_once_it_has_paid_for_it(
    regret: dict[str, Any], more: dict[str, Any], verdict: str, reason: str
) -> None:
    known = context(5, 2)
    more = dict(more)
    if last := more.pop("last", None):
        more["last_training_at"] = spec().at(last).start
    known = known.model_copy(update=more)
    _, decision, evidence = decide_retraining(spec(**OFF, regret=regret), known, drifted())
    assert decision.verdict == verdict
    assert reason in " ".join([*decision.reasons, *evidence.values()])


def test_what_the_champion_was_ahead_by_before_is_no_credit() -> None:
    """The rival plan keeps the champion while it is ahead, and trains then."""
    ahead = regretted("2024-03-01", all=-0.2, last_2=-0.3)
    known, policy = context(5, 2, signals=(ahead, *GREW[1:])), {"price": 0.06, "horizon": 2}
    _, decision, evidence = decide_retraining(spec(**OFF, regret=policy), known, drifted())
    assert "0.0700 over the newest 2 of 3 interval(s)" in evidence["regret"]
    assert "(window last 2) + 2 x 0.0000 ahead" in evidence["regret"], "three intervals in all foretell nothing"
    assert decision.verdict == "retrain"
    assert totals(known.signals)["last 2"] == pytest.approx(0.035), "what the page shows"


def test_regret_that_is_blind_holds_no_other_rule_back() -> None:
    policy = {**OFF, "performance": "true", "combine": "all", "regret": {"price": 0.05, "horizon": 0}}
    known = context(5, 2, signals=FELL)
    rule, decision, evidence = decide_retraining(spec(**policy), known, drifted())
    assert (rule, decision.verdict) == ("performance", "retrain")
    assert "blind" in evidence["regret"]
    seeing = context(5, 2, signals=(*FELL, GREW[0]))
    assert decide_retraining(spec(**policy), seeing, drifted())[1].verdict == "skip", "where it sees, it has a say"


def test_intervals_without_labels_yet_cost_what_age_has_cost_lately() -> None:
    known = context(5, 2, signals=(GREW[0], regretted("2024-04-01", aged=0.01, all=0.01)))
    policy = {"price": 0.045, "horizon": 0}
    assert decide_retraining(spec(**OFF, regret=policy), known, drifted())[1].verdict == "skip"
    late = known.accepted[-1].model_copy(update={"mature_at": known.effective_at + timedelta(days=9)})
    waits = known.model_copy(update={"accepted": (*known.accepted[:-1], late)})
    _, decision, evidence = decide_retraining(spec(**OFF, regret=policy), waits, drifted())
    # April is one month old, and cost 0.01; an interval of age cost the shadow as much. May is two months old.
    assert "0.0200 over 2 interval(s)" in evidence["regret"]
    assert "+ 0.0400 for 1 without labels yet = 0.0600" in evidence["regret"]
    assert decision.verdict == "retrain"


def test_the_window_whose_shadows_did_best_lately_is_the_one_to_train_on() -> None:
    assert best_window(()) is None
    assert best_window(GREW) == "last 2"
    assert best_window((regretted("2024-01-01", all=0.01, last_2=0.0), *GREW)) == "last 2", "long ago"
    assert best_window((*GREW[:2], regretted("2024-05-01", all=0.05, last_2=0.0))) == "all", "lately"
    assert best_window((regretted("2024-01-01", 7, all=0.9, last_2=0.0), GREW[0])) == "all", "whoever served"
    assert best_window((regretted("2024-05-01", all=0.0, last_2=0.0),)) == "all", "of equal ones the first"
    partly = regretted("2024-04-01", all=0.4)
    assert best_window((GREW[0], partly, GREW[2])) == "last 2", "compared where both have a shadow"


def test_oscillating_drift_does_not_flap() -> None:
    policy = spec(schedule=0, alarms=[2, 3])
    verdicts, signals = [], []
    for month in range(3, 11):
        now = "drift" if month % 4 == 0 else "stable"
        known = context(month, 2).model_copy(update={"signals": tuple(signals)})
        verdicts.append(decide_retraining(policy, known, drifted(now, month))[1].verdict)
        signals.append(signal(f"2024-{month:02d}-01", "alarm" if now == "drift" else "calm", "drift"))
    assert set(verdicts) == {"skip"}
    steady = context(5, 2).model_copy(update={"signals": (signal("2024-04-01", "alarm", "drift"),)})
    assert decide_retraining(policy, steady, drifted("drift", 5))[0] == "drift"


def test_broken_data_stop_whatever_the_policy_but_a_hand() -> None:
    assert decide_retraining(spec(), context(5, 2), drifted("broken"))[0] == "broken data"
    forced = context(5, 2, trigger=Trigger(kind="manual", force=True))
    assert decide_retraining(spec(), forced, drifted("broken"))[0] == "forced"


@pytest.mark.parametrize(
    ("policy", "alert", "more", "rule"),
    [
        ({}, {"origin": "monitor"}, {}, "alert"),
        ({}, {"origin": "outside"}, {}, "alert"),
        ({}, {"origin": "monitor", "verdict": "skip"}, {}, "not confirmed"),
        ({}, {"origin": "monitor"}, {"last_training_at": "2024-06-01"}, "answered"),
        ({"cooldown": "200d"}, {"origin": "outside"}, {}, "cooldown"),
        ({"budget": {"trainings": 1, "per": "120d"}}, {"origin": "monitor"}, {"trainings": ["2024-03-01"]}, "budget"),
    ],
)  # fmt: skip
def test_an_alert_is_confirmed_and_only_the_bounds_are_checked_again(
    policy: dict[str, Any], alert: dict[str, Any], more: dict[str, Any], rule: str
) -> None:
    known = context(5, 2)
    whole = {"id": "a1", "verdict": "retrain", "reason": "it fell", "effective_at": known.effective_at, **alert}
    if "last_training_at" in more:
        more = {"last_training_at": spec().at(more["last_training_at"]).start}
    if "trainings" in more:
        more = {"trainings": tuple(spec().at(day).start for day in more["trainings"])}
    known = known.model_copy(update={**more, "alert": Alert.model_validate(whole)})
    assert decide_retraining(spec(**{**OFF, **policy}), known, drifted())[0] == rule


def test_a_drift_alarm_says_what_it_waits_for() -> None:
    known = context(4, 3)
    late = known.accepted[-1].model_copy(update={"mature_at": known.effective_at + timedelta(days=14)})
    known = known.model_copy(update={"accepted": (*known.accepted[:-1], late)})
    rule, decision, _ = decide_retraining(spec(schedule=0), known, drifted("drift"))
    assert rule == "no new data"
    assert "the alarm stands until labels are mature: 100 rows of 2024-04-01 on 2024-05-15" in decision.reasons[0]
