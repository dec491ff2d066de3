"""A candidate of a run with the earlier cuts of its chain: each row is answered by a model that has not seen it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pandas as pd
from sklearn.pipeline import Pipeline

from retrain.modeling import pipelines
from retrain.modeling.metrics import Array
from retrain.registry.mlflow import load_model
from retrain.results import FittedModel
from retrain.spec import Spec
from retrain.state.run import Run


@dataclass(frozen=True)
class Chain:
    """A model as it was fitted at each cut of the holdout.

    Attributes:
        links: the cut from which on each answers, and its pipeline, oldest first.
    """

    links: tuple[tuple[datetime, Pipeline], ...]

    @property
    def last(self) -> Pipeline:
        """The one of the last cut, which was fitted on the most rows."""
        return self.links[-1][1]

    def unseen(self, spec: Spec, frame: pd.DataFrame) -> Array:
        """Which of these rows, (n,), the last one was not fitted on."""
        return (frame[spec.source.time] >= self.links[-1][0]).to_numpy()

    def predict(self, spec: Spec, frame: pd.DataFrame) -> Array:
        """Predict each row by the newest model that was fitted on earlier rows only, as `pipelines.predict` does."""
        cuts = pd.DatetimeIndex([cut for cut, _ in self.links[1:]], dtype="datetime64[ns, UTC]")
        place = cuts.searchsorted(pd.DatetimeIndex(frame[spec.source.time]).as_unit("ns"), side="right")
        answers: Array | None = None
        for link in np.unique(place):
            own = place == link
            part = pipelines.predict(self.links[link][1], spec.task, frame.loc[own])
            answers = np.empty((len(frame), *part.shape[1:])) if answers is None else answers
            answers[own] = part
        return pipelines.predict(self.last, spec.task, frame) if answers is None else answers


def load_chain(run: Run, fitted: FittedModel) -> Chain:
    """A candidate of this run with all links of its chain.

    Raises:
        MissingInput, DigestMismatch: files of a model are gone, or are others.
    """
    links = []
    for cut, key, digest in (
        *((link.until, link.key, link.digest) for link in fitted.chain),
        (fitted.intervals[-1].end, fitted.key, fitted.digest),
    ):
        with run.store.local(key) as folder:
            links.append((cut, load_model(folder, digest)))
    return Chain(tuple(links))
