"""A spec in words, for a person who has not read it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import get_args

from retrain.spec import Action, Recency, Spec, Window


def describe_spec(spec: Spec) -> Iterator[str]:
    """The spec in some fifteen lines, for a person who has not read it."""
    yield f"{spec.model} · {spec.objective}"
    for name, fact in _facts(spec):
        yield f"  {name:<10} {fact}"


def _facts(spec: Spec) -> Iterator[tuple[str, str]]:
    training, evaluation = spec.training, spec.evaluation
    yield "owner", f"{spec.owner.name} <{spec.owner.contact}>"
    yield "task", f"{spec.task}: {_target(spec)}"
    until = f" until {spec.interval.end:%Y-%m-%d}" if spec.interval.end else ""
    ended = sum(1 for _ in spec.intervals_until(datetime.now(UTC)))
    yield "intervals", f"every {spec.interval.every} from {spec.interval.start:%Y-%m-%d}{until}: {ended:,} have ended"
    yield "source", _source(spec)
    yield "columns", f"{len(spec.delivered)}, of them {_features(spec)}"
    named = len(spec.quality.expectations)
    yield "quality", f"at least {spec.quality.min_rows:,} rows, each column's own contract, {named} more expectation(s)"
    yield "labels", _labels(spec)
    yield "candidates", f"{', '.join(candidate.estimator for candidate in training.candidates)}; {_search(spec)}"
    windows = [_window(window) for window in training.windows]
    yield "windows", f"{' or '.join(windows)} intervals to train on"
    yield "first", f"after {max(training.first_after, evaluation.holdout + 1)} intervals with mature labels"
    yield "retrain", _policy(spec)
    yield "gate", _gate(spec)
    yield "promotion", _promotion(spec)
    if who := {action: spec.access.of(action) for action in get_args(Action) if spec.access.of(action)}:
        yield "access", "; ".join(f"{action}: {', '.join(names)}" for action, names in who.items())


def _window(window: Window) -> str:
    if isinstance(window, Recency):
        return f"all, with half the weight every {duration(window.half_life)},"
    return {"all": "all", "change": "since a change"}.get(str(window), f"newest {window}")


def _target(spec: Spec) -> str:
    target = spec.target
    if spec.task == "regression":
        return f"the number {target.column}"
    if target.at_least is not None:
        return f"whether {target.column} is at least {target.at_least:g}"
    if spec.task == "binary":
        return f"{target.column}, where {spec.classes[-1]} is the positive class and {spec.classes[0]} the other"
    return f"{target.column}, one of {_some(list(map(str, spec.classes)))}"


def _source(spec: Spec) -> str:
    source = spec.source
    where = source.path or f"SQL through {f'the connection {source.connection}' if source.connection else 'source.url'}"
    wait = f"; waited for {duration(source.wait)}" if source.wait else ""
    return f"{where}; placed in time by {source.time}, identified by {' and '.join(source.key)}{wait}"


def _labels(spec: Spec) -> str:
    labels, come = spec.labels, "with the rows"
    if labels.source != "same":
        sql = f"SQL through {f'the connection {labels.source.connection}' if labels.source.connection else 'its url'}"
        enough = f", from {_share(labels.min_coverage)} of the rows on" if labels.min_coverage else ""
        come = f"apart from {labels.source.path or sql}, by {' and '.join(spec.source.key)}{enough}"
    later = f"{duration(labels.mature_after)} after" if labels.mature_after else "at"
    return f"in {spec.target.column}, {come}; mature {later} the interval's end; a missing label is no answer, not a no"


def _features(spec: Spec) -> str:
    kinds = Counter(spec.columns[name].type for name in spec.features)
    features = f"{len(spec.features)} features ({', '.join(f'{count} {kind}' for kind, count in kinds.most_common())})"
    parts = [f"{part} of {name}" for name, of in spec.training.date_parts.items() for part in of]
    added = list(spec.training.features.adds) if spec.training.features else []
    return features + (f"; {_some(parts)}" if parts else "") + (f"; its own {_some(added)}" if added else "")


def _search(spec: Spec) -> str:
    search = spec.training.search
    if not any(candidate.search for candidate in spec.training.candidates) and len(spec.training.windows) == 1:
        return "nothing to tune"
    return f"{search.method} search, {search.trials} trial(s) each, {search.folds} folds by {search.split}"


def _policy(spec: Spec) -> str:
    policy = spec.policy
    interval = spec.interval.every
    every = interval if policy.schedule == 1 else f"{policy.schedule} {interval}s"
    yes = [f"every {every}"] if policy.schedule else []
    yes += ["on drift"] if policy.drift else []
    if policy.regret:
        yes += [f"when a newer model would have saved {_share(policy.regret.price)} of the loss of one {interval}"]
    yes += ["when labels show a fall"] if policy.performance else []
    yes += ["when the estimate shows one"] if policy.estimated else []
    yes += [f"when the newest training row is {duration(policy.max_age)} old"] if policy.max_age else []
    no = [f"{policy.min_new_rows:,} new mature row(s)"]
    no += [f"{duration(policy.cooldown)} since the last training"] if policy.cooldown else []
    return f"{' or '.join(yes) or 'only by hand'}, given {' and '.join(no)}"


def _gate(spec: Spec) -> str:
    gate, evaluation = spec.gate, spec.evaluation
    better = "greater" if spec.greater_is_better else "smaller"
    bounds = [f"{limited.about} {limited.bound}" for limited in gate.limited]
    limits = f"; never serves without {_some(bounds)}" if bounds else ""
    slices = f"; no slice of {_some(list(evaluation.slices))} worse by {_share(gate.slice_margin)}"
    return (
        f"{gate.metric}, {better} is better, on the newest {evaluation.holdout} interval(s); blocks of"
        f" {evaluation.block}; wrong in at most {_share(gate.level)} of the runs; a refresh may be worse by"
        f" {_share(gate.margin)}, a new one must be better{slices if evaluation.slices else ''}; from"
        f" {gate.min_rows:,} rows in {gate.min_blocks} blocks on{limits}"
    )


def _promotion(spec: Spec) -> str:
    rules = spec.promotion
    shares = " then ".join(_share(step) for step in rules.steps)
    way = {
        "auto": "at once",
        "approve": f"after a person's word, within {duration(rules.approval.expires)}, else {rules.approval.otherwise}",
        "shadow": f"after scoring beside the champion for {rules.intervals} interval(s)",
        "canary": f"after answering {shares} of the rows, {rules.intervals} interval(s) each",
    }[rules.mode]
    watch = rules.watch.intervals
    return f"{way}; then watched beside its predecessor for {watch} interval(s)" if watch else f"{way}; not watched"


def _share(share: float) -> str:
    return f"{share * 100:.3g}%"


def _some(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" … and {len(names) - 8} more" if len(names) > 8 else "")


def duration(length: timedelta) -> str:
    """A duration as the spec writes it, in the largest unit that fits.

    >>> duration(timedelta(days=14)), duration(timedelta(hours=36))
    ('2w', '36h')
    """
    for unit, size in {"w": timedelta(weeks=1), "d": timedelta(days=1), "h": timedelta(hours=1)}.items():
        if length and not length % size:
            return f"{length // size}{unit}"
    return f"{length // timedelta(minutes=1)}m"
