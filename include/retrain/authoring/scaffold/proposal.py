"""From a profile to a proposal of a spec: what its sections should say, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from retrain.authoring.scaffold.columns import ProposedColumn, column_named, key_columns, propose_column, time_column
from retrain.authoring.scaffold.intervals import ProposedIntervals, propose_intervals
from retrain.authoring.scaffold.profile import Profile
from retrain.authoring.scaffold.task import ProposedTask, propose_task


@dataclass(frozen=True)
class Proposal:
    """What a spec for profiled files should say.

    Attributes:
        profile: of the files.
        time: the column that places a row in its interval.
        key: the columns that identify a row.
        task: what is predicted.
        intervals: how time is cut.
        columns: name → its line.
    """

    profile: Profile
    time: str
    key: tuple[str, ...]
    task: ProposedTask
    intervals: ProposedIntervals
    columns: dict[str, ProposedColumn]


def propose_spec(profile: Profile, *, target: str, time: str = "", key: Sequence[str] = ()) -> Proposal:
    """A proposal for each section of the spec.

    Args:
        profile: of the files.
        target: the column to predict.
        time: the column that places a row in its interval; by default the only one with times.
        key: the columns that identify a row; by default one without doubles.

    Raises:
        InvalidSpec: a column is not there or cannot do what it is named for.
        DegenerateTraining: the target has one value only.
    """
    time = time_column(profile, time)
    task = propose_task(column_named(profile, target, "--target"))
    key = key_columns(profile, list(key), time, target)
    intervals = propose_intervals(profile, time, target)
    columns = {
        name: propose_column(column, profile=profile, task=task, key=key, time=time, of=intervals.of)
        for name, column in profile.columns.items()
    }
    return Proposal(profile, time, key, task, intervals, columns)
