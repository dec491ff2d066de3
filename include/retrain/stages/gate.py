"""May the candidate serve? Read from recorded facts, never from data.

A check is passed, failed or undetermined, and only an explicit comparison of finite numbers passes. Where the
bound is on a paired interval, `low > bound` shows that the check holds, `high <= bound` shows that it does not,
and anything between cannot be told from these rows (superiority and non-inferiority as in ICH E9). Every bound has the
level that evaluate paid for. A candidate has to pass all of its checks, which costs no level (intersection-union test,
Berger 1982).

Small losses, each within the margin, must not add up: a candidate is also held within the margin of the reference
champion, the newest champion that was shown to be better than the reference champion before it.

A candidate with every check passed is promoted, a new configuration before a refresh. If none is, but one has
nothing against it except what cannot be told, the answer is inconclusive; else the champion is kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from retrain.data import dataset
from retrain.gate import checks
from retrain.results import (
    Champion,
    Context,
    Decision,
    EvaluateReport,
    Fitted,
    GateCheck,
    GateReport,
    Paired,
    TrainReport,
)
from retrain.spec import Spec
from retrain.state.run import Run

CHAMPION, REFERENCE_CHAMPION = "champion", "reference_champion"
FAR = 1_000
"""Beyond this multiple of the rows at hand nobody is told to wait for more."""


def gate(run: Run) -> GateReport:
    """The verdict of this run, with every check that led to it."""
    return judge(
        run.spec,
        run.read(Context, "context"),
        run.read(TrainReport, "train"),
        run.read(EvaluateReport, "evaluate"),
    )


def judge(spec: Spec, context: Context, train: TrainReport, evaluate: EvaluateReport) -> GateReport:
    """A pure function of the spec and the run's reports; no data is read.

    Returns:
        promote, keep or inconclusive; `chosen` is the candidate that the verdict is about, whatever it says.
    """
    facts = _Facts(spec, context, train, evaluate)
    candidates = _candidates(spec, context, train)
    checks: dict[str, list[GateCheck]] = {}
    chosen: Fitted | None = None
    if not candidates:
        decision = Decision(verdict="keep", reasons=("training brought no candidate",))
    elif evaluate.decision.verdict != "measured":
        chosen, decision = candidates[0], Decision(verdict="inconclusive", reasons=evaluate.decision.reasons)
    else:
        checks = {one.name: list(facts.checks(one)) for one in candidates}
        chosen, decision = _decide(candidates, checks)
    kind: Literal["first", "refresh", "new"] | None = None
    if chosen is not None:
        kind = "first" if context.champion is None else "refresh" if chosen.kind == "refresh" else "new"
    return GateReport(
        model=spec.model,
        interval=context.interval,
        effective_at=context.effective_at,
        decision=decision,
        chosen=chosen and chosen.name,
        kind=kind,
        metric=spec.gate.metric,
        challenger_score=chosen and facts.score(chosen.name),
        champion_score=facts.score(CHAMPION),
        becomes_reference=chosen is not None and decision.verdict == "promote" and facts.becomes_reference(chosen),
        checks=tuple(check for each in checks.values() for check in each),
    )


def _candidates(spec: Spec, context: Context, train: TrainReport) -> list[Fitted]:
    """In the order in which they are asked, the rows since a change first; without a champion only the best by its
    inner score."""
    sign = -1.0 if spec.greater_is_better else 1.0

    def inner(one: Fitted) -> float:
        if one.name == "changed":
            return -math.inf
        return math.inf if one.inner_score is None else sign * one.inner_score

    new = sorted((one for one in train.fitted if one.kind == "new"), key=inner)
    if context.champion is None:
        return new[:1]
    return [*new, *(one for one in train.fitted if one.kind == "refresh")]


def _decide(candidates: list[Fitted], checks: dict[str, list[GateCheck]]) -> tuple[Fitted, Decision]:
    def against(one: Fitted) -> list[GateCheck]:
        # A slice that is too small to tell says nothing against the model.
        return [
            c
            for c in checks[one.name]
            if c.binding and (c.passed is False or (c.passed is None and not c.name.startswith("slice")))
        ]

    for one in candidates:
        if not against(one):
            by_name = {check.name: f"{one.name} {check.reason}" for check in checks[one.name]}
            why = tuple(by_name[name] for name in (CHAMPION, REFERENCE_CHAMPION, "naive", "simple") if name in by_name)
            return one, Decision(verdict="promote", reasons=why)
    open_ = [one for one in candidates if all(check.passed is None for check in against(one))]
    reasons = []
    for one in open_ or candidates:
        failed = [check for check in against(one) if check.passed is False]
        reasons += [f"{one.name} {check.reason}" for check in failed or against(one)]
    return (open_ or candidates)[0], Decision(verdict="inconclusive" if open_ else "keep", reasons=tuple(reasons[:12]))


@dataclass(frozen=True)
class _Facts:
    """The reports, and the checks that follow from them."""

    spec: Spec
    context: Context
    train: TrainReport
    evaluate: EvaluateReport

    def score(self, model: str) -> float | None:
        """The primary metric on the holdout rows; None where there is no finite one."""
        measured = self.evaluate.metrics.get(model, {}).get(self.spec.gate.metric)
        value = None if measured is None else measured.value
        return value if value is not None and math.isfinite(value) else None

    def checks(self, one: Fitted) -> Iterator[GateCheck]:
        gate, champion = self.spec.gate, self.context.champion
        yield _enough("rows", one.name, self.evaluate.rows, gate.min_rows, "labelled holdout rows")
        yield _enough("blocks", one.name, self.evaluate.blocks, gate.min_blocks, "independent blocks of rows")
        yield self._all_finite(one)
        if one.kind == "refresh":
            yield self._not_worse("naive", one)
            yield self._not_worse("simple", one)
        else:
            yield self._interval("naive", one, "naive", "the naive baseline")
            yield self._simple(one)
        yield from checks.checks(self.spec, self.evaluate, one)
        if champion is None:
            return
        yield self._another(one, champion)
        yield self._blocklist(one)
        yield self._interval(CHAMPION, one, CHAMPION, f"champion v{champion.version}", within=one.kind == "refresh")
        if reference := self.context.other_reference_champion:
            yield self._reference(one, reference)
        if one.kind != "refresh":
            yield from self._refresh(one)
        for part in self.evaluate.slices:
            yield self._slice(one, part.column, part.value, part.rows, part.scores)

    def _all_finite(self, one: Fitted) -> GateCheck:
        names = [one.name, *(base.name for base in self.train.fitted if base.kind == "baseline")]
        names += [CHAMPION] if self.context.champion else []
        missing = [name for name in names if self.score(name) is None]
        reason = f"has no finite {self.spec.gate.metric} to compare: {', '.join(missing)}" if missing else "is finite"
        return GateCheck(name="finite", model=one.name, passed=None if missing else True, reason=reason)

    def _paired(self, one: Fitted, against: str) -> Paired | None:
        for pair in self.evaluate.paired:
            told = (pair.gain, pair.low, pair.high, pair.within_low, pair.within_high)
            wanted = (pair.model, pair.against, pair.metric) == (one.name, against, self.spec.gate.metric)
            if wanted and all(map(math.isfinite, told)):
                return pair
        return None

    def _interval(self, name: str, one: Fitted, against: str, shown: str, *, within: bool = False) -> GateCheck:
        """Better than `against`, or within the margin of it: shown, shown not to be, or open.

        The margin is a share of a score that is itself measured on these rows; the interval has both.
        """
        pair = self._paired(one, against)
        score = self.score(against)
        if pair is None or score is None:
            return GateCheck(name=name, model=one.name, passed=None, reason=f"was not compared with {shown}")
        granted = self.spec.gate.margin * abs(score) if within else 0.0
        low, high = (pair.within_low, pair.within_high) if within else (pair.low, pair.high)
        passed = True if low > 0 else False if high <= 0 else None
        wanted = f"within {granted:.4g} of" if within else "better than"
        says = {True: f"is {wanted}", False: f"is not {wanted}", None: f"may or may not be {wanted}"}[passed]
        reason = f"{says} {shown}: {_shown(pair)}"
        if passed is None:
            reason += f"; {_to_settle(pair.gain + granted, low, high, self.evaluate.rows)}"
        value, bound = low - granted, 0.0 - granted
        return GateCheck(name=name, model=one.name, passed=passed, value=value, bound=bound, reason=reason)

    def _reference(self, one: Fitted, reference: Champion) -> GateCheck:
        """Not creeping away from the reference champion: within the margin of it, or no step below the champion.

        Who is shown not to be worse than the champion has used no margin, so it adds nothing to a creep that these rows
        are too few to see, and keeping the champion would not undo one. Being shown worse than the reference champion
        stops everybody; a reference champion that is lost stops nobody.
        """
        if self.evaluate.lost:
            moved = (
                f"the reference champion, v{reference.version}, is lost; the version that is promoted takes its place"
            )
            return GateCheck(
                name=REFERENCE_CHAMPION, model=one.name, passed=True, reason=f"{moved}: {self.evaluate.lost}"
            )
        check = self._interval(
            REFERENCE_CHAMPION,
            one,
            REFERENCE_CHAMPION,
            f"the reference champion v{reference.version}",
            within=True,
        )
        pair, step = self._paired(one, REFERENCE_CHAMPION), self._paired(one, CHAMPION)
        if check.passed is None and pair and step and step.low >= 0:
            reason = f"{check.reason.partition(';')[0]}; it is no step below the champion"
            return check.model_copy(update={"passed": True, "reason": reason})
        return check

    def becomes_reference(self, one: Fitted) -> bool:
        """Whether later models are held against this one: the first, one shown better, or the reference is lost."""
        if self.context.champion is None or self.evaluate.lost:
            return True
        pair = self._paired(one, REFERENCE_CHAMPION if self.context.other_reference_champion else CHAMPION)
        return pair is not None and pair.low > 0

    def _simple(self, one: Fitted) -> GateCheck:
        """Must not lose to the simple baseline. A tie is fine: the candidate may be that very model."""
        pair = self._paired(one, "simple")
        if pair is not None and pair.gain >= 0:
            reason = f"does not lose to the simple baseline: {_shown(pair)}"
            return GateCheck(name="simple", model=one.name, passed=True, value=pair.gain, bound=0.0, reason=reason)
        return self._interval("simple", one, "simple", "the simple baseline", within=True)

    def _not_worse(self, baseline: str, one: Fitted) -> GateCheck:
        """A refresh is stopped by a baseline only when it is shown to lose to it.

        What would go on serving is the same configuration on older rows, not the baseline: a doubt about the
        configuration is no reason to keep it older. Being shown worse is, since then a person should look.
        """
        pair = self._paired(one, baseline)
        if pair is None:
            reason = f"was not compared with the {baseline} baseline"
            return GateCheck(name=baseline, model=one.name, passed=None, reason=reason)
        bound = -self.spec.gate.margin * abs(self.score(baseline) or 0.0)
        worse = pair.within_high <= 0
        says = "loses to" if worse else "is not shown to lose to"
        reason = f"{says} the {baseline} baseline: {_shown(pair)}"
        return GateCheck(
            name=baseline, model=one.name, passed=not worse, value=pair.within_high + bound, bound=bound, reason=reason
        )

    def _refit(self, one: Fitted) -> str:
        """Digest of the rows that the refit would read; they have the holdout rows too."""
        training, holdout = dataset.split(self.context, self.spec)
        mature = (*training, *holdout)
        window, since = one.configuration.window, one.configuration.since
        batches = [batch for batch in mature if since is None or batch.batch.interval.start >= since]
        return dataset.training_digest(batches if window is None else batches[-window:])

    def _blocklist(self, one: Fitted) -> GateCheck:
        """A model that was taken back must not come back by another run."""
        digest = self._refit(one)
        for blocked in self.context.blocklist:
            if (blocked.configuration, blocked.training) == (one.configuration, digest):
                reason = f"would be v{blocked.version} again, which is blocked: {blocked.reason}"
                return GateCheck(name="blocklist", model=one.name, passed=False, reason=reason)
        return GateCheck(name="blocklist", model=one.name, passed=True, reason="is no model that was taken back")

    def _another(self, one: Fitted, champion: Champion) -> GateCheck:
        same = self._refit(one) == champion.training and one.configuration == champion.configuration
        again = "is the champion's configuration on the champion's rows: the same model again is no promotion"
        reason = again if same else "is another model than the champion"
        return GateCheck(name="another", model=one.name, passed=not same, reason=reason)

    def _refresh(self, one: Fitted) -> Iterator[GateCheck]:
        """A new configuration must also be at least as good as the old one on the same newer rows; one on the rows
        since a change also as good as the new one on all of them."""
        sign = 1.0 if self.spec.greater_is_better else -1.0
        mine = self.score(one.name)
        shown = {"refresh": "the refreshed champion", "new": "the same on all rows"}
        for other in self.train.fitted:
            theirs = self.score(other.name)
            asked = other.kind == "refresh" or (other.name, one.name) == ("new", "changed")
            if not asked or mine is None or theirs is None:
                continue
            gain = sign * (mine - theirs)
            yield GateCheck(
                name=other.name,
                model=one.name,
                passed=gain >= 0,
                value=gain,
                bound=0.0,
                reason=f"scores {mine:.4g}, {shown[other.name]} {theirs:.4g}",
            )

    def _slice(self, one: Fitted, column: str, value: str, count: int, scores: dict[str, float | None]) -> GateCheck:
        name, mine, theirs = f"slice {column}={value}", scores.get(one.name), scores.get(CHAMPION)
        floor = self.spec.gate.slice_min_rows
        if count < floor or mine is None or theirs is None or not math.isfinite(mine) or not math.isfinite(theirs):
            why = f"has {count} rows of {column}={value}, {floor} with a defined score are needed to tell"
            return GateCheck(name=name, model=one.name, passed=None, reason=why)
        gain = mine - theirs if self.spec.greater_is_better else theirs - mine
        bound = -self.spec.gate.slice_margin * abs(theirs)
        reason = f"scores {mine:.4g} on {count} rows of {column}={value}, the champion {theirs:.4g}"
        return GateCheck(name=name, model=one.name, passed=gain >= bound, value=gain, bound=bound, reason=reason)


def _enough(name: str, model: str, found: int, floor: int, what: str) -> GateCheck:
    enough = found >= floor
    return GateCheck(
        name=name,
        model=model,
        passed=True if enough else None,
        value=float(found),
        bound=float(floor),
        reason=f"is judged on {found:,} {what}, {floor:,} are needed",
    )


def _shown(pair: Paired) -> str:
    gain, low, high = (value + 0.0 for value in (pair.gain, pair.low, pair.high))  # no negative zero
    return f"{pair.metric} gain {gain:+.4g}, {100 * (1 - 2 * pair.level):.4g}% interval {low:+.4g} to {high:+.4g}"


def _to_settle(distance: float, low: float, high: float, found: int) -> str:
    """Roughly how many rows would do, asked at the same level: intervals narrow with the square root of the blocks."""
    width = distance - low if distance > 0 else high - distance
    times = (width / distance) ** 2 if distance else math.inf
    if times > FAR:
        return "no reachable number of rows would settle it"
    return f"some {float(f'{found * times:.2g}'):,.0f} rows like these would settle it"
