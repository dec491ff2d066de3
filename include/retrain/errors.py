"""The named refusals: why Retrain does not do what it was asked, and what to do next.

A refusal is part of the interface. It says which model, which stage, what was found and the next step. Stages raise
with what they know; `pipeline` adds the model and the stage. A docstring here says what happened, and who acts: the
spec's author, the data's producer, the operator of the installation, or nobody, where the call is simply tried again.
Former names of a refusal are read by `retrain.state.former`.

    >>> print(RaggedRow("line 7 has 5 fields, the header has 4", do="repair the file").at("churn", "ingest"))
    churn · ingest · RaggedRow: line 7 has 5 fields, the header has 4
      → repair the file
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Self

from retrain.masking import masked


def near(word: object, known: Iterable[object]) -> str:
    """The end of a message that names the nearest known word, or nothing.

    >>> near("nevr", ["never", "always"])
    "; did you mean 'never'?"
    """
    close = difflib.get_close_matches(str(word), [str(name) for name in known], n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


class RetrainError(Exception):
    """A refusal with a name. It is shown, logged and put on record, so no secret stands in it (`retrain.masking`).

    Args:
        found: what was found, one sentence or a bounded list.
        do: the next step for a person.
    """

    retryable = False
    """Whether the same call may succeed later without a person (a lock, an outage)."""

    def __init__(self, found: str, *, do: str) -> None:
        self.found = masked(found)
        self.do = masked(do)
        super().__init__(self.found)
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
    """The YAML file of a model breaks the schema, or contradicts itself. Its author corrects it."""


class InvalidName(RetrainError):
    """A name could leave its folder: `..`, an absolute path, NUL, a symlink. Whoever chose it takes another."""


class InvalidInterval(RetrainError):
    """The moment is no start of an interval of this model. Whoever typed it takes one that is."""


class InvalidParameter(RetrainError):
    """A run was asked for with a parameter that its DAG does not know. Whoever typed it takes one that it knows."""


class ConfigChanged(RetrainError):
    """The spec was edited while a run was under way. Its author starts a new run, or puts the spec back."""


class RunSealed(RetrainError):
    """A run that has made a version was to run again otherwise. Whoever called starts a new run."""


class MissingInput(RetrainError):
    """A stage was called before the one that it depends on. Whoever called it runs that one first."""


# --- the disk and the databases of an installation: nobody's data or model is to blame, so the call is tried again


class DiskFull(RetrainError):
    """A disk, a quota or a file's limit is full. The operator makes room; it is tried again."""

    retryable = True


class AccessDenied(RetrainError):
    """A file or folder may not be read or written. The operator gives it to the user who runs this."""

    retryable = True


class DatabaseCorrupt(RetrainError):
    """A database is not one, or lacks what belongs in it. The operator restores it from a backup."""

    retryable = True


# --- data


class BatchMissing(RetrainError):
    """The batch of an interval has not been delivered yet. It is looked for again; then its producer delivers it."""

    retryable = True


class SourceRefused(RetrainError):
    """The source cannot be read, or its address is not allowed. The spec's author corrects it."""


class SourceUnavailable(RetrainError):
    """The source did not answer, or changed while it was read. Nothing was taken; it is tried again."""

    retryable = True


class RaggedRow(RetrainError):
    """A row has more or fewer fields than the header. The data's producer repairs the file."""


class SchemaChanged(RetrainError):
    """Columns are missing, duplicated or new. The producer delivers the old ones, or the author changes the spec."""


class DtypeChanged(RetrainError):
    """A value is not of its column's declared type. The producer repairs it, or the author changes the spec."""


class EmptyBatch(RetrainError):
    """A batch has no rows. Its producer delivers it again."""


class OutOfInterval(RetrainError):
    """Rows have a time outside the batch's interval. Their producer delivers them with theirs."""


class BatchTooLarge(RetrainError):
    """A batch has more rows or bytes than the spec allows. The author raises the limit, if it is right."""


class IntervalConflict(RetrainError):
    """Other bytes were delivered for an accepted interval. The operator takes them as a revision, or refuses them."""


class ContradictoryLabels(RetrainError):
    """Too many keys of a delivery come with different labels. The labels' producer corrects them."""


class Quarantined(RetrainError):
    """The batch broke its contract; nothing downstream runs. Its producer repairs it, or the operator releases it."""


class EmptySuite(RetrainError):
    """No expectation was evaluated, so nothing is known about the batch. The spec's author declares some."""


class AmbiguousKeys(RetrainError):
    """A key stands for more than one row where one is needed. The spec's author names the columns that identify one."""


class SnapshotCorrupt(RetrainError):
    """Stored bytes do not have the digest they were stored under. The operator restores them from a backup."""


class ReportCorrupt(RetrainError):
    """A stage's report was cut off or altered. The operator restores it from a backup, or runs the stage again."""


class PushIncomplete(RetrainError):
    """The DVC remote does not hold what was pushed. The operator looks at the remote."""


class RegistryBusy(RetrainError):
    """Somebody else is writing the data registry. It is tried again."""

    retryable = True


class RegistryUnavailable(RetrainError):
    """The data registry, or its DVC remote, cannot be reached, read or written. It is tried again."""

    retryable = True


# --- models


class DegenerateTraining(RetrainError):
    """There is nothing to learn: one class, no labels, or no usable column. The author looks at data and spec."""


class NonFiniteMetric(RetrainError):
    """A metric is NaN or infinite. The author looks at the rows and the metric."""


class ScoringFailed(RetrainError):
    """A model cannot score the rows that it is given. The author looks at the model and the rows."""


class RowsRejected(RetrainError):
    """Rows break their columns' contract and the spec says stop, or all do. Nothing is scored; their producer acts."""


class FeatureCodeRefused(RetrainError):
    """The model's feature function cannot be loaded, or changes the rows. Its author corrects it."""


class EstimatorRefused(RetrainError):
    """An estimator is outside the allow-list. The spec's author takes one of the list."""


class ModelFormatRefused(RetrainError):
    """A model folder is of another make and could run code when it is loaded. The operator finds out whose it is."""


class RegistryDown(RetrainError):
    """The model registry does not answer, or its database stayed locked. It is tried again."""

    retryable = True


class DigestMismatch(RetrainError):
    """A model's files are not the ones that were registered. The operator finds out who changed them."""


class EvidenceChanged(RetrainError):
    """A file that a version points to is not the one on record, or is gone. The operator restores it from a backup."""


class ArtifactMissing(RetrainError):
    """The files of a registered version are gone. The operator restores them, or trains again."""


class LibrarySkew(RetrainError):
    """A version was fitted under other libraries, and the spec refuses that. The operator installs them or retrains."""


class DanglingChampion(RetrainError):
    """The champion alias points at nothing. The operator reconciles it."""


# --- promotion


class StaleRun(RetrainError):
    """An older run may not replace a newer champion. Nobody needs to act."""


class SameModel(RetrainError):
    """What would be promoted is the champion itself. Nobody needs to act."""


class PromotionConflict(RetrainError):
    """Somebody else promoted in between. Whoever called runs the stage again."""


class OutOfBandChange(RetrainError):
    """The champion alias was moved by hand. The operator reconciles it with the ledger."""


class ModelBlocked(RetrainError):
    """A model on the blocklist was to come again. Nobody needs to act, unless the block was wrong."""


class NotApproved(RetrainError):
    """A promotion lacks the approval that the spec asks for. Somebody who may approve answers it."""


class NotAllowed(RetrainError):
    """Somebody asked for what the spec's `access` leaves to others. One of those does it, or the author adds a name."""


class SmokeTestFailed(RetrainError):
    """A version does not load, answer or keep its budgets in a fresh process. The author looks at the report."""


class ChainBroken(RetrainError):
    """A record of the ledger was altered, or is gone. The operator restores a backup that verifies."""


class LedgerContradicted(RetrainError):
    """The ledger lacks what the data registry has an anchor of: an older backup came back. The operator settles it."""


class UnknownVersion(RetrainError):
    """No run of this installation has registered the version. Whoever typed it takes one that is on record."""


class NothingToRollBack(RetrainError):
    """No earlier champion is on record. The operator names a version, or retrains."""


class LedgerBusy(RetrainError):
    """The ledger's database stayed locked. It is tried again."""

    retryable = True


class LedgerNewer(RetrainError):
    """A newer Retrain made the ledger's tables. The operator runs the version that the others run."""
