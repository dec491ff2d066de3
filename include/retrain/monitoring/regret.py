"""Regret: what the champion loses above a model that would have been fitted later, on rows that neither has seen.

After each interval a *regret shadow* is fitted per training window: the champion's configuration, without a search, on
what a retraining at the interval's start could have been taught. It is scored on the interval's labelled rows beside
the champion. The difference is paired per row, so that what makes an interval hard cancels out, and a gain of one
percent shows in a few hundred rows (a frozen model against a continuously updated shadow: Katz 2026, arXiv 2604.06438;
the cost of staleness: Mahadevan and Mathioudakis, CARA, 2024).

A shadow that would have the champion's very rows is the champion: its regret is zero, and nothing is fitted. What a
model lost per block of an interval is kept in the store under a digest of all it hangs on, so that nothing is fitted
twice.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from sklearn.pipeline import Pipeline

from retrain.data import dataset
from retrain.errors import RetrainError
from retrain.modeling import pipelines, resampling, trainer
from retrain.modeling.folds import Rows
from retrain.modeling.metrics import Array
from retrain.monitoring.estimation.losses import loss_of
from retrain.results import AcceptedBatch, Champion, Configuration, Signal, WindowRegret
from retrain.spec import Spec
from retrain.state.run import Run
from retrain.state.store import json_digest

log = logging.getLogger(__name__)

SAME = "the champion's own rows"


@dataclass(frozen=True)
class BlockLosses:
    """What a model lost on the labelled rows of an interval.

    Attributes:
        rows: (blocks,) labelled rows of each block.
        losses: (blocks,) sum of their losses.
    """

    rows: Array
    losses: Array


def configurations(spec: Spec, champion: Champion) -> dict[str, Configuration]:
    """The configurations of the shadows by the name of their training window: the spec's windows, and the champion's.

    They are the champion's configuration with the pipeline of today: after a change of the columns or of a library a
    retraining would use that one. Where a baseline serves, they are of the configuration that it stands in for.
    """
    own = champion.renewed_as.model_copy(update={"pipeline": pipelines.pipeline_digest(spec)})
    others = [pipelines.on_window(own, window) for window in spec.training.windows if window != "change"]
    return {configuration.rows_label: configuration for configuration in (*others, own)}


def known_at(mature: Sequence[AcceptedBatch], moment: datetime) -> tuple[AcceptedBatch, ...]:
    """The batches that a training at this moment could have been taught: ended by then, their labels there."""
    return tuple(batch for batch in mature if max(batch.batch.interval.end, batch.mature_at) <= moment)


def measure_regret(
    run: Run, champion: Champion, model: Pipeline, mature: Sequence[AcceptedBatch], batch: AcceptedBatch
) -> Signal:
    """Measure the champion's regret on one interval, for each training window.

    Where labels come late, each shadow is also compared with the one that could have been fitted an interval earlier:
    what age costs, also on intervals that have no labels yet.

    Args:
        run: whose spec and store are used.
        champion: who serves.
        model: its fitted pipeline.
        mature: the batches whose labels are there and not in doubt, oldest first.
        batch: the interval's own, one of them; it begins after everything that the champion was fitted on.
    """
    spec, interval = run.spec, batch.batch.interval
    before = spec.interval.floor(interval.start - timedelta(microseconds=1))
    known, earlier = known_at(mature, interval.start), known_at(mature, before)
    newest = max((old.batch.interval.end for old in known), default=None)
    windows, refused = [], []
    if newest is None or newest < champion.trained_until:
        refused.append(f"no labels newer than those of version {champion.version} were there as it began")
    else:
        losses = _Losses(run, batch)
        served = losses.of_champion(champion, model)
        for name, configuration in configurations(spec, champion).items():
            batches = trainer.batches_in_window(known, configuration)
            same = dataset.training_digest(batches) == champion.training and configuration == champion.configuration
            aged = None
            try:
                shadow = served if same else losses.of_shadow(configuration, batches)
                if newest < interval.start and earlier:
                    older = losses.of_shadow(configuration, trainer.batches_in_window(earlier, configuration))
                    aged = float((older.losses - shadow.losses).sum() / shadow.rows.sum())
            except RetrainError as error:
                refused.append(f"no shadow on {name}: {error.found}")
                continue
            regret = paired_regret(name, served, shadow)
            windows.append(regret.model_copy(update={"aged": aged, "note": SAME if same else ""}))
    figures = ", ".join(f"{window.relative:+.4f} ({window.window})" for window in windows)
    outcome = [f"regret {figures} of its loss on {windows[0].rows:,} rows"] if windows else []
    return Signal(
        question="regret",
        interval=interval,
        champion=champion.version,
        verdict="measured" if windows else "undetermined",
        reason=f"{interval.name}: {'; '.join([*outcome, *refused])}",
        effective_at=run.as_of,
        regret=tuple(windows),
    )


def paired_regret(window: str, champion: BlockLosses, shadow: BlockLosses) -> WindowRegret:
    """The regret above one shadow, with its standard error over blocks.

    >>> served = BlockLosses(np.array([2.0, 2.0]), np.array([1.0, 1.0]))
    >>> newer = BlockLosses(np.array([2.0, 2.0]), np.array([0.8, 1.0]))
    >>> regret = paired_regret("all", served, newer)
    >>> round(regret.loss, 3), round(regret.gain, 3), round(regret.error, 3)
    (0.5, 0.05, 0.05)
    """
    rows, blocks = float(champion.rows.sum()), len(champion.rows)
    gained = champion.losses - shadow.losses
    gain = float(gained.sum()) / rows
    error = None
    if blocks > 1:
        rest = gained - gain * champion.rows
        error = float(np.sqrt(blocks / (blocks - 1) * rest @ rest)) / rows
    return WindowRegret(
        window=window,
        loss=float(champion.losses.sum()) / rows,
        gain=gain,
        error=error,
        rows=int(rows),
        blocks=blocks,
    )


class _Losses:
    """What models lose on one interval: read from the store where it lies there, else computed and laid there."""

    def __init__(self, run: Run, batch: AcceptedBatch) -> None:
        self.run, self.batch = run, batch
        self._judged: Rows | None = None

    def of_champion(self, champion: Champion, model: Pipeline) -> BlockLosses:
        """Of the champion, by the digest of its files."""
        key = self._key(["champion", champion.digest])
        return self._stored(key) or self._lay(key, model)

    def of_shadow(self, configuration: Configuration, batches: tuple[AcceptedBatch, ...]) -> BlockLosses:
        """Of a configuration on the rows of these batches.

        Raises:
            DegenerateTraining: too few rows, or nothing to learn from them.
            EstimatorRefused, FeatureCodeRefused: the configuration cannot be fitted.
        """
        spec = self.run.spec
        training, limit = spec.training, spec.policy.regret.max_rows if spec.policy.regret else None
        taught = [configuration.model_dump(mode="json"), dataset.training_digest(batches), limit, training.min_rows]
        key = self._key(["shadow", *taught, training.seed, training.threads])
        if stored := self._stored(key):
            return stored
        rows = trainer.labelled_rows(self.run, batches)[0]
        if limit and len(rows.y) > limit:
            chosen = np.random.default_rng(training.seed).choice(len(rows.y), size=limit, replace=False)
            rows = rows.take(np.sort(chosen))
        log.info("regret: fit %s for %s", configuration.label, self.batch.batch.interval.name)
        return self._lay(key, trainer.fit_on_window(spec, configuration, rows)[0])

    def _key(self, model: list[object]) -> str:
        spec, batch = self.run.spec, self.batch
        judged = [dataset.training_digest([batch]), spec.target.model_dump(mode="json"), spec.task, spec.gate.metric]
        digest = json_digest([model, judged, spec.evaluation.block, spec.training.group])
        return f"{spec.model}/regret/{batch.batch.interval.name}/{digest}.json"

    def _stored(self, key: str) -> BlockLosses | None:
        if not self.run.store.exists(key):
            return None
        stored = json.loads(self.run.store.read(key))
        return BlockLosses(np.asarray(stored["rows"], dtype=float), np.asarray(stored["losses"], dtype=float))

    def _lay(self, key: str, model: Pipeline) -> BlockLosses:
        spec = self.run.spec
        if self._judged is None:
            self._judged = trainer.labelled_rows(self.run, (self.batch,), least=1)[0]
        judged = self._judged
        prediction = pipelines.predict(model, spec.task, judged.frame)
        block = resampling.blocks(spec, judged.frame)
        lost = loss_of(spec.task, spec.gate.metric)(judged.y, prediction)
        sums = BlockLosses(np.bincount(block).astype(float), np.bincount(block, weights=lost))
        body = {"rows": sums.rows.tolist(), "losses": sums.losses.tolist()}
        self.run.store.write(key, (json.dumps(body, allow_nan=False) + "\n").encode())
        return sums
