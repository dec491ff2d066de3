"""A champion from the run that made it, and its fitted pipeline wherever this process runs."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from sklearn.pipeline import Pipeline

from retrain.errors import ArtifactMissing, LibrarySkew
from retrain.modeling.estimators import BASELINES
from retrain.modeling.packaging import mismatches, pinned_versions
from retrain.registry.mlflow import Registry, load_model
from retrain.results import Champion, Context, GateReport, MeasureReport, RefitReport, TrainReport
from retrain.state.run import Run


def refit_as_champion(run: Run, version: int, run_id: str) -> Champion:
    """The model that a run has refitted, as the champion that it would be.

    Args:
        run: whose reports `context`, `gate` and `refit` are read.
        version: its number in the registry.
        run_id: of the MLflow run that holds its files.

    Raises:
        MissingInput: the run has not come that far.
    """
    context, refit = run.read(Context, "context"), run.read(RefitReport, "refit")
    baseline = refit.fitted.configuration.estimator in BASELINES
    return Champion(
        version=version,
        run_id=run_id,
        digest=refit.fitted.digest,
        configuration=refit.fitted.configuration,
        training=refit.fitted.training,
        reference=run.path("refit"),
        trained_until=refit.fitted.intervals[-1].end,
        rows=refit.fitted.rows,
        expected_score=_expected_score(run, context),
        effective_at=context.effective_at,
        stands_in_for=context.champion.renewed_as if baseline and context.champion else None,
    )


def _expected_score(run: Run, context: Context) -> float | None:
    """What the gate measured on the holdout rows; never from rows on which the champion fell, and nobody knows why.

    Then what was expected of the champion is expected on. Where the cause of the fall is known to be a change, the
    rows are those of the world to come.
    """
    score, champion = run.read(GateReport, "gate").challenger_score, context.champion
    if champion is None or not run.store.exists(f"{run.folder}/measure.json"):
        return score
    fallen = {
        performance.interval
        for performance in run.read(MeasureReport, "measure").realised
        if performance.verdict == "alarm" and performance.fell and performance.cause not in ("world", "rate")
    }
    return champion.expected_score if fallen & set(run.read(TrainReport, "train").holdout) else score


def load_champion(run: Run, champion: Champion) -> Pipeline:
    """The champion's fitted pipeline, from this machine's copy or from the registry.

    Raises:
        ArtifactMissing, DigestMismatch: its files are gone, or are others.
        RegistryDown: the registry does not answer and there is no copy.
    """
    return _load(*_place(run, champion))[0]


def library_skew(run: Run, champion: Champion) -> tuple[str, ...]:
    """The libraries that the champion's files pin and that are installed here in other versions, each in words.

    Raises:
        LibrarySkew: there are some, and the spec says that such a champion does not answer.
        ArtifactMissing, DigestMismatch, RegistryDown: as `load_champion`.
    """
    skew = _load(*_place(run, champion))[1]
    if skew and run.spec.serving.library_skew == "refuse":
        raise LibrarySkew(
            f"version {champion.version} was fitted under other libraries: {'; '.join(skew)}",
            do="install what its requirements.txt pins, or retrain under the new ones, or say"
            " serving.library_skew: tell",
        )
    return skew


def _place(run: Run, champion: Champion) -> tuple[Path, str, str, int, str]:
    folder = run.home.state / "models" / champion.digest
    return folder, run.home.mlflow, run.model, champion.version, champion.digest


@lru_cache(maxsize=4)
def _load(folder: Path, registry: str, model: str, version: int, digest: str) -> tuple[Any, tuple[str, ...]]:
    """The pipeline, and what `library_skew` says: what is installed does not change while a process runs."""
    if not folder.is_dir():
        server = Registry(registry)
        try:
            server.fetch(model, version, digest, folder)
        except ArtifactMissing:
            known = server.find(model, digest)  # what MLflow had lost was registered again, under another number
            if known is None or known.version == version:
                raise
            server.fetch(model, known.version, digest, folder)
    pipeline, file = load_model(folder, digest), folder / "requirements.txt"
    pins, _ = pinned_versions(file.read_text() if file.is_file() else "")
    return pipeline, tuple(mismatches(pins))
