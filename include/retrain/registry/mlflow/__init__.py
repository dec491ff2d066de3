"""Models as MLflow folders, runs, versions and aliases.

The one package that imports mlflow: `files` writes and checks a model, `server` reaches MLflow, and here is
what a registry does. Everything goes through an `MlflowClient` of its own: the process-wide tracking URI and active
run are never set, so that several registries can live in one process.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

# Before MLflow is imported. Its own defaults keep a task waiting for minutes on a dead server, and draw bars in logs.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")

from mlflow.entities import Metric, Param
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH, MAX_TAG_VAL_LENGTH

from retrain.errors import ArtifactMissing, ConfigChanged, DanglingChampion, MissingInput, NonFiniteMetric
from retrain.modeling.model_io import check_digest, files_digest, read
from retrain.registry.mlflow.files import digest, load_model, save_model
from retrain.registry.mlflow.server import ABSENT, ARTIFACT, READY, RegisteredVersion, Server, cut_to, quoted
from retrain.results import inside

__all__ = ["RegisteredVersion", "Registry", "digest", "load_model", "save_model"]

log = logging.getLogger(__name__)

WAIT_S = 60
"""Seconds that MLflow may take to finish a version."""


class Registry(Server):
    """An MLflow tracking server and its model registry.

    Every call is bounded in time; a registry that is down or locked raises `RegistryDown`, which is retried.

    Args:
        uri: `sqlite:///…`, another database, or `http://host:port`. With SQLite the artifacts lie in
            `mlartifacts` beside the database file.
    """

    def record(
        self,
        *,
        experiment: str,
        key: str,
        name: str,
        description: str,
        params: Mapping[str, Any],
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        files: Mapping[str, Path],
    ) -> str:
        """Record one FINISHED run per (experiment, key), however often this is called; returns its id.

        A run that a kill left half done is completed. Values beyond MLflow's limits are cut in the table
        and stand whole in the artifact `long_values.json`.

        Args:
            experiment: made if there is none of that name.
            key: of the run, as a tag of its own.
            name: of the run, in MLflow's UI.
            description: Markdown, on the run's page.
            params: name → value; what is no text is written as JSON.
            metrics: name → finite number.
            tags: name → text.
            files: artifact path → local file or folder.

        Raises:
            NonFiniteMetric, MissingInput: before anything is written.
            ConfigChanged: the half-done run has other parameters.
            OutOfBandChange: the experiment was deleted by hand.
        """
        if bad := sorted(metric for metric, value in metrics.items() if not math.isfinite(value)):
            raise NonFiniteMetric(f"not finite: {', '.join(bad[:10])}", do="find out why; nothing was recorded")
        if gone := sorted(path for path, local in files.items() if not local.exists()):
            raise MissingInput(f"no such files: {', '.join(gone[:10])}", do="run the stage that writes them again")
        texts = {param: _text(value) for param, value in params.items()}
        labels = {**tags, "mlflow.note.content": description}
        with self._naming_failures():
            run = self._run(self._experiment(experiment), key, name, labels)
            if run.info.status == "FINISHED":
                return str(run.info.run_id)
            short = {param: cut_to(text, MAX_PARAM_VAL_LENGTH) for param, text in texts.items()}
            if other := sorted(p for p, text in short.items() if run.data.params.get(p, text) != text):
                raise ConfigChanged(
                    f"run {run.info.run_id} has other values of {', '.join(other[:10])}",
                    do="delete that run in MLflow, or start a new run of the pipeline",
                )
            long = {n: t for n, t in {**labels, **texts}.items() if len(t) > _limit(n in texts)}
            with self._failing(run.info.run_id):
                self._client.log_batch(
                    run.info.run_id,
                    # The run's own start as time makes a repeated metric the same row.
                    metrics=[Metric(m, float(value), run.info.start_time, 0) for m, value in metrics.items()],
                    params=[Param(p, text) for p, text in short.items()],
                )
                with tempfile.TemporaryDirectory() as temporary:
                    for path, local in files.items():
                        target = Path(temporary) / inside(path)
                        target.parent.mkdir(parents=True, exist_ok=True)
                        (shutil.copytree if local.is_dir() else shutil.copyfile)(local, target)
                    if long:
                        (Path(temporary) / "long_values.json").write_text(json.dumps(long, indent=2, sort_keys=True))
                    self._client.log_artifacts(run.info.run_id, temporary)
            self._client.set_terminated(run.info.run_id)
            return str(run.info.run_id)

    def register(
        self,
        *,
        model: str,
        run_id: str,
        folder: Path,
        digest: str,
        tags: Mapping[str, str],
        description: str,
        taken: Mapping[int, str] = MappingProxyType({}),
    ) -> int:
        """Upload a model folder into its run and make it one version; returns the version's number.

        The version is created after the upload was read back and found whole, so a cut upload leaves none;
        the same version is returned on every retry.

        Args:
            model: name of the registered model.
            run_id: of the run that holds the files.
            folder: the model's files.
            digest: of the files.
            tags: of the version.
            description: of the version, in Markdown.
            taken: numbers that other models bear → their digests; a version never gets one of them.

        Raises:
            DigestMismatch: the folder, the stored copy, or the version of an earlier try is another model.
            RegistryDown: MLflow has not finished the version yet.
        """
        check_digest(f"the folder {folder.name}", files_digest(read(folder)), digest)
        with self._naming_failures():
            version = self._version(model, run_id)
            if version is not None and self._is_taken(version, digest, taken):
                version = None
            if version is not None:
                check_digest(f"version {version.version} of {model}", version.tags.get("digest", ""), digest)
            if version is None or not self._holds(run_id, digest):
                with self._failing(run_id):
                    self._upload(run_id, folder, digest)
                    version = version or self._create(model, run_id, digest, tags, description, taken)
            self._existing(model, int(version.version), digest)
            self._client.set_terminated(run_id)
            return int(version.version)

    def find(self, model: str, digest: str) -> RegisteredVersion | None:
        """The newest finished version with these files, whatever its number; None if there is none."""
        with self._naming_failures():
            known = self._client.search_model_versions(f"name = {quoted(model)} and tags.digest = {quoted(digest)}")
            ready = [version for version in known if version.status == READY]
            newest = max(ready, key=lambda version: int(version.version), default=None)
            return _registered(newest) if newest else None

    def has_run(self, run_id: str) -> bool:
        """Whether a run is there, and not deleted."""
        with self._naming_failures():
            try:
                return bool(self._client.get_run(run_id).info.lifecycle_stage == "active")
            except MlflowException as error:
                if error.error_code in ABSENT:
                    return False
                raise

    def alias(self, model: str, name: str) -> int | None:
        """The number of the version that an alias points at; as `pointed`."""
        version = self.pointed(model, name)
        return version.version if version else None

    def pointed(self, model: str, name: str) -> RegisteredVersion | None:
        """The version that an alias points at; None if there is no such alias or model.

        Raises:
            DanglingChampion: the version is gone; MLflow deletes the alias with it and says nothing.
        """
        with self._naming_failures():
            try:
                registered = self._client.get_registered_model(model)
            except MlflowException as error:
                if error.error_code in ABSENT:
                    return None
                raise
            pointed = registered.aliases.get(name)
            remembered = pointed or registered.tags.get(_alias_tag(name))
            version = self._get(model, int(remembered)) if remembered else None
            if remembered and version is None:
                raise DanglingChampion(
                    f"{name} of {model} was version {remembered}, which is no longer in the registry",
                    do=f"python -m retrain reconcile {model} registers the same files again; or roll back",
                )
            return _registered(version) if pointed and version else None

    def last_set_alias(self, model: str, name: str) -> int | None:
        """The version that `set_alias` last moved an alias to; another hand may have moved it since."""
        with self._naming_failures():
            try:
                tag = self._client.get_registered_model(model).tags.get(_alias_tag(name))
            except MlflowException as error:
                if error.error_code in ABSENT:
                    return None
                raise
            return int(tag) if tag else None

    def set_alias(self, model: str, name: str, version: int, digest: str) -> None:
        """Move an alias to a version.

        Args:
            model: name of the registered model.
            name: of the alias.
            version: its number.
            digest: of the files that the version must have.

        Raises:
            ArtifactMissing: no such version, or the number is another model's.
            RegistryDown: MLflow has not finished it.
        """
        with self._naming_failures():
            self._existing(model, version, digest)
            # The tag goes first: it is what still names the version after MLflow has dropped the alias with it.
            _twice(self._client.set_registered_model_tag, model, _alias_tag(name), str(version))
            _twice(self._client.set_registered_model_alias, model, name, str(version))

    def delete_alias(self, model: str, name: str) -> None:
        """Remove an alias; nothing happens if there is none."""
        with self._naming_failures():
            try:
                registered = self._client.get_registered_model(model)
            except MlflowException as error:
                if error.error_code in ABSENT:
                    return
                raise
            if name in registered.aliases:
                self._client.delete_registered_model_alias(model, name)
            if _alias_tag(name) in registered.tags:
                self._client.delete_registered_model_tag(model, _alias_tag(name))

    def describe(self, model: str, version: int, digest: str = "") -> Mapping[str, str]:
        """The version's tags and its `run_id`.

        Raises:
            ArtifactMissing: no such version, or it has other files than those of the digest.
        """
        with self._naming_failures():
            registered = self._existing(model, version, digest)
            return {**registered.tags, "run_id": str(registered.run_id)}

    def tag(self, model: str, version: int, key: str, value: str) -> None:
        """Set a tag of a version.

        Raises:
            ArtifactMissing: no such version.
        """
        with self._naming_failures():
            self._existing(model, version)
            self._client.set_model_version_tag(model, str(version), key, value)

    def fetch(self, model: str, version: int, expected: str, into: Path) -> Path:
        """The model folder of a version, at `into`; not loaded.

        A folder that is there with the expected digest is used as it is, also while the registry is down;
        an empty one is filled.

        Raises:
            ArtifactMissing: no such version, its number is another model's, or its files are gone.
            DigestMismatch: the files are others than those registered.
            RegistryDown: MLflow has not finished the version.
        """
        if into.exists() and any(into.iterdir()):
            check_digest(f"the copy at {into.name}", files_digest(read(into)), expected)
            return into
        into.parent.mkdir(parents=True, exist_ok=True)
        with (
            self._naming_failures(),
            tempfile.TemporaryDirectory(dir=into.parent, prefix=f".{into.name}-") as temporary,
        ):
            registered = self._existing(model, version, expected)
            copy = self._download(str(registered.run_id), Path(temporary), f"version {version} of {model}")
            check_digest(f"version {version} of {model}", files_digest(read(copy)), expected)
            copy.rename(into)
        return into

    def attach(self, run_id: str, files: Mapping[str, str]) -> None:
        """Lay texts among the files of a run: path → text; one of the same path is replaced."""
        with self._naming_failures():
            for path, text in files.items():
                self._client.log_text(run_id, text, inside(path))

    def run_url(self, run_id: str) -> str | None:
        """The run's page in the MLflow UI; None without a server."""
        return f"{self._shown}/#/runs/{run_id}" if self._http else None

    def _holds(self, run_id: str, expected: str) -> bool:
        """Whether the run holds the files of the model; False where they are gone.

        Raises:
            DigestMismatch: it holds others.
        """
        with tempfile.TemporaryDirectory() as temporary:
            try:
                copy = self._download(run_id, Path(temporary), f"the model of run {run_id}")
            except ArtifactMissing:
                return False
            check_digest(f"the stored model of run {run_id}", files_digest(read(copy)), expected)
        return True

    def _upload(self, run_id: str, folder: Path, expected: str) -> None:
        self._client.log_artifacts(run_id, str(folder), ARTIFACT)
        if not self._holds(run_id, expected):
            raise ArtifactMissing(
                f"the model of run {run_id} was sent and is not there", do="look at the artifact store"
            )
        recipe = {**Model.load(str(folder)).get_tags_dict(), "artifact_path": ARTIFACT, "run_id": run_id}
        # What the UI reads to show the folder as a model, with its schema, on the run's page.
        self._client.set_tag(run_id, "mlflow.log-model.history", json.dumps([recipe]))

    def _create(
        self,
        model: str,
        run_id: str,
        expected: str,
        tags: Mapping[str, str],
        description: str,
        taken: Mapping[int, str],
    ) -> ModelVersion:
        """Make a version of a run's files; of two that do so at once both get the older."""
        try:
            self._client.create_registered_model(model)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        source = f"{self._client.get_run(run_id).info.artifact_uri}/{ARTIFACT}"
        while True:
            created = self._client.create_model_version(
                model,
                source=source,
                run_id=run_id,
                tags={**tags, "digest": expected},
                description=description,
                await_creation_for=WAIT_S,
            )
            if not self._is_taken(created, expected, taken):
                break
        oldest = self._version(model, run_id) or created
        if int(oldest.version) != int(created.version):
            self._client.delete_model_version(model, created.version)
        return oldest

    def _is_taken(self, version: ModelVersion, digest: str, taken: Mapping[int, str]) -> bool:
        """Whether a version's number is another model's on record; then it is deleted, and the number is used up."""
        if taken.get(int(version.version), digest) == digest:
            return False
        self._client.delete_model_version(version.name, version.version)
        log.warning("%s: the number %s is on record as another model's, and is left out", version.name, version.version)
        return True


def _registered(version: ModelVersion) -> RegisteredVersion:
    return RegisteredVersion(int(version.version), version.tags.get("digest", ""), str(version.run_id))


def _twice(write: Callable[..., None], *arguments: str) -> None:
    """MLflow looks and then inserts: of two first writers at once one finds a row that was not there. It is now."""
    try:
        write(*arguments)
    except MlflowException as error:
        if "IntegrityError" not in str(error):
            raise
        write(*arguments)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)


def _limit(is_param: bool) -> int:
    return MAX_PARAM_VAL_LENGTH if is_param else MAX_TAG_VAL_LENGTH


def _alias_tag(name: str) -> str:
    return f"retrain.alias.{name}"
