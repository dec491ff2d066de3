"""One MLflow server: reached by a client of its own, each failure of it named, and what is looked up there."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import requests
import sqlalchemy
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.utils.validation import MAX_TAG_VAL_LENGTH

from retrain.errors import ArtifactMissing, InvalidName, InvalidSpec, OutOfBandChange, RegistryDown
from retrain.masking import hide, passwords_of
from retrain.registry.mlflow.files import brief
from retrain.registry.mlflow.moved import FOLDER, follow_moved
from retrain.registry.mlflow.tables import make_tables
from retrain.results import inside
from retrain.state.failures import refusal_of
from retrain.state.settings import database_url

log = logging.getLogger(__name__)

KEY = "retrain.key"
ARTIFACT = "model"

LATER = {"TEMPORARILY_UNAVAILABLE", "INTERNAL_ERROR", "REQUEST_LIMIT_EXCEEDED", "DEADLINE_EXCEEDED"}
ABSENT = {"RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"}
READY, FAILED = "READY", "FAILED_REGISTRATION"
"""Statuses of a version; any other is one that MLflow has not finished."""


@dataclass(frozen=True)
class RegisteredVersion:
    """A version as MLflow has it.

    Attributes:
        version: its number, which is a label: MLflow gives it again after it was restored from a backup.
        digest: of the model's files, which is what the version is.
        run_id: of the MLflow run that holds the files.
    """

    version: int
    digest: str
    run_id: str


class Server:
    """What a registry stands on; every call is made inside `_naming_failures`, which bounds and names its failures."""

    def __init__(self, uri: str) -> None:
        self._uri = uri.rstrip("/")
        self._http = self._uri.lower().startswith(("http://", "https://"))
        hide(*passwords_of(self._uri))
        scheme, _, rest = self._uri.partition("://")
        self._shown = f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}"
        self._root: Path | None = None
        if self._http and self._uri.count("@") > 1:
            raise InvalidSpec("the login in the address of MLflow has an @", do="write it as %40, and / as %2F")
        with self._naming_failures():
            if not self._http:
                self._connect_once()
            self._client = MlflowClient(tracking_uri=self._uri, registry_uri=self._uri)

    def _connect_once(self) -> None:
        """Connect once, since MLflow tries a database that is down for minutes; make its tables if need be."""
        try:
            url = database_url(self._uri)
            if url.get_backend_name() == "sqlite" and url.database:
                self._root = Path(url.database).resolve().parent / FOLDER
            engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
        except (sqlalchemy.exc.ArgumentError, ImportError, ValueError) as error:
            why = f": {error}" if type(error) is ValueError else ""
            raise InvalidSpec(
                f"not an address of an MLflow registry{why}", do="give sqlite:///…, a database URL or http://host:port"
            ) from None
        make_tables(engine, self._uri, self._root)
        if self._root and (former := follow_moved(engine, self._root)):
            log.warning("MLflow's files are at %s now, were at %s: its database follows", self._root, ", ".join(former))

    @contextmanager
    def _naming_failures(self) -> Iterator[None]:
        try:
            yield
        except (MlflowException, requests.RequestException, sqlalchemy.exc.DBAPIError, OSError) as error:
            if refusal := refusal_of(error, f"MLflow at {self._shown}"):
                raise refusal from None
            final = isinstance(error, MlflowException) and error.error_code not in LATER
            known = isinstance(error, MlflowException | requests.RequestException | sqlalchemy.exc.OperationalError)
            if final or not known:
                raise
            # Not chained: the message of a client may hold the address with its password.
            raise RegistryDown(
                f"MLflow at {self._shown} did not answer: {brief(error)}",
                do="see whether it runs and whether its database is locked; the task tries again",
            ) from None

    @contextmanager
    def _failing(self, run_id: str) -> Iterator[None]:
        """A run reads RUNNING while it is filled, and FAILED if that ends in an error."""
        self._client.update_run(run_id, status="RUNNING")
        try:
            yield
        except Exception:
            with suppress(MlflowException):
                self._client.set_terminated(run_id, status="FAILED")
            raise

    def _experiment(self, name: str) -> str:
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            location = str(self._root / inside(name)) if self._root else None
            try:
                return str(self._client.create_experiment(name, artifact_location=location))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            return self._experiment(name)
        if experiment.lifecycle_stage != "active":
            raise OutOfBandChange(f"the experiment {name} was deleted by hand", do="restore it in MLflow")
        return str(experiment.experiment_id)

    def _run(self, experiment_id: str, key: str, name: str, tags: Mapping[str, str]) -> Run:
        def first() -> Run | None:
            runs = self._client.search_runs(
                [experiment_id], f"tags.`{KEY}` = {quoted(key)}", order_by=["attributes.start_time ASC"], max_results=1
            )
            return runs[0] if runs else None

        if (run := first()) is None:
            cut = {tag: cut_to(text, MAX_TAG_VAL_LENGTH) for tag, text in tags.items()}
            created = self._client.create_run(experiment_id, tags={**cut, KEY: key}, run_name=name)
            run = first() or created
            if run.info.run_id != created.info.run_id:
                # A second attempt of the same task came in between; both go on with the older run.
                self._client.delete_run(created.info.run_id)
        return run

    def _version(self, model: str, run_id: str) -> ModelVersion | None:
        """The oldest version of a run; None where it has none, or where its registration failed."""
        versions = self._client.search_model_versions(f"name = {quoted(model)} and run_id = {quoted(run_id)}")
        sound = (version for version in versions if version.status != FAILED)
        return min(sound, key=lambda version: int(version.version), default=None)

    def _download(self, run_id: str, into: Path, what: str) -> Path:
        try:
            if any(entry.path == f"{ARTIFACT}/MLmodel" for entry in self._client.list_artifacts(run_id, ARTIFACT)):
                return Path(self._client.download_artifacts(run_id, ARTIFACT, str(into)))
        except MlflowException as error:
            if error.error_code not in ABSENT:
                raise
        raise ArtifactMissing(
            f"the files of {what} are gone", do="restore the artifact store, or roll back to an earlier version"
        )

    def _get(self, model: str, version: int) -> ModelVersion | None:
        try:
            return self._client.get_model_version(model, str(version))
        except MlflowException as error:
            if error.error_code in ABSENT:
                return None
            raise

    def _existing(self, model: str, version: int, digest: str = "") -> ModelVersion:
        """The version of a number; with a digest only if it is that very model, and MLflow has finished it.

        Raises:
            ArtifactMissing: there is none, the number is another model's, or its registration failed.
            RegistryDown: its registration is under way.
        """
        registered = self._get(model, version)
        if registered is None:
            raise ArtifactMissing(
                f"version {version} of {model} is not in the registry", do=f"python -m retrain reconcile {model}"
            )
        if digest and (other := registered.tags.get("digest", "")) != digest:
            raise ArtifactMissing(
                f"version {version} of {model} with the digest {digest[:12]} is not in the registry: the number is"
                f" that of another model there, digest {other[:12] or 'none'}",
                do=f"see whether MLflow was restored from a backup, then python -m retrain reconcile {model}",
            )
        if digest and registered.status == FAILED:
            raise ArtifactMissing(
                f"the registration of version {version} of {model} has failed in MLflow", do="start a new run"
            )
        if digest and registered.status != READY:
            raise RegistryDown(
                f"version {version} of {model} is {registered.status} in MLflow", do="wait until MLflow has finished it"
            )
        return registered


def cut_to(text: str, limit: int) -> str:
    """A text of at most `limit` characters, with a note where it was cut.

    >>> cut_to("short", 100)
    'short'
    """
    note = " … (whole in long_values.json)"
    return text if len(text) <= limit else text[: limit - len(note)] + note


def quoted(text: str) -> str:
    """A text in the quotes of an MLflow filter.

    Raises:
        InvalidName: it holds a quote, a backslash or a NUL.

    >>> quoted("churn")
    "'churn'"
    """
    if re.search(r"['\"\\`\0]", text):
        raise InvalidName(f"{text[:100]!r} holds a quote", do="use letters, digits, dots and dashes")
    return f"'{text}'"
