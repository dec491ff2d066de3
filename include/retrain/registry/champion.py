"""The fitted pipeline of a champion, wherever this process runs."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from sklearn.pipeline import Pipeline

from retrain.registry.mlflow import Registry, load_model
from retrain.results import Champion
from retrain.state.run import Run


def load_champion(run: Run, champion: Champion) -> Pipeline:
    """The champion's fitted pipeline, from this machine's copy or from the registry.

    Raises:
        ArtifactMissing, DigestMismatch: its files are gone, or are others.
        RegistryDown: the registry does not answer and there is no copy.
    """
    return _load(
        run.home.state / "models" / champion.digest, run.home.mlflow, run.model, champion.version, champion.digest
    )


@lru_cache(maxsize=4)
def _load(folder: Path, registry: str, model: str, version: int, digest: str) -> Any:
    if not folder.is_dir():
        Registry(registry).fetch(model, version, digest, folder)
    return load_model(folder, digest)
