"""The named refusals of the house.

An error is part of the interface: it says which model, which stage, what was found and what to do
next. Stages raise with what they know; `pipeline` adds the model and the stage.

    >>> print(RaggedRow("line 7 has 5 fields, the header has 4", do="repair the file").at("churn", "ingest"))
    churn · ingest · RaggedRow: line 7 has 5 fields, the header has 4
      → repair the file
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Self


def near(word: object, known: Iterable[object]) -> str:
    """`; did you mean 'x'?` or nothing."""
    close = difflib.get_close_matches(str(word), [str(name) for name in known], n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


class RetrainError(Exception):
    """A refusal with a name.

    Args:
        found: what was found, one sentence or a bounded list.
        do: the next step for a person.
    """

    retryable = False
    """Whether the same call may succeed later without a person (a lock, an outage)."""

    def __init__(self, found: str, *, do: str) -> None:
        super().__init__(found)
        self.found = found
        self.do = do
        self.model: str | None = None
        self.stage: str | None = None

    def at(self, model: str, stage: str) -> Self:
        """Name the model and the stage, where nobody has yet."""
        self.model = self.model or model
        self.stage = self.stage or stage
        return self

    def __reduce__(self) -> tuple[object, ...]:
        return (_revive, (type(self), self.found, self.do, self.model, self.stage))

    def __str__(self) -> str:
        where = [part for part in (self.model, self.stage, type(self).__name__) if part]
        return f"{' · '.join(where)}: {self.found}\n  → {self.do}"


def _revive(kind: type[RetrainError], found: str, do: str, model: str | None, stage: str | None) -> RetrainError:
    error = kind(found, do=do)
    error.model, error.stage = model, stage
    return error


# --- the spec and what a person types


class InvalidSpec(RetrainError):
    """The YAML file of a model breaks the schema, or contradicts itself."""


class InvalidName(RetrainError):
    """A name that could leave its folder: `..`, absolute paths, NUL, symlinks."""


class InvalidInterval(RetrainError):
    """Not an interval of this model."""


class ConfigChanged(RetrainError):
    """The spec was edited while a run was under way."""


class MissingInput(RetrainError):
    """A stage was called before the one it depends on."""


# --- data


class BatchMissing(RetrainError):
    """The batch of an interval has not been delivered yet."""

    retryable = True


class SourceRefused(RetrainError):
    """The source cannot be read, or its address is not allowed."""


class SourceUnavailable(RetrainError):
    """The source did not answer, or changed while it was read; nothing was taken from it."""

    retryable = True


class RaggedRow(RetrainError):
    """A row with more or fewer fields than the header."""


class SchemaChanged(RetrainError):
    """Columns are missing, duplicated or new."""


class DtypeChanged(RetrainError):
    """A value that is not of its column's declared type."""


class EmptyBatch(RetrainError):
    """A batch without rows."""


class OutOfInterval(RetrainError):
    """Rows whose time lies outside the batch's interval."""


class BatchTooLarge(RetrainError):
    """More rows or bytes than the spec allows."""


class IntervalConflict(RetrainError):
    """Other bytes for an interval that has been accepted."""


class ContradictoryLabels(RetrainError):
    """Too many keys of a delivery come with different labels."""


class Quarantined(RetrainError):
    """The batch broke its contract; nothing downstream runs."""


class EmptySuite(RetrainError):
    """No expectation was evaluated, so nothing is known about the batch."""


class AmbiguousKeys(RetrainError):
    """A key that stands for more than one row where one is needed."""


class SnapshotCorrupt(RetrainError):
    """Stored bytes do not have the digest they were stored under."""


class PushIncomplete(RetrainError):
    """The DVC remote does not hold what was pushed."""


class RegistryBusy(RetrainError):
    """The data registry is being written by somebody else."""

    retryable = True


class RegistryUnavailable(RetrainError):
    """The data registry, or its DVC remote, cannot be reached, read or written."""

    retryable = True


# --- models


class DegenerateTraining(RetrainError):
    """Nothing to learn: one class, no labels, or no usable column."""


class NonFiniteMetric(RetrainError):
    """A metric that is NaN or infinite."""


class ScoringFailed(RetrainError):
    """A model that cannot score the rows it is given."""


class RowsRejected(RetrainError):
    """Rows that break their columns' contract, where the spec says stop, or all of them; nothing is scored."""


class FeatureCodeRefused(RetrainError):
    """The model's feature function cannot be loaded, or changes the rows."""


class EstimatorRefused(RetrainError):
    """An estimator outside the allow-list."""


class ModelFormatRefused(RetrainError):
    """A model folder of another make, which could run code when it is loaded."""


class RegistryDown(RetrainError):
    """The model registry does not answer, or its database stayed locked."""

    retryable = True


class DigestMismatch(RetrainError):
    """A model's files are not the ones that were registered."""


class ArtifactMissing(RetrainError):
    """A registered version whose files are gone."""


class DanglingChampion(RetrainError):
    """The champion alias points at nothing."""


# --- promotion


class StaleRun(RetrainError):
    """An older run may not replace a newer champion."""


class SameModel(RetrainError):
    """What would be promoted is the champion itself."""


class PromotionConflict(RetrainError):
    """Somebody else promoted in between."""


class OutOfBandChange(RetrainError):
    """The champion alias was moved by hand."""


class ModelBlocked(RetrainError):
    """A model that was put back, or refused, and must not come again."""


class NotApproved(RetrainError):
    """A promotion without the approval that the spec asks for."""


class SmokeTestFailed(RetrainError):
    """A version that does not load, answer or fit its budget in a fresh process."""


class ChainBroken(RetrainError):
    """A record of the ledger was altered, or is gone."""


class UnknownVersion(RetrainError):
    """A version that no run of this installation has registered."""


class NothingToRollBack(RetrainError):
    """No earlier champion is on record."""


class LedgerBusy(RetrainError):
    """The ledger's database stayed locked."""

    retryable = True


class LedgerNewer(RetrainError):
    """The ledger's tables were made by a newer Retrain."""
