"""What the version of its time answered to an interval: from the prediction log, or computed again.

An interval is scored by the version that served when it began. Where its scores are not on record, because the score
loop is behind or off, the same fitted pipeline gives the same answers to the same rows again: it has seen none of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from sklearn.pipeline import Pipeline

from retrain.data.scoring_rows import ScoringRows, read_scoring_rows
from retrain.errors import NonFiniteMetric, RetrainError, ScoringFailed
from retrain.modeling import pipelines
from retrain.modeling.metrics import Array
from retrain.monitoring import prediction_log
from retrain.monitoring.prediction_log import JoinedPredictions
from retrain.registry.champion import library_skew, load_champion
from retrain.results import AcceptedBatch, Champion
from retrain.state import projections
from retrain.state.ledger import Record
from retrain.state.run import Run


@dataclass(frozen=True)
class Answers:
    """The answers that an interval's rows got, with the labels that are there.

    Attributes:
        champion: the version that gave them.
        joined: the rows, answers and labels.
        recomputed: whether they were computed again.
    """

    champion: Champion
    joined: JoinedPredictions
    recomputed: bool


class AnswersOfTheTime:
    """The answers of each interval, by the version of its time; those of the newest few are kept in memory."""

    def __init__(self, run: Run, keep: int = 3) -> None:
        records = run.ledger.records(run.model)
        self._run, self._keep = run, keep
        self._promotions = [record for record in records if record.kind == "promotion"]
        self._known = projections.known_versions(records)
        self._read: dict[str, Answers] = {}

    def version_of(self, accepted: AcceptedBatch) -> Champion | None:
        """The version that scored the interval, or served when it began; None where nothing served yet."""
        if record := self._record(accepted):
            known = self._known.get(record.body["version"])
            return known.champion if known else None
        return projections.champion_at(self._promotions, accepted.batch.interval.start)

    def of(self, accepted: AcceptedBatch) -> Answers | None:
        """The answers to the interval's rows; None where nothing served yet.

        Raises:
            AmbiguousKeys: a key stands for several rows, so an answer belongs to none of them.
            RowsRejected, ScoringFailed, NonFiniteMetric: the version cannot answer these rows.
            ArtifactMissing, DigestMismatch, RegistryDown: its files are gone, are others, or cannot be had.
            LibrarySkew: it was fitted under other libraries, and the spec refuses that.
            SnapshotCorrupt, MissingInput: a batch or its scores are not the ones on record, or gone.
        """
        name = accepted.batch.interval.name
        if name not in self._read:
            champion = self.version_of(accepted)
            if champion is None:
                return None
            record = self._record(accepted)
            if record:
                joined = prediction_log.join_labels(self._run, record, accepted)
            else:
                joined = self._recompute(champion, accepted)
            for oldest in sorted(self._read)[: max(len(self._read) - self._keep + 1, 0)]:
                del self._read[oldest]
            self._read[name] = Answers(champion, joined, record is None)
        return self._read[name]

    def _record(self, accepted: AcceptedBatch) -> Record | None:
        """The scores of the very batch that was accepted, else of another revision: what was answered at the time."""
        records = prediction_log.records(self._run, accepted.batch.interval)
        same = [record for record in records if record.body["data"] == accepted.batch.sha256]
        newest = (same or records)[-1:]
        return newest[0] if newest else None

    def _recompute(self, champion: Champion, accepted: AcceptedBatch) -> JoinedPredictions:
        library_skew(self._run, champion)
        model = load_champion(self._run, champion)
        rows = read_scoring_rows(self._run, accepted.batch, model[0].columns)
        answered = predict_rows(self._run, model, champion.version, rows)
        return prediction_log.join_answers(self._run, accepted, rows.sound, answered)


def predict_rows(run: Run, model: Pipeline, version: int, rows: ScoringRows) -> Array:
    """Predict a batch's sound rows with a version of the model.

    Raises:
        ScoringFailed: it knows other classes than the spec, or cannot read the rows.
        NonFiniteMetric: it answers with NaN.
    """
    do = "see what changed since that version was trained; roll back, or train anew"
    classes = tuple(str(name) for name in run.spec.classes)
    if tuple(model[0].outcomes) != classes:
        raise ScoringFailed(
            f"version {version} knows the classes {tuple(model[0].outcomes)}, the spec now has {classes}", do=do
        )
    try:
        return pipelines.predict(model, run.spec.task, rows.frame)
    except NonFiniteMetric as error:
        raise NonFiniteMetric(f"version {version}: {error.found}", do=error.do) from error
    except Exception as error:
        what = error.found if isinstance(error, RetrainError) else str(error)[:300]
        raise ScoringFailed(
            f"version {version} failed on the rows of {run.interval}: {type(error).__name__}: {what}", do=do
        ) from error
