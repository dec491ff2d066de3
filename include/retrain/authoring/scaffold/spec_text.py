"""The proposals as commented YAML, safe against whatever stands in foreign headers and values."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import yaml

from retrain.authoring.scaffold.intervals import ProposedIntervals
from retrain.authoring.scaffold.proposal import Proposal
from retrain.spec import BY_INTERVAL, METRICS, CsvDialect


class _Dumper(yaml.SafeDumper):
    """One line a value, whatever is in it."""


def _represent_text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=None if value.isprintable() else '"')


_Dumper.add_representer(str, _represent_text)


def flow(value: Any) -> str:
    r"""A value as YAML on one line; names from foreign headers are quoted where YAML needs it.

    >>> flow({"a: b": ["yes", 1, None]}), flow("line\nbreak")
    ("{'a: b': ['yes', 1, null]}", '"line\\nbreak"')
    """
    dumped = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, width=10**9, allow_unicode=True, sort_keys=False)
    return dumped.removesuffix("\n").removesuffix("\n...")


def on_one_line(text: str) -> str:
    """A comment stays one line, whatever values it quotes."""
    return "".join(sign if sign.isprintable() else " " for sign in text)


def _moment(value: datetime) -> str:
    return f"{value:%Y-%m-%d}" if value.hour == 0 else f"{value:%Y-%m-%dT%H:%M:%SZ}"


def spec_text(model: str, proposal: Proposal, owner: dict[str, str]) -> str:
    """The spec as commented YAML.

    Args:
        model: its name.
        proposal: what its sections say.
        owner: the keys of `owner`.
    """
    profile, task, intervals = proposal.profile, proposal.task, proposal.intervals
    end = f", end: {_moment(intervals.end)}" if intervals.end else ""
    until = "the data seen ends here; take end away when new batches come" if end else "no end: new batches come"
    counts = f"{int(intervals.rows.min()):,} to {int(intervals.rows.max()):,} rows"
    part = "" if profile.rows == profile.kept else f", {profile.kept:,} of them evenly kept for this"
    target = task.target["column"]
    lines = [
        f"# Written by `python -m retrain new` after a look at {profile.path}: {profile.rows:,} rows{part}.",
        f"# Every line is a proposal. Read and correct it, then: python -m retrain check {model}",
        "# Every key and its default: docs/spec.md",
        f"model: {model}",
        f"objective: {flow(f'change me: say in one sentence what {target[:60]} is predicted for')}",
        f"owner: {flow(owner)}",
        f"task: {task.task}  # {task.why}",
        "",
        f"# {len(intervals.rows)} intervals with {counts} were seen; {until}",
        f"interval: {{every: {intervals.every}, start: {_moment(intervals.start)}{end}}}",
        "source:",
        f"  path: {flow(profile.path)}",
        *_csv(profile.csv),
        f"  time: {flow(proposal.time)}",
        f"  key: {flow(list(proposal.key))}",
        "  wait: 1d  # how long after the interval's end the batch may come",
        "",
        f"target: {flow(task.target)}",
        "labels: {mature_after: 0d}  # after the interval's end: when all of its labels are there",
        "",
        "# A value outside its type, bounds, values or max_missing stops the batch; severity: warn lets it through.",
        "# Bounds have half the seen range as slack. feature: false keeps a column out of the model.",
        "columns:",
        *(
            f"  {flow(name)}: {flow(column.keys)}  # {'; '.join(column.notes)}".removesuffix("  # ")
            for name, column in proposal.columns.items()
        ),
        "",
        f"quality: {{min_rows: {max(1, intervals.fewest // 2)}}}  # half of the smallest whole {intervals.every} seen",
        *_drift(intervals),
        "policy:  # any rule that says yes is enough",
        "  regret: {price: 0.03}  # when a newer model would have done better: 3 % of one interval's loss is worth it",
        "  performance: true  # when labels show that the champion fell",
        "  drift: false  # when a batch differs from what the champion was trained on",
        f"  schedule: 0  # 1 would be every {intervals.every}, whatever the rest says",
        "",
        *_training(proposal),
        "",
        *_judging(proposal),
    ]
    return "\n".join(on_one_line(line) for line in lines) + "\n"


def _csv(dialect: CsvDialect) -> list[str]:
    written = dialect.model_dump(mode="json", exclude_defaults=True)
    return [f"  csv: {flow(written)}  # as the first file begins; in the words of pandas.read_csv"] if written else []


def _drift(intervals: ProposedIntervals) -> list[str]:
    least = max(20, intervals.fewest // 2)
    return [f"drift: {{min_rows: {least}}}  # with fewer rows drift is undetermined"] if least < 200 else []


def _training(proposal: Proposal) -> list[str]:
    intervals = proposal.intervals
    hours = proposal.profile.columns[proposal.time].values.dt.hour
    parts = "weekday, hour" if hours.nunique() > 1 else "month, weekday"
    windows = "[all, 4, 2, 1]" if len(intervals.rows) >= 8 else "[all]"
    return [
        "training:",
        f"  min_rows: {min(1000, max(20, int(intervals.labelled * 0.8)))}  # labelled rows, fewer train no model",
        "  candidates:",
        "    - {estimator: linear}",
        "    - estimator: xgboost",
        "      parameters: {n_estimators: 300, learning_rate: 0.1}",
        "      search: {max_depth: [3, 5, 7], min_child_weight: [1, 10], subsample: [0.7, 1.0]}",
        f"  windows: {windows}  # all earlier intervals, or the newest so many",
        f"  # date_parts: {{{flow(proposal.time)}: [{parts}]}}  # lets the model read the time",
    ]


def _judging(proposal: Proposal) -> list[str]:
    task, intervals = proposal.task, proposal.intervals
    metric, *others = METRICS[task.task]
    least = max(20, int(intervals.labelled * intervals.holdout * 0.8))
    judging: dict[str, Any] = {"block": intervals.block}
    if intervals.holdout != BY_INTERVAL.get(intervals.every, {}).get("holdout", 1):
        judging["holdout"] = intervals.holdout
    slices = [
        name
        for name, column in proposal.columns.items()
        if column.keys["type"] == "category"
        and 2 <= len(column.keys.get("values", ())) <= 8
        and column.keys.get("feature", True)
        if name != task.target["column"]
    ][:2]
    return [
        f"evaluation: {flow({**judging, 'slices': slices})}  # holdout rows are resampled by {intervals.block}",
        "gate:",
        f"  metric: {metric}  # or {', '.join(others)}",
        "  margin: 0.01  # how much worse a refresh may be, as a share of the champion's score",
        *([f"  min_rows: {least}  # labelled holdout rows"] if least < 500 else []),
    ]
