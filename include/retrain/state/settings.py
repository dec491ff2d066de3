"""What lives where in this installation, from the environment with sound defaults.

| variable | default | what |
|---|---|---|
| `RETRAIN_ROOT` | the checkout; of an installed package the current folder | where the specs' relative paths begin |
| `RETRAIN_MODELS` | `include/models` | the folder of specs |
| `RETRAIN_HOME` | `.retrain` | state of this installation |
| `RETRAIN_STORE` | `.retrain/store` | batches, runs and reports; a path or an fsspec URL |
| `RETRAIN_LEDGER` | `.retrain/ledger.db` | SQLAlchemy URL |
| `RETRAIN_REGISTRY` | `.retrain/registry.git` | git address of the data registry |
| `RETRAIN_REMOTE` | `.retrain/remote` | its DVC remote |
| `MLFLOW_TRACKING_URI` | `.retrain/mlflow/mlflow.db` | MLflow |
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from retrain.errors import InvalidSpec, near
from retrain.masking import hide, passwords_of
from retrain.results import inside
from retrain.spec import CASES, Spec, load


@dataclass(frozen=True)
class Home:
    """The installation's settings: what lives where.

    Attributes:
        root: where relative paths of the specs begin.
        models: the folder of specs.
        state: what this installation has written.
        store: batches, runs and reports; a path or an fsspec URL.
        ledger: SQLAlchemy URL.
        registry: git address of the data registry.
        remote: the DVC remote of the data registry.
        mlflow: MLflow's tracking URI.
    """

    root: Path
    models: Path
    state: Path
    store: str
    ledger: str
    registry: str
    remote: str
    mlflow: str

    @classmethod
    def from_environment(cls) -> Home:
        """The settings by the environment variables of this module's table, with their defaults.

        Raises:
            InvalidSpec: no database can lie in the folder of the state.
        """

        def path(name: str, default: Path) -> Path:
            return Path(os.environ.get(name) or default).absolute()

        root = path("RETRAIN_ROOT", _default_root())
        state = path("RETRAIN_HOME", root / ".retrain")

        if {"%", "?"} & set(str(state)):
            raise InvalidSpec(
                f"the state folder {state} has a % or a ? in its path, which SQLAlchemy and MLflow read otherwise",
                do="set RETRAIN_HOME to another folder",
            )

        def url(name: str, default: str) -> str:
            return os.environ.get(name) or default

        return cls(
            root=root,
            models=path("RETRAIN_MODELS", root / "include" / "models"),
            state=state,
            store=url("RETRAIN_STORE", str(state / "store")),
            ledger=url("RETRAIN_LEDGER", f"sqlite:///{state / 'ledger.db'}"),
            registry=url("RETRAIN_REGISTRY", str(state / "registry.git")),
            remote=url("RETRAIN_REMOTE", str(state / "remote")),
            mlflow=url("MLFLOW_TRACKING_URI", f"sqlite:///{state / 'mlflow' / 'mlflow.db'}"),
        )

    @property
    def specs(self) -> tuple[Path, ...]:
        """The files of all specs, sorted."""
        return tuple(sorted(file for file in self.models.glob("*.yaml") if not file.name.endswith(CASES)))

    def spec(self, model: str) -> Spec:
        """The spec of `model`.

        Raises:
            InvalidSpec: there is none, or it is not valid.
        """
        file = self.models / f"{inside(model)}.yaml"
        if "/" in model or not file.is_file():
            known = [spec.stem for spec in self.specs]
            raise InvalidSpec(
                f"no spec for {model!r}{near(model, known)}",
                do=f"write {file.name} into {self.models.name}/ (python -m retrain new);"
                f" known: {', '.join(known) or 'none'}",
            ).at(model, "spec")
        return load(file)


def database_url(text: str) -> sa.URL:
    """The address of a database; its password is masked in every message from here on.

    Raises:
        ValueError: it cannot be understood, or a `@` stands unencoded in its password, which a client would cut there.

    >>> database_url("postgresql://ada:pa%40ss@db/shop").password
    'pa@ss'
    >>> database_url("postgresql://ada:pa@ss@db/shop")
    Traceback (most recent call last):
    ValueError: it cannot be understood; in a login @ is written %40, / %2F, : %3A, ? %3F, # %23 and % %25
    """
    hide(*passwords_of(text))
    try:
        url = sa.make_url(text)
    except (sa.exc.ArgumentError, ValueError):
        url = None
    if url is None or (url.get_backend_name() != "sqlite" and text.partition("__extra__=")[0].count("@") > 1):
        raise ValueError(
            "it cannot be understood; in a login @ is written %40, / %2F, : %3A, ? %3F, # %23 and % %25"
        ) from None
    hide(url.password)
    return url


def _default_root() -> Path:
    """The checkout that this code lies in; the current folder where it is an installed package."""
    above = Path(__file__).resolve().parents[2]
    return above.parent if above.name == "include" else Path.cwd()
