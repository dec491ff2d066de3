from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from retrain.results import Accepted, Batch, Champion, Configuration, Context, Decision, DriftReport, Trigger
from retrain.spec import EXAMPLE, Spec, parse
from retrain.stages.decide import judge


def spec(**policy: Any) -> Spec:
    words = ", ".join(f"{key}: {value}" for key, value in policy.items())
    return parse(EXAMPLE + f"policy: {{{words}}}\n", "churn")


def context(months: int, champion: int | None = None, **more: Any) -> Context:
    """As of the end of month `months`; the champion was fitted up to the end of month `champion`."""
    one = spec()
    spans = [one.at(f"2024-{month:02d}-01") for month in range(1, months + 1)]
    accepted = tuple(
        Accepted(
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


def drifted(verdict: str = "stable") -> DriftReport:
    span = spec().at("2024-01-01")
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
        ({}, context(3, 3), "drift", "no new data", "skip"),
        ({"cooldown": "45d"}, context(3, 2, trigger=Trigger(kind="manual", force=True)), "stable", "forced", "retrain"),
        ({}, context(1, trigger=Trigger(force=True)), "stable", "waiting", "skip"),
        ({"schedule": 0}, context(3, 2, trigger=Trigger(kind="alert", id="a1")), "stable", "alert", "retrain"),
    ],
)  # fmt: skip
def test_the_policy(policy: dict[str, Any], known: Context, drift: str, rule: str, verdict: str) -> None:
    found, decision = judge(spec(**policy), known, drifted(drift))
    assert (found, decision.verdict) == (rule, verdict)
    assert all(decision.reasons)


def test_an_older_run_is_stale_unless_it_only_looks() -> None:
    newer = context(2).effective_at + timedelta(days=90)
    older = context(3, 2, newest_promotion_at=newer)
    assert judge(spec(), older, drifted())[0] == "stale"
    looking = context(3, 2, newest_promotion_at=newer, trigger=Trigger(dry_run=True))
    assert judge(spec(), looking, drifted())[0] == "schedule"


def test_labels_that_are_not_mature_are_not_counted() -> None:
    known = context(2)
    late = known.accepted[1].model_copy(update={"mature_at": known.effective_at + timedelta(hours=1)})
    decision = judge(spec(), known.model_copy(update={"accepted": (known.accepted[0], late)}), drifted())[1]
    assert decision.verdict == "skip"
    assert "1 so far" in decision.reasons[0]


def test_every_rule_that_said_yes_is_named() -> None:
    decision = judge(spec(schedule=1, max_age="1d"), context(4, 2), drifted("drift"))[1]
    assert [reason.split(":")[0] for reason in decision.reasons] == ["schedule", "drift", "age"]
