"""The checks of a candidate against baselines, champion and reference champion, by their measured scores.

A check is passed, failed or undetermined, and only an explicit comparison of finite numbers passes. Where the
bound is on a paired interval, `low > bound` shows that the check holds, `high <= bound` shows that it does not,
and anything between cannot be told from these rows (superiority and non-inferiority as in ICH E9). Every bound has the
level that evaluate paid for.

Small losses, each within the margin, must not add up: a candidate is also held within the margin of the reference
champion, the newest champion that was shown to be better than the reference champion before it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from retrain.data import dataset
from retrain.gate import checks
from retrain.gate.checks.holdout import CHAMPION, REFERENCE_CHAMPION, finite
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

    def checks(self, candidate: FittedModel) -> Iterator[GateCheck]:
        """Every check of a candidate, in the order of the gate's table."""
        gate, champion = self.spec.gate, self.context.champion
        refresh = candidate.kind == "refresh"
        yield _enough("rows", candidate, self.evaluate.rows, gate.min_rows, "labelled holdout rows")
        yield _enough("blocks", candidate, self.evaluate.blocks, gate.min_blocks, "independent blocks of rows")
        yield self._all_finite(candidate)
        if refresh:
            yield self._does_not_lose("naive", candidate)
            yield self._does_not_lose("simple", candidate)
        else:
            yield self._by_interval("naive", candidate, "the naive baseline")
            yield self._simple_baseline(candidate)
        yield from checks.checks(self.spec, self.evaluate, candidate)
        if champion is None:
            return
        yield self._another_model(candidate, champion)
        yield self._not_on_blocklist(candidate)
        yield self._by_interval(CHAMPION, candidate, f"champion v{champion.version}", within_margin=refresh)
        if reference_champion := self.context.other_reference_champion:
            yield self._no_creep(candidate, reference_champion)
        if not refresh:
            yield from self._other_candidates(candidate)
        for part in self.evaluate.slices:
            yield self._slice(candidate, part)

    def becomes_reference(self, candidate: FittedModel) -> bool:
        """Whether later models are held against this one: the first, one shown better, or the reference is lost."""
        if self.context.champion is None or self.evaluate.lost:
            return True
        pair = self._paired(candidate, REFERENCE_CHAMPION if self.context.other_reference_champion else CHAMPION)
        return pair is not None and pair.low > 0

    def _all_finite(self, candidate: FittedModel) -> GateCheck:
        names = [candidate.name, *(fitted.name for fitted in self.train.fitted if fitted.kind == "baseline")]
        names += [CHAMPION] if self.context.champion else []
        missing = [name for name in names if self.score(name) is None]
        reason = f"has no finite {self.spec.gate.metric} to compare: {', '.join(missing)}" if missing else "is finite"
        return GateCheck(name="finite", model=candidate.name, passed=None if missing else True, reason=reason)

    def _paired(self, candidate: FittedModel, against: str) -> PairedGain | None:
        """The paired gain in the primary metric, where all of its numbers are finite."""
        for pair in self.evaluate.paired:
            numbers = (pair.gain, pair.low, pair.high, pair.within_low, pair.within_high)
            wanted = (pair.model, pair.against, pair.metric) == (candidate.name, against, self.spec.gate.metric)
            if wanted and all(map(math.isfinite, numbers)):
                return pair
        return None

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

        Who is shown not to be worse than the champion has used no margin, so it adds nothing to a creep that these rows
        are too few to see, and keeping the champion would not undo one. Being shown worse than the reference champion
        stops everybody; a reference champion that is lost stops nobody.
        """
        label = f"the reference champion v{reference_champion.version}"
        if self.evaluate.lost:
            reason = (
                f"the reference champion, v{reference_champion.version}, is lost;"
                f" the version that is promoted takes its place: {self.evaluate.lost}"
            )
            return GateCheck(name=REFERENCE_CHAMPION, model=candidate.name, passed=True, reason=reason)
        check = self._by_interval(REFERENCE_CHAMPION, candidate, label, within_margin=True)
        pair, step = self._paired(candidate, REFERENCE_CHAMPION), self._paired(candidate, CHAMPION)
        if check.passed is None and pair and step and step.low >= 0:
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

    def _does_not_lose(self, baseline: str, refresh: FittedModel) -> GateCheck:
        """A refresh is stopped by a baseline only when it is shown to lose to it.

        What would go on serving is the same configuration on older rows, not the baseline: a doubt about the
        configuration is no reason to keep it older. Being shown worse is, since then a person should look.
        """
        pair = self._paired(refresh, baseline)
        if pair is None:
            reason = f"was not compared with the {baseline} baseline"
            return GateCheck(name=baseline, model=refresh.name, passed=None, reason=reason)
        bound = -self.spec.gate.margin * abs(self.score(baseline) or 0.0)
        worse = pair.within_high <= 0
        answer = "loses to" if worse else "is not shown to lose to"
        return GateCheck(
            name=baseline,
            model=refresh.name,
            passed=not worse,
            value=pair.within_high + bound,
            bound=bound,
            reason=f"{answer} the {baseline} baseline: {_gain(pair)}",
        )

    def _refit_rows(self, candidate: FittedModel) -> str:
        """Digest of the rows that the refit would read; they have the holdout rows too."""
        training, holdout = dataset.split(self.context, self.spec)
        mature = (*training, *holdout)
        window, since = candidate.configuration.window, candidate.configuration.since
        batches = [accepted for accepted in mature if since is None or accepted.batch.interval.start >= since]
        return dataset.training_digest(batches if window is None else batches[-window:])

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
        sign = 1.0 if self.spec.greater_is_better else -1.0
        score = self.score(candidate.name)
        labels = {"refresh": "the refreshed champion", "new": "the same on all rows"}
        for other in self.train.fitted:
            other_score = self.score(other.name)
            compared = other.kind == "refresh" or (other.name, candidate.name) == ("new", "changed")
            if not compared or score is None or other_score is None:
                continue
            gain = sign * (score - other_score)
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
        gain = score - champion if self.spec.greater_is_better else champion - score
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
