"""Retrain or not, and why: a pure function of recorded facts, written down also when the answer is no."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import timedelta

from retrain.data import dataset
from retrain.results import (
    Champion,
    Context,
    DecideReport,
    Decision,
    DiagnoseReport,
    DriftReport,
    EstimateReport,
    MeasureReport,
    RolloutReport,
    StageReport,
)
from retrain.spec import Spec
from retrain.state.run import Run

RULES = {"drift": "drift", "performance": "realised", "estimated": "estimated"}
"""Rules that read signals, and the question whose signals they read."""


def decide(run: Run) -> DecideReport:
    """Judge, and put the decision on record with its evidence; a rehearsal leaves no record."""
    context, drift = run.read(Context, "context"), run.read(DriftReport, "drift")
    policy, decision, evidence = judge(run.spec, _told(context, _mine(run)), drift)
    if back := _put_back(run):
        policy, decision, evidence = "put back", Decision(verdict="skip", reasons=(back,)), {"put back": back}
    if not run.trigger.dry_run:
        body = {
            "interval": run.interval.name,
            "by": run.loop,
            "verdict": decision.verdict,
            "policy": policy,
            "reasons": list(decision.reasons),
            "evidence": evidence,
            "champion": context.champion and context.champion.version,
            "alert": context.alert and context.alert.model_dump(mode="json"),
        }
        run.ledger.append(run.model, "decision", run.key, body, effective_at=run.as_of, run=run.key, by=run.trigger.by)
    return DecideReport(
        model=run.model,
        interval=run.interval,
        effective_at=run.as_of,
        decision=decision,
        policy=policy,
        evidence=evidence,
    )


def _put_back(run: Run) -> str:
    """What this look has found is of a champion that it has just taken out of service; empty where it has not."""
    if not run.store.exists(f"{run.folder}/rollout.json"):
        return ""
    told = run.read(RolloutReport, "rollout")
    if told.decision.verdict != "rolled back":
        return ""
    return f"version {told.version} was put back: the next look judges it"


def _mine(run: Run) -> Iterator[StageReport]:
    """What this very run has measured, where it is the monitor's; the context holds what earlier runs found."""
    for kind, stage in ((EstimateReport, "estimate"), (MeasureReport, "measure"), (DiagnoseReport, "diagnose")):
        if run.store.exists(f"{run.folder}/{stage}.json"):
            yield run.read(kind, stage)


def _told(context: Context, reports: Iterable[StageReport]) -> Context:
    """The context with the signals of these reports."""
    if (champion := context.champion) is None:
        return context
    more = [signal for report in reports for signal in report.signals_of(champion.version)]
    return context.model_copy(update={"signals": (*context.signals, *more)})


def judge(spec: Spec, context: Context, drift: DriftReport) -> tuple[str, Decision, dict[str, str]]:
    """The rule that decided, the decision (`retrain` or `skip`), and what every rule that was asked said.

    All times are the data's clock, so that a year of history replays as it was. What says no comes first: waiting for
    labels, an older run, broken data, a training that has answered already, a challenger on its way, no new data,
    cooldown, budget; then an alert, and then the rules of the policy, any or all of them.
    """
    context = _told(context, [drift])
    now, policy, champion, alert = context.effective_at, spec.policy, context.champion, context.alert
    mature = dataset.mature(context, spec)
    needed = max(spec.training.first_after, spec.evaluation.holdout + 1)

    def no(rule: str, reason: str) -> tuple[str, Decision, dict[str, str]]:
        return rule, Decision(verdict="skip", reasons=(reason,)), {rule: reason}

    def yes(said: dict[str, str]) -> tuple[str, Decision, dict[str, str]]:
        return next(iter(said)), Decision(verdict="retrain", reasons=tuple(said.values())), said

    if len(mature) < needed:
        return no(
            "waiting", f"waiting: the first model needs {needed} intervals with mature labels, {len(mature)} so far"
        )
    if context.newest_promotion_at and context.newest_promotion_at > now and not context.trigger.dry_run:
        return no(
            "stale",
            f"this run is as of {now:%Y-%m-%d}, a model of {context.newest_promotion_at:%Y-%m-%d} has been promoted"
            " since: an older run never replaces it (a dry run may look)",
        )
    if context.trigger.force:
        return yes({"forced": f"forced by hand{': ' + context.trigger.reason if context.trigger.reason else ''}"})
    if drift.decision.verdict == "broken":
        return no("broken data", f"broken data, the owner is asked to look: {drift.decision.reasons[0]}")
    if wrong := [one for one in context.signals if one.verdict == "suspect" and one.effective_at == now]:
        return no("suspect labels", f"labels look wrong, the owner is asked to look: {wrong[-1].reason}")
    if context.interval.name in context.quarantined:
        return no("quarantined", f"the batch of {context.interval.name} is quarantined: nothing new to learn from")
    trained = context.last_training_at
    if champion is None and not (trained is not None and trained >= now):
        return yes({"first model": f"first model: {len(mature)} intervals have mature labels"})

    if trained is not None and (trained >= now or (alert and trained >= alert.effective_at)):
        return no("answered", f"answered already: the training as of {trained:%Y-%m-%d} has seen what there is")
    assert champion
    if (rollout := context.rollout) and rollout.purpose != "watch":
        said = f"version {rollout.shadow.version} is in {rollout.purpose} since {rollout.began:%Y-%m-%d}"
        return no("rollout", f"{said}: one challenger at a time")
    if alert and alert.verdict != "retrain":
        return no("not confirmed", f"the decision {alert.id} on record says {alert.verdict}: {alert.reason}")
    fresh = sum(one.batch.rows for one in mature if one.batch.interval.start >= champion.trained_until)
    if fresh < policy.min_new_rows:
        wanted = f"{policy.min_new_rows:,} wanted"
        return no(
            "no new data",
            f"no new data: {fresh:,} mature rows since {champion.trained_until:%Y-%m-%d}, {wanted}"
            + _until_labels(context, drift),
        )
    if trained is not None and now - trained < policy.cooldown:
        wanted = f"{_days(policy.cooldown)} wanted"
        return no("cooldown", f"cooldown: last trained {_days(now - trained)} ago, {wanted}")
    if policy.budget:
        spent = sum(one > now - policy.budget.per for one in context.trainings)
        if spent >= policy.budget.trainings:
            return no(
                "budget", f"budget: {spent} trainings in {_days(policy.budget.per)}, {policy.budget.trainings} allowed"
            )

    if alert:
        origin = "the monitor" if alert.origin == "monitor" else "outside"
        return yes({"alert": f"alert {alert.id} from {origin}: {alert.reason}"})
    asked = {rule: (said, why) for rule, said, why in _rules(spec, context, champion, fresh)}
    evidence = {rule: why for rule, (_, why) in asked.items()}
    agreed = {rule: why for rule, (said, why) in asked.items() if said}
    enough = len(agreed) == len(asked) if policy.combine == "all" else bool(agreed)
    if agreed and enough:
        rule, decision, _ = yes(agreed)
        return rule, decision, evidence
    said = f"no rule of the policy says yes (drift: {drift.decision.verdict})"
    if agreed:
        said = f"not all rules say yes: {'; '.join(why for said, why in asked.values() if not said)}"
    return "none", Decision(verdict="skip", reasons=(said,)), evidence


def _rules(spec: Spec, context: Context, champion: Champion, fresh: int) -> Iterator[tuple[str, bool, str]]:
    """Each rule that the policy has: its name, whether it says yes, and why."""
    policy, now, trained = spec.policy, context.effective_at, context.last_training_at
    if policy.schedule and trained is None:
        yield "schedule", True, "schedule: no training on record"
    elif policy.schedule and trained:
        passed = sum(1 for one in spec.intervals_until(now) if one.end > trained)
        said = f"schedule: {passed} interval(s) since the last training, every {policy.schedule}"
        yield "schedule", passed >= policy.schedule, said
    for rule, question in RULES.items():
        if getattr(policy, rule):
            yield rule, *_alarmed(spec, context, rule, question)
    if policy.max_age:
        age = now - champion.trained_until
        yield "age", age >= policy.max_age, f"age: newest training row is {_days(age)} old"
    if policy.new_rows:
        share = fresh / max(champion.rows, 1)
        said = f"new data: {fresh:,} mature rows, {share:.0%} of the {champion.rows:,} trained on"
        yield "new data", share >= policy.new_rows, said


def _alarmed(spec: Spec, context: Context, rule: str, question: str) -> tuple[bool, str]:
    """Whether k of the last n signals are alarms; a training answers those that it could see.

    A later look at the same interval replaces the earlier one; what could not be told counts as no alarm.
    """
    k, n = spec.policy.alarms
    trained = context.last_training_at
    told = {
        one.interval.start: one
        for one in context.signals
        if one.question == question and (trained is None or one.effective_at > trained)
    }
    last = [told[start] for start in sorted(told)][-n:]
    alarms = [one for one in last if one.verdict == "alarm"]
    if not last:
        return False, f"{rule}: nothing said since the last training"
    if n == 1:
        return bool(alarms), f"{rule}: {last[-1].reason}"
    newest = f", the newest: {(alarms or last)[-1].reason}"
    return len(alarms) >= k, f"{rule}: {len(alarms)} alarm(s) among the last {len(last)}, {k} of {n} wanted{newest}"


def _until_labels(context: Context, drift: DriftReport) -> str:
    """What a drift alarm waits for."""
    waiting = [one for one in context.accepted if one.mature_at > context.effective_at]
    if (drift.decision.verdict != "drift" and not context.alert) or not waiting:
        return ""
    first = min(waiting, key=lambda one: one.mature_at)
    return (
        f"; the alarm stands until labels are mature: {first.batch.rows:,} rows of {first.batch.interval.name}"
        f" on {first.mature_at:%Y-%m-%d}"
    )


def _days(span: timedelta) -> str:
    return f"{span / timedelta(days=1):g} d"
