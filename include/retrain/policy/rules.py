"""When to retrain: what decides before the policy is asked, and the policy's rules, a small function each.

The steps of `STEPS` are asked in their order, and the first that has a reason decides: a veto skips, a trigger
retrains. If none has, the policy's rules of `RULES` are asked, and `policy.combine` says whether any or all of them
must want a retraining. Everything is a pure function of recorded facts, on the data's clock, so that a year of history
replays as it was.

To add a rule: write a function here that takes `Facts` and returns its `Answer`, or None where the spec does not ask
for it; give it a name in `RULES`; add its key to `retrain.spec.Policy`; test it in `tests/policy/test_rules.py`. To add
a veto: write a function that returns its reason, or nothing, and put it where it belongs in `STEPS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

from retrain.data import dataset
from retrain.policy.regret import account
from retrain.results import AcceptedBatch, Champion, Context, Decision, DriftReport
from retrain.spec import Spec


class PolicyDecision(NamedTuple):
    """The rule that decided, `retrain` or `skip` with the reasons, and what every rule that was asked answered."""

    rule: str
    decision: Decision
    evidence: dict[str, str]


class Answer(NamedTuple):
    """Whether a rule of the policy wants a retraining, and why or why not; one that cannot tell is not counted."""

    retrain: bool
    reason: str
    counts: bool = True


@dataclass(frozen=True)
class Facts:
    """What rules judge by: the spec, and what was on record at the run's as-of time."""

    spec: Spec
    context: Context
    drift: DriftReport

    @property
    def now(self) -> datetime:
        """The run's as-of time, on the data's clock."""
        return self.context.effective_at

    @property
    def mature(self) -> tuple[AcceptedBatch, ...]:
        """The accepted batches whose labels are all there, oldest first."""
        return dataset.mature(self.context, self.spec)

    @property
    def champion(self) -> Champion:
        """The model that serves; only steps after `first_model` may ask for it."""
        assert self.context.champion
        return self.context.champion

    @property
    def trained(self) -> datetime:
        """The last training, whatever became of it; else the end of what the champion was fitted on."""
        return self.context.last_training_at or self.champion.trained_until

    @property
    def new_rows(self) -> int:
        """Mature rows that the champion was not fitted on."""
        since = self.champion.trained_until
        return sum(accepted.batch.rows for accepted in self.mature if accepted.batch.interval.start >= since)


def decide_retraining(spec: Spec, context: Context, drift: DriftReport) -> PolicyDecision:
    """Decide whether to retrain now, and say why, also when the answer is no.

    Args:
        spec: what the model's owner wants: the policy, how many intervals a first model needs.
        context: what was on record at the run's as-of time, the signals of the monitor included.
        drift: the drift of this run's batch; its signals are added to those of the context.
    """
    facts = Facts(spec, context.with_signals([drift]), drift)
    for name, verdict, reason_of in STEPS:
        if reason := reason_of(facts):
            return PolicyDecision(name, Decision(verdict=verdict, reasons=(reason,)), {name: reason})

    answers = {name: answer for name, rule in RULES.items() if (answer := rule(facts))}
    evidence = {name: answer.reason for name, answer in answers.items()}
    agreed = {name: answer.reason for name, answer in answers.items() if answer.retrain}
    counted = [answer for answer in answers.values() if answer.counts]
    enough = len(agreed) == len(counted) if spec.policy.combine == "all" else bool(agreed)
    if agreed and enough:
        return PolicyDecision(next(iter(agreed)), Decision(verdict="retrain", reasons=tuple(agreed.values())), evidence)
    reason = f"no rule of the policy says yes (drift: {drift.decision.verdict})"
    if agreed:
        against = "; ".join(answer.reason for answer in counted if not answer.retrain)
        reason = f"not all rules say yes: {against}"
    return PolicyDecision("none", Decision(verdict="skip", reasons=(reason,)), evidence)


# --- what decides before the policy: each returns its reason, or nothing


def waiting(facts: Facts) -> str:
    """Veto: too few intervals with mature labels for a first model."""
    needed = max(facts.spec.training.first_after, facts.spec.evaluation.holdout + 1)
    if len(facts.mature) >= needed:
        return ""
    return f"waiting: the first model needs {needed} intervals with mature labels, {len(facts.mature)} so far"


def stale_run(facts: Facts) -> str:
    """Veto: a model of a later moment has been promoted already."""
    newest = facts.context.newest_promotion_at
    if not newest or newest <= facts.now or facts.context.trigger.dry_run:
        return ""
    return (
        f"this run is as of {facts.now:%Y-%m-%d}, a model of {newest:%Y-%m-%d} has been promoted"
        " since: an older run never replaces it (a dry run may look)"
    )


def forced(facts: Facts) -> str:
    """Trigger: a person wants a retraining whatever the rest says."""
    trigger = facts.context.trigger
    return f"forced by hand{': ' + trigger.reason if trigger.reason else ''}" if trigger.force else ""


def broken_data(facts: Facts) -> str:
    """Veto: the batch looks broken, not changed; nobody should learn from it."""
    if facts.drift.decision.verdict != "broken":
        return ""
    return f"broken data, the owner is asked to look: {facts.drift.decision.reasons[0]}"


def suspect_labels(facts: Facts) -> str:
    """Veto: the monitor found at this very moment that labels look wrong."""
    signals = facts.context.signals
    suspect = [signal for signal in signals if signal.verdict == "suspect" and signal.effective_at == facts.now]
    return f"labels look wrong, the owner is asked to look: {suspect[-1].reason}" if suspect else ""


def quarantined(facts: Facts) -> str:
    """Veto: this run's batch broke its contract."""
    name = facts.context.interval.name
    return f"the batch of {name} is quarantined: nothing new to learn from" if name in facts.context.quarantined else ""


def first_model(facts: Facts) -> str:
    """Trigger: nothing serves yet, and no training of this moment has been tried."""
    trained = facts.context.last_training_at
    if facts.context.champion is not None or (trained is not None and trained >= facts.now):
        return ""
    return f"first model: {len(facts.mature)} intervals have mature labels"


def answered(facts: Facts) -> str:
    """Veto: a training as of this moment, or since the alert, has seen what there is."""
    trained, alert = facts.context.last_training_at, facts.context.alert
    if trained is None or not (trained >= facts.now or (alert and trained >= alert.effective_at)):
        return ""
    return f"answered already: the training as of {trained:%Y-%m-%d} has seen what there is"


def rollout_on_its_way(facts: Facts) -> str:
    """Veto: a challenger is in shadow or canary."""
    rollout = facts.context.rollout
    if not rollout or rollout.purpose == "watch":
        return ""
    challenger = f"version {rollout.shadow.version} is in {rollout.purpose} since {rollout.began:%Y-%m-%d}"
    return f"{challenger}: one challenger at a time"


def not_confirmed(facts: Facts) -> str:
    """Veto: the decision of the monitor that started this run says no."""
    alert = facts.context.alert
    if not alert or alert.verdict == "retrain":
        return ""
    return f"the decision {alert.id} on record says {alert.verdict}: {alert.reason}"


def no_new_data(facts: Facts) -> str:
    """Veto: fewer mature rows than `policy.min_new_rows` since the champion's newest training row."""
    fewest = facts.spec.policy.min_new_rows
    if facts.new_rows >= fewest:
        return ""
    since = f"since {facts.champion.trained_until:%Y-%m-%d}"
    return f"no new data: {facts.new_rows:,} mature rows {since}, {fewest:,} wanted{_until_labels(facts)}"


def cooldown(facts: Facts) -> str:
    """Veto: the last training is younger than `policy.cooldown`."""
    trained, pause = facts.context.last_training_at, facts.spec.policy.cooldown
    if trained is None or facts.now - trained >= pause:
        return ""
    return f"cooldown: last trained {_days(facts.now - trained)} ago, {_days(pause)} wanted"


def budget(facts: Facts) -> str:
    """Veto: `policy.budget` is spent."""
    if not (allowed := facts.spec.policy.budget):
        return ""
    spent = sum(trained > facts.now - allowed.per for trained in facts.context.trainings)
    if spent < allowed.trainings:
        return ""
    return f"budget: {spent} trainings in {_days(allowed.per)}, {allowed.trainings} allowed"


def alert(facts: Facts) -> str:
    """Trigger: the monitor, or somebody outside, asks for a retraining."""
    if not (asking := facts.context.alert):
        return ""
    origin = "the monitor" if asking.origin == "monitor" else "outside"
    return f"alert {asking.id} from {origin}: {asking.reason}"


STEPS: tuple[tuple[str, Literal["skip", "retrain"], Callable[[Facts], str]], ...] = (
    ("waiting", "skip", waiting),
    ("stale", "skip", stale_run),
    ("forced", "retrain", forced),
    ("broken data", "skip", broken_data),
    ("suspect labels", "skip", suspect_labels),
    ("quarantined", "skip", quarantined),
    ("first model", "retrain", first_model),
    ("answered", "skip", answered),
    ("rollout", "skip", rollout_on_its_way),
    ("not confirmed", "skip", not_confirmed),
    ("no new data", "skip", no_new_data),
    ("cooldown", "skip", cooldown),
    ("budget", "skip", budget),
    ("alert", "retrain", alert),
)
"""Name on record, verdict and function; the first with a reason decides."""


# --- the policy's rules: each returns its answer, or None where the policy has no such rule


def schedule(facts: Facts) -> Answer | None:
    """Every so many intervals since the last training."""
    every, trained = facts.spec.policy.schedule, facts.context.last_training_at
    if not every:
        return None
    if trained is None:
        return Answer(True, "schedule: no training on record")
    passed = sum(1 for interval in facts.spec.intervals_until(facts.now) if interval.end > trained)
    return Answer(passed >= every, f"schedule: {passed} interval(s) since the last training, every {every}")


def drift(facts: Facts) -> Answer | None:
    """Batches differ from the champion's reference."""
    return _alarms(facts, "drift", "drift") if facts.spec.policy.drift else None


def regret(facts: Facts) -> Answer | None:
    """A newer model would have done better since the last training, by as much as a training costs."""
    if not (policy := facts.spec.policy.regret):
        return None
    starts = [interval.start for interval in facts.spec.intervals_until(facts.now) if interval.start >= facts.trained]
    ages, mature = {start: age for age, start in enumerate(starts)}, dataset.intervals(facts.mature)
    served = [accepted.batch.interval for accepted in facts.context.accepted]
    unlabelled = [ages[span.start] for span in served if span.start in ages and span not in mature]
    since = account(facts.context.signals, facts.champion.version, ages, unlabelled)
    if since is None:
        waits = f"; {len(unlabelled)} have no labels yet" if unlabelled else ""
        return Answer(False, f"regret: blind, nothing measured since the last training{waits}", counts=False)
    newest = "" if since.intervals == since.measured else f"the newest {since.intervals} of "
    total = since.regret + policy.horizon * since.following + since.waiting
    reason = (
        f"regret: {since.regret:.4f} over {newest}{since.measured} interval(s) since the last training"
        f" (window {since.window})"
        f" + {policy.horizon} x {since.following:.4f} ahead"
        + (f" + {since.waiting:.4f} for {len(unlabelled)} without labels yet" if unlabelled else "")
        + f" = {total:.4f} of an interval's loss; price {policy.price:g}"
    )
    return Answer(total >= policy.price, reason)


def performance(facts: Facts) -> Answer | None:
    """Realised performance fell, by labels that have matured."""
    return _alarms(facts, "performance", "realised") if facts.spec.policy.performance else None


def estimated_performance(facts: Facts) -> Answer | None:
    """Performance fell as it is estimated without labels."""
    return _alarms(facts, "estimated", "estimated") if facts.spec.policy.estimated else None


def age(facts: Facts) -> Answer | None:
    """The champion's newest training row is older than `policy.max_age`."""
    if not (oldest := facts.spec.policy.max_age):
        return None
    span = facts.now - facts.champion.trained_until
    return Answer(span >= oldest, f"age: newest training row is {_days(span)} old")


def new_data(facts: Facts) -> Answer | None:
    """Mature rows that are new make up a share of those that the champion was fitted on."""
    if not (wanted := facts.spec.policy.new_rows):
        return None
    rows = facts.champion.rows
    share = facts.new_rows / max(rows, 1)
    return Answer(share >= wanted, f"new data: {facts.new_rows:,} mature rows, {share:.0%} of the {rows:,} trained on")


RULES: dict[str, Callable[[Facts], Answer | None]] = {
    "schedule": schedule,
    "drift": drift,
    "regret": regret,
    "performance": performance,
    "estimated": estimated_performance,
    "age": age,
    "new data": new_data,
}
"""Name on record → rule, in the order in which they are asked and named as reasons."""


def _alarms(facts: Facts, rule: str, question: str) -> Answer:
    """Whether k of the last n signals are alarms; a training answers those that it could see.

    A later look at the same interval replaces the earlier one; what could not be told counts as no alarm.
    """
    k, n = facts.spec.policy.alarms
    trained = facts.context.last_training_at
    by_interval = {
        signal.interval.start: signal
        for signal in facts.context.signals
        if signal.question == question and (trained is None or signal.effective_at > trained)
    }
    last = [by_interval[start] for start in sorted(by_interval)][-n:]
    alarms = [signal for signal in last if signal.verdict == "alarm"]
    if not last:
        return Answer(False, f"{rule}: nothing said since the last training")
    if n == 1:
        return Answer(bool(alarms), f"{rule}: {last[-1].reason}")
    newest = f", the newest: {(alarms or last)[-1].reason}"
    reason = f"{rule}: {len(alarms)} alarm(s) among the last {len(last)}, {k} of {n} wanted{newest}"
    return Answer(len(alarms) >= k, reason)


def _until_labels(facts: Facts) -> str:
    """The labels that a drift alarm or an alert waits for."""
    immature = [accepted for accepted in facts.context.accepted if accepted.mature_at > facts.now]
    if (facts.drift.decision.verdict != "drift" and not facts.context.alert) or not immature:
        return ""
    first = min(immature, key=lambda accepted: accepted.mature_at)
    return (
        f"; the alarm stands until labels are mature: {first.batch.rows:,} rows of {first.batch.interval.name}"
        f" on {first.mature_at:%Y-%m-%d}"
    )


def _days(span: timedelta) -> str:
    return f"{span / timedelta(days=1):g} d"
