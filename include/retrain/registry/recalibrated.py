"""The champion with its answers recalibrated on recent labels: a candidate that costs almost nothing.

Its fitted pipeline stays as it is, but for the last step (`retrain.modeling.recalibration`). The rows are the newest
intervals that its estimator was not fitted on, as few as hold `gate.min_rows` labelled rows: what a model answers to
its own training rows says nothing about its calibration, and what has changed shows in the newest.
"""

from __future__ import annotations

from datetime import datetime

import numpy as np
from sklearn.pipeline import Pipeline

from retrain.data import dataset
from retrain.errors import DegenerateTraining
from retrain.modeling import recalibration, resampling, trainer
from retrain.modeling.folds import Rows
from retrain.modeling.recalibration import Method
from retrain.registry.candidates import lay_model, until_cut
from retrain.registry.champion import load_champion
from retrain.results import AcceptedBatch, Champion, Configuration, FittedModel, Interval, Recalibration
from retrain.spec import Spec
from retrain.state.run import Run

RECALIBRATED = "recalibrated"
"""Name of the candidate."""
CODE = "recalibration.py"
"""What travels with such a model beside the code that every model needs."""


def method_needed(
    run: Run, champion: Champion, known: Rows, until: datetime | None = None
) -> tuple[Method | None, str]:
    """What the newest rows ask to be refitted of the champion's calibration, and why; None where it is within chance.

    Args:
        run: whose spec is used, and whose registry holds the champion.
        champion: the version that serves, made by the pipeline of today's spec.
        known: labelled rows, oldest first.
        until: only rows before are read; None reads all.

    Raises:
        DegenerateTraining: too few recent rows, or the champion's answers do not rank them any more.
        ArtifactMissing, DigestMismatch: the champion's files are gone, or are others.
        RegistryDown: the registry does not answer and there is no copy.
    """
    rows = _recent(run.spec, _origin(champion, "intercept"), known, until)
    model = load_champion(run, champion)
    encoded = model[:-1].transform(rows.frame)
    return recalibration.needed(model[-1], encoded, rows.y, resampling.blocks(run.spec, rows.frame))


def fit_recalibrated(
    run: Run,
    key: str,
    champion: Champion,
    method: Method,
    accepted: tuple[AcceptedBatch, ...],
    known: Rows,
    *,
    until: datetime | None = None,
) -> tuple[Pipeline, FittedModel]:
    """Recalibrate the champion on the newest rows, and lay the model in the store.

    A champion that is recalibrated already gets another calibration in place of the one that it has.

    Args:
        run: whose spec and store are used, and whose registry holds the champion.
        key: of the model's folder in the store.
        champion: the version that serves, made by the pipeline of today's spec.
        method: what is refitted of its calibration.
        accepted: all mature batches that may teach, oldest first.
        known: labelled rows of them, oldest first.
        until: a cut: only rows before it teach; None learns from all.

    Returns:
        The pipeline, and what is on record of it.

    Raises:
        DegenerateTraining: too few recent rows, or the champion's answers do not rank them any more.
        ArtifactMissing, DigestMismatch: the champion's files are gone, or are others.
        RegistryDown: the registry does not answer and there is no copy.
    """
    origin = _origin(champion, method)
    rows, model = _recent(run.spec, origin, known, until), load_champion(run, champion)
    last = recalibration.recalibrate(model[-1], model[:-1].transform(rows.frame), rows.y, method)
    pipeline = Pipeline([*model.steps[:-1], (model.steps[-1][0], last)])
    digest = lay_model(run, key, pipeline, rows.frame, CODE)
    if until is not None:
        accepted = tuple(batch for batch in accepted if batch.batch.interval.start < until)
    configuration = champion.configuration.model_copy(update={"recalibrated": origin})
    digest_of_rows = trainer.training_digest(accepted, configuration)
    training, intervals = until_cut(digest_of_rows, _intervals(accepted, configuration), until)
    return pipeline, FittedModel(
        name=RECALIBRATED,
        kind="recalibrated",
        configuration=configuration,
        training=training,
        intervals=intervals,
        rows=origin.rows + len(rows.y),
        key=key,
        digest=digest,
    )


def _origin(champion: Champion, method: Method) -> Recalibration:
    """Whose estimator the recalibrated model has: the champion's, or that of the version it has itself."""
    if before := champion.configuration.recalibrated:
        return before.model_copy(update={"method": method})
    return Recalibration(
        version=champion.version,
        digest=champion.digest,
        training=champion.training,
        trained_until=champion.trained_until,
        rows=champion.rows,
        method=method,
    )


def _recent(spec: Spec, origin: Recalibration, known: Rows, until: datetime | None) -> Rows:
    """The rows of the newest intervals that the estimator was not fitted on, as few as hold `gate.min_rows` rows.

    Raises:
        DegenerateTraining: there are none.
    """
    when = known.frame[spec.source.time]
    unseen = when >= origin.trained_until
    rows = known.take(np.flatnonzero(unseen if until is None else unseen & (when < until)))
    if not len(rows.y):
        raise DegenerateTraining(
            f"no labelled row is newer than {origin.trained_until:%Y-%m-%d}, up to which version {origin.version} was"
            " fitted",
            do="wait for more labels",
        )
    places, counts = np.unique(rows.interval, return_counts=True)
    newest = int(np.searchsorted(np.cumsum(counts[::-1]), spec.gate.min_rows))
    return rows.window(int(places[-1] - places[max(len(places) - 1 - newest, 0)]) + 1)


def _intervals(accepted: tuple[AcceptedBatch, ...], configuration: Configuration) -> tuple[Interval, ...]:
    """The intervals that the estimator was fitted on, and those that the calibration may read."""
    unseen = trainer.unseen_batches(accepted, configuration)
    seen = trainer.batches_in_window(accepted[: len(accepted) - len(unseen)], configuration)
    return dataset.intervals((*seen, *unseen))
