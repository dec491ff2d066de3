"""Retrain or not, and why: a pure function of recorded facts, written down also when the answer is no."""

from __future__ import annotations

from datetime import timedelta

from retrain.results import Context, DecideReport, Decision, DriftReport
from retrain.run import Run
from retrain.spec import Spec


def decide(run: Run) -> DecideReport:
    context = run.read(Context, "context")
    policy, decision = judge(run.spec, context, run.read(DriftReport, "drift"))
    return DecideReport(
        model=run.model, interval=run.interval, effective_at=run.as_of, decision=decision, policy=policy
    )


def judge(spec: Spec, context: Context, drift: DriftReport) -> tuple[str, Decision]:
    """The rule that decided, and the decision: `retrain` or `skip`.

    All times are the data's clock, so that a year of history replays as it was. What says no comes first:
    waiting for labels, an older run, no new data, cooldown; then any rule that says yes is enough.
    """
    now, policy, champion = context.effective_at, spec.policy, context.champion
    mature = [one for one in context.accepted if one.mature_at <= now]
    needed = max(spec.training.first_after, spec.evaluation.sealed + 1)

    if len(mature) < needed:
        return "waiting", _skip(
            f"waiting: the first model needs {needed} intervals with mature labels, {len(mature)} so far"
        )
    if context.newest_promotion_at and context.newest_promotion_at > now and not context.trigger.dry_run:
        return "stale", _skip(
            f"this run is as of {now:%Y-%m-%d}, a model of {context.newest_promotion_at:%Y-%m-%d} has been promoted"
            " since: an older run never replaces it (a dry run may look)"
        )
    if context.trigger.force:
        return "forced", _yes(f"forced by hand{': ' + context.trigger.reason if context.trigger.reason else ''}")
    if champion is None:
        return "first model", _yes(f"first model: {len(mature)} intervals have mature labels")

    fresh = sum(one.batch.rows for one in mature if one.batch.interval.start >= champion.trained_until)
    if fresh < policy.min_new_rows:
        return "no new data", _skip(
            f"no new data: {fresh:,} mature rows since {champion.trained_until:%Y-%m-%d},"
            f" {policy.min_new_rows:,} wanted"
        )
    since = now - context.last_training_at if context.last_training_at else None
    if since is not None and since < policy.cooldown:
        return "cooldown", _skip(f"cooldown: last trained {_days(since)} ago, {_days(policy.cooldown)} wanted")

    yes: dict[str, str] = {}
    if context.trigger.kind == "alert":
        yes["alert"] = f"alert {context.trigger.id}: {context.trigger.reason or 'no reason given'}"
    if policy.schedule and context.last_training_at:
        passed = sum(1 for one in spec.intervals_until(now) if one.end > context.last_training_at)
        if passed >= policy.schedule:
            yes["schedule"] = f"schedule: {passed} interval(s) since the last training, every {policy.schedule}"
    elif policy.schedule:
        yes["schedule"] = "schedule: no training on record"
    if policy.drift and drift.decision.verdict == "drift":
        yes["drift"] = f"drift: {drift.decision.reasons[0]}"
    if policy.max_age and now - champion.trained_until >= policy.max_age:
        yes["age"] = f"age: newest training row is {_days(now - champion.trained_until)} old"
    if yes:
        return next(iter(yes)), _yes(*yes.values())
    return "none", _skip(f"no rule of the policy says yes (drift: {drift.decision.verdict})")


def _yes(*reasons: str) -> Decision:
    return Decision(verdict="retrain", reasons=reasons)


def _skip(reason: str) -> Decision:
    return Decision(verdict="skip", reasons=(reason,))


def _days(span: timedelta) -> str:
    return f"{span / timedelta(days=1):g} d"
