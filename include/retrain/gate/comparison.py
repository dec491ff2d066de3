"""The checks of a candidate against baselines, champion and reference champion, by their measured scores.

A check is passed, failed or undetermined, and only an explicit comparison of finite numbers passes. What is *new* has
to be shown better: where the bound is on a paired interval, `low > bound` shows that the check holds, `high <= bound`
shows that it does not, and anything between cannot be told from these rows (superiority and non-inferiority as in ICH
E9). Every bound has the level that evaluate paid for.

What serves already, *with newer rows* (a refresh, a recalibrated champion), is refused only where it is shown worse or
is worse by the margin at face value: a doubt about the configuration is no reason to keep it older.

Small losses, each within the margin, must not add up: a candidate is also held near the reference champion, the newest
champion that was shown to be better than the reference champion before it.

A champion that loses to a baseline at face value has lost its privilege (`retrain.gate.face_value`), and a baseline
that serves has none: then the best score serves, of candidates and baselines, and nothing has to be shown.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from retrain.data import dataset
from retrain.gate import checks, face_value
from retrain.gate.checks.holdout import CHAMPION, REFERENCE_CHAMPION, finite
from retrain.modeling import trainer
from retrain.results import Champion, Context, EvaluateReport, FittedModel, GateCheck, PairedGain, Slice, TrainReport
from retrain.spec import Spec

UNREACHABLE = 1_000
"""Beyond this multiple of the rows at hand nobody is told to wait for more."""


@dataclass(frozen=True)
class Comparison:
    """The reports of one run, and the checks of its candidates that follow from them.

    Attributes:
        spec: what the gate asks for.
        context: the champion, the reference champion, the blocklist and the accepted batches.
        train: the candidates and baselines.
        evaluate: what was measured of them on the holdout rows.
    """

    spec: Spec
    context: Context
    train: TrainReport
    evaluate: EvaluateReport

    def score(self, model: str) -> float | None:
        """The primary metric on the holdout rows; None where there is no finite one."""
        measured = self.evaluate.metrics.get(model, {}).get(self.spec.gate.metric)
        return None if measured is None else finite(measured.value)

    @property
    def lost_to(self) -> str:
        """The baseline that the champion loses to at face value; empty where it does not."""
        names = [CHAMPION, *(fitted.name for fitted in self.train.fitted if fitted.kind == "baseline")]
        return face_value.lost_to(self.spec, {name: self.score(name) for name in names})

    @property
    def at_face_value(self) -> bool:
        """Whether the best score serves, since the champion has no privilege."""
        return face_value.decides(self.context.champion, self.lost_to)

    def checks(self, candidate: FittedModel) -> Iterator[GateCheck]:
        """Every check of a candidate, in the order of the gate's table."""
        gate, champion, renews = self.spec.gate, self.context.champion, candidate.renews
        at_face_value = self.at_face_value
        yield _enough("rows", candidate, self.evaluate.rows, gate.min_rows, "labelled holdout rows")
        if not renews and not at_face_value:
            yield _enough("blocks", candidate, self.evaluate.blocks, gate.min_blocks, "independent blocks of rows")
        yield self._all_finite(candidate)
        if renews or at_face_value:
            yield self._not_below("naive", candidate, "the naive baseline")
        else:
            yield self._by_interval("naive", candidate, "the naive baseline")
        if renews and not at_face_value:
            yield self._not_shown_below("simple", candidate, "the simple baseline")
        elif not at_face_value:
            yield self._simple_baseline(candidate)
        yield from checks.checks(self.spec, self.evaluate, candidate)
        if champion is None:
            return
        yield self._another_model(candidate, champion)
        yield self._not_on_blocklist(candidate)
        label = f"champion v{champion.version}"
        if at_face_value:
            yield self._not_below(CHAMPION, candidate, label)
            return
        if renews:
            yield self._no_worse(CHAMPION, candidate, label)
        else:
            yield self._by_interval(CHAMPION, candidate, label)
        yield from self._by_companion(candidate, label)
        if reference_champion := self.context.other_reference_champion:
            yield self._no_creep(candidate, reference_champion)
        if not renews:
            yield from self._other_candidates(candidate)
        for part in self.evaluate.slices:
            yield self._slice(candidate, part)

    def becomes_reference(self, candidate: FittedModel) -> bool:
        """Whether later models are held against this one.

        The first is, one shown better than the reference champion, and one after which no other is left: the reference
        champion is lost, or the champion lost its privilege and this one scores no worse than the reference champion.
        """
        if self.context.champion is None or self.evaluate.lost:
            return True
        against = REFERENCE_CHAMPION if self.context.other_reference_champion else CHAMPION
        if self.at_face_value:
            return (self._gain(candidate, against) or 0.0) >= 0
        pair = self._paired(candidate, against)
        return pair is not None and pair.low > 0

    def _all_finite(self, candidate: FittedModel) -> GateCheck:
        names = [candidate.name, *(fitted.name for fitted in self.train.fitted if fitted.kind == "baseline")]
        names += [CHAMPION] if self.context.champion else []
        missing = [name for name in names if self.score(name) is None]
        reason = f"has no finite {self.spec.gate.metric} to compare: {', '.join(missing)}" if missing else "is finite"
        return GateCheck(name="finite", model=candidate.name, passed=None if missing else True, reason=reason)

    def _paired(self, candidate: FittedModel, against: str, metric: str = "") -> PairedGain | None:
        """The paired gain in the primary metric, or this one, where all of its numbers are finite."""
        for pair in self.evaluate.paired:
            numbers = (pair.gain, pair.low, pair.high, pair.within_low, pair.within_high)
            wanted = (pair.model, pair.against, pair.metric) == (
                candidate.name,
                against,
                metric or self.spec.gate.metric,
            )
            if wanted and all(map(math.isfinite, numbers)):
                return pair
        return None

    def _gain(self, candidate: FittedModel, against: str) -> float | None:
        """How much better a candidate scores at face value; None where there is nothing to compare."""
        score, other = self.score(candidate.name), self.score(against)
        return None if score is None or other is None else face_value.gain(self.spec, score, other)

    def _not_below(self, against: str, candidate: FittedModel, label: str) -> GateCheck:
        """Must not lose to `against` at face value."""
        gain = self._gain(candidate, against)
        if gain is None:
            reason = f"was not compared with {label}"
            return GateCheck(name=against, model=candidate.name, passed=None, reason=reason)
        answer = "does not lose to" if gain >= 0 else "loses to"
        reason = f"{answer} {label} at face value: {self._scores(candidate, against)}"
        return GateCheck(name=against, model=candidate.name, passed=gain >= 0, value=gain, bound=0.0, reason=reason)

    def _scores(self, candidate: FittedModel, against: str) -> str:
        """Both scores, for people."""
        return f"{self.spec.gate.metric} {self.score(candidate.name):.4g} against {self.score(against):.4g}"

    def _no_worse(self, against: str, candidate: FittedModel, label: str, *, shown: bool = True) -> GateCheck:
        """Must not be worse than `against` by more than the margin at face value, nor, if asked, be shown worse at all.

        Halfway between as good and worse by two margins is where a judge of one noisy gain errs least on either side.
        """
        pair, gain, score = self._paired(candidate, against), self._gain(candidate, against), self.score(against)
        if gain is None or score is None:
            reason = f"was not compared with {label}"
            return GateCheck(name=against, model=candidate.name, passed=None, reason=reason)
        bound = -self.spec.gate.margin * abs(score)
        worse = shown and pair is not None and pair.high < 0
        passed = gain >= bound and not worse
        answer = "is shown worse than" if worse else "is not worse than" if passed else "is worse by the margin than"
        reason = f"{answer} {label}: {_gain(pair) if pair else self._scores(candidate, against)}"
        return GateCheck(name=against, model=candidate.name, passed=passed, value=gain, bound=bound, reason=reason)

    def _by_companion(self, candidate: FittedModel, label: str) -> Iterator[GateCheck]:
        """Must not be shown worse by the margin in the metric that a few enormous losses cannot decide."""
        metric = self.spec.companion
        pair = self._paired(candidate, CHAMPION, metric) if metric else None
        if pair is None:
            return
        worse = pair.within_high <= 0
        reason = f"is {'' if worse else 'not '}shown worse by the margin than {label} by {metric}: {_gain(pair)}"
        yield GateCheck(
            name="companion", model=candidate.name, passed=not worse, value=pair.within_high, bound=0.0, reason=reason
        )

    def _by_interval(
        self, against: str, candidate: FittedModel, label: str, *, within_margin: bool = False
    ) -> GateCheck:
        """Better than `against`, or within the margin of it: shown, shown not to be, or open.

        The margin is a share of a score that is itself measured on these rows; the interval has both.
        """
        pair = self._paired(candidate, against)
        score = self.score(against)
        if pair is None or score is None:
            reason = f"was not compared with {label}"
            return GateCheck(name=against, model=candidate.name, passed=None, reason=reason)
        granted = self.spec.gate.margin * abs(score) if within_margin else 0.0
        low, high = (pair.within_low, pair.within_high) if within_margin else (pair.low, pair.high)
        passed = True if low > 0 else False if high <= 0 else None
        wanted = f"within {granted:.4g} of" if within_margin else "better than"
        answer = {True: f"is {wanted}", False: f"is not {wanted}", None: f"may or may not be {wanted}"}[passed]
        reason = f"{answer} {label}: {_gain(pair)}"
        if passed is None:
            reason += f"; {_rows_to_settle(pair.gain + granted, low, high, self.evaluate.rows)}"
        value, bound = low - granted, 0.0 - granted
        return GateCheck(name=against, model=candidate.name, passed=passed, value=value, bound=bound, reason=reason)

    def _no_creep(self, candidate: FittedModel, reference_champion: Champion) -> GateCheck:
        """Not creeping away from the reference champion: within the margin of it, or no step below the champion.

        What is new must be shown to be within the margin, of what renews the face value decides. Who is shown not to be
        worse than the champion has used no margin, so it adds nothing to a creep that these rows are too few to see,
        and keeping the champion would not undo one. Being shown worse than the reference champion stops everybody; a
        reference champion that is lost stops nobody.
        """
        label = f"the reference champion v{reference_champion.version}"
        if self.evaluate.lost:
            reason = (
                f"the reference champion, v{reference_champion.version}, is lost;"
                f" the version that is promoted takes its place: {self.evaluate.lost}"
            )
            return GateCheck(name=REFERENCE_CHAMPION, model=candidate.name, passed=True, reason=reason)
        check = self._by_interval(REFERENCE_CHAMPION, candidate, label, within_margin=True)
        if candidate.renews and check.passed is None:
            check = self._no_worse(REFERENCE_CHAMPION, candidate, label, shown=False)
        pair, step = self._paired(candidate, REFERENCE_CHAMPION), self._paired(candidate, CHAMPION)
        if not check.passed and pair and pair.within_high > 0 and step and step.low >= 0:
            reason = f"{check.reason.partition(';')[0]}; it is no step below the champion"
            return check.model_copy(update={"passed": True, "reason": reason})
        return check

    def _simple_baseline(self, candidate: FittedModel) -> GateCheck:
        """Must not lose to the simple baseline. A tie is fine: the candidate may be that very model."""
        pair = self._paired(candidate, "simple")
        if pair is not None and pair.gain >= 0:
            reason = f"does not lose to the simple baseline: {_gain(pair)}"
            return GateCheck(
                name="simple", model=candidate.name, passed=True, value=pair.gain, bound=0.0, reason=reason
            )
        return self._by_interval("simple", candidate, "the simple baseline", within_margin=True)

    def _not_shown_below(self, against: str, candidate: FittedModel, label: str) -> GateCheck:
        """Must not be shown to lose to `against` by the margin."""
        pair, score = self._paired(candidate, against), self.score(against)
        if score is None:
            reason = f"was not compared with {label}"
            return GateCheck(name=against, model=candidate.name, passed=None, reason=reason)
        if pair is None:
            reason = f"has no interval against {label}"
            return GateCheck(name=against, model=candidate.name, passed=None, binding=False, reason=reason)
        bound = -self.spec.gate.margin * abs(score)
        worse = pair.within_high <= 0
        answer = "loses to" if worse else "is not shown to lose to"
        return GateCheck(
            name=against,
            model=candidate.name,
            passed=not worse,
            value=pair.within_high + bound,
            bound=bound,
            reason=f"{answer} {label}: {_gain(pair)}",
        )

    def _refit_rows(self, candidate: FittedModel) -> str:
        """Digest of the rows that the refit would read; they have the holdout rows too."""
        training, holdout = dataset.split(self.context, self.spec)
        return trainer.training_digest((*training, *holdout), candidate.configuration)

    def _not_on_blocklist(self, candidate: FittedModel) -> GateCheck:
        """A model that was taken back must not come back by another run."""
        training = self._refit_rows(candidate)
        for blocked in self.context.blocklist:
            if (blocked.configuration, blocked.training) == (candidate.configuration, training):
                reason = f"would be v{blocked.version} again, which is blocked: {blocked.reason}"
                return GateCheck(name="blocklist", model=candidate.name, passed=False, reason=reason)
        reason = "is no model that was taken back"
        return GateCheck(name="blocklist", model=candidate.name, passed=True, reason=reason)

    def _another_model(self, candidate: FittedModel, champion: Champion) -> GateCheck:
        same = self._refit_rows(candidate) == champion.training and candidate.configuration == champion.configuration
        again = "is the champion's configuration on the champion's rows: the same model again is no promotion"
        reason = again if same else "is another model than the champion"
        return GateCheck(name="another", model=candidate.name, passed=not same, reason=reason)

    def _other_candidates(self, candidate: FittedModel) -> Iterator[GateCheck]:
        """A new configuration must also be at least as good as the old one on the same newer rows.

        One on the rows since a change must also be as good as the new one on all rows.
        """
        score = self.score(candidate.name)
        labels = {
            "refresh": "the refreshed champion",
            "recalibrated": "the recalibrated",
            "new": "the same on all rows",
        }
        for other in self.train.fitted:
            gain, other_score = self._gain(candidate, other.name), self.score(other.name)
            compared = other.renews or (other.name, candidate.name) == ("new", "changed")
            if not compared or gain is None:
                continue
            yield GateCheck(
                name=other.name,
                model=candidate.name,
                passed=gain >= 0,
                value=gain,
                bound=0.0,
                reason=f"scores {score:.4g}, {labels[other.name]} {other_score:.4g}",
            )

    def _slice(self, candidate: FittedModel, part: Slice) -> GateCheck:
        """Must not fall behind the champion on a slice by more than `gate.slice_margin`."""
        name, place = f"slice {part.column}={part.value}", f"{part.rows} rows of {part.column}={part.value}"
        score, champion = finite(part.scores.get(candidate.name)), finite(part.scores.get(CHAMPION))
        fewest = self.spec.gate.slice_min_rows
        if part.rows < fewest or score is None or champion is None:
            reason = f"has {place}, {fewest} with a defined score are needed to tell"
            return GateCheck(name=name, model=candidate.name, passed=None, reason=reason)
        gain = face_value.gain(self.spec, score, champion)
        bound = -self.spec.gate.slice_margin * abs(champion)
        reason = f"scores {score:.4g} on {place}, the champion {champion:.4g}"
        return GateCheck(name=name, model=candidate.name, passed=gain >= bound, value=gain, bound=bound, reason=reason)


def _enough(name: str, candidate: FittedModel, count: int, fewest: int, unit: str) -> GateCheck:
    enough = count >= fewest
    return GateCheck(
        name=name,
        model=candidate.name,
        passed=True if enough else None,
        value=float(count),
        bound=float(fewest),
        reason=f"is judged on {count:,} {unit}, {fewest:,} are needed",
    )


def _gain(pair: PairedGain) -> str:
    gain, low, high = (value + 0.0 for value in (pair.gain, pair.low, pair.high))  # no negative zero
    return f"{pair.metric} gain {gain:+.4g}, {100 * (1 - 2 * pair.level):.4g}% interval {low:+.4g} to {high:+.4g}"


def _rows_to_settle(distance: float, low: float, high: float, rows: int) -> str:
    """Roughly how many rows would do at the same level: intervals narrow with the square root of the blocks."""
    width = distance - low if distance > 0 else high - distance
    times = (width / distance) ** 2 if distance else math.inf
    if times > UNREACHABLE:
        return "no reachable number of rows would settle it"
    return f"some {float(f'{rows * times:.2g}'):,.0f} rows like these would settle it"
